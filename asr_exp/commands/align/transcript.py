"""Aligns a transcript with a recording: its words as they are written, by the labels that the model emits for
each of them.
"""

from dataclasses import dataclass
from itertools import chain

import torch

from asr_exp.data.text import TextRules
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.decoding.alignment import Word, align_groups, word_of


@dataclass(frozen=True)
class AlignmentTranscript:
    """A transcript that can be aligned.

    texts: its words, or its phones where it is written in phones. labels: those of each text; none where the
    vocabulary lacks all its units. as_written: whether the texts are those of the transcript; otherwise they
    are the result of the text rules, which cannot be divided among the words of the transcript. of_words:
    whether the texts are words. unknown: units that the vocabulary lacks. silent: words of which the text
    rules leave nothing.
    """

    texts: list[str]
    labels: list[list[int]]
    as_written: bool
    of_words: bool
    unknown: list[str]
    silent: list[str]


@dataclass(frozen=True)
class Alignment:
    """Words and units (characters or phones) with their times. confidence: the mean of the units', from 0 to
    1.
    """

    words: list[Word]
    units: list[Word]
    confidence: float


def make_transcript(text: str, rules: TextRules, tokenizer: Tokenizer) -> AlignmentTranscript:
    """Apply the text rules and the tokenizer to a transcript, word by word.

    The words stay as they are written where the rules, applied to each word alone, give the same result as
    applied to the whole transcript. A word may become several words by the rules, or none.
    """
    normal, written = rules(text), text.split()
    whole = tokenizer.target(normal).split()
    parts = [tokenizer.target(word).split() for word in rules.apply_many(written)]
    as_written = list(chain.from_iterable(parts)) == whole
    of_words = tokenizer.unit != "phone" or (as_written and normal.split() != written)
    if not as_written:
        written, parts = whole, [[word] for word in whole]
    unknown: list[str] = []
    labelled = [
        (word, _labels(some, tokenizer, unknown)) for word, some in zip(written, parts, strict=True) if some
    ]
    silent = [word for word, some in zip(written, parts, strict=True) if not some]
    return AlignmentTranscript(
        [word for word, _ in labelled],
        [labels for _, labels in labelled],
        as_written,
        of_words,
        unknown,
        silent,
    )


def _labels(parts: list[str], tokenizer: Tokenizer, unknown: list[str]) -> list[int]:
    """The labels of a word. parts: the words or phones that the text rules made of it. Units that the
    vocabulary lacks have no label and are added to `unknown`.
    """
    labels: list[int] = []
    space = _space(tokenizer)
    for part in parts:
        known: list[int] = []
        for unit in [part] if tokenizer.unit == "phone" else part:
            encoded = tokenizer.encode(unit)
            if tokenizer.known(encoded):
                known += encoded.tolist()
            else:
                unknown.append(unit)
        labels += ([space] if labels and known and space is not None else []) + known
    return labels


def _space(tokenizer: Tokenizer) -> int | None:
    """The label between words; None where the model has none."""
    return None if tokenizer.unit == "phone" else tokenizer.ids.get(tokenizer.space)


def align_transcript(
    log_probs: torch.Tensor, transcript: AlignmentTranscript, tokenizer: Tokenizer, frame: float
) -> Alignment:
    """Align a transcript with an utterance.

    log_probs: (frames, vocabulary). frame: seconds from one frame to the next. A word whose units are all
    unknown is placed between its neighbours, with confidence 0. Raises ValueError where the recording is too
    short for the transcript, and where no unit of the transcript is known.
    """
    if not any(transcript.labels):
        all_unknown = "the vocabulary has no unit of its transcript, as the text rules leave it"
        raise ValueError(all_unknown if transcript.labels else "its transcript is empty")
    space = _space(tokenizer)
    spans_of = align_groups(log_probs, transcript.labels, tokenizer.blank, space)
    emitted = [span for group in spans_of for span in group if span.label not in (space, len(tokenizer))]
    units = [word_of([span], tokenizer.tokens[span.label].strip(), frame) for span in emitted]
    words = (
        [word_of(group, text, frame) for text, group in zip(transcript.texts, spans_of, strict=True)]
        if transcript.of_words
        else []
    )
    return Alignment(words, units, round(sum(one.confidence for one in units) / len(units), 4))
