"""Manifests: CSV, TSV, JSON and JSON Lines files that name audio files and their transcripts."""

import math
import os
from pathlib import Path
from typing import Any

from asr_exp.config.data_schema import Columns
from asr_exp.core.errors import UserError, nearest
from asr_exp.data.corpora.base import (
    SPLITS,
    Corpus,
    FileAudio,
    Rejected,
    Utterance,
    Utterances,
    as_list,
    register_reader,
)
from asr_exp.data.corpora.manifest_formats import Row, read_rows
from asr_exp.data.corpora.splits import Rows, complete, gather

_SPLIT_NAMES = {**{s: s for s in SPLITS}, "validation": "dev", "valid": "dev", "val": "dev"}


@register_reader("manifest")
def read_manifest(dataset: Any, cache: Path) -> Corpus:
    """Read manifests. `dataset.train`, `.dev` and `.test` are their paths; a single one is split by its split
    column, if it has one.

    A missing dev or test split is carved out of train. Raises UserError for a manifest that cannot be read.
    """
    named = {path: f"dataset.{split}" for split in reversed(SPLITS) for path in as_list(dataset[split])}
    if not dataset.train and not (dataset.only and named):
        raise UserError(
            f"dataset={dataset.name} needs a manifest: "
            + (
                f"dataset.{dataset.only}=FILE."
                if dataset.only
                else "dataset.train=FILE (without dataset.dev and dataset.test, they are carved out of it)."
            )
        )
    if len(named) == 1:
        ((path, key),) = named.items()
        rows = _load(path, key, dataset)
        if any(dataset.columns.split in row.cells for row in rows):
            return _by_split_column(Path(os.path.expanduser(path)), rows, dataset)
    # a protocol has the names of the manifests, not the folders in which a machine keeps them
    return gather(
        dataset, lambda path, key: _read(path, key, dataset), "the manifest", label=os.path.basename
    )


def _read(path: str, key: str, dataset: Any) -> Rows:
    rows: Rows = (Utterances(), [])
    columns = Columns(**dataset.columns)
    for row in _load(path, key, dataset):
        _add(rows, _utterance(Path(os.path.expanduser(path)), row, columns))
    return rows


def _by_split_column(file: Path, rows: list[Row], dataset: Any) -> Corpus:
    """The corpus of a manifest whose split column says where each row belongs."""
    columns = Columns(**dataset.columns)
    column = columns.split
    corpus = Corpus(splits={})
    for row in rows:
        cell = str(row.cells.get(column or "") or "")
        split = _SPLIT_NAMES.get(cell.strip().lower())
        result = _utterance(file, row, columns)
        if split is None and not row.broken:
            result = Rejected(
                f"{file.name}:{row.number}",
                str(file),
                f"row {row.number}: its {column} {cell!r} is not train, dev or test "
                "(dataset.columns.split=null ignores that column)",
            )
        split = split or "train"
        corpus.subsets[split] = [f"{file.name}[{column}={split}]"]
        _add((corpus.splits.setdefault(split, Utterances()), corpus.rejected[split]), result)
    if dataset.only and dataset[dataset.only] and dataset.only not in corpus.splits:
        raise UserError(
            f"dataset.{dataset.only}={file}: by its column {column} no row is of {dataset.only}, they are of "
            f"{', '.join(corpus.splits)}; dataset.columns.split=null ignores that column."
        )
    return complete(corpus, dataset, str(file))


def _add(rows: Rows, result: Utterance | Rejected) -> None:
    if isinstance(result, Utterance):
        rows[0].append(result)
    else:
        rows[1].append(result)


_MEANING = {"file": "audio's path", "text": "transcript", "id": "utterance's id"}


def _load(path: str, key: str, dataset: Any) -> list[Row]:
    """Read the rows of a manifest. Raises UserError where it cannot be read or lacks a column that it must
    have.
    """
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        raise UserError(f"{key}={path} is not a file (looked in {Path.cwd()}); give the path of a manifest.")
    rows = read_rows(file, dataset.delimiter, {column for column in dataset.columns.values() if column})
    columns = list(dict.fromkeys(name for row in rows for name in row.cells))
    required = {
        setting: dataset.columns[setting] for setting in _MEANING if dataset.columns[setting] is not None
    }
    missing = [setting for setting, column in required.items() if column not in columns]
    if missing and columns:
        names = " and no column ".join(repr(required[s]) for s in missing)
        if len(columns) == 1 and (sign := next((sign for sign in ";\t|," if sign in columns[0]), None)):
            remedy = {"\t": "dataset=tsv", ",": "dataset=csv"}.get(sign, f"'dataset.delimiter=\"{sign}\"'")
            raise UserError(
                f"{file} has no column {names}; its first line is {columns[0]!r}, whose columns seem to be"
                f" parted by {sign!r}: {remedy}."
            )
        raise UserError(
            f"{file} has no column {names}; its columns:"
            f" {', '.join(columns)}.{nearest(required[missing[0]], columns)} Name what holds the"
            f" {' and the '.join(_MEANING[s] for s in missing)}:"
            f" {' '.join(f'dataset.columns.{s}=COLUMN' for s in missing)}."
        )
    return rows


def _utterance(file: Path, row: Row, columns: Columns) -> Utterance | Rejected:
    """The utterance of a row, or why the row cannot be used."""
    path = ""
    try:
        if row.broken:
            raise ValueError(row.broken)
        path = _cell(row, columns.file)
        text = row.cells.get(columns.text)
        if text is None or isinstance(text, dict | list):
            raise ValueError(f"it has no {columns.text}")
        start, end = _seconds(row, columns.start), _seconds(row, columns.end)
        if end is not None and end <= (start or 0):
            raise ValueError(f"its end, {end}, is not after its start, {start or 0}")
        speaker = None if columns.speaker is None else row.cells.get(columns.speaker)
        name = path if columns.id is None else _cell(row, columns.id)
        audio = FileAudio(str(file.parent / os.path.expanduser(path)), start, end)
        return Utterance(name, audio, str(text), None if speaker in (None, "") else str(speaker))
    except ValueError as error:
        return Rejected(f"{file.name}:{row.number}", path or str(file), f"row {row.number}: {error}")


def _cell(row: Row, column: str) -> str:
    value = row.cells.get(column)
    if value is None or not str(value).strip() or isinstance(value, dict | list):
        raise ValueError(f"it has no {column}")
    return str(value).strip()


def _seconds(row: Row, column: str | None) -> float | None:
    value = None if column is None else row.cells.get(column)
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"its {column}, {value!r}, is not a number of seconds")
    return seconds
