"""The law of imports, read from the source: whoever is on a lower floor knows nothing of those above.

The tables below are the law. To move a file, or to build a room, change the row and say why in the commit.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# The rooms of each package from the bottom up: folders, or files that stand alone. A room imports from rooms further
# down, and freely within itself as long as that makes no circle.
DIA2 = [
    "errors",
    "strict_json",
    "tensor_file",
    "model",
    "text",
    "codec",
    "voice",
    "checkpoint",
    "steps",
    "cuda",
    "backend",
    "generate",
]
DIA2STREAM = [
    "errors",
    "waits",
    "terminal",
    "options",
    "protocol",
    "text",
    "audio",
    "items",
    "reach",
    "client",
    "plugins",
    "conversation",
    "journal",
    "engine",
    "tools",
    "bench",
    "server",
    "stdio",
    "help",
    "cli",
    "cluster",
    "__main__",
]
FLOORS = {"dia2": DIA2, "dia2stream": DIA2STREAM}

# The front doors stand on one floor: none of them imports another.
DOORS = {"stdio", "server", "bench", "tools"}

# Who may touch dia2: the engine and what it builds, and the tool that makes voices.
TOUCH_DIA2 = {"conversation", "engine", "journal", "tools"}
# Modules elsewhere that import names of dia2 when they run. The command line catches dia2's errors.
TOUCH_DIA2_WHEN_RUN = {"dia2stream.cli"}

# Modules that import without torch, so that `--help` is quick and clients are light.
WITHOUT_TORCH = [
    "dia2",
    "dia2.errors",
    "dia2.model.config",
    "dia2.strict_json",
    "dia2.text.script",
    "dia2.text.machine",
    "dia2stream",
    "dia2stream.audio",
    "dia2stream.bench.simulate.fleet",
    "dia2stream.bench.simulate.loads",
    "dia2stream.bench.simulate.machine",
    "dia2stream.cli",
    "dia2stream.client",
    "dia2stream.cluster.choice",
    "dia2stream.cluster.scaling",
    "dia2stream.cluster.settings",
    "dia2stream.engine",
    "dia2stream.engine.admission",
    "dia2stream.engine.costs",
    "dia2stream.engine.orders",
    "dia2stream.engine.scheduler",
    "dia2stream.engine.session",
    "dia2stream.engine.observer",
    "dia2stream.errors",
    "dia2stream.items",
    "dia2stream.options",
    "dia2stream.plugins.talk",
    "dia2stream.protocol.messages",
    "dia2stream.server.conversations",
    "dia2stream.server.dialects.cartesia",
    "dia2stream.server.dialects.deepgram",
    "dia2stream.server.dialects.elevenlabs",
    "dia2stream.server.dialects.openai_speech",
    "dia2stream.server.server",
    "dia2stream.server.app",
    "dia2stream.server.service",
    "dia2stream.stdio.descriptors",
    "dia2stream.terminal",
    "dia2stream.text.front_end",
    "dia2stream.tools",
    "dia2stream.waits",
]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(p): p for package in FLOORS for p in sorted((ROOT / package).rglob("*.py"))}


def imports(module: str) -> set[str]:
    """The modules of the project that a module imports, at once or when it runs, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports by a relative name"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return found & set(MODULES)


def room(module: str) -> str:
    return (module.split(".")[1:] or ["__init__"])[0]


@pytest.mark.parametrize("module", [m for m in MODULES if "." in m])
def test_every_module_stands_in_a_room_with_a_floor(module):
    assert room(module) in FLOORS[module.split(".")[0]]


@pytest.mark.parametrize("module", [m for m in MODULES if "." in m])
def test_imports_run_downwards(module):
    package = module.split(".")[0]
    below = FLOORS[package][: FLOORS[package].index(room(module)) + 1]
    here = {name for name in imports(module) if name.startswith(f"{package}.")}
    # The program starts in __main__, which hands over to the command line.
    assert {room(name) for name in here} <= set(below)


def test_no_imports_run_in_a_circle():
    known = {module: imports(module) - {module} for module in MODULES if MODULES[module].stem != "__init__"}
    while leaves := {module for module, below in known.items() if not below & set(known)}:
        known = {module: below for module, below in known.items() if module not in leaves}
    assert not known


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("dia2stream.") and room(m) in DOORS])
def test_no_front_door_imports_another(module):
    assert not {room(name) for name in imports(module)} & (DOORS - {room(module)})


@pytest.mark.parametrize("module", [m for m in MODULES if m.split(".")[0] == "dia2"])
def test_dia2_never_imports_dia2stream(module):
    assert not [name for name in imports(module) if name.split(".")[0] == "dia2stream"]


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("dia2stream.") and room(m) not in TOUCH_DIA2])
def test_only_the_engine_and_what_it_builds_touch_dia2(module):
    touched = {name for name in imports(module) if name.split(".")[0] == "dia2"}
    assert touched <= ({"dia2.errors"} if module in TOUCH_DIA2_WHEN_RUN else set())


def test_light_modules_import_no_torch():
    """One after the other in one process: a heavy module comes with the first that imports it."""
    code = """if True:
        import importlib, sys
        for module in sys.argv[1:]:
            importlib.import_module(module)
            heavy = {"torch", "transformers", "tokenizers"} & sys.modules.keys()
            assert not heavy, f"{module} imports {heavy}"
    """
    done = subprocess.run([sys.executable, "-c", code, *WITHOUT_TORCH], cwd=ROOT, stderr=subprocess.PIPE, timeout=240)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("path", [p for p in MODULES.values() if p.stem == "__init__"], ids=str)
def test_init_files_are_empty_or_lazy(path):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    eager = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {node.module for node in eager if isinstance(node, ast.ImportFrom)} <= {"importlib", "typing"}
