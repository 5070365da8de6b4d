"""Greedy tokens of the published package beside ours. It is called dia2 as well, so it runs in a Python of its own.

Run by that Python, this file writes what the published package generates, and imports nothing of this project.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TEXTS = ("[S1] Hello there, how are you? [S2] Very well, thank you.", "[S1] It is time to go.")


def generate(model: str, device: str, dtype: str, output: str) -> None:
    """Writes the greedy tokens of each text, a list of codebooks a text, as JSON. Uses published names alone."""
    from dia2 import Dia2, GenerationConfig, SamplingConfig

    load = Dia2.from_local if Path(model).is_dir() else Dia2.from_repo
    files = (
        (str(Path(model) / "config.json"), str(Path(model) / "model.safetensors")) if Path(model).is_dir() else (model,)
    )
    dia = load(*files, device=device, dtype=dtype)
    greedy = SamplingConfig(temperature=0.0, top_k=1)
    config = GenerationConfig(text=greedy, audio=greedy, cfg_scale=1.0)
    tokens = [dia.generate(text, config=config).audio_tokens[0].tolist() for text in TEXTS]
    Path(output).write_text(json.dumps(tokens))


def tokens_by(python: str, model: str, device: str, environment: dict[str, str]) -> list[list[list[int]]]:
    """What `generate` writes in another Python. Raises RuntimeError when that fails."""
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "tokens.json")
        command = [python, __file__, model, device, "float32", output]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
        if done.returncode:
            raise RuntimeError(f"{python} could not generate with its dia2: {done.stderr.strip()[-500:]}")
        return json.loads(Path(output).read_text())


def compare_tokens(python: str, model: Any) -> Any:
    """A figure: how many of the published package's greedy tokens are ours too."""
    import torch
    from report import Figure

    import dia2

    folder = Path(dia2.__file__).parent
    name = str(folder / "bundled") if model.model == "bundled" else model.model
    device = ("cuda" if torch.cuda.is_available() else "cpu") if model.device == "auto" else model.device
    bare = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    theirs = tokens_by(python, name, device, bare)
    ours = tokens_by(sys.executable, name, device, bare | {"PYTHONPATH": str(folder.parent)})
    same = count = 0
    for their, our in zip(theirs, ours, strict=True):
        for their_book, our_book in zip(their, our, strict=True):
            count += max(len(their_book), len(our_book))
            same += sum(a == b for a, b in zip(their_book, our_book, strict=False))
    return Figure(
        "published package", "greedy tokens that agree", 100 * same / count, "%", least=100, detail=f"of {count}"
    )


if __name__ == "__main__":
    generate(*sys.argv[1:5])
