"""Offline generation: a script in, the whole audio out, with the names of the published package.

    from dia2 import Dia2
    dia = Dia2.from_repo("nari-labs/Dia2-2B")
    dia.generate("[S1] Hello there.", output_wav="hello.wav")

The loop here is the published one, step for step: it shows what the parts are for. Its steps run as fast as the machine
can run them (dia2/backend.py); `from_repo(..., stepper="eager")` keeps the published arithmetic. A conversation that
takes text while it speaks is `dia2stream`'s business.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor

from dia2.backend import make_stepper
from dia2.checkpoint.load import Checkpoint, LoadOptions, load_checkpoint, load_files
from dia2.errors import ConfigError, ScriptError
from dia2.model.config import FRAME_RATE
from dia2.model.delays import complete_frames, delay_frames
from dia2.model.sampling import SamplingConfig, SlotSettings
from dia2.steps.stepper import Stepper
from dia2.text.machine import MAX_PADDING, TextMachine, TextState
from dia2.text.script import read_script
from dia2.voice.voice import Prefix, load_prefix

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrefixConfig:
    """Clips to go on from, each with its words in `<clip>.words.json`. `include_audio` keeps them in the result."""

    speaker_1: str | None = None
    speaker_2: str | None = None
    include_audio: bool = False


@dataclass(frozen=True)
class GenerationConfig:
    """How to generate. Defaults are the published library's; `seed` is ours (None: from torch's own generator).

    use_cuda_graph and use_torch_compile change nothing, they are accepted for callers of the published package: how
    steps are run is chosen once for a model (`Dia2.from_repo(..., stepper=...)`).
    """

    text: SamplingConfig = field(default_factory=lambda: SamplingConfig(0.6, 50))
    audio: SamplingConfig = field(default_factory=lambda: SamplingConfig(0.8, 50))
    cfg_scale: float = 2.0
    cfg_filter_k: int = 50
    initial_padding: int = 2
    prefix: PrefixConfig | None = None
    use_cuda_graph: bool = False
    use_torch_compile: bool = False
    seed: int | None = None


@dataclass(frozen=True)
class GenerationResult:
    """audio_tokens int64 [1, C, frames]; waveform float32 [samples] in -1..1; timestamps (word, seconds)."""

    audio_tokens: Tensor
    waveform: Tensor
    sample_rate: int
    timestamps: list[tuple[str, float]]


class Dia2:
    """A loaded model that generates whole scripts.

    stepper: "auto" steps as fast as this machine can, by CUDA graphs where there is a GPU for them; "eager" steps with
    the published code's own operations, one after the other. In float32 both give the same tokens; in bfloat16 sums
    are rounded in another order, so a draw that is close may go the other way. `stepping` says what was taken and why.
    """

    def __init__(self, checkpoint: Checkpoint, *, stepper: str = "auto") -> None:
        if stepper not in ("auto", "eager"):
            raise ConfigError(f"stepper must be auto or eager, not {stepper!r}")
        self._checkpoint: Checkpoint | None = checkpoint
        self._kind = stepper
        self._stepper: Stepper | None = None
        self.stepping = "no steps have been run yet"

    @classmethod
    def from_repo(
        cls,
        repo: str,
        *,
        device: str = "cuda",
        dtype: str = "auto",
        weights: str = "dtype",
        tokenizer_id: str | None = None,
        mimi_id: str | None = None,
        revision: str | None = None,
        stepper: str = "auto",
    ) -> "Dia2":
        """Loads a hub repo, a local folder, `bundled`, or one of the `random:` models. Raises Dia2Error.

        The arguments are those of LoadOptions, under the published package's names; stepper is the class's.
        """
        return cls(
            load_checkpoint(repo, LoadOptions(device, dtype, weights, tokenizer_id, mimi_id, revision)),
            stepper=stepper,
        )

    @classmethod
    def from_local(
        cls,
        config_path: str | Path,
        weights_path: str | Path,
        *,
        device: str = "cuda",
        dtype: str = "auto",
        weights: str = "dtype",
        tokenizer_id: str | None = None,
        mimi_id: str | None = None,
        stepper: str = "auto",
    ) -> "Dia2":
        """Loads the two files; the tokenizer and codec as the manifest or config beside them says. Raises Dia2Error."""
        return cls(
            load_files(config_path, weights_path, LoadOptions(device, dtype, weights, tokenizer_id, mimi_id)),
            stepper=stepper,
        )

    @property
    def checkpoint(self) -> Checkpoint:
        """What was loaded; a closed model has none."""
        if self._checkpoint is None:
            raise RuntimeError("this Dia2 is closed")
        return self._checkpoint

    @property
    def sample_rate(self) -> int:
        """Samples a second of every waveform."""
        return self.checkpoint.codec.sample_rate

    @property
    def max_context_steps(self) -> int:
        """Steps of 80 ms that one generation can take, voice prefix included."""
        return self.checkpoint.config.runtime.max_context_steps

    def close(self) -> None:
        """Frees the model's memory. A closed model generates nothing any more."""
        self._checkpoint = self._stepper = None

    def generate(
        self,
        script: str | Sequence[str],
        *,
        config: GenerationConfig | None = None,
        output_wav: str | Path | None = None,
        prefix_speaker_1: str | None = None,
        prefix_speaker_2: str | None = None,
        include_prefix: bool | None = None,
        verbose: bool = False,
        **overrides: Any,
    ) -> GenerationResult:
        """Speaks a whole script (a line, or a list of lines whose speakers alternate).

        overrides: temp_text, topk_text, temp_audio, topk_audio, and any field of GenerationConfig by its name.
        Raises ScriptError for clips that cannot be used, TypeError for an unknown override.
        """
        config = override(config or GenerationConfig(), **overrides)
        if output_wav is not None and not Path(output_wav).parent.is_dir():
            raise FileNotFoundError(f"no folder {Path(output_wav).parent} to write {Path(output_wav).name} into")
        clips = _clips(config.prefix or PrefixConfig(), prefix_speaker_1, prefix_speaker_2, include_prefix)
        run = _Run(self.checkpoint, self._ready_stepper(), script, config, clips)
        tokens = run.speak(_reporter(verbose))
        waveform = self._decode(tokens)
        if output_wav is not None:
            # Rounded here, because soundfile rounds floats down, which shifts the sound by half a step.
            pcm = (waveform * 32768).round().clamp(-32768, 32767).to(torch.int16)
            soundfile.write(str(output_wav), pcm.numpy(), self.sample_rate, subtype="PCM_16", format="WAV")
        return GenerationResult(tokens[None].cpu(), waveform, self.sample_rate, run.timestamps())

    def save_wav(self, script: str | Sequence[str], path: str | Path, **options: Any) -> GenerationResult:
        """`generate` into a WAV file."""
        return self.generate(script, output_wav=path, **options)

    def _ready_stepper(self) -> Stepper:
        """The stepper, made at the first use: capturing its graphs takes some seconds."""
        if self._stepper is None:
            if self._kind == "eager":
                self._stepper, self.stepping = Stepper(self.checkpoint), "steps run eagerly: asked for"
            else:
                self._stepper, self.stepping = make_stepper(self.checkpoint, speculate=False)
            _log.info("%s", self.stepping)
        return self._stepper

    def _decode(self, tokens: Tensor) -> Tensor:
        if tokens.shape[1] == 0:
            return torch.zeros(0)
        sound = self.checkpoint.codec.decode(tokens[None], check=False)  # ids that are no codes add nothing
        return sound[0].clamp(-1.0, 1.0).cpu()


def override(config: GenerationConfig, **overrides: Any) -> GenerationConfig:
    """`config` with the published package's keyword overrides applied; None leaves a field as it is."""
    overrides = {name: value for name, value in overrides.items() if value is not None}
    text, audio = config.text, config.audio
    text = replace(text, temperature=overrides.pop("temp_text", text.temperature))
    text = replace(text, top_k=overrides.pop("topk_text", text.top_k))
    audio = replace(audio, temperature=overrides.pop("temp_audio", audio.temperature))
    audio = replace(audio, top_k=overrides.pop("topk_audio", audio.top_k))
    return replace(config, **{"text": text, "audio": audio, **overrides})


def _clips(config: PrefixConfig, speaker_1: str | None, speaker_2: str | None, include: bool | None) -> PrefixConfig:
    clips = PrefixConfig(
        speaker_1 or config.speaker_1,
        speaker_2 or config.speaker_2,
        config.include_audio if include is None else include,
    )
    if clips.speaker_2 and not clips.speaker_1:
        raise ScriptError("prefix speaker 2 needs a prefix for speaker 1 too")
    return clips


def _reporter(verbose: bool) -> Callable[[int], None]:
    if not verbose:
        return lambda step: None
    return lambda step: _log.info("step %d", step) if step % 100 == 0 else None


class _Run:
    """One generation: the published loop, in slot 0."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        stepper: Stepper,
        script: str | Sequence[str],
        config: GenerationConfig,
        clips: PrefixConfig,
    ) -> None:
        self.stepper, self.config, self.include_prefix = stepper, config, clips.include_audio
        self.data, self.context = checkpoint.config.data, checkpoint.config.runtime.max_context_steps
        self.machine = TextMachine.of(self.data)
        paths = [path for path in (clips.speaker_1, clips.speaker_2) if path]
        self.prefix = load_prefix(paths, checkpoint.codec, checkpoint.tokenizer, self.context) if paths else None
        self.state: TextState = self.machine.start(config.initial_padding)
        self.state.append([*self.prefix.entries] if self.prefix else [])
        self.state.append(read_script(script, checkpoint.tokenizer))

    def speak(self, report: Callable[[int], None]) -> Tensor:
        """Runs to the end. Returns the frames that are kept, int64 [C, frames]."""
        settings = SlotSettings(self.config.cfg_scale, self.config.cfg_filter_k, self.config.text, self.config.audio)
        seed = int(torch.randint(2**31, ())) if self.config.seed is None else self.config.seed
        self.stepper.begin(0, settings, seed)
        if self.prefix is not None:
            self._warm_up(self.prefix)
        slot = self.stepper.slots[0]
        while slot.column < self._last_column():
            report(slot.column)
            (action,) = self.stepper.act([0])
            self.stepper.complete([self.machine.process(self.state, slot.column, action)])
        frames = complete_frames(slot.column + 1, self.stepper.delays)
        spoken = self.stepper.frames(0, 0, frames)
        if self.prefix is None:  # with a prefix, frame 0 is the clip's
            at_once = [k for k, delay in enumerate(self.stepper.delays) if not delay]
            spoken[at_once, :1] = self.data.audio_pad_token_id  # codes of column 0, which no step draws
        return spoken[:, min(self._crop(), frames) :]

    def timestamps(self) -> list[tuple[str, float]]:
        """(word, seconds into the result) of every word that it holds."""
        crop, skipped = self._crop(), 0 if self.include_prefix or not self.prefix else len(self.prefix.entries)
        words = [(text, (step - crop) / FRAME_RATE) for text, step in self.state.transcript[skipped:]]
        return [(text, seconds) for text, seconds in words if seconds >= 0]

    def _warm_up(self, prefix: Prefix) -> None:
        """Feeds the prefix: its codes are known, and the words start where they do in the clips."""
        slot, frames = self.stepper.slots[0], prefix.frames
        delay_frames(prefix.codes, self.stepper.delays, self.stepper.codes[0])
        texts, starts = [slot.text], set(prefix.new_word_steps)
        for step in range(frames):
            texts.append(self.machine.process(self.state, step, int(step in starts), forced=True))
        self.stepper.prefill(0, texts[:frames])
        # The published loop runs column P - 1 once more, with the text of column P, behind the P columns of the prefix.
        slot.column, slot.shift, slot.text = frames - 1, 1, texts[frames]

    def _last_column(self) -> int:
        """The column before which the loop stops."""
        if self.state.end_step is None:
            return self.context
        return min(self.context, self.state.end_step + max(self.stepper.delays) + MAX_PADDING)

    def _crop(self) -> int:
        """The first frame that is kept."""
        if self.prefix is not None:
            return 0 if self.include_prefix else max(0, self.prefix.frames - 1)
        words = self.state.transcript
        return 0 if self.machine.ahead or not words else max(0, words[0][1] - self.config.initial_padding)
