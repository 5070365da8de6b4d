"""Steps as CUDA graphs: in float32 they draw what the eager stepper draws; in bfloat16 nothing moves but by rounding.

Run by scripts/gpu-tests. MODEL is the model whose logits are compared in bfloat16, `random:2b` if not given.
"""

import gc
import os
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dia2.backend import make_codec
from dia2.checkpoint.load import Checkpoint, LoadOptions, load_checkpoint
from dia2.generate import Dia2, GenerationConfig
from dia2.model.blocks import BLOCK_COLUMNS, assured_blocks
from dia2.model.sampling import SamplingConfig, SlotSettings
from dia2.steps.stepper import Stepper, TextColumn
from dia2stream.engine.capacity import blocks_to_build, slots_to_build

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(580)]

MODEL = os.environ.get("MODEL", "random:2b")
GREEDY = SlotSettings(text=SamplingConfig(0.0, 0), audio=SamplingConfig(0.0, 0))
SAMPLED = SlotSettings()
UNGUIDED = SlotSettings(cfg_scale=1.0)
COLUMNS = 60
EVERY_CODE, NO_CODE = -100, 10_000  # a slot's first frame that is not known


@cache
def loaded(model: str, dtype: str, weights: str = "dtype") -> Checkpoint:
    return load_checkpoint(model, LoadOptions(device="cuda", dtype=dtype, weights=weights))


def captured(checkpoint: Checkpoint, slots: int = 1, plain: bool | None = None, **options: Any):
    from dia2.cuda.stepper import GraphStepper  # imports triton

    return GraphStepper(checkpoint, slots, plain, **options)


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """Without TF32, which loading in float32 switches on, so that only mistakes can differ."""
    with torch.inference_mode():
        yield
    torch.cuda.empty_cache()


def text_of(slot: int, column: int) -> TextColumn:
    return (20 + (7 * slot + column) % 200, 3) if (slot + column) % 3 else (2, 2)


def step(stepper: Stepper, slots: Sequence[int]) -> list[int]:
    texts = [text_of(slot, stepper.slots[slot].column) for slot in slots]
    actions = stepper.act(slots)
    stepper.complete(texts)
    return actions


def talk(stepper: Stepper, settings: SlotSettings, columns: int = COLUMNS, slot: int = 0) -> tuple[Tensor, list[int]]:
    """All codes and actions of so many columns of one slot, of which every code is drawn."""
    torch.set_float32_matmul_precision("highest")
    stepper.begin(slot, settings, seed=slot)
    stepper.slots[slot].known = EVERY_CODE
    actions = [action for _ in range(columns) for action in step(stepper, [slot])]
    return stepper.codes[slot, :, : columns + 1].clone(), actions


@pytest.mark.parametrize("model", ["random:tiny", "random:1b"])
@pytest.mark.parametrize("plain", [True, False], ids=["plain ops", "kernels"])
def test_in_float32_graphs_draw_what_the_eager_stepper_draws(model: str, plain: bool) -> None:
    checkpoint = loaded(model, "float32")
    torch.set_float32_matmul_precision("highest")  # what a graph captures is what it keeps
    eager, graphs = Stepper(checkpoint), captured(checkpoint, plain=plain)
    for settings in (GREEDY, SAMPLED, UNGUIDED):
        expected, found = talk(eager, settings), talk(graphs, settings)
        assert torch.equal(found[0], expected[0])
        assert found[1] == expected[1]


@pytest.mark.parametrize("plain", [True, False], ids=["plain ops", "kernels"])
@pytest.mark.parametrize("slots", [1, 2, 3, 8, 16, 64, 128])
def test_in_float32_any_of_the_slots_draw_what_each_draws_alone(slots: int, plain: bool) -> None:
    torch.set_float32_matmul_precision("highest")
    checkpoint = loaded("random:tiny", "float32")
    torch.set_float32_matmul_precision("highest")
    dice, stepper, alone = random.Random(slots), captured(checkpoint, slots, plain), Stepper(checkpoint)
    settings = [(GREEDY, SAMPLED, UNGUIDED)[slot % 3] for slot in range(slots)]
    for slot in range(slots):
        stepper.begin(slot, settings[slot], seed=slot)
        stepper.slots[slot].known = (EVERY_CODE, 12)[slot % 2]
    for _ in range(40):
        step(stepper, dice.sample(range(slots), dice.randint(1, slots)))
    for slot in dice.sample(range(slots), min(slots, 12)):
        alone.begin(0, settings[slot], seed=slot)
        alone.slots[0].known = (EVERY_CODE, 12)[slot % 2]
        columns = stepper.slots[slot].column
        for column in range(columns):
            alone.act([0])
            alone.complete([text_of(slot, column)])
        assert torch.equal(stepper.codes[slot, :, : columns + 1], alone.codes[0, :, : columns + 1]), slot


def test_slots_that_do_not_step_and_lines_that_fill_up_a_batch_change_nothing() -> None:
    stepper = captured(loaded(MODEL, "bfloat16"), slots=8)
    for slot in range(8):
        stepper.begin(slot, SAMPLED, seed=slot)
        stepper.slots[slot].known = EVERY_CODE
    for _ in range(5):
        step(stepper, range(8))
    resting = torch.tensor([0, 2, 4])
    before = [stepper.cache.copied(slot, 2, 5) for slot in (0, 2, 4)], stepper.codes[resting]
    for _ in range(5):
        step(stepper, [7, 1, 5])
    after = [stepper.cache.copied(slot, 2, 5) for slot in (0, 2, 4)], stepper.codes[resting]
    assert torch.equal(after[1], before[1])
    for now, was in zip(after[0], before[0], strict=True):
        assert torch.equal(now.k, was.k)
        assert torch.equal(now.v, was.v)


# ---- Blocks of the cache ----


@pytest.mark.parametrize("plain", [True, False], ids=["plain ops", "kernels"])
def test_in_float32_contexts_that_take_and_give_back_blocks_draw_what_each_draws_alone(plain: bool) -> None:
    """Passes and steps cross borders, and blocks go from slot to slot, in a cache that is as small as it may be."""
    torch.set_float32_matmul_precision("highest")
    checkpoint = loaded("random:tiny", "float32")
    torch.set_float32_matmul_precision("highest")
    slots, least = 8, 8 * assured_blocks(1502, BLOCK_COLUMNS)
    stepper, alone = captured(checkpoint, slots, plain, blocks=least), Stepper(checkpoint)
    dice = random.Random(0)
    for round in range(3):
        first = [dice.choice([0, 40, 62, 63, 64, 127, 300, 900]) for _ in range(slots)]
        for slot in range(slots):
            stepper.blocks.trim(slot, 0)
            _stand_at(stepper, slot, first[slot], seed=8 * round + slot)
        for _ in range(30):
            step(stepper, dice.sample(range(slots), dice.randint(1, slots)))
        for slot in range(slots):
            _stand_at(alone, 0, first[slot], seed=8 * round + slot)
            columns = stepper.slots[slot].column
            for column in range(first[slot], columns):
                alone.act([0])
                alone.complete([text_of(slot, column)])
            assert torch.equal(stepper.codes[slot, :, : columns + 1], alone.codes[0, :, : columns + 1]), (round, slot)


def _stand_at(stepper: Stepper, slot: int, column: int, seed: int) -> None:
    """Behind so many columns of silence, with every code due."""
    stepper.begin(slot, SAMPLED, seed=seed)
    stepper.prefill(slot, [(20 + at % 200, 3) for at in range(column)])
    stepper.slots[slot].known = column + EVERY_CODE


def test_one_column_of_long_contexts_in_blocks_is_that_of_a_context_in_one_piece() -> None:
    """In bfloat16, with the same kernels: where columns lie changes no bit."""
    checkpoint = loaded(MODEL, "bfloat16")
    codes = []
    for columns in (None, 64):
        stepper = captured(checkpoint, block_columns=columns)
        for first in (63, 700, 1400):
            _stand_at(stepper, 0, first, seed=first)
            for _ in range(10):
                step(stepper, [0])
            codes.append(stepper.codes[0, :, first : first + 11].clone())
        del stepper
    assert all(torch.equal(one, other) for one, other in zip(codes[:3], codes[3:], strict=True))


def test_256_slots_of_the_2b_model_fit_on_80_gb_and_step() -> None:
    """With up to two thirds of a full context in each, the codec's states, all graphs, and room for kept voices."""
    loaded.cache_clear()  # the models of other tests take the memory
    gc.collect()
    torch.cuda.empty_cache()
    checkpoint = loaded("random:2b", "bfloat16")
    slots = slots_to_build(256, checkpoint)
    codec = make_codec(checkpoint.codec, slots)
    stepper = captured(checkpoint, slots, blocks=blocks_to_build(slots, checkpoint, 1_000_000_000))
    assert stepper.blocks.total >= slots * stepper.blocks.assured
    for slot in range(slots):
        _stand_at(stepper, slot, 10 + 64 * (slot % 15), seed=slot)
    for begin in (0, 128):
        for _ in range(60):  # across a border
            step(stepper, range(begin, begin + 128))
    for slot, state in enumerate(stepper.slots):
        assert int(stepper.codes[slot, 0, state.column - 30 : state.column].max()) < 2048
    free, total = torch.cuda.mem_get_info()
    print(f"256 slots: {stepper.blocks.taken} of {stepper.blocks.total} blocks taken, {free / 1e9:.1f} GB free of")
    print(f"{total / 1e9:.1f}; cache {stepper.cache.bytes / 1e9:.1f} GB, codec {codec.state.bytes / 1e9:.1f} GB")


def test_a_step_of_lead_ins_runs_no_depformer_and_others_run_the_smallest_one() -> None:
    stepper = captured(loaded("random:tiny", "bfloat16"), slots=16)
    for slot in range(16):
        stepper.begin(slot, SAMPLED, seed=slot)
        stepper.slots[slot].known = NO_CODE if slot % 4 else EVERY_CODE
    assert stepper.prepare([1, 2, 3])[1] is None
    column, codes = stepper.prepare(range(9))  # three of them have codes to draw
    assert column is stepper.columns[16]
    assert codes is stepper.depformers[4]


def test_steps_that_are_begun_ahead_draw_the_same_however_late_the_host_is() -> None:
    checkpoint, dice = loaded(MODEL, "bfloat16"), random.Random(0)
    found = []
    for ahead in (False, True):
        stepper = captured(checkpoint, 2, ahead=ahead)
        for seed in range(6):
            stepper.begin(1, SAMPLED, seed=seed)
            stepper.slots[1].known = NO_CODE
            for column in range(40):
                either = text_of(0, column), text_of(1, column)
                (action,) = stepper.act([1], either if column < 39 else None)
                time.sleep(dice.choice([0.0, 0.0, 0.002, 0.005]))
                stepper.complete([either[action == 1]])
                found.append(action)
            stepper.stop_ahead()
            stepper.slots[1].known = EVERY_CODE
            step(stepper, [1])
            found.append(stepper.codes[1, :, 41].tolist())
        del stepper
    assert found[: len(found) // 2] == found[len(found) // 2 :]


@pytest.mark.parametrize("slots", [1, 3, 8])
@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_in_bfloat16_a_seed_repeats_exactly_whatever_the_neighbours_are(slots: int, settings: SlotSettings) -> None:
    stepper = captured(loaded(MODEL, "bfloat16"), slots)
    codes = []
    for number in range(2):
        for slot in range(slots):
            stepper.begin(slot, settings, seed=0 if slot == 0 else 10 * number + slot)
            stepper.slots[slot].known = EVERY_CODE
        for _ in range(COLUMNS):
            step(stepper, range(slots))
        codes.append(stepper.codes[0, :, : COLUMNS + 1].clone())
    assert torch.equal(codes[0], codes[1])


# ---- Logits, column by column ----


def logits(stepper: Stepper, column: int, codes: Tensor) -> list[Tensor]:
    """Logits [2, V] of every codebook of the column after `column`, each stage given `codes` [C] before it."""
    state = stepper.slots[0]
    state.column, state.known = column, EVERY_CODE
    state.text = text_of(0, column - 1) if column else stepper.opening
    codebooks = stepper.config.data.audio_codes
    if hasattr(stepper, "programs"):
        return _captured_logits(stepper, column, codes, codebooks)
    stepper.act([0])
    found = [stepper.backbone.cb0_logits(stepper.hidden)[:, :codebooks]]
    for stage in range(stepper.depformer.stages):
        previous = codes[stage].expand(2)
        found.append(stepper.depformer.stage(stage, stepper.hidden, previous, None, stepper.depformer_cache))
    return found


def _captured_logits(stepper, column: int, codes: Tensor, codebooks: int) -> list[Tensor]:
    """What the program of one slot computes, run as it was captured, but with the codes that are given."""
    program, found = stepper.programs[1], []
    draw = program.draw_code

    def listening(logits: Tensor, codebook: int) -> None:
        found.append(logits[:, :codebooks].clone())
        draw(logits, codebook)
        program.tensors.drawn[:, codebook] = codes[codebook]

    program.draw_code = listening
    stepper.prepare([0])
    stepper.run_column(program)
    if hasattr(program, "codes_after"):  # all stages are one kernel
        found += program.codes_after(codes)
    else:
        program.codes()
    del program.draw_code
    stepper.codes[0, :, column + 1] = codes
    return found


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def test_in_bfloat16_logits_are_as_near_to_float32_as_the_eager_ones_and_draws_differ_by_rounding_alone() -> None:
    exact, eager, fast = Stepper(loaded(MODEL, "float32")), Stepper(loaded(MODEL, "bfloat16")), None
    fast = captured(loaded(MODEL, "bfloat16"))
    codes, _ = talk(eager, GREEDY)
    for stepper in (exact, eager, fast):
        stepper.begin(0, GREEDY, 0)
        stepper.codes[0, :, : COLUMNS + 1] = codes
    theirs_off, ours_off, reach = [], [], [0.0]
    for column in range(COLUMNS):
        each = [logits(stepper, column, codes[:, column + 1]) for stepper in (eager, fast, exact)]
        for theirs, ours, right in zip(*each, strict=True):
            theirs_off.append(distance(theirs, right))
            ours_off.append(distance(ours, right))
            a, b = greedy(theirs), greedy(ours)
            if a != b:
                reach.append(closeness(theirs, ours, a, b))
    assert max(ours_off) < 1.2 * max(theirs_off)
    assert statistics.median(ours_off) < 1.1 * statistics.median(theirs_off)
    assert max(reach) <= 1, "a draw differs by more than rounding moved its logits"


def test_8_bit_weights_move_logits_by_a_few_percent_and_kernels_compute_what_layers_do() -> None:
    whole, small = Stepper(loaded(MODEL, "bfloat16")), Stepper(loaded(MODEL, "bfloat16", "fp8"))
    fast = captured(loaded(MODEL, "bfloat16", "fp8"))
    codes, _ = talk(whole, SAMPLED, columns=20)
    for stepper in (whole, small, fast):
        stepper.begin(0, GREEDY, 0)
        stepper.codes[0, :, :21] = codes
    for column in range(20):
        each = [logits(stepper, column, codes[:, column + 1]) for stepper in (whole, small, fast)]
        for exact, rounded, ours in zip(*each, strict=True):
            assert distance(rounded, exact) < 0.06
            assert distance(ours, rounded) < 0.03


def candidates(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits [2, V]: the conditional ones with -inf where guidance leaves no candidate, and the guided ones."""
    logits = logits.float()
    guided = logits[1] + GREEDY.cfg_scale * (logits[0] - logits[1])
    return logits[0].masked_fill(guided < guided.topk(GREEDY.cfg_filter_k).values[-1], -torch.inf), guided


def greedy(logits: Tensor) -> int:
    return int(candidates(logits)[0].argmax())


def closeness(theirs: Tensor, ours: Tensor, a: int, b: int) -> float:
    """How far apart codes a and b were for one, over twice what the other's rounding moved any logit at most.

    They draw differently because a's lead over b changed sign, or because one of the two passed the filter's edge.
    """
    (mine, guided), (other, other_guided) = candidates(theirs), candidates(ours)
    if torch.isinf(mine[b]) or torch.isinf(other[a]):
        out = b if torch.isinf(mine[b]) else a
        values, moved = (guided, other_guided) if torch.isinf(mine[b]) else (other_guided, guided)
        edge = values.topk(GREEDY.cfg_filter_k).values[-1]
        return float((edge - values[out]) / (2 * (values - moved).abs().max()))
    return float((mine[a] - mine[b]) / (2 * (theirs[0] - ours[0]).abs().max()))


# ---- The form that was timed ----


@pytest.mark.parametrize("weights", ["dtype", "fp8"])
def test_the_form_that_is_timed_to_be_the_fastest_is_kept_and_repeats_its_tokens(tmp_path: Path, weights: str) -> None:
    from dia2.cuda.choice import Chooser
    from dia2.cuda.forms import FORMS, LAYERS, device_milliseconds, key_for

    checkpoint, said = loaded(MODEL, "bfloat16", weights), []
    for _ in range(2):
        chooser = Chooser(tmp_path, key_for(checkpoint), device_milliseconds)
        stepper = captured(checkpoint, chooser=chooser)
        said.append((stepper.form, talk(stepper, SAMPLED, columns=20)[0].tolist()))
        kept = chooser.kept([form.name for form in (*FORMS, LAYERS)])
        assert kept is not None
        assert kept.form == stepper.form.name
        assert all("logits" not in each.reason for each in kept.left_out), kept.left_out
    assert "read from" in stepper.form_reason
    assert said[0] == said[1]


# ---- Offline generation ----


@torch.inference_mode(False)
def test_generate_by_graphs_gives_the_tokens_of_the_eager_stepper_in_float32() -> None:
    checkpoint = loaded("random:tiny", "float32")
    results = []
    for stepper in ("auto", "eager"):
        torch.set_float32_matmul_precision("highest")
        dia = Dia2(checkpoint, stepper=stepper)
        results.append(dia.generate("[S1] Hello there. [S2] Oh, hi!", config=GenerationConfig(seed=3)))
    assert results[0].audio_tokens.shape[2] > 5
    assert torch.equal(results[0].audio_tokens, results[1].audio_tokens)
    torch.testing.assert_close(results[0].waveform, results[1].waveform)
