"""What telephone networks say on a WebSocket, and what they are told.

A line, Twilio or Asterisk, reads each message of the network as one of start, sound, key, mark and stop, with its
value. It makes the messages for sound, for a mark, which comes back when all before it was played, and for throwing
away what was not played yet.
"""

import base64
import json
from typing import Any

# Asterisk's name of a format -> how we call it: encoding, sample rate
ASTERISK_FORMATS = {
    "ulaw": ("mulaw", 8000),
    "slin": ("pcm16", 8000),
    "slin16": ("pcm16", 16000),
    "slin24": ("pcm16", 24000),
}


class Twilio:
    """JSON messages that carry mu-law in base64."""

    encoding, rate = "mulaw", 8000

    def read(self, message: str | bytes) -> tuple[str, Any]:
        """What the network says: start, sound, key, mark or stop, and its value."""
        told = json.loads(message)
        match told["event"]:
            case "start":
                self._stream = told["streamSid"]
                return "start", None
            case "media":
                return "sound", base64.b64decode(told["media"]["payload"])
            case "dtmf":
                return "key", told["dtmf"]["digit"]
            case "mark":
                return "mark", told["mark"]["name"]
        return told["event"], None

    def sound(self, data: bytes) -> str | bytes:
        return self._message("media", media={"payload": base64.b64encode(data).decode()})

    def mark(self, name: str) -> str:
        return self._message("mark", mark={"name": name})

    def clear(self) -> str:
        return self._message("clear")

    def _message(self, event: str, **fields: object) -> str:
        return json.dumps({"event": event, "streamSid": self._stream, **fields})


class Asterisk:
    """Binary messages are sound; text messages are JSON with f(json) in the dial string, else words and name:value."""

    def read(self, message: str | bytes) -> tuple[str, Any]:
        """What the network says: start, sound, key, mark or stop, and its value."""
        if isinstance(message, bytes):
            return "sound", message
        self._json = message.startswith("{")
        event, fields = self._parse(message)
        match event:
            case "MEDIA_START":
                self.encoding, self.rate = ASTERISK_FORMATS[fields["format"]]
                return "start", None
            case "DTMF_END":
                return "key", fields["digit"]
            case "MEDIA_MARK_PROCESSED":
                return "mark", fields["correlation_id"]
        return event, None

    def _parse(self, message: str) -> tuple[str, dict[str, str]]:
        if self._json:
            fields = json.loads(message)
            return fields["event"], fields
        event, *words = message.split(" ")
        if event == "MEDIA_MARK_PROCESSED":
            return event, {"correlation_id": words[0]}
        return event, dict(word.split(":", 1) for word in words if ":" in word)

    def sound(self, data: bytes) -> str | bytes:
        return data

    def mark(self, name: str) -> str:
        return self._command("MARK_MEDIA", name)

    def clear(self) -> str:
        return self._command("FLUSH_MEDIA")

    def _command(self, command: str, id: str | None = None) -> str:
        if self._json:
            return json.dumps({"command": command} if id is None else {"command": command, "correlation_id": id})
        return command if id is None else f"{command} {id}"
