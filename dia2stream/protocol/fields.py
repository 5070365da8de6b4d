"""What a field of a command or event may hold, and the line that says so when it does not."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn, Protocol, TypeAlias

from dia2stream.errors import ErrorCode

MAX_TEXT_CHARS = 20_000  # Unicode characters of `text` in one command
MAX_ID_CHARS = 128
MAX_SAY_WORD_CHARS = 60
MAX_SAID_CHARS = 500
MAX_SEED = 2**32 - 1  # exact in every language's JSON numbers, also where they are doubles


Schema: TypeAlias = dict[str, Any]

# As patterns that mean the same in Python and, with the flag u, in JavaScript. `$` would let a newline follow.
_END = r"(?![\s\S])"
_WHOLE_PATTERN = rf"^[^\ud800-\udfff]*{_END}"
_OUTER_HALVES_PATTERN = rf"^[\udc00-\udfff]?[^\ud800-\udfff]*[\ud800-\udbff]?{_END}"
# Whole samples of two bytes: eight letters are three samples.
_SAMPLES_PATTERN = rf"^(?:[A-Za-z0-9+/]{{8}})*(?:[A-Za-z0-9+/]{{3}}=|[A-Za-z0-9+/]{{6}}==)?{_END}"

# --- what a field may hold ---


class Refused(Exception):
    """A value or line that is not acceptable; the caller adds which command or event it was in."""

    def __init__(self, reason: str, code: ErrorCode = "bad_field") -> None:
        super().__init__(reason)
        self.code = code
        self.field: str | None = None


class Rule(Protocol):
    """One field's type and range; str() says them, for error messages."""

    def schema(self) -> Schema:
        """The same as JSON Schema."""
        ...

    def accept(self, value: object) -> object:
        """The value in its final form; raises Refused."""
        ...


@dataclass(frozen=True)
class TextField:
    """Any string."""

    def __str__(self) -> str:
        return "a string"

    def schema(self) -> Schema:
        return {"type": "string"}

    def accept(self, value: object) -> str:
        if not isinstance(value, str):
            _refuse(self, value)
        return value


@dataclass(frozen=True)
class NameField:
    """A short string that is echoed or looked up: any characters, but whole ones."""

    limit: int

    def __str__(self) -> str:
        return f"a string of up to {self.limit} characters"

    def schema(self) -> Schema:
        return {"type": "string", "maxLength": self.limit, "pattern": _WHOLE_PATTERN}

    def accept(self, value: object) -> str:
        if not isinstance(value, str):
            _refuse(self, value)
        if len(value) > self.limit:
            raise Refused(f"must be {self}, not {len(value)}: {shown(value)}")
        _refuse_half_characters(value)
        return value


@dataclass(frozen=True)
class SpeechField:
    """Text to speak. Control characters have no sound and become spaces, so they end a word as whitespace does.

    Escape is kept: the text front end knows the sequences that it begins. Half a surrogate pair may stand at either end
    of a piece, because clients cut text between its halves.
    """

    limit: int

    def __str__(self) -> str:
        return f"a string of up to {self.limit} characters"

    def schema(self) -> Schema:
        return {"type": "string", "maxLength": self.limit, "pattern": _OUTER_HALVES_PATTERN}

    def accept(self, value: object) -> str:
        if not isinstance(value, str):
            _refuse(self, value)
        if len(value) > self.limit:
            reason = f"is {len(value)} characters long; the limit is {self.limit} a command, send the rest with inject"
            raise Refused(reason, "too_long")
        _refuse_half_characters(_OUTER_HALVES.sub("", value))
        return _CONTROL.sub(" ", value)


@dataclass(frozen=True)
class BoolField:
    """true or false."""

    def __str__(self) -> str:
        return "true or false"

    def schema(self) -> Schema:
        return {"type": "boolean"}

    def accept(self, value: object) -> bool:
        if not isinstance(value, bool):
            _refuse(self, value)
        return value


@dataclass(frozen=True)
class WholeField:
    """An integer from low to high. 3.0 is none: an integer that went through a float may have lost digits."""

    low: int
    high: int | None = None

    def __str__(self) -> str:
        return "a whole number " + _range(self.low, self.high)

    def schema(self) -> Schema:
        return {"type": "integer", **_limits(self.low, self.high)}

    def accept(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not _between(value, self.low, self.high):
            _refuse(self, value)
        return value


@dataclass(frozen=True)
class NumberField:
    """A finite number from low to high; with `digits`, rounded to that many decimals."""

    low: int
    high: int | None = None
    digits: int | None = None

    def __str__(self) -> str:
        return "a number " + _range(self.low, self.high)

    def schema(self) -> Schema:
        return {"type": "number", **_limits(self.low, self.high)}

    def accept(self, value: object) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not _between(value, self.low, self.high):
            _refuse(self, value)
        if self.digits is None:
            return value
        return round(value, self.digits) if self.digits else round(value)


@dataclass(frozen=True)
class NamesField:
    """A list of strings, kept as a tuple."""

    def __str__(self) -> str:
        return "a list of strings"

    def schema(self) -> Schema:
        return {"type": "array", "items": {"type": "string"}}

    def accept(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
            _refuse(self, value)
        return tuple(value)


@dataclass(frozen=True)
class ChoiceField:
    """One of a few strings."""

    values: tuple[str, ...]

    def __str__(self) -> str:
        return " or ".join(self.values)

    def schema(self) -> Schema:
        return {"type": "string", "enum": list(self.values)}

    def accept(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.values:
            _refuse(self, value)
        return value


@dataclass(frozen=True)
class SamplesField:
    """Mono PCM16, little-endian, as base64. In Python bytes will do, and become it."""

    def __str__(self) -> str:
        return "base64 of 16-bit little-endian samples"

    def schema(self) -> Schema:
        return {"type": "string", "contentEncoding": "base64", "pattern": _SAMPLES_PATTERN}

    def accept(self, value: object) -> str:
        if isinstance(value, bytes | bytearray | memoryview):
            value = base64.b64encode(value).decode()
        if not isinstance(value, str):
            _refuse(self, value)
        try:
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            _refuse(self, value)
        if len(data) % 2:
            raise Refused(f"must be {self}, not {len(data)} bytes, an odd number")
        return value


@dataclass(frozen=True)
class TimesField:
    """Words with their start and end in seconds, kept as tuples."""

    most: int

    def __str__(self) -> str:
        return f"a list of [word, start, end], in seconds from 0 to {self.most}"

    def schema(self) -> Schema:
        word = {"type": "string", "allOf": [{"pattern": r"\S"}, {"pattern": _WHOLE_PATTERN}]}
        second = {"type": "number", **_limits(0, self.most)}
        item = {"type": "array", "prefixItems": [word, second, second], "items": False, "minItems": 3}
        return {"type": "array", "items": item}

    def accept(self, value: object) -> tuple[tuple[str, float, float], ...]:
        if not isinstance(value, list | tuple):
            _refuse(self, value)
        return tuple(self._word(item, number) for number, item in enumerate(value, start=1))

    def _word(self, item: object, number: int) -> tuple[str, float, float]:
        if isinstance(item, list | tuple) and len(item) == 3:
            word, start, end = item
            numbers = all(isinstance(t, int | float) and not isinstance(t, bool) for t in (start, end))
            if isinstance(word, str) and word.strip() and numbers and 0 <= start <= end <= self.most:
                _refuse_half_characters(word)
                return _CONTROL.sub(" ", word).strip(), float(start), float(end)
        raise Refused(f"must be {self}; item {number} is not one")


@dataclass(frozen=True)
class SayField:
    """How words are said: an object of words and what is said for each."""

    most: int

    def __str__(self) -> str:
        return f"an object of up to {self.most} words and what is said for each"

    def schema(self) -> Schema:
        word = {"maxLength": MAX_SAY_WORD_CHARS, "allOf": [{"pattern": r"^\S+$"}, {"pattern": _WHOLE_PATTERN}]}
        said = {
            "type": "string",
            "maxLength": MAX_SAID_CHARS,
            "allOf": [{"pattern": r"\S"}, {"pattern": _WHOLE_PATTERN}],
        }
        return {"type": "object", "propertyNames": word, "additionalProperties": said, "maxProperties": self.most}

    def accept(self, value: object) -> dict[str, str]:
        if not isinstance(value, Mapping) or len(value) > self.most:
            _refuse(self, value)
        for word, said in value.items():
            if not isinstance(word, str) or not isinstance(said, str):
                _refuse(self, said)
            _refuse_half_characters(word + said)
            if problem := problem_of_pair(word, said):
                raise Refused(f"{shown(word)}: {problem}")
        return dict(value)


@dataclass(frozen=True)
class NumbersField:
    """Numbers by name."""

    def __str__(self) -> str:
        return "an object of numbers"

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": {"type": "number"}}

    def accept(self, value: object) -> dict[str, float]:
        if not isinstance(value, Mapping):
            _refuse(self, value)
        for name, number in value.items():
            if not isinstance(name, str) or isinstance(number, bool) or not isinstance(number, int | float):
                _refuse(self, number)
        return dict(value)


@dataclass(frozen=True)
class HeardField:
    """Words and whether each was heard, kept as tuples of (utterance id, text_start, text_end, heard)."""

    def __str__(self) -> str:
        return "a list of objects with id, text_start, text_end and heard"

    def schema(self) -> Schema:
        places = {"type": "integer", "minimum": 0}
        types = {"id": {"type": "string"}, "text_start": places, "text_end": places, "heard": {"type": "boolean"}}
        return {"type": "array", "items": {"type": "object", "properties": types, "required": [*types]}}

    def accept(self, value: object) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            _refuse(self, value)
        return tuple(self._word(item) for item in value)

    def _word(self, item: object) -> "HeardWord":
        if isinstance(item, HeardWord):
            return item
        if not isinstance(item, Mapping) or not set(HeardWord._fields) <= set(item):
            _refuse(self, item)
        return HeardWord(*(item[name] for name in HeardWord._fields))


class HeardWord(NamedTuple):
    """Where a word stands in its utterance's text, in code points, and whether the listener heard it."""

    id: str
    text_start: int
    text_end: int
    heard: bool


_LARGEST = 1.7976931348623157e308  # an integer above it cannot become a float
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x7f-\x84\x86-\x9f]")  # category Cc but for what str.split() splits at
_OUTER_HALVES = re.compile(r"^[\udc00-\udfff]|[\ud800-\udbff]$")
HALF = re.compile(r"[\ud800-\udfff]")


def _between(value: int | float, low: int, high: int | None) -> bool:
    return low <= value <= (_LARGEST if high is None else high)


def _limits(low: int, high: int | None) -> Schema:
    return {"minimum": low} if high is None else {"minimum": low, "maximum": high}


def _range(low: int, high: int | None) -> str:
    return f"of {low} or more" if high is None else f"from {low} to {high}"


def _refuse(rule: Rule, value: object) -> NoReturn:
    raise Refused(f"must be {rule}, not {shown(value)}")


def problem_of_pair(word: str, said: str) -> str | None:
    """Why it cannot be said how a word is said; None where it can."""
    if len(word.split()) != 1 or word != word.strip():
        return f"the word must be one word, not {shown(word)}"
    if len(word) > MAX_SAY_WORD_CHARS:
        return f"the word has {len(word)} characters, of at most {MAX_SAY_WORD_CHARS}"
    if not said.strip():
        return "what is said for it is empty"
    if len(said) > MAX_SAID_CHARS:
        return f"what is said for it has {len(said)} characters, of at most {MAX_SAID_CHARS}"
    return None


def _refuse_half_characters(value: str) -> None:
    if half := HALF.search(value):
        raise Refused(
            f"holds half a character, the lone surrogate U+{ord(half[0]):04X} at index {half.start()}; "
            "the halves of a pair must follow each other"
        )


# One row a field. A name means the same in every command and event that has it. Times are milliseconds of audio.
FIELDS: Mapping[str, Rule] = MappingProxyType(
    {
        "text": SpeechField(MAX_TEXT_CHARS),
        "id": NameField(MAX_ID_CHARS),
        "final": BoolField(),
        "voice": NameField(MAX_ID_CHARS),
        "seed": WholeField(0, MAX_SEED),
        "cfg_scale": NumberField(0, 20),
        "cfg_filter_k": WholeField(0, 2048),
        "text_temperature": NumberField(0, 2),
        "text_top_k": WholeField(1, 2048),
        "audio_temperature": NumberField(0, 2),
        "audio_top_k": WholeField(1, 2048),
        "initial_padding": WholeField(0, 100),
        "text_rules": ChoiceField(("auto", "off", "clean", "spoken")),
        "say": SayField(1000),
        "played_ms": NumberField(0),
        "audio": SamplesField(),
        "words": TimesField(60),
        "speaker": ChoiceField(("S1", "S2")),
        "sample_rate": WholeField(8000, 48000),
        # events only
        "version": TextField(),
        "model": TextField(),
        "device": TextField(),
        "encoding": TextField(),
        "frame_ms": WholeField(1),
        "voices": NamesField(),
        "conversation": TextField(),
        "sampling": NumbersField(),
        "latency_ms": NumberField(0, digits=1),
        "words_ms": NumberField(0, digits=1),
        "ready_ms": NumberField(0, digits=1),
        "word": TextField(),
        "said": TextField(),
        "start_ms": NumberField(0, digits=0),
        "end_ms": NumberField(0, digits=0),
        "text_start": WholeField(0),
        "text_end": WholeField(0),
        "audio_ms": NumberField(0, digits=0),
        "heard_ms": NumberField(0, digits=0),
        "spoken": TextField(),
        "pending": TextField(),
        "code": TextField(),
        "message": TextField(),
        "cmd": TextField(),
        "field": TextField(),
    }
)
# Fields that are something else in one message than under the same name elsewhere.
OWN_FIELDS: Mapping[tuple[str, str], Rule] = MappingProxyType({("Paused", "words"): HeardField()})


def rule_of(message: type[Any], field: str) -> Rule:
    """What a field of a command or event may hold."""
    return OWN_FIELDS.get((message.__name__, field)) or FIELDS[field]


_rules: dict[type[Any], tuple[tuple[str, bool, Rule], ...]] = {}  # of the messages that were made so far


def _rules_of(message: type[Any]) -> tuple[tuple[str, bool, Rule], ...]:
    """The fields of a command or event: name, whether it is None by default, and what it may hold."""
    if message not in _rules:
        named = ((field, rule_of(message, field.name)) for field in fields(message))
        _rules[message] = tuple((field.name, field.default is None, rule) for field, rule in named)
    return _rules[message]


def settle(message: Any) -> None:
    """Put every field through its rule; one that is None by default may stay None."""
    for name, may_be_none, rule in _rules_of(type(message)):
        value = getattr(message, name)
        if value is None and may_be_none:
            continue
        try:
            object.__setattr__(message, name, rule.accept(value))
        except Refused as refused:
            refused.field = name
            raise


def shown(value: object, limit: int = 40) -> str:
    """A value from outside as error messages show it: shortened, printable, on one line."""
    if isinstance(value, str):
        return repr(value) if len(value) <= limit else repr(value[:limit]) + "..."
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return f"a number of about {round(value.bit_length() * 0.30103)} digits"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return f"a Python {type(value).__name__}"
