"""The layering of the project, read from its imports.

The tables below are the rule. To move a module, or to add one, change its row and say why in the commit.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# The modules of dia2 from the bottom up: each may import from lower layers, never from its own or a higher one.
DIA2_LAYERS = [
    {"errors", "fp8"},
    {"config", "script", "sampling", "grid", "layers", "kernels", "recording"},
    {"text_stream", "cache", "mimi"},
    {"backbone", "depformer", "voice", "frame_codec"},
    {"graph_codec"},
    {"random_models", "timing"},
    {"checkpoint"},
    {"stepper"},
    {"graph_stepper"},
    {"choose"},
    {"generate"},
]

# Each module of dia2stream and the modules of dia2stream that it may import.
DIA2STREAM_MAY_IMPORT = {
    "__init__": set(),
    "errors": set(),
    "protocol": {"errors"},
    "options": set(),
    "audio": {"options"},
    "outbox": {"errors", "protocol"},
    "voice_cache": {"errors"},
    "context": {"errors", "voice_cache"},
    "listening": {"errors", "protocol"},
    "conversation": {"errors", "protocol", "options", "context", "outbox", "listening"},
    "voices": {"errors"},
    "engine": {"errors", "protocol", "options", "context", "outbox", "conversation", "voice_cache", "voices"},
    "studio": {"errors", "protocol", "options", "terminal", "engine", "__init__"},
    "terminal": {"errors"},
    "logs": {"options"},
    "connection": set(),
    "metrics": {"outbox"},
    "web": {"metrics"},
    "call": {"errors", "protocol", "audio", "outbox", "engine", "metrics"},
    "server": {
        "errors",
        "protocol",
        "options",
        "audio",
        "outbox",
        "engine",
        "logs",
        "connection",
        "metrics",
        "web",
        "call",
        "__init__",
    },
    "streams": set(),
    "events": {"protocol", "streams", "terminal"},
    "player": {"protocol", "options", "audio", "outbox", "streams"},
    "pipe": {
        "errors",
        "protocol",
        "options",
        "outbox",
        "terminal",
        "streams",
        "events",
        "player",
        "engine",
        "__init__",
    },
    "report": {"errors", "options"},
    "caller": {"errors", "protocol", "options", "outbox", "engine", "client"},
    "bench": {"report", "caller", "errors", "protocol", "options", "outbox", "terminal", "engine", "__init__"},
    "client": {"errors", "protocol", "options", "audio", "terminal"},
    "cli": {"errors", "protocol", "options", "__init__"},
    "__main__": set(),
}

# What these import when they run, inside a function, besides.
WHEN_RUN = {"cli": {"__main__", "engine", "server", "pipe", "bench", "client", "studio"}, "__main__": {"cli"}}

# Who may touch dia2: the engine and what it builds. cli catches its errors and needs no more than their names.
MAY_TOUCH_DIA2 = {"engine", "conversation", "context", "voice_cache", "listening", "voices", "studio"}

# Modules that have to do without torch, so that --help is quick and clients are light.
WITHOUT_TORCH = {
    "dia2": {"errors", "config", "script", "text_stream"},
    "dia2stream": {
        "__init__",
        "errors",
        "protocol",
        "options",
        "audio",
        "terminal",
        "streams",
        "client",
        "cli",
        "server",
        "call",
        "web",
    },
}


def modules(package: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / package).glob("*.py"))


def imports(package: str, module: str, *, everywhere: bool = True) -> set[str]:
    """What a module imports, as dotted names from the root; without `everywhere` only what importing it imports."""
    tree = ast.parse((ROOT / package / f"{module}.py").read_text(encoding="utf-8"))
    return {name for node in _nodes(tree, everywhere) for name in _names(node, package)}


def _nodes(tree: ast.AST, everywhere: bool) -> list[ast.AST]:
    found = []
    for child in ast.iter_child_nodes(tree):
        runs_later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or "__name__ ==" in _condition(child)
        if everywhere or not runs_later:
            found += [child, *_nodes(child, everywhere)]
    return found


def _condition(node: ast.AST) -> str:
    return ast.unparse(node.test) if isinstance(node, ast.If) else ""


def _names(node: ast.AST, package: str) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if not isinstance(node, ast.ImportFrom):
        return set()
    base = ".".join(filter(None, [package if node.level else None, node.module]))
    if base not in ("dia2", "dia2stream"):
        return {base}
    known = modules(base)
    return {f"{base}.{alias.name}" if alias.name in known else f"{base}.__init__" for alias in node.names}


def siblings(package: str, module: str, *, everywhere: bool = True) -> set[str]:
    """The modules of its own package that a module imports."""
    prefix = f"{package}."
    return {
        name.removeprefix(prefix).split(".")[0]
        for name in imports(package, module, everywhere=everywhere)
        if name.startswith(prefix)
    }


def test_every_module_of_dia2_has_a_layer():
    assert set(modules("dia2")) <= {"__init__", *set().union(*DIA2_LAYERS)}


def test_every_module_of_dia2stream_has_a_row():
    assert set(modules("dia2stream")) <= set(DIA2STREAM_MAY_IMPORT)


@pytest.mark.parametrize("module", sorted(set(modules("dia2")) & set().union(*DIA2_LAYERS)))
def test_dia2_imports_only_from_lower_layers(module):
    layer = next(n for n, names in enumerate(DIA2_LAYERS) if module in names)
    assert siblings("dia2", module) <= set().union(*DIA2_LAYERS[:layer])


@pytest.mark.parametrize("module", modules("dia2"))
def test_dia2_never_imports_dia2stream(module):
    assert not [name for name in imports("dia2", module) if name.split(".")[0] == "dia2stream"]


@pytest.mark.parametrize("module", sorted(set(modules("dia2stream")) & set(DIA2STREAM_MAY_IMPORT)))
def test_dia2stream_imports_what_its_row_allows(module):
    assert siblings("dia2stream", module, everywhere=False) <= DIA2STREAM_MAY_IMPORT[module]
    assert siblings("dia2stream", module) <= DIA2STREAM_MAY_IMPORT[module] | WHEN_RUN.get(module, set())


@pytest.mark.parametrize("module", modules("dia2stream"))
def test_only_the_engine_and_what_it_builds_touch_dia2(module):
    touched = {name for name in imports("dia2stream", module) if name.split(".")[0] == "dia2"}
    allowed = {"dia2.errors"} if module == "cli" else set()
    assert module in MAY_TOUCH_DIA2 or touched <= allowed


@pytest.mark.parametrize(("package", "module"), [(p, m) for p, names in WITHOUT_TORCH.items() for m in sorted(names)])
def test_light_modules_import_no_torch(package, module):
    if module not in modules(package):
        pytest.skip(f"there is no {package}/{module}.py yet")
    heavy = {name.split(".")[0] for name in imports(package, module, everywhere=False)}
    assert not heavy & {"torch", "transformers", "tokenizers", "safetensors"}
