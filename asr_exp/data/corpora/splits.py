"""What every reader does with its rows: gather the splits a run names, carve out those it does not, and check
what came out.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from asr_exp.core.console import counted
from asr_exp.core.errors import UserError
from asr_exp.data.corpora.base import SPLITS, Corpus, Rejected, Utterances, as_list

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
    """The corpus whose splits are the subsets that `dataset.train`, `.dev` and `.test` name.

    `read(subset, key)` gives a subset's rows; `key` is the config key that named it, for its errors. A dev or
    test that is not given, or comes out empty and is among `may_be_empty`, is carved out of train.
    `label(subset)` is its name in the protocol. The split that `dataset.only` names is read alone, if it need
    not be carved. Raises UserError for a train that is not given and for a split that comes out empty.
    """
    corpus = Corpus(splits={}, source=source)
    for split in sorted(SPLITS, key=lambda one: one != dataset.only):
        parts: list[Utterances] = []
        for subset in as_list(dataset[split]):
            more, rejected = read(subset, f"dataset.{split}")
            parts.append(more)
            corpus.rejected[split] += rejected
        rows = Utterances.join(parts)
        if rows or (dataset[split] and split not in may_be_empty):
            corpus.splits[split] = rows
            corpus.subsets[split] = [label(subset) for subset in as_list(dataset[split])]
        if dataset.only in corpus.splits:
            break
    return complete(corpus, dataset, where)


def complete(corpus: Corpus, dataset: Any, where: str) -> Corpus:
    """`corpus` with the missing dev and test carved out of train, and ids unique within each split.

    Where `dataset.only` is there, it is enough.
    Raises UserError where train is missing or a split is empty, naming its key and `where` it was read.
    """
    for split, rows in corpus.splits.items():
        if not rows:
            raise UserError(_empty(split, corpus.rejected[split], dataset, where))
        corpus.splits[split] = unique_ids(rows)
    if dataset.only in corpus.splits:
        return corpus
    if "train" not in corpus.splits:
        asked = dataset.only or "train"
        raise UserError(
            f"dataset.{asked} has no value; name what to {'score' if dataset.only else 'train on'} in"
            f" {where}: dataset.{asked}=..."
        )
    missing = {s: float(dataset[f"{s}_fraction"]) for s in ("dev", "test") if s not in corpus.splits}
    if missing:
        _carve_out(corpus, missing, dataset.split_seed)
    _warn_of_overlap(corpus.splits)
    return corpus


def unique_ids(rows: Utterances) -> Utterances:
    """`rows` with `#2`, `#3` ... added to an id that was there before."""
    if len(np.unique(_marks(rows.ids()))) == len(rows):
        return rows
    seen: dict[str, int] = {}
    unique = Utterances()
    for row in rows:
        count = seen[row.id] = seen.get(row.id, 0) + 1
        unique.append(row if count == 1 else replace(row, id=f"{row.id}#{count}"))
    return unique


def carve(rows: Utterances, shares: dict[str, float], seed: int) -> tuple[dict[str, Utterances], str]:
    """`rows` dealt to train and to the splits of `shares` -> (rows by split, what was dealt: `speakers` or
    `utterances`).

    Whole speakers where there are enough of them to come near the shares, else utterances. The same ids and
    seed give the same splits whatever the order of the rows, which stays as it is.
    """
    names = ["train", *shares]
    by_speaker = _deal_speakers(rows, shares, seed)
    if by_speaker:
        dealt = np.fromiter(
            (names.index(by_speaker.get(str(s), "train")) for s in rows.speakers()), np.int8, len(rows)
        )
    else:
        keys = (_shuffle_key(i, seed) for i in rows.ids())
        order = np.argsort(np.fromiter((int(key[:16], 16) for key in keys), np.uint64, len(rows)))
        dealt, taken = np.zeros(len(rows), dtype=np.int8), 0
        for number, share in enumerate(shares.values(), 1):
            count = max(1, round(share * len(rows)))
            dealt[order[taken : taken + count]] = number
            taken += count
    parts = {name: rows.take(np.flatnonzero(dealt == number)) for number, name in enumerate(names)}
    return parts, "speakers" if by_speaker else "utterances"


def _deal_speakers(rows: Utterances, shares: dict[str, float], seed: int) -> dict[str, str] | None:
    """speaker -> split, or None where speakers are unknown or too few to give each split one and train as
    many as the others.

    A split takes speakers until it has its share; at least one, however much that speaker has said.
    """
    counts = Counter(rows.speakers())
    sizes = {speaker: count for speaker, count in counts.items() if speaker is not None}
    if None in counts or len(sizes) < 2 * len(shares) + 1:
        return None
    dealt: dict[str, str] = {}
    for split, share in shares.items():
        target, size = share * len(rows), 0
        order = sorted(sizes.keys() - dealt, key=lambda s: _shuffle_key(s, seed))
        for speaker in order:
            if size < target and size + sizes[speaker] <= 1.5 * target:
                dealt[speaker] = split
                size += sizes[speaker]
        if size == 0:  # each says more than the share: the one who says least
            dealt[min(order, key=lambda s: sizes[s])] = split
    return dealt


def _shuffle_key(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def _carve_out(corpus: Corpus, shares: dict[str, float], seed: int) -> None:
    for split, share in shares.items():
        if share == 0:
            raise UserError(
                f"dataset.{split} names nothing, and dataset.{split}_fraction=0 carves nothing out of train;"
                " give one of them."
            )
    rows, names = corpus.splits["train"], ",".join(corpus.subsets["train"])
    parts, unit = carve(rows, shares, seed)
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
    asked = ", ".join(as_list(dataset[split]))
    return (
        f"dataset.{split}={asked} has no utterances in {where}.{_rejections(rejected)} Give dataset.{split}"
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
    marks = {split: _marks(rows.ids()) for split, rows in splits.items()}
    for a, b in (("train", "test"), ("dev", "test"), ("train", "dev")):
        if common := len(np.intersect1d(marks[a], marks[b])):
            flatters = (
                "a checkpoint chosen by dev (trainer.select=best) flatters itself"
                if a == "dev"
                else "that score flatters"
            )
            _log.warning(
                "%d of the %d utterances of %s are also in %s: %s", common, len(splits[b]), b, a, flatters
            )
    speakers = {split: set(rows.speakers()) - {None, ""} for split, rows in splits.items()}
    if common := len(speakers["train"] & speakers["test"]):
        heard = len(speakers["test"])
        _log.warning(
            "%d of the %d speakers of test are also in train: the score is not one for unheard speakers",
            common,
            heard,
        )


def _marks(ids: Iterable[str]) -> np.ndarray:
    """A number of 64 bits for each id: a million of them take eight megabytes, where a set of the ids takes a
    hundred.
    """
    return np.fromiter(map(hash, ids), np.int64)
