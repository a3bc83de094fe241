"""Which errors are made, and where: operations of an alignment, confusions, and rates of groups of
utterances.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from rapidfuzz.distance import Levenshtein

from asr_exp.scoring.error_rates import clustered_rate

LETTERS = {"equal": "=", "replace": "S", "delete": "D", "insert": "I"}
MOST_GROUPS = 6


def units(text: str, unit: str) -> list[str]:
    """A text as the units its errors are counted in: words or phones, or `character`s, spaces included."""
    return list(text.strip()) if unit == "character" else text.split()


def operations(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> str:
    """A letter for each step of the alignment that `scoring.count_errors` counts: = S D I (equal,
    substitution, deletion, insertion).
    """
    codes = Levenshtein.opcodes(reference, hypothesis)
    return "".join(
        LETTERS[one.tag] * max(one.src_end - one.src_start, one.dest_end - one.dest_start) for one in codes
    )


@dataclass
class Confusions:
    """How often a unit was said in place of another, left out, put in; `spoken`: how often each stands in the
    references.
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
    """Some utterances, the units of their references, and the rate of each run with its 95 % interval."""

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
    """The groups in the order given. names, lengths, clusters: (utterances,); errors: (runs, utterances).

    The intervals rest on the clusters of a group: speakers, or utterances where it is of one speaker.
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
    """The bin of each value, and the bins in their order: about as many values in each, their edges
    rounded.
    """
    if not len(values):
        return [], []
    edges = np.unique(np.round(np.quantile(values, np.linspace(0, 1, MOST_GROUPS + 1)), decimals))
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
