"""Where in time labels stand: forced alignment of a label sequence to the emissions of one utterance, and words made of the spans."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from asr_exp.data.batching import frames_needed

if TYPE_CHECKING:
    from asr_exp.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Span:
    """A label and the frames [start, end) in which it is emitted. score: its mean posterior there, 0 to 1."""

    label: int
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Word:
    """A word (or a phone) with its times in seconds. confidence: the mean posterior of its frames, 0 to 1."""

    text: str
    start: float
    end: float
    confidence: float


def align_labels(log_probs: torch.Tensor, labels: Sequence[int], blank: int) -> list[Span]:
    """The likeliest place of each label, by torchaudio's CTC aligner. log_probs: (frames, vocabulary), of one utterance.

    Raises ValueError where the labels (with the blanks that part equal neighbours) need more frames than there are.
    """
    from torchaudio.functional import forced_align, merge_tokens

    targets = torch.tensor(list(labels), dtype=torch.int32)
    if not len(targets):
        return []
    if (needed := frames_needed(targets.numpy())) > len(log_probs):
        raise ValueError(f"{len(targets)} labels need {needed} frames, and there are {len(log_probs)}")
    path, scores = forced_align(log_probs[None].float().cpu(), targets[None], blank=blank)
    return [Span(one.token, one.start, one.end, one.score) for one in merge_tokens(path[0], scores[0].exp(), blank)]


def best_path(labels: torch.Tensor, scores: torch.Tensor, blank: int) -> list[Span]:
    """The spans of the best path itself: labels, (frames,), the likeliest of each frame; scores, (frames,), their posteriors."""
    if not len(labels):
        return []
    starts = torch.cat([torch.ones(1, dtype=torch.bool), labels[1:] != labels[:-1]]).nonzero()[:, 0].numpy()
    ends = np.append(starts[1:], len(labels))
    means = np.add.reduceat(scores.double().numpy(), starts) / (ends - starts)
    runs = zip(labels.numpy()[starts].tolist(), starts.tolist(), ends.tolist(), means.tolist(), strict=True)
    return [Span(*run) for run in runs if run[0] != blank]


def words_of(spans: Sequence[Span], tokenizer: "Tokenizer", frame: float) -> list[Word]:
    """Spans gathered into words at the tokenizer's space; each alone where it is a phone, or a character of a script without spaces.

    frame: seconds from one frame to the next.
    """
    apart = tokenizer.unit == "phone" or tokenizer.space not in tokenizer.ids
    gathered: list[list[Span]] = [[]]
    for span in spans:
        if apart:
            gathered.append([span])
        elif tokenizer.tokens[span.label] == tokenizer.space:
            gathered.append([])
        else:
            gathered[-1].append(span)
    return [_word(group, tokenizer, frame) for group in gathered if group]


def _word(spans: Sequence[Span], tokenizer: "Tokenizer", frame: float) -> Word:
    frames = sum(span.end - span.start for span in spans)
    confidence = sum(span.score * (span.end - span.start) for span in spans) / frames
    text = tokenizer.decode(span.label for span in spans)
    return Word(text, round(spans[0].start * frame, 3), round(spans[-1].end * frame, 3), round(confidence, 4))
