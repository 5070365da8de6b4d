"""Damage for fuzzers: bytes, JSON and safetensors files that were right, and are wrong in one or more places.

Every function takes a `random.Random`, so that a case can be had again from its number.
"""

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

# Values that have broken readers before: signs, widths of integers, digits that are none, halves of characters, paths.
VALUES: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 7, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.0, -0.5, 1e-300, 1e308),
    *(None, True, False, "", "0", "-1", "²", "٣", "9" * 5000, "\ud800", "a\x00b", "\x1b[31m", "a\nb", "x" * 100_000),
    *("..", "../../etc", "/etc", "./", ".", "nari-labs/none", "no such place", "~", "model.safetensors"),
    *([], {}, [[]], [None], {"": 1}, [0] * 3000, float("nan"), float("inf")),
)


def nested(depth: int = 100_000) -> str:
    """JSON text of lists in lists."""
    return "[" * depth + "]" * depth


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to four edits: bits, bytes, ranges that are cut out, doubled, zeroed or moved, and a cut end."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        rng.choice(_EDITS)(out, rng)
    return bytes(out)


def _flip(out: bytearray, rng: random.Random) -> None:
    if out:
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)


def _overwrite(out: bytearray, rng: random.Random) -> None:
    at, new = (
        rng.randint(0, len(out)),
        rng.choice((b"\xff", b"\x00", b"\xff" * 8, b"\x7f\xff\xff\xff", b'"', b"}", b"\r\n")),
    )
    out[at : at + len(new)] = new


def _insert(out: bytearray, rng: random.Random) -> None:
    at = rng.randint(0, len(out))
    out[at:at] = rng.randbytes(rng.choice((1, 2, 8, 100)))


def _remove(out: bytearray, rng: random.Random) -> None:
    start, end = _range(out, rng)
    del out[start:end]


def _double(out: bytearray, rng: random.Random) -> None:
    start, end = _range(out, rng)
    out[end:end] = out[start:end]


def _zero(out: bytearray, rng: random.Random) -> None:
    start, end = _range(out, rng)
    out[start:end] = bytes(end - start)


def _truncate(out: bytearray, rng: random.Random) -> None:
    del out[rng.randint(0, len(out)) :]


def _range(out: bytearray, rng: random.Random) -> tuple[int, int]:
    start = rng.randint(0, len(out))
    return start, min(len(out), start + rng.choice((1, 4, 8, 64, 1000)))


_EDITS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip, _flip, _overwrite, _overwrite),
    *(_insert, _remove, _double, _zero, _truncate),
)


def mutate_json(text: str, rng: random.Random) -> str:
    """One to three changes of values and keys; at times deep nesting in the place of one value."""
    tree = json.loads(text)
    for _ in range(rng.randint(1, 3)):
        tree = _mutate_tree(tree, rng)
    changed = json.dumps(tree)
    if rng.random() < 0.05:
        changed = changed.replace(json.dumps(rng.choice(list(_scalars(tree)) or [0])), nested(), 1)
    return changed


def _mutate_tree(tree: Any, rng: random.Random) -> Any:
    """The tree with one change, at a place of any depth."""
    if not isinstance(tree, (dict, list)) or not tree or rng.random() < 0.1:
        return _other_value(tree, rng)
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = rng.choice(keys)
    if isinstance(tree[key], (dict, list)) and rng.random() < 0.8:
        tree[key] = _mutate_tree(tree[key], rng)
        return tree
    kind = rng.random()
    if kind < 0.6:
        tree[key] = _other_value(tree[key], rng)
    elif kind < 0.75:
        del tree[key]
    elif isinstance(tree, list):
        tree.insert(rng.randint(0, len(tree)), _any(rng) if kind < 0.9 else tree[key])
    elif kind < 0.9:
        tree[str(_any(rng))[:2000]] = rng.choice((tree[key], _any(rng)))
    else:
        other = rng.choice(keys)
        tree[key], tree[other] = tree[other], tree[key]
    return tree


def _any(rng: random.Random) -> Any:
    """A value of its own: later changes may go into it."""
    return copy.deepcopy(rng.choice(VALUES))


def _other_value(value: Any, rng: random.Random) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.random() < 0.5:
        return rng.choice(
            (value + 1, value - 1, value * 2, -value, value * 1.0 if abs(value) < 2**63 else 0.5, [value])
        )
    if isinstance(value, str) and value and rng.random() < 0.3:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice(("\ud800", "\x00", "/", "..", "é", "")) + value[at + 1 :]
    return _any(rng)


def _scalars(tree: Any) -> Any:
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    for part in parts:
        if isinstance(part, (dict, list)):
            yield from _scalars(part)
        else:
            yield part


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    """A change of the header's JSON, of its length, or of numbers among the tensors; else of any bytes."""
    (length,) = struct.unpack_from("<Q", data)
    header, tensors = data[8 : 8 + length], bytearray(data[8 + length :])
    kind = rng.random()
    if kind < 0.4:
        header = mutate_json(header.decode(), rng).encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(header)) + header + tensors
    if kind < 0.5:
        return struct.pack("<Q", rng.choice((0, 1, length - 1, length + 1, 2**32, 2**63))) + header + tensors
    if kind < 0.75 and len(tensors) >= 4:
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(tensors) // 4) * 4
            tensors[at : at + 4] = struct.pack("<f", rng.choice((float("nan"), float("inf"), -float("inf"), 1e38, 1e4)))
        return data[: 8 + length] + tensors
    return mutate_bytes(data, rng)
