"""`serve`, a real process behind real sockets: the protocol, and how it begins and ends."""

import asyncio
import signal
import socket
import ssl
import subprocess
import sys
import time

import pytest
from piping import PATIENCE, soon
from serving import (
    LONG,
    NEVER_LOADED,
    SHORT,
    Serve,
    certificate,
    hear,
    on_loop,
    sound,
    take_slot,
)
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
        ("received_ms=1e15", "received_ms"),  # more than a record can hold
    ],
)
@on_loop
async def test_a_url_that_asks_for_what_there_is_not_is_told_and_closed(server, asked, field):
    with pytest.raises(InvalidStatus) as refused:
        await open_websocket(f"{server.url}/?{asked}")
    assert refused.value.response.status_code == 400
    error = parse_event(refused.value.response.body)
    assert (error.code, error.field) == ("bad_field", field)
    async with open_websocket(f"{server.url}/?busy=event&{asked}") as client:
        assert parse_event(await client.recv()) == error
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
            assert time.monotonic() - began < 2 * soon()


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
