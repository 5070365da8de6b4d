"""The client library and the test client, against a real server and against things that are none."""

import asyncio
import json
import os
import socket
import sys
import time
import wave

import numpy as np
import pytest
from piping import ran, soon
from serving import LONG, QUICK, SHORT, Serve, hear, on_loop, sound, take_slot
from websockets.asyncio.server import serve

from dia2stream.client import connect
from dia2stream.errors import CommandError, Disconnected, ProtocolError
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Cancelled, Done, Error, Ready, ResetDone, Started, WordEvent, dump_event


@pytest.fixture(scope="module")
def server():
    with Serve(before=QUICK, token="secret") as running:
        yield running


def run(*args, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DIA2STREAM_")}
    return ran("client", *args, env={**clean, **environment})


@on_loop
async def test_it_speaks_and_counts_what_it_has_received(server):
    async with await take_slot(server, token="secret") as client:
        await client.start("[S1] One two", final=False)
        await client.inject(" three.", final=False)
        await client.end()
        items = await hear(client)
        assert isinstance(items[0], Started)
        assert client.received_ms == items[-1].audio_ms
        for begin, begun in ((client.start(SHORT), Started), (client.reset(), ResetDone)):
            await begin
            await hear(client, begun)
            assert client.received_ms == 0


@on_loop
async def test_an_utterance_that_waits_can_be_cancelled_and_one_that_is_gone_be_ended(server):
    async with await take_slot(server, token="secret") as client:
        await client.start("[S1] One two three four five six.", id="a")
        await client.inject("Never.", id="b", final=False)
        await client.inject("said.", id="b", final=False)
        await client.cancel("b")
        await client.end("b")
        await client.inject("Last.", id="c")
        items = await hear(client, lambda item: isinstance(item, Done) and item.id == "c")
        assert [item.id for item in items if isinstance(item, Cancelled)] == ["b"]
        assert [item.word for item in items if isinstance(item, WordEvent)][-2:] == ["six.", "Last."]
        assert {item.id for item in items if isinstance(item, Done)} == {"a", "c"}
        await client.cancel("c")
        (refused,) = await hear(client, Error)
        assert (refused.code, refused.cmd, refused.id) == ("bad_command", "cancel", "c")
        await client.inject("Hello.", voice="nobody")
        (refused,) = await hear(client, Error)
        assert (refused.code, refused.field) == ("bad_field", "voice")


@on_loop
async def test_a_client_that_has_not_read_what_was_sent_closes_at_once(server):
    async with await take_slot(server, token="secret") as client:
        await client.start(LONG, seed=1)
        sent = server.metric(frames := "dia2stream_frames_total") + 60  # more than a client keeps unread
        await asyncio.to_thread(server.until, lambda: server.metric(frames) > sent)
        began, patience = time.monotonic(), soon()
        await client.hang_up()
        assert time.monotonic() - began < patience


@on_loop
async def test_the_caller_is_heard_before_the_reply_is_spoken(server):
    """The same seed speaks otherwise once it has heard somebody; in one piece or in two is the same."""
    pcm = np.random.default_rng(0).integers(-8000, 8000, 48000).astype("<i2").tobytes()
    ways = (
        [],
        [(pcm, {"words": [("Hello", 0.1, 0.4), ("there.", 1.2, 1.6)]})],
        [
            (pcm[:48000], {"words": [("Hello", 0.1, 0.4)], "final": False}),
            (pcm[48000:], {"words": [("there.", 0.2, 0.6)]}),
        ],
        [(pcm, {"text": "Hello there.", "speaker": "S1"})],
    )
    spoken = []
    for way in ways:
        async with await take_slot(server, token="secret") as client:
            await client.start("", seed=5)
            await hear(client, Started)
            for piece, fields in way:
                await client.listen(piece, **fields)
            await client.inject("Yes?", id="reply")
            spoken.append(sound(await hear(client, lambda item: isinstance(item, Done) and item.id == "reply")))
    assert spoken[1] == spoken[2]
    assert len({*spoken}) == 3


@on_loop
async def test_what_the_caller_said_comes_in_pieces_that_fit(server):
    async with await take_slot(server, token="secret") as client:
        await client.start("")
        await hear(client, Started)
        await client.listen(bytes(300_000))
        error = (await hear(client, Error))[-1]
        assert (error.code, error.cmd) == ("too_long", None)
    with pytest.raises(CommandError, match="sample_rate"):
        await client.listen(bytes(2), sample_rate=5)


@on_loop
async def test_connecting_without_a_context_and_with_an_http_url(server):
    await (await take_slot(server, token="secret")).close()
    client = await connect(server.url.replace("ws", "http"), token="secret")
    assert isinstance(client.ready, Ready)
    await client.close()
    assert [item async for item in client] == []
    with pytest.raises(Disconnected):
        await client.start(SHORT)


@on_loop
async def test_a_refusal_is_a_command_error_and_an_absence_is_disconnected(server):
    with pytest.raises(CommandError) as refused:
        await connect(server.url, token="wrong")
    assert refused.value.code == "unauthorized"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(Disconnected, match=r"ws://127.0.0.1:\d+/: Connection refused$"):
            await connect(f"ws://127.0.0.1:{unused.getsockname()[1]}/?token=secret")
    with pytest.raises(Disconnected):
        await connect("gopher://example")


READY = dump_event(Ready("1", "m", "cpu", 24000, "pcm16", 80, (), "c"))


@pytest.mark.parametrize(
    ("said", "raised"),
    [
        ([READY, "nonsense"], ProtocolError),
        ([READY, b"\1\0\0\0"], ProtocolError),
        (['{"event": "done", "id": "1", "audio_ms": 1}'], Disconnected),
        ([READY], Disconnected),
    ],
)
@on_loop
async def test_a_server_that_talks_nonsense_or_breaks_off_is_an_error(said, raised):
    async def talk(peer):
        for message in said:
            await peer.send(message)
        await asyncio.sleep(0.05)
        peer.transport.abort()

    async with serve(talk, "127.0.0.1", 0) as nobody:
        port = nobody.sockets[0].getsockname()[1]
        with pytest.raises(raised):
            async with connect(f"ws://127.0.0.1:{port}") as client:
                await hear(client)


@on_loop
async def test_events_of_a_newer_server_are_passed_over():
    async def talk(peer):
        for message in (READY, '{"event": "sneeze"}', '{"event": "done", "id": "1", "audio_ms": 1, "new": 2}'):
            await peer.send(message)

    async with serve(talk, "127.0.0.1", 0) as newer:
        client = await connect(f"ws://127.0.0.1:{newer.sockets[0].getsockname()[1]}")
        assert [item async for item in client] == [Done("1", 1)]


def test_the_test_client_measures_each_text_and_writes_it(server, tmp_path):
    done = run(
        "--url", server.url, "--token", "secret", "-o", str(tmp_path / "said"), SHORT, "[S2] Two.", "[S1] Three."
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert [text["id"] for text in summary["texts"]] == ["1", "2", "3"]
    for text in summary["texts"]:
        assert 0 < text["server_first_audio_ms"] <= text["client_first_audio_ms"] + 1
        with wave.open(str(tmp_path / "said" / f"{text['id']}.wav")) as file:
            assert file.getframerate() == 24000
            assert file.getnframes() == 24 * text["audio_ms"] > 0
    assert "random:tiny on cpu, pcm16 at 24000 Hz" in done.stderr


def test_playing_hands_every_sample_to_ffplay(server, tmp_path):
    fake = tmp_path / "ffplay"
    fake.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncat > {tmp_path}/sound\n')
    fake.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    form = ["--encoding", "mulaw", "--sample-rate", "8000"]
    done = run("--play", *form, SHORT, PATH=path, DIA2STREAM_URL=server.url, DIA2STREAM_TOKEN="secret")
    assert done.returncode == 0, done.stderr
    assert "-f mulaw -ar 8000" in (tmp_path / "arguments").read_text()
    [text] = json.loads(done.stdout)["texts"]
    assert (tmp_path / "sound").stat().st_size == 8 * text["audio_ms"]


def test_what_goes_wrong_is_one_line(server):
    done = run("--url", server.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "dia2stream: the token is missing or wrong\n"
    done = run("--play", PATH=os.path.dirname(sys.executable))
    assert "ffplay" in done.stderr


@on_loop
async def test_audio_reads_as_a_count_and_samples(server):
    async with await take_slot(server, token="secret", encoding="alaw", sample_rate=8000) as client:
        await client.start(SHORT)
        [*_, audio] = await hear(client, Audio)
        assert (audio.samples, len(audio.data)) == (640, 640)
