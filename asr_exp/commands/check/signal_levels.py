"""Findings about the signal of recordings, which have to be decoded: silence, clipping, channels that cancel
each other.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from asr_exp.commands.check.findings import FAIL, WARN, CheckedUtterance, Finding, concerns, counted
from asr_exp.data.audio import Audio, read_clip

FULL_SCALE = 0.999
MAX_CLIPPED = 0.001  # share of samples at full scale; a normalised recording has a handful
SILENT_PEAK = -80.0  # dB relative to full scale, as are the next two
FAINT_LEVEL = -60.0
LOW_LEVEL = -50.0
MAX_OFFSET = 0.02  # relative to full scale
CANCELLED = 0.1  # level of the mean of all channels, relative to that of the loudest channel


@dataclass(frozen=True)
class SignalLevels:
    """Measurements of a decoded clip.

    reason: why it cannot be decoded, '' where it can. peak: of all channels, in dB relative to full scale.
    level: root mean square of the channels' mean, in the same dB. clipped: share of samples at full scale, in
    the worst channel. offset: mean sample, relative to full scale. channels_cancel: whether the channels are
    loud and their mean is not. dead_channel: whether one channel is silent and another is not.
    """

    reason: str
    peak: float = 0.0
    level: float = 0.0
    clipped: float = 0.0
    offset: float = 0.0
    channels_cancel: bool = False
    dead_channel: bool = False


@dataclass(frozen=True)
class _Test:
    """A test of a clip's levels. reason: of a clip that fails it. always: whether it also applies to clips
    that failed a test before it.
    """

    level: str
    fault: str
    text: str
    advice: str
    fails: Callable[[SignalLevels], bool]
    reason: Callable[[SignalLevels], str]
    always: bool = False


# The order matters: a clip that fails a test is not tested further, so that a silent one is not called quiet.
_TESTS = (
    _Test(
        FAIL,
        "silent",
        "Silent",
        "Drop those rows, or find the recordings that belong to their transcripts.",
        lambda s: s.peak < SILENT_PEAK,
        lambda s: f"peak {s.peak:.0f} dB",
    ),
    _Test(
        WARN,
        "channels-cancel",
        "Channels that cancel each other when they are mixed",
        "Keep one channel of those files, or turn one's sign.",
        lambda s: s.channels_cancel,
        lambda s: f"mean {s.level:.0f} dB beside peak {s.peak:.0f} dB",
    ),
    _Test(
        WARN,
        "dead-channel",
        "One channel silent beside another",
        "Keep the other alone: mixed with silence it is half as loud.",
        lambda s: s.dead_channel,
        lambda s: f"level {s.level:.0f} dB once mixed",
    ),
    _Test(
        WARN,
        "near-silent",
        f"Nearly silent, under {FAINT_LEVEL:.0f} dB",
        "Listen to them: is there speech?",
        lambda s: s.level < FAINT_LEVEL,
        lambda s: f"level {s.level:.0f} dB",
    ),
    _Test(
        WARN,
        "low-level",
        f"Very quiet, under {LOW_LEVEL:.0f} dB",
        "Listen to them; a model that normalises its input bears it.",
        lambda s: s.level < LOW_LEVEL,
        lambda s: f"level {s.level:.0f} dB",
    ),
    _Test(
        WARN,
        "clipped",
        f"Clipped, more than {100 * MAX_CLIPPED:g} % of the samples at full scale",
        "Take the original recordings, if they are not clipped too.",
        lambda s: s.clipped > MAX_CLIPPED,
        lambda s: f"{100 * s.clipped:.2f} % of the samples at full scale",
        always=True,
    ),
    _Test(
        WARN,
        "dc-offset",
        "DC offset, samples that do not swing about zero",
        "Subtract each file's mean, or filter below 20 Hz.",
        lambda s: abs(s.offset) > MAX_OFFSET,
        lambda s: f"offset {s.offset:+.3f} of full scale",
        always=True,
    ),
)


def choose_clips(
    utterances: Sequence[CheckedUtterance], sizes: Sequence[int], mode: str, count: int, seed: int
) -> list[int]:
    """Choose the clips that are decoded.

    Silence takes up little room in a compressed file, so half of a sample are the clips with the fewest bytes
    per second, as far as they have less than half of what is usual for their format; the other half is drawn
    at random.

    Args:
        utterances: all utterances; those whose clip cannot be used are never chosen.
        sizes: the size of each recording's file, in bytes.
        mode: "all", "none" or "sample".
        count: the size of a sample.
        seed: of the random half.

    Returns:
        Indices of `utterances`, ascending.
    """
    usable = [i for i, one in enumerate(utterances) if not one.clip.reason]
    if mode != "sample" or len(usable) <= count:
        return [] if mode == "none" else usable
    bytes_per_second = {
        i: sizes[i] / utterances[i].clip.seconds / utterances[i].clip.channels
        for i in usable
        if utterances[i].utterance.audio.end is None
    }
    by_format: dict[Any, list[float]] = defaultdict(list)
    for i, value in bytes_per_second.items():
        by_format[utterances[i].clip.format, utterances[i].clip.rate].append(value)
    usual = {kind: median(values) for kind, values in by_format.items()}
    ratios = {
        i: value / usual[utterances[i].clip.format, utterances[i].clip.rate]
        for i, value in bytes_per_second.items()
    }
    small = sorted((i for i, ratio in ratios.items() if ratio < 0.5), key=ratios.__getitem__)[: count // 2]
    others = np.array(sorted(set(usable) - set(small)))
    drawn = np.random.default_rng([seed, 5]).choice(others, size=count - len(small), replace=False)
    return sorted({*small, *(int(i) for i in drawn)})


def measure_levels(audio: Audio) -> SignalLevels:
    """Decode a clip and measure its levels."""
    clip = read_clip(audio)
    if clip.samples is None or not len(clip.samples):
        return SignalLevels(clip.reason or "empty: the file holds no audio")
    samples = clip.samples  # (frames, channels)
    mono = samples.mean(axis=1)
    peaks = np.abs(samples).max(axis=0)
    loudest_rms = float(np.sqrt(np.square(samples).mean(axis=0)).max())
    mono_rms = float(np.sqrt(np.square(mono).mean()))
    peak = _decibels(peaks.max())
    return SignalLevels(
        reason="",
        peak=peak,
        level=_decibels(mono_rms),
        clipped=float((np.abs(samples) >= FULL_SCALE).mean(axis=0).max()),
        offset=float(mono.mean()),
        channels_cancel=mono_rms < CANCELLED * loudest_rms,
        dead_channel=peak >= SILENT_PEAK > _decibels(peaks.min()),
    )


def _decibels(amplitude: float) -> float:
    return 20 * float(np.log10(max(amplitude, 1e-9)))


def level_findings(
    utterances: Sequence[CheckedUtterance], levels: Sequence[SignalLevels]
) -> Iterator[Finding]:
    """Faults of the clips that were decoded. Those that could not be decoded are left to
    `recordings.unusable`.
    """
    measured = [(i, s) for i, s in enumerate(levels) if not s.reason]
    failed: set[int] = set()
    for test in _TESTS:
        failing = [(i, s) for i, s in measured if test.fails(s) and (test.always or i not in failed)]
        failed |= {i for i, _ in failing}
        if failing:
            concerned = [concerns([utterances[i]], test.reason(s))[0] for i, s in failing]
            text = f"{test.text}, {counted(concerned)} of the {len(levels):,} decoded"
            yield Finding(test.level, test.fault, text, test.advice, concerned)
