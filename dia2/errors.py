"""The exception tree of the model library.

    Dia2Error
      ConfigError        a config.json with keys or values that the model cannot have
      CheckpointError    files that cannot be found, fetched, read or fitted into the model
      DeviceError        a device that is not there, or has too little memory
      ScriptError        a script or a voice clip that cannot be spoken

Every message is one line that says what is wrong, where, and what would be right.
"""


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
