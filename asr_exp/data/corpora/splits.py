"""What every reader does with its rows: gather the splits that a run names, carve out those that it does not
name, and check the result.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from asr_exp.core.console import counted
from asr_exp.core.errors import UserError
from asr_exp.data.corpora.base import SPLITS, Corpus, Rejected, Utterances, as_list
from asr_exp.data.corpora.carving import carve

Rows = tuple[Utterances, list[Rejected]]
_log = logging.getLogger(__name__)


def gather(
    dataset: Any,
    read: Callable[[str, str], Rows],
    where: str,
    source: str = "local",
    may_be_empty: Collection[str] = (),
    label: Callable[[str], str] = str,
) -> Corpus:
    """Read the subsets that `dataset.train`, `.dev` and `.test` name, as a corpus.

    A dev or test split that names no subset is carved out of train. Where `dataset.only` names a split that
    need not be carved, and out of which none is, it is read alone.

    Args:
        dataset: the section of the config.
        read: (subset, key) -> its rows; `key` is the config key that named the subset, for messages.
        where: what was read, for messages.
        source: `local` or `hub`.
        may_be_empty: splits that are carved out of train too where their subsets have no rows.
        label: (subset) -> its name in a protocol.

    Raises:
        UserError: dataset.train names nothing, or a split has no rows.
    """
    corpus = Corpus(splits={}, source=source)
    unread: set[str] = set()
    for split in sorted(
        SPLITS, key=lambda name: name != dataset.only
    ):  # the one that may be enough comes first
        if dataset.only in corpus.splits and dataset[split] and split not in may_be_empty:
            unread.add(split)
            continue
        parts: list[Utterances] = []
        for subset in as_list(dataset[split]):
            utterances, rejected = read(subset, f"dataset.{split}")
            parts.append(utterances)
            corpus.rejected[split] += rejected
        rows = Utterances.join(parts)
        if rows or (dataset[split] and split not in may_be_empty):
            corpus.splits[split] = rows
            corpus.subsets[split] = [label(subset) for subset in as_list(dataset[split])]
        if dataset.only in ("dev", "test") and dataset.only in corpus.splits:
            break
    return complete(corpus, dataset, where, unread)


def complete(corpus: Corpus, dataset: Any, where: str, unread: Collection[str] = ()) -> Corpus:
    """Make ids unique within each split, and carve a missing dev and test split out of train.

    Nothing is carved where the corpus has the dev or test split that `dataset.only` names. Where it names
    train, that is what training has: without what is carved out of it.

    Args:
        corpus: the splits that were read.
        dataset: the section of the config.
        where: what was read, for messages.
        unread: splits that there are, but which were not read.

    Raises:
        UserError: train is missing, or a split is empty.
    """
    for split, rows in corpus.splits.items():
        if not rows:
            raise UserError(_empty(split, corpus.rejected[split], dataset, where))
        corpus.splits[split] = unique_ids(rows.cleaned())
    fractions = {s: float(dataset[f"{s}_fraction"]) for s in ("dev", "test")}
    missing = {s: share for s, share in fractions.items() if s not in corpus.splits and s not in unread}
    if dataset.only == "train":
        missing = {split: share for split, share in missing.items() if share}
    if dataset.only in corpus.splits and not (dataset.only == "train" and missing):
        return corpus
    if "train" not in corpus.splits:
        split = dataset.only or "train"
        raise UserError(
            f"dataset.{split} has no value; name what to {'score' if dataset.only else 'train on'} in"
            f" {where}: dataset.{split}=..."
        )
    if missing:
        _carve_out(corpus, missing, dataset)
    if not unread:
        _warn_of_overlap(corpus.splits)
    return corpus


def unique_ids(rows: Utterances) -> Utterances:
    """Add `#2`, `#3` ... to an id that an earlier row has."""
    if len(np.unique(_marks(rows.ids()))) == len(rows):
        return rows
    seen: dict[str, int] = {}
    unique = Utterances()
    for row in rows:
        count = seen[row.id] = seen.get(row.id, 0) + 1
        unique.append(row if count == 1 else replace(row, id=f"{row.id}#{count}"))
    return unique


def _carve_out(corpus: Corpus, shares: dict[str, float], dataset: Any) -> None:
    """Carve the splits of `shares` out of the train split of a corpus, and log it."""
    for split, share in shares.items():
        if share == 0:
            raise UserError(
                f"dataset.{split} names nothing, and dataset.{split}_fraction=0 carves nothing out of train;"
                " give one of them."
            )
    rows, names = corpus.splits["train"], ",".join(corpus.subsets["train"])
    seed = dataset.split_seed
    parts, unit = carve(rows, shares, seed, dataset.max_eval_seconds)
    if not parts["train"]:
        raise UserError(
            f"dataset.train has {counted(len(rows), 'utterance')}, too few to carve {' and '.join(shares)}"
            f" out of it.{_rejections(corpus.rejected['train'])} Give"
            f" {' and '.join(f'dataset.{s}=...' for s in shares)}"
        )
    total = len(set(rows.speakers())) if unit == "speakers" else len(rows)
    for split in shares:
        count = len(set(parts[split].speakers())) if unit == "speakers" else len(parts[split])
        corpus.subsets[split] = [f"{names}[{count} of {total} {unit}, seed {seed}]"]
        _log.warning(
            "There is no %s split: it is %d of the %d %s of train (%s, dataset.split_seed=%d)",
            split,
            count,
            total,
            unit,
            counted(len(parts[split]), "utterance"),
            seed,
        )
    corpus.subsets["train"] = [f"{names}[less {', '.join(shares)}]"]
    corpus.splits |= parts


def _empty(split: str, rejected: list[Rejected], dataset: Any, where: str) -> str:
    subsets = ", ".join(as_list(dataset[split]))
    return (
        f"dataset.{split}={subsets} has no utterances in {where}.{_rejections(rejected)} Give dataset.{split}"
        " something that has."
    )


def _rejections(rejected: list[Rejected]) -> str:
    if not rejected:
        return ""
    return (
        f" {counted(len(rejected), 'row')} cannot be used; the first, {rejected[0].id}:"
        f" {rejected[0].reason.rstrip('.')}."
    )


def _warn_of_overlap(splits: dict[str, Utterances]) -> None:
    """Warn of ids and speakers that two splits share: a score would be too good."""
    marks = {split: _marks(rows.ids()) for split, rows in splits.items()}
    for a, b in (("train", "test"), ("dev", "test"), ("train", "dev")):
        if common := len(np.intersect1d(marks[a], marks[b])):
            consequence = (
                "a checkpoint chosen by dev (trainer.select=best) flatters itself"
                if a == "dev"
                else "that score flatters"
            )
            _log.warning(
                "%d of the %d utterances of %s are also in %s: %s", common, len(splits[b]), b, a, consequence
            )
    speakers = {split: set(rows.speakers()) - {None, ""} for split, rows in splits.items()}
    if common := len(speakers["train"] & speakers["test"]):
        _log.warning(
            "%d of the %d speakers of test are also in train: the score is not one for unheard speakers",
            common,
            len(speakers["test"]),
        )


def _marks(ids: Iterable[str]) -> np.ndarray:
    """A hash of 64 bits for each id: a million take eight megabytes, where a set of the ids would take a
    hundred.
    """
    return np.fromiter(map(hash, ids), np.int64)
