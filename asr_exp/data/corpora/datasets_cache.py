"""Prepare single splits of a dataset of the hub, and find them again without a network.

`datasets` itself prepares all splits of a configuration. What is done here beyond that uses parts of
`datasets` (seen with 4.6 to 5.2) and of `huggingface_hub` that they do not document: `Cache`, the builder of
a cached dataset, the names of the folders in the cache, and `builder.config.data_files`. Where a release
moves one of them, importing or using it fails; tests/data/corpora/test_hub_datasets.py shows it.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asr_exp.core.errors import nearest

_log = logging.getLogger(__name__)


def datasets_cache() -> Path:
    """The folder in which `datasets` keeps prepared tables."""
    from datasets import config

    return Path(os.path.expanduser(config.HF_DATASETS_CACHE))


def split_names(split: str) -> set[str]:
    """The splits that `train[:10%]+validation` is made of."""
    return {part.partition("[")[0].strip() for part in split.split("+")}


def prepare_table(builder: Any, split: str, alone: Path) -> Any:
    """The table of a split, from the cache of `datasets`, or fetched into it.

    Where `datasets` has prepared the whole configuration before, its table is used. Otherwise the splits are
    prepared in a folder of their own, `alone`, under the same relative path, so that the fingerprint of the
    table is the same in both cases. Raises ValueError for a split that does not exist, before anything is
    fetched.
    """
    import datasets

    names = split_names(split)
    files = builder.config.data_files  # split -> its files; None where nothing is left to fetch
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
        builder.info.size_in_bytes = None  # of all splits: `datasets` would ask for room on the disk for them
        builder.download_and_prepare(str(alone / Path(builder.cache_dir).relative_to(datasets_cache())))
    return builder.as_dataset(split)


def hub_builder(
    load: Callable[[], Any], id: str, config: str | None, revision: str | None, alone: Path
) -> Any:
    """The builder of a dataset: as the hub describes it or, where the hub does not answer, as earlier runs
    have left it in the cache.

    Args:
        load: asks the hub for the builder.
        id: of the dataset.
        config: the configuration, if one is named.
        revision: a branch, tag or commit, if one is named.
        alone: the folder of splits that were prepared without the others.

    Raises:
        ConnectionError: only another revision is in the cache.
    """
    from datasets.packaged_modules.cache.cache import Cache
    from huggingface_hub.errors import HTTPError

    try:
        builder = load()
    except (OSError, ValueError, HTTPError) as why:
        # A ValueError: the configuration is missing in the cache of `datasets`, or in the dataset, or it has
        # to be named because there are several.
        cached = cached_builder(id, config, revision, alone)
        if cached is None or (config is None and isinstance(why, ValueError)):
            raise
        return cached
    if not isinstance(builder, Cache):
        return builder
    cached = cached_builder(id, config, revision, alone)
    if cached is None and revision is not None:  # `datasets` takes its cache whatever the revision
        raise ConnectionError(f"The cache holds another revision of {id} than {revision}.")
    return cached or builder


def cached_builder(id: str, config: str | None, revision: str | None, alone: Path) -> Any:
    """The builder of what was prepared before, at the commit that the revision was when the hub last
    answered.

    Without a revision any commit will do, the newest first. None where nothing is in the cache, and where
    there are several configurations and none is named.
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
        for root in (alone, datasets_cache()):
            pattern = f"{folder}/{config or '*'}/*/{commit}/dataset_info.json"
            prepared = [path.parent for path in root.glob(pattern)]
            if len({path.parts[-3] for path in prepared}) == 1:
                newest = max(prepared, key=lambda path: path.stat().st_mtime)
                config_name, version, cached_commit = newest.parts[-3:]
                if cached_commit not in commits:
                    _log.warning(
                        "%s is read as it was when it was fetched (commit %s): the hub does not say what it"
                        " is now",
                        id,
                        cached_commit,
                    )
                return Cache(
                    cache_dir=str(root),
                    dataset_name=name,
                    repo_id=id,
                    config_name=config_name,
                    version=version,
                    hash=cached_commit,
                )
    return None
