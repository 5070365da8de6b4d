"""Where a report goes: a table for people, one line of JSON for programs, a picture, the exit code."""

import os
from collections.abc import Callable
from pathlib import Path

from dia2stream.bench.report import Report, dump
from dia2stream.errors import Dia2StreamError
from dia2stream.options import BenchOptions
from dia2stream.terminal import note


def check_outputs(options: BenchOptions) -> None:
    """Checks what would else fail only after minutes of measuring. Raises Dia2StreamError."""
    check_files(options.plot, options.json)


def check_files(plot: str | None, json: str | None) -> None:
    """The same for a picture's file and a JSON file."""
    if plot:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise Dia2StreamError("--plot needs matplotlib: pip install 'dia2stream[plot]'") from None
    for path in (plot, json):
        if path and path != "-" and not os.access(Path(path).absolute().parent, os.W_OK):
            raise Dia2StreamError(f"{path}: its folder is not there or cannot be written")


def publish(
    report: Report, options: BenchOptions, show: Callable[[Report, bool], None], plot: Callable[[Report, str], None]
) -> None:
    """Shows a report and writes the files that are asked for. Raises SystemExit(1) when a gate failed.

    show: prints the table, to stderr if the second argument is true. plot: draws the picture into a file.
    """
    report["passed"] = all(gate["passed"] for gate in report["gates"])
    show(report, options.json == "-")
    for gate in report["gates"]:
        note(gate["line"])
    if options.plot:
        plot(report, options.plot)
    if options.json == "-":
        print(dump(report))
    elif options.json:
        Path(options.json).write_text(dump(report) + "\n", encoding="utf-8")
    if not report["passed"]:
        raise SystemExit(1)
