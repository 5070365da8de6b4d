"""A whole step as one kernel: the host's side of persistent.cu, which explains how it works.

`PersistentKernels` works out how the kernels are cut for a model and a GPU, compiles them with NVRTC and keeps the
tables that they read. `check` compares what they compute with the layers' own. Whatever is not as it must be is a
`DeviceError` with the reason, and the caller has other kernels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dia2 import nvrtc
from dia2.errors import DeviceError
from dia2.stepper import Stepper

if TYPE_CHECKING:
    from dia2.layers import Rotary

Launch = Callable[[int], None]
Load = Callable[[str, str, int, int, int], Launch]
"""(source, kernel's name, grid, threads, bytes of shared memory) -> what launches it with a table's address."""

ROWS = 2, 4, 8
_FEWEST_SLOTS = 4
_WARPS = 16, 8, 4, 2  # that compute, in a block: as many as the columns can be cut over
_SPARE = 640  # bytes of shared memory for alignment and small fields
_CODEBOOKS = 64  # at most
_HEAD_OF_TABLE = 25  # addresses before those of the layers
_ACTIVATIONS = {"silu": 1, "swish": 1, "swiglu": 1, "gelu": 2, "geglu": 2, "relu": 3, "linear": 0, "identity": 0}


@dataclass(frozen=True)
class Machine:
    """What a kernel is cut for."""

    processors: int
    shared: int  # bytes of shared memory a block


@dataclass(frozen=True)
class Shape:
    """The products of one of the two transformers."""

    width: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    logits: int
    layers: int
    also: tuple[tuple[int, int], ...] = ()  # further products: outputs, inputs

    @property
    def products(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of every product of a layer, and of those besides."""
        mixed = self.heads * self.head_dim
        layer = (self.qkv, self.width), (self.width, mixed), (2 * self.mlp, self.width), (self.width, self.mlp)
        return (*layer, (self.logits, self.width), *self.also)

    @property
    def qkv(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head_dim


@dataclass(frozen=True)
class Cut:
    """How a transformer's kernel is laid over the machine."""

    rows: int
    warps: int
    grid: int
    splits: int
    red: int
    residual: int
    slots: int
    shared: int


def cut(shape: Shape, rows: int, machine: Machine) -> Cut:
    """The best cut; DeviceError where there is none."""
    inputs = {k for _, k in shape.products}
    warps = next((w for w in _WARPS if all(k % (64 * w) == 0 for k in inputs)), 0)
    if not warps or shape.width % 8 or shape.mlp % 8 or shape.head_dim not in (64, 128) or shape.head_dim > 32 * warps:
        raise DeviceError(f"no persistent kernel is cut for products of {sorted(inputs)} inputs")
    if shape.logits % 2 or -(-shape.logits // (64 * warps)) > 3:
        raise DeviceError(f"no persistent kernel draws from {shape.logits} logits")
    # As few blocks as do it in the shortest time: the others are free for the codec.
    most = min(machine.processors, shape.width // 8)
    grid = min(range(1, most + 1), key=lambda g: (sum(-(-n // (8 * g)) * k for n, k in shape.products), g))
    if rows * shape.kv_heads > grid:
        raise DeviceError(f"no persistent kernel for {rows} rows on {machine.processors} multiprocessors")
    splits = min(warps, grid // (rows * shape.kv_heads))
    units = [2 * -(-n // (16 * grid)) if i == 2 else -(-n // (8 * grid)) for i, (n, _) in enumerate(shape.products)]
    grouped = shape.heads // shape.kv_heads
    red = warps * max(max(units) * rows * 8, grouped * shape.head_dim)
    residual = -(-shape.width // (8 * grid))
    small = red + warps * rows + residual * rows * 8 + (grouped + 2 + rows // 2) * shape.head_dim + warps * 20 + rows
    small += rows * (max(inputs) // 2 + 16)  # what is multiplied
    small += 2 * (_HEAD_OF_TABLE + 8 * shape.layers) + rows // 2 * (2 * _CODEBOOKS + 8) + _CODEBOOKS
    slot = 8 * (128 * warps + 64)
    slots = min(24, (machine.shared - 4 * small - _SPARE) // (slot + 16))
    if slots < _FEWEST_SLOTS or grouped > 4:
        raise DeviceError(f"{machine.shared} bytes of shared memory are too few for a persistent kernel")
    return Cut(rows, warps, grid, splits, red, residual, slots, 4 * small + _SPARE + slots * (slot + 16))


class PersistentKernels:
    """Both kernels for one stepper of up to four slots.

    x: the embedded columns [rows, D], in place of which `column` leaves the last layer's output.
    logits, stage_logits: float32, where the last logits of either kernel can be looked at.
    load, machine: other than the GPU's own, for tests.
    """

    def __init__(
        self,
        stepper: Stepper,
        fields: Tensor,
        drawn: Tensor,
        x: Tensor,
        heads: Tensor,
        logits: Tensor,
        stage_logits: Tensor,
        *,
        load: Load | None = None,
        machine: Machine | None = None,
    ) -> None:
        rows = len(x)
        if x.dtype != torch.bfloat16:
            raise DeviceError("persistent kernels are for bfloat16 weights")
        if rows not in ROWS:
            raise DeviceError(f"persistent kernels take {', '.join(str(n // 2) for n in ROWS)} conversations")
        if stepper.depformer.text_embed is not None:
            raise DeviceError("no persistent kernel reads a depformer's text embedding")
        if machine is None:
            machine = this_machine(x.device)
        self.stepper, self.fields, self.drawn, self.x = stepper, fields, drawn, x
        self.logits, self.stage_logits = logits, stage_logits
        # int32: the next tag, and from [2] on as an int64 whether a wait was given up.
        self.state = torch.zeros(4, dtype=torch.int32, device=x.device)
        self.trouble = self.state[2:].view(torch.int64)
        self._heads = heads
        self._groups = torch.tensor(stepper.depformer.group_of_stage, dtype=torch.int32, device=x.device)
        self._tables: list[Tensor] = []
        self._words: list[Tensor] = []
        load = load or _load(x.device)
        self.column: Callable[[], None] = self._kernel("column", self._backbone(rows, machine), load)
        self.codes: Callable[[], None] = self._kernel("codes", self._depformer(rows, machine), load)

    @property
    def gave_up(self) -> bool:
        """Whether a kernel has waited in vain for what another block should have sent; waits for the device."""
        return bool(self.trouble[0])

    def check(self, closeness: float = 0.03) -> None:
        """Compares a step with the layers' own; DeviceError where they differ. Leaves column 0 of the cache changed."""
        stepper, hidden = self.stepper, self.x.clone()
        position = self.fields[:, :2].repeat_interleave(2, dim=0)  # column and cache index of every row
        self.column()
        expected = _backbone(stepper, hidden, position[:, 1:], position[:, :1])
        found = stepper.backbone.norm(self.x)
        _compare("the backbone", found, expected, closeness)
        logits = torch.cat([stepper.backbone.cb0_logits(found), stepper.backbone.action_logits(found)], dim=-1)
        _compare("the backbone's logits", self.logits, logits, closeness)
        self.codes()
        cache = stepper.depformer.new_cache(len(self.x))
        for stage in range(stepper.depformer.stages):
            previous = self.drawn[:, stage].repeat_interleave(2)
            last = stepper.depformer.stage(stage, found, previous, None, cache)
        _compare("the depformer", self.stage_logits, last, closeness)
        if self.gave_up:
            raise DeviceError("persistent kernels waited in vain")

    # -- what the kernels are told --

    def _kernel(self, name: str, told: tuple[dict[str, Any], Sequence[int], Cut], load: Load) -> Callable[[], None]:
        constants, addresses, plan = told
        lines = [f"#define {key} {value}" for key, value in constants.items()]
        if name == "column":
            lines.append("#define COLUMN")
        source = "\n".join([*lines, (files("dia2") / "persistent.cu").read_text(encoding="utf-8")])
        launch = load(source, name, plan.grid, 32 * plan.warps + 32, plan.shared)
        table = torch.tensor(addresses, dtype=torch.int64).to(self.x.device)
        self._tables.append(table)
        address = table.data_ptr()
        return lambda: launch(address)

    def _constants(self, shape: Shape, plan: Cut, activations: tuple[str, ...]) -> dict[str, Any]:
        stepper, data = self.stepper, self.stepper.config.data
        mixed = shape.heads * shape.head_dim
        return {
            **{name.upper(): value for name, value in vars(plan).items() if name not in ("shared",)},
            "SHARED_BYTES": plan.shared,
            "WIDTH": shape.width,
            "MLP_WIDTH": shape.mlp,
            "MIXED_WIDTH": mixed,
            "QKV_WIDTH": shape.qkv,
            "QUERY_HEADS": shape.heads,
            "KV_HEADS": shape.kv_heads,
            "HEAD_DIM": shape.head_dim,
            "HEAD_FLOATS": (shape.heads // shape.kv_heads + 2) * shape.head_dim,
            "LOGIT_WIDTH": shape.logits,
            "LAYER_COUNT": shape.layers,
            "TABLE": _HEAD_OF_TABLE + 8 * shape.layers,
            "WIDEST": max(inputs for _, inputs in shape.products),
            "WIDEST_NORMED": max([shape.width, *(inputs for _, inputs in shape.also)]),
            "INPUT_WIDTH": stepper.config.model.decoder.n_embd,
            "PARTS": plan.rows * shape.heads * plan.splits * (shape.head_dim + 2),
            "CAPACITY": stepper.capacity,
            "STREAMS": stepper._streams,
            "CODEBOOKS": data.codebooks,
            "VOCABULARY": data.audio_vocab_size,
            "CODE_LOGITS": data.audio_vocab_size,
            "BANNED": data.audio_pad_token_id,
            "ALSO_BANNED": data.audio_bos_token_id,
            "GROUP_COUNT": len(stepper.depformer.groups),
            "EPS": f"{stepper.config.model.normalization_layer_epsilon!r}f",
            "GATE": _ACTIVATIONS[activations[0]],
            "UP": _ACTIVATIONS[activations[1]],
        }

    def _backbone(self, rows: int, machine: Machine) -> tuple[dict[str, Any], Sequence[int], Cut]:
        stepper, sizes = self.stepper, self.stepper.config.model.decoder
        backbone = stepper.backbone
        shape = Shape(
            sizes.n_embd,
            sizes.n_hidden,
            sizes.gqa_query_heads,
            sizes.kv_heads,
            sizes.gqa_head_dim,
            len(self._heads),
            sizes.n_layer,
        )
        plan = cut(shape, rows, machine)
        constants = self._constants(shape, plan, stepper.config.model.linear.mlp_activations)
        constants |= {"ROPE": 1}
        layers = [_addresses(layer, layer.attention.qkv, layer.attention.o_proj) for layer in _list(backbone.layers)]
        addresses = [
            *self._shared_addresses(constants, backbone.norm.weight, self._heads, backbone.rotary),
            stepper.cache.k.data_ptr(),
            stepper.cache.v.data_ptr(),
            *self._drawing(self.logits),
            *[0] * 4,  # PROJECT_IN to GROUP, which are the depformer's
            stepper._delays.data_ptr(),
            *[address for layer in layers for address in layer],
        ]
        return constants, addresses, plan

    def _depformer(self, rows: int, machine: Machine) -> tuple[dict[str, Any], Sequence[int], Cut]:
        stepper, sizes = self.stepper, self.stepper.config.model.depformer
        depformer = stepper.depformer
        heads, groups = sizes.gqa_query_heads, len(depformer.groups)
        view = groups * sizes.n_embd, stepper.config.model.decoder.n_embd
        shape = Shape(
            sizes.n_embd, sizes.n_hidden, heads, heads, sizes.gqa_head_dim, depformer.codes, sizes.n_layer, (view,)
        )
        plan = cut(shape, rows, machine)
        if depformer.stages > min(32, plan.warps * 512 // sizes.gqa_head_dim):
            raise DeviceError(f"no persistent kernel for {depformer.stages} stages")
        constants = self._constants(shape, plan, sizes.mlp_activations)
        constants |= {"ROPE": int(depformer.rotary is not None)}
        layers = [
            _addresses(layer, layer.attention.in_proj, layer.attention.out_proj) for layer in _list(depformer.layers)
        ]
        addresses = [
            *self._shared_addresses(constants, depformer.norm.weight, depformer.heads, depformer.rotary),
            *(cache.data_ptr() for cache in stepper._depformer_cache),
            *self._drawing(self.stage_logits),
            depformer.project_in.data_ptr(),
            stepper.backbone.norm.weight.data_ptr(),
            depformer.audio_embeds.data_ptr(),
            self._groups.data_ptr(),
            stepper._delays.data_ptr(),
            *[address for layer in layers for address in layer],
        ]
        return constants, addresses, plan

    def _shared_addresses(
        self, constants: dict[str, Any], norm: Tensor, heads: Tensor, rotary: "Rotary | None"
    ) -> list[int]:
        """The head of a table: STATE to SIN."""
        rows, width = constants["ROWS"], constants["WIDTH"]
        halves = constants["QKV_WIDTH"] + constants["MIXED_WIDTH"] + 2 * width + constants["MLP_WIDTH"]
        words = rows * (halves + constants["GROUP_COUNT"] * width) // 2 + constants["PARTS"]
        words += rows * constants["LOGIT_WIDTH"]
        self._words.append(torch.zeros(words, dtype=torch.int64, device=self.x.device))
        tables = [0, 0] if rotary is None else [rotary.cos.data_ptr(), rotary.sin.data_ptr()]
        tensors = self.state, self._words[-1], self.x, norm, heads
        return [*(tensor.data_ptr() for tensor in tensors), *tables]

    def _drawing(self, logits: Tensor) -> list[int]:
        """FIELDS to LOGITS."""
        stepper = self.stepper
        guidance, audio, text = stepper._guidance, stepper._audio_draws, stepper._text_draws
        return [
            tensor.data_ptr()
            for tensor in (
                self.fields,
                self.drawn,
                stepper.codes,
                stepper._uniforms,
                guidance.scale,
                guidance.filter_k,
                audio.temperature,
                audio.top_k,
                text.temperature,
                text.top_k,
                logits,
            )
        ]


def this_machine(device: torch.device) -> Machine:
    """The GPU's own figures; DeviceError where it cannot run persistent kernels."""
    major, minor = torch.cuda.get_device_capability(device)
    if major < 9:
        raise DeviceError(f"the GPU's compute capability is {major}.{minor}, persistent kernels need 9.0")
    if not nvrtc.cooperative(device):
        raise DeviceError("the GPU does not launch cooperatively")
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return Machine(processors, nvrtc.shared_memory(device))


def _load(device: torch.device) -> Load:
    def load(source: str, name: str, grid: int, threads: int, shared: int) -> Launch:
        return nvrtc.Kernel(nvrtc.compiled(source, name, device), name, grid, threads, shared)

    return load


def _addresses(layer: Any, into: Tensor, out: Tensor) -> list[int]:
    attention, mlp = layer.attention, layer.mlp
    tensors = (
        layer.pre_norm.weight,
        into,
        attention.q_norm.weight,
        attention.k_norm.weight,
        out,
        layer.post_norm.weight,
        mlp.wi,
        mlp.wo,
    )
    return [tensor.data_ptr() for tensor in tensors]


def _list(layers: torch.nn.ModuleList) -> list[Any]:
    return list(layers)


def _backbone(stepper: Stepper, x: Tensor, index: Tensor, position: Tensor) -> Tensor:
    """The layers' own way from embedded columns x [rows, D] to the normed output."""
    backbone = stepper.backbone
    angles = backbone.rotary.at(position)
    mask = (torch.arange(stepper.capacity, device=x.device) <= index[:, :, None]).unsqueeze(1)
    x = x.unsqueeze(1)
    for number, layer in enumerate(backbone.layers):
        x = layer(x, number, angles, index, mask, stepper.cache)
    normed: Tensor = backbone.norm(x).squeeze(1)
    return normed


def _compare(what: str, found: Tensor, expected: Tensor, closeness: float) -> None:
    found, expected = found.float(), expected.float()
    error = float((found - expected).norm() / expected.norm())
    if not error <= closeness:
        raise DeviceError(f"persistent kernels compute {what} differently: {error:.3g} relative")
