"""TIMIT's own times (.WRD and .PHN), and how far alignments are from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from asr_exp.core.errors import UserError
from asr_exp.data.phones import fold
from asr_exp.decoding.alignment import Word

RATE = 16_000  # the times of TIMIT are samples at this rate
WITHIN = (20, 50, 100)  # milliseconds
SILENCES = ("h#", "pau", "epi")  # where these start and end is nobody's question

Time = tuple[str, float, float]  # a label, its start and end in seconds


@dataclass(frozen=True)
class BoundaryPair:
    """An aligned word or phone, and when the corpus says that it starts and ends, in seconds."""

    aligned: Word
    start: float
    end: float


class TimitTimes:
    """What alignments are held against: the .WRD and .PHN beside their recordings."""

    def __init__(self) -> None:
        self.files = 0
        self._pairs: dict[str, list[BoundaryPair]] = {"words": [], "phones": []}
        self._of = {"words": 0, "phones": 0}

    def add(self, audio: str, words: Sequence[Word], phones: Sequence[Word], inventory: str | None) -> None:
        """Hold an alignment of TIMIT against the times beside `audio`, where there are any. inventory: that
        of its phones.
        """
        if words and (path := beside(audio, ".wrd")):
            self._add("words", words, read_times(path), letters)
        if phones and inventory and (path := beside(audio, ".phn")):
            times = [
                one
                for one in read_times(path)
                if one[0] not in SILENCES and fold(one[0], "timit61", inventory)
            ]
            self._add("phones", phones, times, lambda phone: fold(phone, "timit61", inventory))

    def _add(
        self, tier: str, aligned: Sequence[Word], times: Sequence[Time], label: Callable[[str], str]
    ) -> None:
        self._pairs[tier] += pairs(aligned, times, label)
        self._of[tier] += len(times)
        self.files += 1

    def summary(self) -> dict[str, Any] | None:
        """Of each tier, how much is paired, and how far starts and ends are off; None where there was nothing
        to compare with.
        """
        found = {
            tier: {"paired": len(some), "of": self._of[tier], **distances(some)}
            for tier, some in self._pairs.items()
            if some
        }
        return found or None


def beside(audio: str | Path, ending: str) -> Path | None:
    """The file of the same name with another ending, in either case: SX9.WAV -> SX9.WRD. (SX9.WAV.wav is SX9
    too.)
    """
    path = Path(audio)
    stems = {
        path.with_suffix(""),
        path.with_suffix("").with_suffix("") if path.stem.lower().endswith(".wav") else path.with_suffix(""),
    }
    names = (Path(f"{stem}{case}") for stem in sorted(stems) for case in (ending.upper(), ending.lower()))
    return next((name for name in names if name.is_file()), None)


def read_times(path: Path) -> list[Time]:
    """The lines of a .WRD or .PHN file. Raises UserError for a line that is none."""
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


def pairs(aligned: Sequence[Word], times: Sequence[Time], label: Callable[[str], str]) -> list[BoundaryPair]:
    """What is aligned beside the corpus's times, where both have the same labels in the same order."""
    ours, theirs = [label(word.text) for word in aligned], [label(text) for text, _, _ in times]
    blocks = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    return [
        BoundaryPair(aligned[block.a + i], *times[block.b + i][1:])
        for block in blocks
        for i in range(block.size)
    ]


def letters(word: str) -> str:
    """A word by its letters and digits alone, for comparison: 'Year.' and 'year' are one."""
    return "".join(character for character in word.casefold() if character.isalnum())


def distances(found: Sequence[BoundaryPair]) -> dict[str, dict[str, float]]:
    """How far starts and ends are from the corpus's, in milliseconds; later is positive.

    offset: the median of the signed errors; without_offset: the mean absolute error were that taken away.
    """
    starts = np.array([pair.aligned.start - pair.start for pair in found])
    ends = np.array([pair.aligned.end - pair.end for pair in found])
    return {"start": _distance(1000 * starts), "end": _distance(1000 * ends)}


def _distance(errors: np.ndarray) -> dict[str, float]:
    absolute, offset = np.abs(errors), float(np.median(errors))
    within = {f"within_{limit}_ms": round(float((absolute <= limit).mean()), 4) for limit in WITHIN}
    return {
        "mean_absolute_ms": round(float(absolute.mean()), 2),
        "median_absolute_ms": round(float(np.median(absolute)), 2),
        **within,
        "offset_ms": round(offset, 2),
        "without_offset_ms": round(float(np.abs(errors - offset).mean()), 2),
    }


def table(summary: dict[str, Any]) -> list[str]:
    """The distances as lines of a terminal, within 80 columns."""
    lines = []
    for tier, found in summary.items():
        lines.append(f"against TIMIT's own times: {found['paired']:,} of {found['of']:,} {tier}")
        lines.append("          mean |error|   median    within 20, 50, 100 ms    offset (without it)")
        for edge in ("start", "end"):
            one = found[edge]
            within = ", ".join(f"{100 * one[f'within_{limit}_ms']:.0f} %" for limit in WITHIN)
            lines.append(
                f"  {edge:<6}{one['mean_absolute_ms']:9.1f} ms {one['median_absolute_ms']:8.1f} ms   "
                f" {within:<21}{one['offset_ms']:+8.1f} ms ({one['without_offset_ms']:.1f} ms)"
            )
    return lines
