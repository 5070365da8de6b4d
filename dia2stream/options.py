"""The options of the product: their names, types, defaults and help, each stated once.

A field is a flag on the command line (`cfg_scale` is `--cfg-scale`), an environment variable (DIA2STREAM_CFG_SCALE) and
an argument for whoever embeds the engine. The flags of a class stand under its `heading` in the help. `cli.py` makes
the flags; this module knows nothing of the command line and imports neither torch nor numpy. Where a command can set
the same thing, the range is the protocol's.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "bfloat16", "float32"]
Weights = Literal["dtype", "fp8"]
Encoding = Literal["pcm16", "mulaw", "alaw"]
SampleRate = Literal[24000, 16000, 8000]
Speculate = Literal["auto", "on", "off"]
FuseCodec = Literal["auto", "off"]
Kernels = Literal["auto", "timed", "retimed"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
TextRulesOption = Literal["auto", "off", "clean", "spoken"]


@dataclass(frozen=True)
class CliFlag:
    """What a command line adds to a field: its help, a name for the value, a short flag, the range.

    auto: the flag also takes the word `auto`, which is None in the field.
    """

    help: str
    metavar: str | None = None
    short: str | None = None
    low: int | None = None
    high: int | None = None
    auto: bool = False


@dataclass(frozen=True)
class CheckpointOptions:
    """Which checkpoint is loaded, and how."""

    heading: ClassVar[str] = "Model"

    model: Annotated[
        str | None,
        CliFlag(
            "A hub repo id, a checkpoint folder, bundled (a small voice in this package), or random:tiny, random:1b, "
            "random:2b (random weights: noise). Default: nari-labs/Dia2-2B on CUDA, else bundled, else random:tiny.",
            "MODEL",
        ),
    ] = None
    device: Annotated[Device, CliFlag("auto takes CUDA where there is a GPU.")] = "auto"
    dtype: Annotated[Dtype, CliFlag("auto is bfloat16 on CUDA, else float32.")] = "auto"
    weights: Annotated[
        Weights,
        CliFlag("fp8 keeps the layers' matrices in 8 bits: half the memory, a little error. Default: as --dtype says."),
    ] = "dtype"
    tokenizer: Annotated[str | None, CliFlag("Repo id or folder of another tokenizer than the model's.", "MODEL")] = (
        None
    )
    mimi: Annotated[str | None, CliFlag("Repo id or folder of another Mimi codec than the model's.", "MODEL")] = None
    revision: Annotated[str | None, CliFlag("Branch, tag or commit of the model's repo.", "NAME")] = None


@dataclass(frozen=True)
class ModelOptions(CheckpointOptions):
    """What speaks, and on what."""

    threads: Annotated[
        int | None,
        CliFlag(
            "CPU threads for one step of the model. auto is 1 on CUDA and for a small model, else one a core.",
            "N|auto",
            low=1,
            auto=True,
        ),
    ] = None
    speculate: Annotated[
        Speculate,
        CliFlag(
            "Before first audio, guess when words begin and run many steps at once; what is said stays the same. auto "
            "is on where it was measured to be faster: on a CPU, and on CUDA where steps are graphs."
        ),
    ] = "auto"
    fuse_codec: Annotated[
        FuseCodec,
        CliFlag(
            "auto tries fused kernels for the codec on CUDA at the start, and takes them where they make the same "
            "sound in less time. off: the first start on a machine has fewer kernels to compile."
        ),
    ] = "auto"
    kernels: Annotated[
        Kernels,
        CliFlag(
            "How the kernels of one conversation are chosen on CUDA. auto: by the kind of GPU. timed: by the time of "
            "whole steps, once, which takes some 8 s more, then from a file in the cache folder. retimed: time again."
        ),
    ] = "auto"
    history_seconds: Annotated[
        float,
        CliFlag("How much of its past a conversation keeps when the model's context is full.", "S", low=2, high=60),
    ] = 30.0
    voice_cache_mb: Annotated[
        int,
        CliFlag("Device memory for voices that were run: the next start in one of them is then a copy.", "MB", low=0),
    ] = 1000
    listen: Annotated[
        bool,
        CliFlag("Load the codec's encoder at the start. Otherwise the first listen command waits until it is loaded."),
    ] = False


@dataclass(frozen=True)
class SpeechOptions:
    """How it speaks, where a start command leaves it open."""

    heading: ClassVar[str] = "Speech"

    voice: Annotated[
        tuple[str, ...],
        CliFlag(
            "A voice file of dia2stream voice make, under its own name or as NAME=PATH; give it again for more voices. "
            "The first is the default. Without any, Dia2 speaks in a random voice in each conversation, and "
            "the bundled model in its own two.",
            "PATH",
        ),
    ] = ()
    seed: Annotated[
        int | None, CliFlag("The same seed and text give the same audio. Default: a new one each time.", "N")
    ] = None
    cfg_scale: Annotated[
        float | None,
        CliFlag(
            "Guidance: how closely speech follows the text; 1 is off and takes half the work. "
            "Default of this and the next five: the checkpoint's own, else 3.",
            "X",
        ),
    ] = None
    cfg_filter_k: Annotated[
        int | None, CliFlag("Guidance keeps this many of the likeliest sounds; 0 keeps all. Default: 50.", "N")
    ] = None
    text_temperature: Annotated[
        float | None,
        CliFlag("Variety of the pace, that is when words begin; 0 always takes the likeliest. Default: 0.7.", "X"),
    ] = None
    text_top_k: Annotated[int | None, CliFlag("Draw the pace from this many of the likeliest. Default: 50.", "N")] = (
        None
    )
    audio_temperature: Annotated[
        float | None,
        CliFlag("Variety of the sound; 0 always takes the likeliest. Default: 0.8.", "X"),
    ] = None
    audio_top_k: Annotated[int | None, CliFlag("Draw the sound from this many of the likeliest. Default: 80.", "N")] = (
        None
    )
    initial_padding: Annotated[int, CliFlag("Frames of 80 ms before the first word.", "N")] = 0
    gain_db: Annotated[
        float, CliFlag("Make all sound so much louder, below 0 quieter; peaks are clipped.", "DB", low=-60, high=30)
    ] = 0.0
    text_rules: Annotated[
        TextRulesOption,
        CliFlag(
            "off reads text as it is; clean drops markdown, HTML and emoji; spoken writes numbers, dates and "
            "addresses out. Default: spoken for the bundled voice, else clean."
        ),
    ] = "auto"
    say: Annotated[
        tuple[str, ...], CliFlag("How a word is said, as GIF=jiff; again for another one.", "WORD=SAID")
    ] = ()
    lexicon: Annotated[
        tuple[str, ...], CliFlag("A file of WORD=SAID lines, for many words; again for another one.", "FILE")
    ] = ()


@dataclass(frozen=True)
class PipeOptions:
    """What `pipe` reads and writes."""

    heading: ClassVar[str] = "Input and output"

    wav: Annotated[bool, CliFlag("Write a WAV header first; in a file it gets the true length.")] = False
    framed: Annotated[bool, CliFlag("Write the number of samples (4 bytes, little-endian) before each chunk.")] = False
    encoding: Annotated[Encoding, CliFlag("16-bit little-endian samples, or 8-bit G.711 as telephones use.")] = "pcm16"
    sample_rate: Annotated[SampleRate, CliFlag("Samples a second; telephones take 8000.")] = 24000
    events: Annotated[str | None, CliFlag("Where events go: a file, or none. Default: stderr.", "PATH|none")] = None
    text: Annotated[bool, CliFlag("Read plain text instead of JSON, and speak each line.")] = False
    max_lead_ms: Annotated[
        int | None,
        CliFlag("Stay at most this far ahead of playback. Default: as fast as stdout is read.", "MS", low=80),
    ] = None


@dataclass(frozen=True)
class SayOptions:
    """What `say` writes."""

    heading: ClassVar[str] = "Output"

    output: Annotated[
        str | None,
        CliFlag(
            "A .wav, .mp3, .flac or .ogg file; - is stdout. Default: play it, where there is a player.", "PATH", "-o"
        ),
    ] = None


@dataclass(frozen=True)
class ReplayOptions:
    """How much `replay` speaks, and where to."""

    heading: ClassVar[str] = "Output"

    until: Annotated[int | None, CliFlag("Stop at this point of the conversation's audio.", "MS", low=0)] = None
    output: Annotated[
        str | None,
        CliFlag("A .wav, .flac or .ogg file. Default: play it, where there is a player.", "PATH", "-o"),
    ] = None


@dataclass(frozen=True)
class BenchOptions:
    """What `bench` measures, what it holds the figures to, and where it puts them."""

    heading: ClassVar[str] = "One call at a time"

    runs: Annotated[int, CliFlag("Calls that are measured, one after the other.", "N", low=1)] = 20
    warmup: Annotated[int, CliFlag("Calls before these, which are not counted.", "N", low=0)] = 3
    json: Annotated[
        str | None,
        CliFlag("Write everything as one line of JSON; - is stdout, and the table goes to stderr.", "FILE|-"),
    ] = None
    compare: Annotated[str | None, CliFlag("Show the change from an older JSON file.", "FILE")] = None
    plot: Annotated[str | None, CliFlag("Draw what was measured; needs dia2stream[plot].", "FILE.png")] = None
    max_cold_ms: Annotated[float | None, CliFlag("Fail if a cold start takes longer, at p95.", "MS", low=0)] = None
    max_inject_ms: Annotated[
        float | None, CliFlag("Fail if an inject after silence or a barge-in takes longer, at p95.", "MS", low=0)
    ] = None
    max_frame_ratio: Annotated[
        float | None, CliFlag("Fail if the median of a whole frame is more than X times its floor.", "X", low=0)
    ] = None
    url: Annotated[
        str | None, CliFlag("Measure a running server, through its WebSocket; the model is then the server's.", "URL")
    ] = None
    token: Annotated[str | None, CliFlag("The server's secret.", "TEXT")] = None


@dataclass(frozen=True)
class CallOptions:
    """Many calls at once, which `bench` holds instead of measuring single latencies: one of the first three fields."""

    heading: ClassVar[str] = "Many calls at once"

    calls: Annotated[
        str | None,
        CliFlag("Phone calls at the same time; several loads one after the other as 16,32,64.", "N[,N...]"),
    ] = None
    calls_per_second: Annotated[
        str | None, CliFlag("Requests of one sentence, at random moments, so many a second on average.", "R[,R...]")
    ] = None
    crowd: Annotated[
        str | None,
        CliFlag("Calls of which all but one speak without pause, and one starts again and again.", "N[,N...]"),
    ] = None
    seconds: Annotated[float, CliFlag("How long each load is held.", "S", low=1)] = 60.0
    slots: Annotated[
        int | None,
        CliFlag(
            "Calls that the engine can hold. Default: the most of --calls; else, and with --find, 64, on a CPU 16.",
            "N",
            low=1,
        ),
    ] = None
    max_lead_ms: Annotated[
        int, CliFlag("How far sending may be ahead of playback; a server has its own setting.", "MS", low=80)
    ] = 3000
    start_lead_ms: Annotated[
        int, CliFlag("How long a listener waits with a turn's first sample before playing it.", "MS", low=0)
    ] = 0
    find: Annotated[
        bool, CliFlag("Search the highest load that holds --max-first-ms; begins with the first one given.")
    ] = False
    max_first_ms: Annotated[
        float | None,
        CliFlag(
            "Fail if first audio takes longer at p95, a call has a gap of over 100 ms, or one is refused. "
            "Default with --find: 100.",
            "MS",
            low=0,
        ),
    ] = None
    simulate: Annotated[
        str | None,
        CliFlag(
            "Simulate the load instead, with the real scheduler, on a machine of these costs: h100, or a file.",
            "h100|FILE.json",
        ),
    ] = None


@dataclass(frozen=True)
class PlanOptions:
    """What `plan` is to believe of calls, machines and prices. Figures that were not measured are marked: assumed."""

    heading: ClassVar[str] = "Plan"

    costs: Annotated[str, CliFlag("What work costs on a GPU: h100, or a cost curve's file.", "h100|FILE.json")] = "h100"
    slots: Annotated[
        int | None, CliFlag("Conversations of a GPU. Default: as many as memory and admission allow.", "N", low=1)
    ] = None
    memory_gb: Annotated[float, CliFlag("GPU memory that is free for conversations.", "GB", low=1)] = 72.0
    slot_mb: Annotated[float, CliFlag("Memory that one conversation has for sure.", "MB", low=1)] = 255.0
    call_seconds: Annotated[float, CliFlag("How long a call lasts on average; assumed.", "S", low=1)] = 180.0
    speaking: Annotated[float, CliFlag("Share of a call in which the agent speaks; assumed.", "X")] = 0.5
    turn_seconds: Annotated[float, CliFlag("How long the agent speaks at once; assumed.", "S", low=1)] = 5.0
    min_gpus: Annotated[int, CliFlag("GPUs that are always there.", "N", low=0)] = 1
    max_gpus: Annotated[int, CliFlag("GPUs that can be had.", "N", low=1)] = 1000
    target: Annotated[float, CliFlag("Share of the slots that the autoscaler keeps taken.", "X")] = 0.7
    gpu_price: Annotated[float, CliFlag("Of a GPU for an hour; assumed.", "USD", low=0)] = 2.5
    node_seconds: Annotated[float, CliFlag("Until a new GPU machine is there; assumed.", "S", low=0)] = 120.0
    image_gb: Annotated[float, CliFlag("Image that a new machine fetches; assumed.", "GB", low=0)] = 5.0
    model_gb: Annotated[float, CliFlag("Weights that it fetches; 0 with a volume that has them.", "GB", low=0)] = 7.7
    node_gbps: Annotated[float, CliFlag("What one machine can fetch; assumed.", "GBIT/S")] = 5.0
    registry_gbps: Annotated[float, CliFlag("What all together can fetch; assumed.", "GBIT/S")] = 40.0
    load_seconds: Annotated[float, CliFlag("Loading the model.", "S", low=0)] = 6.0
    warm_up_seconds: Annotated[
        float, CliFlag("Warm-up of 128 slots with all its compilation, as measured.", "S", low=0)
    ] = 33.0
    days_between_deaths: Annotated[float, CliFlag("Of one server, on average; assumed.", "DAYS")] = 30.0
    calm: Annotated[bool, CliFlag("No lost GPU and no rollout in the busy hours.")] = False
    message_us: Annotated[float, CliFlag("CPU that a proxy takes for one frame's message.", "US", low=0)] = 52.0
    store_ops: Annotated[float, CliFlag("Operations a second of the journal's store; assumed.", "N", low=1)] = 100_000.0
    seed: Annotated[int, CliFlag("Repeats a day.", "N")] = 0
    plot: Annotated[str | None, CliFlag("Draw the days hour by hour; needs dia2stream[plot].", "FILE.png")] = None
    json: Annotated[str | None, CliFlag("Write everything as one line of JSON; - is stdout.", "FILE|-")] = None


@dataclass(frozen=True)
class ServeOptions:
    """Where `serve` listens, to whom, and how patient it is."""

    heading: ClassVar[str] = "Server"

    host: Annotated[str, CliFlag("The address to listen on; 127.0.0.1 is this machine only.", "ADDRESS")] = "0.0.0.0"
    port: Annotated[int, CliFlag("The port of WebSocket and HTTP; 0 is any that is free.", "N", low=0, high=65535)] = (
        8765
    )
    agent_port: Annotated[
        int | None,
        CliFlag("A port that tells HAProxy's agent-check how many slots are free.", "N", low=0, high=65535),
    ] = None
    slots: Annotated[
        str,
        CliFlag("Conversations at once. auto: as many as memory holds and this machine serves in time.", "N|auto"),
    ] = "1"
    token: Annotated[str | None, CliFlag("A secret that clients must give.", "TEXT")] = None
    allow_origin: Annotated[
        str | None,
        CliFlag(
            "Other sites whose pages may connect, as https://a.example, separated by commas; * is all. "
            "Pages of this server always may.",
            "ORIGINS",
        ),
    ] = None
    allow_host: Annotated[
        str | None,
        CliFlag(
            "Names by which this server may be reached without a token, separated by commas; * is any. "
            "IP addresses and localhost always may.",
            "HOSTS",
        ),
    ] = None
    encoding: Annotated[Encoding, CliFlag("16-bit little-endian, or 8-bit G.711, where a client does not choose.")] = (
        "pcm16"
    )
    sample_rate: Annotated[SampleRate, CliFlag("Samples a second, where a client does not choose.")] = 24000
    max_message_bytes: Annotated[int, CliFlag("A longer message closes the connection.", "N", low=1024)] = 2**20
    max_lead_ms: Annotated[int, CliFlag("How far sending may be ahead of playback.", "MS", low=80)] = 3000
    linger: Annotated[
        float, CliFlag("Seconds that a conversation waits for its client after the connection is gone.", "S", low=0)
    ] = 30.0
    idle_seconds: Annotated[
        float,
        CliFlag("Seconds without a command or audio after which a client gives way to one that waits.", "S", low=1),
    ] = 600.0
    queue_seconds: Annotated[
        float, CliFlag("The longest that a client may wait for a slot; it asks for that by ?wait=S.", "S", low=0)
    ] = 30.0
    ping_seconds: Annotated[
        float, CliFlag("Ping a client that was silent for this long; drop it after as long again.", "S")
    ] = 15.0
    drain_seconds: Annotated[
        float, CliFlag("Seconds to finish speaking after SIGTERM, without --journal.", "S", low=0)
    ] = 5.0
    journal: Annotated[
        str | None,
        CliFlag(
            "Keep conversations in this folder, or in Redis, so that a client that comes back may reach any server "
            "with the same model and journal: it goes on there. Holds callers' text and voices.",
            "DIR|redis://HOST",
        ),
    ] = None
    journal_fsync: Annotated[
        bool, CliFlag("Have each write to the folder reach the disk: it then survives a power cut.")
    ] = False
    record: Annotated[
        str | None,
        CliFlag(
            "Write each conversation into this folder, for dia2stream replay: its text, its codes, what callers said.",
            "DIR",
        ),
    ] = None
    record_without_text: Annotated[
        bool, CliFlag("Leave texts and the caller out of these files: they can be heard again, but not computed.")
    ] = False
    tls_cert: Annotated[str | None, CliFlag("Certificate chain, PEM: serve wss:// and https://.", "PATH")] = None
    tls_key: Annotated[str | None, CliFlag("Its private key, PEM, if the certificate's file has none.", "PATH")] = None
    log_level: Annotated[LogLevel, CliFlag("The least that is logged, on stderr.")] = "info"
    log_format: Annotated[LogFormat, CliFlag("Lines for people, or one JSON object a line.")] = "text"


@dataclass(frozen=True)
class ClusterOptions:
    """The replicas of a Ray Serve application, each of which is one server."""

    heading: ClassVar[str] = "Replicas"

    min_replicas: Annotated[int, CliFlag("Replicas that are always there.", "N", low=1)] = 1
    max_replicas: Annotated[int, CliFlag("Replicas that there may be.", "N", low=1)] = 1
    target: Annotated[float, CliFlag("Share of the slots that the autoscaler keeps taken.", "X")] = 0.7
    gpus: Annotated[float, CliFlag("GPUs of a replica; 0 on a CPU.", "N", low=0)] = 1.0
    cpus: Annotated[float, CliFlag("CPU cores that Ray reserves for a replica.", "N", low=0)] = 1.0


@dataclass(frozen=True)
class ClientOptions:
    """What the test client connects to, and what it does with the sound."""

    heading: ClassVar[str] = "Server and output"

    url: Annotated[str, CliFlag("The server.", "URL")] = "ws://127.0.0.1:8765"
    token: Annotated[str | None, CliFlag("The server's secret.", "TEXT")] = None
    encoding: Annotated[Encoding | None, CliFlag("Ask for this encoding. Default: the server's.")] = None
    sample_rate: Annotated[SampleRate | None, CliFlag("Ask for this many samples a second. Default: the server's.")] = (
        None
    )
    output: Annotated[
        str | None, CliFlag("Write each utterance into this folder as a WAV file.", "FOLDER", short="-o")
    ] = None
    play: Annotated[bool, CliFlag("Play the sound with ffplay as it comes.")] = False
    timeout: Annotated[float, CliFlag("Give up when the server is silent for this long.", "S")] = 30.0


@dataclass(frozen=True)
class VoiceOptions:
    """What `voice make` makes a voice of."""

    heading: ClassVar[str] = "Clips"

    output: Annotated[str, CliFlag("The file to write, NAME.voice.safetensors.", "PATH", short="-o")]
    speaker_1: Annotated[str, CliFlag("A clip of one person: wav, flac, ogg or mp3, best of 3 to 10 seconds.", "CLIP")]
    speaker_2: Annotated[
        str | None,
        CliFlag("The other speaker's clip; none for no other. Default: the first, which holds the voice.", "CLIP|none"),
    ] = None
    words_1: Annotated[str | None, CliFlag("The clip's words: [[text, start, end], ...] in seconds.", "FILE.json")] = (
        None
    )
    words_2: Annotated[str | None, CliFlag("The second clip's words.", "FILE.json")] = None
    text_1: Annotated[
        str | None, CliFlag("What the clip says, every word: aligned to it, with dia2stream[align].", "TEXT")
    ] = None
    text_2: Annotated[str | None, CliFlag("What the second clip says.", "TEXT")] = None
    transcriber: Annotated[
        str | None,
        CliFlag("Hear the words with a Whisper model, as openai/whisper-large-v3-turbo, or one in a folder.", "MODEL"),
    ] = None
    licence: Annotated[
        str, CliFlag("Whose voice it is and what they agreed to; kept in the file and shown.", "TEXT")
    ] = ""


@dataclass(frozen=True)
class ShowOptions:
    """What `voice show` draws."""

    heading: ClassVar[str] = "Output"

    png: Annotated[
        str | None, CliFlag("Draw what the model hears, with the words; needs dia2stream[plot].", "FILE.png")
    ] = None


@dataclass(frozen=True)
class PlayOptions:
    """What `voice play` says, and where to."""

    heading: ClassVar[str] = "Text and output"

    text: Annotated[str, CliFlag("What to say.", "TEXT")] = (
        "[S1] Hello, this is how I sound. [S2] And this is how I do."
    )
    output: Annotated[str, CliFlag("The WAV file to write; - is stdout.", "PATH", short="-o")] = "-"
