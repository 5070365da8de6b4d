"""Prepared replies over a socket, and through pipe."""

import json

from piping import ran
from serving import Serve, hear, on_loop, sound, take_slot

from dia2stream.client import connect
from dia2stream.protocol.messages import Done, Error, FirstAudio, Paused, Prepared

GREETING, REPLY = "[S1] One two three.", "[S1] Yes, of course I can."


def done(id: str):
    return lambda item: isinstance(item, Done) and item.id == id


@on_loop
async def test_a_committed_reply_has_the_audio_of_an_inject(server: Serve) -> None:
    async with await take_slot(server) as client:
        await client.start(GREETING, seed=3, id="a")
        await hear(client, done("a"))
        await client.inject(REPLY, id="b")
        injected = sound(await hear(client, done("b")))
        await client.start(GREETING, seed=3, id="a")
        await hear(client, done("a"))
        await client.prepare(REPLY[:12], "b", final=False)
        await client.inject(REPLY[12:], id="b")
        nothing = await hear(client, Prepared)
        assert sound(nothing) == b""
        await client.commit("b")
        items = await hear(client, done("b"))
        [first] = [item for item in items if isinstance(item, FirstAudio)]
        assert first.latency_ms < nothing[-1].ready_ms or first.latency_ms < 50
        assert sound(items) == injected


@on_loop
async def test_a_connection_that_breaks_does_not_forget_it(server: Serve) -> None:
    async with await take_slot(server) as client:
        await client.start(GREETING, seed=3, id="a")
        await hear(client, done("a"))
        await client.prepare(REPLY, "b")
        await hear(client, Prepared)
        conversation, received = client.ready.conversation, client.received_ms
    async with connect(server.url, conversation=conversation, received_ms=received) as client:
        await hear(client, Paused)
        await client.resume()
        await client.commit("b")
        assert len(sound(await hear(client, done("b")))) > 1920 * 4
        await client.discard("b")
        [*_, error] = await hear(client, Error)
        assert (error.code, error.cmd, error.message) == ("bad_field", "discard", "id 'b': no reply is prepared")
        await client.reset()


def test_pipe_makes_replies_in_advance_and_forgets_them_at_the_end_of_input() -> None:
    commands = [
        {"cmd": "start", "text": GREETING, "seed": 3},
        {"cmd": "prepare", "text": REPLY, "id": "b"},
        {"cmd": "commit", "id": "b"},
        {"cmd": "prepare", "text": REPLY, "id": "c"},
    ]
    lines = "".join(f"{json.dumps(command)}\n" for command in commands)
    run = ran("pipe", "--device", "cpu", input=lines.encode(), text=False)
    assert run.returncode == 0
    events = [json.loads(line) for line in run.stderr.splitlines()]
    assert [event["id"] for event in events if event["event"] == "done"] == ["1", "b"]
    assert [event["id"] for event in events if event["event"] == "discarded"] == ["c"]
    assert not [event for event in events if event["event"] == "error"]
