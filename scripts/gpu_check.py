"""What a model takes on this machine's GPU, step by step and eagerly: one line of JSON. See scripts/gpu-check."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from dia2.checkpoint.load import Checkpoint, LoadOptions, load_checkpoint
from dia2.model.sampling import SlotSettings
from dia2.steps.stepper import Stepper

RUNS = 20


def main(model: str, dtype: str) -> None:
    started = time.perf_counter()
    checkpoint = load_checkpoint(model, LoadOptions(device="cuda", dtype=dtype))
    torch.cuda.synchronize()
    loaded = time.perf_counter() - started
    size = torch.cuda.memory_allocated()
    report = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "model": model,
        "dtype": dtype,
        "load_seconds": round(loaded, 2),
        "load_gb": round(size / 1e9, 2),
        "load_peak_over_size": round(torch.cuda.max_memory_allocated() / size, 3),
        **{name: round(ms, 2) for name, ms in steps(checkpoint).items()},
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
    }
    print(json.dumps(report))


def steps(checkpoint: Checkpoint) -> dict[str, float]:
    """Milliseconds, p50, of a step in the lead-in, of a whole one, and of a codec frame."""
    stepper = Stepper(checkpoint)
    stepper.begin(0, SlotSettings(), seed=1)

    def step() -> None:
        stepper.act([0])
        stepper.complete([(checkpoint.config.data.text_pad_token_id,) * 2])

    lead_in = timed(step, max(stepper.delays) - 1)
    whole = timed(step, RUNS)
    state = checkpoint.codec.state()
    codes = stepper.frames(0, 0, 1)[None]
    return {
        "backbone_step_ms": lead_in,
        "whole_step_ms": whole,
        "codec_frame_ms": timed(lambda: checkpoint.codec.decode(codes, state), RUNS),
    }


def timed(call: Callable[[], object], runs: int) -> float:
    times = []
    for _ in range(runs):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return sorted(times)[runs // 2] * 1000


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
