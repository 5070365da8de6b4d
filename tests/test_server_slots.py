"""A server of several slots: conversations side by side, and what happens when all are taken."""

import asyncio
import time

import numpy as np
import pytest
from serving import SHORT, Serve, hear, on_loop, sound, take_slot

from dia2stream.client import connect
from dia2stream.errors import CommandError
from dia2stream.protocol.audio_message import Audio


@pytest.fixture(scope="module")
def server():
    with Serve(slots="2") as server:
        yield server


async def say(server: Serve, seed: int) -> bytes:
    async with await take_slot(server) as client:  # a server may need a moment to free the one before
        await client.start(SHORT, seed=seed)
        said = sound(await hear(client))
        await client.hang_up()
        return said


@on_loop
async def test_two_clients_speak_at_once_and_each_sounds_as_alone(server):
    alone = [await say(server, seed) for seed in (1, 2)]
    together = await asyncio.gather(say(server, 1), say(server, 2))
    for one, other in zip(together, alone, strict=True):
        # A batch of another size rounds differently, by at most one step of PCM16.
        steps = np.frombuffer(one, "<i2").astype(int) - np.frombuffer(other, "<i2")
        assert abs(steps).max() <= 1


@on_loop
async def test_a_client_beyond_the_slots_is_busy_until_one_is_free(server):
    async with connect(server.url) as first, connect(server.url) as second:
        await first.start(SHORT, seed=1)
        await second.start(SHORT, seed=2)
        with pytest.raises(CommandError, match="every slot is taken: this server speaks 2 conversations at a time"):
            await connect(server.url)
        await first.hang_up()
        assert await say(server, 1)
        await second.hang_up()


@on_loop
async def test_metrics_count_the_slots_and_those_that_are_taken(server):
    async with connect(server.url):
        _, body, *_ = await asyncio.to_thread(server.get, "/metrics")
    assert "dia2stream_slots 2.0" in body
    assert "dia2stream_slots_taken 1.0" in body


SLOW_EAR = """
import time
from dia2.codec import mimi
init = mimi.Mimi.__init__
def slow(self, config, decoder, device, load_encoder):
    def slowly():
        time.sleep(5)
        return load_encoder()
    init(self, config, decoder, device, slowly)
mimi.Mimi.__init__ = slow
"""


@on_loop
async def test_nobody_waits_while_the_first_listen_loads_what_hears_callers():
    with Serve(slots="2", before=SLOW_EAR, max_lead_ms="200") as server:
        async with connect(server.url) as speaker, connect(server.url) as listener:
            await speaker.start(" ".join([SHORT] * 20), seed=1)
            await listener.start(SHORT, seed=2)
            await hear(listener)
            await listener.listen(bytes(48_000), text="One second of silence.")
            asked = last = time.monotonic()
            longest = 0.0
            while last < asked + 7:
                if isinstance(await speaker.receive(), Audio):
                    longest = max(longest, time.monotonic() - last)
                    last = time.monotonic()
            await listener.inject(SHORT, id="answer")
            assert any(isinstance(item, Audio) for item in await hear(listener))
    assert longest < 4  # not the 5 s of the loading
