"""Passes over many columns, padded to the lengths that there are graphs for, are passes of just those columns."""

import random

import pytest
import torch
from tools import require
from torch import Tensor

require("triton")

from hypothesis import given
from hypothesis import strategies as st

from dia2.checkpoint.load import LoadOptions, load_checkpoint
from dia2.cuda.kernels.columns import TILE, ColumnsAttention, add_codes
from dia2.cuda.kernels.launch import UNUSED
from dia2.cuda.passes import PASS_SIZES, parts_of
from dia2.cuda.stepper import GraphStepper
from dia2.model.layers import RMSNorm, attend, rotate
from dia2.model.sampling import SlotSettings
from dia2.steps.speculation import Tree
from dia2.steps.stepper import Stepper

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EPS = 1e-6


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def random_tree(columns: int, seed: int) -> Tree:
    """One whose last column has at least two before it."""
    dice, tree = random.Random(seed), Tree()
    tree.add((20, 3), None)
    while len(tree) < columns - 1:
        tree.add((dice.randint(20, 60), 3), dice.randrange(max(0, len(tree) - 6), len(tree)))
    deepest = max(range(len(tree)), key=tree.depths.__getitem__)
    tree.add((70, 3), deepest)
    return tree


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, device=DEVICE)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@given(columns=st.integers(1, 3000), sizes=st.sets(st.integers(1, 600), min_size=1))
def test_the_parts_of_a_pass_have_all_of_its_columns_and_fit_their_graphs(columns: int, sizes: set[int]) -> None:
    ascending = sorted(sizes)
    parts = parts_of(columns, ascending)
    assert sum(count for count, _ in parts) == columns
    for count, size in parts:
        assert 0 < count <= size
        assert not [smaller for smaller in ascending if count <= smaller < size]
    assert all(count == ascending[-1] for count, _ in parts[:-1])


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 2, 16), (3, 3, 16), (6, 2, 32)])
@pytest.mark.parametrize(("columns", "first", "count", "size"), [(32, 21, 40, 48), (600, 0, 16, 16), (64, 70, 1, 16)])
def test_attention_of_many_columns_is_norm_rotation_cache_and_causal_softmax(
    heads: int, kv_heads: int, dim: int, columns: int, first: int, count: int, size: int
) -> None:
    slot, capacity = 1, -(-600 // columns) * columns
    table = torch.randperm(3 * capacity // columns, device=DEVICE).view(3, -1).int()
    blocks = noise(2, table.numel(), 2, kv_heads, columns, dim)
    before = blocks.clone()
    norms = RMSNorm(dim, EPS), RMSNorm(dim, EPS)
    for norm in norms:
        norm.to(DEVICE).weight.data.copy_(noise(dim))
    tables = noise(capacity, dim // 2), noise(capacity, dim // 2)
    lines = [[first + i, first + i + 1, 0, 0, 0, slot] for i in range(count)]  # the published voice shifts by one
    fields = torch.tensor(lines + [[0, capacity - 1, 0, 0, 0, UNUSED]] * (size - count), device=DEVICE)
    qkv, out = noise(2 * size, (heads + 2 * kv_heads) * dim), noise(2 * size, heads * dim)
    q, k, v = qkv[: 2 * count].view(count, 2, -1, dim).transpose(0, 1).split([heads, kv_heads, kv_heads], dim=2)
    angles = tuple(each[first : first + count, None] for each in tables)
    q, k = rotate(norms[0](q), angles), rotate(norms[1](k), angles)
    gains = norms[0].weight, norms[1].weight
    attention = ColumnsAttention(heads, kv_heads, dim)
    attention(qkv, gains, EPS, tables, (blocks[0], blocks[1]), out, fields, table)

    mine = blocks[:, table[slot].long()].permute(0, 2, 3, 1, 4, 5).flatten(3, 4)  # [2, 2, kv_heads, capacity, dim]
    begun, ended = first + 1, first + 1 + count
    close(mine[0, :, :, begun:ended], k.transpose(1, 2))
    close(mine[1, :, :, begun:ended], v.transpose(1, 2))
    written = table[slot].long()[torch.arange(begun, ended, device=DEVICE) // columns]
    before[:, written, :, :, torch.arange(begun, ended, device=DEVICE) % columns] = blocks[
        :, written, :, :, torch.arange(begun, ended, device=DEVICE) % columns
    ]
    assert torch.equal(blocks, before), "only the columns of the pass are written"
    seen = torch.arange(ended, device=DEVICE) <= torch.arange(begun, ended, device=DEVICE)[:, None]
    expected = attend(q, mine[0, :, :, :ended], mine[1, :, :, :ended], seen)  # [2, count, heads * dim]
    close(out.view(size, 2, -1)[:count], expected.transpose(0, 1))


def test_in_a_tree_every_line_sees_its_own_way_and_all_before_the_tree() -> None:
    heads, kv_heads, dim, first, slots = 4, 2, 16, 21, [2, 0]
    tree = random_tree(25, seed=3)
    table = torch.randperm(3 * 3, device=DEVICE).view(3, 3).int()
    blocks = noise(2, 9, 2, kv_heads, 32, dim)
    norms = RMSNorm(dim, EPS), RMSNorm(dim, EPS)
    for norm in norms:
        norm.to(DEVICE).weight.data.fill_(1)
    tables = noise(96, dim // 2), noise(96, dim // 2)
    lines = [[0, 95, 0, 0, 0, UNUSED]] * (4 * TILE)
    for number, slot in enumerate(slots):
        for place, (depth, seen) in enumerate(zip(tree.depths, tree.signed(), strict=True)):
            lines[number * 2 * TILE + place] = [first + depth, first + place, seen, 0, 0, slot]
    fields = torch.tensor(lines, device=DEVICE)
    qkv, out = noise(2 * len(lines), (heads + 2 * kv_heads) * dim), noise(2 * len(lines), heads * dim)
    ours = [qkv.view(len(lines), 2, -1, dim)[number * 2 * TILE :][: len(tree)].clone() for number in range(2)]
    gains = norms[0].weight, norms[1].weight
    ColumnsAttention(heads, kv_heads, dim)(
        qkv, gains, EPS, tables, (blocks[0], blocks[1]), out, fields, table, tree=True
    )
    columns = first + torch.tensor(tree.depths, device=DEVICE)
    angles = tuple(each[columns, None] for each in tables)
    ended = first + len(tree)
    seen = torch.ones(len(tree), ended, dtype=torch.bool, device=DEVICE)
    for place in range(len(tree)):
        seen[place, first:] = False
        for back in range(place + 1):
            seen[place, first + place - back] = bool(tree.seen[place] >> back & 1)
    for number, slot in enumerate(slots):
        mine = blocks[:, table[slot].long()].permute(0, 2, 3, 1, 4, 5).flatten(3, 4)  # [2, 2, kv_heads, 96, dim]
        q, k, _ = ours[number].transpose(0, 1).split([heads, kv_heads, kv_heads], dim=2)
        close(mine[0, :, :, first:ended], rotate(norms[1](k), angles).transpose(1, 2))
        expected = attend(rotate(norms[0](q), angles), mine[0, :, :, :ended], mine[1, :, :, :ended], seen)
        close(out.view(len(lines), 2, -1)[number * 2 * TILE :][: len(tree)], expected.transpose(0, 1))


def test_the_codes_of_every_line_are_added_to_both_of_its_rows() -> None:
    codebooks, vocabulary, width, capacity = 5, 13, 20, 9
    audio, x = noise(codebooks, vocabulary, width), noise(6, width)
    codes = torch.randint(vocabulary, (2, codebooks, capacity), device=DEVICE)
    fields = torch.tensor([[4, 5, 0, 0, 0, 1], [5, 6, 0, 0, 0, 1], [8, 8, 0, 0, 0, UNUSED]], device=DEVICE)
    sums = [audio[torch.arange(codebooks), codes[slot, :, at]].sum(0) for slot, at in ((1, 4), (1, 5), (0, 8))]
    expected = x + torch.stack(sums).repeat_interleave(2, dim=0)
    add_codes(fields, codes, audio, x)
    close(x, expected)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [SlotSettings(), SlotSettings(cfg_scale=1.0)], ids=["guided", "unguided"])
def test_a_pass_of_trees_draws_and_leaves_what_single_steps_do(settings: SlotSettings) -> None:
    loaded = load_checkpoint("random:tiny", LoadOptions(device=str(DEVICE), dtype="float32"))
    torch.set_float32_matmul_precision("highest")
    alone = Stepper(loaded, 2)
    graphs = GraphStepper(loaded, 2, plain=False, block_columns=32, speculate=True)
    trees = [random_tree(30, seed=1), random_tree(17, seed=2)]
    assert graphs.tree_size(2) >= 30
    for stepper in (alone, graphs):
        for slot in (1, 0):
            stepper.begin(slot, settings, seed=slot)
            stepper.prefill(slot, [(20 + at, 3) for at in range(9 + slot)])
            stepper.slots[slot].text = trees[slot].texts[0]
            stepper.slots[slot].known = 9 + slot + 3 - 16  # codebook 0 is due behind the third column
    drawn = graphs.verify([1, 0], [trees[1], trees[0]])
    for slot, actions in ((1, drawn[0]), (0, drawn[1])):
        tree, place = trees[slot], len(trees[slot]) - 1
        way = [place - back for back in range(place, -1, -1) if tree.seen[place] >> back & 1][:3]
        assert len(way) == 3
        for at in way:
            assert alone.act([slot]) == [actions[at]]
            text = tree.texts[way[way.index(at) + 1]] if at != way[-1] else (50, 3)
            alone.complete([text])
            graphs.confirm(slot, at, text)
    graphs.keep()
    for slot in (0, 1):
        columns = graphs.slots[slot].column
        assert graphs.slots[slot] == alone.slots[slot]
        assert torch.equal(graphs.codes[slot, :, : columns + 1], alone.codes[slot, :, : columns + 1])
        assert int(graphs.codes[slot, 0, columns]) < 2048
        ours, theirs = (stepper.cache.copied(slot, 2 if settings.guided else 1, columns) for stepper in (graphs, alone))
        close(ours.k, theirs.k)
        close(ours.v, theirs.v)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [None, 32], ids=["whole contexts", "blocks"])
def test_padded_passes_leave_what_the_eager_one_does(columns: int | None) -> None:
    loaded = load_checkpoint("random:tiny", LoadOptions(device=str(DEVICE), dtype="float32"))
    torch.set_float32_matmul_precision("highest")
    eager, padded = Stepper(loaded, 2), GraphStepper(loaded, 2, plain=False, block_columns=columns)
    assert padded.pass_sizes == PASS_SIZES
    for settings, cuts in ((SlotSettings(), [9, 18]), (SlotSettings(cfg_scale=1.0), [1, 35])):
        codes = torch.randint(250, eager.codes[1].shape, device=DEVICE)
        hidden = []
        for stepper in (eager, padded):
            stepper.begin(1, settings, seed=0)
            stepper.codes[1].copy_(codes)
            for count in cuts:
                stepper.prefill(1, [(20 + at, 3 if at % 2 else 40) for at in range(count)])
            assert stepper.slots[1].column == sum(cuts)
            stepper.slots[1].known = 10_000
            actions = stepper.act([1])
            hidden.append((actions, stepper.cache.copied(1, 2 if settings.guided else 1, sum(cuts) + 1)))
        (expected, theirs), (found, ours) = hidden
        close(ours.k, theirs.k)
        close(ours.v, theirs.v)
        assert found == expected


def test_a_stepper_of_the_layers_own_operations_runs_passes_as_the_eager_one() -> None:
    loaded = load_checkpoint("random:tiny", LoadOptions(device=str(DEVICE), dtype="float32"))
    stepper = GraphStepper(loaded, 1)
    assert stepper.pass_sizes == ()
    stepper.begin(0, SlotSettings(), seed=0)
    stepper.prefill(0, [(20, 3)] * 5)
    assert stepper.slots[0].column == 5
