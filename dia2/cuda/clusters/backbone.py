"""The backbone's step of one conversation as one kernel: all layers of a column, on clusters of blocks.

As separate kernels, five a layer, a column takes 140 launches one after the other, and the memory stands still while
one ends and the next one begins. This kernel stays on the GPU from the first layer to the last, and a warp of every
block does nothing but load: weights and the cache's columns come through a ring of shared memory ahead of their use.
The sources beside this file say how; backbone.cu is where to begin.

It is made for one shape, that of Dia2-2B, in bfloat16 and for two rows, with weights in 16 or 8 bits, and for a Hopper
GPU on which 15 clusters of 8 blocks run at once. `make` says why it cannot be used elsewhere. On a Blackwell GPU nobody
has run it yet, so there it has to be asked for (`untried`).
"""

import ctypes
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dia2.cuda.clusters.backbone_packing import (
    CLUSTERS,
    DIM,
    GROUP,
    HEADS,
    MLP_WIDTH,
    RANKS,
    WARPS,
    WIDTH,
    PackedBackbone,
)
from dia2.cuda.clusters.driver import ClusterKernel, DriverError, structure
from dia2.cuda.clusters.nvrtc import CompilerError, compiled
from dia2.cuda.clusters.shapes import ARCHITECTURES, activations_obstacle, gpu_obstacle, size_obstacle, weights_obstacle
from dia2.cuda.clusters.words import bytes_a_weight
from dia2.model.backbone import Backbone
from dia2.model.config import Dia2Config
from dia2.model.kv_cache import KVCache

SOURCE = "backbone.cu"
SHARED_BYTES = 231_632  # of a block: place::END of backbone_sizes.cuh, which is compared when it is compiled
COLUMNS, MOST_COLUMNS = 16, 32 * RANKS * 16  # columns in a chunk of the ring, and in a context at most
_WEIGHTS = ["head_stream", "other_stream", "pre_norm", "post_norm", "q_norm", "k_norm", "cos", "sin"]
_SCALES = ["qkv_scale", "out_scale", "gate_up_scale", "down_scale"]
_STEP = ["hidden", "attention_shares", "mlp_shares", "keys", "values", "fields", "table"]

Params = structure(
    "Params",
    dict.fromkeys((*_WEIGHTS, *_STEP), ctypes.c_void_p)
    | dict.fromkeys(["layers", "blocks", "columns", "blocks_a_context"], ctypes.c_int)
    | {"eps": ctypes.c_float}
    | dict.fromkeys(_SCALES, ctypes.c_void_p),
)
"""`Params` of backbone_sizes.cuh."""


RACECHECKED = {"PATIENCE": 1 << 30, "EVERY_LANE_ARRIVES": 1}
"""Defines for compute-sanitizer's racecheck (scripts/gpu-race): waits of ten minutes, and an order that it sees."""


def defines(weight_bytes: int) -> dict[str, int]:
    """What the source is compiled for, 2 bytes a weight or 1, and what it compares with its own then."""
    return {"WEIGHT_BYTES": weight_bytes, "SHARED_BYTES": SHARED_BYTES, "PARAMS_BYTES": ctypes.sizeof(Params)}


def shape_obstacle(config: Dia2Config) -> str | None:
    """Why the kernel cannot run a model of these sizes; None where it can."""
    sizes = config.model.decoder
    wanted = {
        "n_embd": (sizes.n_embd, WIDTH),
        "n_hidden": (sizes.n_hidden, MLP_WIDTH),
        "gqa_query_heads": (sizes.gqa_query_heads, HEADS * GROUP),
        "kv_heads": (sizes.kv_heads, HEADS),
        "gqa_head_dim": (sizes.gqa_head_dim, DIM),
    }
    if obstacle := size_obstacle("backbone", wanted):
        return obstacle
    if sizes.n_layer < 2:  # with one use a launch, its tags would be those of the launch before
        return "the backbone has one layer, the kernel is made for two and more"
    return activations_obstacle("backbone", *config.model.linear.mlp_activations)


def cache_obstacle(cache: KVCache) -> str | None:
    """Why the kernel cannot read this cache; None where it can."""
    columns, count = cache.blocks.columns, cache.blocks.most
    if cache.blocks.capacity > MOST_COLUMNS:
        return f"a context has {cache.blocks.capacity} columns, the kernel takes {MOST_COLUMNS}"
    if count > 1 and columns % COLUMNS:
        return f"a block of the cache has {columns} columns, the kernel takes multiples of {COLUMNS}"
    return None


class ClusterBackbone:
    """The kernel and what it keeps: packed weights, 2.8 GB in Dia2-2B or half of it, and what its blocks exchange."""

    def __init__(self, backbone: Backbone, config: Dia2Config, kernel: ClusterKernel) -> None:
        self._kernel, self._backbone = kernel, backbone
        self._weights = PackedBackbone.of(backbone)
        # All bits set: the tags that the kernel waits for first are others.
        device = backbone.cb0_head.device
        self._shares = torch.full((2, CLUSTERS, 2, WIDTH), -1, dtype=torch.int32, device=device)
        self._eps = config.model.normalization_layer_epsilon

    @classmethod
    def make(
        cls, backbone: Backbone, config: Dia2Config, cache: KVCache, *, untried: bool = False
    ) -> "tuple[ClusterBackbone | None, str]":
        """The kernel for a backbone on a CUDA device, compiled and packed; or None. And the reason, for the log.

        untried: also where it was compiled, but never run, which is on Blackwell.
        """
        device = backbone.cb0_head.device
        first: Any = backbone.layers[0]
        matrix = first.attention.qkv
        reason = gpu_obstacle(device, untried) or weights_obstacle(backbone.cb0_head.dtype)
        reason = reason or shape_obstacle(config) or cache_obstacle(cache)
        if reason is not None:
            return None, reason
        try:
            with torch.cuda.device(device):
                kernel = load_kernel(bytes_a_weight(matrix))
                fitting = kernel.clusters_at_once()
                if fitting < CLUSTERS:
                    return None, f"{fitting} clusters of {RANKS} blocks run at once on this GPU, {CLUSTERS} are needed"
                return cls(backbone, config, kernel), f"{CLUSTERS} of {fitting} clusters of {RANKS} blocks"
        except (CompilerError, DriverError, torch.OutOfMemoryError) as error:
            return None, str(error).splitlines()[0]

    def bind(self, hidden: Tensor, fields: Tensor, cache: KVCache) -> ctypes.Structure:
        """What `launch` takes, for one step's tensors, which must stay where they are.

        hidden: bfloat16 [2, WIDTH], the embedded column, and then what the last layer gives.
        fields: int64 [1, STEP_FIELDS]. The line's slot, and where it stands.
        """
        weights, rotary = self._weights, self._backbone.rotary
        tensors = {
            "head_stream": weights.heads,
            "other_stream": weights.others,
            "pre_norm": weights.pre_norm,
            "post_norm": weights.post_norm,
            "q_norm": weights.q_norm,
            "k_norm": weights.k_norm,
            "cos": rotary.cos,
            "sin": rotary.sin,
            "hidden": hidden,
            "attention_shares": self._shares[0],
            "mlp_shares": self._shares[1],
            "keys": cache.k,
            "values": cache.v,
            "fields": fields,
            "table": cache.table,
        }
        return Params(
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
            layers=len(self._backbone.layers),
            blocks=cache.k.shape[1],
            columns=cache.blocks.columns,
            blocks_a_context=cache.table.shape[1],
            eps=self._eps,
            **weights.scales.addresses(),
        )

    def launch(self, params: ctypes.Structure) -> None:
        """Runs all layers on the column, on the current stream, and leaves its keys and values in the cache."""
        self._kernel.launch(params)


def load_kernel(weight_bytes: int = 2, checked: Mapping[str, int] | None = None) -> ClusterKernel:
    """The kernel on the current GPU, compiled if need be. Raises CompilerError, DriverError.

    checked: more defines, as RACECHECKED, for a kernel that a tool watches.
    """
    threads = 32 * WARPS + 32  # one warp more, which loads
    names = {**defines(weight_bytes), **(checked or {})}
    code = compiled(SOURCE, ARCHITECTURES[torch.cuda.get_device_capability()], names)
    return ClusterKernel(code, "backbone", CLUSTERS * RANKS, RANKS, threads, SHARED_BYTES)
