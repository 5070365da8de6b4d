"""Trains the language model: `lm.py CODES TOKENIZER OUT --deadline EPOCH --minutes 15`.

CODES: a folder of shards that corpus.py wrote, and `silence.npy`, codes of nobody speaking [8, frames]. TOKENIZER: the
folder that tokenizer.py wrote.

Made for a machine that is there for minutes. The learning rate follows the time that was trained, of `--minutes` in
all. Each call ends at `--deadline`, and leaves STATE (weights, averages, optimizer, time) with which the next call
goes on. Averages of the weights over some seconds are what is judged, and those that were best on utterances held out
are written to OUT (a .safetensors). On CUDA a step, optimizer and averages and all, is one graph.
"""

import argparse
import gc
import math
import mmap
import multiprocessing
import os
import random
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import corpus
import lm_net
import numpy as np
import torch
import torch.nn.functional as F
from compose import NO_ACTION, Composer, Ids, Mix, Utterance, Word
from tokenizer import other_tokens
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from training import (
    Averages,
    Schedule,
    go_on_from,
    read_state,
    state_of,
    write_state,
)

from dia2.model.config import Dia2Config

CORRUPTED, ROWS_CORRUPTED = 0.08, 0.5  # of the codes that are read, in so many sequences
NEWS = 1.0  # seconds between two looks at whether there are more codes
JUDGE = 30.0  # seconds between two looks at what is held out
MARGIN = 3.0  # seconds before the deadline in which nothing is learnt, but the last weights are written
PHASES = 0.3  # what the codes of phases count, where cb0 counts 1
VALIDATION = 100  # one utterance in so many
Say = Callable[[str], None]
BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


# ---- Data ----


class Reader:
    """Reads shards of codes, each once; `new` reads those that have come since."""

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        self.folder, self.tokenizer = folder, tokenizer
        self._known: dict[str, tuple[list[int], list[list[int]]]] = {}
        self._seen: set[Path] = set()

    def new(self, most: int | None = None) -> tuple[list[Utterance], list[Utterance]]:
        """Of at most so many shards that were not read yet: utterances to train on, and those to validate with."""
        found: tuple[list[Utterance], list[Utterance]] = [], []
        for path in [path for path in corpus.shards(self.folder) if path not in self._seen][:most]:
            self._seen.add(path)
            for spoken in corpus.read_shard(path):
                validates = zlib.crc32(spoken.text.lower().encode()) % VALIDATION == 0
                found[validates].append(self._utterance(spoken))
        return found

    def _utterance(self, spoken: corpus.Spoken) -> Utterance:
        words = [
            Word(*self._tokens(word, start, stop))
            for word, (start, stop) in zip(spoken.text.split(), spoken.times, strict=True)
        ]
        speaker, is_heard = spoken.speaker % corpus.HEARD, spoken.speaker >= corpus.HEARD
        return Utterance(speaker, spoken.codes, words, is_heard)

    def _tokens(self, word: str, start: float, stop: float) -> tuple[list[int], float, float, list[list[int]]]:
        if word not in self._known:
            own = self.tokenizer.encode(word, add_special_tokens=False).ids
            self._known[word] = own, other_tokens(self.tokenizer, word, random.Random(word))
        tokens, others = self._known[word]
        return tokens, start, stop, others


def shared(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros that forked processes see too; not in /dev/shm, which containers keep small."""
    size = int(np.prod(shape))
    return np.frombuffer(mmap.mmap(-1, size * np.dtype(dtype).itemsize), dtype, size).reshape(shape)


class Feed:
    """Sequences made by other processes, each in rows of its own, over and over; read as they are.

    Training waits for nobody: it draws from whatever rows there are. A process rests when its rows are all unread.
    Codes that others make meanwhile are taken up: `news` gives the utterances that have come, a few at a time.
    """

    def __init__(
        self,
        composer: Callable[[int], Composer],
        rows: int,
        workers: int,
        length: int,
        news: Callable[[], list[Utterance]] = list,
    ) -> None:
        self.columns = shared((rows, length + 1, 10), np.int16)
        self.actions = shared((rows, length), np.int8)
        self.made = shared((workers,), np.int64)
        self.reads = shared((1,), np.int64)
        self.share, self.news = rows // workers, news
        gc.freeze()  # what nobody collects stays one copy
        context = multiprocessing.get_context("fork")  # the utterances are there already
        self.processes = [
            context.Process(target=self._work, args=(composer, number), daemon=True) for number in range(workers)
        ]
        for process in self.processes:
            process.start()

    def _work(self, composer: Callable[[int], Composer], number: int) -> None:
        own, turn, looked = composer(1000 + number), 0, time.monotonic()
        while True:
            if time.monotonic() - looked > NEWS:
                own.add(self.news())
                looked = time.monotonic()
            row = number * self.share + turn % self.share
            self.columns[row], self.actions[row] = own.compose()
            turn += 1
            self.made[number] = turn
            while turn >= (self.reads[0] + 1) * self.share:
                time.sleep(0.01)

    def ready(self) -> Tensor:
        """The rows that hold a sequence, int64 [n]."""
        counts = np.minimum(self.made, self.share).tolist()
        return torch.cat([torch.arange(count) + number * self.share for number, count in enumerate(counts)])

    def stop(self) -> None:
        """Ends the processes."""
        for process in self.processes:
            process.terminate()
        gc.unfreeze()


# ---- Loss ----


def masked(loss: Tensor, there: Tensor) -> Tensor:
    """The mean over the last dimension where there is something to learn; no branch, no wait for the device."""
    return (loss * there).sum(-1) / there.sum(-1).clamp(min=1)


def measure(
    net: lm_net.LmNet, columns: Tensor, actions: Tensor, odd: Tensor | None, corrupt: bool
) -> tuple[Tensor, Tensor]:
    """columns int64 [B, T + 1, 10], actions [B, T] -> losses and accuracies, each [9]: action, cb0, the stages."""
    data = net.config.data
    inputs, following = columns[:, :-1], columns[:, 1:]
    if corrupt:
        inputs = corrupted(inputs, data.audio_codes)
    logits = net(inputs, following, odd)
    stages = lm_net.either(following[..., 3:], odd).flatten(0, 1).T  # [S, N]
    losses, hits = [], []
    for given, wanted, there in (
        (logits.action, actions, actions != NO_ACTION),
        (logits.cb0, following[..., 2], following[..., 2] < data.audio_codes),
        (logits.stages, stages, stages < data.audio_codes),
    ):
        rows = 1 if given is not logits.stages else len(stages)
        wanted, there = wanted.masked_fill(~there, 0).reshape(-1), there.reshape(rows, -1)
        flat = given.flatten(0, -2).float()
        losses.append(masked(F.cross_entropy(flat, wanted, reduction="none").view(rows, -1), there))
        hits.append(masked((flat.argmax(-1) == wanted).view(rows, -1).float(), there))
    return torch.cat(losses), torch.cat(hits)


def corrupted(columns: Tensor, codes: int) -> Tensor:
    """Some codes in some rows become random ones: what the model reads when it speaks is not always right."""
    audio = columns[..., 2:]
    row = torch.rand(len(columns), 1, 1, device=columns.device) < ROWS_CORRUPTED
    here = (torch.rand(audio.shape, device=columns.device) < CORRUPTED) & row & (audio < codes)
    wrong = torch.randint(codes, audio.shape, device=columns.device)
    return torch.cat([columns[..., :2], torch.where(here, wrong, audio)], -1)


def weights_of(stages: int) -> Tensor:
    """What each loss counts: action, cb0, and the stages: the first hold most of the sound, the last the phases."""
    counts = torch.cat([torch.tensor([0.5, 1.0]), 0.08 + 0.42 * 0.5 ** torch.arange(stages)])
    counts[-1] = PHASES
    return counts


# ---- Steps ----


class Trainer:
    """One step of learning, eager or as a CUDA graph; the same tensors are read and written by every step."""

    def __init__(self, net: lm_net.LmNet, batch: int, length: int, device: torch.device, decay: float) -> None:
        self.net, self.device = net.to(device), device
        self.columns = torch.zeros(batch, length + 1, 10, dtype=torch.int64, device=device)
        self.actions = torch.full((batch, length), NO_ACTION, dtype=torch.int64, device=device)
        self.counts = weights_of(net.depformer.stages).to(device)
        self.total = torch.zeros(len(self.counts), device=device)  # of the losses since they were last read
        self.rate = torch.tensor(0.0, device=device)
        self.steps = 0
        self.parameters = list(net.parameters())
        self.averages = Averages(self.parameters)
        cuda = device.type == "cuda"
        matrices = [w for name, w in net.named_parameters() if w.dim() > 1 and "embed" not in name]
        rest = [w for name, w in net.named_parameters() if w.dim() == 1 or "embed" in name]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}],
            lr=self.rate,
            betas=(0.9, 0.95),
            fused=True,
            **({"capturable": True} if cuda else {}),
        )
        self.graph: torch.cuda.CUDAGraph | None = None

    def autocast(self) -> torch.autocast:
        """bfloat16 products on CUDA. Without its cache: casts must be part of a graph."""
        cuda = self.device.type == "cuda"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=cuda, cache_enabled=False)

    def step(self) -> None:
        """Forward, backward, clip, update, average."""
        odd = torch.rand(len(self.columns), self.actions.shape[1] // 2, device=self.device) < 0.5
        with self.autocast(), sdpa_kernel(BACKENDS):
            losses, _ = measure(self.net, self.columns, self.actions, odd, corrupt=True)
        (losses * self.counts).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.averages.update()
        self.total += losses.detach()

    def capture(self) -> None:
        """Records the step as a graph, after a few at a learning rate of 0."""
        self.rate.fill_(0)
        self.averages.hold()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.optimizer.zero_grad(set_to_none=True)
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.graph = graph
        self.total.zero_()

    def learn(self, rate: float, average: float) -> None:
        """A step, as quickly as there is one. average: of the last averages, what stays."""
        self.steps += 1
        self.rate.fill_(rate)
        self.averages.set(average, self.steps)
        if self.graph is not None:
            self.graph.replay()
            return
        self.optimizer.zero_grad(set_to_none=True)
        self.step()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The net has the averages as its weights, and drops nothing."""
        self.net.eval()
        with self.averages.in_place():
            yield
        self.net.train()

    def state(self) -> dict[str, Any]:
        """All that a trainer needs to go on as if it had never stopped, but for what it is fed."""
        return state_of(self)

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` gave, before a graph is captured."""
        go_on_from(self, state)


@torch.no_grad()
def judge(trainer: Trainer, columns: Tensor, actions: Tensor) -> tuple[float, str]:
    """The averages' loss on what was not learnt, as it counts, and all losses and accuracies to be shown."""
    found = []
    with trainer.averaged():
        for part in range(0, len(columns), 16):
            where = slice(part, part + 16)
            with trainer.autocast(), sdpa_kernel(BACKENDS):
                given = [x[where].to(trainer.device).long() for x in (columns, actions)]
                found.append(torch.stack(measure(trainer.net, *given, None, corrupt=False)))
    losses, hits = torch.stack(found).mean(0)
    total = float((losses * trainer.counts).sum())
    return total, f"held out: {total:.4f}, losses {numbers(losses.tolist())} right {numbers(hits.tolist())}"


def numbers(values: list[float]) -> str:
    """action, cb0 | the stages."""
    shown = [f"{value:.3f}" for value in values]
    return " ".join([*shown[:2], "|", *shown[2:]])


class Best:
    """Writes the averages whenever they are better than ever on what is held out."""

    def __init__(self, trainer: Trainer, given: argparse.Namespace, loss: float = math.inf, worse: int = 0) -> None:
        self.trainer, self.given, self.loss, self.worse = trainer, given, loss, worse

    def look(self, loss: float) -> bool:
        """Takes a loss; returns whether it is time to come to an end: `patience` looks and no better one."""
        if loss < self.loss:
            self.loss, self.worse = loss, 0
            with self.trainer.averaged():
                lm_net.save(self.trainer.net.weights(), self.given.out)
                if self.given.parts is not None:
                    lm_net.save_parts(self.trainer.net.weights(), self.given.parts)
        else:
            self.worse += 1
        return self.worse >= self.given.patience


class Pool:
    """On the device, the sequences that the feed has made."""

    def __init__(self, feed: Feed, trainer: Trainer) -> None:
        self.feed, self.trainer = feed, trainer
        self.source = [torch.from_numpy(x) for x in (feed.columns, feed.actions)]
        self.pool = [torch.zeros_like(x, device=trainer.device) for x in self.source]
        self.rows = torch.zeros(0)

    def wait(self, count: int) -> None:
        """Until so many sequences are there."""
        while len(self.feed.ready()) < count:
            if not all(process.is_alive() for process in self.feed.processes):
                raise RuntimeError("a composing process has died")
            time.sleep(0.05)
        self.refill()

    def refill(self) -> None:
        """Copies what is there now."""
        self.rows = self.feed.ready().to(self.trainer.device)
        for here, there in zip(self.pool, self.source, strict=True):
            here.copy_(there)
        self.feed.reads[0] += 1

    def draw(self) -> None:
        """A batch for the next step."""
        chosen = self.rows[torch.randint(len(self.rows), (len(self.trainer.columns),), device=self.trainer.device)]
        self.trainer.columns.copy_(self.pool[0][chosen])
        self.trainer.actions.copy_(self.pool[1][chosen])


def train(trainer: Trainer, pool: Pool, schedule: Schedule, best: Best, valid: list[Tensor], say: Say) -> None:
    """Learns until the deadline or the end of the schedule, which comes sooner if what is held out gets no better."""
    given, length = best.given, trainer.actions.shape[1]
    if given.resume is not None and trainer.steps == 0:
        # What is worse than what it began as is not written.
        loss, text = judge(trainer, *valid)
        best.look(loss)
        say(f"before: {text}")
    last = told = judged = refilled = time.time()
    stop, before = given.deadline - MARGIN, trainer.steps
    shown = before
    while (now := time.time()) < stop and schedule.progress < 1:
        schedule.spent, last = schedule.spent + now - last, now
        pool.draw()
        trainer.learn(schedule.rate, given.average)
        if trainer.device.type == "cuda" and trainer.steps % 8 == 0:
            torch.cuda.synchronize()  # the clock is the schedule: no running ahead of the device
        if now - refilled > 3:
            pool.refill()
            refilled = now
        if now - told > 5:
            losses = (trainer.total / (trainer.steps - shown)).tolist()
            if not all(map(math.isfinite, losses)):
                raise SystemExit(f"step {trainer.steps}: losses {numbers(losses)}")
            trainer.total.zero_()
            speed = (trainer.steps - shown) * len(trainer.columns) * length / (now - told)
            made = pool.feed.made.sum()
            say(f"{trainer.steps} steps, {speed / 1000:.0f} k/s, {made} composed: losses {numbers(losses)}")
            told, shown = now, trainer.steps
        if now - judged > given.judge:
            judged = now
            loss, text = judge(trainer, *valid)
            say(text)
            if best.look(loss):
                say(f"no better for {best.worse} looks: the learning rate falls from now on")
                schedule.cool_down()
    if trainer.steps == before and schedule.progress < 1:
        raise SystemExit("no step was made: too little time")
    loss, text = judge(trainer, *valid)
    best.look(loss)
    say(f"{trainer.steps} steps, {schedule.progress:.0%} of the time; {text}; best {best.loss:.4f}")


def save_state(path: Path, trainer: Trainer, schedule: Schedule, best: Best, valid: list[Tensor]) -> None:
    """All that the next call needs. valid: what all calls are judged by, as losses of other calls say nothing here."""
    told = {"trainer": trainer.state(), "spent": schedule.spent, "best": best.loss, "worse": best.worse, "valid": valid}
    write_state(path, told)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codes", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--deadline", type=float, required=True, help="of this call, seconds since 1970")
    parser.add_argument("--minutes", type=float, required=True, help="of training in all; 0: the rest of this call")
    parser.add_argument("--state", type=Path, help="where a call leaves what the next one goes on with")
    parser.add_argument("--resume", type=Path, help="weights to start from: a file, or a folder of parts")
    parser.add_argument("--parts", type=Path, help="a folder to write the weights to as well, halved and in parts")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rows", type=int, default=8192, help="sequences kept to draw from")
    parser.add_argument("--length", type=int, default=lm_net.CONTEXT, help="columns of a sequence")
    parser.add_argument("--shards", type=int, default=60, help="read before it begins; the others follow meanwhile")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--warm-up", type=float, default=0.03, help="of the time")
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--average", type=float, default=0.999, help="of the averages, what stays at each step")
    parser.add_argument("--judge", type=float, default=JUDGE, help="seconds between two looks at what is held out")
    parser.add_argument("--patience", type=int, default=8, help="looks without a better one, after which it cools down")
    parser.add_argument("--layers", type=int, help="of the backbone, for a try")
    parser.add_argument("--eager", action="store_true", help="no CUDA graph")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    given = parse()
    began = time.time()
    say = lambda text: print(f"{time.time() - began:6.1f} s  {text}", flush=True)  # noqa: E731
    tokenizer = Tokenizer.from_file(str(given.tokenizer / "tokenizer.json"))
    reader = Reader(given.codes, tokenizer)
    utterances, held_out = reader.new(given.shards)
    if len({u.speaker for u in held_out} & {0, 1}) < 2:
        held_out = utterances
    silence, length = np.load(given.codes / "silence.npy"), given.length
    ids = Ids(tags=tuple(tokenizer.token_to_id(tag) for tag in ("[S1]", "[S2]")))
    frames = sum(u.codes.shape[1] for u in utterances)
    say(f"{len(utterances)} utterances, {frames} frames; {len(held_out)} held out; {given.device}")
    # Before CUDA is touched: processes are forked. Another call's sequences are others.
    first = 100_000 * (int(began) % 1000) if given.seed == 0 else given.seed
    feed = Feed(
        lambda seed: Composer(utterances, silence, ids, length, first + seed),
        given.rows,
        given.workers,
        length,
        lambda: reader.new(most=4)[0],
    )
    trainer, schedule, best, valid = _trainer(given, lm_net.config(tokenizer.get_vocab_size(), given.layers))
    if not valid:
        judged = Composer(held_out, silence, ids, length, 1, Mix(untexted=0.0, split=0.0))
        some = [judged.compose() for _ in range(48 if given.device != "cpu" else 4)]
        valid = [torch.from_numpy(np.stack(part)) for part in zip(*some, strict=True)]
    pool = Pool(feed, trainer)
    pool.wait(4 * given.batch)
    pool.draw()
    if trainer.device.type == "cuda" and not given.eager:
        try:
            trainer.capture()
        except Exception:
            # A slower step is better than none; what is left of a broken recording only a new process is rid of.
            traceback.print_exc()
            say("no graph: once more, with eager steps")
            feed.stop()
            os.execv(sys.executable, [sys.executable, *sys.argv, "--eager"])
        say("the step is a graph")
    if not given.minutes:
        schedule.fill(given.deadline - MARGIN - time.time())
    train(trainer, pool, schedule, best, valid, say)
    feed.stop()
    if given.state is not None:
        save_state(given.state, trainer, schedule, best, valid)
    say(f"{given.deadline - time.time():.1f} s left")


def _trainer(given: argparse.Namespace, config: Dia2Config) -> tuple[Trainer, Schedule, Best, list[Tensor]]:
    """Where training stands: new, from weights, or where another call stopped, with what that was judged by."""
    torch.manual_seed(given.seed)
    torch.set_float32_matmul_precision("high")
    net = lm_net.LmNet(config, given.dropout).initialise(given.seed)
    if given.resume is not None:
        net.load(lm_net.read(given.resume))
    trainer = Trainer(net.train(), given.batch, given.length, torch.device(given.device), given.decay)
    schedule, best = Schedule(60 * given.minutes, given.lr, given.warm_up), Best(trainer, given)
    if (told := read_state(given.state, trainer.device)) is not None:
        trainer.restore(told["trainer"])
        schedule.spent, best.loss, best.worse = told["spent"], told["best"], told["worse"]
        return trainer, schedule, best, [part.cpu() for part in told["valid"]]
    return trainer, schedule, best, []


if __name__ == "__main__":
    main()
