"""The format of a record: strict, versioned, and safe against a writer that died."""

import struct
import zlib
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia2stream.errors import RecordError
from dia2stream.journal.record import (
    MAGIC,
    ArrivalEntry,
    ClockEntry,
    CommandEntry,
    EarEntry,
    Entry,
    Header,
    ReachEntry,
    StepsEntry,
    VoiceEntry,
    begin,
    pack,
    read_record,
)

HEADER = Header(2, "0.1", "toy", "abc", "float32", "dtype", 3, (0, 1, 1), 100, 40, 1.5, True, -3.5, {"rules": "clean"})
CODES = np.arange(12, dtype=np.int16).reshape(4, 3)
LEVELS = np.arange(32, dtype=np.uint8).reshape(4, 8)
ENTRIES: list[Entry] = [
    VoiceEntry("ann", (((1, 2), "Hello", 2, 1), ((), "", 3, 2)), (0, 4), CODES.T.copy()),
    CommandEntry({"cmd": "start", "text": "Hi \ud83d ü\u2028"}, 0, 0, 0, 5),
    StepsEntry(5, 0, (1, 0, 0, 1), CODES, LEVELS),
    EarEntry(CODES.T.copy()),
    CommandEntry({"cmd": "listen", "text": ""}, 9, 3, 4, 6, 1920),
    ClockEntry(7, 19),
    ArrivalEntry(4),
    ReachEntry(64),
]
DATA = begin(HEADER) + b"".join(map(pack, ENTRIES))


def same(one: Entry, other: Entry) -> bool:
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)]
    return type(one) is type(other) and all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs
    )


def test_what_was_written_is_read() -> None:
    record = read_record(DATA)
    assert (record.header, record.size, record.torn) == (HEADER, len(DATA), 0)
    assert len(record.entries) == len(ENTRIES)
    assert all(map(same, record.entries, ENTRIES))


def test_a_second_of_speech_takes_little_more_than_its_codes() -> None:
    codes = np.zeros((12, 34), np.int16)
    assert len(pack(StepsEntry(0, 0, (0,) * 12, codes, np.zeros((12, 8), np.uint8)))) < codes.nbytes + 12 * 8 + 50


@given(st.integers(len(begin(HEADER)), len(DATA)))
def test_a_record_that_is_cut_off_keeps_what_is_whole(size: int) -> None:
    record = read_record(DATA[:size])
    assert record.size + record.torn == size
    assert DATA.startswith(begin(HEADER) + b"".join(map(pack, record.entries)))
    assert read_record(DATA[: record.size]).torn == 0


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_byte_that_changed_is_never_read_as_something_else(at: int, change: int) -> None:
    damaged = DATA[:at] + bytes([DATA[at] ^ change]) + DATA[at + 1 :]
    try:
        record = read_record(damaged)
    except RecordError:
        return
    assert record.torn  # it looks like the end of a write that was cut off
    assert all(map(same, record.entries, ENTRIES[: len(record.entries)]))


def test_zeros_behind_a_crash_are_cut_off() -> None:
    record = read_record(DATA + bytes(4096))
    assert (record.size, record.torn) == (len(DATA), 4096)


def framed(payload: bytes) -> bytes:
    return struct.pack("<II", len(payload), zlib.crc32(payload)) + payload


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"RIFF....", "f is no record of a conversation: it does not begin with dia2rec"),
        (MAGIC, "f is cut short: it has no header"),
        (begin(replace(HEADER, version=1)), "f has version 1 of the format; this dia2stream reads version 2"),
        (MAGIC + pack(ENTRIES[5]), "f is damaged at byte 8: the first entry is no header"),
        (begin(HEADER) + framed(b"X..."), "an entry of kind b'X'; known are VCSEKAR"),
        (begin(HEADER) + framed(b"K123"), "unpack requires"),
        (
            begin(HEADER) + pack(StepsEntry(0, 0, (1,), CODES[:1, :2], LEVELS[:1])),
            r"codes of shape \(1, 2\), and the model has 3",
        ),
        (begin(HEADER) + framed(b'C{"command":{},"step":0}'), "fields .* where command, frames, made, samples, sent"),
        (begin(HEADER) + framed(b"C{"), "not valid JSON"),
        (begin(HEADER) + framed(pack(ENTRIES[2])[8:-1]), "23 bytes of codes where 4 x 3 are announced"),
    ],
)
def test_what_is_no_record_of_this_version_is_one_clear_error(data: bytes, problem: str) -> None:
    with pytest.raises(RecordError, match=problem):
        read_record(data, "f")


def test_damage_in_the_middle_is_an_error_and_not_the_end() -> None:
    at = len(begin(HEADER)) + 20
    damaged: Any = DATA[:at] + b"!" + DATA[at + 1 :]
    with pytest.raises(RecordError, match=f"damaged at byte {len(begin(HEADER))}: the checksum"):
        read_record(damaged)
