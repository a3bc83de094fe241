"""From emissions to hypotheses: decoders by name."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from asr_exp.registry import Registry


class Decoder(Protocol):
    """logits: (batch, frames, vocabulary); frames: valid frames of each row -> the text of each row."""

    def __call__(self, logits: torch.Tensor, frames: Sequence[int]) -> list[str]: ...


DECODERS: Registry[Callable[[Any], Decoder]] = Registry("decode.name")


def register_decoder(name: str) -> Callable[[Callable[[Any], Decoder]], Callable[[Any], Decoder]]:
    """Make `factory(tokenizer) -> decoder` known as `decode.name=name`."""
    return DECODERS.register(name)


@register_decoder("greedy")
class Greedy:
    """The best label of every frame, repeats merged, blanks dropped: best-path decoding (Graves et al. 2006)."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def __call__(self, logits: torch.Tensor, frames: Sequence[int]) -> list[str]:
        best = logits.argmax(-1).cpu()
        return [self.tokenizer.decode(torch.unique_consecutive(row[:n]).tolist()) for row, n in zip(best, frames, strict=True)]


def make_decoder(name: str, tokenizer: Any) -> Decoder:
    """The decoder of that name. Raises UserError for an unknown one."""
    return DECODERS.find(name)(tokenizer)
