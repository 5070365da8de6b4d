"""How the bundled voice's language model learns: steps that resume, averages, the schedule, and when to stop."""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dia2.model.config import Dia2Config

sys.path.append(str(Path(__file__).parent.parent / "scripts" / "bundled-voice"))
import corpus
import lm
import lm_net
from compose import NO_ACTION, Composer, Ids, Utterance
from lm import Best, Feed, Reader, Trainer, judge, save_state
from tokenizer import learn
from training import Schedule

GOLDEN = Path(__file__).parent / "goldens" / "published-like" / "checkpoint"
LENGTH = 24


pytestmark = pytest.mark.usefixtures("one_thread")


def make_trainer(seed: int = 0, dropout: float = 0.1) -> Trainer:
    torch.manual_seed(seed)
    net = lm_net.LmNet(Dia2Config.from_file(GOLDEN / "config.json"), dropout).initialise(seed).train()
    trainer = Trainer(net, 2, LENGTH, torch.device("cpu"), decay=0.1)
    generator = torch.Generator().manual_seed(7)
    trainer.columns[..., 2:] = torch.randint(64, (2, LENGTH + 1, 8), generator=generator)
    trainer.columns[..., :2] = torch.randint(8, 40, (2, LENGTH + 1, 2), generator=generator)
    trainer.actions[:, ::3] = torch.randint(2, (2, LENGTH // 3), generator=generator)
    return trainer


def steps(trainer: Trainer, count: int, rate: float = 3e-3) -> None:
    for _ in range(count):
        trainer.learn(rate, average=0.9)


def test_the_loss_falls_and_the_averages_follow() -> None:
    trainer = make_trainer(dropout=0.0)
    steps(trainer, 2)
    first = trainer.total.clone()
    steps(trainer, 12, 1e-2)
    trainer.total.zero_()
    steps(trainer, 2, 1e-2)
    assert (trainer.total[:2] < 0.8 * first[:2]).all()
    apart = [(w - a).norm() / w.norm() for w, a in zip(trainer.parameters, trainer.averages.values, strict=True)]
    assert 0 < max(apart) < 0.5


def test_a_resumed_trainer_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    given = argparse.Namespace(out=tmp_path / "out.safetensors", parts=None, patience=3)
    whole, first = make_trainer(), make_trainer()
    torch.manual_seed(9)
    steps(whole, 6)
    torch.manual_seed(9)
    steps(first, 3)
    save_state(
        tmp_path / "state", first, Schedule(60, 1e-3, 0.1, spent=12.5), Best(first, given, 3.5, 2), [first.columns]
    )
    told = torch.load(tmp_path / "state", weights_only=True)
    second = make_trainer(seed=5)
    second.restore(told["trainer"])
    steps(second, 3)
    for one, other in zip(
        (*whole.parameters, *whole.averages.values), (*second.parameters, *second.averages.values), strict=True
    ):
        assert torch.equal(one, other)
    assert (second.steps, told["spent"], told["best"], told["worse"]) == (6, 12.5, 3.5, 2)
    assert torch.equal(told["valid"][0], first.columns)


def test_a_trainer_that_was_not_restored_ends_elsewhere() -> None:
    whole, other = make_trainer(), make_trainer()
    torch.manual_seed(9)
    steps(whole, 4)
    torch.manual_seed(9)
    steps(other, 2)
    other.optimizer.state.clear()  # what forgetting the optimizer would do
    steps(other, 2)
    assert not all(torch.equal(a, b) for a, b in zip(whole.parameters, other.parameters, strict=True))


def test_what_is_judged_is_the_average_and_the_weights_are_as_before() -> None:
    trainer = make_trainer()
    steps(trainer, 3)
    before = [w.clone() for w in trainer.parameters]
    loss, text = judge(trainer, trainer.columns, trainer.actions)
    assert text.startswith("held out: ")
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True))
    assert trainer.net.training
    for average in trainer.averages.values:
        average.zero_()
    assert judge(trainer, trainer.columns, trainer.actions)[0] > loss
    flat = math.log(2) * 0.5 + math.log(66)  # every action and every first code as likely as any other
    assert judge(trainer, trainer.columns, trainer.actions)[0] > flat


def test_the_best_averages_are_written_and_patience_ends(tmp_path: Path) -> None:
    given = argparse.Namespace(out=tmp_path / "out.safetensors", parts=tmp_path / "parts", patience=2)
    trainer = make_trainer()
    best = Best(trainer, given)
    steps(trainer, 1)
    assert not best.look(5.0)
    written = load_file(given.out)
    names = {id(own): name for name, own in trainer.net.named_parameters()}
    assert len(names) == len(trainer.averages.values)
    steps(trainer, 1)
    assert not best.look(5.5)
    assert all(torch.equal(tensor, written[name]) for name, tensor in load_file(given.out).items())
    assert best.look(5.1)
    assert not best.look(4.0)
    assert not all(torch.equal(tensor, written[name]) for name, tensor in load_file(given.out).items())
    with trainer.averaged():
        expected = {name: tensor.clone() for name, tensor in trainer.net.weights().items()}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_file(given.out).items())
    parts = lm_net.read(given.parts)
    assert all(torch.equal(tensor, expected[name].half().float()) for name, tensor in parts.items())


def test_the_rate_warms_up_stays_and_falls_over_all_calls_together() -> None:
    rates = [Schedule(100, 1.0, 0.05, spent).rate for spent in (0, 2.5, 5, 30, 60, 70, 80, 99.9, 100, 200)]
    assert rates[0] < 0.03
    assert rates[1] == pytest.approx(0.5, abs=0.03)
    assert rates[2:5] == [1, 1, 1]
    assert 1 > rates[5] > rates[6] > 0.25
    assert rates[7:] == [pytest.approx(0.01, abs=0.001)] * 3


def test_the_rate_of_who_learns_after_others_rises_once_these_have_learnt() -> None:
    rates = [Schedule(100, 1.0, 0.02, spent, first=0.05).rate for spent in (0, 4.9, 5, 6, 7, 50)]
    assert rates == [1, 1, pytest.approx(0.05), pytest.approx(0.55), 1, 1]


def test_the_end_of_the_time_can_begin_at_once_and_no_sooner_than_it_would() -> None:
    early, late = Schedule(100, 1.0, 0.05, spent=20), Schedule(100, 1.0, 0.05, spent=90)
    early.cool_down()
    late.cool_down()
    assert (early.spent, late.spent) == (60, 90)


def test_nothing_is_learnt_where_there_is_nothing_to_learn() -> None:
    trainer = make_trainer()
    trainer.actions[:] = NO_ACTION
    losses, _ = lm.measure(trainer.net, trainer.columns, trainer.actions, None, corrupt=False)
    assert losses[0] == 0
    assert (losses[1:] > 0).all()


def test_utterances_are_read_with_their_guests_and_some_are_held_out(tmp_path: Path) -> None:
    texts = [f"Hello {'abcdefghijklmnopqrstuvwxyz'[n % 26]}{'aeiou'[n // 26 % 5]}nder there." for n in range(400)]
    said = [
        corpus.Spoken(n % 3, text, [(0.0, 0.2), (0.3, 0.6), (0.7, 0.9)], np.full((8, 13), n % 512, np.uint16))
        for n, text in enumerate(texts)
    ]
    corpus.write_shard(tmp_path / "0000.npz", said[:300])
    corpus.write_shard(tmp_path / "0001.npz", said[300:])
    tokenizer = learn(texts, 300)
    reader = Reader(tmp_path, tokenizer)
    learnt, held_out = reader.new(most=1)
    assert len(learnt) + len(held_out) == 300
    for found, more in zip((learnt, held_out), reader.new(), strict=True):
        found += more
    assert len(learnt) + len(held_out) == 400
    assert reader.new() == ([], [])
    assert 0 < len(held_out) < 60
    assert {u.speaker for u in learnt} == {0, 1, 2}
    word = learnt[0].words[0]
    assert word.tokens == tokenizer.encode("Hello").ids
    assert all(tokenizer.decode(tokens) == tokenizer.decode(word.tokens) for tokens in word.others)


def test_what_is_made_meanwhile_is_composed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm, "NEWS", 0.0)
    ids, silence = Ids(tags=(2500, 2501)), np.full((8, 50), 511, np.uint16)

    def said(code: int) -> list[Utterance]:
        words = [lm.Word([300], 0.05, 0.4)]
        return [Utterance(speaker, np.full((8, 9), code, np.uint16), words) for speaker in (0, 1)]

    feed = Feed(lambda seed: Composer(said(5), silence, ids, 60, seed), 8, 1, 60, lambda: said(77) * 50)
    try:
        deadline = time.monotonic() + 60
        while not (feed.columns == 77).any() and time.monotonic() < deadline:
            feed.reads[0] += 1
            time.sleep(0.01)
        assert (feed.columns == 77).any()
    finally:
        feed.stop()
