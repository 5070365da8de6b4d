"""The dashboard and the alerts: promtool's checks, and every query run by a real Prometheus that asks a real server."""

import asyncio
import contextlib
import json
import math
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from piping import PATIENCE
from serving import SHORT, Serve, free_port, hear, killed
from tools import needs

from dia2stream.client import connect
from dia2stream.errors import CommandError
from dia2stream.options import ServeOptions
from dia2stream.protocol.messages import Error

FOLDER = Path(__file__).parent.parent / "scripts" / "monitoring"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
ALERTS = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TOKEN = "a secret"


def queries() -> Iterator[tuple[str, str]]:
    """Every query of the dashboard and the alerts, with a name of its own.

    Grafana's variables are filled in. An alert's expression is taken without its limit: it has to be about something.
    """
    for panel in PANELS:
        for target in panel["targets"]:
            filled = target["expr"].replace("$__rate_interval", "30s").replace("$job", ".*").replace("$instance", ".*")
            assert "$" not in filled
            yield f"{panel['title']}: {target['refId']}", filled
    for alert in ALERTS:
        value, limits = re.subn(r" (==|>=|<|>) [0-9.]+$", "", alert["expr"].strip())
        assert limits == 1
        yield alert["alert"], value


# ---- The files ----


@needs("promtool")
def test_the_alerts_fire_when_they_should_and_only_then():
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts-test.yml"]):
        done = subprocess.run(["promtool", *command], cwd=FOLDER, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires_and_says_what_to_do():
    cases = (FOLDER / "alerts-test.yml").read_text(encoding="utf-8")
    for alert in ALERTS:
        assert f'ALERTS{{alertname="{alert["alert"]}", alertstate="firing"' in cases
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert set(alert["annotations"]) == {"summary", "description"}


def test_the_panels_have_ids_of_their_own_say_what_they_show_and_lie_beside_each_other():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in PANELS:
        assert panel["description"].endswith(".")
        assert panel["targets"]


def test_the_configuration_asks_the_servers_of_the_compose_file():
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    compose = yaml.safe_load((FOLDER.parent / "compose.yaml").read_text(encoding="utf-8"))
    [job] = config["scrape_configs"]
    [targets] = job["static_configs"]
    servers = [name for name in compose["services"] if name.startswith("server")]
    assert targets["targets"] == [f"{name}:{ServeOptions.port}" for name in servers]
    assert config["rule_files"] == ["alerts.yml"]


# ---- A real Prometheus ----


class Prometheus:
    """One that asks a server each second, with the project's configuration otherwise."""

    def __init__(self, folder: Path, target: str) -> None:
        for file in ("prometheus.yml", "alerts.yml"):
            shutil.copyfile(FOLDER / file, folder / file)
        (folder / "token").write_text(TOKEN)
        config = yaml.safe_load((folder / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/api/v1"
        flags = {"config.file": folder / "prometheus.yml", "storage.tsdb.path": folder / "data", "log.level": "warn"}
        flags["web.listen-address"] = f"127.0.0.1:{port}"
        arguments = [f"--{name}={value}" for name, value in flags.items()]
        self.process = subprocess.Popen(["prometheus", *arguments], stderr=subprocess.DEVNULL)

    def ask(self, path: str, **query: str) -> Any:
        address = f"{self.url}/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            return json.load(answer)["data"]

    def values(self, query: str) -> list[float]:
        """What a query gives now, without what is no number."""
        try:
            found = self.ask("query", query=query)["result"]
        except OSError:  # it has not started yet
            return []
        values = [float(sample["value"][1]) for sample in found]
        return [value for value in values if math.isfinite(value)]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


async def calls(url: str) -> None:
    """Two clients are served, one is refused, and one sends what is no command."""
    one, two = [await connect(url, token=TOKEN) for _ in range(2)]
    with pytest.raises(CommandError, match="slot"):
        await connect(url, token=TOKEN)
    for client in (one, two):
        await client.start(SHORT, seed=1)
        await hear(client)
    await one.socket.send("nonsense")
    await hear(one, Error)
    for client in (one, two):
        await client.hang_up()


@needs("prometheus")
def test_every_query_has_an_answer_once_a_server_has_had_callers(tmp_path: Path) -> None:
    with Serve(token=TOKEN, slots=2, journal=tmp_path / "journal") as server:
        prometheus = Prometheus(tmp_path, f"127.0.0.1:{server.port}")
        with killed(prometheus.process):
            wait_for(lambda: prometheus.values("dia2stream_ready") == [1.0])
            asyncio.run(asyncio.wait_for(calls(server.url), PATIENCE))
            unanswered = dict(queries())

            def answered() -> bool:
                for name, query in list(unanswered.items()):
                    if prometheus.values(query):
                        del unanswered[name]
                return not unanswered

            with contextlib.suppress(AssertionError):
                wait_for(answered)
            assert unanswered == {}
            [group] = prometheus.ask("rules")["groups"]
            assert {rule["name"] for rule in group["rules"]} == {alert["alert"] for alert in ALERTS}
            assert {rule["health"] for rule in group["rules"]} == {"ok"}
            assert prometheus.values("sum(dia2stream_refusals_total)") == [1.0]
