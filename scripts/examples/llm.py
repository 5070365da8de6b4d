"""A language model speaks: its tokens go into `serve`, or into `pipe`, as they come.

    python scripts/examples/llm.py "Tell me about Lisbon." --to ws://127.0.0.1:8765 > answer.pcm
    python scripts/examples/llm.py "Tell me about Lisbon." --to pipe | ffplay -f s16le -ar 24000 -nodisp -autoexit -

LLM_URL names any server of OpenAI's chat completions (Ollama: http://127.0.0.1:11434/v1), LLM_MODEL the model, LLM_KEY
its key. The sound is PCM16 at 24 kHz, on stdout; each word is told on stderr before it sounds.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from typing import TextIO
from urllib.parse import urlsplit

from dia2stream.client import Client, connect
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Done, Error, WordEvent
from dia2stream.reach import is_loopback


def tokens(question: str) -> Iterator[str]:
    """What the model answers, piece by piece."""
    asked = {"model": os.environ.get("LLM_MODEL", "llama3.2"), "stream": True}
    body = json.dumps({**asked, "messages": [{"role": "user", "content": question}]}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('LLM_KEY', '')}"}
    url = os.environ.get("LLM_URL", "http://127.0.0.1:11434/v1")
    no_proxy = {} if is_loopback(urlsplit(url).hostname or "") else None  # None: those of the environment
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(no_proxy))
    with opener.open(urllib.request.Request(f"{url}/chat/completions", body, headers)) as answer:
        for line in answer:
            data = line.decode().removeprefix("data: ").strip()
            if data and data != "[DONE]":
                yield json.loads(data)["choices"][0]["delta"].get("content") or ""


async def through_serve(question: str, url: str) -> None:
    async with connect(url, token=os.environ.get("DIA2STREAM_TOKEN")) as client:
        await client.start("", final=False)  # the model's first token is waited for by a voice that is ready
        writing = asyncio.create_task(write(client, question))
        async for item in client:
            if isinstance(item, Audio):
                sys.stdout.buffer.write(item.data)
            elif isinstance(item, WordEvent):
                print(item.word, file=sys.stderr, flush=True)
            elif isinstance(item, Error):
                raise SystemExit(item.message)
            elif isinstance(item, Done):
                break
        await writing


async def write(client: Client, question: str) -> None:
    answer = tokens(question)
    while (token := await asyncio.to_thread(next, answer, None)) is not None:
        await client.inject(token, final=False)
    await client.end()


def through_pipe(question: str) -> None:
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(["dia2stream", "pipe"], text=True, bufsize=1, **pipes) as pipe:
        threading.Thread(target=write_lines, args=(pipe.stdin, question)).start()
        for line in pipe.stderr:
            event = json.loads(line)
            if event["event"] == "word":
                print(event["word"], file=sys.stderr, flush=True)


def write_lines(commands: TextIO, question: str) -> None:
    with commands:  # the end of the input ends the text, too
        commands.write('{"cmd": "start", "text": "", "final": false}\n')
        for token in tokens(question):
            commands.write(json.dumps({"cmd": "inject", "text": token, "final": False}) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("question")
    parser.add_argument("--to", default="ws://127.0.0.1:8765", help="a server's URL, or pipe")
    arguments = parser.parse_args()
    if arguments.to == "pipe":
        through_pipe(arguments.question)
    else:
        asyncio.run(through_serve(arguments.question, arguments.to))
