"""Any dataset of the Hugging Face hub (or a local folder of the same layout), through `datasets`; audio is
never decoded here.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path, PurePosixPath
from typing import Any

from asr_exp.core.errors import UserError, nearest
from asr_exp.data.corpora.base import (
    Corpus,
    Rejected,
    TableAudio,
    Utterance,
    Utterances,
    register_reader,
    resolve_root,
)
from asr_exp.data.corpora.splits import Rows, gather
from asr_exp.runtime.hub import causes, failure, offline_where_unreachable, refusal

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fields:
    """The columns to read. `speaker` is ignored where the table has none; without `id`, rows are named by
    their audio's file.
    """

    text: str
    audio: str = "audio"
    speaker: str | None = None
    id: str | None = None


@register_reader("hub")
def read_hub(dataset: Any, cache: Path) -> Corpus:
    """Splits are named as the dataset names them, slices such as `train[:10%]` included; columns by
    `dataset.columns`.
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
    """The rows of one split of the hub dataset that a `dataset.hub` section names. Raises UserError, see
    `load_table`.
    """
    return rows_of(load_table(hub.id, config, split, hub.revision, key), fields, split)


def load_table(
    id: str, config: str | None, split: str, revision: str | None, key: str, **options: Any
) -> Any:
    """A `datasets.Dataset` of a split, or of several (`train[:10%]+validation`); of the hub's files only
    theirs are fetched.

    Raises UserError for an unknown id, configuration or split, and where the hub does not give it.
    """
    path = os.path.expanduser(id)
    on_hub = not os.path.isdir(path) and id != "parquet"
    if on_hub:
        offline_where_unreachable()
    try:
        import datasets
        from huggingface_hub.errors import HTTPError
    except ImportError as error:
        raise UserError(
            f"reading {id} needs the package `datasets`: pip install datasets ({error})."
        ) from error
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    alone = _cache() / "by_split" / "+".join(sorted(_names(split)))
    try:
        load = partial(datasets.load_dataset_builder, path, config, revision=revision, **options)
        return _prepare(_builder(load, id, config, revision, alone) if on_hub else load(), split, alone)
    except (OSError, ValueError, RuntimeError, HTTPError, datasets.exceptions.DatasetsError) as error:
        # Of these two `datasets` has not kept what the hub answered.
        lost = on_hub and (
            type(error) is ConnectionError or isinstance(error, datasets.exceptions.DatasetNotFoundError)
        )
        if reason := (refusal(id, "dataset", revision) if lost else None) or (
            failure(error) if on_hub else None
        ):
            raise UserError(
                f"{id} cannot be loaded: {reason}. dataset.root=FOLDER reads a local copy."
            ) from error
        if isinstance(error, ValueError):
            # An unknown configuration or split; the message lists those there are.
            setting = "dataset.hub.config (or dataset.language)" if "onfig" in str(error) else key
            raise UserError(
                f"{id} cannot give what {setting} names ({config or 'default'}, {split}): {_one_line(error)}"
            ) from error
        behind = list(causes(error))
        if any("torchcodec" in str(cause) for cause in behind):
            raise UserError(
                f"{id} is a folder of audio files, for which `datasets` needs torchcodec and FFmpeg; "
                "download it and give its table: dataset=csv dataset.train=FOLDER/metadata.csv "
                "dataset.columns.file=file_name."
            ) from error
        raise UserError(f"{id} could not be read: {_one_line(error if lost else behind[-1])}") from error


def _cache() -> Path:
    """Where `datasets` keeps what it has prepared."""
    from datasets import config

    return Path(os.path.expanduser(config.HF_DATASETS_CACHE))


def _names(split: str) -> set[str]:
    """The splits that `train[:10%]+validation` is made of."""
    return {part.partition("[")[0].strip() for part in split.split("+")}


def _prepare(builder: Any, split: str, alone: Path) -> Any:
    """The table of a split, from the cache of `datasets`, or fetched into it.

    `datasets` itself fetches and prepares every split of a configuration: a whole that is there already is
    used. Else the splits asked for are prepared in a folder of their own, `alone`, by the same relative path:
    the table's fingerprint does not tell which it was. Raises ValueError for a split that is not there,
    before anything is fetched.
    """
    import datasets

    # split -> its files; None where nothing is left to fetch
    names, files = _names(split), builder.config.data_files
    if files and names != {"all"} and (unknown := names - set(files)):
        raise ValueError(
            f"there is no split {min(unknown)}.{nearest(min(unknown), files)} There are: {', '.join(files)}"
        )
    if not files or names in ({"all"}, set(files)) or Path(builder.cache_dir, "dataset_info.json").is_file():
        builder.download_and_prepare()
    else:
        builder.config.data_files = datasets.data_files.DataFilesDict(
            {name: files[name] for name in files if name in names}
        )
        for name in set(builder.info.splits or ()) - names:
            builder.info.splits.pop(name)
        builder.info.size_in_bytes = None  # that of the whole, for which there need not be room
        builder.download_and_prepare(str(alone / Path(builder.cache_dir).relative_to(_cache())))
    return builder.as_dataset(split)


def _builder(load: Callable[[], Any], id: str, config: str | None, revision: str | None, alone: Path) -> Any:
    """What prepares a dataset: by the hub's answer, or, where it gives none, by what earlier runs have left
    in the cache.
    """
    from datasets.packaged_modules.cache.cache import Cache
    from huggingface_hub.errors import HTTPError

    try:
        builder = load()
    except (OSError, ValueError, HTTPError) as why:
        # A ValueError: the cache of `datasets` lacks the configuration; or the hub's dataset does, or it must
        # be said which.
        kept = _kept(id, config, revision, alone)
        if kept is None or (config is None and isinstance(why, ValueError)):
            raise
        return kept
    if not isinstance(builder, Cache):
        return builder
    kept = _kept(id, config, revision, alone)
    if kept is None and revision is not None:  # `datasets` goes by its cache whatever the revision
        raise ConnectionError(f"The cache holds another revision of {id} than {revision}.")
    return kept or builder


def _kept(id: str, config: str | None, revision: str | None, alone: Path) -> Any:
    """What was prepared of the commit that the revision was when the hub was last asked, alone or with the
    other splits.

    Without a revision, any commit will do, the last first. None where nothing is kept, or of several
    configurations without saying which.
    """
    from datasets.naming import camelcase_to_snakecase
    from datasets.packaged_modules.cache.cache import Cache
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    reference = Path(
        constants.HF_HUB_CACHE, repo_folder_name(repo_id=id, repo_type="dataset"), "refs", revision or "main"
    )
    commits = [reference.read_text().strip()] if reference.is_file() else [revision] if revision else []
    owner, _, name = id.rpartition("/")
    folder = f"{owner}___{camelcase_to_snakecase(name)}" if owner else camelcase_to_snakecase(name)
    for commit in commits if revision else [*commits, "*"]:
        for root in (alone, _cache()):
            found = [
                path.parent for path in root.glob(f"{folder}/{config or '*'}/*/{commit}/dataset_info.json")
            ]
            if len({path.parts[-3] for path in found}) == 1:
                last = max(found, key=lambda path: path.stat().st_mtime)
                kind, version, there = last.parts[-3:]
                if there not in commits:
                    _log.warning(
                        "%s is read as it was when it was fetched (commit %s): the hub does not say what it"
                        " is now",
                        id,
                        there,
                    )
                return Cache(
                    cache_dir=str(root),
                    dataset_name=name,
                    repo_id=id,
                    config_name=kind,
                    version=version,
                    hash=there,
                )
    return None


def rows_of(table: Any, fields: Fields, split: str) -> Rows:
    """The rows of a table as utterances; the audio stays in the table, encoded. Raises UserError for a column
    that is not there.
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


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 300 else text[:300] + " ..."
