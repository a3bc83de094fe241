"""Recordings: what their headers say of all of them, and what a sample of them sounds like."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from asr_exp.commands.check.findings import FAIL, NOTE, WARN, Finding, Row, about, counted
from asr_exp.data.audio import Audio, read_clip

FULL_SCALE = 0.999
CLIPPED = 0.001  # share of samples at full scale; a normalised recording has a handful
SILENT = -80.0  # dB of full scale: peak of what is silent; mean square of what is hardly audible, or low
FAINT = -60.0
LOW = -50.0
OFFSET = 0.02  # of full scale


@dataclass(frozen=True)
class Sound:
    """What was heard of a clip. Levels in dB of full scale; clipped: share of samples at full scale; offset:
    mean sample.
    """

    reason: str
    peak: float = 0.0
    level: float = 0.0
    clipped: float = 0.0
    offset: float = 0.0
    cancels: bool = False  # the channels are loud, their mean is not
    dead: bool = False  # a channel is silent beside another that is not


# ------------------------------------------------------------------------------------------------------------
# headers


# What to say of a reason that `read_clip` gives, by how it begins.
_BROKEN = (
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
    ("unreadable", "unreadable", "Unreadable files", "Copy or convert those files again."),
    (
        "truncated",
        "truncated",
        "Files cut short",
        "Copy those files again: their headers promise more audio than there is.",
    ),
    ("empty", "empty-audio", "Files that hold no audio", "Copy those files again, or drop their rows."),
    (
        r"\d+ s long",
        "recording",
        "Recordings of an hour and more",
        "Cut them into segments, or give columns start and end.",
    ),
)


def broken(rows: Sequence[Row], reasons: Mapping[int, str]) -> Iterator[Finding]:
    """Recordings that cannot be used. reasons: by index of `rows`."""
    left = dict(reasons)
    for pattern, fault, what, advice in _BROKEN:
        found = [i for i, reason in left.items() if re.match(pattern, reason)]
        concerned = [about([rows[i]], left.pop(i))[0] for i in found]
        if concerned:
            yield Finding(FAIL, fault, f"{what}, {counted(concerned)}", advice, concerned)


def unended(rows: Sequence[Row], ended: Sequence[bool]) -> Iterator[Finding]:
    """Ogg files whose last page is missing: they decode without a word, as far as they go."""
    concerned = about(
        (r for r, whole in zip(rows, ended, strict=True) if not whole), "its last page is missing"
    )
    if concerned:
        yield Finding(
            WARN,
            "no-end",
            f"Files whose end is missing, {counted(concerned)}",
            "Copy them again: a run takes what is left of each for the whole of its transcript.",
            concerned,
        )


def rates(rows: Sequence[Row], wanted: int) -> Iterator[Finding]:
    """Telephone speech among other speech: a model hears the difference before it hears the words."""
    usable = [r for r in rows if r.clip.rate]
    narrow = [r for r in usable if r.clip.rate < wanted]
    if not narrow:
        return
    slow = ", ".join(f"{rate / 1000:g} kHz" for rate in sorted({r.clip.rate for r in narrow}))
    if len(narrow) == len(usable):
        yield Finding(
            NOTE,
            "narrow-band",
            f"All recordings are sampled at {slow}: nothing above {narrow[0].clip.rate / 2000:g} kHz is "
            f"in them, where the model expects {wanted / 1000:g} kHz",
        )
    else:
        yield Finding(
            WARN,
            "mixed-rates",
            f"Sampled at {slow}, {counted(narrow)}, where the others have {wanted / 1000:g} kHz or more",
            "Fine if dev and test are mixed alike; else train and score the two apart.",
            about(narrow, lambda r: f"{r.clip.rate} Hz"),
        )


def copies(rows: Sequence[Row], groups: Iterable[Sequence[int]]) -> Iterator[Finding]:
    """The same recording more than once: in two splits, with two transcripts, or merely twice. groups:
    indices of `rows`.
    """
    found: dict[str, list[tuple[Row, Row]]] = {
        "leak": [],
        "dev-is-test": [],
        "two-transcripts": [],
        "copy": [],
    }
    for group in groups:
        first, *others = sorted(
            (rows[i] for i in group), key=lambda r: ("train", "dev", "test").index(r.split)
        )
        for other in others:
            found[_kind(first, other)].append((other, first))
    words = {
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
    for kind, pairs in found.items():
        if pairs:
            level, what, advice = words[kind]
            concerned = [
                about([row], f"the same audio as {first.id} of {first.split}")[0] for row, first in pairs
            ]
            yield Finding(level, f"audio-{kind}", f"{what}, {counted(concerned)}", advice, concerned)


def _kind(first: Row, other: Row) -> str:
    if first.split != other.split:
        return "leak" if first.split == "train" else "dev-is-test"
    return "copy" if first.text.split() == other.text.split() else "two-transcripts"


# ------------------------------------------------------------------------------------------------------------
# listening


def to_hear(rows: Sequence[Row], sizes: Sequence[int], how: str, count: int, seed: int) -> list[int]:
    """Indices of the clips to decode: `all`, `none`, or a `sample`, half of it those that are suspiciously
    small for their length.

    Silence, and what is cut short, takes up little room in a compressed file.
    """
    usable = [i for i, r in enumerate(rows) if not r.clip.reason]
    if how != "sample" or len(usable) <= count:
        return [] if how == "none" else usable
    density = {
        i: sizes[i] / rows[i].clip.seconds / rows[i].clip.channels
        for i in usable
        if rows[i].utterance.audio.end is None
    }
    usual: dict[Any, list[float]] = defaultdict(list)
    for i, one in density.items():
        usual[rows[i].clip.format, rows[i].clip.rate].append(one)
    typical = {kind: median(ones) for kind, ones in usual.items()}
    ratio = {i: one / typical[rows[i].clip.format, rows[i].clip.rate] for i, one in density.items()}
    small = sorted((i for i, one in ratio.items() if one < 0.5), key=ratio.__getitem__)[: count // 2]
    others = np.array(sorted(set(usable) - set(small)))
    drawn = np.random.default_rng([seed, 5]).choice(others, size=count - len(small), replace=False)
    return sorted({*small, *(int(i) for i in drawn)})


def hear(audio: Audio) -> Sound:
    """Decode a clip and measure it."""
    clip = read_clip(audio)
    if clip.samples is None or not len(clip.samples):
        return Sound(clip.reason or "empty: the file holds no audio")
    samples = clip.samples
    mono = samples.mean(axis=1)
    loudest = float(np.sqrt(np.square(samples).mean(axis=0)).max())
    together = float(np.sqrt(np.square(mono).mean()))
    decibels = [20 * float(np.log10(max(x, 1e-9))) for x in (np.abs(samples).max(), together)]
    clipped = float((np.abs(samples) >= FULL_SCALE).mean(axis=0).max())
    dead = decibels[0] >= SILENT > 20 * float(np.log10(max(np.abs(samples).max(axis=0).min(), 1e-9)))
    return Sound("", decibels[0], decibels[1], clipped, float(mono.mean()), together < 0.1 * loudest, dead)


def heard(rows: Sequence[Row], sounds: Sequence[Sound]) -> Iterator[Finding]:
    """Faults of the clips that were decoded; those that could not be are `broken`'s."""
    pairs = [(r, s) for r, s in zip(rows, sounds, strict=True) if not s.reason]
    tests: list[tuple[str, str, str, str, Callable[[Sound], bool], Callable[[Sound], str]]] = [
        (
            FAIL,
            "silent",
            "Silent",
            "Drop those rows, or find the recordings that belong to their transcripts.",
            lambda s: s.peak < SILENT,
            lambda s: f"peak {s.peak:.0f} dB",
        ),
        (
            WARN,
            "channels-cancel",
            "Channels that cancel each other when they are mixed",
            "Keep one channel of those files, or turn one's sign.",
            lambda s: s.cancels,
            lambda s: f"mean {s.level:.0f} dB beside peak {s.peak:.0f} dB",
        ),
        (
            WARN,
            "dead-channel",
            "One channel silent beside another",
            "Keep the other alone: mixed with silence it is half as loud.",
            lambda s: s.dead,
            lambda s: f"level {s.level:.0f} dB once mixed",
        ),
        (
            WARN,
            "near-silent",
            f"Nearly silent, under {FAINT:.0f} dB",
            "Listen to them: is there speech?",
            lambda s: s.level < FAINT,
            lambda s: f"level {s.level:.0f} dB",
        ),
        (
            WARN,
            "low-level",
            f"Very quiet, under {LOW:.0f} dB",
            "Listen to them; a model that normalises its input bears it.",
            lambda s: s.level < LOW,
            lambda s: f"level {s.level:.0f} dB",
        ),
        (
            WARN,
            "clipped",
            f"Clipped, more than {100 * CLIPPED:g} % of the samples at full scale",
            "Take the original recordings, if they are not clipped too.",
            lambda s: s.clipped > CLIPPED,
            lambda s: f"{100 * s.clipped:.2f} % of the samples at full scale",
        ),
        (
            WARN,
            "dc-offset",
            "DC offset, samples that do not swing about zero",
            "Subtract each file's mean, or filter below 20 Hz.",
            lambda s: abs(s.offset) > OFFSET,
            lambda s: f"offset {s.offset:+.3f} of full scale",
        ),
    ]
    told: set[int] = set()
    for level, fault, what, advice, is_so, why in tests:
        found = [
            (r, s)
            for r, s in pairs
            if is_so(s) and (fault == "clipped" or fault == "dc-offset" or id(r) not in told)
        ]
        told |= {id(r) for r, _ in found}
        if found:
            concerned = [about([r], why(s))[0] for r, s in found]
            yield Finding(
                level, fault, f"{what}, {counted(concerned)} of the {len(sounds):,} heard", advice, concerned
            )


def formats(rows: Sequence[Row]) -> Counter[str]:
    """How many clips of each format."""
    channels = {1: "mono", 2: "stereo"}
    return Counter(
        f"{c.format} {c.rate / 1000:g} kHz {channels.get(c.channels, f'{c.channels} channels')}"
        for c in (r.clip for r in rows)
        if c.rate
    )
