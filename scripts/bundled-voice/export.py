"""Language model, tokenizer and codec -> a checkpoint folder: `export.py WEIGHTS TOKENIZER CODEC FOLDER`.

The published layout, what `dia2stream say --model FOLDER` takes: the language model's matrices in 8 bits, all else in
float16. The decoder's last bias is set so that silence is decoded to zero: its loss hardly sees a constant.
"""

import argparse
import json
import shutil
from pathlib import Path

import codec
import codec_net
import lm_net
import torch
from safetensors.torch import save_file
from spectra import Analysis
from tokenizers import Tokenizer
from torch import Tensor

from dia2.checkpoint.int8 import SUFFIX, in_8_bits

LAST_BIAS = f"decoder.layers.{3 * len(codec_net.RATIOS) + 2}.conv.bias"
STEADY = 24  # frames of silence until the decoder hears nothing else


def small(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices in 8 bits with their scales, vectors and narrow matrices in float16."""
    found = in_8_bits(weights)
    keep = {name for name, tensor in found.items() if tensor.dtype is torch.int8}
    keep |= {name + SUFFIX for name in keep}
    return {name: (t if name in keep else t.half()).contiguous().clone() for name, t in found.items()}


@torch.no_grad()
def grounded(net: codec_net.CodecNet, silence: Tensor) -> codec_net.CodecNet:
    """The same codec, its weights rounded to float16, without the constant that it decodes silence to.

    silence: its codes, [8].
    """
    for name, tensor in net.weights().items():
        if "codebook" not in name:
            tensor.copy_(tensor.half())
    held = silence[None, :, None].expand(-1, -1, STEADY)
    net.get(LAST_BIAS).sub_(net.decode(net.dequantize(held))[0, -codec_net.FRAME :].mean())
    return net


def codes_of_silence(net: codec_net.CodecNet, folder: Path) -> Tensor:
    """What the analysis of a codec's folder makes of silence once nothing else is near, [8]."""
    analysis = Analysis.read(folder / codec.ANALYSIS)
    return codec.Encoder(net, analysis)(torch.zeros(1, STEADY * codec_net.FRAME))[0, :, -1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="what lm.py wrote: a file, or a folder of parts; or `random`")
    parser.add_argument("tokenizer", type=Path, help="what tokenizer.py wrote")
    parser.add_argument("codec", type=Path, help="what codec.py wrote")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(given.tokenizer / file, given.folder / file)
    config = lm_net.config(Tokenizer.from_file(str(given.tokenizer / "tokenizer.json")).get_vocab_size())
    net = lm_net.LmNet(config)
    net = net.initialise(0) if str(given.weights) == "random" else net.load(lm_net.read(given.weights))
    save_file(small(net.weights()), given.folder / "model.safetensors")
    sound = codec.read(given.codec)
    codec_net.save(grounded(sound, codes_of_silence(sound, given.codec)), given.folder / "mimi", torch.float16)
    assets = {"config": "config.json", "weights": "model.safetensors", "tokenizer": ".", "mimi": "mimi"}
    for name, content in (("config.json", config.to_dict()), ("dia2_assets.json", assets)):
        (given.folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for path in given.folder.rglob("*.safetensors"):
        path.chmod(0o644)
    size = sum(path.stat().st_size for path in given.folder.rglob("*") if path.is_file())
    print(f"{given.folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
