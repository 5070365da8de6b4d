"""The options of a replica, from the arguments of the Ray Serve application and from DIA2STREAM_* variables.

They are those of `dia2stream serve`, read by the same parser, so names, ranges and messages are the same. What belongs
to the port is Ray's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import typer

from dia2stream.cli import check_serve, command
from dia2stream.errors import Dia2StreamError
from dia2stream.options import ClusterOptions, ModelOptions, ServeOptions, SpeechOptions

_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # wherever this version of Typer keeps it
OF_THE_PORT = ("host", "port", "agent_port", "tls_cert", "tls_key")


@dataclass(frozen=True)
class Settings:
    """Everything that a replica is told."""

    cluster: ClusterOptions
    model: ModelOptions
    speech: SpeechOptions
    serve: ServeOptions


def read(arguments: Mapping[str, object]) -> Settings:
    """arguments: by the names of the flags, as {"model": "random:tiny", "slots": 8}; a list for a flag that may repeat.

    Raises Dia2StreamError that names the argument.
    """
    for name in OF_THE_PORT:
        if name in arguments:
            raise Dia2StreamError(f"{name} belongs to the port, which is Ray's: see http_options in serve.yaml")
    found: list[Settings] = []
    program = typer.Typer()

    def replica(cluster: ClusterOptions, serve: ServeOptions, speech: SpeechOptions, model: ModelOptions) -> None:
        check_serve(serve)
        found.append(Settings(cluster, model, speech, serve))

    command("", program)(replica)
    try:
        typer.main.get_command(program).main(_flags(arguments), "dia2stream.cluster.ray", standalone_mode=False)
    except _USAGE_ERROR as error:
        raise Dia2StreamError(error.format_message()) from None
    return found[0]


def of_the_server(arguments: Mapping[str, object]) -> dict[str, object]:
    """Those arguments that a replica needs to know. The others change the deployment without restarting replicas."""
    of_the_cluster = {field.name for field in fields(ClusterOptions)}
    return {name: value for name, value in arguments.items() if name not in of_the_cluster}


def _flags(arguments: Mapping[str, object]) -> list[str]:
    flags: list[str] = []
    for name, value in arguments.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True or value is False:
            flags += [flag] if value else []
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            flags += [flag, str(one)]
    return flags
