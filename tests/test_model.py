"""Both transformers against the published code's numbers, and a batched pass against one column at a time."""

from pathlib import Path

import pytest
import torch
from models import checkpoint, expected
from torch import Tensor

from dia2.model.kv_cache import KVCache
from dia2.model.slots import SlotIndex

CPU = torch.device("cpu")


def close(ours: Tensor, theirs: Tensor, atol: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def new_cache(goldens: Path, branches: int = 2, capacity: int = 32) -> KVCache:
    return KVCache(checkpoint(goldens).config, 1, branches, capacity, CPU, torch.float32)


def run(goldens: Path, tokens: Tensor, passes: list[int], cache: KVCache | None = None) -> Tensor:
    """tokens [rows, n, 2 + C] through the backbone, cut into passes of so many columns -> hidden [rows, n, D]."""
    rows, n = tokens.shape[:2]
    cache = cache or new_cache(goldens, branches=rows)
    view = cache.view(SlotIndex.of([0], CPU), rows)
    places = torch.arange(n).expand(rows, -1).split(passes, dim=1)
    hidden = [
        checkpoint(goldens).backbone(part, place, place, view, live=int(place.max()) + 1)
        for part, place in zip(tokens.split(passes, dim=1), places, strict=True)
    ]
    return torch.cat(hidden, dim=1)


def teacher(goldens: Path, name: str) -> Tensor:
    return expected(goldens)[f"teacher.{name}"]


def columns(goldens: Path) -> Tensor:
    """The teacher's columns, int64 [2 rows, steps, 2 + C]."""
    return teacher(goldens, "tokens").long().transpose(0, 1)


@pytest.mark.parametrize("passes", [[24], [1] * 24, [5, 1, 7, 11]], ids=["batched", "stepwise", "mixed"])
def test_the_backbone_computes_the_goldens_however_the_columns_are_batched(goldens: Path, passes: list[int]) -> None:
    backbone = checkpoint(goldens).backbone
    hidden = run(goldens, columns(goldens), passes)
    close(hidden.transpose(0, 1), teacher(goldens, "hidden"), 1e-4)
    close(backbone.action_logits(hidden).transpose(0, 1), teacher(goldens, "action_logits"), 1e-3)
    close(backbone.cb0_logits(hidden).transpose(0, 1), teacher(goldens, "cb0_logits"), 1e-3)


def test_a_batched_pass_leaves_the_cache_that_single_columns_leave(goldens: Path) -> None:
    batched, stepwise = new_cache(goldens), new_cache(goldens)
    run(goldens, columns(goldens), [24], batched)
    run(goldens, columns(goldens), [1] * 24, stepwise)
    close(batched.k, stepwise.k, 1e-5)
    close(batched.v, stepwise.v, 1e-5)


def test_a_rewound_cache_forgets_by_being_overwritten(goldens: Path) -> None:
    cache, tokens = new_cache(goldens), columns(goldens)
    run(goldens, tokens.flip(1), [24], cache)
    close(run(goldens, tokens, [1] * 24, cache).transpose(0, 1), teacher(goldens, "hidden"), 1e-4)


def test_rows_at_columns_of_their_own_do_not_see_each_other(goldens: Path) -> None:
    backbone, tokens, cache = checkpoint(goldens).backbone, columns(goldens), new_cache(goldens)
    run(goldens, tokens.flip(1), [24], cache)  # what must not be seen
    view = cache.view(SlotIndex.of([0], CPU), 2)
    lag = 7  # the second row begins that much later
    rows = []
    for step in range(24 + lag):
        at = torch.tensor([[min(step, 23)], [max(step - lag, 0)]])
        column = torch.stack([tokens[0, at[0]], tokens[1, at[1]]])
        rows.append(backbone(column, at, at, view, live=int(at.max()) + 1)[:, 0])
    close(torch.stack([row[0] for row in rows[:24]]), teacher(goldens, "hidden")[:, 0], 1e-4)
    close(torch.stack([row[1] for row in rows[lag:]]), teacher(goldens, "hidden")[:, 1], 1e-4)


def test_the_depformer_computes_the_goldens_stage_by_stage(goldens: Path) -> None:
    depformer, hidden = checkpoint(goldens).depformer, teacher(goldens, "hidden")
    text = columns(goldens)
    cache = depformer.new_cache(rows=2)
    for step, previous in enumerate(teacher(goldens, "prev_audio").long()):
        embedded = depformer.embed_text(text[:, step, 0], text[:, step, 1])
        for stage in range(depformer.stages):
            logits = depformer.stage(stage, hidden[step], previous[stage].expand(2), embedded, cache)
            close(logits, teacher(goldens, "depformer_logits")[step, stage], 1e-3)


def test_the_depformer_takes_many_columns_as_rows(goldens: Path) -> None:
    depformer, hidden = checkpoint(goldens).depformer, teacher(goldens, "hidden").flatten(0, 1)
    text, previous = teacher(goldens, "tokens").long().flatten(0, 1), teacher(goldens, "prev_audio").long()
    cache = depformer.new_cache(rows=len(hidden))
    embedded = depformer.embed_text(text[:, 0], text[:, 1])
    for stage in range(depformer.stages):
        logits = depformer.stage(stage, hidden, previous[:, stage].repeat_interleave(2), embedded, cache)
        close(logits, teacher(goldens, "depformer_logits")[:, stage].flatten(0, 1), 1e-3)
