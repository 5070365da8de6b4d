"""How --help looks: options in groups under headings, and every command with its whole first sentence.

Plain text, because it must fit into 80 columns, into logs and into a pager.
"""

from typing import Any

from typer.core import TyperCommand, TyperGroup

_WHOLE = 10_000  # characters of a summary: a line that is too long is wrapped, not cut


class GroupedCommand(TyperCommand):
    """A command whose help has a section for each heading that its options name (`rich_help_panel`)."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the arguments, then the options under their headings, in the order in which the command has them."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                argument = parameter.param_type_name == "argument"
                heading = "Arguments" if argument else getattr(parameter, "rich_help_panel", None) or "Other options"
                sections.setdefault(heading, []).append(record)
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


class WholeSummaries(TyperGroup):
    """A group of commands whose help cuts off no summary."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes each command with the first sentence of its help."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(_WHOLE)) for name, command in commands if command is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
