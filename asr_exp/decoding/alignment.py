"""Forced alignment: the times of the labels of one utterance by its emissions, and words made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from asr_exp.core.libraries import torchaudio
from asr_exp.data.tokenizer import frames_needed

if TYPE_CHECKING:
    from asr_exp.data.tokenizer import Tokenizer

MAX_CELLS = 4_000_000_000  # frames times states of the aligner, which keeps a byte for each


@dataclass(frozen=True)
class Span:
    """A label and the frames [start, end) in which it is emitted. score: its mean posterior, 0 to 1."""

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
    """Align labels to one utterance with torchaudio's CTC aligner.

    log_probs: (frames, vocabulary). Raises ValueError where the labels (with the blanks between equal
    neighbours) need more frames than there are, and where the alignment would not fit in memory; UserError
    where torchaudio cannot be loaded.
    """
    aligner = torchaudio("functional", "forced_align", "merge_tokens")
    targets = torch.tensor(list(labels), dtype=torch.int32)
    if not len(targets):
        return []
    if (needed := frames_needed(targets.numpy())) > len(log_probs):
        raise ValueError(
            f"too short for its transcript: {len(targets)} labels need {needed} frames, and there are"
            f" {len(log_probs)}"
        )
    if len(log_probs) * (2 * len(targets) + 1) > MAX_CELLS:
        raise ValueError(
            f"{len(targets)} labels and {len(log_probs)} frames are too many to align in one go; cut it into"
            " segments"
        )
    path, scores = aligner.forced_align(log_probs[None].float().cpu(), targets[None], blank=blank)
    return [
        Span(span.token, span.start, span.end, span.score)
        for span in aligner.merge_tokens(path[0], scores[0].exp(), blank)
    ]


def align_groups(
    log_probs: torch.Tensor, groups: Sequence[Sequence[int]], blank: int, between: int | None = None
) -> list[list[Span]]:
    """Align groups of labels, such as the words of a transcript -> the spans of each group.

    log_probs: (frames, vocabulary); between: the label between two groups, if there is one. A group without
    labels stands for any sound. It is aligned as a wildcard that fits every frame alike, as in torchaudio's
    multilingual aligner, and so gets the frames that its neighbours leave; its one span has the score 0.
    Raises ValueError as `align_labels` does.
    """
    wildcard = log_probs.shape[-1]
    if not all(groups):
        log_probs = torch.cat([log_probs, log_probs.new_zeros(len(log_probs), 1)], dim=-1)
    separator = [] if between is None else [between]
    parts = [part for group in groups for part in (separator, list(group) or [wildcard])][1:]
    spans = iter(align_labels(log_probs, [label for part in parts for label in part], blank))
    placed = [[_scored(span, wildcard) for span in islice(spans, len(part))] for part in parts]
    return placed[::2]


def _scored(span: Span, wildcard: int) -> Span:
    return Span(wildcard, span.start, span.end, 0.0) if span.label == wildcard else span


def best_path(labels: torch.Tensor, scores: torch.Tensor, blank: int) -> list[Span]:
    """The spans of the best path. labels: the most probable label of each frame, (frames,); scores: its
    posterior, (frames,).
    """
    if not len(labels):
        return []
    starts = torch.cat([torch.ones(1, dtype=torch.bool), labels[1:] != labels[:-1]]).nonzero()[:, 0].numpy()
    ends = np.append(starts[1:], len(labels))
    means = np.add.reduceat(scores.double().numpy(), starts) / (ends - starts)
    runs = zip(labels.numpy()[starts].tolist(), starts.tolist(), ends.tolist(), means.tolist(), strict=True)
    return [Span(*run) for run in runs if run[0] != blank]


def words_of(spans: Sequence[Span], tokenizer: "Tokenizer", frame: float) -> list[Word]:
    """Group spans into words at the tokenizer's space. A phone, or a character of a script without spaces, is
    a word of its own.

    frame: seconds from one frame to the next.
    """
    each_alone = tokenizer.unit == "phone" or tokenizer.space not in tokenizer.ids
    groups: list[list[Span]] = [[]]
    for span in spans:
        if each_alone:
            groups.append([span])
        elif tokenizer.tokens[span.label] == tokenizer.space:
            groups.append([])
        else:
            groups[-1].append(span)
    return [
        word_of(group, tokenizer.decode(span.label for span in group), frame) for group in groups if group
    ]


def word_of(spans: Sequence[Span], text: str, frame: float) -> Word:
    """The word with these spans, from the start of the first to the end of the last. frame: seconds from one
    frame to the next.
    """
    frames = sum(span.end - span.start for span in spans)
    confidence = sum(span.score * (span.end - span.start) for span in spans) / frames
    return Word(text, round(spans[0].start * frame, 3), round(spans[-1].end * frame, 3), round(confidence, 4))
