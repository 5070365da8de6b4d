"""What a cluster of servers decides, without Ray: who gets a client, how many replicas, one scrape of many."""

import asyncio
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dia2stream.cluster import members
from dia2stream.cluster.arrivals import Arrivals
from dia2stream.cluster.choice import SILENT_SECONDS, Choice
from dia2stream.cluster.scaling import BySlots, replicas_for
from dia2stream.cluster.scrapes import together
from dia2stream.cluster.settings import of_the_server, read
from dia2stream.errors import Dia2StreamError
from dia2stream.server.holds import arrived

REPORTS = st.dictionaries(
    st.sampled_from("abcdef"),
    st.tuples(st.integers(0, 9), st.integers(1, 9)).map(lambda two: {"free": min(two), "slots": two[1]}),
    min_size=1,
)

# ---- Who gets a client ----


@given(REPORTS)
def test_a_full_replica_comes_behind_every_other_and_the_least_loaded_first(reports):
    order = Choice(lambda: 0.0).order(reports)
    assert sorted(order) == sorted(reports)
    free = [reports[name]["free"] / reports[name]["slots"] for name in order]
    assert free == sorted(free, reverse=True)


class Replica:
    """What a replica tells a router, and which slots it keeps."""

    def __init__(self, slots: int, taken: int = 0) -> None:
        self.slots, self.taken, self.turn = slots, taken, 1

    @property
    def report(self) -> dict[str, int]:
        return {"slots": self.slots, "free": self.slots - self.taken, "turn": self.turn}

    def keep_slot(self) -> tuple[bool, dict[str, int]]:
        kept = self.taken < self.slots
        self.taken, self.turn = self.taken + kept, self.turn + kept
        return kept, self.report


def sent(choice: Choice, replicas: dict[str, Replica], reports: dict[str, dict[str, int]]) -> str | None:
    """Which replica keeps a slot for one client; None where all are full."""
    for name in choice.order(reports):
        with choice.asking(name):
            kept, report = replicas[name].keep_slot()
        choice.told(name, report)
        if kept:
            return name
    return None


@given(REPORTS)
def test_clients_whose_questions_are_on_their_way_fill_every_slot_before_a_replica_gets_one_too_many(reports):
    choice, got = Choice(lambda: 0.0), dict.fromkeys(reports, 0)
    with ExitStack() as questions:
        for _ in range(sum(report["free"] for report in reports.values())):
            name = choice.order(reports)[0]
            questions.enter_context(choice.asking(name))
            got[name] += 1
    assert got == {name: report["free"] for name, report in reports.items()}


@given(st.lists(st.integers(0, 3), min_size=52, max_size=52), st.integers(1, 60))
def test_however_old_the_reports_are_clients_are_spread_and_no_free_slot_is_missed(whose_report_comes, others):
    """Between two clients one replica's report arrives, or none does for seconds; another router sends clients too."""
    choice, other = Choice(lambda: 0.0), Choice(lambda: 0.0)
    replicas = {name: Replica(24) for name in "abc"}
    reports = {name: replica.report for name, replica in replicas.items()}
    for number, who in enumerate(whose_report_comes):
        assert sent(choice, replicas, reports) is not None
        if number < others and sum(replica.taken for replica in replicas.values()) < 72 - 52:
            assert sent(other, replicas, reports) is not None
        if who < 3:
            reports["abc"[who]] = replicas["abc"[who]].report
    taken = [replica.taken for replica in replicas.values()]
    assert max(taken) - min(taken) <= 12, taken
    while sum(replica.taken for replica in replicas.values()) < 72:
        assert sent(choice, replicas, reports) is not None
    assert sent(choice, replicas, reports) is None


def test_an_answer_counts_until_a_newer_report_comes():
    choice = Choice(lambda: 0.0)
    reports = {"a": {"free": 8, "slots": 8, "turn": 3}, "b": {"free": 4, "slots": 8, "turn": 1}}
    choice.told("a", {"free": 1, "slots": 8, "turn": 7})
    assert choice.order(reports) == ["b", "a"]
    reports["a"] = {"free": 7, "slots": 8, "turn": 6}  # was told before, and took longer to get here
    assert choice.order(reports) == ["b", "a"]
    reports["a"] = {"free": 7, "slots": 8, "turn": 8}
    assert choice.order(reports) == ["a", "b"]


def test_a_replica_that_does_not_answer_is_asked_last_for_a_while():
    now = 0.0
    choice = Choice(lambda: now)
    reports = {"a": {"free": 8, "slots": 8, "turn": 1}, "b": {"free": 1, "slots": 8, "turn": 1}}
    choice.silent("a")
    assert choice.order(reports) == ["b", "a"]
    now = SILENT_SECONDS + 0.1
    assert choice.order(reports) == ["a", "b"]
    choice.keep(["b"])
    assert choice.order({"b": reports["b"]}) == ["b"]


def test_a_replica_that_has_not_reported_yet_gets_one_client():
    choice = Choice(lambda: 0.0)
    reports = {"new": {}, "old": {"free": 3, "slots": 4, "turn": 1}}
    assert choice.order(reports)[0] == "new"
    with choice.asking("new"):
        assert choice.order(reports)[0] == "old"
    assert choice.order(reports)[0] == "new"


# ---- Who arrives ----


class Kept:
    """A server that keeps a slot for each of these requests."""

    def __init__(self, *requests: str) -> None:
        self.requests = set(requests)
        self.seen: list[tuple[str | None, set[str]]] = []

    def let_go(self, request: str) -> None:
        self.requests.discard(request)

    async def __call__(self, scope, receive, send) -> None:
        self.seen.append((arrived(), set(self.requests)))


@pytest.mark.parametrize(
    ("kind", "token", "kept"),
    [
        ({"type": "websocket"}, b"secret", True),
        ({"type": "http", "method": "POST"}, b"secret", True),
        ({"type": "http", "method": "GET"}, b"secret", False),
        ({"type": "websocket"}, b"wrong", False),
    ],
)
def test_a_slot_is_kept_for_a_client_with_the_token_until_its_request_has_ended(kind, token, kept):
    server = Kept("mine", "another")
    scope = {**kind, "headers": [(b"authorization", b"Bearer " + token)], "query_string": b""}
    asyncio.run(Arrivals(server, server, "secret", lambda: "mine")(scope, None, None))
    assert server.seen == [("mine", {"mine", "another"} if kept else {"another"})]
    assert server.requests == {"another"}
    assert arrived() is None


# ---- Who is stopped ----


def test_a_replica_is_told_once_when_it_is_no_longer_in_the_list():
    told = []
    members.watch("mine", lambda: told.append("gone"))
    members.listed([])  # it is not there yet
    members.listed(["other", "mine"])
    members.listed(["mine"])
    assert told == []
    members.listed(["other"])
    members.listed([])
    assert told == ["gone"]


# ---- How many ----


@given(st.integers(0, 10_000), st.integers(1, 256), st.floats(0.1, 1.0))
def test_replicas_hold_the_target_and_none_is_too_many(conversations, slots, target):
    count = replicas_for(conversations, slots, target)
    assert conversations <= count * slots * target + 1e-6
    assert count == 1 or conversations > (count - 1) * slots * target


def test_the_policy_counts_all_replicas_and_waits_for_the_first_report():
    def context(**metrics):
        return SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=3)

    policy = BySlots(0.7)
    assert policy(context())[0] == 3
    assert policy(context(taken={"a": 5, "b": 6}, slots={"a": 8, "b": 8}))[0] == 2
    assert policy(context(taken={"a": 8, "b": 8}, slots={"a": 8, "b": 8}))[0] == 3


# ---- Metrics ----


def test_one_scrape_of_many_has_every_sample_with_its_replica():
    texts = {}
    for replica in ("one", "two"):
        registry = CollectorRegistry()
        Counter("calls", "Calls", ["why"], registry=registry).labels('a "b" } c').inc()
        Histogram("wait_seconds", "Wait", registry=registry).observe(0.3)
        texts[replica] = generate_latest(registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(together(texts))}
    alone = {family.name: family for family in text_string_to_metric_families(texts["one"])}
    assert families.keys() == alone.keys()
    for name, family in alone.items():
        samples = families[name].samples
        assert {sample.labels["replica"] for sample in samples} == {"one", "two"}
        assert len(samples) == 2 * len(family.samples)
        mine = [({**s.labels, "replica": "one"}, s.name, s.value) for s in family.samples if "created" not in s.name]
        assert [m for m in mine if m not in [(s.labels, s.name, s.value) for s in samples]] == []


# ---- Settings ----


def test_a_replica_reads_the_flags_of_serve_from_arguments_and_environment(monkeypatch):
    monkeypatch.setenv("DIA2STREAM_TOKEN", "secret")
    told = read({"model": "random:tiny", "slots": 8, "say": ["a=b", "c=d"], "min_replicas": 2, "journal_fsync": True})
    assert (told.model.model, told.serve.slots, told.speech.say) == ("random:tiny", "8", ("a=b", "c=d"))
    assert (told.serve.token, told.serve.journal_fsync, told.cluster.min_replicas) == ("secret", True, 2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"slots": "many"}, "--slots is 'many': it must be auto, or a number from 1 to 1024"),
        ({"modl": "x"}, "--modl"),
        ({"port": 1}, "port belongs to the port, which is Ray's: see http_options in serve.yaml"),
        ({"min_replicas": 0}, "--min-replicas"),
        ({"token": ""}, "--token is empty"),
    ],
)
def test_an_argument_that_is_none_is_named(arguments, told):
    with pytest.raises(Dia2StreamError) as refused:
        read(arguments)
    assert told in str(refused.value)


def test_what_belongs_to_the_deployment_does_not_restart_replicas():
    assert of_the_server({"slots": 8, "max_replicas": 3, "gpus": 0}) == {"slots": 8}
