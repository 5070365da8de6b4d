"""dia2stream: one warm Dia2 model, speaking for a voice agent.

Importing this package loads nothing: the command line has to answer `--help` without torch. `dia2stream.engine` is
where the model comes in.
"""

__version__ = "0.1.0"
