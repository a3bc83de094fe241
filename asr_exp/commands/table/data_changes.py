"""Whether the data of a finished run is still what the run was made of, as far as that can be told at a
glance: a table reads many runs. Imports no torch unless an index file has changed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asr_exp.data.fingerprint import DataFingerprint, in_words

_KNOWN: dict[str, str] = {}  # by dataset section and recorded hashes: runs of the same data share the answer


def changed_data(config: DictConfig, folder: Path, result: Mapping[str, Any]) -> str:
    """What of a run's data has changed since, in words; '' where nothing has, and where that cannot be told:
    a run that recorded nothing, a corpus that is not on this machine, the hub's.

    The sizes and times of the index files come first; only where one is another is the corpus read again.
    """
    recorded = result.get("data")
    if not recorded or result.get("rehearsal"):
        return ""
    key = json.dumps([OmegaConf.to_container(config.dataset, resolve=True), recorded], sort_keys=True)
    if key not in _KNOWN:
        _KNOWN[key] = _changes(config, folder)
    return _KNOWN[key]


def forget() -> None:
    """Look again at data that was looked at before: a table begins."""
    _KNOWN.clear()


def _changes(config: DictConfig, folder: Path) -> str:
    before = DataFingerprint.load(folder)
    if before is None or before.source != "local" or before.untouched():
        return ""
    from asr_exp.builders.changed_data import todays_fingerprint  # it imports torch

    now = todays_fingerprint(config, before)
    return in_words(before.changes(now)) if now else ""
