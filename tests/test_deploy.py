"""What runs `serve` for weeks: the RunPod script, the proxy before several servers, the image's files."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from piping import PATIENCE
from serving import LONG, SHORT, Serve, free_port, free_ports, hear, killed, on_loop
from tools import needs

from dia2stream.client import connect
from dia2stream.errors import CommandError, Disconnected
from dia2stream.options import ServeOptions
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Paused

SCRIPTS = Path(__file__).parent.parent / "scripts"


@needs("haproxy")
def test_the_proxy_gives_each_client_a_free_server_and_who_comes_back_its_own():
    port, config = free_port(), str(SCRIPTS / "haproxy.cfg")
    with Serve(linger=20, agent_port=0) as first, Serve(linger=20, agent_port=0) as second:
        environment = {
            **os.environ,
            "DIA2STREAM_BIND": f"127.0.0.1:{port}",
            "DIA2STREAM_SERVER_1": f"127.0.0.1:{first.port}",
            "DIA2STREAM_SERVER_2": f"127.0.0.1:{second.port}",
            "DIA2STREAM_AGENT_1": agent_of(first),
            "DIA2STREAM_AGENT_2": agent_of(second),
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


def agent_of(server: Serve) -> str:
    return server.logged(r"agent host.*port=(\d+)")[1]


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
        "DIA2STREAM_AGENT_1",
        "DIA2STREAM_AGENT_2",
        "DIA2STREAM_FIRST_PORT",
        "DIA2STREAM_GPUS",
        "DIA2STREAM_COMMAND",
        "DIA2STREAM_VOLUME",
    }
    for name in ("runpod", "serve-gpus", "Dockerfile", "compose.yaml", "haproxy.cfg"):
        text = (SCRIPTS / name).read_text(encoding="utf-8")
        assert set(re.findall(r"DIA2STREAM_[A-Z_0-9]+[A-Z0-9](?![A-Z_0-9])", text)) <= known
        assert str(ServeOptions.port) in text


# ---- Several GPUs ----


@needs("haproxy")
def test_one_command_serves_all_gpus_and_a_call_goes_on_when_its_server_dies(tmp_path):
    port, servers, *_ = free_ports(5)
    told = {
        "DIA2STREAM_GPUS": "0 1",
        "DIA2STREAM_PORT": str(port),
        "DIA2STREAM_FIRST_PORT": str(servers),
        "DIA2STREAM_JOURNAL": str(tmp_path / "journal"),
        "DIA2STREAM_COMMAND": f"{sys.executable} -m dia2stream",
        "DIA2STREAM_LOG_FORMAT": "json",
        "OMP_NUM_THREADS": "1",
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DIA2STREAM_")}
    flags = ["--model", "random:tiny", "--device", "cpu", "--slots", "2"]
    script = [str(SCRIPTS / "serve-gpus"), *flags]
    with (tmp_path / "log").open("w") as log:
        pod = subprocess.Popen(script, env={**clean, **told}, stderr=log, stdout=log, start_new_session=True)
    try:

        @on_loop
        async def talk():
            url = f"ws://127.0.0.1:{port}"
            await until_up(url)
            clients = []
            deadline = time.monotonic() + PATIENCE / 2
            while len(clients) < 4:  # the slots of both
                try:
                    clients.append(await connect(url))
                except (CommandError, Disconnected):
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.2)
            client, *others = clients
            await client.start(LONG, seed=1)
            await hear(client, lambda item: client.received_ms >= 2000)
            for other in others:
                await other.hang_up()
            os.kill(process_of_the_only_call(servers), signal.SIGKILL)
            with pytest.raises(Disconnected):
                await hear(client, lambda _: False)
            back = await connect(url, conversation=client.ready.conversation, received_ms=client.received_ms)
            assert back.ready.conversation == client.ready.conversation
            await hear(back, Paused)
            await back.hang_up()

        talk()
        pod.send_signal(signal.SIGTERM)
        assert pod.wait(PATIENCE) == 0
    except BaseException:
        print((tmp_path / "log").read_text()[-3000:])
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pod.pid, signal.SIGKILL)
        pod.wait()


def process_of_the_only_call(first_port):
    """The process of the server that has a client."""
    for port in (first_port, first_port + 2):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
            if re.search(r"^dia2stream_slots_taken 1.0$", answer.read().decode(), re.MULTILINE):
                return owner_of(port)
    raise AssertionError("nobody has it")


def owner_of(port):
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path("/proc", pid, "cmdline").read_bytes().split(b"\0")
            if b"--port" in words and words[words.index(b"--port") + 1] == str(port).encode() and b"serve" in words:
                return int(pid)
    raise AssertionError(f"nobody has port {port}")


# ---- The image ----


def test_the_image_is_made_by_the_steps_of_a_script_in_their_order():
    dockerfile = (SCRIPTS / "Dockerfile").read_text("utf-8")
    steps = re.findall(r"^  (\w+)\)$", (SCRIPTS / "image").read_text("utf-8"), re.MULTILINE)
    assert re.findall(r"^RUN scripts/image (\w+)$", dockerfile, re.MULTILINE) == steps
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE) for word in line.split()]
    assert [path for path in copied if not (SCRIPTS.parent / path).exists()] == []


@pytest.mark.slow  # it asks the package index
def test_the_steps_of_the_image_make_a_program_that_speaks(tmp_path):
    root = SCRIPTS.parent
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = venv / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    asked = [
        subprocess.run([p, "-c", where], capture_output=True, text=True, check=True) for p in (python, sys.executable)
    ]
    inner, outer = (Path(answer.stdout.strip()) for answer in asked)
    # All but this project is here already; an image has its own copy of torch.
    (inner / "here.pth").write_text(f"import site; site.addsitedir({str(outer)!r})\n")
    app = tmp_path / "app"
    (app / "scripts").mkdir(parents=True)
    (app / "dia2stream").mkdir()
    shutil.copy(SCRIPTS / "image", app / "scripts" / "image")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "dia2stream/__init__.py"):
        shutil.copy(root / name, app / name)
    environment = {**os.environ, "PYTHON": str(python), "PIP_NO_WARN_SCRIPT_LOCATION": "1"}
    environment.pop("PYTHONPATH", None)
    run = lambda step: subprocess.run(["scripts/image", step], cwd=app, env=environment, check=True)  # noqa: E731
    run("dependencies")
    for package in ("dia2", "dia2stream"):
        shutil.copytree(root / package, app / package, dirs_exist_ok=True)
    run("program")
    said = subprocess.run(
        [venv / "bin" / "dia2stream", "say", "[S1] Hello.", "--model", "bundled", "-o", "hello.wav"],
        cwd=tmp_path,
        env=environment,
        check=True,
        timeout=PATIENCE,
    )
    assert said.returncode == 0
    assert (tmp_path / "hello.wav").stat().st_size > 10_000
