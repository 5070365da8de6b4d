"""The exception tree of the model library.

    Dia2Error
      ConfigError        a config.json with keys or values that the model cannot have
      CheckpointError    files that cannot be found, fetched, read or fitted into the model
      DeviceError        a device that is not there, or has too little memory
      ScriptError        a script or a voice clip that cannot be spoken

Every message is one line that says what is wrong, where, and what would be right. Files come from anywhere, so a
message shows a value of a file by `shown`, a name in it by `plain`, and the message of a library by `first_line`: all
printable, and cut to a part of a line.
"""

_LONGEST = 200  # characters of a library's message


class Dia2Error(Exception):
    """Anything this library refuses to do; the message is one line meant for its user."""


class ConfigError(Dia2Error, ValueError):
    """config.json is missing a key, has an unknown one, or a value out of range."""


class CheckpointError(Dia2Error):
    """A checkpoint that cannot be found, fetched, read, or that does not fit its config."""


class DeviceError(Dia2Error):
    """A device that does not exist here, or that cannot hold the model."""


class ScriptError(Dia2Error, ValueError):
    """A script, clip or word list that cannot be turned into entries."""


def shown(value: object, limit: int = 40) -> str:
    """A value of a file as messages show it: on one line, printable, and shortened to about `limit` characters."""
    if isinstance(value, str):
        return repr(value) if len(value) <= limit else repr(value[:limit]) + "..."
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of about {round(value.bit_length() * 0.30103)} digits"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        if len(value) > 8:
            return f"a list of {len(value)}"
        return "[" + ", ".join("..." if isinstance(item, (list, tuple)) else shown(item, 10) for item in value) + "]"
    return repr(value)


def plain(name: str, limit: int = 120) -> str:
    """A name from a file as messages show it: as it is if it is short and printable, else as `shown`."""
    return name if 0 < len(name) <= limit and name.isprintable() else shown(name, limit)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, printable and at most 200 characters long; without one, its type."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in lines[0][:_LONGEST])
    return line + "..." if len(lines[0]) > _LONGEST else line
