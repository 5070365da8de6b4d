"""Mimi for training: the whole network, encoder and quantizers included, under the tensor names of the published file.

transformers' MimiModel has nothing for training (no straight-through gradient, no codebook updates), and its
convolutions over few channels are slow on a CPU. Here every convolution is one matrix product over windows, channels
last. Equal to MimiModel: `check_codec.py` holds that.
"""

import json
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

RATIOS = (8, 6, 5, 4)
FRAME = 1920  # samples at 24 kHz
CONFIG = {
    "hidden_size": 192,
    "num_filters": 16,
    "num_quantizers": 8,
    "codebook_size": 512,
    "codebook_dim": 64,
    "vector_quantization_hidden_dimension": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 48,
    "intermediate_size": 768,
    "upsample_groups": 192,
    "num_semantic_quantizers": 1,
    "sliding_window": 32,  # positions at 25 Hz: what one training piece holds
    "use_cache": False,
}
HEADS, HEAD, LAYERS = 4, 48, 2
WINDOW = CONFIG["sliding_window"]
SEMANTIC, ACOUSTIC = "quantizer.semantic_residual_vector_quantizer", "quantizer.acoustic_residual_vector_quantizer"


def new_weights(seed: int) -> dict[str, Tensor]:
    """MimiModel's own initial weights, under the published names."""
    from transformers import MimiConfig, MimiModel

    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        MimiModel(MimiConfig(**CONFIG)).save_pretrained(folder)
        return load_file(Path(folder) / "model.safetensors")


class CodecNet(nn.Module):
    """Sound [B, T] at 24 kHz -> latents [B, T / 1920, 192] -> codes -> sound."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.names = {name: name.replace(".", "/") for name in weights}
        for name, value in weights.items():
            if "codebook" in name:
                self.register_buffer(self.names[name], value.float().clone())
            else:
                self.register_parameter(self.names[name], nn.Parameter(value.float().clone()))

    def weights(self) -> dict[str, Tensor]:
        """Everything, under the published names."""
        return {name: getattr(self, own).detach() for name, own in self.names.items()}

    def get(self, name: str) -> Tensor:
        """A tensor by its published name."""
        return getattr(self, self.names[name])

    def encode(self, sound: Tensor) -> Tensor:
        """The latents before quantizing, [B, n, 192]."""
        x = self._conv("encoder.layers.0", sound[:, :, None])
        at = 1
        for ratio in reversed(RATIOS):
            x = self._residual(f"encoder.layers.{at}", x)
            x = self._conv(f"encoder.layers.{at + 2}", F.elu(x), stride=ratio)
            at += 3
        x = self._conv(f"encoder.layers.{at + 1}", F.elu(x))
        x = self._transformer("encoder_transformer", x)
        return self._conv("downsample", x, stride=2, repeat=True)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, n, 192] -> sound [B, n * 1920]."""
        x = self._upsample(latents)
        x = self._transformer("decoder_transformer", x)
        x = self._conv("decoder.layers.0", x)
        at = 1
        for ratio in RATIOS:
            x = self._transposed(f"decoder.layers.{at + 1}", F.elu(x), ratio)
            x = self._residual(f"decoder.layers.{at + 2}", x)
            at += 3
        return self._conv(f"decoder.layers.{at + 1}", F.elu(x))[:, :, 0]

    def project(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """What the two quantizers see, each [B, n, 64]."""
        return tuple(F.linear(latents, self.get(f"{name}.input_proj.weight")[:, :, 0]) for name in (SEMANTIC, ACOUSTIC))

    def unproject(self, semantic: Tensor, acoustic: Tensor) -> Tensor:
        """What both say together, [B, n, 192]."""
        return F.linear(semantic, self.get(f"{SEMANTIC}.output_proj.weight")[:, :, 0]) + F.linear(
            acoustic, self.get(f"{ACOUSTIC}.output_proj.weight")[:, :, 0]
        )

    def books(self, which: str) -> list[str]:
        """The codebooks of a quantizer, by name, in order."""
        count = 1 if which == SEMANTIC else CONFIG["num_quantizers"] - 1
        return [f"{which}.layers.{n}.codebook" for n in range(count)]

    def entries(self, book: str) -> Tensor:
        """The 512 vectors of a codebook."""
        return self.get(f"{book}.embed_sum") / self.get(f"{book}.cluster_usage").clamp(min=1e-5)[:, None]

    def quantize(self, latents: Tensor) -> Tensor:
        """Latents [B, n, 192] -> codes [B, 8, n]."""
        codes = []
        for which, rest in zip((SEMANTIC, ACOUSTIC), self.project(latents), strict=True):
            for book in self.books(which):
                entries = self.entries(book)
                near = nearest(rest, entries)
                rest = rest - F.embedding(near, entries)
                codes.append(near)
        return torch.stack(codes, 1)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Codes [B, 8, n] -> what the decoder gets."""
        semantic = F.embedding(codes[:, 0], self.entries(*self.books(SEMANTIC)))
        return self.unproject(semantic, self.acoustic(codes))

    @torch.no_grad()
    def see(self, spread: Tensor) -> None:
        """Projections for latents whose first 64 numbers spread so much.

        The acoustic quantizer sees them as they are, so that what spreads most is kept best; the semantic one brought
        nearer to each other, so that its partition is another one. The decoder gets both, evened out.
        """
        kept = len(spread)
        for which, at, power in ((SEMANTIC, kept, 0.5), (ACOUSTIC, 0, 0.0)):
            into, out = (self.get(f"{which}.{side}_proj.weight") for side in ("input", "output"))
            into.zero_()[:, :kept, 0] = torch.diag(spread**-power)
            out.zero_()[at : at + kept, :, 0] = torch.diag(spread ** (power - 1))

    def acoustic(self, codes: Tensor) -> Tensor:
        """Codes [B, 8, n] -> the sum of the acoustic entries [B, n, 64]."""
        books = self.books(ACOUSTIC)
        return torch.stack([F.embedding(codes[:, 1 + n], self.entries(book)) for n, book in enumerate(books)]).sum(0)

    @torch.no_grad()
    def place_codebooks(self, latents: Tensor, told: int, rounds: int = 12) -> None:
        """k-means for each codebook in turn, on what the ones before leave over. latents [N, 192].

        The last codebook alone sees the numbers from `told` on, and nothing else; the others see those before.
        """
        for which, rest in zip((SEMANTIC, ACOUSTIC), self.project(latents[None]), strict=True):
            rest = rest[0].float()
            for book in self.books(which):
                last = book == self.books(ACOUSTIC)[-1]
                entries = placed(rest, slice(told, None) if last else slice(told), rounds)
                self.get(f"{book}.cluster_usage").fill_(2.0)
                self.get(f"{book}.embed_sum").copy_(entries * 2.0)
                rest = rest - entries[nearest(rest, entries)]

    def _bias(self, name: str) -> Tensor | None:
        return self.get(name) if name in self.names else None

    def _conv(self, name: str, x: Tensor, stride: int = 1, repeat: bool = False) -> Tensor:
        weight = self.get(f"{name}.conv.weight")
        batch, time, channels = x.shape
        kernel = weight.shape[2]
        left = kernel - stride
        before = x[:, :1].expand(-1, left, -1) if repeat else x.new_zeros(batch, left, channels)
        x = torch.cat([before, x], 1)
        if stride > 1:  # the kernel is two strides long: a window is two neighbours
            parts = x.reshape(batch, time // stride + 1, stride * channels)
            windows = torch.cat([parts[:, :-1], parts[:, 1:]], 2)
        else:
            windows = torch.cat([x[:, k : k + time] for k in range(kernel)], 2)
        return F.linear(windows, weight.transpose(1, 2).reshape(len(weight), -1), self._bias(f"{name}.conv.bias"))

    def _transposed(self, name: str, x: Tensor, stride: int) -> Tensor:
        weight = self.get(f"{name}.conv.weight")  # [in, out, 2 * stride]
        batch, time, _ = x.shape
        out = weight.shape[1]
        halves = F.linear(x, weight.permute(2, 1, 0).reshape(-1, weight.shape[0])).view(batch, time, 2, stride * out)
        y = halves[:, :, 0] + F.pad(halves[:, :-1, 1], (0, 0, 1, 0))
        return y.reshape(batch, time * stride, out) + self.get(f"{name}.conv.bias")

    def _upsample(self, x: Tensor) -> Tensor:
        weight = self.get("upsample.conv.weight")[:, 0].T  # [4, channels]
        first, second = x[:, :, None] * weight[:2], x[:, :-1, None] * weight[2:]
        return (first + F.pad(second, (0, 0, 0, 0, 1, 0))).flatten(1, 2)

    def _residual(self, name: str, x: Tensor) -> Tensor:
        return x + self._conv(f"{name}.block.3", F.elu(self._conv(f"{name}.block.1", F.elu(x))))

    def _transformer(self, name: str, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        angle = torch.arange(time, device=x.device)[:, None] * 10_000 ** (
            -torch.arange(0, HEAD, 2, device=x.device) / HEAD
        )
        turn = torch.cat([angle, angle], 1)
        cos, sin = turn.cos(), turn.sin()
        mask = None
        if time > WINDOW:
            behind = torch.arange(time, device=x.device)[:, None] - torch.arange(time, device=x.device)
            mask = (behind >= 0) & (behind < WINDOW)
        for n in range(LAYERS):
            layer = f"{name}.layers.{n}"
            y = self._norm(f"{layer}.input_layernorm", x)
            q, k, v = (
                F.linear(y, self.get(f"{layer}.self_attn.{part}_proj.weight"))
                .view(batch, time, HEADS, HEAD)
                .transpose(1, 2)
                for part in "qkv"
            )
            q, k = (
                part * cos + torch.cat([-part[..., HEAD // 2 :], part[..., : HEAD // 2]], 3) * sin for part in (q, k)
            )
            y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, mask, is_causal=mask is None)
            y = F.linear(y.transpose(1, 2).reshape(batch, time, width), self.get(f"{layer}.self_attn.o_proj.weight"))
            x = x + y * self.get(f"{layer}.self_attn_layer_scale.scale")
            y = F.gelu(
                F.linear(self._norm(f"{layer}.post_attention_layernorm", x), self.get(f"{layer}.mlp.fc1.weight"))
            )
            x = x + F.linear(y, self.get(f"{layer}.mlp.fc2.weight")) * self.get(f"{layer}.mlp_layer_scale.scale")
        return x

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), x.shape[-1:], self.get(f"{name}.weight"), self.get(f"{name}.bias"))


def nearest(x: Tensor, entries: Tensor) -> Tensor:
    """x [..., 64], entries [512, 64] -> which entry is nearest, [...]."""
    return (entries.square().sum(1) - 2 * x @ entries.T).argmin(-1)


def placed(found: Tensor, seen: slice, rounds: int) -> Tensor:
    """512 entries [512, 64] by k-means on some of the dimensions of [N, 64]; 0 in the others."""
    part = torch.zeros_like(found)
    part[:, seen] = found[:, seen]
    entries = part[torch.randperm(len(part), device=part.device)[: CONFIG["codebook_size"]]].clone()
    for _ in range(rounds):
        near = nearest(part, entries)
        count = torch.zeros_like(entries[:, 0]).index_add_(0, near, torch.ones_like(part[:, 0]))
        total = torch.zeros_like(entries).index_add_(0, near, part)
        lost = part[torch.randint(len(part), (len(entries),), device=part.device)]
        entries = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], lost)
    return entries


def save(net: CodecNet, folder: Path, dtype: torch.dtype) -> None:
    """The published layout: config.json and model.safetensors."""
    from transformers import MimiConfig

    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: (value if "codebook" in name else value.to(dtype)) for name, value in net.weights().items()}
    save_file(
        {name: value.contiguous().cpu() for name, value in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    config = MimiConfig(**CONFIG).to_dict() | {"architectures": ["MimiModel"]}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
