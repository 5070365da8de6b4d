"""`voice make` and `voice show`: a clip or two becomes a voice file, and a voice file becomes a table and a picture.

`make` reads and checks the clips and their words before it loads the codec, so that errors come at once.
"""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from dia2.checkpoint.load import load_codec
from dia2.codec.mimi import Mimi
from dia2.errors import ScriptError
from dia2.model.config import FRAME_RATE
from dia2.voice.loudness import TARGET_LUFS, level_gain, loudness
from dia2.voice.recording import BEST_SECONDS, Recording, read_recording, trim
from dia2.voice.voice import SUFFIX, Clip, ClipWord, Voice, make_clip, read_words
from dia2.voice.word_times import align, transcribe
from dia2stream import __version__
from dia2stream.engine.loading import default_model, load_options
from dia2stream.options import CheckpointOptions, ShowOptions, VoiceOptions
from dia2stream.protocol.fields import MAX_ID_CHARS
from dia2stream.terminal import load_progress, note

# ---- voice make ----


def make(name: str, options: VoiceOptions, model: CheckpointOptions) -> None:
    """Makes a voice file and prints the words in it. Raises Dia2Error."""
    _check_target(name, options)
    with _silent_decoders():
        recordings = [(read_recording(path, _MOST_SECONDS), path) for path in _clips(options)]
    heard = [_words(recording, path, number, options) for number, (recording, path) in enumerate(recordings, start=1)]
    config, codec = _load_codec(model)
    clips = [_clip(recording, words, codec) for (recording, _), (words, _) in zip(recordings, heard, strict=True)]
    provenance = _provenance(recordings, heard, options, model) | _levels(recordings)
    if options.speaker_2 is None:
        clips.append(clips[0])
    voice = Voice(name.strip(), tuple(clips), options.licence, provenance)
    voice.check(config.data.codebooks, codec.config.codebook_size, config.runtime.max_context_steps)
    _note_long_clips(voice)
    voice.save(options.output)
    _print(voice)
    note(f"{options.output}: {Path(options.output).stat().st_size / 1000:.1f} kB; see that the words are right")


def _check_target(name: str, options: VoiceOptions) -> None:
    if not 0 < len(name.strip()) <= MAX_ID_CHARS:
        raise ScriptError(f"a voice's name has 1 to {MAX_ID_CHARS} characters, not {len(name)}")
    if not Path(options.output).absolute().parent.is_dir():
        raise ScriptError(f"no folder {Path(options.output).parent} to write {Path(options.output).name} into")
    if not options.output.endswith(SUFFIX):
        note(f"voice files are best called NAME{SUFFIX}")


def _provenance(
    recordings: Sequence[tuple[Recording, str]],
    heard: Sequence[tuple[list[ClipWord], str]],
    options: VoiceOptions,
    model: CheckpointOptions,
) -> dict[str, str]:
    """Where a voice comes from, for its file."""
    found = {"made": str(date.today()), "made_by": f"dia2stream {__version__}", "codec_of": _model_name(model)}
    for number, ((_, path), (_, source)) in enumerate(zip(recordings, heard, strict=True), start=1):
        found |= {f"speaker_{number}": Path(path).name, f"words_{number}": source}
    return found if options.speaker_2 is not None else found | {"speaker_2": "speaker_1 again"}


def _levels(recordings: Sequence[tuple[Recording, str]]) -> dict[str, str]:
    """How loud the recordings were, for the voice's file."""
    levels = (loudness(recording.samples, recording.rate) for recording, _ in recordings)
    return {
        f"level_{number}": f"{level:.1f} LUFS, made {TARGET_LUFS:.0f}"
        for number, level in enumerate(levels, start=1)
        if level > -math.inf
    }


def _note_long_clips(voice: Voice) -> None:
    for number, clip in enumerate(voice.clips, start=1):
        if clip.seconds > BEST_SECONDS:
            note(
                f"speaker {number}'s clip is {clip.seconds:.1f} s long; what is over {BEST_SECONDS:.0f} s takes up "
                "context and makes the voice no better"
            )


_MOST_SECONDS = 300.0  # the longest recording that is read, before silence is cut off


@contextmanager
def _silent_decoders() -> Iterator[None]:
    """Points stderr to nowhere: libmpg123 writes to it about damaged files, and the user gets our own line instead."""
    with ExitStack() as undo:
        with suppress(OSError), open(os.devnull, "wb") as nowhere:  # OSError: the process has no stderr
            kept = os.dup(2)
            undo.callback(os.close, kept)
            undo.callback(os.dup2, kept, 2)
            os.dup2(nowhere.fileno(), 2)
        yield


def _clips(options: VoiceOptions) -> list[str]:
    second = [options.speaker_2] if options.speaker_2 not in (None, "none") else []
    for number, given in enumerate([options.speaker_1, *second], start=1):
        if not Path(given).exists():
            raise ScriptError(f"--speaker-{number}: no such file: {given}")
    if not second and (options.text_2 or options.words_2):
        raise ScriptError("--text-2 and --words-2 need --speaker-2")
    return [options.speaker_1, *(path for path in second if path)]


def _words(recording: Recording, path: str, number: int, options: VoiceOptions) -> tuple[list[ClipWord], str]:
    """The words of a clip, and where they come from, which the voice file records."""
    file: str | None = getattr(options, f"words_{number}")
    text: str | None = getattr(options, f"text_{number}")
    beside = Path(path).with_suffix(".words.json")
    if file is None and beside.exists():
        file = str(beside)
    if file is not None:
        words = read_words(file)
        late = max(words, key=lambda word: word.start)
        if late.start >= recording.seconds:
            raise ScriptError(
                f"{file}: {late.text!r} starts at {late.start:g} s, {path} ends at {recording.seconds:.2f} s"
            )
        return words, f"given, {Path(file).name}"
    if text is not None:
        return align(recording, text), "aligned to the text"
    if options.transcriber is not None:
        return transcribe(recording, options.transcriber), f"transcribed by {options.transcriber}"
    raise ScriptError(
        f"what does {path} say? Give --text-{number}, --words-{number}, "
        "or --transcriber openai/whisper-large-v3-turbo, which hears it"
    )


def _clip(recording: Recording, words: Sequence[ClipWord], codec: Mimi) -> Clip:
    """The recording without the silence around its speech, as loud as voices are; the words' times move with it."""
    first, last = min(word.start for word in words), max(word.end for word in words)
    start, stop = trim(recording, keep=(first, min(last, recording.seconds)))
    samples = recording.part(start, stop).at(codec.sample_rate).samples
    pcm = torch.from_numpy(samples * np.float32(level_gain(samples, codec.sample_rate)))
    moved = [ClipWord(w.text, round(w.start - start, 3), round(min(w.end, stop) - start, 3)) for w in words]
    return make_clip(pcm, moved, codec)


def _load_codec(model: CheckpointOptions) -> tuple[Any, Mimi]:
    with load_progress() as progress:
        return load_codec(_model_name(model), load_options(model, progress))


def _model_name(model: CheckpointOptions) -> str:
    return model.model or default_model(model.device)


# ---- voice show ----


def show(path: str, options: ShowOptions, model: CheckpointOptions) -> None:
    """Prints what is in a voice file, and draws it if a picture is asked for. Raises Dia2Error."""
    voice = Voice.load(path)
    _print(voice)
    if options.png is not None:
        draw(voice, options.png, _load_codec(model))


def _print(voice: Voice) -> None:
    console = Console(file=sys.stdout, highlight=False, markup=False)
    seconds = voice.frames / FRAME_RATE
    console.print(
        f"{voice.name}: {seconds:.1f} s, {voice.frames} frames of context, {voice.clips[0].codes.shape[0]} codebooks"
    )
    if voice.licence:
        console.print(f"licence: {voice.licence}")
    for key, value in voice.provenance.items():
        console.print(f"{key}: {value}")
    table = Table("speaker", "word", "start", "end", box=None)
    for number, clip in _different(voice):
        for word in clip.words:
            table.add_row(number, word.text, f"{word.start:.2f}", f"{word.end:.2f}")
    console.print(table)


def _different(voice: Voice) -> list[tuple[str, Clip]]:
    """The clips, each with its speaker; a clip that serves both speakers comes once, as "S1 and S2"."""
    numbered = [(f"S{number}", clip) for number, clip in enumerate(voice.clips, start=1)]
    first, *others = voice.clips
    if all(torch.equal(clip.codes, first.codes) for clip in others):
        return [(" and ".join(number for number, _ in numbered), first)]
    return numbered


def draw(voice: Voice, png: str, loaded: tuple[Any, Mimi]) -> None:
    """Draws the clips' sound as the codec decodes it, with a mark where each word starts. Raises ScriptError."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ScriptError("drawing needs matplotlib: pip install 'dia2stream[plot]'") from None
    config, codec = loaded
    voice.check(config.data.codebooks, codec.config.codebook_size, config.runtime.max_context_steps)
    rows = _different(voice)
    figure = Figure(figsize=(12, 2.6 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    for row, (speaker, clip) in enumerate(rows, start=1):
        axes = figure.add_subplot(len(rows), 1, row)
        sound = codec.decode(clip.codes.long()[None])[0].cpu().numpy()
        axes.plot([n / codec.sample_rate for n in range(len(sound))], sound, linewidth=0.4, color="0.4")
        top = 1.05 * max(1e-3, float(abs(sound).max()))
        axes.set(xlim=(0, clip.seconds), ylim=(-top, top), ylabel=speaker, yticks=[])
        for word in clip.words:
            axes.axvline(word.start, linewidth=0.8, color="tab:red")
            axes.text(word.start, top, f" {word.text}", fontsize=8, rotation=45, va="bottom")
    axes.set_xlabel("seconds")
    figure.suptitle(voice.name)
    try:
        figure.savefig(png, dpi=120)
    except (OSError, ValueError) as error:
        raise ScriptError(f"{png}: {error}") from None
