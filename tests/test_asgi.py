"""The server as an ASGI application, driven as uvicorn and Ray Serve drive one."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from serving import SHORT, on_loop

from dia2stream.options import ModelOptions, ServeOptions, SpeechOptions
from dia2stream.protocol.messages import Start, dump_command
from dia2stream.server.asgi import TOO_LONG, Application
from dia2stream.server.server import Server

TINY = ModelOptions(model="random:tiny", device="cpu")


class Driver:
    """The other side of an ASGI application: what it is sent, and what it sends."""

    def __init__(self, application: Application, scope: dict[str, Any]) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.outgoing: asyncio.Queue[Any] = asyncio.Queue()
        self.task = asyncio.create_task(application(scope, self.incoming.get, self.outgoing.put))

    def tell(self, kind: str, **more: Any) -> None:
        self.incoming.put_nowait({"type": kind, **more})

    async def next(self) -> Any:
        return await asyncio.wait_for(self.outgoing.get(), 60)


def websocket(application: Application, query: str = "", **headers: str) -> Driver:
    named = [(name.encode(), value.encode()) for name, value in {"host": "127.0.0.1", **headers}.items()]
    scope = {"type": "websocket", "path": "/", "query_string": query.encode(), "headers": named, "subprotocols": []}
    driver = Driver(application, {**scope, "root_path": "", "extensions": {"websocket.http.response": {}}})
    driver.tell("websocket.connect")
    return driver


@contextlib.asynccontextmanager
async def living(**options: Any) -> AsyncIterator[tuple[Application, Driver]]:
    """An application whose lifespan has begun, and ends with the block."""
    told = ServeOptions(**options)
    application = Application(Server(TINY, SpeechOptions(), told), told)
    life = Driver(application, {"type": "lifespan"})
    life.tell("lifespan.startup")
    assert await life.next() == {"type": "lifespan.startup.complete"}
    yield application, life
    life.tell("lifespan.shutdown")
    assert await life.next() == {"type": "lifespan.shutdown.complete"}
    await life.task


async def status(application: Application, path: str) -> int:
    scope = {"type": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "method": "GET"}
    asked = Driver(application, {**scope, "headers": [(b"host", b"127.0.0.1")], "root_path": "", "scheme": "http"})
    asked.tell("http.request", body=b"", more_body=False)
    return int((await asked.next())["status"])


@on_loop
async def test_its_lifespan_is_the_servers_life():
    async with living() as (application, _):
        assert await status(application, "/readyz") == 200
        assert await status(application, "/metrics") == 200
        client = websocket(application)
        assert (await client.next())["type"] == "websocket.accept"
        client.tell("websocket.receive", text=dump_command(Start(SHORT, seed=1)))
        kinds = []
        while "done" not in kinds:
            message = await client.next()
            kinds.append(json.loads(message["text"])["event"] if message.get("text") else "audio")
        assert {"ready", "started", "first_audio", "word", "audio"} <= set(kinds)
        client.tell("websocket.disconnect", code=1000)
        await client.task
        application.stop()
        while await status(application, "/readyz") != 503:
            await asyncio.sleep(0.01)


@on_loop
async def test_a_client_without_the_token_is_refused_before_the_handshake():
    async with living(token="secret") as (application, _):
        client = websocket(application)
        assert (await client.next())["status"] == 401
        await client.task
        client = websocket(application, authorization="Bearer secret")
        assert (await client.next())["type"] == "websocket.accept"
        client.tell("websocket.disconnect", code=1000)
        await client.task


@pytest.mark.parametrize("message", [{"text": "é" * 600}, {"bytes": b"x" * 1025}])
def test_a_message_over_the_limit_closes_the_connection(message):
    @on_loop
    async def flood() -> None:
        async with living(max_message_bytes=1024) as (application, _):
            client = websocket(application)
            await client.next()
            client.tell("websocket.receive", **message)
            while (said := await client.next())["type"] != "websocket.close":
                pass
            assert said["code"] == TOO_LONG
            assert "1024 bytes" in said["reason"]
            await client.task

    flood()


@on_loop
async def test_a_model_that_is_not_there_fails_the_start():
    told = ServeOptions()
    application = Application(Server(ModelOptions(model="nowhere/at/all"), SpeechOptions(), told), told)
    life = Driver(application, {"type": "lifespan"})
    life.tell("lifespan.startup")
    failed = await life.next()
    assert failed["type"] == "lifespan.startup.failed"
    assert "nowhere" in failed["message"]
