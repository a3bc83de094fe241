"""Any dataset of the Hugging Face hub (or a local folder of the same layout), through `datasets`; audio is never decoded here."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path, PurePosixPath
from typing import Any

from asr_exp.data.corpora.base import Corpus, Rejected, TableAudio, Utterance, Utterances, register_reader, resolve_root
from asr_exp.data.corpora.splits import Rows, gather
from asr_exp.errors import UserError, nearest
from asr_exp.hub import offline_where_unreachable


@dataclass(frozen=True, slots=True)
class Fields:
    """The columns to read. `speaker` is ignored where the table has none; without `id`, rows are named by their audio's file."""

    text: str
    audio: str = "audio"
    speaker: str | None = None
    id: str | None = None


@register_reader("hub")
def read_hub(dataset: Any, cache: Path) -> Corpus:
    """Splits are named as the dataset names them, slices such as `train[:10%]` included; columns by `dataset.columns`."""
    root = resolve_root(dataset)
    hub = {"id": str(root) if root else dataset.hub.id, "config": dataset.hub.config, "revision": dataset.hub.revision}
    if not hub["id"]:
        raise UserError("dataset.hub.id has no value; give the dataset's id on the hub: dataset.hub.id=OWNER/NAME.")
    fields = Fields(dataset.columns.text, dataset.columns.audio, dataset.columns.speaker, dataset.columns.id)
    return gather(dataset, lambda split, key: rows_of(load_table(split=split, key=key, **hub), fields, split), hub["id"], source="hub")


def read_split(hub: Any, config: str | None, split: str, fields: Fields, key: str) -> Rows:
    """The rows of one split of the hub dataset that a `dataset.hub` section names. Raises UserError, see `load_table`."""
    return rows_of(load_table(hub.id, config, split, hub.revision, key), fields, split)


def load_table(id: str, config: str | None, split: str, revision: str | None, key: str, **options: Any) -> Any:
    """A `datasets.Dataset`. Raises UserError for an unknown id, configuration or split, and where the hub is out of reach."""
    if not os.path.isdir(os.path.expanduser(id)) and id != "parquet":
        offline_where_unreachable()
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"reading {id} needs the package `datasets`: pip install datasets ({error}).") from error
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(os.path.expanduser(id), config, split=split, revision=revision, **options)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise UserError(f"dataset.hub.id={id} is not on the hub, or not for everyone to read: check the id; "
                        "for a gated dataset, accept its terms there and run `hf auth login`.") from error
    except ValueError as error:
        # An unknown configuration or split; the message lists those there are.
        setting = "dataset.hub.config (or dataset.language)" if "onfig" in str(error) else key
        raise UserError(f"{id} cannot give what {setting} names ({config or 'default'}, {split}): {_one_line(error)}") from error
    except (OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        causes = list(_causes(error))
        kinds = " ".join(kind.__name__ for cause in causes for kind in type(cause).__mro__)
        if "Connect" in kinds or "Offline" in kinds or "Timeout" in kinds:
            raise UserError(f"The hub cannot be reached, and {id} is not in the local cache; "
                            "give dataset.root=FOLDER to read a local copy, or connect.") from error
        if any("torchcodec" in str(cause) for cause in causes):
            raise UserError(f"{id} is a folder of audio files, for which `datasets` needs torchcodec and FFmpeg; "
                            "download it and give its table: dataset=csv dataset.train=FOLDER/metadata.csv "
                            "dataset.columns.file=file_name.") from error
        raise UserError(f"{id} could not be read: {_one_line(causes[-1])}") from error


def rows_of(table: Any, fields: Fields, split: str) -> Rows:
    """The rows of a table as utterances; the audio stays in the table, encoded. Raises UserError for a column that is not there."""
    import datasets

    columns = table.column_names
    for key, column in (("audio", fields.audio), ("text", fields.text), ("id", fields.id)):
        if column is not None and column not in columns:
            raise UserError(f"there is no column {column!r} in split {split}.{nearest(column, columns)} "
                            f"Columns there: {', '.join(columns)}. Name it with dataset.columns.{key}=...")
    if str(table.features[fields.audio]) == "Value('large_string')":
        table = table.cast_column(fields.audio, datasets.Value("string"))
    table = table.cast_column(fields.audio, datasets.Audio(decode=False))
    texts = _cells(table.data.column(fields.text))
    speakers = _cells(table.data.column(fields.speaker)) if fields.speaker in columns else repeat(None, len(table))
    names = _cells(table.data.column(fields.id)) if fields.id else _audio_names(table, fields.audio)
    utterances = Utterances()
    rejected: list[Rejected] = []
    for row, (name, text, speaker) in enumerate(zip(names, texts, speakers, strict=True)):
        audio = TableAudio(table, row, fields.audio)
        name = _stem(str(name)) if name is not None else f"{split}-{row:06d}"
        if text is None:
            rejected.append(Rejected(name, str(audio), f"it has no {fields.text}"))
        else:
            utterances.append(Utterance(name, audio, str(text), None if speaker is None else str(speaker)))
    return utterances, rejected


def _cells(column: Any) -> Iterator[Any]:
    """The cells of an Arrow column, a chunk at a time."""
    return (cell for chunk in column.chunks for cell in chunk.to_pylist())


def _audio_names(table: Any, column: str) -> Iterator[str | None]:
    """The audio's file names, read beside the bytes and not with them."""
    import pyarrow.compute

    return _cells(pyarrow.compute.struct_field(table.data.column(column), "path"))


def _stem(name: str) -> str:
    """A file's name without folders and ending; other names as they are."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a") else name


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and, one after the other, those behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 300 else text[:300] + " ..."
