"""JSON read as strictly as RFC 8259 has it, with limits."""

import json
import re
from collections import Counter
from typing import Any, NoReturn

from dia2stream.protocol.fields import Refused, shown

_MAX_DIGITS = 400  # more than any double has; int() takes quadratic time, and on newer Pythons refuses 4,300
# What json.dumps leaves as it is, though it breaks lines somewhere, upsets a terminal or cannot be encoded.
_UNSAFE = re.compile(r"[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def line(message: dict[str, Any]) -> str:
    text = json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def load(line: str | bytes) -> Any:
    """Strict JSON; raises Refused (bad_json) and nothing else."""
    try:
        text = line.encode().decode() if isinstance(line, str) else line.decode()
    except (UnicodeEncodeError, UnicodeDecodeError) as error:
        raise Refused(f"not valid UTF-8: {error.reason} at {error.start}", "bad_json") from None
    text = text.removeprefix("\ufeff")  # a byte order mark, as Windows shells send ahead of the first line
    if not text.strip():
        raise Refused("the line is empty; expected a JSON object", "bad_json")
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        problem = error.msg[:1].lower() + error.msg[1:].removesuffix(" at")
        raise Refused(f"not valid JSON: {problem} at character {error.pos}", "bad_json") from None
    except RecursionError:
        raise Refused("not usable JSON: nested too deeply", "bad_json") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise Refused(f"not usable JSON: key {shown(twice)} is given more than once", "bad_json")
    return result


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise Refused(f"not usable JSON: a number of {len(digits)} digits; the limit is {_MAX_DIGITS}", "bad_json")
    return int(digits)


def _constant(name: str) -> NoReturn:
    raise Refused(f"not valid JSON: {name}; numbers must be finite", "bad_json")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole, parse_constant=_constant)
