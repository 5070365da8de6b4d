"""Several servers behind something that hands clients out: a Ray cluster, or HAProxy before plain servers.

    scripts/test-cluster --table --calls 24      # needs haproxy and redis-server

Each fleet can lose a server (kill -9), stop one (its calls are handed over) and get one more. A journal in Redis lets
calls go on elsewhere.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from fleet_calls import Call, call, row, several, text_of
from piping import PATIENCE
from serving import Serve, free_ports

SCRIPTS = Path(__file__).parent.parent / "scripts"
MODEL = {"model": "random:tiny", "device": "cpu"}


class Fleet(Protocol):
    """Some servers of the same kind."""

    @property
    def url(self) -> str:
        """Where clients go."""

    def kill(self) -> None:
        """Ends a server that has calls, as kill -9 does."""

    def stop(self) -> None:
        """Takes one away in good order."""

    def add(self) -> None:
        """One more; returns when it is asked for, not when it is there."""


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


# ---- HAProxy ----


class ProxyFleet:
    """Plain servers behind HAProxy with scripts/haproxy.cfg; there may be `most` of them."""

    def __init__(self, folder: Path, servers: int, most: int, slots: int, journal: str) -> None:
        self._flags = {**MODEL, "slots": slots, "journal": journal, "linger": 60, "max_lead_ms": 240}
        self._port, *ports = free_ports(1 + 2 * most)
        self._ports = list(zip(ports[::2], ports[1::2], strict=True))
        self.servers: list[Serve] = []
        for _ in range(servers):
            self.add()
        config = folder / "haproxy.cfg"
        config.write_text(configuration(most), encoding="utf-8")
        self._proxy = subprocess.Popen(["haproxy", "-db", "-f", str(config)], env=self._environment())
        until(self._takes_clients, "haproxy does not answer")

    def _environment(self) -> dict[str, str]:
        told = {"DIA2STREAM_BIND": f"127.0.0.1:{self._port}"}
        for number, (port, agent) in enumerate(self._ports, 1):
            told |= {f"DIA2STREAM_SERVER_{number}": f"127.0.0.1:{port}", f"DIA2STREAM_AGENT_{number}": str(agent)}
        return {**os.environ, **told}

    def _takes_clients(self) -> bool:
        time.sleep(1.5)  # a round of its checks
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
            return True
        return False

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._port}"

    def kill(self) -> None:
        self._busiest().process.kill()

    def stop(self) -> None:
        self._busiest().process.send_signal(signal.SIGTERM)

    def add(self) -> None:
        port, agent = self._ports[len(self.servers)]
        self.servers.append(Serve(**{**self._flags, "port": port, "agent_port": agent}))

    def _busiest(self) -> Serve:
        alive = [server for server in self.servers if server.process.poll() is None]
        return max(alive, key=lambda server: server.metric("dia2stream_slots_taken"))

    def close(self) -> None:
        self._proxy.kill()
        self._proxy.wait()
        for server in self.servers:
            server.end()


def configuration(servers: int) -> str:
    """scripts/haproxy.cfg for so many servers: it has two, and says to copy their lines for more."""
    lines = []
    for line in (SCRIPTS / "haproxy.cfg").read_text(encoding="utf-8").splitlines():
        lines.append(line)
        if line.strip().startswith("server server2"):
            lines += [line.replace("server2", f"server{n}").replace("_2", f"_{n}") for n in range(3, servers + 1)]
    return "\n".join(lines) + "\n"


# ---- Ray ----


class RayFleet:
    """The Ray Serve application on a cluster of this machine."""

    def __init__(self, replicas: int, slots: int, journal: str, **arguments: Any) -> None:
        os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}  # before Ray is imported
        import ray
        from ray import serve

        self._first = self._replicas = replicas
        (self._port,) = free_ports(1)
        self._arguments = {**MODEL, "slots": slots, "journal": journal, "linger": 60, "gpus": 0, "cpus": 0.1}
        self._arguments |= arguments
        # Ray counts cores to place workers; these servers need little of one.
        self._folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: a socket's path has at most 107 characters
        ray.init(
            num_cpus=8,
            object_store_memory=80_000_000,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            _temp_dir=self._folder,
        )
        serve.start(http_options={"host": "127.0.0.1", "port": self._port})
        self._apply(wait=True)

    def settle(self) -> None:
        """As it was in the beginning: so many replicas, and every slot free. Raises AssertionError."""
        self._replicas = self._first
        self._apply(wait=False)
        until(self._is_settled, "the fleet is not as it was", 4 * PATIENCE)

    def _is_settled(self) -> bool:
        if self.states() != {"RUNNING": self._first}:
            return False
        with contextlib.suppress(OSError):
            taken = [slots - free for slots, free in self.free_slots().values()]
            return taken == [0] * self._first
        return False

    def free_slots(self) -> dict[str, tuple[int, int]]:
        """Each replica's slots, and how many of them are free."""
        found: dict[str, dict[str, int]] = {}
        for name in ("slots", "slots_free"):
            for line in self.metrics().splitlines():
                if line.startswith(f"dia2stream_{name}{{"):
                    found.setdefault(line.split('"')[1], {})[name] = int(float(line.split()[-1]))
        return {replica: (told["slots"], told["slots_free"]) for replica, told in found.items()}

    def metrics(self) -> str:
        """One scrape of all replicas. Raises OSError when there is none."""
        token = {"Authorization": f"Bearer {self._arguments.get('token', '')}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/metrics", headers=token)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    def let_scale(self, most: int) -> None:
        """From here on our policy says how many replicas there are, up to so many."""
        policy = {"policy_function": "dia2stream.cluster.scaling:BySlots", "policy_kwargs": {"target": 0.7}}
        quick = {"upscale_delay_s": 1.0, "metrics_interval_s": 1.0, "look_back_period_s": 2.0}
        self._apply(wait=False, autoscaling={"max_replicas": most, "policy": policy, **quick})

    def _apply(self, wait: bool, autoscaling: dict[str, Any] | None = None) -> None:
        """What `serve deploy` does with a serve.yaml."""
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ServeDeploySchema

        count = {"min_replicas": self._replicas, "max_replicas": self._replicas}
        speech = {"name": "Speech", "autoscaling_config": count | (autoscaling or {})}
        application = {"name": "speech", "import_path": "dia2stream.cluster.ray:app", "deployments": [speech]}
        told = {"applications": [{**application, "args": self._arguments}]}
        _get_global_client().deploy_apps(ServeDeploySchema(**told))
        if wait:
            until(lambda: self.running == self._replicas, "the replicas are not there", 4 * PATIENCE)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._port}"

    @property
    def running(self) -> int:
        """Replicas that clients get."""
        return self.states().get("RUNNING", 0)

    def states(self) -> dict[str, int]:
        """How many replicas are in which state, by Ray's names."""
        from ray import serve

        deployments = serve.status().applications["speech"].deployments
        return (
            {str(state): int(many) for state, many in deployments["Speech"].replica_states.items()}
            if deployments
            else {}
        )

    def kill(self) -> None:
        os.kill(self._processes()[0], signal.SIGKILL)

    def stop(self) -> None:
        self._replicas -= 1
        self._apply(wait=False)

    def add(self) -> None:
        self._replicas += 1
        self._apply(wait=False)

    def _processes(self) -> list[int]:
        """The replicas' processes, the oldest first."""
        ours = []
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                title = Path("/proc", pid, "cmdline").read_bytes()
                if title.startswith(b"ray::ServeReplica:speech:Speech") and _is_below(int(pid), os.getpid()):
                    ours.append(int(pid))
        return sorted(ours)

    def close(self) -> None:
        import ray

        ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)


def _is_below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1])
    return False


# ---- What befalls them ----


async def trouble(fleet: Fleet, seconds: float) -> None:
    """One server is stopped, one is killed, one is added, so many seconds apart."""
    for act in (fleet.stop, fleet.kill, fleet.add):
        await asyncio.sleep(seconds)
        await asyncio.to_thread(act)


async def through_trouble(fleet: Fleet, calls: int, words: int, every: float, **options: Any) -> list[Call]:
    """So many calls while servers come and go."""
    troubling = asyncio.create_task(trouble(fleet, every))
    try:
        made = await several(fleet.url, calls, words, seconds=2 * every, **options)
        await troubling
        return made
    finally:
        troubling.cancel()


async def by_turns(urls: dict[str, str], rounds: int, words: int) -> dict[str, list[Call]]:
    """Single calls, one way after the other, so that each meets the same machine."""
    made: dict[str, list[Call]] = {name: [] for name in urls}
    for number in range(rounds):
        for name, url in urls.items():
            made[name].append(await call(url, text_of(words, number), number))
    return made


@contextlib.contextmanager
def opened(kind: str, folder: Path, journal: str, servers: int = 3, slots: int = 24, **flags: Any) -> Iterator[Any]:
    """A fleet of that kind, `ray` or `haproxy`."""
    fleet: Any
    if kind == "ray":
        fleet = RayFleet(servers, slots, journal, **flags)
    else:
        fleet = ProxyFleet(folder, servers, servers + 1, slots, journal)
    try:
        yield fleet
    finally:
        fleet.close()


def main() -> None:
    """Prints a row of figures for each way to a server."""
    from test_journal import redis_running

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--over", default="ray,haproxy")
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--calls", type=int, default=24)
    parser.add_argument("--words", type=int, default=60)
    parser.add_argument("--every", type=float, default=5.0)
    parser.add_argument("--turns", type=int, default=20, help="single calls over each way, before the trouble")
    told = parser.parse_args()

    def show(kind: str, over: str, calls: list[Call]) -> None:
        figures = {name: round(value, 1) for name, value in row(calls).items()}
        print(json.dumps({"what": kind, "over": over, **figures}), flush=True)

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        journal, _ = stack.enter_context(redis_running(folder))
        steady = {"max_lead_ms": 240}  # frames come as they are played, so that their jitter can be seen
        direct = stack.enter_context(Serve(**{**MODEL, "slots": 24, "journal": journal, **steady}))
        fleets = {
            kind: stack.enter_context(opened(kind, folder, journal, told.servers, **(steady if kind == "ray" else {})))
            for kind in told.over.split(",")
        }
        urls = {"direct": direct.url, **{kind: fleet.url for kind, fleet in fleets.items()}}
        for over, calls in asyncio.run(by_turns(urls, told.turns, 10)).items():
            show("single calls by turns", over, calls)
        for over, fleet in fleets.items():
            if told.calls:
                calls = asyncio.run(through_trouble(fleet, told.calls, told.words, told.every))
                show("stop, kill, add", over, calls)


if __name__ == "__main__":
    main()
