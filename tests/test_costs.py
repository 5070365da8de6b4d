"""Cost curves: padding to batch sizes, lines between measured points, the best batch."""

import json
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia2stream.engine.costs import H100, TREE_STEPS, CostCurve, padded_passes


def curve(**parts: dict[int, float]) -> CostCurve:
    flat = {1: 0.01, 4: 0.01}
    return CostCurve.measured(
        "test", **{"backbone": flat, "depformer": flat, "codec": flat, "passes": {1: 0.1}, **parts}
    )


@pytest.mark.parametrize("places", [1, 2, 3, 5, 9, 64, 65, 128])
def test_a_batch_costs_what_the_next_size_costs(places):
    assert H100.padded(places) == min(size for size in H100.sizes if size >= places)
    padded = H100.padded(places)
    assert H100.lead_in(places, 1) == H100.lead_in(padded, 1)
    assert H100.frame(places, places) + (padded - places) * H100.host == pytest.approx(H100.frame(padded, padded))


def test_the_h100_makes_a_frame_of_64_in_15_ms_besides_the_host():
    assert H100.frame(64, 64) - 64 * H100.host - H100.turn == pytest.approx(0.01496)


def test_a_pass_that_is_padded_costs_what_its_padded_length_does():
    passes = curve(passes=padded_passes({16: 0.002, 64: 0.003, 512: 0.006}))
    times = [passes.one_pass(n) - passes.turn for n in (1, 16, 17, 64, 65, 512, 513, 1024)]
    assert times == pytest.approx([0.002, 0.002, 0.003, 0.003, 0.006, 0.006, 0.008, 0.012])
    assert passes.columns_within(0.0079) == 512
    assert passes.columns_within(0.0055) == 64


def test_a_size_that_a_part_was_not_measured_at_lies_on_the_line_between_its_neighbours():
    assert curve(backbone={1: 0.01, 2: 0.02, 4: 0.03}, codec={1: 0.01, 4: 0.04}).codec == pytest.approx(
        (0.01, 0.02, 0.04)
    )


def test_a_small_batch_that_was_timed_while_the_machine_was_busy_costs_no_more_than_a_larger_one():
    timed = curve(backbone={1: 0.06, 2: 0.02, 4: 0.03}, passes={10: 0.5, 100: 0.1})
    assert timed.backbone == (0.02, 0.02, 0.03)
    assert timed.passes == ((10, 0.1), (100, 0.1))


def test_a_pass_costs_at_least_the_shortest_one_and_in_proportion_behind_the_longest():
    passes = curve(passes={100: 0.02, 200: 0.03})
    assert [passes.one_pass(n) - passes.turn for n in (1, 100, 150, 400)] == pytest.approx([0.02, 0.02, 0.025, 0.06])


@given(st.integers(1, 1000), st.floats(0.0, 0.2))
def test_the_columns_within_a_time_are_as_many_as_fit(columns, seconds):
    passes = curve(passes={10: 0.02, 200: 0.03, 500: 0.08})
    within = passes.columns_within(seconds)
    assert within >= 1
    assert within == 1 or passes.one_pass(within) <= seconds
    assert passes.one_pass(within + 1) > seconds or within == 1000


def test_a_slower_machine_takes_longer_for_everything():
    slow = H100.slowed(3.0)
    assert slow.frame(5, 5, riding=2, riders=2) == pytest.approx(3 * H100.frame(5, 5, riding=2, riders=2))
    assert slow.one_pass(200) == pytest.approx(3 * H100.one_pass(200))
    assert slow.lead_in(3, 3) == pytest.approx(3 * H100.lead_in(3, 3))
    trees = curve(trees={1: 0.02})
    assert trees.slowed(2.0).tree(1) == pytest.approx(2 * trees.tree(1))


def test_trees_make_several_lead_in_steps_at_once_for_as_many_slots_as_they_were_measured_for():
    trees = curve(trees={1: 0.02, 4: 0.05})
    assert [trees.tree(slots) - trees.turn - slots * trees.host for slots in (1, 2, 4)] == pytest.approx(
        [0.02, 0.03, 0.05]
    )
    assert (trees.tree(5), H100.tree(1)) == (inf, inf)
    assert [trees.by_trees(*asked) for asked in ((1, 2), (1, 3), (4, 17), (5, 17))] == [False, True, True, False]


def test_a_lead_in_costs_what_the_faster_way_costs():
    trees = curve(trees={1: 0.03, 2: 0.09})
    assert trees.lead_ins(1, 18) == pytest.approx(18 / TREE_STEPS * trees.tree(1))
    assert trees.lead_ins(2, 18) == pytest.approx(18 * trees.lead_in(2, 2))  # 10 ms a step
    assert H100.lead_ins(3, 17) == pytest.approx(17 * H100.lead_in(3, 3))


@pytest.mark.parametrize(
    ("trees", "slots", "steps", "at_once"),
    [
        ({}, 7, 17, 7),
        ({}, 9, 17, 8),
        ({1: 0.02, 4: 0.02}, 3, 17, 3),
        ({1: 0.02, 4: 0.02}, 5, 17, 4),  # twice 57 ms; step by step it takes 174 ms
        ({1: 0.02, 4: 0.02}, 5, 2, 5),
        ({1: 0.2, 4: 0.2}, 5, 17, 5),
    ],
)
def test_starters_make_their_steps_together_or_as_many_as_have_trees_in_one_pass(trees, slots, steps, at_once):
    eight = curve(backbone={1: 0.01, 4: 0.01, 8: 0.01}, trees=trees)
    assert eight.starters(slots, steps) == at_once


def test_a_file_has_all_of_a_curve_and_older_files_have_no_trees(tmp_path):
    file, trees = tmp_path / "curve.json", curve(trees={1: 0.02, 2: 0.03})
    file.write_text(trees.dump())
    assert CostCurve.read(str(file)) == trees
    older = json.loads(trees.dump())
    del older["trees"]
    file.write_text(json.dumps(older))
    assert CostCurve.read(str(file)) == curve()


def test_riders_pay_for_the_backbone_only():
    assert H100.frame(1, 1, riding=1, riders=1) - H100.frame(1, 1) == pytest.approx(2.04e-3 - 1.07e-3 + H100.host)


@pytest.mark.parametrize(("wanted", "best"), [(1, 1), (5, 5), (64, 64), (70, 64), (120, 120), (300, 128)])
def test_the_best_batch_makes_the_most_frames_a_second(wanted, best):
    assert H100.best(wanted) == best


def test_a_curve_needs_a_cost_for_every_size():
    with pytest.raises(ValueError, match="costs each, one for each size"):
        CostCurve("half", (1, 2), (0.1,), (0.1, 0.2), (0.1, 0.2), ((1, 0.1),))


@pytest.mark.parametrize("sizes", [(), (2, 1), (1, 1), (0, 1)])
def test_sizes_ascend_from_one(sizes):
    costs = tuple(0.1 for _ in sizes)
    with pytest.raises(ValueError, match="ascending"):
        CostCurve("mixed", sizes, costs, costs, costs, ((1, 0.1),))
