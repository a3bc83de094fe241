"""Manifests: CSV, TSV, JSON and JSON Lines files that name audio files and their transcripts."""

import os
from pathlib import Path
from typing import Any

from asr_exp.config.data_schema import Columns
from asr_exp.core.console import printable
from asr_exp.core.errors import UserError
from asr_exp.data.corpora import cells
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
from asr_exp.data.corpora.columns import check_columns, recognised, report
from asr_exp.data.corpora.manifest_formats import Row, read_rows
from asr_exp.data.corpora.splits import Rows, complete, gather
from asr_exp.data.utterances import kind_of_file

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
        rows, columns = _load(path, key, dataset)
        if any(dataset.columns.split in row.cells for row in rows):
            return _by_split_column(Path(os.path.expanduser(path)), rows, columns, dataset)
    # a protocol has the names of the manifests, not the folders in which a machine keeps them
    return gather(
        dataset,
        lambda path, key: _read(path, key, dataset),
        "the manifest",
        label=lambda path: printable(os.path.basename(path)),
    )


def _read(path: str, key: str, dataset: Any) -> Rows:
    rows: Rows = (Utterances(), [])
    loaded, columns = _load(path, key, dataset)
    for row in loaded:
        _add(rows, _utterance(Path(os.path.expanduser(path)), row, columns))
    return rows


def _by_split_column(file: Path, rows: list[Row], columns: Columns, dataset: Any) -> Corpus:
    """The corpus of a manifest whose split column says where each row belongs."""
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
        corpus.subsets[split] = [printable(f"{file.name}[{column}={split}]")]
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


def _load(path: str, key: str, dataset: Any) -> tuple[list[Row], Columns]:
    """Read the rows of a manifest, and find its columns. Raises UserError where it cannot be read or lacks a
    column that it must have.
    """
    file = Path(os.path.expanduser(path))
    try:
        kind = kind_of_file(file)
    except (OSError, ValueError):
        raise UserError(
            f"{key}={printable(path)} is not a file (looked in {Path.cwd()}); give the path of a manifest."
        ) from None
    if kind:
        raise UserError(f"{key}={printable(path)} is a {kind}, and not a file; give the path of a manifest.")
    asked = Columns(**dataset.columns)
    rows = read_rows(file, dataset.delimiter, lambda names: recognised(asked, names, file))
    names = list(dict.fromkeys(name for row in rows for name in row.cells))
    columns = recognised(asked, names, file)
    check_columns(columns, names, file)
    report(asked, columns, file)
    return rows, columns


def _utterance(file: Path, row: Row, columns: Columns) -> Utterance | Rejected:
    """The utterance of a row, or why the row cannot be used."""
    path = ""
    try:
        if row.broken:
            raise ValueError(row.broken)
        path = cells.path(row.cells.get(columns.file), columns.file)
        text = cells.transcript(row.cells.get(columns.text), columns.text)
        start, end = _segment(row, columns)
        speaker = columns.speaker and cells.name(row.cells.get(columns.speaker), columns.speaker)
        name = path
        if columns.id is not None:
            name = (cells.name(row.cells.get(columns.id), columns.id) or "").strip()
            if not name:
                raise ValueError(f"it has no {columns.id}")
        audio = FileAudio(str(file.parent / os.path.expanduser(path)), start, end)
        return Utterance(name, audio, text, speaker or None)
    except ValueError as error:
        return Rejected(f"{file.name}:{row.number}", path or str(file), f"row {row.number}: {error}")


def _segment(row: Row, columns: Columns) -> tuple[float | None, float | None]:
    """Start and end of a row's segment in seconds, None where it has none.

    A duration is a length from the start on, and without a start from the beginning, as in NeMo's manifests;
    there it may well be the whole recording's, see `samples_of`. An end goes before a duration. Raises
    ValueError for times that cannot be.
    """
    start, end, duration = (
        None if column is None else cells.seconds(row.cells.get(column), column)
        for column in (columns.start, columns.end, columns.duration)
    )
    if end is not None and end <= (start or 0):
        raise ValueError(f"its {columns.end}, {end:g}, is not after its {columns.start}, {start or 0:g}")
    if end is not None or duration is None:
        return start, end
    if duration <= 0:
        raise ValueError(f"its {columns.duration} is 0 seconds")
    return start or None, round((start or 0) + duration, 6)
