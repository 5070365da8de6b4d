"""The protocol for other languages: it is up to date, says what the server says, and real messages are valid."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from piping import PATIENCE
from serving import QUICK, SHORT, Serve, on_loop
from test_protocol import commands, events
from tools import needs
from websockets.asyncio.client import connect

from dia2stream.cli import app
from dia2stream.errors import CommandError
from dia2stream.protocol import schema
from dia2stream.protocol.fields import FIELDS
from dia2stream.protocol.messages import COMMANDS, dump_command, dump_event, parse_command

HERE = Path(schema.__file__).parent
DOCUMENT = schema.json_schema()
ROOT = Path(__file__).parent.parent


def of(name: str) -> Draft202012Validator:
    return Draft202012Validator({**DOCUMENT, "oneOf": [{"$ref": f"#/$defs/{name}"}]})


COMMAND, EVENT = of("Command"), of("Event")


@pytest.mark.parametrize("name", schema.files())
def test_what_is_checked_in_is_what_the_code_says(name):
    assert (HERE / name).read_text(encoding="utf-8") == schema.files()[name], (
        f"write it anew: dia2stream protocol > {HERE / name}"
    )


@pytest.mark.parametrize(
    ("words", "file"), [([], schema.SCHEMA_FILE), (["asyncapi"], schema.ASYNCAPI_FILE), (["types"], schema.TYPES_FILE)]
)
def test_the_command_line_prints_it(words, file, capsys):
    with pytest.raises(SystemExit) as done:
        app(["protocol", *words], prog_name="dia2stream")
    assert (done.value.code, capsys.readouterr().out) == (0, (HERE / file).read_text(encoding="utf-8"))


def test_it_is_a_schema_and_every_reference_leads_somewhere():
    Draft202012Validator.check_schema(DOCUMENT)
    documents = {"": schema.asyncapi(), schema.SCHEMA_FILE: DOCUMENT}
    references = re.findall(r'"\$ref": "([^"]+)"', json.dumps(schema.asyncapi()))
    assert len(references) > 3 * len(COMMANDS)
    for reference in references:
        file, _, path = reference.partition("#/")
        place: Any = documents[file]
        for part in path.split("/"):
            place = place[part]


@needs("tsc")
@pytest.mark.parametrize(("wrong", "told"), [("", ""), ('{ cmd: "inject" }', "'text' is missing")])
def test_the_types_compile_and_find_mistakes(tmp_path, wrong, told):
    (tmp_path / "protocol.d.ts").write_text(schema.typescript())
    (tmp_path / "use.ts").write_text(f"""
        import type {{ Command, Event, Start }} from "./protocol";
        const start: Start = {{ cmd: "start", text: "Hello.", say: {{ GIF: "jiff" }}, voice: null }};
        const commands: Command[] = [start, {{ cmd: "listen", words: [["Hi", 0.1, 0.4]], speaker: "S2" }}, {wrong}];
        function hear(event: Event): string {{
          if (event.event === "paused") return event.words?.[0].id ?? event.pending;
          return event.event === "word" ? event.word + commands.length : "";
        }}
        hear({{ event: "cancelled", id: "a" }});
    """)
    command = ["tsc", "--noEmit", "--strict", "--target", "es2020", "use.ts"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode == 0) == (not wrong), done.stdout
    assert told in done.stdout


# ---- What the server says ----


@settings(max_examples=200, deadline=None)
@given(commands)
def test_every_command_of_the_server_is_valid(command):
    COMMAND.validate(json.loads(dump_command(command)))


@settings(max_examples=200, deadline=None)
@given(events)
def test_every_event_of_the_server_is_valid(event):
    EVENT.validate(json.loads(dump_event(event)))


strings = st.sampled_from(["a", "+", "/", "=", "", " ", "S1", "off", "\x00", "\n", "\u2003", "\U0001f600"])
strings |= st.sampled_from(["AAAA", "AAAAAA==", "AAA=", "AA==", "AAA=\n", "\ud800", "\udc00"])
strings |= st.sampled_from(["a\ud800", "\udc00a", "\ud800a", *("x" * size for size in (60, 61, 128, 129, 501, 20_001))])
# 3.0 is no integer for the server, and is one in JSON Schema, which knows values and not how they are written.
numbers = st.sampled_from([-1, 0, 1, 2, 20, 21, 60, 61, 100, 101, 2048, 2049, 7999, 8000, 48000, 48001, 2**32, 2**53])
numbers |= st.sampled_from([-0.5, 0.5, 1.5, 19.5, 20.5, 59.5, 60.5, 1e300])
times = st.tuples(strings, numbers, numbers).filter(lambda word: word[1] <= word[2]).map(list)
values = st.one_of(
    st.none(),
    st.booleans(),
    strings,
    strings.flatmap(lambda one: strings.map(lambda two: one + two)),
    numbers,
    st.lists(times | st.lists(strings | numbers, max_size=4), max_size=3),
    st.dictionaries(strings, strings | numbers, max_size=3),
)


@st.composite
def attempts(draw: st.DrawFn) -> dict[str, Any]:
    """A message that is nearly a command: mostly known fields, mostly of the command."""
    cmd = draw(st.sampled_from([*COMMANDS, *COMMANDS, "strat"]))
    names = list(COMMANDS[cmd].__dataclass_fields__) if cmd in COMMANDS else []
    chosen = draw(st.lists(st.sampled_from([*names, *names, *names, *FIELDS, "speed"]), unique=True, max_size=4))
    message = {name: draw(values) for name in chosen}
    for needed in ("text", "id"):
        if needed in names and draw(st.integers(0, 9)):
            message.setdefault(needed, "a")
    return {"cmd": cmd, **message}


@settings(max_examples=600, deadline=None)
@given(attempts())
def test_what_the_server_refuses_the_schema_refuses_and_nothing_else(message):
    line = json.dumps(message)
    try:
        parse_command(line)
        accepted = True
    except CommandError:
        accepted = False
    assert COMMAND.is_valid(json.loads(line)) == accepted, line


# ---- What people see and send ----


def test_every_message_in_the_manuals_is_valid():
    manuals = [path.read_text(encoding="utf-8") for path in ROOT.rglob("*.md") if ".venv" not in path.parts]
    found = re.findall(r'\{"(?:cmd|event)": "[^{}\n]*(?:\{[^{}\n]*\}[^{}\n]*)?\}', "\n".join(manuals))
    whole = [text for text in dict.fromkeys(found) if "..." not in text]
    for text in whole:
        message = json.loads(text)
        (COMMAND if "cmd" in message else EVENT).validate(message)
    assert len(whole) > 15


@on_loop
async def test_real_events_are_valid():
    """All but the kinds that need a wrong text or another client."""
    seen = set()
    with Serve(before=QUICK) as server:
        async with connect(server.url) as socket:
            said = [
                {"cmd": "start", "text": "[S1] One two $3 four [S9] five six.", "id": "a"},
                {"cmd": "inject", "text": "Seven.", "id": "b"},
                {"cmd": "cancel", "id": "b"},
                {"cmd": "pause"},
                {"cmd": "resume"},
                {"cmd": "resume", "speed": 1},
            ]
            for message in said:
                await socket.send(json.dumps(message))
            while not {"done", "error", "resumed"} <= seen:
                received = await socket.recv()
                if isinstance(received, str):
                    event = json.loads(received)
                    EVENT.validate(event)
                    seen.add(event["event"])
            await socket.send(json.dumps({"cmd": "start", "text": SHORT}))
            await socket.send(json.dumps({"cmd": "reset"}))
            while "reset" not in seen:
                received = await socket.recv()
                if isinstance(received, str):
                    EVENT.validate(json.loads(received))
                    seen.add(json.loads(received)["event"])
    assert seen >= {"ready", "started", "word", "first_audio", "cancelled", "paused", "notice"}
