"""The depformer of one conversation as one kernel: all stages of a column and their draws, on clusters of blocks.

As separate kernels, 22 a stage, a column takes 682 launches one after the other, and a launch takes longer than its
reading. This kernel stays on the GPU from the first stage to the last: its blocks pass activations to each other,
through the shared memory of their cluster and through L2, while weights stream into shared memory ahead of their use.
The sources beside this file say how; depformer.cu is where to begin.

It is made for one shape, the published depformers', in bfloat16 and for two rows, with weights but those of the logits
in 16 or 8 bits, and for a Hopper GPU on which 15 clusters of 8 blocks run at once. `make` says why it cannot be used
elsewhere. On a Blackwell GPU nobody has run it yet, so there it has to be asked for (`untried`).
"""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from dia2.cuda.clusters.driver import ClusterKernel, DriverError, structure
from dia2.cuda.clusters.nvrtc import CompilerError, compiled
from dia2.cuda.clusters.packing import (
    CLUSTERS,
    CODES,
    DIM,
    HEADS,
    MLP_WIDTH,
    MOST_STAGES,
    RANKS,
    WARPS,
    WIDTH,
    PackedWeights,
)
from dia2.cuda.clusters.shapes import (
    ARCHITECTURES,
    activations_obstacle,
    gpu_obstacle,
    size_obstacle,
    weights_obstacle,
)
from dia2.cuda.clusters.words import bytes_a_weight
from dia2.model.config import Dia2Config
from dia2.model.depformer import Depformer

SOURCE = "depformer.cu"
SHARED_BYTES = {2: 228_408, 1: 158_776}
"""Of a block, by bytes a weight: place::END of depformer_sizes.cuh, which is compared when it is compiled."""
_WEIGHTS = ["qkv", "out", "gate_up_beside", "gate_up_alone", "down_beside", "down_alone", "heads", "embeddings"]
_SCALES = ["qkv_scale", "out_scale", "gate_up_scale", "down_scale"]
_TABLES = ["pre_norm", "post_norm", "q_norm", "k_norm", "last_norm", "cos", "sin"]
_BUFFERS = ["projected", "attention_shares", "mlp_shares", "logits", "keys", "values"]
_STEP = ["fields", "scale", "temperature", "uniforms", "filter_k", "top_k", "drawn", "codes", "given", "seen_logits"]
_SIZES = ["layers", "stages", "groups", "vocabulary", "streams", "codebooks"]

Params = structure(
    "Params",
    dict.fromkeys((*_WEIGHTS, *_TABLES, *_BUFFERS, *_STEP), ctypes.c_void_p)
    | {"capacity": ctypes.c_int64}
    | dict.fromkeys(_SIZES, ctypes.c_int)
    | {"eps": ctypes.c_float, "group": ctypes.c_int * MOST_STAGES, "delay": ctypes.c_int * MOST_STAGES}
    | dict.fromkeys(_SCALES, ctypes.c_void_p),
)
"""`Params` of depformer_sizes.cuh."""


def defines(weight_bytes: int) -> dict[str, int]:
    """What the source is compiled for, 2 bytes a weight or 1, and what it compares with its own then."""
    sizes = {"SHARED_BYTES": SHARED_BYTES[weight_bytes], "PARAMS_BYTES": ctypes.sizeof(Params)}
    return {"WEIGHT_BYTES": weight_bytes, **sizes}


@dataclass(frozen=True)
class StepAddresses:
    """The tensors of a step of one conversation; the slot that steps is in `fields`.

    projected: bfloat16 [2, groups WIDTH], the hidden state as every weight group reads it.
    fields: int64 [1, STEP_FIELDS]. drawn: int64 [1, C + 1]. codes: int64 [slots, C, capacity].
    scale, temperature: float32 [slots]. filter_k, top_k: int64 [slots].
    uniforms: float32 [slots, capacity, streams].
    """

    projected: Tensor
    fields: Tensor
    drawn: Tensor
    codes: Tensor
    scale: Tensor
    filter_k: Tensor
    temperature: Tensor
    top_k: Tensor
    uniforms: Tensor


def shape_obstacle(config: Dia2Config) -> str | None:
    """Why the kernel cannot run a model of these sizes; None where it can."""
    sizes, data = config.model.depformer, config.data
    wanted = {
        "n_embd": (sizes.n_embd, WIDTH),
        "n_hidden": (sizes.n_hidden, MLP_WIDTH),
        "gqa_query_heads": (sizes.gqa_query_heads, HEADS),
        "gqa_head_dim": (sizes.gqa_head_dim, DIM),
        "codes": (data.audio_codes, CODES),
    }
    if obstacle := size_obstacle("depformer", wanted):
        return obstacle
    if not 2 <= data.codebooks - 1 <= MOST_STAGES:
        return f"the depformer has {data.codebooks - 1} stages, the kernel takes 2 to {MOST_STAGES}"
    if obstacle := activations_obstacle("depformer", *sizes.mlp_activations):
        return obstacle
    return "the depformer reads text" if sizes.text_embedding else None


class ClusterDepformer:
    """The kernel and what it keeps: packed weights, 374 MB in Dia2-2B, and the buffers its blocks exchange."""

    def __init__(self, depformer: Depformer, config: Dia2Config, kernel: ClusterKernel) -> None:
        device = depformer.heads.device
        self.stages, self._kernel = depformer.stages, kernel
        self._weights = PackedWeights.of(depformer)
        # All bits set: the tags that the kernel waits for first are others.
        self._shares = torch.full((2, CLUSTERS, 2, WIDTH), -1, dtype=torch.int32, device=device)
        self._logits = torch.full((2, CODES), -1, dtype=torch.int32, device=device)
        layers = len(depformer.layers)
        self._cache = torch.zeros(2, layers, 2, HEADS, MOST_STAGES, DIM, dtype=torch.bfloat16, device=device)
        self._angles = _angles(depformer, device)
        self._depformer = depformer
        self._params = self._fixed_params(config, layers)

    @classmethod
    def make(
        cls, depformer: Depformer, config: Dia2Config, *, untried: bool = False
    ) -> "tuple[ClusterDepformer | None, str]":
        """The kernel for a depformer on a CUDA device, compiled and packed; or None. And the reason, for the log.

        untried: also where it was compiled, but never run, which is on Blackwell.
        """
        device, matrix = depformer.heads.device, depformer.project_in
        reason = gpu_obstacle(device, untried) or weights_obstacle(depformer.heads.dtype)
        reason = reason or shape_obstacle(config)
        if reason is not None:
            return None, reason
        try:
            with torch.cuda.device(device):
                kernel = load_kernel(bytes_a_weight(matrix))
                fitting = kernel.clusters_at_once()
                if fitting < CLUSTERS:
                    return None, f"{fitting} clusters of {RANKS} blocks run at once on this GPU, {CLUSTERS} are needed"
                return cls(depformer, config, kernel), f"{CLUSTERS} of {fitting} clusters of {RANKS} blocks"
        except (CompilerError, DriverError, torch.OutOfMemoryError) as error:
            return None, str(error).splitlines()[0]

    def bind(self, step: StepAddresses) -> ctypes.Structure:
        """What `launch` takes, for one step's tensors, which must stay where they are."""
        params = type(self._params).from_buffer_copy(self._params)
        for name in ("projected", "fields", "drawn", "codes", "scale", "filter_k", "temperature", "top_k", "uniforms"):
            setattr(params, name, getattr(step, name).data_ptr())
        params.capacity = step.codes.shape[2]
        params.codebooks, params.streams = step.codes.shape[1], step.uniforms.shape[2]
        return params

    def launch(self, params: ctypes.Structure) -> None:
        """Draws the codes of codebooks 1 .. C - 1 of a column, on the current stream."""
        self._kernel.launch(params)

    def launch_given(self, params: ctypes.Structure, codes: Tensor) -> Tensor:
        """The same, but each stage reads the code before it from codes, int64 [C]. Its logits, [stages, 2, CODES]."""
        seen = torch.full((self.stages, 2, CODES), torch.nan, device=codes.device)
        codes = codes.contiguous()
        given = type(params).from_buffer_copy(params)
        given.given, given.seen_logits = codes.data_ptr(), seen.data_ptr()
        self.launch(given)
        torch.cuda.current_stream().synchronize()  # only now may the codes go
        return seen

    def _fixed_params(self, config: Dia2Config, layers: int) -> ctypes.Structure:
        """The parts that stay: weights, buffers, sizes."""
        weights, depformer = self._weights, self._depformer
        tensors = {
            "qkv": weights.qkv,
            "out": weights.out,
            "gate_up_beside": weights.gate_up[0],
            "gate_up_alone": weights.gate_up[1],
            "down_beside": weights.down[0],
            "down_alone": weights.down[1],
            "heads": weights.logits,
            "embeddings": depformer.audio_embeds,
            "pre_norm": weights.pre_norm,
            "post_norm": weights.post_norm,
            "q_norm": weights.q_norm,
            "k_norm": weights.k_norm,
            "last_norm": depformer.norm.weight,
            "cos": self._angles[0],
            "sin": self._angles[1],
            "attention_shares": self._shares[0],
            "mlp_shares": self._shares[1],
            "logits": self._logits,
            "keys": self._cache[0],
            "values": self._cache[1],
        }
        return Params(
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
            layers=layers,
            stages=depformer.stages,
            groups=len(depformer.groups),
            vocabulary=depformer.audio_embeds.shape[1],
            eps=config.model.normalization_layer_epsilon,
            group=(ctypes.c_int * MOST_STAGES)(*depformer.group_of_stage),
            delay=(ctypes.c_int * MOST_STAGES)(*config.data.delays[1:]),
            **weights.scales.addresses(),
        )


def load_kernel(weight_bytes: int = 2) -> ClusterKernel:
    """The kernel on the current GPU, compiled if need be. Raises CompilerError, DriverError."""
    code = compiled(SOURCE, ARCHITECTURES[torch.cuda.get_device_capability()], defines(weight_bytes))
    return ClusterKernel(code, "depformer", CLUSTERS * RANKS, RANKS, 32 * WARPS, SHARED_BYTES[weight_bytes])


def _angles(depformer: Depformer, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [stages, DIM / 2], float32; without rotation, those of the angle 0."""
    if depformer.rotary is not None:
        return depformer.rotary.cos, depformer.rotary.sin
    return torch.ones(depformer.stages, DIM // 2, device=device), torch.zeros(depformer.stages, DIM // 2, device=device)
