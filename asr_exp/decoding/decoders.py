"""From emissions to hypotheses: decoders by name."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from asr_exp.core.errors import UserError
from asr_exp.core.registry import Registry


class Decoder(Protocol):
    """logits: (batch, frames, vocabulary); frames: valid frames of each row -> the text of each row."""

    def __call__(self, logits: torch.Tensor, frames: Sequence[int]) -> list[str]: ...


@dataclass(frozen=True)
class Candidate:
    """What may have been said, and the natural logarithm of how good it is."""

    text: str
    score: float


DECODERS: Registry[Callable[..., Decoder]] = Registry("decode.name")


def register_decoder(name: str) -> Callable[[Callable[..., Decoder]], Callable[..., Decoder]]:
    """Make `factory(tokenizer, **settings) -> decoder` known as `decode.name=name`; the settings are those of
    decode.settings.
    """
    return DECODERS.register(name)


@register_decoder("greedy")
class Greedy:
    """The best label of every frame, repeats merged, blanks dropped: best-path decoding (Graves et
    al. 2006).
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def __call__(self, logits: torch.Tensor, frames: Sequence[int]) -> list[str]:
        best = logits.argmax(-1).cpu()
        return [
            self.tokenizer.decode(torch.unique_consecutive(row[:n]).tolist())
            for row, n in zip(best, frames, strict=True)
        ]


def candidates(decoder: Decoder, logits: torch.Tensor, frames: Sequence[int]) -> list[list[Candidate]]:
    """What a decoder finds for each row: as many as it is set to (`nbest`), the best first, where it has
    several; else its text alone.
    """
    if getattr(decoder, "nbest", 1) > 1:
        return decoder.candidates(logits, frames)  # type: ignore[attr-defined]
    return [[Candidate(text, 0.0)] for text in decoder(logits, frames)]


def make_decoder(name: str, tokenizer: Any, settings: Mapping[str, Any]) -> Decoder:
    """The decoder of that name. Raises UserError for an unknown one, or one that does not take these
    settings.
    """
    factory = DECODERS.find(name)
    try:
        inspect.signature(factory).bind(tokenizer, **settings)
    except TypeError as error:
        raise UserError(
            f"decode.name={name} does not take decode.settings={dict(settings)}: {error}."
        ) from error
    return factory(tokenizer, **settings)
