"""What runs `serve` for weeks: the RunPod script, the proxy before several servers, the image's files."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from piping import PATIENCE
from serving import LONG, SHORT, Serve, free_port, hear, killed, on_loop
from tools import needs

from dia2stream.client import connect
from dia2stream.errors import CommandError
from dia2stream.options import ServeOptions
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Paused

SCRIPTS = Path(__file__).parent.parent / "scripts"


@needs("haproxy")
def test_the_proxy_gives_each_client_a_free_server_and_who_comes_back_its_own():
    port, config = free_port(), str(SCRIPTS / "haproxy.cfg")
    with Serve(linger=20) as first, Serve(linger=20) as second:
        environment = {
            **os.environ,
            "DIA2STREAM_BIND": f"127.0.0.1:{port}",
            "DIA2STREAM_SERVER_1": f"127.0.0.1:{first.port}",
            "DIA2STREAM_SERVER_2": f"127.0.0.1:{second.port}",
        }
        check = subprocess.run(["haproxy", "-c", "-f", config], env=environment, capture_output=True, text=True)
        assert check.returncode == 0, check.stderr
        with killed(subprocess.Popen(["haproxy", "-db", "-f", config], env=environment, stderr=subprocess.DEVNULL)):

            @on_loop
            async def talk():
                url = f"ws://127.0.0.1:{port}"
                await until_up(url)
                taken = lambda: [each.metric("dia2stream_slots_taken") for each in (first, second)]  # noqa: E731
                one, two = await connect(url), await connect(url)
                assert taken() == [1, 1]
                with pytest.raises(CommandError) as refused:
                    await connect(url)
                assert refused.value.code == "busy"
                for client in (one, two):
                    await client.start(LONG, seed=1)
                    await hear(client, Audio)
                for client in (one, two, one, two):
                    client.socket.transport.abort()
                    await asyncio.sleep(0.05)
                    back = await connect(url, conversation=client.ready.conversation)
                    assert back.ready.conversation == client.ready.conversation
                    assert isinstance(await back.receive(), Paused)
                    await back.close()
                await (await connect(url, conversation=one.ready.conversation)).hang_up()
                async with connect(url) as client:
                    await client.start(SHORT, seed=2)
                    await hear(client)

            talk()


async def until_up(url: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            await (await connect(url)).close()
        except Exception:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        else:
            await asyncio.sleep(0.2)
            return


SERVER = """#!{python}
import os, signal, sys, time
runs = open("{folder}/runs", "a")
runs.write(" ".join([*sys.argv[1:], os.environ["DIA2STREAM_TOKEN"], os.environ["HF_HOME"]]) + "\\n")
runs.close()
if {fails}:
    sys.exit(1)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
time.sleep(60)
"""


def runpod(folder: Path, fails: bool, **environment: str) -> "subprocess.Popen[str]":
    server = folder / "server"
    server.write_text(SERVER.format(python=sys.executable, folder=folder, fails=fails))
    server.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DIA2STREAM_", "HF_"))}
    told = {"DIA2STREAM_VOLUME": str(folder), "DIA2STREAM_COMMAND": str(server), **environment}
    script = [str(SCRIPTS / "runpod"), "--log-format", "json"]
    return subprocess.Popen(script, env={**clean, **told}, stderr=subprocess.PIPE, text=True)


def lines_of(file: Path, count: int) -> list[str]:
    deadline = time.monotonic() + PATIENCE
    while not file.exists() or len(file.read_text().splitlines()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return file.read_text().splitlines()


def test_a_pod_makes_a_token_once_keeps_the_cache_on_the_volume_and_stops_when_told(tmp_path):
    tokens = []
    for _ in range(2):
        with killed(runpod(tmp_path, fails=False, RUNPOD_POD_ID="abc")) as pod:
            [*_, last] = lines_of(tmp_path / "runs", len(tokens) + 1)
            time.sleep(0.2)
            pod.send_signal(signal.SIGTERM)
            assert pod.wait(PATIENCE) == 0
            assert pod.stderr is not None
            said = pod.stderr.read()
        *arguments, token, cache = last.split()
        assert arguments == ["serve", "--log-format", "json"]
        assert cache == str(tmp_path / "huggingface")
        assert (token in said) == (not tokens)
        assert "https://abc-8765.proxy.runpod.net/" in said
        tokens.append(token)
    assert tokens[0] == tokens[1]
    assert len(tokens[0]) >= 20
    assert (tmp_path / "dia2stream-token").stat().st_mode & 0o077 == 0


def test_a_pod_starts_a_server_that_ended_again(tmp_path):
    with killed(runpod(tmp_path, fails=True, DIA2STREAM_TOKEN="mine")) as pod:
        assert [line.split()[-2] for line in lines_of(tmp_path / "runs", 2)] == ["mine", "mine"]
        pod.send_signal(signal.SIGTERM)
        pod.wait(PATIENCE)


def test_the_deployment_files_name_the_default_port_and_only_flags_that_exist():
    known = {f"DIA2STREAM_{name.upper()}" for name in ServeOptions.__dataclass_fields__}
    known |= {
        "DIA2STREAM_BIND",
        "DIA2STREAM_SERVER_1",
        "DIA2STREAM_SERVER_2",
        "DIA2STREAM_COMMAND",
        "DIA2STREAM_VOLUME",
    }
    for name in ("runpod", "Dockerfile", "compose.yaml", "haproxy.cfg"):
        text = (SCRIPTS / name).read_text(encoding="utf-8")
        assert set(re.findall(r"DIA2STREAM_[A-Z_0-9]+[A-Z0-9]", text)) <= known
        assert str(ServeOptions.port) in text
