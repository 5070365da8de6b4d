"""The command line: flags, help and exit codes, and nothing else.

A command is a function whose parameters are dataclasses of `options.py`; `command` turns their fields into flags with
environment variables. What a command does is imported when it runs, so `--help` and `--version` answer without torch.

Failures that are the user's to mend (a model that is not there, a GPU that is too small) end here, as one line on
stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C (see `__main__.py`).
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import typer

from dia2stream import __version__
from dia2stream.help import GroupedCommand, WholeSummaries
from dia2stream.options import (
    BenchOptions,
    CallOptions,
    CheckpointOptions,
    ClientOptions,
    CliFlag,
    ModelOptions,
    PipeOptions,
    PlanOptions,
    PlayOptions,
    ReplayOptions,
    SayOptions,
    ServeOptions,
    ShowOptions,
    SpeechOptions,
    VoiceOptions,
)
from dia2stream.protocol.fields import FIELDS

ENDINGS = ("", ".wav", ".mp3", ".flac", ".ogg")  # of what `say` writes
ENVIRONMENT = "Every flag has an environment variable: --cfg-scale is DIA2STREAM_CFG_SCALE. The flag wins."

app = typer.Typer(
    cls=WholeSummaries,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help fits into 80 columns, and into logs
    context_settings={"help_option_names": ["-h", "--help"]},
)


voices = typer.Typer(cls=WholeSummaries, no_args_is_help=True, rich_markup_mode=None)
app.add_typer(voices, name="voice", help="Make a voice from a clip, look at one, hear it.")


def command(examples: str, group: typer.Typer = app) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as the command of its name, its dataclass parameters spread out into flags."""

    def register(body: Callable[..., None]) -> Callable[..., None]:
        group.command(cls=GroupedCommand, epilog=f"{ENVIRONMENT}\n\n\b\nExamples:\n{examples}")(_spread(body))
        return body

    return register


def _spread(body: Callable[..., None]) -> Callable[..., None]:
    """`body` as Typer is to see it: one keyword parameter for each field of its dataclass parameters."""
    parameters = inspect.signature(body).parameters
    kinds = {name: p.annotation for name, p in parameters.items() if isinstance(p.annotation, type)}
    groups: dict[str, type[Any]] = {name: kind for name, kind in kinds.items() if is_dataclass(kind)}

    def call(**given: Any) -> None:
        for name, group in groups.items():
            values = {field.name: given.pop(field.name) for field in fields(group)}
            given[name] = group(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
        with _failures_in_one_line():
            body(**given)

    arguments = [p.replace(kind=p.KEYWORD_ONLY) for name, p in parameters.items() if name not in groups]
    flags = [_flag(field, group) for group in groups.values() for field in fields(group)]
    call.__name__, call.__doc__, call.__annotations__ = body.__name__, body.__doc__, {}
    call.__signature__ = inspect.Signature([*arguments, *flags])  # type: ignore[attr-defined]
    return call


def _flag(field: Field[Any], group: type[Any]) -> inspect.Parameter:
    """One field as a flag with its environment variable and, where a command can set it too, the protocol's range."""
    kind, about = get_args(get_type_hints(group, include_extras=True)[field.name])
    rule = FIELDS.get(field.name) if kind in (int, float, int | None, float | None) else None
    kind = list[str] if kind == tuple[str, ...] else kind  # a flag that may be given again
    flag = typer.Option(
        ... if field.default is MISSING else field.default,
        f"--{field.name.replace('_', '-')}",
        *([about.short] if about.short else []),
        envvar=f"DIA2STREAM_{field.name.upper()}",
        show_envvar=False,
        help=about.help,
        metavar=about.metavar,
        parser=_number_or_auto(about) if about.auto else None,
        min=None if about.auto else getattr(rule, "low", about.low),
        max=getattr(rule, "high", about.high),
        rich_help_panel=getattr(group, "heading", "Options"),
    )
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=flag, annotation=kind)


def _number_or_auto(about: CliFlag) -> Callable[[str], int | None]:
    """The parser of a flag that takes a whole number, or the word auto for None."""

    def parse(text: str) -> int | None:
        if text == "auto":
            return None
        if not re.fullmatch("[0-9]{1,4}", text) or int(text) < (about.low or 0):
            raise typer.BadParameter(f"{text!r} is not auto or a whole number of at least {about.low}")
        return int(text)

    return parse


@contextmanager
def _failures_in_one_line() -> Iterator[None]:
    try:
        yield
    except (typer.Exit, typer.BadParameter):
        raise
    except Exception as error:
        if (message := _message(error)) is None:
            raise
        typer.secho(f"dia2stream: {message}", fg="red", err=True)
        raise typer.Exit(1) from None


def _message(error: Exception) -> str | None:
    """What to tell the user of a failure that is theirs to mend; None for a fault of ours, which keeps its traceback.

    dia2 is imported here because it brings torch along; whoever raised one of its errors has paid for that already.
    """
    from dia2.errors import Dia2Error
    from dia2stream.errors import Dia2StreamError

    if isinstance(error, Dia2Error | Dia2StreamError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dia2stream {__version__}")
        raise typer.Exit


@app.callback(epilog="dia2stream COMMAND --help has examples.")
def dia2stream(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A speech engine for voice agents: text goes in while it speaks, audio comes out in chunks of 80 ms.

    Begin with: dia2stream say "[S1] Hello there."
    """


@command("""\
  dia2stream say "[S1] Hello. [S2] Hi!" -o hello.wav
  dia2stream say "It's 4:30." --text-rules spoken -o time.mp3
  dia2stream say - -o speech.wav < speech.txt
  dia2stream say "[S1] Hello." -o - | aplay""")
def say(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say; - reads the text from stdin.")],
    target: SayOptions,
    speech: SpeechOptions,
    model: ModelOptions,
) -> None:
    """Speak one text: play it, or write it into a file.

    [S1] and [S2] change the speaker, <break time="0.5s"/> is a pause.
    """
    if target.output == "-":
        _refuse_terminal()
    elif target.output is not None and (ending := Path(target.output).suffix.lower()) not in ENDINGS:
        raise typer.BadParameter(f"-o {target.output}: {ending} is not known; known are {', '.join(ENDINGS[1:])}")
    from dia2stream.stdio.decoding import read_text
    from dia2stream.text.front_end import says_something

    words = read_text(_read_stdin() if text == "-" else text.encode("utf-8", "surrogateescape"))
    if not says_something(words):
        raise typer.BadParameter("there is nothing to say")
    from dia2stream.stdio.pipe import say as speak

    speak(words, model, speech, target)


@command("""\
  echo '{"cmd": "start", "text": "[S1] Hi!"}' | dia2stream pipe --wav > hi.wav
  dia2stream pipe --encoding mulaw --sample-rate 8000 < call.jsonl > call.ulaw
  fortune | dia2stream pipe --text |
    ffplay -nodisp -autoexit -f s16le -sample_rate 24000 -probesize 32 -""")
def pipe(stream: PipeOptions, speech: SpeechOptions, model: ModelOptions) -> None:
    """Speak for another program: JSON commands on stdin, audio on stdout, events on stderr.

    \b
    {"cmd": "start", "text": "[S1] Hello."}   begins a conversation
    {"cmd": "inject", "text": "[S2] Hi!"}     adds to it, at any moment
    {"cmd": "pause", "played_ms": 840}        stops; so much audio was heard
    {"cmd": "resume"}                         continues; inject drops the rest
    {"cmd": "end"}                            closes text with "final": false
    {"cmd": "cancel", "id": "2"}              forgets what waits to be spoken
    {"cmd": "prepare", "text": "Yes", "id": "3"}   makes a reply in advance:
    {"cmd": "commit", "id": "3"}              it is wanted, and begins at once
    {"cmd": "discard", "id": "3"}             it is not, and never was
    {"cmd": "listen", "audio": "AAABAP//"}    what the caller said, for the reply
    {"cmd": "reset"}                          forgets the conversation

    Audio is written while it is made: raw samples, 80 ms at a time. At the end of input, pipe speaks the
    text that waits and exits. A line that is no command becomes an error event.
    """
    if stream.wav and stream.framed:
        raise typer.BadParameter("--wav and --framed are mutually exclusive")
    _refuse_terminal()
    from dia2stream.stdio.pipe import run

    run(model, speech, stream)


@command("""\
  dia2stream serve
  dia2stream serve --host 127.0.0.1 --model random:tiny
  dia2stream serve --slots auto
  DIA2STREAM_TOKEN=secret dia2stream serve --encoding mulaw --sample-rate 8000
  dia2stream serve --tls-cert fullchain.pem --tls-key privkey.pem --port 443""")
def serve(options: ServeOptions, speech: SpeechOptions, model: ModelOptions) -> None:
    """Speak for clients on the network, over WebSocket and HTTP.

    \b
    ws://HOST:8765/            the WebSocket; --slots conversations at a time
    http://HOST:8765/          a page to try it in a browser
    http://HOST:8765/healthz   alive?   /readyz: loaded?   /metrics: Prometheus

    A conversation outlives its connection: it is paused, and a client comes back with ?conversation=ID.
    With a token, clients send Authorization: Bearer TOKEN or add ?token=TOKEN to the URL.
    After SIGTERM, what was asked for is spoken to its end, for --drain-seconds at most. With --journal, connections are
    closed at once instead, and as soon as a client has left, another server may go on with its conversation.
    """
    check_serve(options)
    from dia2stream.server.server import run

    run(model, speech, options)


def check_serve(options: ServeOptions) -> None:
    """Refuses flags that exclude each other, or that mean nothing."""
    if options.tls_key and not options.tls_cert:
        raise typer.BadParameter("--tls-key needs --tls-cert")
    if options.token == "":  # of a variable that is not set, most likely: no reason to let everybody in
        raise typer.BadParameter("--token is empty: leave it out, or give a secret")
    if options.slots != "auto" and not (options.slots.isdecimal() and 1 <= int(options.slots) <= 1024):
        raise typer.BadParameter(f"--slots is {options.slots[:40]!r}: it must be auto, or a number from 1 to 1024")
    if options.journal is not None and options.record is not None:
        raise typer.BadParameter("--journal and --record are mutually exclusive")
    if options.ping_seconds <= 0:
        raise typer.BadParameter("--ping-seconds must be more than 0")


@command("""\
  dia2stream replay records/20261127-194512-kJ3fQ2.dia2rec -o again.wav
  dia2stream replay call.dia2rec --until 4000 --dtype float32""")
def replay(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A record, as serve --record writes them.")],
    target: ReplayOptions,
    model: CheckpointOptions,
) -> None:
    """Speak a recorded conversation again, for bug reports.

    The model that has spoken it computes every step once more, and the last line tells whether it drew the same. In
    float32 it does, but for a rare draw that was nearly a tie, as sums differ in the last bit beside other calls.
    """
    endings = (".wav", ".flac", ".ogg")
    if target.output is not None and Path(target.output).suffix.lower() not in endings:
        raise typer.BadParameter(f"-o {target.output}: the name must end in {', '.join(endings)}")
    from dia2stream.stdio.replay import run

    run(path, model, target)


@command("""\
  dia2stream client
  dia2stream client "[S1] Hello there." "[S2] Hi!" --play
  dia2stream client --url wss://POD-8765.proxy.runpod.net --token KEY -o said""")
def client(
    target: ClientOptions,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT",
            help="What to say: the first text starts a conversation, the others are added. Default: three sentences.",
        ),
    ] = None,
) -> None:
    """Try a server: speak, add text while it speaks and after it is silent, and measure.

    Prints for each text how soon its first audio came, by the server's clock and by this one. The last
    line is JSON with the same figures.
    """
    from dia2stream.tools.try_server import run

    run(target, texts or [])


@command("""\
  dia2stream bench
  dia2stream bench --json today.json --compare yesterday.json --plot today.png
  dia2stream bench --max-cold-ms 45 --max-inject-ms 45 --max-frame-ratio 2.5
  dia2stream bench --url ws://127.0.0.1:8765 --json - |
    jq .figures.cold_start.p95
  dia2stream bench --calls 16,32,64 --plot calls.png
  dia2stream bench --calls-per-second 4 --find --max-first-ms 80
  dia2stream bench --calls 64,128,256 --simulate h100""")
def bench(options: BenchOptions, load: CallOptions, speech: SpeechOptions, model: ModelOptions) -> None:
    """Measure how soon speech starts, what a frame costs, and how many calls fit.

    \b
    Each run is one call. Timed up to the first sample: a cold start, text
    added after silence, during speech and after an interruption (barge-in),
    and text in pieces. Then the parts: a backbone step, a whole frame, a frame
    of the codec, and beside each its floor, the time to read its weights.

    \b
    With many calls at once, first audio and gaps in playback are measured:
      --calls             phone calls: agent and caller take turns, text comes
                          as a language model gives it, callers interrupt
      --calls-per-second  requests at random moments, answered or not
      --crowd             all but one speak without pause, one starts anew

    Exits with 1 if a limit (--max-...) is exceeded, or if a first sample took more steps than it needs.
    """
    kinds = [name for name in ("calls", "calls_per_second", "crowd") if getattr(load, name) is not None]
    _check_bench(options, load, kinds)
    if load.simulate is not None:
        from dia2stream.bench.simulate.run import run as simulate

        simulate(speech, options, load)
    elif kinds:
        from dia2stream.bench.load.run import run as run_load

        run_load(model, speech, options, load)
    else:
        from dia2stream.bench.bench import run

        run(model, speech, options)


def _check_bench(options: BenchOptions, load: CallOptions, kinds: list[str]) -> None:
    """Refuses flags that exclude each other."""
    if options.url is not None and options.max_frame_ratio is not None:
        raise typer.BadParameter("--max-frame-ratio cannot be had of a server: --url and it are mutually exclusive")
    if len(kinds) > 1:
        raise typer.BadParameter("--calls, --calls-per-second and --crowd are mutually exclusive")
    if not kinds and (load.find or load.max_first_ms is not None):
        raise typer.BadParameter("--find and --max-first-ms need --calls, --calls-per-second or --crowd")
    if load.simulate is not None and (not kinds or options.url is not None):
        raise typer.BadParameter("--simulate needs --calls, --calls-per-second or --crowd, and no --url")
    if kinds and (options.max_cold_ms, options.max_inject_ms, options.max_frame_ratio) != (None, None, None):
        raise typer.BadParameter("with many calls at once the gate is --max-first-ms")


@command("""\
  dia2stream plan
  dia2stream plan 5000 --call-seconds 240 --gpu-price 1.9 --min-gpus 2
  dia2stream plan 1000000 --model-gb 0 --node-seconds 20 --plot plan.png""")
def plan(
    options: PlanOptions,
    calls: Annotated[
        list[int] | None,
        typer.Argument(metavar="CALLS", help="Calls a day. Default: 100 10000 1000000.", min=1),
    ] = None,
) -> None:
    """Simulate a day of calls on as many GPUs as they need.

    Tells for each number of calls what first audio takes, how many calls are refused or lost, how many GPU hours that
    is and what a call costs, and which shared part would be full first. No GPU is needed: the machines are simulated
    with the engine's own scheduler and admission.
    """
    if not (0 < options.speaking <= 1 and 0 < options.target <= 1):
        raise typer.BadParameter("--speaking and --target are shares: more than 0, at most 1")
    if min(options.node_gbps, options.registry_gbps, options.days_between_deaths) <= 0:
        raise typer.BadParameter("--node-gbps, --registry-gbps and --days-between-deaths must be more than 0")
    from dia2stream.bench.simulate.plan import run

    run(calls or [100, 10_000, 1_000_000], options)


@command("""\
  dia2stream protocol > protocol.schema.json
  dia2stream protocol types > protocol.d.ts""")
def protocol(
    document: Annotated[
        Literal["schema", "asyncapi", "types"],
        typer.Argument(
            metavar="DOCUMENT", help="schema: JSON Schema 2020-12. asyncapi: AsyncAPI 3. types: TypeScript."
        ),
    ] = "schema",
) -> None:
    """Print the protocol for other languages: every command and event, with types and ranges.

    The documents are made from the definitions that the server reads.
    """
    from dia2stream.protocol.schema import ASYNCAPI_FILE, SCHEMA_FILE, TYPES_FILE, files

    typer.echo(files()[{"schema": SCHEMA_FILE, "asyncapi": ASYNCAPI_FILE, "types": TYPES_FILE}[document]], nl=False)


@command(
    """\
  dia2stream voice make alice --speaker-1 alice.wav \\
    --text-1 "What she says in it." --licence "Alice Doe, agreed 2025-06-01" \\
    -o alice.voice.safetensors
  dia2stream voice make duo --speaker-1 ann.flac --words-1 ann.json \\
    --speaker-2 bob.mp3 --words-2 bob.json -o duo.voice.safetensors""",
    voices,
)
def make(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name that start commands use for the voice.")],
    options: VoiceOptions,
    model: CheckpointOptions,
) -> None:
    """Make a voice from a clip of one or two people. Only of people who agreed to it.

    \b
    The words of a clip and their times come from, in this order:
      --words-1, or clip.words.json beside clip.wav
      --text-1, aligned to the clip; write numbers in words
      --transcriber, which hears the words: check what it found

    Silence around the speech is cut off; clips that are clipped or nearly silent are refused.
    """
    from dia2stream.tools.voice_files import make as make_voice

    make_voice(name, options, model)


@command("  dia2stream voice show alice.voice.safetensors --png alice.png", voices)
def show(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A voice file.")],
    options: ShowOptions,
    model: CheckpointOptions,
) -> None:
    """Show a voice: its words, how long it is, whose it is. The model is needed for --png only."""
    from dia2stream.tools.voice_files import show as show_voice

    show_voice(path, options, model)


@command("  dia2stream voice play alice.voice.safetensors | ffplay -nodisp -autoexit -", voices)
def play(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A voice file.")],
    target: PlayOptions,
    speech: SpeechOptions,
    model: ModelOptions,
) -> None:
    """Speak a line in a voice, as a WAV file."""
    if target.output == "-":
        _refuse_terminal()
    from dia2stream.stdio.pipe import say as speak

    speak(target.text, model, replace(speech, voice=(path,)), SayOptions(target.output))


def _read_stdin() -> bytes:
    return sys.stdin.buffer.read() if sys.stdin else b""


def _refuse_terminal() -> None:
    if sys.stdout and sys.stdout.isatty():
        raise typer.BadParameter("stdout is a terminal and cannot play audio; pipe it into a player or a file")
