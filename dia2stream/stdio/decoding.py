"""Bytes as they come -> text: UTF-8, or UTF-16 where a byte order mark says so, as Windows shells write it.

Bytes that are not UTF-8 have no sound. They are left out, and told of once.
"""

import codecs
import logging
import re
from collections.abc import Iterator

_log = logging.getLogger(__name__)
_MARKS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_UNDECODED = re.compile("[\udc80-\udcff]+")  # how Python carries bytes that are no UTF-8


def as_utf8(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes; those of UTF-16 text as UTF-8."""
    first = b""
    for chunk in chunks:
        first += chunk
        if len(first) > 1:
            break
    encoding = _MARKS.get(first[:2])
    if encoding is None:
        if first:
            yield first
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    yield decoder.decode(first[2:]).encode("utf-8", "replace")
    for chunk in chunks:
        yield decoder.decode(chunk).encode("utf-8", "replace")
    yield decoder.decode(b"", final=True).encode("utf-8", "replace")


def decoded(chunks: Iterator[bytes]) -> Iterator[str]:
    """The text of the bytes, without those that are none."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
    told = False
    for chunk in as_utf8(chunks):
        text, told = _without_bytes(decoder.decode(chunk), told)
        yield text
    text, _ = _without_bytes(decoder.decode(b"", final=True), told)
    yield text


def _without_bytes(text: str, told: bool) -> tuple[str, bool]:
    found = _UNDECODED.search(text)
    if found is None:
        return text, told
    if not told:
        shown = " ".join(f"{ord(character) - 0xDC00:02x}" for character in found[0][:8])
        _log.warning("bytes that are not UTF-8 are left out, the first of them %s", shown)
    return _UNDECODED.sub("", text), True


def read_text(data: bytes) -> str:
    """All of a text at once."""
    return "".join(decoded(iter([data])))
