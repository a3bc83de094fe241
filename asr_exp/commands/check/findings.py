"""Findings of a check: what is wrong, how bad it is, which utterances are concerned and what to do."""

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from asr_exp.data.audio import Clip
from asr_exp.data.corpora.base import Utterance
from asr_exp.data.vocabulary import TOLERATED

FAIL = "FAIL"
WARN = "WARN"
NOTE = "NOTE"
WIDTH = 80  # columns of a line on the terminal


@dataclass(frozen=True)
class CheckedUtterance:
    """An utterance that is checked. text: its transcript after the text rules. clip: the header of its
    recording.
    """

    split: str
    utterance: Utterance
    text: str
    clip: Clip

    @property
    def id(self) -> str:
        return self.utterance.id


class Concern(NamedTuple):
    """An utterance that a finding concerns, and the reason: a line of check.jsonl."""

    split: str
    id: str
    file: str
    reason: str


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or worth knowing.

    level: FAIL would hurt the run, WARN may hurt it, NOTE does not. fault: a short name for check.jsonl.
    text: what is wrong. advice: what to do about it.
    """

    level: str
    fault: str
    text: str
    advice: str = ""
    concerns: Sequence[Concern] = field(default=(), repr=False)

    def lines(self) -> list[str]:
        """The finding as lines for a terminal, of at most `WIDTH` columns."""
        ids = f": {_ids(self.concerns)}" if self.concerns else "."
        text = textwrap.wrap(
            self.text + ids, WIDTH, initial_indent=f"  {self.level}  ", subsequent_indent=" " * 8
        )
        return text + textwrap.wrap(
            self.advice,
            WIDTH,
            initial_indent=" " * 8 + "-> ",
            subsequent_indent=" " * 11,
            break_on_hyphens=False,
        )

    def document(self) -> dict[str, Any]:
        """The finding as --json has it; check.jsonl has the utterances."""
        return {
            "level": self.level,
            "fault": self.fault,
            "text": self.text,
            "advice": self.advice,
            "utterances": len(self.concerns),
        }


def concerns(
    utterances: Iterable[CheckedUtterance], reason: str | Callable[[CheckedUtterance], str]
) -> list[Concern]:
    """The same reason for each utterance, or the one that `reason` returns for it."""
    return [
        Concern(
            one.split, one.id, str(one.utterance.audio), reason if isinstance(reason, str) else reason(one)
        )
        for one in utterances
    ]


def exclusion_level(excluded: Sequence[CheckedUtterance], utterances: Sequence[CheckedUtterance]) -> str:
    """How bad it is that a run leaves these utterances out: FAIL for any of dev or test, whose score would
    not cover them, and for more than `TOLERATED` of train; else WARN.
    """
    sizes = Counter(one.split for one in utterances)
    losses = Counter(one.split for one in excluded)
    too_many = any(n > (TOLERATED * sizes[split] if split == "train" else 0) for split, n in losses.items())
    return FAIL if too_many else WARN


def counted(utterances: Sequence[Concern] | Sequence[CheckedUtterance]) -> str:
    """'3 utterances (train 2, test 1)'."""
    splits = Counter(one.split for one in utterances)
    by_split = ", ".join(f"{split} {n:,}" for split, n in splits.items())
    return f"{len(utterances):,} utterance{'s' * (len(utterances) != 1)} ({by_split})"


def _ids(utterances: Sequence[Concern], shown: int = 4) -> str:
    """The first few ids; of a long id, its end."""
    ids = [one.id if len(one.id) <= 40 else f"...{one.id[-37:]}" for one in utterances[:shown]]
    return ", ".join(ids) + (f" and {len(utterances) - shown:,} more." if len(utterances) > shown else ".")
