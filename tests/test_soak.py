"""The soak test's parts in their short form: each kind of bad client once, and everybody at once for some seconds."""

import random

import pytest
from serving import QUICK, Serve, on_loop
from soak import Report, Run, check_end, heard_after, known_alone, parse
from soak_calls import Figures, linear
from soak_clients import BAD_CLIENTS


@pytest.fixture(scope="module")
def quick():
    with Serve(before=QUICK, ping_seconds=3, linger=30, environment={"DIA2STREAM_LISTEN": "1"}) as running:
        yield running
        assert not running.faults


@pytest.mark.long
@pytest.mark.parametrize("client", BAD_CLIENTS, ids=lambda client: client.__name__)
@on_loop
async def test_a_bad_client_is_survived_and_the_next_one_is_heard(quick, client):
    await client(quick, Figures(), random.Random(1))
    await heard_after(quick)


@pytest.mark.long
@on_loop
async def test_reconnects_at_8_kHz_give_the_bytes_of_an_undisturbed_connection(quick):
    figures = Figures()
    await known_alone(quick, figures, random.Random(3), times=1)
    assert not figures.faults
    assert figures.counts["known_to_the_byte"] == 4
    assert figures.counts["known_reconnects"] >= 2


@pytest.mark.long
@on_loop
async def test_all_at_once_for_some_seconds_with_the_server_stopped_in_between():
    options = parse(["--minutes", "0.15", "--calls", "3", "--stop-every", "5", "--seed", "1", "--bad", "0.1"])
    figures = Figures()
    with Serve(slots=3, ping_seconds=5, linger=30, environment={"DIA2STREAM_LISTEN": "1"}) as server:
        await Run(server, figures, options).run()
        assert server.stop() == 0
        check_end(server, figures, code=0)
    assert not figures.faults
    assert figures.counts["calls"] >= 2
    assert figures.counts["words"] > 20
    assert figures.counts["server_stops"] >= 1


@pytest.mark.parametrize(
    ("looks", "faults"),
    [([(i, 300 + i % 7, 20, 0) for i in range(50)], 0), ([(i, 300 + 4 * i, 20 + i, 0) for i in range(50)], 2)],
    ids=["flat", "growing"],
)
def test_growth_of_memory_and_of_open_files_is_a_fault(quick, looks, faults):
    figures = Figures()
    run = Run(quick, figures, parse(["--minutes", "30"]))
    run.looks = looks
    rows = run.drift()
    assert len(figures.faults) == faults
    assert rows["memory_mb_last_fifth"] >= rows["memory_mb_second_fifth"] - 7


def test_mu_law_is_read_as_the_samples_that_it_stands_for():
    assert linear(bytes([0xFF, 0x7F, 0x00, 0x80, 0xFE]), "mulaw").tolist() == [0, 0, -32124, 32124, 8]
    assert linear(b"\x01\x00\xff\xff", "pcm16").tolist() == [1, -1]


def test_figures_are_printed_as_they_come(capsys):
    Report()["part"] = {"a": 1.25, "b": 3}
    assert capsys.readouterr().out.split() == ["part:", "a", "1.2", "b", "3"]
