"""Clients that come back by themselves find their conversation at another server, through one address for both."""

import asyncio
import json
import signal
from pathlib import Path

from piping import PATIENCE
from serving import Serve, on_loop
from test_client_js import PRELUDE
from test_journal import WORDS
from test_talk import Relay, Sound
from tools import needs

from dia2stream.plugins.talk import Talk
from dia2stream.protocol.messages import Done, Error, WordEvent

TEXT = f"[S1] {WORDS}."
SCRIPT = """
    const at = [];
    client.on("audio", audio => at.push(audio.at));
    await client.start(TEXT, { id: "a", seed: 5 });
    await next("audio", audio => audio.at > 30000);
    console.error("now");
    await next("back");
    const copy = await client.fork();
    const forked = { at: copy.clock, live: copy.live, paused: copy.paused };
    await copy.inject("[S2] Nine.", { id: "x" });
    const said = await new Promise(resolve => copy.on("done", resolve));
    if (client.waiting.size) await next("done");
    tell({ at, clock: client.clock, names: names(), words: client.words.map(word => word.word), forked, said,
      copied: copy.words.map(word => word.word), copy: copy.clock });
"""


async def end(server: Serve, relay: Relay, other: Serve, how: signal.Signals) -> None:
    """A server ends, and the address is that of the other one from then on."""
    relay.to_port = other.port
    server.process.send_signal(how)
    await relay.cut()


@needs("node")
def test_the_javascript_client_goes_on_at_another_server_and_forks_there(tmp_path: Path) -> None:
    @on_loop
    async def call() -> None:
        async with Relay(one.port) as relay:
            command = ["node", "--experimental-websocket", "--no-warnings", "script.mjs", relay.url, "", "30"]
            process = await asyncio.create_subprocess_exec(
                *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            assert process.stderr is not None
            assert await asyncio.wait_for(process.stderr.readline(), PATIENCE) == b"now\n"
            await end(one, relay, two, signal.SIGKILL)
            out, problem = await asyncio.wait_for(process.communicate(), PATIENCE)
            assert process.returncode == 0, problem
        told = json.loads(out)
        assert told["at"] == list(range(0, told["clock"], 1920))
        assert told["words"] == TEXT.removeprefix("[S1] ").split()
        assert told["names"].count("ready") == 2
        assert told["forked"]["at"] % 1920 == 0
        assert (told["forked"]["live"], told["forked"]["paused"]) == (True, True)
        assert told["copied"][-1] == "Nine."
        assert told["said"]["audio_ms"] * 24 == told["copy"]

    flags = {"journal": tmp_path / "journal", "slots": 2, "max_lead_ms": 400}
    with Serve(**flags) as one, Serve(**flags) as two:
        (tmp_path / "client.mjs").write_text(one.get("/client.js")[1])
        (tmp_path / "script.mjs").write_text(PRELUDE + SCRIPT.replace("TEXT", json.dumps(TEXT)))
        call()
        assert two.metric("dia2stream_take_overs_total") == 1
        assert two.metric("dia2stream_forks_total") == 1


def test_the_talk_of_a_plugin_goes_on_at_another_server(tmp_path: Path) -> None:
    @on_loop
    async def call() -> None:
        async with Relay(one.port) as relay, Talk(relay.url, seed=5) as talk:
            await talk.say("a", TEXT, final=True)
            sounds: list[Sound] = []
            said: list[str] = []
            async for item in talk:
                if isinstance(item, Sound):
                    sounds.append(item)
                    if len(sounds) == 15:
                        await end(one, relay, two, signal.SIGTERM)
                elif isinstance(item, WordEvent):
                    said.append(item.word)
                elif isinstance(item, Done):
                    break
                else:
                    assert not isinstance(item, Error), item
            assert said == TEXT.removeprefix("[S1] ").split()
            starts = [sound.at_ms for sound in sounds]
            assert starts == [number * 80.0 for number in range(len(starts))]

    flags = {"journal": tmp_path / "journal", "max_lead_ms": 400}
    with Serve(**flags) as one, Serve(**flags) as two:
        call()
        assert two.metric("dia2stream_take_overs_total") == 1
