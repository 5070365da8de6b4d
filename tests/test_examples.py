"""scripts/examples: each speaks, adds, interrupts and tells in one line what was heard."""

import os
import re
import subprocess
import sys

import pytest
import soundfile
from piping import ENVIRONMENT, PATIENCE, ROOT, put_on_path
from tools import needs

TEXT = (
    "Your order left our house this morning, and it should be with you by Thursday at noon. "
    "Is there anything else that I can do for you today?"
)


@pytest.mark.parametrize(
    ("command", "example"),
    [
        pytest.param([sys.executable], "talk.py", id="python"),
        pytest.param(["node"], "talk.mjs", id="node", marks=needs("node")),
        pytest.param(["bash"], "talk.sh", id="shell"),
    ],
)
def test_an_example_speaks_is_interrupted_and_answers(command, example, tmp_path):
    put_on_path(tmp_path)
    done = subprocess.run(
        [*command, str(ROOT / "scripts" / "examples" / example), *(["speech.wav"] if example == "talk.sh" else [])],
        cwd=tmp_path,
        env=ENVIRONMENT | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    told = re.fullmatch(r"heard '(.*)', not '(.*)'; (\d+) ms, exit code 0\n", done.stdout)
    assert told, done.stdout
    heard, not_heard, milliseconds = told.groups()
    assert f"{heard} {not_heard}" == TEXT
    assert heard
    assert int(milliseconds) % 80 == 0
    if example == "talk.sh":
        assert soundfile.info(tmp_path / "speech.wav").frames == int(milliseconds) * 24
