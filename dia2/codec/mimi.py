"""Mimi, the codec: codes in, sound out, one frame of 80 ms at a time, as if the whole had been decoded at once.

A decoder that is causal all the way down can stream, if every layer remembers what its next output still needs:

- A **convolution** looks back over its kernel. It keeps the last `(kernel - 1) * dilation` inputs, the *left context*,
  and puts them in front of the next pass. At the start they are zeros, which is the same as padding.
- A **transposed convolution** spreads one input over `2 * stride` outputs, so the second half of them are outputs of
  the next input too. This half is kept and added there: *overlap-add*. It is also what a decoder of whole sequences
  trims at the right end.
- **Attention** looks back over a window of 250 positions (10 s). Keys and values are in a *ring*, where a new position
  overwrites one that is out of every window. RoPE depends only on differences of positions, so positions may count on
  for days.

All that a conversation's decoder remembers is therefore a fixed number of floats, one slot of `CodecState`. It is
updated in place, so it can be captured in a CUDA graph, and it can go back a few seconds (state.py). The path of one
frame (published sizes):

    codes [32] -> one gather and sum per frame -> [1, 512] at 12.5 Hz -> upsample -> [2, 512] at 25 Hz
    -> 8 transformer layers -> convolution -> x8 -> x6 -> x5 -> x4, a residual block after each -> [1920, 1] samples

Everything here is channels-last, `[slots, time, channels]`: convolutions are then plain matrix products over windows,
transposed ones need no shuffling afterwards, and the transformer needs no transposes.

The encoder streams in the same way (encoder.py). Both networks are built from the tensor names of the published file
and know nothing of transformers, whose `MimiModel` is the reference in the tests. All in true float32: the codec is a
small part of a frame's time.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from dia2.codec.config import MimiConfig
from dia2.codec.decoder import MimiDecoder
from dia2.codec.encoder import MimiEncoder
from dia2.codec.parts import CodecNetwork, exact_float32
from dia2.codec.ring import Attend, attend_ring
from dia2.codec.state import FRAMES_PER_PASS, CodecState
from dia2.errors import CheckpointError
from dia2.model.layers import allocate
from dia2.strict_json import read_object
from dia2.tensor_file import FLOATS, check_numbers, listed, opened

_LARGEST: Final = 1e30  # sums of many frames are among a codec's tensors, so far larger numbers than weights are right
_RANDOM_LEVEL: Final = 0.1  # standard deviation of what a random codec says
# Tensors of the file that only the encoder or the training reads.
_ENCODER_SIDE: Final = re.compile(
    r"(encoder|encoder_transformer|downsample)\..+|quantizer\.\w+\.input_proj\..+|quantizer\..+\.initialized"
)


class Mimi:
    """The codec: `decode` turns codes into sound, piece by piece if given a state; `encode` turns a clip into codes."""

    def __init__(
        self,
        config: MimiConfig,
        decoder: MimiDecoder,
        device: torch.device,
        load_encoder: Callable[[], MimiEncoder],
    ) -> None:
        self.config = config
        self.decoder = decoder
        self.codebooks = decoder.codebooks
        self.device = device
        self.sample_rate = config.sample_rate
        self.frame_samples = config.frame_samples
        self._state_shape = decoder.state_shape()
        self._make_encoder = load_encoder
        self._encoder: MimiEncoder | None = None
        self._loading = threading.Lock()

    @classmethod
    def from_folder(cls, folder: Path, codebooks: int, device: torch.device | str) -> Mimi:
        """Load config.json and the decoder's part of model.safetensors, with the first `codebooks` codebooks.

        Raises ConfigError for a config that is not implemented; CheckpointError for files that cannot be read, and for
        tensors that are missing, misshapen or unknown, naming all of them.
        """
        folder, device = Path(folder), torch.device(device)
        config = MimiConfig.from_dict(read_object(folder / "config.json"))
        if codebooks > config.num_quantizers:
            raise CheckpointError(f"{folder}: the codec has {config.num_quantizers} codebooks, {codebooks} are needed")
        decoder = MimiDecoder(config, codebooks)
        _load(decoder, folder / "model.safetensors", device)
        decoder.prepare()
        return cls(config, decoder, device, lambda: _read_encoder(folder, config, codebooks, device))

    @classmethod
    def random(cls, config: MimiConfig, codebooks: int, device: torch.device | str, seed: int) -> Mimi:
        """A codec with random weights, drawn on the device. Its sound is noise of a moderate level."""
        device = torch.device(device)
        decoder = MimiDecoder(config, codebooks)
        allocate(decoder, device)
        generator = torch.Generator(device).manual_seed(seed)
        decoder.randomize(generator)
        decoder.prepare()
        mimi = cls(config, decoder, device, lambda: _random_encoder(config, codebooks, seed, device))
        codes = torch.randint(config.codebook_size, (1, codebooks, 4), generator=generator, device=device)
        decoder.last.weight.mul_(_RANDOM_LEVEL / mimi.decode(codes).std())
        return mimi

    def state(self, slots: int = 1, back: int = 0) -> CodecState:
        """The state of `slots` new conversations, which can go back up to `back` frames."""
        return CodecState(self._state_shape, slots, self.device, back)

    @torch.no_grad()
    def decode(
        self,
        codes: Tensor,
        state: CodecState | None = None,
        check: bool = True,
        rows: Tensor | None = None,
        attend: Attend = attend_ring,
    ) -> Tensor:
        """Codes int64 [n, codebooks, frames] -> sound float32 [n, frames * frame_samples], moving `state` on.

        Without a state, codes are whole sequences, which begin from silence. The sound is the same however a sequence
        is cut into calls. rows: int64 [n], the slots of `state` that the codes are for, none twice; without it, all of
        them in order. attend: how the transformer attends (ring.py).

        Raises ValueError for a wrong shape, dtype or state, and for an id outside 0..codebook_size-1. With check=False
        ids are not looked at, which on CUDA would wait for the device; an id that is no code then adds nothing.
        """
        self._check_call(codes, state, rows)
        if check:
            self._check_ids(codes)
        codes = codes.to(self.device)
        slots, _, frames = codes.shape
        state = self.state(slots) if state is None else state
        step = max(1, FRAMES_PER_PASS // slots)
        if 0 < frames <= step:
            return self._pass(codes, state, rows, attend)
        out = torch.empty(slots, frames * self.frame_samples, device=self.device)
        for i in range(0, frames, step):
            sound = self._pass(codes[:, :, i : i + step], state, rows, attend)
            out[:, i * self.frame_samples :][:, : sound.shape[1]] = sound
        return out

    @torch.no_grad()
    def hear(self, codes: Tensor, state: CodecState, rows: Tensor | None = None) -> None:
        """Moves `state` on as `decode` does, in a tenth of the time, by frames whose sound nobody wants."""
        before = max(0, codes.shape[2] - self.decoder.lead_in)
        step = max(1, FRAMES_PER_PASS // codes.shape[0])
        for part in codes[:, :, :before].split(step, dim=2) if before else ():
            self.listen(part, state, rows)
        self.decode(codes[:, :, before:], state, check=False, rows=rows)

    @torch.no_grad()
    def listen(
        self, codes: Tensor, state: CodecState, rows: Tensor | None = None, attend: Attend = attend_ring
    ) -> None:
        """One pass of `MimiDecoder.listen`."""
        with exact_float32():
            self.decoder.listen(codes, state, rows, attend)

    @torch.no_grad()
    def load_encoder(self) -> MimiEncoder:
        """The encoder. The first call reads it, and may be made on any thread.

        Raises CheckpointError for weights that cannot be read.
        """
        with self._loading:
            if self._encoder is None:
                self._encoder = self._make_encoder()
            return self._encoder

    def hearing(self, slots: int = 1) -> CodecState:
        """The state of `slots` recordings of which nothing was encoded yet; loads the encoder."""
        return CodecState(self.load_encoder().state_shape(), slots, self.device)

    @property
    def hearing_bytes(self) -> int:
        """Memory that hearing one recording takes, the encoder itself left out."""
        shape = MimiEncoder(self.config, self.codebooks).state_shape()  # without memory, and without reading anything
        return CodecState(shape, 1, torch.device("meta")).bytes

    @torch.no_grad()
    def encode(
        self,
        pcm: Tensor,
        state: CodecState | None = None,
        rows: Tensor | None = None,
        attend: Attend = attend_ring,
    ) -> Tensor:
        """Sound at `sample_rate`, float32 [n, samples] -> codes int64 [n, codebooks, frames], moving `state` on.

        Without a state, the sounds are whole recordings. With one, the codes are the same however a recording is cut
        into calls, as long as every call brings whole frames; only the last may end within a frame. rows, attend: as
        for `decode`.

        The first call loads the encoder. Raises ValueError for another shape or dtype.
        """
        if pcm.dim() != 2 or 0 in pcm.shape:
            raise ValueError(f"pcm has shape {list(pcm.shape)}, expected [recordings, samples]")
        if pcm.dtype != torch.float32:
            raise ValueError(f"pcm is {pcm.dtype}, expected torch.float32")
        encoder = self.load_encoder()
        state = self.hearing(len(pcm)) if state is None else state
        step = max(1, FRAMES_PER_PASS // len(pcm)) * self.frame_samples
        with exact_float32():
            passes = [encoder(part, state, rows, attend) for part in pcm.to(self.device).split(step, dim=1)]
        return torch.cat(passes, dim=2) if len(passes) > 1 else passes[0]

    def _pass(self, codes: Tensor, state: CodecState, rows: Tensor | None, attend: Attend) -> Tensor:
        with exact_float32():
            sound: Tensor = self.decoder(codes, state, rows, attend)
        return sound

    def _check_call(self, codes: Tensor, state: CodecState | None, rows: Tensor | None) -> None:
        if codes.dim() != 3 or codes.shape[0] < 1 or codes.shape[1] != self.codebooks:
            raise ValueError(f"codes have shape {list(codes.shape)}, expected [slots, {self.codebooks}, frames]")
        if codes.dtype != torch.int64:
            raise ValueError(f"codes are {codes.dtype}, expected torch.int64")
        if state is not None and codes.shape[0] != (state.slots if rows is None else len(rows)):
            named = f"the state has {state.slots}" if rows is None else f"rows names {len(rows)}"
            raise ValueError(f"codes are for {codes.shape[0]} slots, {named}")
        if state is not None and state.shape != self._state_shape:
            raise ValueError("the state belongs to a codec of another shape")

    def _check_ids(self, codes: Tensor) -> None:
        wrong = (codes < 0) | (codes >= self.config.codebook_size)
        if bool(wrong.any()):
            slot, codebook, frame = (int(i) for i in wrong.nonzero()[0])
            raise ValueError(
                f"id {int(codes[slot, codebook, frame])} (slot {slot}, codebook {codebook}, frame {frame}) is outside "
                f"0..{self.config.codebook_size - 1}"
            )


def _load(network: CodecNetwork, path: Path, device: torch.device) -> None:
    """Give a network memory and the file's tensors; CheckpointError when they are not what it needs.

    Sizes are compared before there is memory: a damaged config can ask for any amount.
    """
    with opened(path) as file:
        faults = _faults(file, network, network.checkpoint_tensors())
        if faults:
            raise CheckpointError(f"{path}: {'; '.join(faults)}")
        allocate(network, device)
        for name, tensor in network.checkpoint_tensors().items():
            found = file.get_tensor(name).to(device)
            check_numbers(path, name, found, _LARGEST)
            tensor.copy_(found)


def _faults(file: Any, network: CodecNetwork, wanted: Mapping[str, Tensor]) -> list[str]:
    """Everything about the tensors of an open safetensors file that keeps it from being this codec's."""
    names = set(file.keys())
    known = MimiDecoder(network.config, network.config.num_quantizers).checkpoint_tensors()
    missing = [name for name in wanted if name not in names]
    unexpected = sorted(name for name in names - set(known) if not _ENCODER_SIDE.fullmatch(name))
    misshapen = []
    for name in (name for name in wanted if name in names):
        found, expected = file.get_slice(name), list(wanted[name].shape)
        if found.get_shape() != expected:
            misshapen.append(f"{name} is {found.get_shape()}, expected {expected}")
        elif found.get_dtype() not in FLOATS:
            misshapen.append(f"{name} is {found.get_dtype()}, expected one of {', '.join(FLOATS)}")
    faults = {"missing": missing, "wrong": misshapen, "unexpected": unexpected}
    return [f"{kind} tensors: {listed(which)}" for kind, which in faults.items() if which]


@torch.no_grad()
def _read_encoder(folder: Path, config: MimiConfig, codebooks: int, device: torch.device) -> MimiEncoder:
    encoder = MimiEncoder(config, codebooks)
    _load(encoder, folder / "model.safetensors", device)
    encoder.prepare()
    return encoder


@torch.no_grad()
def _random_encoder(config: MimiConfig, codebooks: int, seed: int, device: torch.device) -> MimiEncoder:
    encoder = MimiEncoder(config, codebooks)
    allocate(encoder, device)
    encoder.randomize(torch.Generator(device).manual_seed(seed))
    encoder.prepare()
    return encoder
