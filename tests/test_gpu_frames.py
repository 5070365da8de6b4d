"""Ten thousand frames of one conversation on a GPU: none hangs, and the same seed gives the same bits.

Everything has a part in them that `serve` uses by default: kernels of clusters, the fused codec, guessed lead-ins,
contexts that are full and rebuilt. Run by scripts/gpu-tests; elsewhere the test is left out.
"""

import hashlib
import threading

import pytest

from dia2stream.engine.engine import Engine
from dia2stream.items import Frame
from dia2stream.options import ModelOptions
from dia2stream.protocol.messages import Done, Start

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(400)]

TEXT = "[S1] " + "one two three four five six seven eight nine ten. " * 190  # as many words as a conversation may queue
FRAMES, LONGEST, SECONDS = 10_000, 2500, 120


def speak(engine: Engine, seed: int) -> tuple[int, str]:
    """How many frames a conversation has, `LONGEST` at most, and a digest of their sound."""
    digest, count = hashlib.sha256(), 0
    with engine.conversation() as session:
        session.submit(Start(TEXT, seed=seed))
        while count < LONGEST and not isinstance(item := session.next(), Done):
            if isinstance(item, Frame):
                digest.update(item.pcm.tobytes())
                count += 1
    return count, digest.hexdigest()


def test_ten_thousand_frames_come_without_a_hang_and_a_seed_repeats_its_bits() -> None:
    engine = Engine.load(ModelOptions(model="random:2b", device="cuda"))
    said: list[tuple[int, str]] = []  # each conversation twice

    def make_frames() -> None:
        while sum(count for count, _ in said) < FRAMES:
            said.extend(speak(engine, len(said) // 2) for _ in range(2))

    speaker = threading.Thread(target=make_frames, daemon=True)
    speaker.start()
    speaker.join(timeout=SECONDS)
    assert not speaker.is_alive(), f"{FRAMES} frames were not there within {SECONDS} seconds, but {said}"
    assert said[::2] == said[1::2]
    assert all(count > 100 for count, _ in said)
    engine.close()
