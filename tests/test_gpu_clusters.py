"""The depformer of clusters beside its plain twin, which is Depformer.stage and the draws of dia2/model/sampling.py.

Run by scripts/gpu-tests, on a GPU that can run it; elsewhere these tests are skipped with the reason.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import pytest
import torch
from replays import assert_every_launch_makes
from test_gpu_stepper import captured, distance, loaded, talk
from tools import require
from torch import Tensor

require("triton")

from dia2.checkpoint.load import Checkpoint
from dia2.cuda.clusters import depformer as clusters
from dia2.cuda.clusters.depformer import ClusterDepformer, StepAddresses
from dia2.cuda.kernels.launch import COLUMN, KNOWN, SLOT, STEP_FIELDS
from dia2.model.depformer import Depformer
from dia2.model.fp8 import Fp8Matrix, Matrix
from dia2.model.sampling import CB0_STREAM, Draws, Guidance, SamplingConfig, SlotSettings
from dia2.model.slots import SlotIndex

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(580)]

CUDA = torch.device("cuda")
SLOTS, CAPACITY, SLOT_USED, COLUMN_USED = 3, 20, 1, 7
SETTINGS = [
    SlotSettings(),
    SlotSettings(cfg_scale=1.0, audio=SamplingConfig(0.0, 0)),  # greedy
    SlotSettings(cfg_scale=1.0, audio=SamplingConfig(0.8, 0)),  # from all codes
    SlotSettings(cfg_scale=2.0, cfg_filter_k=5, audio=SamplingConfig(-1.0, 3)),
    SlotSettings(cfg_scale=3.0, cfg_filter_k=0, audio=SamplingConfig(1.5, 1)),
    SlotSettings(cfg_scale=0.0, cfg_filter_k=90, audio=SamplingConfig(0.5, 40)),
    SlotSettings(cfg_scale=-2.0, cfg_filter_k=10_000, audio=SamplingConfig(2.0, 700)),
]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@dataclass
class Bench:
    """A depformer in both forms, with the tensors of a step in which one of three slots stands at column 7."""

    checkpoint: Checkpoint
    whole: ClusterDepformer
    dice: torch.Generator = field(default_factory=lambda: torch.Generator(CUDA).manual_seed(0))

    def __post_init__(self) -> None:
        model, data = self.checkpoint.depformer, self.checkpoint.config.data
        width = model.heads.shape[2]
        self.guidance, self.draws = Guidance(SLOTS, CUDA), Draws(SLOTS, CUDA)
        self.fields = torch.zeros(1, STEP_FIELDS, dtype=torch.int64, device=CUDA)
        self.fields[0, COLUMN], self.fields[0, SLOT] = COLUMN_USED, SLOT_USED
        self.drawn = torch.zeros(1, data.codebooks + 1, dtype=torch.int64, device=CUDA)
        self.codes = torch.full((SLOTS, data.codebooks, CAPACITY), -7, device=CUDA)
        self.uniforms = torch.rand(SLOTS, CAPACITY, data.codebooks + 1, device=CUDA, generator=self.dice)
        self.projected = torch.zeros(2, len(model.groups) * width, dtype=torch.bfloat16, device=CUDA)
        self.hidden = torch.zeros(2, model.project_in.shape[2], dtype=torch.bfloat16, device=CUDA)
        self.use(SlotSettings())
        self.params = self.whole.bind(
            StepAddresses(
                self.projected,
                self.fields,
                self.drawn,
                self.codes,
                self.guidance.scale,
                self.guidance.filter_k,
                self.draws.temperature,
                self.draws.top_k,
                self.uniforms,
            )
        )

    def use(self, settings: SlotSettings) -> None:
        self.guidance.set(SLOT_USED, settings)
        self.draws.set(SLOT_USED, settings.audio)

    def new_column(self) -> Tensor:
        """Another hidden state, and random codes [C] for the stages to read."""
        model = self.checkpoint.depformer
        self.hidden.copy_(torch.randn(self.hidden.shape, device=CUDA, generator=self.dice))
        project = exact(model.project_in.flatten(0, 1))
        self.projected.copy_((self.hidden.float() @ project.T).bfloat16())
        codebooks = self.codes.shape[1]
        codes = torch.randint(model.codes, (codebooks,), device=CUDA, generator=self.dice)
        self.drawn[0, 0] = codes[0]
        return codes

    def run(self) -> list[int]:
        """The codes that the kernel draws, from codebook 1 on."""
        self.whole.launch(self.params)
        return self.drawn[0, 1:-1].tolist()

    def plain_draws(self, logits: Tensor) -> list[int]:
        """Those that the plain draws take from the same logits [stages, 2, V]."""
        index = SlotIndex.of([SLOT_USED], CUDA)
        found = []
        for stage, of_stage in enumerate(logits):
            uniform = self.uniforms[SLOT_USED, COLUMN_USED, CB0_STREAM + 1 + stage]
            found.append(int(self.draws(self.guidance(of_stage[None], index), uniform.view(1), index)))
        return found


@cache
def bench(model: str, weights: str = "dtype") -> Bench:
    checkpoint = loaded(model, "bfloat16", weights)
    whole, reason = ClusterDepformer.make(checkpoint.depformer, checkpoint.config)
    if whole is None:
        pytest.skip(reason)
    return Bench(checkpoint, whole)


def exact(matrix: Matrix) -> Tensor:
    """A matrix in float32."""
    if isinstance(matrix, Fp8Matrix):
        return matrix.values.float() * matrix.scale.unsqueeze(-1)
    return matrix.float()


def plain_logits(model: Depformer, hidden: Tensor, codes: Tensor) -> Tensor:
    """Every stage's logits, [stages, 2, V], each given the code before it."""
    torch.set_float32_matmul_precision("highest")
    hidden, cache = hidden.to(model.heads.dtype), model.new_cache(2)
    stages = [model.stage(stage, hidden, codes[stage].expand(2), None, cache) for stage in range(model.stages)]
    return torch.stack(stages)


def in_float32(model: Depformer, config) -> Depformer:
    """The same weights, computed with in float32."""
    with torch.device("meta"):
        exact = Depformer(config)
    exact = exact.to_empty(device=CUDA).float()
    for mine, theirs in zip(exact.parameters(), model.parameters(), strict=True):
        mine.copy_(theirs)
    exact.prepare()
    return exact


@pytest.mark.parametrize("model", ["random:2b", "random:1b"])
def test_logits_are_nearer_to_float32_than_the_layers_in_bfloat16(model: str) -> None:
    made = bench(model)
    exact = in_float32(made.checkpoint.depformer, made.checkpoint.config)
    for _ in range(3):
        codes = made.new_column()
        right = plain_logits(exact, made.hidden, codes)
        ours = made.whole.launch_given(made.params, codes)
        theirs = plain_logits(made.checkpoint.depformer, made.hidden, codes)
        assert ours.isfinite().all()
        for stage in range(len(right)):
            assert distance(ours[stage], right[stage]) < 0.8 * distance(theirs[stage], right[stage])


def test_logits_with_8_bit_weights_are_nearer_to_float32_than_the_layers_in_bfloat16() -> None:
    made = bench("random:2b", "fp8")
    model = made.checkpoint.depformer
    in_full = copy.deepcopy(model).float()  # the same rounded weights, computed with in float32
    for _ in range(3):
        codes = made.new_column()
        right = plain_logits(in_full, made.hidden, codes)
        ours = made.whole.launch_given(made.params, codes)
        theirs = plain_logits(model, made.hidden, codes)
        assert ours.isfinite().all()
        for stage in range(len(right)):
            assert distance(ours[stage], right[stage]) < 0.8 * distance(theirs[stage], right[stage])


@pytest.mark.parametrize("settings", SETTINGS)
def test_codes_are_those_that_the_plain_draws_take_from_its_logits(settings: SlotSettings) -> None:
    made = bench("random:2b")
    made.use(settings)
    for _ in range(5):
        codes = made.new_column()
        logits = made.whole.launch_given(made.params, codes)
        assert made.drawn[0, 1:-1].tolist() == made.plain_draws(logits)


def test_uniforms_at_both_ends_draw_possible_codes() -> None:
    made = bench("random:2b")
    made.use(SlotSettings())
    kept = made.uniforms.clone()
    for uniform in (0.0, 1 - 2.0**-24):
        made.uniforms.fill_(uniform)
        codes = made.new_column()
        logits = made.whole.launch_given(made.params, codes)
        assert made.drawn[0, 1:-1].tolist() == made.plain_draws(logits)
    made.uniforms.copy_(kept)


def test_every_stage_reads_the_code_that_the_stage_before_drew() -> None:
    made = bench("random:2b")
    made.use(SlotSettings())
    made.new_column()
    drawn = made.run()
    made.whole.launch_given(made.params, made.drawn[0, :-1].clone())
    assert made.drawn[0, 1:-1].tolist() == drawn


def test_only_frames_that_are_not_known_are_written() -> None:
    made = bench("random:2b")
    made.use(SlotSettings())
    delay = made.checkpoint.config.data.delays[1]
    for known, written in ((COLUMN_USED + 1 - delay, True), (COLUMN_USED + 2 - delay, False)):
        made.new_column()
        made.fields[0, KNOWN] = known
        made.codes.fill_(-7)
        drawn = made.run()
        column = made.codes[SLOT_USED, 1:, COLUMN_USED + 1]
        assert column.tolist() == (drawn if written else [-7] * len(drawn))
        column.fill_(-7)
        assert (made.codes == -7).all()


@pytest.mark.parametrize("weights", ["dtype", "fp8"])
def test_it_gives_the_same_codes_10_000_times_without_a_hang(weights: str) -> None:
    made = bench("random:2b", weights)
    made.use(SlotSettings())
    made.new_column()
    made.run()
    assert_every_launch_makes(
        made.drawn.clone(),
        made.drawn,
        lambda: made.whole.launch(made.params),
        lambda: made.drawn[0, 1:-1].fill_(-1),
    )


def test_it_shares_the_gpu_with_others_of_its_kind_and_with_other_kernels() -> None:
    made = bench("random:2b")
    made.use(SlotSettings())
    other, reason = ClusterDepformer.make(made.checkpoint.depformer, made.checkpoint.config)
    assert other is not None, reason
    twin = Bench(made.checkpoint, other)
    twin.uniforms.copy_(made.uniforms)
    made.new_column()
    twin.projected.copy_(made.projected)
    twin.drawn.copy_(made.drawn)
    expected = made.run()
    streams = [torch.cuda.Stream() for _ in range(3)]
    matrix = torch.randn(4096, 4096, device=CUDA)
    torch.cuda.synchronize()
    for _ in range(200):
        for mine, stream in zip((made, twin), streams, strict=False):
            with torch.cuda.stream(stream):
                mine.whole.launch(mine.params)
        with torch.cuda.stream(streams[2]):
            matrix @ matrix
    torch.cuda.synchronize()
    assert made.drawn[0, 1:-1].tolist() == twin.drawn[0, 1:-1].tolist() == expected


def test_a_stepper_takes_it_for_one_conversation_and_says_so() -> None:
    bench("random:2b")  # skips where it cannot be used
    stepper = captured(loaded("random:2b", "bfloat16"), slots=2)
    assert stepper.depformer_kind.startswith("one kernel (15 of ")
    assert [type(stepper.programs[size]).__name__ for size in (1, 2)] == ["ClusterProgram", "KernelProgram"]


def test_where_too_few_clusters_fit_the_other_kernels_are_taken_and_the_reason_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench("random:2b")
    monkeypatch.setattr("dia2.cuda.clusters.driver.ClusterKernel.clusters_at_once", lambda self: 14)
    stepper = captured(loaded("random:2b", "bfloat16"))
    reason = "14 clusters of 8 blocks run at once on this GPU, 15 are needed"
    assert stepper.depformer_kind == f"a kernel a product ({reason})"
    assert talk(stepper, SlotSettings(), columns=3)[0].shape[1] == 4


@pytest.mark.parametrize(
    ("model", "dtype", "weights"), [("random:tiny", "bfloat16", "dtype"), ("random:2b", "bfloat16", "fp8")]
)
def test_other_models_and_weights_are_refused_with_a_reason(model: str, dtype: str, weights: str) -> None:
    checkpoint = loaded(model, dtype, weights)
    whole, reason = ClusterDepformer.make(checkpoint.depformer, checkpoint.config)
    assert whole is None
    assert reason.endswith((", the kernel is made for 1024", "the kernel is for bfloat16 weights", "kernel needs 9.0"))


def test_no_other_gpu_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = loaded("random:2b", "bfloat16")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 9))
    assert clusters.ClusterDepformer.make(checkpoint.depformer, checkpoint.config) == (
        None,
        "the GPU's compute capability is 8.9, the kernel needs 9.0",
    )
