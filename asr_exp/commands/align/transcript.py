"""A transcript made ready to be aligned: its words as they were written, each with the labels that the model
emits for it.
"""

from dataclasses import dataclass
from itertools import chain

import torch

from asr_exp.data.text import TextRules
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.decoding.alignment import Word, align_groups, word_of


@dataclass(frozen=True)
class AlignmentTranscript:
    """What is said in a recording. texts: its words (its phones, where the transcript is one of phones);
    labels: those of each, none where the vocabulary has no unit of it.

    as_written: whether the texts are the writer's; else they are what the text rules made, where that cannot
    be told word by word. of_words: whether they are words. unknown: units that the vocabulary lacks; silent:
    words that the rules leave nothing of.
    """

    texts: list[str]
    labels: list[list[int]]
    as_written: bool
    of_words: bool
    unknown: list[str]
    silent: list[str]


@dataclass(frozen=True)
class Alignment:
    """When the words of a script are said, and its characters or phones. confidence: the mean of these
    units', 0 to 1.
    """

    words: list[Word]
    units: list[Word]
    confidence: float


def make_transcript(text: str, rules: TextRules, tokenizer: Tokenizer) -> AlignmentTranscript:
    """A transcript through the text rules and the tokenizer, word by word.

    A word is kept as it is written where the rules do the same to it alone as in its sentence, whatever
    number of words they make of it.
    """
    normal, written = rules(text), text.split()
    whole = tokenizer.target(normal).split()
    parts = [tokenizer.target(word).split() for word in rules.apply_many(written)]
    as_written = list(chain.from_iterable(parts)) == whole
    of_words = tokenizer.unit != "phone" or (as_written and normal.split() != written)
    if not as_written:
        written, parts = whole, [[word] for word in whole]
    unknown: list[str] = []
    spoken = [
        (word, _labels(some, tokenizer, unknown)) for word, some in zip(written, parts, strict=True) if some
    ]
    silent = [word for word, some in zip(written, parts, strict=True) if not some]
    return AlignmentTranscript(
        [word for word, _ in spoken], [labels for _, labels in spoken], as_written, of_words, unknown, silent
    )


def _labels(parts: list[str], tokenizer: Tokenizer, unknown: list[str]) -> list[int]:
    """The labels of what the rules made of a word; units that the vocabulary lacks are left out, and added to
    `unknown`.
    """
    found: list[int] = []
    space = _space(tokenizer)
    for part in parts:
        known: list[int] = []
        for unit in [part] if tokenizer.unit == "phone" else part:
            labels = tokenizer.encode(unit)
            if tokenizer.known(labels):
                known += labels.tolist()
            else:
                unknown.append(unit)
        found += ([space] if found and known and space is not None else []) + known
    return found


def _space(tokenizer: Tokenizer) -> int | None:
    """The label that parts words, where the model emits one."""
    return None if tokenizer.unit == "phone" else tokenizer.ids.get(tokenizer.space)


def align_transcript(
    log_probs: torch.Tensor, script: AlignmentTranscript, tokenizer: Tokenizer, frame: float
) -> Alignment:
    """Place a script in an utterance. log_probs: (frames, vocabulary); frame: seconds from one frame to the
    next.

    A word of no known unit is placed between its neighbours, with the confidence 0. Raises ValueError where
    the recording is too short for the script, and where no unit of it is known.
    """
    if not any(script.labels):
        unknown = "the vocabulary has no unit of its transcript, as the text rules leave it"
        raise ValueError(unknown if script.labels else "its transcript is empty")
    space = _space(tokenizer)
    placed = align_groups(log_probs, script.labels, tokenizer.blank, space)
    emitted = [span for group in placed for span in group if span.label not in (space, len(tokenizer))]
    units = [word_of([span], tokenizer.tokens[span.label].strip(), frame) for span in emitted]
    words = (
        [word_of(group, text, frame) for text, group in zip(script.texts, placed, strict=True)]
        if script.of_words
        else []
    )
    return Alignment(words, units, round(sum(one.confidence for one in units) / len(units), 4))
