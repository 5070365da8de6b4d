"""Checks of the codec's training code: it computes what transformers' MimiModel and dia2's streaming decoder do."""

import tempfile
from pathlib import Path

import torch
from codec_net import FRAME, CodecNet, new_weights, save
from spectra import SPECTRAL
from transformers import MimiModel

from dia2.codec.mimi import Mimi


def main() -> None:
    torch.manual_seed(0)
    net = CodecNet(new_weights(1))
    sound = 0.1 * torch.randn(2, 40 * FRAME)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        latents = net.encode(sound)
        net.place_codebooks(latents.flatten(0, 1).repeat(20, 1) + 0.1 * torch.randn(1600, latents.shape[-1]), SPECTRAL)
        codes = net.quantize(latents)[1]
        made = net.decode(net.dequantize(codes))
        save(net, Path(folder), torch.float32)
        reference = MimiModel.from_pretrained(folder).eval()
        theirs = reference.encode(sound[:, None], num_quantizers=codes.shape[1]).audio_codes
        decoded = reference.decode(codes).audio_values[:, 0]
        ours = Mimi.from_folder(Path(folder), codes.shape[1], "cpu")
        state = ours.state()
        streamed = torch.cat([ours.decode(codes[:1, :, n : n + 1], state) for n in range(codes.shape[2])], -1)
    alike = (theirs == codes).float().mean((0, 2))
    print(f"codes alike, by codebook: {alike.tolist()}")
    print(f"decoded: at most {(decoded - made).abs().max():.1e} from MimiModel")
    print(f"streamed: at most {(streamed.flatten() - made[0]).abs().max():.1e} from dia2.codec")
    assert alike[:2].min() > 0.97  # untrained, entries lie close together: what is left over may round otherwise
    assert torch.allclose(decoded, made, atol=1e-4)
    assert torch.allclose(streamed.flatten(), made[0], atol=1e-4)


if __name__ == "__main__":
    main()
