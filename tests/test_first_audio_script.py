"""scripts/first-audio watches functions by their names: every one of them is there, and the path runs through them."""

import re
import subprocess
import sys

from piping import ENVIRONMENT, PATIENCE, ROOT


def test_a_first_audio_is_told_function_by_function() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "first-audio"), "--model", "random:tiny", "--runs", "2"]
    done = subprocess.run(
        command,
        env={**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    total = re.search(r"^first audio, timed: p50 ([\d.]+) ms", done.stdout, re.MULTILINE)
    assert total is not None, done.stdout
    parts = {label: float(ms) for ms, label in re.findall(r"^ +([\d.]+) +\d+  (\S+)$", done.stdout, re.MULTILINE)}
    assert parts.keys() >= {"Conversation.handle", "Batch.step", "stepper.act", "ContextPool.decode", "Session.notify"}
    assert 0 < sum(parts.values()) <= float(total[1]) + 1
