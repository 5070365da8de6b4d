"""`dia2stream pipe` as the voice of a Python program: it speaks, is given more, is interrupted, and answers.

python scripts/examples/talk.py
"""

import json
import subprocess
import threading
import time

BYTES_A_MS = 48  # 24,000 samples of 2 bytes a second


class Voice:
    """The process. Audio is read on a thread of its own: who reads only one of the two outputs blocks the other."""

    def __init__(self, *flags: str) -> None:
        command = ["dia2stream", "pipe", *flags]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        self.audio = b""
        self.began = 0.0
        self.player = threading.Thread(target=self.play)
        self.player.start()

    def play(self) -> None:
        """Takes audio as it comes. Here it is only counted; give it to your sound card or your call."""
        while samples := self.process.stdout.read(1 << 16):
            self.began = self.began or time.monotonic()
            self.audio += samples

    @property
    def played_ms(self) -> float:
        """What the listener has heard: ask your sound card. This one plays in real time from the first sample."""
        return min((time.monotonic() - self.began) * 1000, len(self.audio) / BYTES_A_MS)

    def send(self, cmd: str, **fields: object) -> None:
        self.process.stdin.write(json.dumps({"cmd": cmd, **fields}).encode() + b"\n")

    def wait_for(self, name: str, **fields: object) -> dict:
        """Reads events until this one comes."""
        for line in self.process.stderr:
            event = json.loads(line)
            if event["event"] == "error":
                raise RuntimeError(event["message"])
            if {"event": name, **fields}.items() <= event.items():
                return event
        raise RuntimeError(f"dia2stream ended with {self.process.wait()} before {name}")

    def close(self) -> int:
        """No more text: what is queued is spoken. Returns the exit code."""
        self.process.stdin.close()
        self.player.join()
        return self.process.wait()


def main() -> None:
    voice = Voice("--max-lead-ms", "500")  # so that little has to be thrown away when the caller interrupts
    voice.wait_for("ready")
    voice.send("start", text="[S1] Your order left our house this morning,", final=False)  # as a language model writes
    voice.send("inject", text=" and it should be with you by Thursday at noon.")
    voice.send("inject", text="Is there anything else that I can do for you today?")
    voice.wait_for("word", word="house")
    time.sleep(0.3)  # the caller begins to speak: empty your sound card's buffer, and tell how much was heard
    voice.send("pause", played_ms=voice.played_ms)
    paused = voice.wait_for("paused")
    voice.send("inject", text="Oh, sure, go ahead.", id="answer")
    voice.wait_for("done", id="answer")
    code, milliseconds = voice.close(), len(voice.audio) // BYTES_A_MS
    print(f"heard {paused['spoken']!r}, not {paused['pending']!r}; {milliseconds} ms, exit code {code}")


if __name__ == "__main__":
    main()
