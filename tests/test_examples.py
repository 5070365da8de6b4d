"""scripts/examples: each speaks, adds, interrupts and tells in one line what was heard."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import soundfile
from piping import ENVIRONMENT, PATIENCE, ROOT, put_on_path
from serving import Serve
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


class Parrot(BaseHTTPRequestHandler):
    """A language model that says the question again, a few letters at a time, as OpenAI's servers stream it."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert (self.path, asked["stream"]) == ("/v1/chat/completions", True)
        said = asked["messages"][-1]["content"]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for start in range(0, len(said), 3):
            piece = {"choices": [{"delta": {"content": said[start : start + 3]}}]}
            self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())
        self.wfile.write(b'data: {"choices": [{"delta": {}}]}\n\ndata: [DONE]\n\n')

    def log_message(self, format: str, *args: object) -> None:
        """Tests are quiet."""


@contextmanager
def parrot() -> Iterator[str]:
    """A parrot's base URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Parrot) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@pytest.mark.parametrize("to", ["serve", "pipe"])
def test_a_language_model_speaks_through_serve_and_through_pipe(to, tmp_path):
    put_on_path(tmp_path)

    def ask(target: str, llm: str) -> None:
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "examples" / "llm.py"), TEXT, "--to", target],
            env=ENVIRONMENT | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LLM_URL": llm},
            capture_output=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.decode().split() == TEXT.split()
        assert len(done.stdout) % 3840 == 0
        assert len(done.stdout) > 30 * 3840

    with parrot() as llm:
        if to == "pipe":
            ask("pipe", llm)
        else:
            with Serve() as server:
                ask(server.url, llm)
