"""Decoders, which turn emissions into texts, and their registry."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from asr_exp.core.errors import UserError
from asr_exp.core.registry import Registry


class Decoder(Protocol):
    """Turns emissions into texts."""

    def __call__(self, logits: torch.Tensor, frames: Sequence[int]) -> list[str]:
        """The text of each row. logits: (batch, frames, vocabulary); frames: valid frames of each row."""
        ...


@dataclass(frozen=True)
class Candidate:
    """A text that a decoder proposes. score: a natural logarithm."""

    text: str
    score: float


DECODERS: Registry[Callable[..., Decoder]] = Registry("decode.name")


def register_decoder(name: str) -> Callable[[Callable[..., Decoder]], Callable[..., Decoder]]:
    """Register `factory(tokenizer, **settings) -> decoder` as `decode.name=name`; decode.settings are its
    settings.
    """
    return DECODERS.register(name)


@register_decoder("greedy")
class Greedy:
    """Best-path decoding (Graves et al. 2006): the most probable label of every frame, repeats merged, blanks
    removed. One space stands between words, also where the path has `| blank |`, as beam search has it.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def __call__(self, logits: torch.Tensor, frames: Sequence[int]) -> list[str]:
        best = logits.argmax(-1).cpu()
        texts = (
            self.tokenizer.decode(torch.unique_consecutive(row[:n]).tolist())
            for row, n in zip(best, frames, strict=True)
        )
        return [" ".join(text.split()) for text in texts]


def candidates(decoder: Decoder, logits: torch.Tensor, frames: Sequence[int]) -> list[list[Candidate]]:
    """The texts of each row, the best first: `nbest` of them from a decoder that has this attribute, else one
    with the score 0. Shapes as of `Decoder`.
    """
    if getattr(decoder, "nbest", 1) > 1:
        return decoder.candidates(logits, frames)  # type: ignore[attr-defined]
    return [[Candidate(text, 0.0)] for text in decoder(logits, frames)]


def make_decoder(name: str, tokenizer: Any, settings: Mapping[str, Any]) -> Decoder:
    """Build a decoder by its name. Raises UserError for an unknown name, and for settings that it does not
    take.
    """
    factory = DECODERS.find(name)
    try:
        inspect.signature(factory).bind(tokenizer, **settings)
    except TypeError as error:
        raise UserError(
            f"decode.name={name} does not take decode.settings={dict(settings)}: {error}."
        ) from error
    decoder = factory(tokenizer, **settings)
    DECODERS.expect(name, callable(decoder), decoder, "a function of (logits, frames)")
    return _Checked(name, decoder) if name in DECODERS.places else decoder


class _Checked:
    """A plugin's decoder, of which each answer is looked at: a text for each row."""

    def __init__(self, name: str, decoder: Decoder):
        self._name, self._decoder = name, decoder

    def __call__(self, logits: torch.Tensor, frames: Sequence[int]) -> list[str]:
        texts = self._decoder(logits, frames)
        fits = isinstance(texts, list | tuple) and len(texts) == len(frames)
        fits = fits and all(isinstance(text, str) for text in texts)
        DECODERS.expect(self._name, fits, texts, f"a list of {len(frames)} texts, one for each row")
        return list(texts)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._decoder, attribute)
