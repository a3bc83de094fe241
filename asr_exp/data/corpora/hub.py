"""Read any dataset of the Hugging Face hub, or a local folder of the same layout, through `datasets`. Audio
is not decoded here.
"""

import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path, PurePosixPath
from typing import Any

from asr_exp.core.errors import UserError, nearest
from asr_exp.data.corpora import cells
from asr_exp.data.corpora.base import (
    Corpus,
    Rejected,
    TableAudio,
    Utterance,
    Utterances,
    register_reader,
    resolve_root,
)
from asr_exp.data.corpora.datasets_cache import datasets_cache, hub_builder, prepare_table, split_names
from asr_exp.data.corpora.splits import Rows, gather
from asr_exp.runtime.hub import causes, failure, offline_where_unreachable, refusal

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fields:
    """The columns to read. A `speaker` column that the table does not have is ignored; without `id`, a row
    has the name of its audio file.
    """

    text: str
    audio: str = "audio"
    speaker: str | None = None
    id: str | None = None


@register_reader("hub")
def read_hub(dataset: Any, cache: Path) -> Corpus:
    """Read a dataset of the hub. Its splits have their own names, or slices such as `train[:10%]`;
    `dataset.columns` names the columns.
    """
    root = resolve_root(dataset)
    hub = {
        "id": str(root) if root else dataset.hub.id,
        "config": dataset.hub.config,
        "revision": dataset.hub.revision,
    }
    if not hub["id"]:
        raise UserError(
            "dataset.hub.id has no value; give the dataset's id on the hub: dataset.hub.id=OWNER/NAME."
        )
    fields = Fields(dataset.columns.text, dataset.columns.audio, dataset.columns.speaker, dataset.columns.id)
    return gather(
        dataset,
        lambda split, key: rows_of(load_table(split=split, key=key, **hub), fields, split),
        hub["id"],
        source="hub",
    )


def read_split(hub: Any, config: str | None, split: str, fields: Fields, key: str) -> Rows:
    """Read one split of the dataset that a `dataset.hub` section names.

    Args:
        hub: the section: id and revision.
        config: the configuration of the dataset.
        split: as `datasets` takes it.
        fields: the columns to read.
        key: the config key that named the split, for messages.

    Raises:
        UserError: see `load_table` and `rows_of`.
    """
    return rows_of(load_table(hub.id, config, split, hub.revision, key), fields, split)


def load_table(
    id: str, config: str | None, split: str, revision: str | None, key: str, **options: Any
) -> Any:
    """Load a split, or several (`train[:10%]+validation`), as one `datasets.Dataset`. Only their files are
    fetched.

    Args:
        id: of a dataset on the hub, or a folder.
        config: the configuration; None: the only one.
        split: as `datasets` takes it.
        revision: a branch, tag or commit; None: the newest.
        key: the config key that named the split, for messages.
        options: of `datasets.load_dataset_builder`.

    Raises:
        UserError: the id, configuration or split does not exist, or the hub refuses the files.
    """
    path = os.path.expanduser(id)
    on_hub = not os.path.isdir(path) and id != "parquet"
    if on_hub:
        offline_where_unreachable()
    datasets, http_error = _import_datasets(id)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    alone = datasets_cache() / "by_split" / "+".join(sorted(split_names(split)))
    try:
        load = partial(datasets.load_dataset_builder, path, config, revision=revision, **options)
        builder = hub_builder(load, id, config, revision, alone) if on_hub else load()
        return prepare_table(builder, split, alone)
    except (OSError, ValueError, RuntimeError, http_error, datasets.exceptions.DatasetsError) as error:
        # `datasets` raises these two without the answer of the hub, which is asked again
        answer_lost = on_hub and (
            type(error) is ConnectionError or isinstance(error, datasets.exceptions.DatasetNotFoundError)
        )
        if reason := (refusal(id, "dataset", revision) if answer_lost else None) or (
            failure(error) if on_hub else None
        ):
            raise UserError(
                f"{id} cannot be loaded: {reason}. dataset.root=FOLDER reads a local copy."
            ) from error
        if isinstance(error, ValueError):
            # an unknown configuration or split: the message of `datasets` lists those that exist
            setting = "dataset.hub.config (or dataset.language)" if "onfig" in str(error) else key
            raise UserError(
                f"{id} cannot give what {setting} names ({config or 'default'}, {split}): {_one_line(error)}"
            ) from error
        all_causes = list(causes(error))
        if any("torchcodec" in str(cause) for cause in all_causes):
            raise UserError(
                f"{id} is a folder of audio files, for which `datasets` needs torchcodec and FFmpeg; "
                "download it and give its table: dataset=csv dataset.train=FOLDER/metadata.csv "
                "dataset.columns.file=file_name."
            ) from error
        raise UserError(
            f"{id} could not be read: {_one_line(error if answer_lost else all_causes[-1])}"
        ) from error


def _import_datasets(id: str) -> tuple[Any, type[Exception]]:
    """The module `datasets` and the hub's HTTPError. Raises UserError where `datasets` is not installed."""
    try:
        import datasets
        from huggingface_hub.errors import HTTPError
    except ImportError as error:
        raise UserError(
            f"reading {id} needs the package `datasets`: pip install datasets ({error})."
        ) from error
    return datasets, HTTPError


def rows_of(table: Any, fields: Fields, split: str) -> Rows:
    """The rows of a table as utterances; the audio stays encoded in the table. Raises UserError for a column
    that the table does not have.
    """
    import datasets

    columns = table.column_names
    for key, column in (("audio", fields.audio), ("text", fields.text), ("id", fields.id)):
        if column is not None and column not in columns:
            raise UserError(
                f"there is no column {column!r} in split {split}.{nearest(column, columns)} "
                f"Columns there: {', '.join(columns)}. Name it with dataset.columns.{key}=..."
            )
    if str(table.features[fields.audio]) == "Value('large_string')":
        table = table.cast_column(fields.audio, datasets.Value("string"))
    table = table.cast_column(fields.audio, datasets.Audio(decode=False))
    texts = _cells(table.data.column(fields.text))
    speakers = (
        _cells(table.data.column(fields.speaker)) if fields.speaker in columns else repeat(None, len(table))
    )
    names = _cells(table.data.column(fields.id)) if fields.id else _audio_names(table, fields.audio)
    utterances = Utterances()
    rejected: list[Rejected] = []
    for row, (name, text, speaker) in enumerate(zip(names, texts, speakers, strict=True)):
        audio = TableAudio(table, row, fields.audio)
        name = _stem(str(name)) if name is not None else f"{split}-{row:06d}"
        try:
            said = cells.transcript(text, fields.text)
            utterances.append(Utterance(name, audio, said, cells.name(speaker, fields.speaker or "")))
        except ValueError as error:
            rejected.append(Rejected(name, str(audio), str(error)))
    return utterances, rejected


def _cells(column: Any) -> Iterator[Any]:
    """Yield the cells of an Arrow column; one chunk at a time is in memory."""
    return (cell for chunk in column.chunks for cell in chunk.to_pylist())


def _audio_names(table: Any, column: str) -> Iterator[str | None]:
    """The file names of the audio, read without the bytes beside them."""
    import pyarrow.compute

    return _cells(pyarrow.compute.struct_field(table.data.column(column), "path"))


def _stem(name: str) -> str:
    """The name of an audio file without folders and suffix; any other name as it is."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a") else name


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 300 else text[:300] + " ..."
