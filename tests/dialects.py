"""A client of a wire format and a conversation, driven by hand: the translator between them does no I/O, and so do we.

The conversation is a real one over the toy model of conversations.py. Its frames have 1,920 samples here, as the
encoders expect. Time is the listener's: a frame takes 80 ms of it to play.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from conversations import Rig, toy, toy_voice

from dia2stream.errors import CommandError
from dia2stream.items import Frame, Item
from dia2stream.protocol.messages import Command, Inject, Pause, Start, error_event
from dia2stream.server.dialects.dialect import Close, Output, Request, Response, Served, Standing, Translator

SERVED = Served("nari-labs/Dia2-2B", ("anna", "bob"), 1_790_000_000)
FRAME_BYTES = 3840


def request(
    body: Mapping[str, object] | bytes = b"",
    *,
    path: str = "/",
    path_values: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
    **headers: str,
) -> Request:
    """A request; the body may be an object."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(path, query or {}, named, path_values or {}, data)


def speaker() -> Rig:
    """A conversation of the server that SERVED is."""
    return toy(voices={name: toy_voice(seed=seed) for seed, name in enumerate(SERVED.voices)})


class Client:
    """What a client sends goes into `send`; what it gets is in `got`, until `close` says how that ended."""

    def __init__(self, translator: Translator, rig: Rig | None = None, standing: Standing | None = None) -> None:
        self.translator = translator
        self.rig = rig or speaker()
        self.now = 1000.0
        self.commands: list[Command] = []
        self.got: list[str | bytes] = []
        self.close: Close | None = None
        self.answer: Response | None = None
        self.sent = 0
        self._do(translator.begin(standing or Standing(), self.now))

    def send(self, *messages: object) -> "Client":
        """JSON, or text as it is."""
        for message in messages:
            text = message if isinstance(message, str | bytes) else json.dumps(message)
            self._do(self.translator.receive(text, self.now))
        return self

    def run(self, frames: int | None = None) -> "Client":
        """Steps and takes until so many more frames have been sent, or nothing more is to come."""
        until = None if frames is None else self.sent + frames
        while not self.over and (until is None or self.sent < until):
            item = self._next()
            if item is None:
                assert until is None, f"{until - self.sent} frames and nothing more to come"
                break
            self._take(item)
        return self

    def run_up_to(self, frames: int) -> "Client":
        """The same, and it is well if there is not so much to come."""
        until = self.sent + frames
        while not self.over and self.sent < until and (item := self._next()) is not None:
            self._take(item)
        return self

    def answers(self) -> "Client":
        """Takes the answers to commands, and no step is made."""
        while isinstance(item := self.rig.conversation.take(self.now, answers_only=True), Item):
            self._take(item)
        return self

    def wait(self, seconds: float) -> "Client":
        """Time passes, in which the client is silent."""
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self._do(self.translator.look(self.now))
        return self

    def leave(self) -> "Client":
        """The client is gone."""
        self._do(self.translator.leave(self.now))
        return self

    @property
    def over(self) -> bool:
        """Whether the translator has ended it."""
        return self.close is not None or self.answer is not None

    @property
    def messages(self) -> list[Any]:
        """The text messages that came."""
        return [json.loads(message) for message in self.got if isinstance(message, str)]

    @property
    def data(self) -> bytes:
        """The binary messages, or the body, in one."""
        return b"".join(message for message in self.got if isinstance(message, bytes))

    @property
    def events(self) -> list[Any]:
        """The server-sent events of a body."""
        lines = self.data.decode().splitlines()
        return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]

    def of(self, type: str, key: str = "type") -> list[Any]:
        """The text messages of a type."""
        return [message for message in self.messages if message.get(key) == type]

    @property
    def texts(self) -> list[str]:
        """The text that the conversation was given, in the pieces it was given in."""
        return [command.text for command in self.commands if isinstance(command, Start | Inject)]

    @property
    def pauses(self) -> list[float | None]:
        """Where the conversation was told to stand still."""
        return [command.played_ms for command in self.commands if isinstance(command, Pause)]

    def _next(self) -> Item | None:
        while True:
            item = self.rig.conversation.take(self.now)
            if isinstance(item, float):
                self.now += item
            elif item is not None:
                return item
            elif not self.rig.step():
                return None

    def _take(self, item: Item) -> None:
        if isinstance(item, Frame):
            self.sent += 1
            item = Frame(np.repeat(item.pcm, 640))
        self.rig.items.append(item)
        self._do(self.translator.take(item, self.now))

    def _do(self, outputs: list[Output]) -> None:
        for output in outputs:
            assert (self.close, self.answer) == (None, None), f"{output!r} after the end"
            if isinstance(output, Close):
                self.close = output
            elif isinstance(output, Response):
                assert not self.got
                self.answer = output
            elif isinstance(output, str | bytes):
                self.got.append(output)
            else:
                self._command(output)

    def _command(self, command: Command) -> None:
        self.commands.append(command)
        self.rig.now = self.now
        try:
            self.rig.do(command)
        except CommandError as error:
            self.rig.conversation.outbox.answer(error_event(error))


def refusal(call: Callable[[], object]) -> CommandError:
    """The error that a call raises."""
    try:
        outcome = call()
    except CommandError as error:
        return error
    raise AssertionError(f"no error but {outcome!r}")


def spoken(translator: Translator | Response, rig: Rig | None = None) -> Client:
    """A request that is answered by speech, to its end."""
    assert isinstance(translator, Translator)
    return Client(translator, rig).run()
