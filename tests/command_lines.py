"""The commands of the command line."""

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from dia2stream.cli import app


def command_lines() -> list[str]:
    """Every command as it is typed: "say", and of a command of commands "voice make"."""
    return [*_below(get_command(app), "")]


def _below(group: Any, before: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _below(command, f"{before}{name} ")
        else:
            yield f"{before}{name}"
