"""Blocks of the key/value cache: nobody has another's, and what a slot has a right to is there whenever it asks."""

import resource
import weakref
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import pytest
import torch
from conversations import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from dia2.model.blocks import Blocks, assured_blocks
from dia2.model.kv_cache import KVCache
from dia2.model.slots import SlotIndex

CPU = torch.device("cpu")
STATM = Path("/proc/self/statm")


def held(blocks: Blocks, slot: int) -> list[int]:
    return [block for block, _ in blocks.pieces(slot, blocks.capacity)]


def test_a_slot_takes_a_block_when_it_crosses_a_border_and_gives_back_what_lies_behind() -> None:
    told: list[tuple[int, int, Sequence[int]]] = []
    blocks = Blocks(2, capacity=100, columns=32, moved=lambda *change: told.append(change))
    assert (blocks.most, blocks.total, blocks.assured, blocks.taken) == (4, 8, 3, 2)
    blocks.hold(1, 32)
    assert told == []
    blocks.hold(1, 33)
    blocks.hold(1, 100)
    assert told == [(1, 1, [2]), (1, 2, [3, 4])]
    assert list(blocks.pieces(1, 70)) == [(1, slice(0, 32)), (2, slice(32, 64)), (3, slice(64, 70))]
    blocks.trim(1, 64)
    assert told[2:] == [(1, 2, [8, 8])]
    blocks.trim(1, 0)
    assert (held(blocks, 1), blocks.taken) == ([1], 2)
    blocks.hold(0, 100)
    assert held(blocks, 0) == [0, 2, 3, 4]


def test_beyond_their_right_the_first_who_comes_is_served() -> None:
    blocks = Blocks(3, capacity=90, columns=10, total=3 * 6 + 2)
    assert [blocks.reach(slot) for slot in range(3)] == [80, 80, 80]
    blocks.hold(0, 71)
    assert [blocks.reach(slot) for slot in range(3)] == [80, 60, 60]
    with pytest.raises(RuntimeError, match="slot 1 needs 61 columns of the cache; it can have 60"):
        blocks.hold(1, 61)
    blocks.hold(1, 60)
    blocks.hold(2, 60)
    blocks.trim(0, 70)
    assert [blocks.reach(slot) for slot in range(3)] == [80, 70, 70]


def test_too_few_blocks_for_the_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="17 blocks for 3 slots; each needs at least 6"):
        Blocks(3, capacity=90, columns=10, total=17)


@settings(max_examples=200)
@given(
    slots=st.integers(1, 5),
    capacity=st.integers(1, 200),
    columns=st.integers(1, 70),
    more=st.integers(0, 40),
    moves=st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 200)), max_size=60),
)
def test_nobody_has_anothers_block_and_every_reach_can_be_had(
    slots: int, capacity: int, columns: int, more: int, moves: list[tuple[int, bool, int]]
) -> None:
    total = slots * assured_blocks(capacity, min(columns, capacity)) + more
    table: dict[tuple[int, int], int] = {}

    def moved(slot: int, first: int, numbers: Sequence[int]) -> None:
        table.update({(slot, first + place): number for place, number in enumerate(numbers)})

    blocks = Blocks(slots, capacity, columns, total, moved)
    for slot, takes, size in moves:
        slot %= slots
        if takes:
            blocks.hold(slot, min(size, blocks.reach(slot)))
        else:
            blocks.trim(slot, size)
        everybodys = [held(blocks, each) for each in range(slots)]
        flat = list(chain.from_iterable(everybodys))
        assert len(set(flat)) == len(flat) == blocks.taken <= blocks.total
        assert all(table.get((each, n), each) == b for each in range(slots) for n, b in enumerate(everybodys[each]))
        assert all(blocks.reach(each) >= min(capacity, blocks.assured * blocks.columns) for each in range(slots))
    for each in range(slots):  # all at once can have what is theirs
        blocks.trim(each, blocks.assured * blocks.columns)
    for each in range(slots):
        blocks.hold(each, min(capacity, blocks.assured * blocks.columns))


def test_the_columns_of_a_voice_are_copied_from_any_blocks_into_any_others() -> None:
    config = tiny().config
    cache, whole = (KVCache(config, 3, 2, 50, CPU, torch.float32, columns) for columns in (8, None))
    cache.blocks.hold(2, 20)  # so that slot 1 gets others
    for slot, source in ((1, cache), (1, whole)):
        source.blocks.hold(slot, 30)
        index, new = torch.arange(30).expand(2, -1), torch.arange(2 * 30 * 2 * 32.0).view(2, 30, 2, 32)
        for layer in range(config.model.decoder.n_layer):
            keys, values = source.view(SlotIndex.of([slot], CPU), 2).at(index, 30)(layer, new + layer, -new)
            assert torch.equal(keys, (new + layer).transpose(1, 2))
            assert torch.equal(values, -new.transpose(1, 2))
    copies = [source.copied(1, 2, 27) for source in (cache, whole)]
    assert torch.equal(copies[0].k, copies[1].k)
    assert torch.equal(copies[0].v, copies[1].v)
    assert copies[0].k.shape == (2, 2, 2, 27, 32)
    cache.paste(0, copies[0])
    assert torch.equal(cache.copied(0, 2, 27).k, copies[0].k)
    assert cache.copied(0, 1, 27).k.shape[1] == 1
    assert cache.table.tolist() == [
        [block for block, _ in cache.blocks.pieces(slot, 50)]
        + [cache.blocks.total] * (7 - len(list(cache.blocks.pieces(slot, 50))))
        for slot in range(3)
    ]


@pytest.mark.skipif(not STATM.exists(), reason="not Linux")
def test_a_context_that_stays_short_takes_little_memory_on_a_cpu() -> None:
    def resident() -> int:
        return int(STATM.read_text().split()[1]) * resource.getpagesize()

    config, before = tiny().config, resident()
    cache = KVCache(config, 64, 2, 20_000, CPU, torch.float32)
    assert cache.bytes > 2_000_000_000
    assert resident() - before < 100_000_000


def test_a_cache_is_gone_as_soon_as_nobody_has_it() -> None:
    """A GPU's memory would be full until Python looks for circles."""
    cache = KVCache(tiny().config, 2, 2, 50, CPU, torch.float32, 8)
    gone = weakref.ref(cache.k)
    del cache
    assert gone() is None
