"""The options of the product: their names, types, defaults and help, each stated once.

A field is a flag on the command line (`cfg_scale` is `--cfg-scale`), an environment variable (DIA2STREAM_CFG_SCALE) and
an argument for whoever embeds the engine. `cli.py` makes the flags; this module knows nothing of the command line and
imports neither torch nor numpy. Where a command can set the same thing, the range is the protocol's.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "bfloat16", "float32"]
Encoding = Literal["pcm16", "mulaw", "alaw"]
SampleRate = Literal[24000, 16000, 8000]


@dataclass(frozen=True)
class Flag:
    """What a command line adds to a field: its help, a name for the value, a short flag, the range."""

    help: str
    metavar: str | None = None
    short: str | None = None
    low: int | None = None
    high: int | None = None


@dataclass(frozen=True)
class ModelOptions:
    """What speaks, and on what."""

    model: Annotated[
        str | None,
        Flag(
            "A hub repo id, a checkpoint folder, or random:tiny, random:1b, random:2b, which have no weights and make "
            "noise. Default: nari-labs/Dia2-2B on CUDA, else random:tiny.",
            "MODEL",
        ),
    ] = None
    device: Annotated[Device, Flag("auto takes CUDA where there is a GPU.")] = "auto"
    dtype: Annotated[Dtype, Flag("auto is bfloat16 on CUDA, else float32.")] = "auto"
    tokenizer: Annotated[str | None, Flag("Repo id or folder of another tokenizer than the model's.", "MODEL")] = None
    mimi: Annotated[str | None, Flag("Repo id or folder of another Mimi codec than the model's.", "MODEL")] = None
    revision: Annotated[str | None, Flag("Branch, tag or commit of the model's repo.", "NAME")] = None
    history_seconds: Annotated[
        float,
        Flag("How much of itself a conversation that outlives the model's context remembers.", "S", low=2, high=60),
    ] = 30.0


@dataclass(frozen=True)
class SpeechOptions:
    """How it speaks, where a start command leaves it open."""

    seed: Annotated[
        int | None, Flag("The same seed and text give the same audio. Default: a new one each time.", "N")
    ] = None
    cfg_scale: Annotated[
        float, Flag("How closely speech is held to the text; 1 is off and takes half the work.", "X")
    ] = 3.0
    cfg_filter_k: Annotated[int, Flag("How many candidates guidance leaves; 0 is all.", "N")] = 50
    text_temperature: Annotated[
        float, Flag("Variety of pace, of when words begin; 0 is always the likeliest.", "X")
    ] = 0.7
    text_top_k: Annotated[int, Flag("Draw the pace from this many of the likeliest.", "N")] = 50
    audio_temperature: Annotated[float, Flag("Variety of sound; 0 is always the likeliest.", "X")] = 0.8
    audio_top_k: Annotated[int, Flag("Draw the sound from this many of the likeliest.", "N")] = 80
    initial_padding: Annotated[int, Flag("Frames of 80 ms before the first word.", "N")] = 0


@dataclass(frozen=True)
class PipeOptions:
    """What `pipe` reads and writes."""

    wav: Annotated[bool, Flag("Begin with a WAV header of open length, for players and files.")] = False
    framed: Annotated[bool, Flag("Put a count of samples, 4 bytes little-endian, before each chunk.")] = False
    encoding: Annotated[Encoding, Flag("16-bit little-endian, or 8-bit G.711.")] = "pcm16"
    sample_rate: Annotated[SampleRate, Flag("Samples a second; telephones take 8000.")] = 24000
    events: Annotated[str | None, Flag("Where events go: a file, or none. Default: stderr.", "PATH|none")] = None
    text: Annotated[bool, Flag("Read plain text, not JSON: each line is spoken.")] = False
    max_lead_ms: Annotated[
        int | None,
        Flag("Stay at most this far ahead of playback. Default: as fast as stdout is read.", "MS", low=80),
    ] = None


@dataclass(frozen=True)
class SayOptions:
    """What `say` writes."""

    output: Annotated[str, Flag("The WAV file to write; - is stdout.", "PATH", short="-o")]
