"""Which model it is, whatever it is called and in whichever type it is computed."""

import hashlib

import torch

from dia2.checkpoint.load import Checkpoint

_SENTENCE = "[S1] Hello there, it's 4 o'clock. [S2] Grüezi!"
_NUMBERS = 4096  # of each tensor


def fingerprint(checkpoint: Checkpoint) -> str:
    """16 hex digits: of the model's shape, of a part of its weights, and of how its tokenizer reads a sentence.

    The context's length is no part of the model's shape, and numbers are rounded to bfloat16 first.
    """
    digest = hashlib.sha256()
    digest.update(repr((checkpoint.config.data, checkpoint.config.model)).encode())
    digest.update(repr(checkpoint.tokenizer.encode(_SENTENCE)).encode())
    for tensor in (checkpoint.backbone.cb0_head, checkpoint.backbone.action_head):
        numbers = tensor.detach().flatten()[:_NUMBERS].to("cpu", torch.bfloat16)
        digest.update(numbers.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
