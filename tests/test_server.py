"""`serve`, a real process behind real sockets: the protocol, slots that outlive sockets, bad clients of all kinds."""

import asyncio
import contextlib
import json
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from piping import PATIENCE, a_second
from serving import LONG, NEVER_LOADED, SHORT, Serve, certificate, events, hear, killed, on_loop, sound, take_slot
from tools import needs
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dia2stream.client import connect
from dia2stream.errors import CommandError, Disconnected
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import (
    Done,
    Error,
    FirstAudio,
    Paused,
    ResetDone,
    Resumed,
    Started,
    WordEvent,
    parse_event,
)


@pytest.fixture(scope="module")
def server():
    """One server for all tests that leave it as it was."""
    with Serve(linger=60, ping_seconds=60, max_message_bytes=2**20) as running:
        yield running
        assert not [line for line in running.log if "Traceback" in line or " ERROR " in line]


@pytest.fixture(scope="module")
def impatient():
    """A server that never waits for playback and soon gives up on the silent."""
    slow = a_second()  # a machine that is busy takes longer to come back, and to answer a ping
    with Serve(linger=3 * slow, ping_seconds=1.5 * slow, max_lead_ms=3_600_000) as running:
        yield running
        assert not [line for line in running.log if "Traceback" in line or " ERROR " in line]


@pytest.fixture(scope="module")
def guarded():
    """A server with a token, and a site that is allowed to use it."""
    with Serve(token="s3cret é", allow_origin="https://app.example, https://b.example/", log_format="json") as running:
        yield running


# --- the protocol ---


@on_loop
async def test_events_come_in_order_and_counts_are_the_audio_clock(server):
    async with await take_slot(server) as client:
        assert (client.ready.encoding, client.ready.sample_rate, client.ready.frame_ms) == ("pcm16", 24000, 80)
        await client.start("[S1] One two. [S2] Three four.", id="a", seed=1)
        items = await hear(client)
    kinds = [type(item) for item in items]
    assert kinds[:3] == [Started, FirstAudio, WordEvent]
    assert kinds.count(Started) == kinds.count(FirstAudio) == kinds.count(Done) == 1
    clock = 0.0
    for item in items:
        if isinstance(item, WordEvent):
            assert item.start_ms == pytest.approx(clock)  # right before its first sample
        if isinstance(item, Audio):
            assert item.samples == 1920
            clock += 80
    assert [(item.word, item.speaker) for item in items if isinstance(item, WordEvent)] == [
        ("One", "S1"),
        ("two.", "S1"),
        ("Three", "S2"),
        ("four.", "S2"),
    ]
    assert items[-1] == Done("a", round(clock))


@pytest.mark.parametrize(("encoding", "rate", "samples"), [("mulaw", 8000, 640), ("alaw", 16000, 1280)])
@on_loop
async def test_each_connection_has_its_encoding_and_every_frame_is_80_ms(server, encoding, rate, samples):
    async with await take_slot(server, encoding=encoding, sample_rate=rate) as client:
        assert (client.ready.encoding, client.ready.sample_rate) == (encoding, rate)
        await client.start(LONG, seed=2)
        heard = await hear(client, lambda item: client.received_ms >= 800)
        await client.pause(played_ms=400)
        heard += await hear(client, Paused)
        await client.inject(SHORT, id="after")
        heard += await hear(client)
    assert {(item.samples, len(item.data)) for item in heard if isinstance(item, Audio)} == {(samples, samples)}
    assert heard[-1].audio_ms == client.received_ms


@on_loop
async def test_nothing_is_heard_between_paused_and_resumed(server):
    async with await take_slot(server) as client:
        await client.start(LONG, seed=3)
        await hear(client, lambda item: client.received_ms >= 400)
        await client.pause()
        await hear(client, Paused)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.receive(), 0.4)
        await client.resume()
        assert isinstance((await hear(client, Audio))[0], Resumed)


@on_loop
async def test_commands_are_answered_while_audio_is_sent_and_bad_ones_end_nothing(server):
    async with await take_slot(server) as client:
        await client.start(LONG, seed=3)
        await hear(client, Audio)
        for bad in ("", "{", "[]", '{"cmd": "sing"}', '{"cmd": "inject"}', b"\xff\xfe", '{"cmd": "end"}'):
            await client.socket.send(bad)
        await client.reset()
        told = [item for item in await hear(client, ResetDone) if isinstance(item, Error)]
        codes = ["bad_json", "bad_json", "bad_command", "bad_command", "bad_field", "bad_json", "bad_command"]
        assert [error.code for error in told] == codes
        await client.inject("more")
        assert (await hear(client, Error))[-1].code == "no_session"


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ("encoding=mp3", "encoding"),
        ("sample_rate=44100", "sample_rate"),
        ("samplerate=8000", "samplerate"),
        ("received_ms=nan", "received_ms"),
    ],
)
@on_loop
async def test_a_url_that_asks_for_what_there_is_not_is_told_and_closed(server, asked, field):
    async with open_websocket(f"{server.url}/?{asked}") as client:
        error = parse_event(await client.recv())
        assert (error.code, error.field) == ("bad_field", field)
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
    assert closed.value.rcvd.code == 1008


@on_loop
async def test_start_names_a_voice_and_what_is_none_is_told_with_those_that_are(tmp_path):
    import torch

    from dia2.voice.voice import Clip, Voice
    from dia2.voice.voice import ClipWord as Said

    codes = torch.randint(100, (8, 20), generator=torch.Generator().manual_seed(0)).short()
    Voice("ann", (Clip(codes, (Said("Hi.", 0.1, 0.4),)),) * 2).save(tmp_path / "ann.voice.safetensors")
    with Serve(voice=f"eve={tmp_path / 'ann.voice.safetensors'}") as server:
        async with await take_slot(server) as client:
            assert client.ready.voices == ("eve",)
            await client.start(SHORT, voice="ann", id="a")
            error = await client.receive()
            assert (error.code, error.field, error.id) == ("bad_field", "voice", "a")
            assert error.message == "voice 'ann' is not known: eve"
            spoken = []
            for chosen in ({"voice": "eve"}, {}):
                await client.start(SHORT, seed=1, **chosen)
                items = await hear(client)
                assert [item.word for item in items if isinstance(item, WordEvent)] == SHORT.split()[1:]
                spoken.append(sound(items))
            assert spoken[0] == spoken[1]


# --- slots ---


@on_loop
async def test_of_twenty_clients_one_speaks_and_nineteen_are_told_at_once(server):
    async def arrive():
        began = time.monotonic()
        try:
            return await connect(server.url), time.monotonic() - began
        except CommandError as error:
            return error, time.monotonic() - began

    def check():
        began = time.monotonic()
        server.get("/healthz")
        return time.monotonic() - began

    async with await take_slot(server) as client:
        await client.start(LONG, seed=4)
        await hear(client, Audio)
        refused, checks = zip(*[(await arrive(), check()) for _ in range(10)], strict=True)
        assert {error.code for error, _ in refused} == {"busy"}
        health = statistics.median(checks)  # a few ms, and on a busy machine as much more as a refusal takes
        assert statistics.median(seconds for _, seconds in refused) < max(0.05, 5 * health)
        await client.reset()
    came = await asyncio.gather(*[arrive() for _ in range(20)])
    [(first, _)] = [(who, at) for who, at in came if not isinstance(who, CommandError)]
    async with first as client:
        await client.start(SHORT, seed=4)
        await hear(client)
    assert max(seconds for _, seconds in came) < max(2, 20 * 5 * health)


@on_loop
async def test_busy_closes_with_1013(server):
    async with await take_slot(server), open_websocket(server.url) as second:
        assert parse_event(await second.recv()).code == "busy"
        with pytest.raises(ConnectionClosed) as closed:
            await second.recv()
    assert closed.value.rcvd.code == 1013


@on_loop
async def test_a_dropped_conversation_is_picked_up_without_a_sample_lost(server):
    async with await take_slot(server) as client:
        await client.start(LONG[:70], id="a", seed=5)
        whole = await hear(client)
    client = await take_slot(server)
    await client.start(LONG[:70], id="a", seed=5)
    heard = await hear(client, lambda item: client.received_ms >= 800)
    had = client.received_ms
    client.socket.transport.abort()
    async with await take_slot(server, conversation=client.ready.conversation, received_ms=had) as back:
        assert back.ready.conversation == client.ready.conversation
        heard += await hear(back, Paused)
        assert heard[-1].heard_ms == back.received_ms >= had
        await back.resume()
        heard += await hear(back)
    assert sound(heard) == sound(whole)
    assert heard[-1] == whole[-1]
    words = dict.fromkeys(item for item in heard if isinstance(item, WordEvent))
    assert list(words) == [item for item in whole if isinstance(item, WordEvent)]


@on_loop
async def test_the_clock_is_right_also_for_who_comes_back_without_what_was_sent_before_an_interruption(server):
    client = await take_slot(server)
    await client.start(LONG, seed=6)
    await hear(client, lambda item: client.received_ms >= 1600)
    had = client.received_ms - 400
    await client.pause(played_ms=800)
    await client.inject("[S2] Something else.", id="else")
    await hear(client, lambda item: isinstance(item, WordEvent) and item.id == "else")
    await client.close()
    async with await take_slot(server, conversation=client.ready.conversation, received_ms=had) as back:
        items = await hear(back, Paused)
        assert items[-1].heard_ms == back.received_ms
        assert "Something" in [item.word for item in items if isinstance(item, WordEvent)]
        assert sound(items)[: 5 * 3840] == bytes(5 * 3840)
        await back.resume()
        assert (await hear(back))[-1].audio_ms == back.received_ms


@on_loop
async def test_who_comes_back_after_too_long_is_told(impatient):
    client = await take_slot(impatient)
    await client.start(LONG, seed=6)
    await hear(client, lambda item: client.received_ms >= 12_000)
    await client.close()
    async with await take_slot(impatient, conversation=client.ready.conversation, received_ms=80) as back:
        items = await hear(back, Error)
        assert (items[-1].code, items[-1].field) == ("bad_field", "received_ms")
        assert "received_ms 80 is too long ago" in items[-1].message
        await back.reset()
        await hear(back, ResetDone)


@on_loop
async def test_who_comes_back_may_rewind_to_what_was_heard_and_say_something_else(server):
    client = await take_slot(server)
    await client.start(LONG, seed=6)
    await hear(client, lambda item: client.received_ms >= 1600)
    await client.close()
    async with await take_slot(
        server, conversation=client.ready.conversation, encoding="mulaw", sample_rate=8000
    ) as back:
        assert isinstance(await back.receive(), Paused)
        await back.pause(played_ms=800)
        paused = await back.receive()
        assert paused.heard_ms == 800
        assert paused.pending
        await back.inject("[S2] Something else.", id="else")
        items = await hear(back)
    assert [item.word for item in items if isinstance(item, WordEvent)] == ["Something", "else."]
    assert items[-1].id == "else"


@on_loop
async def test_a_pause_before_the_drop_is_what_the_client_comes_back_to(server):
    client = await take_slot(server)
    await client.start(LONG, seed=6)
    await hear(client, lambda item: client.received_ms >= 800)
    await client.pause(played_ms=400)
    paused = (await hear(client, Paused))[-1]
    await client.close()
    async with await take_slot(server, conversation=client.ready.conversation) as back:
        assert await back.receive() == paused
        await back.reset()


@pytest.mark.parametrize("refused", [{"cmd": "inject", "text": "a " * 2001}, {"cmd": "pause", "played_ms": -1}])
@on_loop
async def test_a_command_that_was_refused_in_a_pause_changes_nothing_about_where_it_stopped(server, refused):
    client = await take_slot(server)
    await client.start(LONG, seed=6)
    await hear(client, lambda item: client.received_ms >= 800)
    await client.pause(played_ms=400)
    paused = (await hear(client, Paused))[-1]
    await client.socket.send(json.dumps(refused))
    assert (await hear(client, Error))[-1].cmd == refused["cmd"]
    await client.close()
    async with await take_slot(server, conversation=client.ready.conversation) as back:
        await back.reset()
        assert {item for item in await hear(back, ResetDone) if isinstance(item, Paused)} == {paused}


@on_loop
async def test_a_conversation_that_waits_gives_way_to_a_client_who_is_there(server):
    client = await take_slot(server)
    await client.start(LONG, seed=7)
    await hear(client, Audio)
    await client.close()
    async with await connect(server.url) as other:
        assert other.ready.conversation != client.ready.conversation
        await other.start(SHORT, seed=7)
        await hear(other)


@on_loop
async def test_a_conversation_is_gone_after_linger_and_the_client_gets_a_new_one(impatient):
    client = await take_slot(impatient)
    await client.start(LONG, seed=7)
    await hear(client, Audio)
    await client.close()
    for lingering in (1, 0):
        await asyncio.to_thread(impatient.until, lambda n=lingering: impatient.metric("dia2stream_lingering") == n)
    async with await take_slot(impatient, conversation=client.ready.conversation) as other:
        assert other.ready.conversation != client.ready.conversation
        error = await other.receive()
        assert (error.code, error.field) == ("no_session", "conversation")


@on_loop
async def test_who_has_the_id_takes_the_conversation_over_from_a_connection_that_may_be_dead(server):
    async with await take_slot(server) as client:
        await client.start(LONG, seed=7)
        await hear(client, Audio)
        async with await connect(server.url, conversation=client.ready.conversation) as other:
            assert other.ready.conversation == client.ready.conversation
            assert isinstance(await other.receive(), Paused)
            await other.reset()
        async for _ in client:
            pass
        assert client.socket.close_code == 1000


@on_loop
async def test_a_client_that_never_speaks_gives_way_after_a_while(impatient):
    async with await take_slot(impatient) as client:
        with pytest.raises(CommandError, match="every slot is taken"):
            await connect(impatient.url)
        async with await take_slot(impatient) as other:
            await other.start(SHORT)
            await hear(other)
        assert isinstance(await client.receive(), Error)


# --- bad clients ---

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


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def stopped_reader(server):
    """A connection that has asked for speech and from then on takes nothing."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", server.port))
    raw.sendall(HANDSHAKE)
    assert b"101" in raw.recv(200)
    raw.sendall(frame(0x81, json.dumps({"cmd": "start", "text": LONG * 5}).encode()))
    return raw


def frame(first: int, payload: bytes) -> bytes:
    """A masked WebSocket frame."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2, "big")
    return bytes([first]) + length + b"\0\0\0\0" + payload


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


def dialled(server) -> socket.socket:
    """A bare connection."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def rest(raw: socket.socket) -> bytes:
    """What comes until the server hangs up."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while piece := raw.recv(1 << 16):
            said += piece
    return said


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01 and so on\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n", b"426"),
        (HANDSHAKE.replace(b"Host: x", b"Host: x\r\nUpgrade: websocket"), b"426"),
        (HANDSHAKE.replace(b"Host: x", b"Host: x\r\nHost: y\r\nOrigin: z\r\nOrigin: z"), b"403"),
        (HANDSHAKE.replace(b"13", b"12"), b"400"),
        (b"GET /?token=%ff&&=;%zz HTTP/1.1\r\nAuthorization: Bearer\r\nAuthorization: x y z\r\n\r\n", b"200"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", b"414"),
    ],
)
def test_no_request_brings_out_a_traceback(server, request_, status):
    with dialled(server) as raw:
        raw.sendall(request_)
        assert status in rest(raw)[:12]
    for begun in range(0, 40, 8):
        with dialled(server) as raw:
            raw.sendall(request_[:begun])


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


# --- HTTP ---


def test_the_port_is_open_before_the_model_is_there_and_says_how_far_it_is():
    with Serve(wait=False, before=NEVER_LOADED) as starting:
        status, said, _ = starting.get("/readyz")
        assert (status, said.split(":")[0]) == (503, "loading")
        assert starting.get("/healthz")[0] == 200

        @on_loop
        async def early():
            with pytest.raises(CommandError, match="loading") as refused:
                await connect(starting.url)
            assert refused.value.code == "busy"

        early()
        assert starting.stop() == 0


def test_health_metrics_and_the_page_are_on_the_same_port(server):
    assert server.get("/healthz")[:2] == server.get("/readyz")[:2] == (200, "ok\n")
    status, page, headers = server.get("/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "AudioWorkletProcessor" in page
    assert "//cdn" not in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert server.get("/nothing")[0] == 404
    assert server.get("/healthz", method="HEAD")[:2] == (200, "")
    assert server.get("/", method="DELETE")[0] == 405


@on_loop
async def test_metrics_count_what_happens(server):
    names = [
        "dia2stream_conversations_total",
        "dia2stream_busy_total",
        'dia2stream_errors_total{code="bad_json"}',
        "dia2stream_first_audio_seconds_count",
        "dia2stream_frame_seconds_count",
        "dia2stream_frames_total",
    ]
    before = [server.metric(name) for name in names]
    async with await take_slot(server) as client:
        await client.start(SHORT, seed=12)
        await client.socket.send("{")
        with pytest.raises(CommandError):
            await connect(server.url)
        items = await hear(client)
        assert server.metric("dia2stream_slots_taken") == server.metric("dia2stream_slots") == 1
    frames = sum(isinstance(item, Audio) for item in items)
    after = [server.metric(name) for name in names]
    grown = [new - old for old, new in zip(before, after, strict=True)]
    assert grown[0] == grown[2] == grown[3] == 1
    assert grown[1] >= 1
    assert grown[4] == grown[5] == frames
    for gauge in ("real_time_factor", "slots"):
        assert server.metric(f"dia2stream_{gauge}") > 0
    for gauge in ("lead_seconds", "queue_frames", "queue_words", "rollovers_total", "lingering"):
        assert f"\ndia2stream_{gauge} " in server.get("/metrics")[1]
    assert server.metric("process_resident_memory_bytes") > 1e7


# --- tokens and origins ---


@pytest.mark.parametrize("token", [None, "", "wrong", "s3cret", "s3cret é "])
@on_loop
async def test_without_the_token_there_is_an_error_and_4401(guarded, token):
    query = "" if token is None else f"?token={token.replace(' ', '%20')}x"
    async with open_websocket(f"{guarded.url}/{query}") as client:
        assert parse_event(await client.recv()).code == "unauthorized"
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
    assert closed.value.rcvd.code == 4401


@on_loop
async def test_with_the_token_in_the_url_or_the_header_there_is_a_slot(guarded):
    async with await take_slot(guarded, token="s3cret é") as client:
        assert client.ready.conversation
    async with open_websocket(f"{guarded.url}/?token=s3cret%20%C3%A9") as client:
        assert b'"ready"' in (await client.recv()).encode()


def test_http_wants_the_token_where_there_is_something_to_see(guarded):
    for path in ("/", "/metrics"):
        status, said, headers = guarded.get(path)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "--token" not in said
        assert guarded.get(f"{path}?token=nope")[0] == 401
        assert guarded.get(f"{path}?token=s3cret%20%C3%A9")[0] == 200
    assert guarded.get("/healthz")[0] == guarded.get("/readyz")[0] == 200


@pytest.mark.parametrize(
    ("origin", "more", "status"),
    [
        ("http://127.0.0.1:{port}", {}, 101),
        ("https://APP.example", {}, 101),
        ("https://b.example", {}, 101),
        ("https://pod-8765.proxy.example", {"X-Forwarded-Host": "pod-8765.proxy.example"}, 101),
        ("https://evil.example", {}, 403),
        ("https://app.example.evil.example", {}, 403),
        ("http://app.example", {}, 403),
        ("null", {}, 403),
        ("", {}, 403),
    ],
)
@on_loop
async def test_pages_of_other_sites_may_not_connect_unless_listed(guarded, origin, more, status):
    headers = {"Origin": origin.format(port=guarded.port), **more}
    url = f"{guarded.url}/?token=wrong"  # which is asked for after the origin
    if status == 101:
        async with open_websocket(url, additional_headers=headers):
            return
    with pytest.raises(InvalidStatus) as refused:
        await open_websocket(url, additional_headers=headers)
    assert refused.value.response.status_code == status


def test_the_log_is_json_and_holds_no_token(guarded):
    lines = [json.loads(line) for line in guarded.log]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    assert "s3cret" not in "".join(guarded.log)


# --- the end ---


@on_loop
async def test_sigterm_lets_the_conversation_finish_and_exits_0():
    with Serve(drain_seconds=PATIENCE, max_lead_ms=100) as server:  # it is still spoken when all is looked at
        async with connect(server.url) as client:
            await client.start("[S1] One two three four five six seven.", seed=13)
            items = await hear(client, Audio)
            server.process.send_signal(signal.SIGTERM)
            notice = await hear(client, Error)
            assert notice[-1].code == "busy"
            with pytest.raises(CommandError, match="shutting down"):
                await connect(server.url)
            assert server.get("/readyz")[:2] == (503, "shutting down\n")
            items += notice + await hear(client, Done)
            assert len(sound(items)) == 48 * items[-1].audio_ms
            with pytest.raises(Disconnected, match="1013"):
                await client.receive()
        assert await asyncio.to_thread(server.process.wait, PATIENCE) == 0


@on_loop
async def test_sigterm_waits_no_longer_than_told():
    with Serve(drain_seconds=0.3) as server:
        async with connect(server.url) as client:
            await client.start(LONG)
            await hear(client, Audio)
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(Disconnected, match="1013"):
                await hear(client)
            assert await asyncio.to_thread(server.process.wait, PATIENCE) == 0
            assert time.monotonic() - began < 4 * a_second()


def test_a_port_that_is_taken_and_a_model_that_is_not_there_are_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "dia2stream", "serve", "--host", "127.0.0.1", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"port {port}" in done.stderr.splitlines()[-1]
    with Serve(wait=False, model="/no/such/model") as server:
        assert server.process.wait(PATIENCE) == 1
        server.until(lambda: any("/no/such/model" in line for line in server.log))
        assert "Traceback" not in "".join(server.log)


@pytest.mark.parametrize(("host", "warns"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_an_open_door_is_warned_about_once(host, warns):
    with Serve(wait=False, host=host, environment={"DIA2STREAM_LINGER": "3"}) as server:
        assert server.stop() == 0
        assert sum("anyone who reaches this address" in line for line in server.log) == warns


@needs("openssl")
def test_tls_serves_wss_and_https(tmp_path):
    made = certificate(tmp_path)
    with Serve(wait=False, before=NEVER_LOADED, **made) as server:
        trust = ssl.create_default_context(cafile=str(made["tls_cert"]))
        trust.check_hostname = False

        @on_loop
        async def try_it():
            with pytest.raises(CommandError, match="loading"):
                await connect(server.url.replace("ws:", "wss:"), ssl=trust)

        try_it()


# --- pieces ---


@on_loop
async def test_a_slot_that_is_still_being_freed_is_nobodys():
    """A client waits for it: who asks for that client's conversation, or stops the server, finds nobody there yet."""
    from types import SimpleNamespace

    from dia2stream.options import ServeOptions
    from dia2stream.server.metrics import Metrics
    from dia2stream.server.slots import Slots

    free = asyncio.Event()
    slots = Slots(ServeOptions(), Metrics())
    slots.engine = SimpleNamespace(conversation=lambda **_: SimpleNamespace(ended=False, aclose=free.wait))
    await slots.take(None, "old")
    waiting = asyncio.create_task(slots.take(None, "new"))
    await asyncio.sleep(0)
    assert not slots.speaking
    with pytest.raises(CommandError, match="every slot is taken"):
        await slots.take("new", "another")
    free.set()
    assert (await waiting).id == "new"


def test_a_stuck_engine_turns_readyz_to_503_and_is_logged_with_its_stack_until_it_goes_on(caplog):
    from types import SimpleNamespace

    from websockets.datastructures import Headers
    from websockets.http11 import Request

    from dia2stream.options import ModelOptions, ServeOptions, SpeechOptions
    from dia2stream.server.server import Server
    from dia2stream.server.watch import STUCK_SECONDS

    def readyz():
        answer = server._web.answer(None, Request("/readyz", Headers()))
        return answer.status_code, answer.body.decode()

    server, go_on = Server(ModelOptions(), SpeechOptions(), ServeOptions()), threading.Event()
    server.stage, watch = None, server._watch
    thread = threading.Thread(target=go_on.wait, name="dia2-engine")
    thread.start()
    watch.look(0)
    engine = watch.engine = SimpleNamespace(has_work=False, stats=SimpleNamespace(last_progress=5.0))
    watch.look(1000)  # idle for long, then work comes
    engine.has_work = True
    watch.look(1001)
    assert readyz() == (200, "ok\n")
    watch.look(1001 + STUCK_SECONDS + 1)
    assert readyz() == (503, "no step has finished for 32 s, and there is work\n")
    [logged] = caplog.records
    assert "no step has finished" in logged.message
    assert "in wait" in logged.stack
    engine.stats.last_progress = 6.0
    watch.look(1001 + STUCK_SECONDS + 2)
    assert readyz() == (200, "ok\n")
    go_on.set()
    thread.join()


def test_what_was_sent_is_kept_for_a_while_and_past_a_cut_as_silence():
    from dia2stream.items import Frame
    from dia2stream.server.resend import KEPT_FRAMES, SILENCE, Sent

    sent = Sent()
    items = [Frame(pcm=None), WordEvent("a", "one", "S1", 80), Frame(pcm=None), Frame(pcm=None)]
    for item in items:
        sent.add(item)
    assert sent.since(0) == items
    assert sent.since(80) == items[1:]
    assert sent.since(239.99) == []
    sent.cut()
    assert sent.since(80) == [SILENCE, SILENCE]
    after = WordEvent("b", "two", "S1", 240)
    sent.add(after)
    assert sent.since(160) == [SILENCE, after]
    assert sent.kept_from_ms == 0
    for _ in range(2 * KEPT_FRAMES):
        sent.add(Frame(pcm=None))
    assert len(sent.since(0)) == len(sent.since(sent.kept_from_ms)) == KEPT_FRAMES
    assert sent.kept_from_ms == (3 + KEPT_FRAMES) * 80
