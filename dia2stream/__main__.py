"""Where the program starts: `dia2stream`, and `python -m dia2stream`.

Ctrl-C ends it at once with exit code 130, whatever it is doing. An exception would leave a traceback while modules are
being imported, and an orderly exit would wait for the model's thread. So this comes before every other import.
"""

import os
import signal
from types import FrameType


def main() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background job ignores Ctrl-C
        signal.signal(signal.SIGINT, _leave)
    if os.getpid() == 1:  # the first process of a container is not ended by SIGTERM unless it says how
        signal.signal(signal.SIGTERM, _leave)
    from dia2stream.cli import app

    app(prog_name="dia2stream")


def _leave(signal_number: int, frame: FrameType | None) -> None:
    os._exit(128 + signal_number)


if __name__ == "__main__":
    main()
