"""What an inspection finds: faults, how bad each is, whom it concerns and what to do about it; and how that
reads.
"""

import json
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from asr_exp.data.audio import Clip
from asr_exp.data.corpora.base import Utterance
from asr_exp.data.vocabulary import TOLERATED

FAIL = "FAIL"
WARN = "WARN"
NOTE = "NOTE"
WIDTH = 80


@dataclass(frozen=True)
class Row:
    """An utterance as it is inspected. text: after the text rules; clip: what the header of its file says."""

    split: str
    utterance: Utterance
    text: str
    clip: Clip

    @property
    def id(self) -> str:
        return self.utterance.id


@dataclass(frozen=True)
class Finding:
    """FAIL would hurt the run, WARN may, NOTE is to be known. rows: (split, id, file, reason) of each
    utterance concerned.
    """

    level: str
    fault: str
    text: str
    advice: str = ""
    rows: Sequence[tuple[str, str, str, str]] = field(default=(), repr=False)

    def lines(self) -> list[str]:
        """The finding for a terminal, within WIDTH columns."""
        named = f": {_names(self.rows)}" if self.rows else "."
        text = textwrap.wrap(
            self.text + named, WIDTH, initial_indent=f"  {self.level}  ", subsequent_indent=" " * 8
        )
        return text + textwrap.wrap(
            self.advice,
            WIDTH,
            initial_indent=" " * 8 + "-> ",
            subsequent_indent=" " * 11,
            break_on_hyphens=False,
        )


def about(rows: Iterable[Row], reason: str | Callable[[Row], str]) -> list[tuple[str, str, str, str]]:
    """The rows of a finding."""
    return [
        (r.split, r.id, str(r.utterance.audio), reason if isinstance(reason, str) else reason(r))
        for r in rows
    ]


def lost(gone: Sequence[Row], everything: Sequence[Row]) -> str:
    """How bad it is that these utterances are left out: they lower the coverage of a score, or take from the
    training data.
    """
    sizes, losses = Counter(r.split for r in everything), Counter(r.split for r in gone)
    bad = any(n > (TOLERATED * sizes[split] if split == "train" else 0) for split, n in losses.items())
    return FAIL if bad else WARN


def counted(rows: Sequence[tuple[str, str, str, str]] | Sequence[Row]) -> str:
    """'3 utterances (train 2, test 1)'."""
    splits = Counter(r.split if isinstance(r, Row) else r[0] for r in rows)
    where = ", ".join(f"{split} {n:,}" for split, n in splits.items())
    return f"{len(rows):,} utterance{'s' * (len(rows) != 1)} ({where})"


def quarantine(findings: Iterable[Finding]) -> str:
    """JSON Lines: one for each utterance and fault that is no mere note."""
    names = ("level", "fault", "split", "id", "file", "reason")
    rows = ((f.level, f.fault, *row) for f in findings if f.level != NOTE for row in f.rows)
    return "".join(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)


def _names(rows: Sequence[tuple[str, str, str, str]], shown: int = 4) -> str:
    """The first few ids, long ones by their ends."""
    ids = [id if len(id) <= 40 else f"...{id[-37:]}" for _, id, *_ in rows[:shown]]
    return ", ".join(ids) + (f" and {len(rows) - shown:,} more." if len(rows) > shown else ".")


def histogram(values: Sequence[float], unit: str, bins: int = 10, bar: int = 40) -> list[str]:
    """A text histogram: equal bins of a round width from zero, a line each."""
    if not values:
        return []
    steps = [m * 10.0**e for e in range(-2, 4) for m in (1, 2, 5)]
    width = next((s for s in steps if s * bins >= max(values)), max(values) / bins)
    counts = Counter(min(int(v / width), bins - 1) for v in values)
    most = max(counts.values())
    last = max(counts)
    bars = ["#" * -(-counts[i] * bar // most) for i in range(last + 1)]
    return [
        f"{i * width:>7g} - {(i + 1) * width:<5g} {unit} {one:<{bar}} {counts[i]:>9,}"
        for i, one in enumerate(bars)
    ]


def common(counts: Mapping[str, int], shown: int = 4) -> str:
    """'FLAC PCM_16 1,200, MP3 4'."""
    ordered = Counter(counts).most_common()
    more = f" and {len(ordered) - shown} more" if len(ordered) > shown else ""
    return ", ".join(f"{name} {n:,}" for name, n in ordered[:shown]) + more
