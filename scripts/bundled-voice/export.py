"""Language model, tokenizer and codec -> a checkpoint folder: `export.py WEIGHTS TOKENIZER CODEC FOLDER`.

The published layout, what `dia2stream say --model FOLDER` takes: the language model's matrices in 8 bits, all else in
float16.
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
from tokenizers import Tokenizer
from torch import Tensor

from dia2.checkpoint.int8 import SUFFIX, in_8_bits


def small(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices in 8 bits with their scales, vectors and narrow matrices in float16."""
    found = in_8_bits(weights)
    keep = {name for name, tensor in found.items() if tensor.dtype is torch.int8}
    keep |= {name + SUFFIX for name in keep}
    return {name: (t if name in keep else t.half()).contiguous().clone() for name, t in found.items()}


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
    codec_net.save(codec.read(given.codec), given.folder / "mimi", torch.float16)
    assets = {"config": "config.json", "weights": "model.safetensors", "tokenizer": ".", "mimi": "mimi"}
    for name, content in (("config.json", config.to_dict()), ("dia2_assets.json", assets)):
        (given.folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for path in given.folder.rglob("*.safetensors"):
        path.chmod(0o644)
    size = sum(path.stat().st_size for path in given.folder.rglob("*") if path.is_file())
    print(f"{given.folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
