"""Damaged files for as long as you like: scripts/fuzz files --minutes 30; --help has the other options.

A case is one of our files with some damage: a model folder in which one file is wrong, a voice, the words of a clip, or
a recording. Its reader must succeed, and the result be of use, or refuse with one line of our own errors. Anything else
is a fault: another exception, a message that is not one line, output on stderr, a crash, more than a minute, memory
that grows. A case follows from the seed and its number alone: --case N runs it again, with its traceback.

Cases run in a process of their own. If the process dies, a new one continues behind the case that killed it.
"""

import argparse
import json
import math
import os
import random
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from mutations import mutate_bytes, mutate_json, mutate_safetensors

GOLDENS = TESTS / "goldens"
PATIENCE = 60.0  # seconds for one case
LIMIT = 12 << 30  # bytes of address space of the process that runs the cases
LONGEST_MESSAGE = 2000  # characters
GROWTH = 100e6  # bytes that the process may grow by, from the hundredth case on
REPORT_EVERY = 50  # cases


# ---- What is damaged, and what reads it ----


def damage(data: bytes, name: str, rng: random.Random) -> bytes:
    """The contents of a file, wrong in a way that fits its kind; at times in any way."""
    if rng.random() < 0.25:
        return mutate_bytes(data, rng)
    if name.endswith(".json"):
        return mutate_json(data.decode(), rng).encode("utf-8", "surrogatepass")
    if name.endswith(".safetensors"):
        return mutate_safetensors(data, rng)
    return mutate_bytes(data, rng)


class Cases:
    """The kinds of cases, as methods that take a random source and an empty folder."""

    def __init__(self, folder: Path) -> None:
        import torch

        from dia2.checkpoint.load import LoadOptions, load_checkpoint
        from dia2.voice.voice import Voice, load_clip, load_words, make_clip

        torch.set_num_threads(1)
        self.options = LoadOptions(device="cpu")
        self.whole = load_checkpoint(GOLDENS / "published-like" / "checkpoint", self.options)
        clip = GOLDENS / "published-like" / "prefix" / "s1.wav"
        made = make_clip(load_clip(clip, self.whole.codec.sample_rate), load_words(clip), self.whole.codec)
        self.voice = folder / "whole.voice.safetensors"
        Voice("whole", (made, made), "nobody's", {"made": "for a test"}).save(self.voice)
        self.clip = clip

    def model(self, rng: random.Random, folder: Path) -> None:
        """A checkpoint in which one file is damaged or gone: loads it and speaks."""
        import torch

        from dia2.checkpoint.load import load_checkpoint
        from dia2stream.engine import Engine

        source = GOLDENS / rng.choice(("published-like", "every-option")) / "checkpoint"
        shutil.copytree(source, folder / "model")
        files = sorted(path for path in (folder / "model").rglob("*") if path.is_file())
        # Small files have the most to say: as many cases for each as for the weights.
        file = rng.choice(files)
        if rng.random() < 0.02:
            file.unlink()
        else:
            file.write_bytes(damage(file.read_bytes(), file.name, rng))
        checkpoint = load_checkpoint(folder / "model", self.options)
        if file.parent.name == "mimi" and rng.random() < 0.5:
            checkpoint.codec.encode(torch.zeros(1, checkpoint.codec.frame_samples))
        engine = Engine(checkpoint)
        try:
            engine.warm_up()
        finally:
            engine.close()

    def voice_file(self, rng: random.Random, folder: Path) -> None:
        """A voice: its bytes, its tensors, the header of its file."""
        self._use_voice(damage(self.voice.read_bytes(), self.voice.name, rng), folder)

    def _use_voice(self, data: bytes, folder: Path) -> None:
        """Loads a voice, plans it for the model, and keeps it."""
        from dia2.voice.voice import Voice

        (folder / "a.voice.safetensors").write_bytes(data)
        voice = Voice.load(folder / "a.voice.safetensors")
        config = self.whole.config
        voice.check(config.data.codebooks, config.data.audio_codes, config.runtime.max_context_steps)
        prefix = voice.prefix(self.whole.tokenizer)
        assert prefix.frames == voice.frames
        voice.save(folder / "b.voice.safetensors")

    def voice_metadata(self, rng: random.Random, folder: Path) -> None:
        """A voice whose own JSON, inside of the file's header, is damaged."""
        import safetensors.torch
        from safetensors import safe_open

        with safe_open(self.voice, framework="pt") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        field = rng.choice(("voice", "voice", "voice", "version", "format"))
        old = metadata[field]
        metadata[field] = mutate_json(old if field == "voice" else json.dumps(old), rng)
        if field != "voice" and rng.random() < 0.7:
            metadata[field] = str(rng.choice(("", "0", "2", "²", "9" * 5000, "-1", "1.0", " 1", "1\n", "٣")))
        self._use_voice(safetensors.torch.save(tensors, metadata), folder)

    def clip_words(self, rng: random.Random, folder: Path) -> None:
        """The words of a clip, and where the model would have them."""
        from dia2.voice.voice import plan_words, read_words

        path = folder / "a.words.json"
        path.write_bytes(damage(self.clip.with_suffix(".words.json").read_bytes(), path.name, rng))
        plan_words(read_words(path), 1, self.whole.tokenizer)

    def recording(self, rng: random.Random, folder: Path) -> None:
        """A clip's sound."""
        from dia2.voice.recording import read_recording

        source = rng.choice((self.clip, TESTS / "clips" / "flite_slt.flac"))
        path = folder / source.name
        path.write_bytes(mutate_bytes(source.read_bytes()[: rng.choice((200, 4000, 10**7))], rng))
        read_recording(path).at(24_000)


KINDS: tuple[tuple[str, int], ...] = (
    ("model", 10),
    ("voice_file", 3),
    ("voice_metadata", 3),
    ("clip_words", 2),
    ("recording", 2),
)


def run_case(cases: Cases, seed: int, number: int, only: str | None) -> tuple[str, str]:
    """(kind, outcome) of one case: "succeeded", or "refused: " and the error's type. Raises for a fault."""
    from dia2.errors import Dia2Error
    from dia2stream.errors import Dia2StreamError

    rng = random.Random(f"{seed} {number}")
    kind = only or rng.choices([name for name, _ in KINDS], [weight for _, weight in KINDS])[0]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        try:
            getattr(cases, kind)(rng, Path(folder))
        except (Dia2Error, Dia2StreamError) as error:
            check_message(str(error))
            return kind, f"refused: {type(error).__name__}"
    return kind, "succeeded"


def check_message(message: str) -> None:
    """Raises AssertionError unless a message is one printable line."""
    assert message, "the message is empty"
    assert len(message) <= LONGEST_MESSAGE, f"the message is {len(message)} characters long: {message[:300]!r}"
    assert message.isprintable(), f"the message is not one printable line: {message[:500]!r}"


# ---- The process that runs the cases ----


def work(seed: int, first: int, only: str | None) -> None:
    """Runs case after case until it is killed; tells about each on stdout, as lines of JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    told, sys.stdout = sys.stdout, sys.stderr  # what a reader prints is a fault

    def tell(**fields: Any) -> None:
        print(json.dumps(fields), file=told, flush=True)

    with tempfile.TemporaryDirectory(prefix="fuzz-seeds-") as folder:
        cases = Cases(Path(folder))
        number = first
        while True:
            tell(began=number)
            try:
                kind, outcome = run_case(cases, seed, number, only)
                tell(case=number, kind=kind, outcome=outcome)
            except BaseException as error:  # a panic of a Rust library is a BaseException
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    raise
                tell(case=number, fault=f"{type(error).__name__}: {error}"[:600], trace=traceback.format_exc()[-3000:])
            number += 1
            if (number - first) % REPORT_EVERY == 0:
                tell(memory=_memory())


def _memory() -> int:
    """Bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ---- The process that watches ----


class Watch:
    """Starts workers, one at a time, and counts what they tell.

    on_fault: called with the number of the case and what was wrong. command: the command line of a worker that begins
    with a case of that number.
    """

    def __init__(self, seed: int, only: str | None, on_fault: Callable[[int, str], None]) -> None:
        self.on_fault = on_fault
        chosen = ["--only", only] if only else []
        self.command = lambda first: [sys.executable, __file__, "--worker", str(first), "--seed", str(seed), *chosen]
        self.outcomes: Counter[str] = Counter()
        self.faults: list[dict[str, Any]] = []
        self.grown = 0  # bytes, of the worker that grew most
        self.memory: list[list[int]] = []  # bytes of each worker, every REPORT_EVERY cases
        self.cases = 0
        self._case = 0  # the one that runs now
        self._began = 0.0
        self._memory: list[int] = []

    def run(self, seconds: float, cases: int | None) -> None:
        """Until the time is up, or so many cases have been run."""
        until, first = time.monotonic() + seconds, 0
        while time.monotonic() < until and (cases is None or self.cases < cases):
            first = self.watch_one(first, until, cases) + 1

    def watch_one(self, first: int, until: float, cases: int | None) -> int:
        """One worker, from case `first` on; returns the last case that it began."""
        self._case, self._began, self._memory = first, time.monotonic(), []
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(self.command(first), bufsize=0, env=environment, **pipes) as worker:
            assert worker.stderr is not None
            errors = worker.stderr.fileno()
            for descriptor, line in _lines(worker):
                if descriptor == errors:
                    self._fault(self._case, f"on stderr: {line}")
                elif descriptor is not None:
                    self._count(json.loads(line))
                if time.monotonic() - self._began > PATIENCE:
                    self._fault(self._case, f"took more than {PATIENCE:.0f} s")
                    break
                if time.monotonic() > until or (cases is not None and self.cases >= cases):
                    break
            else:
                self._fault(self._case, f"the process ended with {worker.wait()}")
            worker.kill()
        self.memory.append(self._memory)
        settled = self._memory[100 // REPORT_EVERY :]
        self.grown = max(self.grown, max(settled) - settled[0] if settled else 0)
        return self._case

    def _count(self, told: dict[str, Any]) -> None:
        if "began" in told:
            self._case, self._began = told["began"], time.monotonic()
        elif "memory" in told:
            self._memory.append(told["memory"])
        else:
            self.cases += 1
            if "fault" in told:
                self._fault(told["case"], told["fault"], told["trace"])
            else:
                self.outcomes[f"{told['kind']}: {told['outcome']}"] += 1

    def _fault(self, case: int, what: str, trace: str = "") -> None:
        self.outcomes["FAULT"] += 1
        if len(self.faults) < 1000:
            self.faults.append({"case": case, "fault": what, "trace": trace})
        self.on_fault(case, what)


def _lines(process: "subprocess.Popen[bytes]") -> Iterator[tuple[int | None, str]]:
    """(descriptor, line) of a process's stdout and stderr until both end; (None, "") every second without one."""
    assert process.stdout is not None
    assert process.stderr is not None
    rest = {process.stdout.fileno(): b"", process.stderr.fileno(): b""}
    with selectors.DefaultSelector() as ready:
        for descriptor in rest:
            ready.register(descriptor, selectors.EVENT_READ)
        while ready.get_map():
            events = ready.select(1)
            if not events:
                yield None, ""
            for key, _ in events:
                if not (data := os.read(key.fd, 1 << 16)):
                    ready.unregister(key.fd)
                *whole, rest[key.fd] = (rest[key.fd] + data).split(b"\n")
                yield from ((key.fd, line.decode(errors="replace")) for line in whole)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz files", description=__doc__.split("\n\n")[1])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--cases", type=int, help="stop after so many cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[name for name, _ in KINDS])
    parser.add_argument("--case", type=int, help="run this one alone, with its traceback")
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        work(options.seed, options.worker, options.only)
    if options.case is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(*run_case(Cases(Path(folder)), options.seed, options.case, options.only), sep=": ")
        return 0
    watch = Watch(options.seed, options.only, lambda case, what: print(f"FAULT in case {case}: {what}", flush=True))
    watch.run(math.inf if options.cases else options.minutes * 60, options.cases)
    for outcome, count in sorted(watch.outcomes.items()):
        print(f"{count:8}  {outcome}")
    found, grown = len(watch.faults), watch.grown
    print(f"{watch.cases} cases of seed {options.seed}, {found} faults, memory grew by {grown / 1e6:.0f} MB at most")
    if options.json:
        told = {"cases": watch.cases, "outcomes": watch.outcomes, "grown": grown, "faults": watch.faults}
        told["memory"] = watch.memory
        options.json.write_text(json.dumps(told, indent=1))
    return int(bool(found) or grown > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
