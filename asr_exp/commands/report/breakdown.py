"""Which errors a recogniser makes, and in which utterances: operations of an alignment, confusions, and error
rates of groups of utterances.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from rapidfuzz.distance import Levenshtein

from asr_exp.scoring.error_rates import clustered_rate

LETTERS = {"equal": "=", "replace": "S", "delete": "D", "insert": "I"}
MAX_GROUPS = 6


def units(text: str, unit: str) -> list[str]:
    """A text as the units that errors are counted in: words or phones, or (`character`) its characters,
    spaces included.
    """
    return list(text.strip()) if unit == "character" else text.split()


def operations(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> str:
    """The alignment that `scoring.count_errors` counts, a letter for each step: = S D I (equal, substitution,
    deletion, insertion).
    """
    codes = Levenshtein.opcodes(reference, hypothesis)
    return "".join(
        LETTERS[one.tag] * max(one.src_end - one.src_start, one.dest_end - one.dest_start) for one in codes
    )


@dataclass
class Confusions:
    """How often each unit was substituted by another, deleted and inserted, and (`spoken`) how often it
    stands in the references.
    """

    substitutions: Counter[tuple[str, str]] = field(default_factory=Counter)
    deletions: Counter[str] = field(default_factory=Counter)
    insertions: Counter[str] = field(default_factory=Counter)
    spoken: Counter[str] = field(default_factory=Counter)

    def add(self, reference: Sequence[str], hypothesis: Sequence[str], steps: str) -> None:
        """Count the errors of an utterance, whose `operations` are `steps`."""
        self.spoken.update(reference)
        i = j = 0
        for step in steps:
            if step == "S":
                self.substitutions[reference[i], hypothesis[j]] += 1
            elif step == "D":
                self.deletions[reference[i]] += 1
            elif step == "I":
                self.insertions[hypothesis[j]] += 1
            i, j = i + (step != "I"), j + (step != "D")


# ------------------------------------------------------------------------------------------------------------
# groups of utterances


@dataclass(frozen=True)
class GroupScore:
    """A group of utterances: their number, the units of their references, and each run's error rate with its
    95 % interval.
    """

    name: str
    utterances: int
    units: int
    rates: list[float | None]
    intervals: list[tuple[float, float] | None]


def grouped(
    names: Sequence[str],
    errors: np.ndarray,
    lengths: np.ndarray,
    clusters: Sequence[Hashable],
    order: Sequence[str],
) -> list[GroupScore]:
    """The error rates of groups of utterances.

        Args: names: (utterances,) the group of each utterance. errors: (runs, utterances) edits of each
        utterance. lengths: (utterances,) units of the references. clusters: (utterances,) the speaker of each
        utterance; the intervals of a group of one speaker take each utterance as a cluster. order: the groups
        in the order of the result.

    Returns:
        The groups that have an utterance.
    """
    rows: dict[str, list[int]] = {name: [] for name in order}
    for row, name in enumerate(names):
        rows[name].append(row)
    return [_group(name, rows[name], errors, lengths, clusters) for name in order if rows[name]]


def _group(
    name: str, rows: list[int], errors: np.ndarray, lengths: np.ndarray, clusters: Sequence[Hashable]
) -> GroupScore:
    keys: list[Hashable] = [clusters[row] for row in rows]
    keys = keys if len(set(keys)) > 1 else list(rows)
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    places = [number[key] for key in keys]
    long = np.bincount(places, weights=lengths[rows])
    estimates = [
        clustered_rate(zip(np.bincount(places, weights=one[rows]), long, strict=True)) for one in errors
    ]  # type: ignore[arg-type]
    return GroupScore(
        name,
        len(rows),
        int(lengths[rows].sum()),
        [one.value if one else None for one in estimates],
        [one.interval if one else None for one in estimates],
    )


def binned(values: np.ndarray, decimals: int) -> tuple[list[str], list[str]]:
    """The name of each value's bin, and the names of all bins in order. The bins hold about as many values
    each; their edges are rounded to so many decimals.
    """
    if not len(values):
        return [], []
    edges = np.unique(np.round(np.quantile(values, np.linspace(0, 1, MAX_GROUPS + 1)), decimals))
    edges[0], edges[-1] = (
        np.floor(values.min() * 10**decimals) / 10**decimals,
        np.ceil(values.max() * 10**decimals) / 10**decimals,
    )
    places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(0, len(edges) - 2))
    whole = decimals == 0
    names = []
    for low, high, last in zip(edges, edges[1:], [False] * (len(edges) - 2) + [True], strict=False):
        high = high - 1 if whole and not last else high
        names.append(f"{low:.{decimals}f}" if low == high else f"{low:.{decimals}f} to {high:.{decimals}f}")
    names = names or [f"{edges[0]:.{decimals}f}"]
    return [names[place] for place in places], names
