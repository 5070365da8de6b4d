"""`scripts/judge`: speaks, listens, and says how good it was. README.md beside this says what each figure means.

scripts/judge                                    the bundled voice, in some minutes
scripts/judge --quick                            the same in about one
scripts/judge --model nari-labs/Dia2-2B --voice alice.voice.safetensors --whisper large-v3-turbo
"""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import typer
from listeners import load_ear
from material import held_out_interruptions, interruptions, sentences
from probes import InterruptionProbe, SentenceProbe
from published import compare_tokens
from report import Figure, as_json, show
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from speaking import (
    SAMPLE_RATE,
    EngineVoice,
    Spoken,
    Task,
    speak_through_pipe,
    speak_through_serve,
)
from words import Plain

from dia2.errors import Dia2Error
from dia2stream.engine.engine import Engine
from dia2stream.errors import Dia2StreamError
from dia2stream.options import ModelOptions, SpeechOptions

PAUSES = (0.35, 0.7)  # shares of a sentence after which the listener is asked about
WORST_SHOWN = 12
WIDTH = 140  # of the table where there is no terminal


@dataclass(frozen=True)
class Size:
    """How much is said: sentences, interruptions, and how many tasks go through pipe and serve."""

    sentences: int
    interruptions: int
    ways: int


FULL, QUICK = Size(40, 48, 6), Size(6, 8, 0)
err = Console(stderr=True)


def judge(
    model: Annotated[str, typer.Option(help="A hub repo, a folder, or bundled.")] = "bundled",
    voice: Annotated[list[str] | None, typer.Option(help="A voice file; the first is spoken in.")] = None,
    whisper: Annotated[
        str | None, typer.Option(help="Who listens: a size, a folder or a hub repo of Whisper. Default: tiny.en.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A minute's worth: fewer texts, in process only.")] = False,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Say and interrupt other texts, by which nothing was chosen.")
    ] = False,
    published: Annotated[
        str | None,
        typer.Option(help="A Python that has the published package: its greedy tokens are compared.", metavar="PYTHON"),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, bfloat16 or float32.")] = "auto",
    slots: Annotated[int, typer.Option(help="How many conversations are spoken side by side.", min=1)] = 4,
    json_file: Annotated[str | None, typer.Option("--json", help="Write all figures here; - is stdout.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Write what was spoken into this folder, as WAV files.")] = None,
) -> None:
    """Speaks, listens, measures, and compares with what must hold. Exits with 1 when a gate fails."""
    options = ModelOptions(model=model, device=device, dtype=dtype)  # type: ignore[arg-type]
    speech, size = SpeechOptions(voice=tuple(voice or ())), QUICK if quick else FULL
    try:
        with _progress() as progress:
            figures, examples = _measure(options, speech, size, held_out, whisper, slots, keep, progress)
            if published is not None:
                figures.append(compare_tokens(published, options))
    except (Dia2Error, Dia2StreamError, RuntimeError, ImportError) as error:
        err.print(f"judge: {error}", style="red", highlight=False, markup=False)
        raise typer.Exit(1) from None
    setting = {"model": model, "voice": voice, "whisper": whisper or "tiny.en", "quick": quick, "held_out": held_out}
    if json_file != "-":
        for example in examples[:WORST_SHOWN]:
            err.print(f"heard wrong: {example}", highlight=False, markup=False)
        console = Console(width=None if sys.stdout.isatty() else WIDTH)
        show(figures, f"{model}, heard by Whisper {whisper or 'tiny.en'}", console)
    if json_file is not None:
        text = json.dumps(as_json(figures, setting), indent=1)
        print(text) if json_file == "-" else Path(json_file).write_text(text + "\n", "utf-8")
    if not all(figure.passes for figure in figures):
        raise typer.Exit(1)


Step = Callable[[str, int], Callable[[], None]]


@contextmanager
def _progress() -> Iterator[Step]:
    """Gives a function that begins a bar and returns what moves it on."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=err, disable=not err.is_terminal) as bars:

        def begin(name: str, total: int) -> Callable[[], None]:
            bar = bars.add_task(name, total=total)
            return lambda: bars.advance(bar)

        yield begin


def _measure(
    model: ModelOptions,
    speech: SpeechOptions,
    size: Size,
    held_out: bool,
    whisper: str | None,
    slots: int,
    keep: Path | None,
    begin: Step,
) -> tuple[list[Figure], list[str]]:
    """All figures, and what was heard wrong."""
    plain, ear = Plain(), load_ear(whisper)
    said = sentences(size.sentences, held_out)
    cuts = held_out_interruptions(size.interruptions) if held_out else interruptions(size.interruptions)
    controls = list({_control(task): None for task in cuts})
    asked = [replace(one.task, pauses=PAUSES) for one in said]
    engine = Engine.load(model, slots=slots, speech=speech)
    try:
        tasks = [*asked, *cuts, *controls]
        spoken = asyncio.run(EngineVoice(engine).speak(tasks, begin("speaking", len(tasks))))
    finally:
        engine.close()
    by_task = dict(zip(tasks, spoken, strict=True))
    if keep is not None:
        _keep(keep, spoken)
    sentence_probe = SentenceProbe(ear, plain)
    step = begin("listening to sentences", len(said))
    for one, task in zip(said, asked, strict=True):
        sentence_probe.listen(one, by_task[task])
        step()
    interruption_probe = InterruptionProbe(ear, plain)
    step = begin("listening to interruptions", len(cuts))
    for task in cuts:
        interruption_probe.listen(by_task[task], by_task[_control(task)])
        step()
    figures = [*sentence_probe.figures(), *interruption_probe.figures()]
    if size.ways:
        figures += _ways(model, speech, [*asked[: size.ways], *cuts[: size.ways]], by_task, begin)
    examples = [text for errors in sentence_probe.results.by_kind.values() for text in errors.examples]
    return figures, [*(r.example for r in interruption_probe.results if r.added), *examples]


def _control(task: Task) -> Task:
    """An interruption's reply by itself."""
    assert task.interruption is not None
    return Task(task.interruption.text, task.seed)


def _ways(
    model: ModelOptions, speech: SpeechOptions, tasks: Sequence[Task], in_process: dict[Task, Spoken], begin: Step
) -> Iterator[Figure]:
    """Whether the same is heard through the product's front doors."""
    flags = [flag for name in ("model", "device", "dtype") for flag in (f"--{name}", str(getattr(model, name)))]
    flags += [flag for voice in speech.voice for flag in ("--voice", voice)]
    for name, speak in (("pipe", speak_through_pipe), ("serve", speak_through_serve)):
        there = asyncio.run(speak(flags, tasks, begin(f"through {name}", len(tasks))))
        same = sum(_same(spoken, in_process[task]) for task, spoken in zip(tasks, there, strict=True))
        yield Figure(
            "the same sound", f"through {name}", same, least=len(tasks), detail=f"of {len(tasks)} conversations"
        )


def _same(one: Spoken, other: Spoken) -> bool:
    """Whether two listeners heard the same, to 2 steps of PCM16. What was thrown away at an interruption may differ."""
    if one.task.interruption is None:
        return _equal(one.sound, other.sound)
    replies = len(other.reply)  # through pipe, where the cut is cannot be told from the sound alone
    return _equal(one.heard, other.heard) and _equal(one.sound[-replies:], other.reply)


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return len(one) == len(other) and bool(np.abs(one - other).max(initial=0.0) <= 2 / 32768)


def _keep(folder: Path, spoken: Sequence[Spoken]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(spoken):
        sound = one.sound if one.cut is None else np.concatenate([one.heard, one.reply])
        soundfile.write(folder / f"{number:03}.wav", sound, SAMPLE_RATE)


if __name__ == "__main__":
    typer.run(judge)
    sys.exit(0)
