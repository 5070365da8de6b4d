"""The kernels of persistent.cu say what the layers say: run on the CPU, where every CUDA thread is a fibre."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dia2 import random_models
from dia2.checkpoint import load_checkpoint
from dia2.config import DecoderConfig, DepformerConfig
from dia2.errors import DeviceError
from dia2.persistent import Load, Machine, PersistentKernels, Shape, cut
from dia2.sampling import SamplingConfig, SlotSettings
from dia2.stepper import Stepper

EMULATOR = Path(__file__).parent / "emulator"
SETTINGS = (
    SlotSettings(),
    SlotSettings(cfg_scale=1.0, text=SamplingConfig(0.0, 0), audio=SamplingConfig(0.0, 0)),
    SlotSettings(cfg_filter_k=0, audio=SamplingConfig(1.3, 7)),
    SlotSettings(cfg_filter_k=30, audio=SamplingConfig(0.5, 9)),
)


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Compiles a kernel for the CPU."""
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")

    def load(source: str, name: str, grid: int, threads: int, shared: int) -> Callable[[int], None]:
        folder = tmp_path_factory.mktemp(name)
        (folder / "persistent.cu").write_text(source)
        library = folder / "kernel.so"
        options = ["-O2", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=off", "-w", f"-I{folder}", f"-I{EMULATOR}"]
        subprocess.run(["g++", *options, str(EMULATOR / "main.cpp"), "-o", str(library)], check=True)
        run = ctypes.CDLL(str(library)).run
        return lambda address: run(ctypes.c_void_p(address))

    return load


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose sizes a persistent kernel can be cut for."""
    tiny = random_models._MODELS["tiny"]
    decoder = DecoderConfig(2, 256, 512, 4, 2, 64)
    depformer = DepformerConfig(2, 128, 256, 2, 2, 64, text_embedding=False)
    config = random_models._config(1024, 256, 8, 3, decoder, depformer)
    monkeypatch.setitem(random_models._MODELS, "small", replace(tiny, config=config))


@pytest.mark.slow
@pytest.mark.parametrize(("slots", "processors"), [(1, 10), (2, 16)])
def test_a_step_is_the_layers_step_and_its_draws_are_the_samplers(slots: int, processors: int, emulated: Load) -> None:
    torch.manual_seed(0)
    loaded = load_checkpoint("random:small", device="cpu", dtype="bfloat16")
    stepper, every = Stepper(loaded, slots), slice(0, slots)
    rows, codebooks, stages = 2 * slots, stepper.config.data.codebooks, stepper.depformer.stages
    fields = torch.zeros(slots, 5, dtype=torch.int64)
    drawn = torch.zeros(slots, codebooks + 1, dtype=torch.int64)
    heads = torch.cat([loaded.backbone.cb0_head, loaded.backbone.action_head])
    vocabulary = len(loaded.backbone.cb0_head)
    logits, stage_logits = torch.zeros(rows, len(heads)), torch.zeros(rows, stepper.depformer.codes)
    x = torch.zeros(rows, heads.shape[1], dtype=torch.bfloat16)
    kernels = PersistentKernels(
        stepper, fields, drawn, x, heads, logits, stage_logits, load=emulated, machine=Machine(processors, 80_000)
    )
    for slot in range(slots):
        stepper.begin(slot, SETTINGS[slot], slot)
    stepper.cache.k.normal_()
    stepper.cache.v.normal_()
    for column in (0, 70, 1490):
        columns = [column + slot for slot in range(slots)]
        known = 0 if column else 100
        fields[:, 0] = fields[:, 1] = torch.tensor(columns)
        fields[:, 2] = known
        x.normal_()
        with torch.inference_mode():
            kernels.check()  # the logits
        uniforms = torch.stack([stepper._uniforms[slot, columns[slot]] for slot in range(slots)])
        both = logits.unflatten(0, (-1, 2))
        candidates = stepper._guidance(both[..., :vocabulary], every).index_fill(1, stepper._never_drawn, -torch.inf)
        assert drawn[:, 0].tolist() == stepper._audio_draws(candidates, uniforms[:, 1], every).tolist()
        actions = stepper._guidance(both[..., vocabulary:], every)
        assert drawn[:, -1].tolist() == stepper._text_draws(actions, uniforms[:, 0], every).tolist()
        last = stepper._guidance(stage_logits.unflatten(0, (-1, 2)), every)
        assert drawn[:, stages].tolist() == stepper._audio_draws(last, uniforms[:, 1 + stages], every).tolist()
        for slot in range(slots):
            bos = stepper.config.data.audio_bos_token_id
            expected = [bos] * codebooks if known else drawn[slot, :-1].tolist()
            assert stepper.codes[slot, :, columns[slot] + 1].tolist() == expected
    assert not kernels.gave_up


@pytest.mark.parametrize(
    ("shape", "machine", "said"),
    [
        (Shape(1000, 3072, 8, 8, 128, 2048, 4), Machine(132, 232_448), "inputs"),
        (Shape(1024, 3072, 8, 8, 128, 9000, 4), Machine(132, 232_448), "logits"),
        (Shape(1024, 3072, 8, 8, 128, 2048, 4), Machine(8, 232_448), "multiprocessors"),
        (Shape(1024, 3072, 8, 8, 128, 2048, 4), Machine(132, 49_152), "shared memory"),
    ],
)
def test_what_no_kernel_is_cut_for_is_refused_with_the_reason(shape: Shape, machine: Machine, said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        cut(shape, 2, machine)
