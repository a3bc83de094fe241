"""The two groups of runs that `compare` compares, read from their folders, on the same utterances. Runs that
were not scored alike are refused.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from omegaconf import ListConfig

from asr_exp.core.errors import UserError
from asr_exp.runs.results import read_hypotheses, read_result

# What the two sides may differ in; the rest of a protocol has to be equal.
OF_THE_SYSTEM = ("decoder", "padding", "precision")
OF_THE_SPLIT = ("split", "ids", "coverage")  # in result.json these are of the test split


@dataclass(frozen=True)
class Run:
    """A run: its protocol, and the lines of its hypotheses by utterance id. name: as the user gave it,
    a=FOLDER or b=FOLDER; trained_on: a dataset with its language, '' where that is not known.
    """

    name: str
    folder: Path
    seed: int
    protocol: dict[str, Any]
    lines: dict[str, dict[str, Any]]
    trained_on: str = ""


class Counts(NamedTuple):
    """Errors of both sides, (runs, utterances) each, and the lengths of the references in words, phones or
    characters, (utterances,).
    """

    a: np.ndarray
    b: np.ndarray
    lengths: np.ndarray

    @property
    def difference(self) -> np.ndarray:
        """The mean errors of A minus those of B, (utterances,)."""
        return (self.a.mean(axis=0) - self.b.mean(axis=0)).round(9)


@dataclass(frozen=True)
class PairedRuns:
    """Two groups of runs on the same utterances.

    ids: of the utterances. counts: by metric, that of the protocol first. clusters: the number of each
    utterance's speaker, or its own where speakers are not known, (utterances,).
    """

    a: list[Run]
    b: list[Run]
    ids: list[str]
    counts: dict[str, Counts]
    clusters: np.ndarray
    by_speaker: bool

    @property
    def metric(self) -> str:
        """The first metric: wer or per."""
        return next(iter(self.counts))

    @property
    def basis(self) -> str:
        """What the comparison is based on, such as '24 speakers and 3 + 3 seeds'."""
        seeds = f" and {len(self.a)} + {len(self.b)} seeds" if len(self.a) + len(self.b) > 2 else ""
        return counted(int(self.clusters.max()) + 1, "speaker" if self.by_speaker else "utterance") + seeds


def counted(count: int, unit: str) -> str:
    """A number and its unit, as '1 speaker' or '24 speakers'."""
    return f"{count:,} {unit}{'s' * (count != 1)}"


# ------------------------------------------------------------------------------------------------------------
# reading, and refusing


def read_runs(name: str, value: Any, split: str) -> list[Run]:
    """Read the runs of one side, sorted by seed. name: `a` or `b`; value: of that key, a folder or a list.

    Raises UserError where there is no run, or two have the same seed.
    """
    folders = list(value) if isinstance(value, ListConfig) else [] if value is None else [value]
    if not folders:
        raise UserError(
            f"{name} names no run. Write compare RUN RUN, or compare a=[RUN,RUN] b=[RUN,RUN] for several"
            " seeds of each."
        )
    runs = sorted((_run(f"{name}={folder}", folder, split) for folder in folders), key=lambda one: one.seed)
    for first, second in zip(runs, runs[1:], strict=False):
        if first.seed == second.seed:
            raise UserError(
                f"{first.name} and {second.name} both have seed={first.seed}; several runs of one side differ"
                " by their seed."
            )
    return runs


def _run(name: str, value: Any, split: str) -> Run:
    if not isinstance(value, str):
        raise UserError(f"{name} was read as a number; write such a folder as ./FOLDER.")
    folder = Path(value).expanduser()
    result = read_result(folder)
    if result is None:
        raise UserError(
            f"{name} is not the folder of a run with a result: it has no result.json that can be read. Give"
            " the folder that train printed."
        )
    if result.get("status") != "finished" or not {"seed", "protocol"} <= result.keys():
        raise UserError(
            f"{name} has not finished (its status is {result.get('status')}); the command that began it goes"
            " on with it."
        )
    path = folder / f"hypotheses.{split}.jsonl"
    if not path.is_file():
        raise UserError(
            f"{path} is not there. To write it: python -m asr_exp evaluate run={value} split={split}"
        )
    if not (lines := read_hypotheses(path)):
        raise UserError(f"{path} is empty: there is nothing to compare.")
    return Run(name, folder, result["seed"], result["protocol"], lines, _trained_on(folder))


def _trained_on(folder: Path) -> str:
    """The dataset that a run, or the run of an evaluation, was trained on: 'common-voice tr'. '' for a
    checkpoint that was scored as it is, and where it cannot be read.
    """
    full = folder.resolve()
    place = full.parents[1] if full.parent.name == "evaluations" else full
    try:
        config = yaml.load((place / "config.yaml").read_text(encoding="utf-8"), yaml.SafeLoader)
        if config["trainer"]["max_steps"] == 0:
            return ""
        return corpus_name(config["dataset"]["name"], config["dataset"]["language"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return ""


def corpus_name(dataset: str | None, language: str | None) -> str:
    """'common-voice tr': a dataset and its language."""
    return " ".join(filter(None, (dataset, language)))


def pair_up(a: list[Run], b: list[Run], split: str) -> PairedRuns:
    """Pair the runs of both sides utterance by utterance.

    Raises UserError, with every reason, where they were not scored on the same references by the same
    protocol.
    """
    first, others = a[0], [*a[1:], *b]
    alike = [
        *((first, one, OF_THE_SYSTEM) for one in b),
        *((group[0], one, ()) for group in (a, b) for one in group[1:]),
    ]
    unlike = [
        *(_protocol_problem(*each, split) for each in alike),
        *(_reference_problem(first, one) for one in others),
    ]
    if problems := [problem for problem in unlike if problem]:
        raise UserError("\n".join(problems))
    ids, speakers = list(first.lines), [line["speaker"] for line in first.lines.values()]
    named = all([run.lines[id]["speaker"] for id in ids] == speakers for run in others)
    by_speaker = named and len({*speakers} - {None, ""}) > 1
    labels = [speaker if by_speaker and speaker else (id,) for speaker, id in zip(speakers, ids, strict=True)]
    number = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    counts = {
        metric: _counts(a, b, ids, metric)
        for metric in (["per"] if first.protocol["metric"] == "per" else ["wer", "cer"])
    }
    if not all(one.lengths.any() for one in counts.values()):
        raise UserError(
            f"There is not a word in the references of {first.name}, so there is no rate to compare."
        )
    return PairedRuns(a, b, ids, counts, np.array([number[label] for label in labels]), by_speaker)


def _counts(a: list[Run], b: list[Run], ids: list[str], metric: str) -> Counts:
    counts = []
    for one in (*a, *b):
        rows = [one.lines[id]["counts"] for id in ids]
        rows = [row["characters"] for row in rows] if metric == "cer" else rows
        counts.append(
            [
                [row["substitutions"] + row["deletions"] + row["insertions"], row["reference_length"]]
                for row in rows
            ]
        )
    errors, lengths = np.moveaxis(np.array(counts), 2, 0)
    return Counts(errors[: len(a)], errors[len(a) :], lengths[0])


def _protocol_problem(one: Run, other: Run, allowed: Sequence[str], split: str) -> str | None:
    ignored = {"hash", *allowed, *(OF_THE_SPLIT if split != "test" else ())}
    if differ := differing(one.protocol, other.protocol, ignored):
        return (
            f"{one.name} and {other.name} were not measured alike, so their scores do not compare: {differ}."
        )
    return None


def differing(ours: dict[str, Any], theirs: dict[str, Any], ignored: Iterable[str]) -> str:
    """The keys that differ, as 'text: standard against upper; decoder: ...'."""
    differ = [key for key in {**ours, **theirs} if key not in ignored and ours.get(key) != theirs.get(key)]
    return "; ".join(f"{key}: {ours.get(key)} against {theirs.get(key)}" for key in differ)


def _reference_problem(one: Run, other: Run) -> str | None:
    alone = sorted(one.lines.keys() ^ other.lines.keys())
    unlike = [
        id
        for id in one.lines
        if id in other.lines and one.lines[id]["reference"] != other.lines[id]["reference"]
    ]
    problems = []
    if alone:
        problems.append(
            f"{len(alone):,} utterances are in one of them only, such as {alone[0]} (another split, or audio"
            " left out: see the coverage in result.json, and quarantine.jsonl)"
        )
    if unlike:
        texts = " against ".join(repr(run.lines[unlike[0]]["reference"]) for run in (one, other))
        problems.append(
            f"{len(unlike):,} of {len(one.lines):,} references differ, such as that of {unlike[0]}: {texts}"
            " (other text rules, or other data)"
        )
    return (
        f"{one.name} and {other.name} were not scored on the same references: {'; '.join(problems)}."
        if problems
        else None
    )
