"""Findings about recordings that need no decoding: files that cannot be used, sampling rates, duplicates."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from asr_exp.commands.check.findings import (
    FAIL,
    NOTE,
    WARN,
    CheckedUtterance,
    Concern,
    Finding,
    concerns,
    counted,
)
from asr_exp.data.formats.ffmpeg import MISSING

# Reasons of `read_clip`, by a pattern of their beginning: (pattern, fault, text, advice).
_UNUSABLE = (
    (
        "no such file",
        "missing",
        "Missing files",
        "Correct the paths: they are resolved against the manifest, or dataset.root.",
    ),
    (
        "unreadable: the segment",
        "segment",
        "Segments outside their file",
        "Correct their start and end, which are seconds.",
    ),
    (
        re.escape(f"unreadable: {MISSING}"),
        "no-ffmpeg",
        "Files that ffmpeg alone reads, which is not on the PATH",
        "Install ffmpeg, or convert those files to FLAC.",
    ),
    ("unreadable", "unreadable", "Unreadable files", "Copy or convert those files again."),
    (
        "truncated",
        "truncated",
        "Files cut short",
        "Copy those files again: their headers promise more audio than there is.",
    ),
    ("empty", "empty-audio", "Files that hold no audio", "Copy those files again, or drop their rows."),
    (
        r"(more than )?\d+ s long",
        "recording",
        "Recordings of an hour and more",
        "Cut them into segments, or give columns start and end.",
    ),
)

# Kinds of duplicates: kind to (level, text, advice).
_DUPLICATES = {
    "leak": (
        FAIL,
        "Recordings that train has too",
        "Drop them from one of the two: that score would flatter.",
    ),
    "dev-is-test": (
        WARN,
        "Recordings that dev and test share",
        "The checkpoint that dev chooses flatters itself on test.",
    ),
    "two-transcripts": (
        FAIL,
        "Recordings that come twice, with two transcripts",
        "Correct or drop one of the two.",
    ),
    "copy": (WARN, "Recordings that come twice in a split", "Drop the copies: they weigh double."),
}


def unusable(utterances: Sequence[CheckedUtterance], reasons: Mapping[int, str]) -> Iterator[Finding]:
    """Recordings that cannot be used. reasons: of `read_clip`, by the index of the utterance."""
    remaining = dict(reasons)
    for pattern, fault, text, advice in _UNUSABLE:
        matching = [i for i, reason in remaining.items() if re.match(pattern, reason)]
        concerned = [concerns([utterances[i]], remaining.pop(i))[0] for i in matching]
        if concerned:
            if fault == "segment":
                advice = f"{advice} The first: {concerned[0].reason.removeprefix('unreadable: ')}."
            yield Finding(FAIL, fault, f"{text}, {counted(concerned)}", advice, concerned)


def missing_ends(utterances: Sequence[CheckedUtterance], has_end: Sequence[bool]) -> Iterator[Finding]:
    """Ogg files without their last page, which decode without an error as far as they go."""
    concerned = concerns(
        (one for one, whole in zip(utterances, has_end, strict=True) if not whole),
        "its last page is missing",
    )
    if concerned:
        yield Finding(
            WARN,
            "no-end",
            f"Files whose end is missing, {counted(concerned)}",
            "Copy them again: a run takes what is left of each for the whole of its transcript.",
            concerned,
        )


def sampling_rates(utterances: Sequence[CheckedUtterance], model_rate: int) -> Iterator[Finding]:
    """Recordings sampled below the model's rate (in hertz), such as telephone speech: the upper half of the
    spectrum is missing, which a model notices more than the words.
    """
    usable = [one for one in utterances if one.clip.rate]
    narrow = [one for one in usable if one.clip.rate < model_rate]
    if not narrow:
        return
    rates = ", ".join(f"{rate / 1000:g} kHz" for rate in sorted({one.clip.rate for one in narrow}))
    if len(narrow) == len(usable):
        yield Finding(
            NOTE,
            "narrow-band",
            f"All recordings are sampled at {rates}: nothing above {narrow[0].clip.rate / 2000:g} kHz is "
            f"in them, where the model expects {model_rate / 1000:g} kHz",
        )
    else:
        yield Finding(
            WARN,
            "mixed-rates",
            f"Sampled at {rates}, {counted(narrow)}, where the others have {model_rate / 1000:g} kHz or more",
            "Fine if dev and test are mixed alike; else train and score the two apart.",
            concerns(narrow, lambda one: f"{one.clip.rate} Hz"),
        )


def duplicates(utterances: Sequence[CheckedUtterance], groups: Iterable[Sequence[int]]) -> Iterator[Finding]:
    """Recordings that come more than once. groups: indices of utterances with the same recording."""
    by_kind: dict[str, list[Concern]] = {kind: [] for kind in _DUPLICATES}
    for group in groups:
        first, *others = sorted(
            (utterances[i] for i in group), key=lambda one: ("train", "dev", "test").index(one.split)
        )
        for other in others:
            by_kind[_kind(first, other)] += concerns(
                [other], f"the same audio as {first.id} of {first.split}"
            )
    for kind, (level, text, advice) in _DUPLICATES.items():
        if concerned := by_kind[kind]:
            yield Finding(level, f"audio-{kind}", f"{text}, {counted(concerned)}", advice, concerned)


def _kind(first: CheckedUtterance, other: CheckedUtterance) -> str:
    if first.split != other.split:
        return "leak" if first.split == "train" else "dev-is-test"
    return "copy" if first.text.split() == other.text.split() else "two-transcripts"


def format_counts(utterances: Sequence[CheckedUtterance]) -> Counter[str]:
    """How many clips there are of each format."""
    channels = {1: "mono", 2: "stereo"}
    return Counter(
        f"{c.format} {c.rate / 1000:g} kHz {channels.get(c.channels, f'{c.channels} channels')}"
        for c in (one.clip for one in utterances)
        if c.rate
    )
