"""HTTP beside the WebSocket: who may come in, what is told to whom, and an answer to every request."""

import json
import re
from dataclasses import asdict

import pytest
from serving import (
    HANDSHAKE,
    NEVER_LOADED,
    SHORT,
    Serve,
    dialled,
    hear,
    on_loop,
    rest,
    take_slot,
)
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dia2.model.sampling import SamplingDefaults
from dia2stream.client import connect
from dia2stream.errors import CommandError
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import (
    parse_event,
)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01 and so on\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\nUpgrade: websocket\r\nConnection: close\r\n\r\n", b"426"),
        (HANDSHAKE.replace(b"Host:", b"Upgrade: websocket\r\nHost:"), b"426"),
        (HANDSHAKE.replace(b"Host:", b"Origin: http://z\r\nHost:"), b"403"),
        (HANDSHAKE.replace(b"Host:", b"Host: y\r\nHost:"), b"400"),
        (HANDSHAKE.replace(b"13", b"12"), b"400"),
        (b"GET /?token=%ff&&=;%zz HTTP/1.0\r\nAuthorization: Bearer\r\nAuthorization: x y z\r\n\r\n", b"200"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"414"),
    ],
)
def test_no_request_brings_out_a_traceback(server, request_, status):
    with dialled(server) as raw:
        raw.sendall(request_)
        assert status in rest(raw)[:12]
    for begun in range(0, 40, 8):
        with dialled(server) as raw:
            raw.sendall(request_[:begun])


def test_the_port_is_open_before_the_model_is_there_and_says_how_far_it_is():
    with Serve(wait=False, before=NEVER_LOADED) as starting:
        assert starting.get("/ping")[0] == 204
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
    assert server.get("/healthz")[:2] == server.get("/readyz")[:2] == server.get("/ping")[:2] == (200, "ok\n")
    status, page, headers = server.get("/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    for name in re.findall(r'(?:src|href)="(\w[\w.]*)"', page):
        assert server.get(f"/{name}")[0] == 200
    assert "AudioWorkletProcessor" in server.get("/client.js")[1]
    assert "//cdn" not in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert server.get("/nothing")[0] == 404
    assert server.get("/healthz", method="HEAD")[:2] == (200, "")
    assert server.get("/", method="DELETE")[0] == 405


def test_what_speaks_can_be_asked_before_a_client_connects(server):
    status, said, headers = server.get("/info")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    about = json.loads(said)
    assert (about["loading"], about["model"], about["voices"], about["slots"]) == (None, "random:tiny", [], 1)
    assert about["settings"] == asdict(SamplingDefaults())


def test_pages_of_other_sites_may_use_the_client_and_its_types(guarded):
    for path in ("/client.js", "/protocol.d.ts", "/protocol.schema.json"):
        status, _, headers = guarded.get(path, Origin="https://a.example")
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, "*")


@on_loop
async def test_metrics_count_what_happens(server):
    names = [
        "dia2stream_conversations_total",
        "dia2stream_busy_total",
        'dia2stream_errors_total{code="bad_json"}',
        "dia2stream_first_audio_seconds_count",
        "dia2stream_frame_seconds_count",
        "dia2stream_frames_total",
        'dia2stream_refusals_total{reason="slots"}',
        "dia2stream_model_seconds_total",
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
    assert grown[4] == grown[5] == frames  # one frame a step, as there is one conversation
    assert grown[6] >= 1
    assert grown[7] > 0
    # A pass over the columns of a lead-in counts once as a batch, and its columns as steps.
    assert 0 < server.metric('dia2stream_batch_size_bucket{le="1.0"}') <= server.metric("dia2stream_steps_total")
    for gauge in ("real_time_factor", "slots"):
        assert server.metric(f"dia2stream_{gauge}") > 0
    for gauge in (
        "lead_seconds",
        "starting",
        "speaking",
        "margin_seconds",
        "queue_frames",
        "queue_words",
        "rollovers_total",
        "lingering",
    ):
        assert f"\ndia2stream_{gauge} " in server.get("/metrics")[1]
    assert server.metric("process_resident_memory_bytes") > 1e7


@pytest.mark.parametrize("token", [None, "", "wrong", "s3cret", "s3cret é "])
@on_loop
async def test_without_the_token_a_program_gets_401_and_a_browser_an_event_and_4401(guarded, token):
    query = "" if token is None else f"?token={token.replace(' ', '%20')}x"
    with pytest.raises(InvalidStatus) as refused:
        await open_websocket(f"{guarded.url}/{query}")
    assert refused.value.response.status_code == 401
    assert parse_event(refused.value.response.body).code == "unauthorized"
    page = {"Origin": f"http://127.0.0.1:{guarded.port}"}
    async with open_websocket(f"{guarded.url}/{query}", additional_headers=page) as client:
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
    for path in ("/", "/metrics", "/info"):
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


# --- hosts ---


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8765", 200),
        ("192.168.1.7", 200),
        ("[::1]:8765", 200),
        ("localhost:80", 200),
        ("LOCALHOST.", 200),
        ("", 200),
        ("rebound.example", 421),
        ("127.0.0.1.rebound.example:80", 421),
        ("localhost.rebound.example", 421),
        ("dead::beef", 421),
    ],
)
def test_without_a_token_only_hosts_that_nobody_else_can_own_are_served(server, host, status):
    """A page of rebound.example, whose name was made to point here, has this server for its own origin."""
    told = []
    for request in (b"GET / HTTP/1.1\r\n", b"GET /metrics HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nContent-Length: 0\r\n"):
        origin = f"Origin: http://{host}\r\n".encode() if host else b""
        told.append(said(server, request + f"Host: {host}\r\n".encode() + origin + b"Connection: close\r\n\r\n"))
    assert [answer[9:12] for answer in told[:2]] == [str(status).encode()] * 2
    assert told[2][9:12] == (b"405" if status == 200 else b"421")
    handshake = HANDSHAKE.replace(b"Host: 127.0.0.1", f"Host: {host}\r\nOrigin: http://{host}".encode())
    answer = said(server, handshake.replace(b"GET /", b"GET /?encoding=none"))
    assert answer[9:12] == {200: b"101" if host else b"403", 421: b"421"}[status]
    if status == 421:
        assert b"--allow-host" in answer
    assert said(server, f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())[9:12] == b"200"


def said(server, request: bytes) -> bytes:
    """What a request is answered; of a WebSocket no more than the handshake."""
    with dialled(server) as raw:
        raw.sendall(request)
        return raw.recv(1 << 16) if b"websocket" in request else rest(raw)


def test_a_request_without_a_host_is_no_page(server):
    for path in ("/readyz", "/"):
        assert said(server, f"GET {path} HTTP/1.0\r\n\r\n".encode())[9:12] == b"200"


def test_with_a_token_or_a_list_other_names_are_served(guarded):
    assert guarded.get("/?token=s3cret%20%C3%A9", Host="any.example")[0] == 200
    with Serve(wait=False, allow_host="speech.example, b.example:8765") as listed:
        for host, status in (
            ("speech.example", 200),
            ("SPEECH.example:99", 200),
            ("b.example:8765", 200),
            ("b.example:1", 421),
            ("a.speech.example", 421),
        ):
            assert listed.get("/", Host=host)[0] == status
    with Serve(wait=False, allow_host="*") as open_to_all:
        assert open_to_all.get("/", Host="any.example")[0] == 200


# --- the log ---


def test_no_malformed_request_is_logged_with_its_content_or_by_more_than_a_line(guarded):
    before = len(guarded.log)
    for request in (b"GET\r\n\r\n", b"GET /?token=s3cret HTTP/1.1\r\nno\r\n\r\n", HANDSHAKE.replace(b"13", b"s3cret")):
        for _ in range(100):
            with dialled(guarded) as raw:
                raw.sendall(request)
                assert b"HTTP/1.1 4" in rest(raw)
    assert guarded.log[before:] == []


def test_the_log_is_json_and_holds_no_token(guarded):
    lines = [json.loads(line) for line in guarded.log]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    assert "s3cret" not in "".join(guarded.log)
