"""Every kernel does what its plain twin does: in Triton's interpreter where there is no GPU, else on the GPU."""

import pytest
import torch
import torch.nn.functional as F
from tools import require
from torch import Tensor

require("triton")

from models import dequantized

from dia2.checkpoint.load import LoadOptions, load_checkpoint
from dia2.codec.ring import RingView, attend_ring
from dia2.cuda.kernels import products as kernels
from dia2.cuda.kernels.attention import Attention
from dia2.cuda.kernels.choose import choose
from dia2.cuda.kernels.draws import Sampler
from dia2.cuda.kernels.launch import COLUMN, KNOWN, SLOT, STEP_FIELDS, UNUSED
from dia2.cuda.kernels.ring import attend_ring_fused
from dia2.cuda.stepper import GraphStepper
from dia2.model.fp8 import Fp8Matrix
from dia2.model.layers import RMSNorm, attend, rotate
from dia2.model.sampling import Draws, Guidance, SamplingConfig, SlotSettings
from dia2.model.slots import SlotIndex
from dia2.steps.stepper import Stepper

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EPS = 1e-6


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def noise(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, device=DEVICE) * scale


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, EPS)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 24, 64), (2, 20, 48), (3, 9, 4100), (8, 20, 48)])
def test_a_product_is_the_product(rows: int, outputs: int, inputs: int) -> None:
    x, weight, out = noise(rows, inputs), noise(outputs, inputs, scale=inputs**-0.5), noise(rows, outputs)
    kernels.linear(x, weight, out)
    close(out, F.linear(x, weight))


@pytest.mark.parametrize("rows", [2, 6])
def test_a_product_norms_its_input_and_adds_to_its_output(rows: int) -> None:
    x, weight, out, gain = noise(rows, 48), noise(20, 48), noise(rows, 20), noise(48)
    expected = out + F.linear(rms(x, gain), weight)
    kernels.linear(x, weight, out, norm=gain, eps=EPS, add=True)
    close(out, expected)


def test_a_product_takes_a_slice_and_an_embedding_and_leaves_their_sum() -> None:
    wide, table, tokens = noise(4, 3 * 48), noise(11, 48), torch.tensor([[0, 7], [0, 10]], device=DEVICE)
    weight, gain, out, total = noise(20, 48), noise(48), noise(4, 20), noise(4, 48)
    x = wide[:, 48:96]
    summed = x + table[[7, 7, 10, 10]]
    kernels.linear(x, weight, out, norm=gain, eps=EPS, embedding=kernels.Embedding(table, tokens[:, 1], total))
    close(total, summed)
    close(out, F.linear(rms(summed, gain), weight))


@pytest.mark.parametrize("rows", [2, 8])
def test_products_read_8_bit_weights(rows: int) -> None:
    x, gain, out = noise(rows, 48), noise(48), noise(rows, 20)
    scales = torch.logspace(-6, 6, 40, base=2, device=DEVICE)[:, None]  # of tiny rows and large ones
    matrix = Fp8Matrix.of(noise(40, 48, scale=0.2) * scales)
    both = F.linear(rms(x, gain), dequantized(matrix))
    for head, expected in ((matrix.split(20)[0], both[:, :20]), (matrix.split(20)[1], both[:, 20:])):
        kernels.linear(x, head, out, norm=gain, eps=EPS)
        close(out, expected)
    expected = F.silu(both[:, :20]) * both[:, 20:]
    kernels.gated(x, gain, EPS, matrix, out, ("silu", "linear"))
    close(out, expected)


def test_every_8_bit_value_is_read_as_it_is() -> None:
    bits = torch.arange(256, dtype=torch.uint8, device=DEVICE)
    bits = bits[bits % 128 != 127]  # those two are not numbers
    values = bits.view(torch.float8_e4m3fn)[:, None]
    matrix = Fp8Matrix(values, torch.ones(len(bits), device=DEVICE))
    out = noise(1, len(bits))
    kernels.linear(torch.ones(1, 1, device=DEVICE), matrix, out)
    assert out[0].tolist() == values[:, 0].float().tolist()


@pytest.mark.parametrize("activations", [("silu", "linear"), ("gelu", "relu")])
@pytest.mark.parametrize("rows", [2, 5])
def test_a_gated_product_activates_its_halves(rows: int, activations: tuple[str, str]) -> None:
    x, gain, weight, out = noise(rows, 48), noise(48), noise(40, 48, scale=0.2), noise(rows, 20)
    both = F.linear(rms(x, gain), weight)
    kernels.gated(x, gain, EPS, weight, out, activations)
    functions = {"silu": F.silu, "linear": lambda x: x, "gelu": F.gelu, "relu": F.relu}
    gate, up = both.chunk(2, dim=1)
    expected = functions[activations[0]](gate) * functions[activations[1]](up)
    close(out, expected)
    kernels.product(both, out, activations)
    close(out, expected)


def test_a_norm_is_the_norm() -> None:
    x, gain, out = noise(5, 48), noise(48), noise(5, 48)
    kernels.normed(x, gain, EPS, out)
    close(out, rms(x, gain))


def test_a_norm_takes_a_slice_and_an_embedding_and_leaves_their_sum() -> None:
    wide, table, tokens = noise(4, 3 * 48), noise(11, 48), torch.tensor([[0, 7], [0, 10]], device=DEVICE)
    gain, out, total = noise(48), noise(4, 48), noise(4, 48)
    summed = wide[:, 48:96] + table[[7, 7, 10, 10]]
    kernels.normed(wide[:, 48:96], gain, EPS, out, kernels.Embedding(table, tokens[:, 1], total))
    close(total, summed)
    close(out, rms(summed, gain))


@pytest.mark.parametrize("slots", [1, 3])
def test_a_column_is_embedded_with_its_text_and_without(slots: int) -> None:
    width, rank, codebooks, capacity, zero, pad = 20, 12, 5, 9, 7, 3
    text, main, second = noise(30, rank), noise(width, rank), noise(width, rank)
    audio, out = noise(codebooks, 13, width), noise(2 * slots, width)
    codes = torch.randint(13, (slots, codebooks, capacity), device=DEVICE)
    order = [slot % slots for slot in (2, 0, 1)][:slots] if slots > 1 else [0]
    fields = torch.tensor([[4, 4, 0, 11, pad], [8, 8, 0, 5, 29], [0, 1, 0, 2, 2]], device=DEVICE)[:slots]
    fields = torch.cat([fields, torch.tensor(order, device=DEVICE)[:, None]], dim=1)
    kernels.embed(fields, codes, text, main, second, audio, out, zero, pad)
    expected = []
    for line in range(slots):
        column, _, _, first, other, slot = fields[line].tolist()
        sound = audio[torch.arange(codebooks), codes[slot, :, column]].sum(0)
        spoken = second @ text[other] if other != pad else torch.zeros(width, device=DEVICE)
        expected += [main @ text[first] + spoken + sound, main @ text[zero] + sound]
    close(out, torch.stack(expected))


SHAPES = [(4, 2, 16, True), (3, 3, 16, False), (6, 2, 32, True), (2, 2, 32, True)]  # heads, kv_heads, dim, rope
PIECES = [(4, 32), (1, 64), (4, 600)]  # splits, columns of a block


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "rope", "splits", "columns"),
    # All with all on a GPU. Triton's interpreter takes seconds for each, so there each is in one case at least.
    [
        (*shape, *pieces)
        for n, shape in enumerate(SHAPES)
        for m, pieces in enumerate(PIECES)
        if DEVICE.type == "cuda" or n % len(PIECES) == m
    ],
)
def test_attention_is_norm_rotation_cache_and_softmax(
    heads: int, kv_heads: int, dim: int, rope: bool, splits: int, columns: int
) -> None:
    indices, slots = [0, 64, 599, 17], [3, 0, 4, UNUSED]
    rows, shared = 2 * len(slots), heads // kv_heads
    attention = Attention(rows, heads, kv_heads, dim, splits, DEVICE)
    capacity = -(-600 // columns) * columns
    table = torch.randperm(5 * capacity // columns, device=DEVICE).view(5, -1).int()
    # As they lie in the blocks, and with each slot's columns in one piece: [slots, 2, kv_heads, capacity, dim].
    blocks = [noise(table.numel(), 2, kv_heads, columns, dim) for _ in range(2)]
    keys, values = (whole[table.long()].permute(0, 2, 3, 1, 4, 5).flatten(3, 4) for whole in blocks)
    norms = RMSNorm(dim, EPS), RMSNorm(dim, EPS)
    for norm in norms:
        norm.to(DEVICE).weight.data.copy_(noise(dim))
    tables = noise(capacity, dim // 2), noise(capacity, dim // 2)
    lines = [[max(i - 1, 0), i, 0, 0, 0, slot] for i, slot in zip(indices, slots, strict=True)]
    fields = torch.tensor(lines, device=DEVICE)
    for _ in range(2):  # twice: the counters must be back at zero
        qkv, out = noise(rows, (heads + 2 * kv_heads) * dim), noise(rows, heads * dim)
        expected = []
        mine = keys.clone(), values.clone()
        for row in range(rows - 2):  # the last line is unused: it writes nothing, and nobody reads what it gives
            column, index, *_, slot = fields[row // 2].tolist()
            q, k, v = qkv[row].view(-1, dim).split([heads, kv_heads, kv_heads])
            q, k = norms[0](q), norms[1](k)
            if rope:
                angles = tables[0][column], tables[1][column]
                q, k = rotate(q, angles), rotate(k, angles)
            mine[0][slot, row % 2, :, index], mine[1][slot, row % 2, :, index] = k, v
            k, v = (cache[slot, row % 2, :, : index + 1].repeat_interleave(shared, 0)[None] for cache in mine)
            expected.append(attend(q[None, None], k, v, None).view(-1))
        gains = norms[0].weight, norms[1].weight
        attention(qkv, gains, EPS, tables if rope else None, blocks, out, (fields, table))
        keys, values = (whole[table.long()].permute(0, 2, 3, 1, 4, 5).flatten(3, 4) for whole in blocks)
        close(keys, mine[0])
        close(values, mine[1])
        close(out[:-2], torch.stack(expected))
        assert out.isfinite().all()


def test_attention_at_one_index_for_all_rows() -> None:
    dim, heads, stages, rows = 16, 2, 7, 4
    attention = Attention(rows, heads, heads, dim, 1, DEVICE, long=False)
    keys, values = torch.zeros(2, rows, heads, stages, dim, device=DEVICE)
    gain = torch.ones(dim, device=DEVICE)
    for stage in range(stages):
        qkv, out = noise(rows, 3 * heads * dim), noise(rows, heads * dim)
        attention(qkv, (gain, gain), EPS, None, (keys, values), out, stage)
        q, k, _ = qkv.unflatten(1, (-1, dim)).chunk(3, dim=1)
        close(keys[:, :, stage], rms(k, gain))
        expected = attend(rms(q, gain)[:, None], keys[:, :, : stage + 1], values[:, :, : stage + 1], None)
        close(out, expected.flatten(1))


@pytest.mark.parametrize(
    ("steps", "groups", "cuts"), [(2, 4, [3, 9, 1]), pytest.param(4, 2, [2, 8, 30], marks=pytest.mark.long)]
)
def test_attention_over_rings_turns_writes_and_sums_as_plain_operations_do(
    steps: int, groups: int, cuts: list[int]
) -> None:
    heads, width, window, capacity, slots = 4, 16, 24, 48, 3
    rings = [torch.zeros(slots, groups, capacity, width, device=DEVICE) for _ in range(4)]
    position = torch.tensor([7, 0, 1000], device=DEVICE)
    filled = torch.zeros(slots, dtype=torch.int64, device=DEVICE)
    for number in range(sum(cuts)):
        rows = torch.tensor([[2, 0], [0, 1], [1, 2]][number % 3], device=DEVICE)
        angles = torch.randn(2, steps, 1, width // 2, device=DEVICE)
        view = RingView(
            torch.polar(torch.ones_like(angles), angles),
            rows,
            rows,
            position[rows],
            filled[rows],
            steps,
            capacity,
            window,
        )
        qkv = noise(2, steps, (heads + 2 * groups) * width)
        expected = attend_ring(qkv.clone(), rings[0], rings[1], view)
        close(attend_ring_fused(qkv, rings[2], rings[3], view), expected)
        close(rings[2], rings[0])
        close(rings[3], rings[1])
        position[rows] += steps
        filled[rows] = (filled[rows] + steps).clamp(max=capacity)
        if number in cuts:  # one goes back
            position[rows[0]] -= 2 * steps
            filled[rows[0]] -= 2 * steps


@pytest.mark.parametrize(("action", "starts_word"), [(0, 0), (1, 1), (2, 1), (3, 0), (9, 0)])
def test_the_text_of_a_step_that_was_begun_ahead_is_chosen_by_the_action(action: int, starts_word: int) -> None:
    choices = torch.randint(100, (2, STEP_FIELDS), device=DEVICE)
    fields = torch.zeros(3, STEP_FIELDS, dtype=torch.int64, device=DEVICE)
    choose(choices, torch.tensor([action], device=DEVICE), 2, fields[0])
    assert fields[0].tolist() == choices[starts_word].tolist()
    assert (fields[1:] == 0).all()


def test_the_text_is_held_by_action_0_also_where_that_is_the_id_of_a_new_word() -> None:
    choices, fields = torch.tensor([[1] * STEP_FIELDS, [2] * STEP_FIELDS], device=DEVICE), torch.zeros(STEP_FIELDS)
    fields = fields.long().to(DEVICE)
    choose(choices, torch.tensor([0], device=DEVICE), 0, fields)
    assert fields.tolist() == [1] * STEP_FIELDS


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True], ids=["kernels", "plain ops"])
def test_steps_that_are_begun_ahead_are_those_that_would_have_followed(plain: bool) -> None:
    loaded = load_checkpoint("random:tiny", LoadOptions(device=str(DEVICE), dtype="float32"))
    torch.set_float32_matmul_precision("highest")
    alone, ahead = Stepper(loaded, 2), GraphStepper(loaded, 2, plain=plain, ahead=True)
    texts = [((20 + n, 40 + n), (60 + n, 3)) for n in range(8)]
    for stepper in (alone, ahead):
        stepper.begin(1, SETTINGS[0], seed=4)
        stepper.begin(0, SETTINGS[0], seed=5)
        stepper.slots[1].known = 100
    for number, either in enumerate(texts):
        told = either if number % 4 != 3 else ((1, 1), (1, 1))  # the fourth is foreseen otherwise than it comes
        (expected,) = alone.act([1])
        alone.complete([either[expected == 1]])
        assert ahead.act([1], told) == [expected]
        ahead.complete([either[expected == 1]])
        if number == 5:  # others step meanwhile
            ahead.stop_ahead()
            assert ahead.act([0, 1]) == alone.act([0, 1])
            for stepper in (alone, ahead):
                stepper.complete([(30, 3), (31, 3)])
    assert ahead.codes.tolist() == alone.codes.tolist()
    close(ahead.cache.copied(1, 2, 9).k, alone.cache.copied(1, 2, 9).k)


SETTINGS = [
    SlotSettings(),
    SlotSettings(cfg_scale=1.0, text=SamplingConfig(0.7, 0), audio=SamplingConfig(0.8, 0)),
    SlotSettings(cfg_scale=2.0, cfg_filter_k=5, text=SamplingConfig(0.0, 0), audio=SamplingConfig(-1.0, 3)),
    SlotSettings(cfg_scale=3.0, cfg_filter_k=0, text=SamplingConfig(1.3, 1), audio=SamplingConfig(1.5, 2)),
    SlotSettings(cfg_scale=0.0, cfg_filter_k=40, text=SamplingConfig(0.5, 7), audio=SamplingConfig(0.5, 7)),
    SlotSettings(cfg_scale=-2.0, cfg_filter_k=10_000, audio=SamplingConfig(2.0, 10_000)),
]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("vocabulary", [2, 50, 300])
def test_a_draw_is_guidance_filter_and_inverse_cdf(vocabulary: int, ties: bool) -> None:
    slots, capacity, streams, codebooks = len(SETTINGS), 6, 4, 3
    guidance, draws = Guidance(slots, DEVICE), Draws(slots, DEVICE)
    for slot, settings in enumerate(SETTINGS):
        guidance.set(slot, settings)
        draws.set(slot, settings.audio)
    uniforms = torch.rand(slots, capacity, streams, device=DEVICE)
    uniforms[0, 0, 2], uniforms[1, 1, 2] = 0.0, 1 - 2.0**-24
    sampler = Sampler(guidance.scale, guidance.filter_k, draws.temperature, draws.top_k, uniforms)
    for column in range(5):
        known = torch.tensor([0, 2, column, column + 1, 100, 3], device=DEVICE)
        fields = torch.zeros(slots, STEP_FIELDS, dtype=torch.int64, device=DEVICE)
        order = torch.randperm(slots, device=DEVICE)
        fields[:, COLUMN], fields[:, KNOWN], fields[:, SLOT] = column, known[order], order
        logits = noise(2 * slots, vocabulary + 3, scale=3.0)[:, :vocabulary]
        if ties:
            logits = logits.round()
        banned = (vocabulary - 1, vocabulary - 2) if vocabulary > 2 else (-1, -1)
        every = SlotIndex.of(order.tolist(), DEVICE)
        candidates = guidance(logits.unflatten(0, (-1, 2)), every)
        if vocabulary > 2:
            candidates = candidates.index_fill(1, torch.tensor(banned, device=DEVICE), -torch.inf)
        if vocabulary > 2:  # where the filter kept nothing else, all the others are candidates
            others = logits[::2].index_fill(1, torch.tensor(banned, device=DEVICE), -torch.inf)
            candidates = torch.where(candidates.isneginf().all(dim=1, keepdim=True), others, candidates)
        expected = draws(candidates, uniforms[order, column, 2], every)
        token = torch.full((slots, 2), -7, device=DEVICE)
        codes = torch.full((slots, codebooks, capacity), -7, device=DEVICE)
        sampler(logits, fields, 2, token[:, 1], banned=banned, codes=codes, codebook=1, delay=1)
        assert token[:, 1].tolist() == expected.tolist()
        assert token[:, 0].tolist() == [-7] * slots
        written = torch.where(column >= known[order], expected, -7)
        assert codes[order, 1, column + 1].tolist() == written.tolist()
        codes[:, 1, column + 1] = -7
        assert (codes == -7).all()


@pytest.mark.slow
@pytest.mark.parametrize(("slots", "weights", "columns"), [(1, "dtype", None), (2, "fp8", 32), (5, "dtype", 64)])
@pytest.mark.parametrize("plain", [False, True], ids=["kernels", "plain ops"])
def test_a_stepper_of_programs_says_what_the_eager_one_says(
    slots: int, weights: str, columns: int | None, plain: bool
) -> None:
    loaded = load_checkpoint("random:tiny", LoadOptions(device=str(DEVICE), dtype="float32", weights=weights))
    torch.set_float32_matmul_precision("highest")  # loading chose TF32 for the eager one, and a draw can be close
    steppers = Stepper(loaded, slots), GraphStepper(loaded, slots, plain=plain, block_columns=columns)
    first = [31, 0, 63, 40, 95][:slots]  # some cross the border of a block
    for stepper in steppers:
        for slot in range(slots):
            stepper.begin(slot, SETTINGS[slot], seed=slot)
            stepper.prefill(slot, [(20 + n, 3) for n in range(first[slot])])
            stepper.slots[slot].known = first[slot] + 3 * slot - 30  # so that codes are due from the first steps on
        stepper.slots[0].known = first[0] + (-30 if slots == 1 else 20)  # for the first of several they are not
    everyone = list(range(slots))
    batches = [everyone[::-1], everyone[1:] or [0], everyone[::2], everyone[:1]]
    for number, active in enumerate(batches if DEVICE.type == "cuda" else batches[:2]):
        actions = [stepper.act(active) for stepper in steppers]
        assert actions[0] == actions[1]
        for stepper in steppers:
            stepper.complete([(20 + number, 3 if number % 2 else 40 + slot) for slot in active])
        assert steppers[0].codes.tolist() == steppers[1].codes.tolist()
        assert [slot.column for slot in steppers[0].slots] == [slot.column for slot in steppers[1].slots]
    assert (steppers[0].codes[-1, 1:, first[-1] + 1] != 256).all()
    assert slots == 1 or (steppers[0].codes[0, 1:, first[0] + 1] == 256).all()
