"""Checks of the language model's training code against dia2's own."""

import argparse
import random
import time
from pathlib import Path

import lm_net
import numpy as np
import torch
from compose import NO_ACTION, Call, Composer, Ids, Mix, Utterance, Word
from safetensors.torch import load_file

from dia2.model.config import Dia2Config
from dia2.model.delays import blank, delay_frames
from dia2.text.machine import TextMachine
from dia2.text.script import Entry

GOLDENS = Path(__file__).resolve().parents[2] / "tests" / "goldens" / "published-like"


def check_net() -> None:
    """The parallel forward pass gives the goldens' logits."""
    folder = GOLDENS / "checkpoint"
    net = lm_net.LmNet(Dia2Config.from_file(folder / "config.json")).load(load_file(folder / "model.safetensors"))
    teacher = {
        name: tensor for name, tensor in load_file(GOLDENS / "expected.safetensors").items() if "teacher" in name
    }
    columns = teacher["teacher.tokens"].long().transpose(0, 1)  # [2, T, 2 + C]
    following = torch.zeros_like(columns)
    following[..., 2:-1] = teacher["teacher.prev_audio"].long()  # stage s's previous code is codebook s
    logits = net.eval()(columns, following)
    stages = logits.stages.unflatten(1, columns.shape[:2])  # [S, 2, T, codes]
    found = {
        "action_logits": logits.action.transpose(0, 1),
        "cb0_logits": logits.cb0.transpose(0, 1),
        "depformer_logits": stages.permute(2, 0, 1, 3),
    }
    for name, value in found.items():
        expected = teacher[f"teacher.{name}"]
        apart = (value - expected[..., : value.shape[-1]]).abs().max().item()
        print(f"{name} {tuple(value.shape)}: at most {apart:.1e} apart")
        assert apart < 1e-3
    own = lm_net.LmNet(lm_net.config(2502)).initialise(0)
    count = sum(tensor.numel() for tensor in own.weights().values())
    print(f"{count / 1e6:.2f} M parameters, {count * 2 / 1e6:.1f} MB in float16")


def fake_utterances(count: int, vocabulary: int, seed: int = 0) -> list[Utterance]:
    """Words of one to four tokens at a plausible pace; a code says which token sounds, whose, and since when.

    One utterance in eight is of one of three guests.
    """
    dice, found = random.Random(seed), []
    for number in range(count):
        speaker, at, words, codes = number % 2 if number % 8 else 2 + dice.randrange(3), 0.05, [], []
        for _ in range(dice.randint(1, 12)):
            tokens = [dice.randrange(300, vocabulary) for _ in range(dice.choice([1, 1, 1, 2, 2, 4]))]
            end = at + 0.1 + dice.expovariate(5.0)
            others = [[dice.randrange(300, vocabulary) for _ in range(len(tokens) + more)] for more in (1, 2)]
            words.append(Word(tokens, round(at, 3), round(end, 3), others))
            at = end + (dice.random() < 0.1) * 0.3
        for frame in range(round((at + 0.15) * 12.5)):
            spoken = [word for word in words if word.start * 12.5 <= frame] or words[:1]
            since = frame - round(spoken[-1].start * 12.5)
            token = spoken[-1].tokens[min(max(since, 0), len(spoken[-1].tokens) - 1)]
            codes.append([(token * (book + 1) + 7 * speaker + min(max(since, 0), 3)) % 512 for book in range(8)])
        found.append(Utterance(speaker, np.array(codes, np.uint16).T, words))
    return found


def check_compose(sequences: int) -> None:
    """What is composed is what the text machine and the delayed grid make of the same words and actions."""
    ids = Ids(tags=(2500, 2501))
    silence = np.full((8, 50), 511, np.uint16) - np.arange(8, dtype=np.uint16)[:, None]
    composer = Composer(
        fake_utterances(200, 2500), silence, ids, mix=Mix(untexted=0.0, prefixed=0.3, guests=0.5, heard=0.4, split=0.5)
    )
    labels = free = 0
    for _ in range(sequences):
        call = composer.call()
        columns, actions = composer.columns(call)
        some = check_text(call, columns, actions, ids)
        labels, free = labels + some[0], free + some[1]
        laid = blank(1, len(columns), ids.delays, ids.audio_bos, torch.device("cpu"))
        delay_frames(torch.from_numpy(call.frames.astype(np.int64))[None], ids.delays, laid)
        assert np.array_equal(laid[0].T.numpy(), columns[:, 2:])
    print(f"{sequences} sequences are the machine's; {labels} of {free} free actions are learnt")
    began = time.perf_counter()
    composed = 0
    while time.perf_counter() - began < 2:
        columns, _ = composer.compose()
        composed += len(columns)
    print(f"{composed / (time.perf_counter() - began) / 1000:.0f} thousand columns a second")


def check_text(call: Call, columns: np.ndarray, actions: np.ndarray, ids: Ids) -> tuple[int, int]:
    """Runs the machine over a call. Returns how many actions are learnt, and how many were free."""
    machine = TextMachine(ids.new_word, ids.pad, 2)
    state, starts, labels, free = machine.start(), set(call.starts), 0, 0
    events = {(event.kind, event.step): event for event in call.events}
    in_clip = False
    for step in range(len(columns) - 1):
        if ("fresh", step) in events:
            state, in_clip = machine.start(), False
        for kind in ("clip", "text"):
            if (kind, step) in events:
                if kind == "clip":
                    state, in_clip = machine.start(), True
                state.append([Entry(tuple(tokens), "x", pad) for tokens, pad in events[kind, step].entries])
        choice = not state.pending and state.forced_padding <= 0 and state.padding_budget > 0 and not in_clip
        free += choice
        if actions[step] != NO_ACTION:
            labels += 1
            assert choice, f"step {step} is forced"
            assert actions[step] == (step in starts), step
        text = machine.process(state, step, int(step in starts), forced=in_clip)
        if ("blank", step + 1) in events:
            text = (ids.pad, ids.pad)
        assert text == tuple(columns[step + 1, :2]), (step, text, columns[step + 1, :2], call.events)
    return labels, free


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=300)
    given = parser.parse_args()
    with torch.no_grad():
        check_net()
    check_compose(given.sequences)


if __name__ == "__main__":
    main()
