"""The wheel: it holds what is not Python, and its client imports where only numpy and websockets are installed."""

import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from piping import PATIENCE, ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built offline by the hatchling that the test extra brings."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True, timeout=PATIENCE)
    [built] = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_the_bundled_voice_the_page_and_the_licences(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in ("dia2", "dia2stream"):
        modules = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}
        assert modules <= names
        assert f"{package}/py.typed" in names
    bundled = {str(path.relative_to(ROOT)) for path in (ROOT / "dia2" / "bundled").rglob("*") if path.is_file()}
    assert "dia2/bundled/model.safetensors" in bundled
    assert (
        bundled | {f"dia2stream/server/web/{name}" for name in ("page.html", "page.css", "page.js", "client.js")}
        <= names
    )
    assert {f"dia2stream/protocol/protocol.{kind}" for kind in ("d.ts", "schema.json", "asyncapi.json")} <= names
    assert {name.rpartition("/")[2] for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}
    assert not [name for name in names if name.startswith(("tests/", "scripts/"))]


def test_without_its_dependencies_the_client_imports_beside_numpy_and_websockets_alone(wheel, tmp_path):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path)]
    subprocess.run([*command, str(wheel)], check=True, timeout=PATIENCE)
    for package in ("numpy", "websockets"):
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent
        for part in folder.parent.glob(f"{package}*"):  # numpy.libs too
            (tmp_path / part.name).symlink_to(part)
    # -I and -S: no folder but this one and the standard library.
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import dia2stream.client as c; print(c.__file__)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
