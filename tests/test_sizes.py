"""Sizes of commands and events: no less than what a client has sent, and about what Python takes."""

import tracemalloc

import pytest

from dia2stream.protocol.fields import HeardWord
from dia2stream.protocol.messages import (
    Inject,
    Listen,
    Paused,
    Resume,
    Start,
    dump_command,
    dump_event,
    parse_command,
    parse_event,
)
from dia2stream.protocol.sizes import size_of

WORDS = tuple(HeardWord("an utterance", place, place + 5, True) for place in range(300, 3300))


@pytest.mark.parametrize(
    "message",
    [
        Inject("x" * 20_000),
        Inject("\U0001f600" * 20_000),
        Listen("AAAA" * 50_000),
        Listen("AAAA" * 100, words=tuple((f"word {n}", 0.1, 0.2) for n in range(1000))),
        Start("Hi", say={f"w{n}": "x" * 200 for n in range(1000)}),
        Paused(5, "x" * 9000, "y" * 9000, WORDS),
    ],
)
def test_a_size_is_about_the_memory_that_a_message_takes(message):
    command = not isinstance(message, Paused)
    text = dump_command(message) if command else dump_event(message)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        read = parse_command(text) if command else parse_event(text)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.5 * taken < size_of(read) < 2 * taken + 1000


def test_a_message_without_anything_takes_some_memory_too():
    assert 50 < size_of(Resume()) < 500
