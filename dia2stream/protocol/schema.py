"""The protocol for other languages, made from the definitions that the server reads: messages.py and fields.py.

    json_schema()   JSON Schema 2020-12 of every command and event
    asyncapi()      an AsyncAPI 3 document: the same messages, the WebSocket and its URL
    typescript()    types of every command and event

`dia2stream protocol` prints them. They are checked in beside this file, and a test says when they are out of date.

A schema knows one message. So some of what the server refuses is no matter of a schema: what depends on the moment (an
unknown voice, nothing to resume), a word that ends before it begins, an integer written as 3.0, a key given twice.
"""

import inspect
import json
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from typing import Any

from dia2stream import __version__
from dia2stream.errors import CLOSE_CODES
from dia2stream.protocol.fields import Schema, rule_of
from dia2stream.protocol.messages import COMMANDS, EVENTS, MAX_COMMAND_BYTES

SCHEMA_FILE, ASYNCAPI_FILE, TYPES_FILE = "protocol.schema.json", "protocol.asyncapi.json", "protocol.d.ts"

_ABOUT = (
    "The WebSocket of dia2stream serve, one message a text message, and the lines of dia2stream pipe. "
    "Clients pass over events, and fields of events, that they do not know."
)
_TAGS = {"cmd": COMMANDS, "event": EVENTS}


# ---- JSON Schema ----


def json_schema() -> Schema:
    """Every command and event, as a JSON Schema. `$defs` has each by the name of its class, and Command and Event."""
    definitions: Schema = {
        "Command": {"oneOf": [_reference(cls.__name__) for cls in COMMANDS.values()]},
        "Event": {"oneOf": [_reference(cls.__name__) for cls in EVENTS.values()]},
    }
    for tag, messages in _TAGS.items():
        for name, cls in messages.items():
            definitions[cls.__name__] = _message(tag, name, cls)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The protocol of dia2stream",
        "description": _ABOUT,
        "oneOf": [_reference("Command"), _reference("Event")],
        "$defs": definitions,
    }


def _message(tag: str, name: str, cls: type[Any]) -> Schema:
    is_command = tag == "cmd"
    return {
        "type": "object",
        "description": inspect.cleandoc(cls.__doc__ or ""),
        "properties": {tag: {"const": name}, **{f.name: _field(cls, f, is_command) for f in fields(cls)}},
        "required": [tag, *(field.name for field in fields(cls) if field.default is MISSING)],
        # A field that a command does not have is refused. Events may get more in newer versions.
        **({"additionalProperties": False} if is_command else {}),
    }


def _field(cls: type[Any], field: Field[Any], is_command: bool) -> Schema:
    rule = rule_of(cls, field.name)
    schema = {**rule.schema(), "description": str(rule)}
    if cls.__name__ == "Error" and field.name == "code":
        schema["examples"] = list(CLOSE_CODES)
    if field.default is MISSING:
        return schema
    if is_command:  # null is the same as leaving the field out
        schema["type"] = [schema["type"], "null"]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
    if field.default not in (None, ()):
        schema["default"] = field.default
    return schema


def _reference(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


# ---- AsyncAPI ----

_MOST = 10**10  # milliseconds of audio are 115 days, and a record counts frames in 4 bytes
# What the WebSocket's URL may ask for.
QUERY: dict[str, Schema] = {
    "encoding": {"type": "string", "enum": ["pcm16", "mulaw", "alaw"]},
    "sample_rate": {"type": "integer", "enum": [24000, 16000, 8000]},
    "token": {"type": "string", "description": "where no header Authorization: Bearer TOKEN can be sent"},
    "conversation": {"type": "string", "description": "the id of `ready`, to come back to a conversation"},
    "received_ms": {"type": "number", "minimum": 0, "maximum": _MOST, "description": "how much of its audio has come"},
    "wait": {"type": "number", "minimum": 0, "maximum": _MOST, "description": "seconds to wait for a slot"},
    "busy": {"const": "event", "description": "tells a refusal by an event instead of a status"},
}


def asyncapi() -> dict[str, Any]:
    """The WebSocket of `serve`, as an AsyncAPI document. Its messages are those of the JSON Schema's file."""
    audio = {
        "contentType": "application/octet-stream",
        "summary": "80 ms of sound: the number of samples in 4 bytes, little-endian unsigned, then the samples.",
        "payload": {"type": "string", "format": "binary"},
    }
    messages = {cls.__name__: cls for table in _TAGS.values() for cls in table.values()}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "dia2stream", "version": __version__, "description": _ABOUT},
        "defaultContentType": "application/json",
        "channels": {
            "conversation": {
                "address": "/",
                "description": f"A command is at most {MAX_COMMAND_BYTES} bytes.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in (*messages, "Audio")},
                "bindings": {"ws": {"query": {"type": "object", "properties": QUERY, "additionalProperties": False}}},
            }
        },
        "operations": {
            "command": _operation("receive", (cls.__name__ for cls in COMMANDS.values())),
            "event": _operation("send", (*(cls.__name__ for cls in EVENTS.values()), "Audio")),
        },
        "components": {"messages": {**{name: _described(cls) for name, cls in messages.items()}, "Audio": audio}},
    }


def _operation(action: str, messages: Iterable[str]) -> dict[str, Any]:
    channel = "#/channels/conversation"
    named = [{"$ref": f"{channel}/messages/{name}"} for name in messages]
    return {"action": action, "channel": {"$ref": channel}, "messages": named}


def _described(cls: type[Any]) -> dict[str, Any]:
    summary = inspect.cleandoc(cls.__doc__ or "").splitlines()[0]
    return {"summary": summary, "payload": {"$ref": f"{SCHEMA_FILE}#/$defs/{cls.__name__}"}}


# ---- TypeScript ----


def typescript() -> str:
    """Types of every command and event, as a declaration file. They are read off the JSON Schema."""
    definitions = json_schema()["$defs"]
    parts = ["// Made by `dia2stream protocol types`. Do not edit: the definitions are in messages.py and fields.py."]
    for name in ("Command", "Event"):
        members = [reference["$ref"].rsplit("/", 1)[1] for reference in definitions.pop(name)["oneOf"]]
        parts.append(f"export type {name} =\n  | " + "\n  | ".join(members) + ";")
    parts += [_interface(name, schema) for name, schema in definitions.items()]
    return "\n\n".join(parts) + "\n"


def _interface(name: str, schema: Schema) -> str:
    lines = [*_comment(schema["description"]), f"export interface {name} {{"]
    for field, about in schema["properties"].items():
        lines += [f"  {line}" for line in _comment(about.get("description", ""))]
        lines.append(f"  {field}{'' if field in schema['required'] else '?'}: {_type(about)};")
    return "\n".join([*lines, "}"])


def _comment(text: str) -> list[str]:
    if "\n" not in text:
        return [f"/** {text} */"] if text else []
    return ["/**", *(f" * {line}".rstrip() for line in text.splitlines()), " */"]


def _type(schema: Schema) -> str:
    if "const" in schema or "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return " | ".join(_plain_type(name, schema) for name in types)


def _plain_type(name: str, schema: Schema) -> str:
    if name == "array":
        items = schema["items"]
        if "prefixItems" in items:
            return f"[{', '.join(_type(item) for item in items['prefixItems'])}][]"
        return f"{_type(items)}[]"
    if name == "object" and "properties" in schema:
        return "{ " + "; ".join(f"{field}: {_type(about)}" for field, about in schema["properties"].items()) + " }"
    if name == "object":
        return f"Record<string, {_type(schema['additionalProperties'])}>"
    return {"integer": "number"}.get(name, name)


# ---- Files ----


def files() -> dict[str, str]:
    """The files beside this one, by name, as they should be."""
    documents = {SCHEMA_FILE: json_schema(), ASYNCAPI_FILE: asyncapi()}
    texts = {name: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for name, document in documents.items()}
    return {**texts, TYPES_FILE: typescript()}
