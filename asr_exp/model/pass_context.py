"""What the network's replaced parts need to know of the forward pass that they take part in.

transformers calls those parts, with arguments of its own, so that nothing else can be handed to them. One
`ContextVar` holds the `PassContext`; `running` sets and clears it, and each thread sees its own.
"""

from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any

import torch

from asr_exp.data.batch import Batch
from asr_exp.model.conv_frontend import SignalStatistics
from asr_exp.model.drawn_rows import DrawnRows
from asr_exp.model.layout import Layout


@dataclass(frozen=True)
class PassContext:
    """One forward pass through the backbone.

    batch: the utterances, on the device of the network. statistics: of the recording that all rows are pieces
    of, normalised as the rows are; None where each row is an utterance. layout: where the frames of a packed
    batch lie; None where it is padded. feature_mask: channels to zero, bool, (1, all frames + tail, channels)
    where packed, else (rows, channels). dropped_layers: encoder layers that this pass skips. drawn: where the
    pass is a part of another, the frames (packed) or rows (padded) that it has of it; None otherwise.
    """

    batch: Batch
    statistics: SignalStatistics | None = None
    layout: Layout | None = None
    feature_mask: torch.Tensor | None = None
    dropped_layers: frozenset[int] = frozenset()
    drawn: DrawnRows | None = None


_current: ContextVar[PassContext] = ContextVar("asr_exp_pass")


def current_pass() -> PassContext:
    """The pass that this thread runs. Raises RuntimeError where it runs none."""
    try:
        return _current.get()
    except LookupError:
        raise RuntimeError("The network of a Recogniser is run by the Recogniser alone.") from None


def drawn_rows() -> DrawnRows | None:
    """What part of another the pass of this thread is; None where it is whole, or none runs."""
    context = _current.get(None)
    return None if context is None else context.drawn


def current_layout() -> Layout:
    """The layout of the packed pass that this thread runs."""
    layout = current_pass().layout
    assert layout is not None, "a packed encoder is run on a padded batch"
    return layout


class running:
    """`with running(context):` the network runs this pass. It may be entered more than once, also in another
    thread: gradient checkpointing runs layers again in a thread of autograd.
    """

    def __init__(self, context: PassContext):
        self.context = context
        self._tokens: list[Token] = []

    def __enter__(self) -> None:
        self._tokens.append(_current.set(self.context))

    def __exit__(self, *_: Any) -> None:
        _current.reset(self._tokens.pop())
