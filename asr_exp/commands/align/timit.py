"""Compares alignments with TIMIT's own times (.WRD and .PHN files)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from asr_exp.core.errors import UserError
from asr_exp.data.phones import fold
from asr_exp.decoding.alignment import Word

RATE = 16_000  # samples per second: TIMIT counts its times in samples
TOLERANCES = (20, 50, 100)  # milliseconds
SILENCES = ("h#", "pau", "epi")  # phones that are not compared

TimedLabel = tuple[str, float, float]  # a word or phone, its start and end in seconds


@dataclass(frozen=True)
class BoundaryPair:
    """A word or phone as it was aligned, and its start and end by the corpus, in seconds."""

    aligned: Word
    start: float
    end: float


class TimitTimes:
    """Collects alignments with the times in the .WRD and .PHN files beside their recordings.

    files: how many of these files were compared.
    """

    def __init__(self) -> None:
        self.files = 0
        self._pairs: dict[str, list[BoundaryPair]] = {"words": [], "phones": []}
        self._totals = {"words": 0, "phones": 0}

    def add(self, audio: str, words: Sequence[Word], phones: Sequence[Word], inventory: str | None) -> None:
        """Compare the alignment of a recording with the .WRD and .PHN beside it, where they exist.

        audio: path of the recording. inventory: that of the phones; None where they cannot be compared.
        Raises UserError where such a file is not in TIMIT's format.
        """
        if words and (path := beside(audio, ".wrd")):
            self._add("words", words, read_times(path), letters)
        if phones and inventory and (path := beside(audio, ".phn")):
            times = [
                (label, start, end)
                for label, start, end in read_times(path)
                if label not in SILENCES and fold(label, "timit61", inventory)
            ]
            self._add("phones", phones, times, lambda phone: fold(phone, "timit61", inventory))

    def _add(
        self, tier: str, aligned: Sequence[Word], times: Sequence[TimedLabel], label: Callable[[str], str]
    ) -> None:
        self._pairs[tier] += pairs(aligned, times, label)
        self._totals[tier] += len(times)
        self.files += 1

    def summary(self) -> dict[str, Any] | None:
        """For each tier, how many of the corpus's labels are paired, and `distances`; None where no file was
        compared.
        """
        tiers = {
            tier: {"paired": len(some), "of": self._totals[tier], **distances(some)}
            for tier, some in self._pairs.items()
            if some
        }
        return tiers or None


def beside(audio: str | Path, ending: str) -> Path | None:
    """The file beside a recording with the same name and another ending, in capitals or not; None where there
    is none.

    SX9.WAV has SX9.WRD, as has SX9.WAV.wav: some copies of TIMIT have both endings.
    """
    path = Path(audio)
    stems = {
        path.with_suffix(""),
        path.with_suffix("").with_suffix("") if path.stem.lower().endswith(".wav") else path.with_suffix(""),
    }
    names = (Path(f"{stem}{case}") for stem in sorted(stems) for case in (ending.upper(), ending.lower()))
    return next((name for name in names if name.is_file()), None)


def read_times(path: Path) -> list[TimedLabel]:
    """The labels of a .WRD or .PHN file, with times in seconds. Raises UserError for a line of another
    format.
    """
    times = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            start, end, label = line.split(maxsplit=2)
            times.append((label.strip(), int(start) / RATE, int(end) / RATE))
        except ValueError:
            if line.strip():
                raise UserError(
                    f"Line {number} of {path} is not START END LABEL, with times in samples; it is no file of"
                    " TIMIT."
                ) from None
    return times


def pairs(
    aligned: Sequence[Word], times: Sequence[TimedLabel], label: Callable[[str], str]
) -> list[BoundaryPair]:
    """Pair aligned words with the corpus's, where both have the same labels in the same order.

    label: makes labels of words that can be compared, such as `letters`.
    """
    ours, theirs = [label(word.text) for word in aligned], [label(text) for text, _, _ in times]
    blocks = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    return [
        BoundaryPair(aligned[block.a + i], *times[block.b + i][1:])
        for block in blocks
        for i in range(block.size)
    ]


def letters(word: str) -> str:
    """The letters and digits of a word, without case: 'Year.' and 'year' are the same."""
    return "".join(character for character in word.casefold() if character.isalnum())


def distances(boundaries: Sequence[BoundaryPair]) -> dict[str, dict[str, float]]:
    """Statistics of the errors of starts and ends, in milliseconds; an aligned boundary later than the
    corpus's has a positive error.

    offset_ms is the median error; without_offset_ms is the mean absolute error after the offset is
    subtracted.
    """
    starts = np.array([pair.aligned.start - pair.start for pair in boundaries])
    ends = np.array([pair.aligned.end - pair.end for pair in boundaries])
    return {"start": _distance(1000 * starts), "end": _distance(1000 * ends)}


def _distance(errors: np.ndarray) -> dict[str, float]:
    absolute, offset = np.abs(errors), float(np.median(errors))
    within = {f"within_{limit}_ms": round(float((absolute <= limit).mean()), 4) for limit in TOLERANCES}
    return {
        "mean_absolute_ms": round(float(absolute.mean()), 2),
        "median_absolute_ms": round(float(np.median(absolute)), 2),
        **within,
        "offset_ms": round(offset, 2),
        "without_offset_ms": round(float(np.abs(errors - offset).mean()), 2),
    }


def table(summary: dict[str, Any]) -> list[str]:
    """The summary as lines for the terminal, of at most 80 columns."""
    lines = []
    for tier, errors in summary.items():
        lines.append(f"against TIMIT's own times: {errors['paired']:,} of {errors['of']:,} {tier}")
        lines.append("          mean |error|   median    within 20, 50, 100 ms    offset (without it)")
        for edge in ("start", "end"):
            one = errors[edge]
            within = ", ".join(f"{100 * one[f'within_{limit}_ms']:.0f} %" for limit in TOLERANCES)
            lines.append(
                f"  {edge:<6}{one['mean_absolute_ms']:9.1f} ms {one['median_absolute_ms']:8.1f} ms   "
                f" {within:<21}{one['offset_ms']:+8.1f} ms ({one['without_offset_ms']:.1f} ms)"
            )
    return lines
