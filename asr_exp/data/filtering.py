"""Which utterances of a split can be used, and why the others cannot."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from asr_exp.data.audio_store import AudioStore
from asr_exp.data.text import chunks
from asr_exp.data.tokenizer import Tokenizer, frames_needed, segment_sums
from asr_exp.data.utterances import Utterances


@dataclass(frozen=True)
class LengthLimits:
    """The lengths of clips that can be used.

    min_seconds, max_seconds: of training; max_eval_seconds: the longest that is scored; max_utterances: of a
    split (None: all); frames: the number of samples of a clip -> the number of frames that the model makes.
    """

    min_seconds: float
    max_seconds: float
    max_eval_seconds: float
    max_utterances: int | None
    frames: Callable[[int], int]


def needs_check(
    name: str,
    utterances: Utterances,
    store: AudioStore,
    tokenizer: Tokenizer,
    limits: LengthLimits,
) -> list[int]:
    """Find the rows that `rejection_reason` has to look at.

    All others are usable for certain: with their lengths, taken as arrays and rounded down to tenths of a
    second, they have room enough. That takes a hundredth of the time.

    Args:
        name: of the split.
        utterances: with texts after the text rules.
        store: their audio.
        tokenizer: of the model.
        limits: what a clip must be.

    Returns:
        Indices of rows, ascending.
    """
    rate = store.rate
    grid = rate // 10
    frames_on_grid = np.array(
        [limits.frames(n) for n in range(0, int(store.lengths.max(initial=0)) + 1, grid)]
    )
    frames = frames_on_grid[store.lengths // grid] if len(frames_on_grid) else np.zeros(0)
    longest = rate * (limits.max_seconds if name == "train" else limits.max_eval_seconds)
    doubtful = (frames < 1) | (store.lengths < limits.min_seconds * rate) | (store.lengths > longest)
    doubtful[[*store.reasons, *store.silent]] = True
    first = 0
    for texts in chunks(utterances.texts()):
        rows = slice(first, first + len(texts))
        labels, counts = tokenizer.encode_many([tokenizer.target(text) for text in texts])
        # a pair that spans two texts counts too: at worst a row more is checked
        repeats = np.concatenate([[False], labels[1:] == labels[:-1]])
        too_long = counts + segment_sums(repeats, counts) > frames[rows]
        without_speech = segment_sums(tokenizer.speech(labels), counts) == 0
        doubtful[rows] |= too_long | without_speech
        first += len(texts)
    return np.flatnonzero(doubtful).tolist()


def rejection_reason(
    split: str,
    samples: int,
    rate: int,
    text: str,
    tokenizer: Tokenizer,
    limits: LengthLimits,
) -> str:
    """Why an utterance is left out of a split, or ''. Scoring keeps utterances that training cannot use.

    Args:
        split: its name: train, or one that is scored.
        samples: length of the audio at `rate`.
        rate: samples a second.
        text: the transcript in the units of the tokenizer, after the text rules.
        tokenizer: of the model.
        limits: what a clip must be.
    """
    seconds = samples / rate
    frames = limits.frames(samples)
    training = split == "train"
    longest = limits.max_seconds if training else limits.max_eval_seconds
    if frames < 1:
        return f"too short: {seconds:.3f} s is less than one frame"
    if seconds > longest:
        return (
            f"too long: {seconds:.1f} s is more than"
            f" dataset.{'max_seconds' if training else 'max_eval_seconds'}={longest:g}"
        )
    if not text.strip():
        return "empty transcript after the text rules"
    if not training:
        return ""
    if seconds < limits.min_seconds:
        return f"too short: {seconds:.3f} s is less than dataset.min_seconds={limits.min_seconds:g}"
    labels = tokenizer.encode(text)
    if tokenizer.known(labels) == 0:
        return "no character of the transcript is in the vocabulary"
    needed = frames_needed(labels)
    if needed > frames:
        return (
            f"labels longer than frames: {needed} frames needed for {len(labels)} labels, the audio gives"
            f" {frames}"
        )
    return ""
