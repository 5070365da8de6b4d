"""Clients that stop reading, fall silent, flood or talk nonsense cost the others nothing."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from piping import PATIENCE, a_second, soon
from serving import (
    HANDSHAKE,
    LONG,
    SHORT,
    Serve,
    dialled,
    events,
    frame,
    hear,
    killed,
    longest_silence,
    on_loop,
    pour,
    rest,
    stopped_reader,
    take_slot,
)
from websockets.exceptions import ConnectionClosed

from dia2stream.client import connect
from dia2stream.errors import Disconnected
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import (
    Done,
    Error,
    Paused,
    ResetDone,
)

CLIENT = """
import asyncio, sys
from dia2stream.client import connect
async def main():
    async with connect(sys.argv[1]) as client:
        await client.start(sys.argv[2])
        async for item in client:
            print(type(item).__name__, flush=True)
asyncio.run(main())
"""


@on_loop
async def test_a_client_that_is_killed_in_mid_speech_leaves_its_slot(server):
    for _ in range(3):
        command = [sys.executable, "-c", CLIENT, server.url, LONG]
        with killed(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:
            assert process.stdout is not None
            while await asyncio.to_thread(process.stdout.readline) != "Audio\n":
                pass
            process.send_signal(signal.SIGKILL)
            process.wait()
        async with await take_slot(server) as client:  # sooner than by a ping without an answer
            await client.start(SHORT, seed=8)
            await hear(client, Audio)
            await client.reset()


@on_loop
async def test_a_reader_that_stops_holds_generation_back_and_then_loses_its_slot(impatient):
    await (await take_slot(impatient)).close()
    frames, pause = "dia2stream_frames_total", 0.4 * a_second()
    first = impatient.metric(frames)
    with stopped_reader(impatient):
        before, now = first, first
        while now == first or now != before:
            await asyncio.sleep(pause)
            before, now = now, impatient.metric(frames)
        async with await take_slot(impatient) as client:
            assert impatient.metric(frames) - before < 60  # of the thousands that were asked for
            await client.start(SHORT)
            await hear(client)


@on_loop
async def test_a_client_that_fell_silent_and_answers_no_ping_loses_its_slot(impatient):
    """As one whose machine is gone: its connection is never closed, and nothing is under way that could fail."""
    await (await take_slot(impatient)).close()
    with dialled(impatient) as raw:
        raw.sendall(HANDSHAKE + frame(0x81, json.dumps({"cmd": "start", "text": SHORT}).encode()))
        said = b""
        while b'"done"' not in said:
            said += raw.recv(1 << 16)
        async with await take_slot(impatient) as client:
            await client.start(SHORT)
            await hear(client)
        assert b"\x89" in rest(raw)  # it was asked


@on_loop
async def test_a_slow_reader_is_served_at_its_own_pace_and_kept(impatient):
    await (await take_slot(impatient)).hang_up()  # the slot is free
    # What the kernel holds for the reader counts as read: no more of that than on a phone.
    pipe = socket.socket()
    pipe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    pipe.connect(("127.0.0.1", impatient.port))
    pipe.setblocking(False)
    async with await connect(impatient.url, max_queue=1, sock=pipe) as client:
        await client.start(LONG, seed=9)
        began, made = time.monotonic(), impatient.metric("dia2stream_frames_total")
        while time.monotonic() < began + 4:  # 2 s a second, which is slower than the model
            item = await client.receive()
            if isinstance(item, Audio):
                await asyncio.sleep(0.04)
        ahead = impatient.metric("dia2stream_frames_total") - made - client.received_ms / 80
        assert ahead < 120
        await client.reset()
        await hear(client, ResetDone)


@on_loop
async def test_ten_megabytes_close_the_connection_and_cost_nothing(server):
    client = await take_slot(server)
    await client.start(LONG, seed=10)
    await hear(client, Audio)
    before = server.resident
    with contextlib.suppress(ConnectionClosed):
        await client.socket.send("x" * 10_000_000)
    with pytest.raises(Disconnected, match="1009"):
        await hear(client, Done)
    assert server.resident < before + 15
    async with await take_slot(server, conversation=client.ready.conversation) as back:
        assert isinstance(await back.receive(), Paused)


@on_loop
async def test_a_command_over_its_limit_is_an_error_and_no_more(server):
    async with await take_slot(server) as client:
        await client.socket.send(json.dumps({"cmd": "start", "text": "x" * 20_001}))
        assert (await client.receive()).code == "too_long"
        await client.socket.send("x" * 300_000)
        assert (await client.receive()).code == "too_long"


@on_loop
async def test_a_flood_of_pings_and_of_nonsense_does_not_stop_the_speech(server):
    async with await take_slot(server) as client:
        await client.start(LONG, seed=11)
        await hear(client, Audio)
        before = server.resident

        async def flood():
            for _ in range(100):
                client.socket.transport.write(frame(0x89, b"") * 100)
                client.socket.transport.write(frame(0x81, b"{") * 20)
                await asyncio.sleep(0.005)

        flooding = asyncio.create_task(flood())
        largest, last, errors = 0.0, time.monotonic(), 0
        while not flooding.done() or errors < 2000:
            item = await client.receive()
            if isinstance(item, Audio):
                largest, last = max(largest, time.monotonic() - last), time.monotonic()
            errors += isinstance(item, Error)
        assert server.resident < before + 20
        assert largest < 10 * a_second()  # it was not locked out; on a quiet machine the listener notices nothing
        await client.reset()
        await hear(client, ResetDone)


@on_loop
async def test_pings_that_nobody_reads_the_answers_of_end_the_connection(impatient):
    await (await take_slot(impatient)).close()
    before = impatient.resident
    with stopped_reader(impatient) as raw:
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        pings = frame(0x89, b"x" * 100) * 200_000
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(loop.sock_sendall(raw, pings), PATIENCE)
    assert impatient.resident < before + 20


def command(cmd: str, **fields: object) -> bytes:
    """A command as it goes over the wire."""
    return frame(0x81, json.dumps({"cmd": cmd, **fields}).encode())


@pytest.mark.parametrize(
    "piece",
    [
        command("listen", audio="AAA="),  # the codec works for milliseconds
        command("listen", audio="A" * 5120, final=False),  # it hears the last ten seconds anew
        command("inject", text="one two three " * 300),
        command("pause"),
    ],
    ids=["listen", "listen on", "text", "pause"],
)
@on_loop
async def test_a_slot_is_free_soon_after_its_client_has_gone_whatever_it_sent(server, piece):
    async with await take_slot(server) as client:
        await client.start(SHORT)
        await client.listen(bytes(3840))  # loads the encoder, which may take seconds
        await client.reset()
        await hear(client, ResetDone)
    async with await take_slot(server) as client:
        await client.start(LONG)
        await client.pause()
        await hear(client, Paused)
    with dialled(server) as raw:
        raw.sendall(HANDSHAKE.replace(b"GET /", f"GET /?conversation={client.ready.conversation}".encode()))
        assert await asyncio.to_thread(pour, raw, piece, 2.0) > 100
    began = time.monotonic()
    other = await take_slot(server)
    assert time.monotonic() - began < soon()  # and not the 60 s of `linger`
    await other.hang_up()


async def call(server: Serve, *pieces: float) -> float:
    """A call whose caller says pieces of so many seconds. Returns the memory that the server has at its end."""
    client = await take_slot(server)
    await client.start(SHORT)
    await hear(client)
    for seconds in pieces:
        await client.listen(bytes(2 * int(24_000 * seconds)), final=False)
    await client.inject("Yes.")
    await hear(client)
    taken = server.resident
    await client.hang_up()
    return taken


@on_loop
async def test_a_caller_who_speaks_for_long_in_pieces_of_ever_other_sizes_takes_no_memory():
    """Tensors of ever other sizes leave holes that glibc keeps. The encoder takes a frame at a time."""
    with Serve(environment={"DIA2STREAM_LISTEN": "1"}) as server:
        before = await call(server, 0.1)
        taken = await call(server, *[0.5 + 0.1 * number for number in range(20)], *[3.0] * 6)
        assert taken < before + 40


@pytest.mark.long
@on_loop
async def test_twenty_floods_of_tiny_commands_are_answered_without_a_stall(server):
    """A receive buffer of a few packets made TCP stall for seconds, and in the end for good."""
    await (await take_slot(server)).hang_up()  # the slot is free
    with dialled(server) as raw:
        raw.sendall(HANDSHAKE)
        for _ in range(20):
            silence = await asyncio.to_thread(longest_silence, raw, command("resume"), 5000, b'"no_session"')
            assert silence < a_second()


MESSAGES = st.one_of(
    st.text(max_size=200),
    st.binary(max_size=200),
    st.fixed_dictionaries(
        {"cmd": st.sampled_from(["start", "inject", "end", "pause", "resume", "reset", "listen", "?"])},
        optional={
            "audio": st.sampled_from(["", "AAABAP//", "AAA", 3, "QUFB" * 5000]),
            "words": st.sampled_from([[], [["Hi", 0, 0]], [["Hi", 0.1, 0.2], ["you", 9, 8]], {}]),
            "speaker": st.sampled_from(["S1", "S2", "S3"]),
            "sample_rate": st.sampled_from([8000, 24000, 48000, 1]),
            "text": st.one_of(st.text(max_size=60), st.just("[S1] Hi <break time='1s'/> you"), st.integers()),
            "id": st.one_of(st.text(max_size=5), st.integers()),
            "final": st.booleans(),
            "seed": st.integers(),
            "cfg_scale": st.floats(),
            "played_ms": st.floats(),
            "voice": st.text(max_size=3),
            "initial_padding": st.integers(0, 200),
        },
    ).map(json.dumps),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(messages=st.lists(MESSAGES, max_size=20))
def test_no_message_breaks_the_server_or_brings_out_a_traceback(server, messages):
    async def fuzz():
        async with await take_slot(server) as client:
            for message in messages:
                await client.socket.send(message)
            await client.reset()
            for item in events(await hear(client, ResetDone)):
                if isinstance(item, Error):
                    assert item.code != "internal"
                    assert "Traceback" not in item.message
                    assert "\n" not in item.message

    asyncio.run(asyncio.wait_for(fuzz(), PATIENCE))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(sent=st.lists(st.binary(max_size=40) | st.builds(frame, st.integers(0, 255), st.binary(max_size=130))))
def test_no_frames_break_the_server_or_bring_out_a_traceback(server, sent):
    with dialled(server) as raw:
        raw.sendall(HANDSHAKE)
        assert b"101" in raw.recv(1 << 16)
        with contextlib.suppress(ConnectionError):
            raw.sendall(b"".join(sent))
            raw.shutdown(socket.SHUT_WR)
        assert b"Traceback" not in rest(raw)
