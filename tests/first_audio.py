"""First audio at the client: every program of tests/clients beside our own protocol, against one server.

    scripts/test-clients --first-audio [TURNS [NAME...]]

A turn is a sentence that comes token by token, as from a language model; first audio is what the program has from its
first token to its first sound. In pipecat_* and livekit_* that is at the loudspeaker of a pipeline. Each program speaks
one turn that does not count, and then TURNS (5). Names choose the programs that have one of them in theirs.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from client_programs import EVERY, SECOND, Program, Restarted, make_voice

OURS = ("dia2_client", "")


def first_audio(folder: Path, server: Restarted, name: str, service: str, turns: int) -> list[float]:
    """Milliseconds of each turn."""
    program = Program(folder, name, server, mode="turns", service=service)
    try:
        program.told("ready")
        told = []
        for _ in range(turns + 1):
            program.ask(name, SECOND)
            told.append(program.told("turn")["first_ms"])
        program.leave()
        return told[1:]
    finally:
        program.kill()
        server.wait_until_free()


def main() -> None:
    turns, wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Restarted(make_voice(folder))
        print(f"first audio in ms, median of {turns} turns (least, most); load of the last minute", flush=True)
        print(f"bundled model, {os.cpu_count()} cores\n", flush=True)
        try:
            for client, service in (OURS, *EVERY):
                label = f"{client} {service}".strip()
                if wanted and (client, service) != OURS and not any(name in label for name in wanted):
                    continue
                taken = first_audio(folder, server, client, service, turns)
                spread = f"({min(taken):.0f}, {max(taken):.0f})"
                print(f"{label:28} {statistics.median(taken):7.0f}   {spread:14} {os.getloadavg()[0]:.1f}", flush=True)
        finally:
            server.end()


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, subprocess.SubprocessError) as error:
        sys.exit(str(error))
