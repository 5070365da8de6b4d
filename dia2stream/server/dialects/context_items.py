"""What a context gives: its sound, its words, and how it ends. See contexts.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dia2stream.errors import CommandError
from dia2stream.protocol.messages import Command


@dataclass(frozen=True)
class Audio:
    """80 ms of a context's sound, float32 [1920] in -1..1."""

    context: str
    pcm: NDArray[np.float32]


@dataclass(frozen=True)
class Word:
    """A word, ahead of its sound. word: as it stands in the context's text, from text_start to text_end. In ms of the
    context's own sound."""

    context: str
    word: str
    start_ms: int
    end_ms: int
    text_start: int
    text_end: int


@dataclass(frozen=True)
class Flushed:
    """All text up to this flush has been spoken. number: from 1."""

    context: str
    number: int


@dataclass(frozen=True)
class Finished:
    """A context's last sample has been sent. audio_ms: of its sound. text: all that was spoken."""

    context: str
    audio_ms: int
    text: str


@dataclass(frozen=True)
class Interrupted:
    """A context was cancelled. heard_ms: of its sound; spoken, remaining: its text before and after that, as given."""

    context: str
    heard_ms: int
    spoken: str
    remaining: str


@dataclass(frozen=True)
class Failed:
    """The conversation refused a context's text; the context is gone. context: None when it cannot be told which."""

    context: str | None
    error: CommandError


ContextItem: TypeAlias = Audio | Word | Flushed | Finished | Interrupted | Failed

# What comes of a client's wish or of an item: commands for the conversation, and what the client is told.
Turned: TypeAlias = Command | ContextItem
