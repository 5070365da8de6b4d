"""The example agents of scripts/examples, with a language model that says what it was told to, and a loudspeaker.

python examples.py URL KEY FOLDER whole pipecat|livekit
"""

import asyncio
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from report import FOLDER, KEY, SECOND, SERVICE, WS_URL, save, tell, tokens

ROOT = Path(__file__).parent.parent.parent
RATE = 24000


class Parrot(BaseHTTPRequestHandler):
    """OpenAI's chat completions, streamed."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for token in tokens(SECOND):
            self._piece({"role": "assistant", "content": token}, None)
        self._piece({}, "stop")
        self.wfile.write(b"data: [DONE]\n\n")

    def _piece(self, delta: dict, finish: str | None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        told = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "parrot", "choices": [choice]}
        self.wfile.write(f"data: {json.dumps(told)}\n\n".encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


async def pipecat() -> None:
    from pipecat.frames.frames import LLMRunFrame
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.processors.frame_processor import FrameProcessor
    from pipecat.workers.runner import WorkerRunner
    from pipecat_agent import agent
    from pipecat_pipeline import Loudspeaker, Notes, silence

    class Silence(FrameProcessor):
        async def process_frame(self, frame, direction) -> None:
            await super().process_frame(frame, direction)
            await self.push_frame(frame, direction)

    speaker, notes = Loudspeaker(), Notes()

    class Transport:
        def input(self) -> FrameProcessor:
            return Silence()

        def output(self) -> FrameProcessor:
            return Pipeline([speaker, notes])

    worker = agent(Transport())
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    await asyncio.sleep(2)
    await worker.queue_frame(LLMRunFrame())
    await silence(notes, 180)
    tell("example", seconds=save("example", bytes(speaker.played), RATE))
    await worker.cancel()
    await running


async def livekit() -> None:
    from livekit.agents import Agent
    from livekit_agent import ROLE, make_session, make_voice
    from livekit_loudspeaker import Loudspeaker

    voice = make_voice()
    session, loudspeaker = make_session(voice), Loudspeaker()
    session.output.audio = loudspeaker
    await session.start(Agent(instructions=ROLE))
    voice.follow(session)
    await session.generate_reply(instructions="Say it.")
    tell("example", seconds=save("example", bytes(loudspeaker.played), RATE))
    await session.aclose()
    await voice.aclose()


def main() -> None:
    sys.path.insert(0, str(ROOT / "scripts" / "examples"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Parrot) as llm:
        threading.Thread(target=llm.serve_forever, daemon=True).start()
        os.environ |= {"OPENAI_BASE_URL": f"http://127.0.0.1:{llm.server_port}/v1", "OPENAI_API_KEY": "x"}
        os.environ |= {"DIA2STREAM_URL": WS_URL, "DIA2STREAM_TOKEN": KEY}
        asyncio.run({"pipecat": pipecat, "livekit": livekit}[SERVICE]())
        llm.shutdown()


assert FOLDER.exists()
main()
