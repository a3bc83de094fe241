"""Whether the data of a run, and the plugins, are still what the run was made of."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from asr_exp.builders.data import read_raw, same_data
from asr_exp.config.plugin_sources import plugin_sources
from asr_exp.core.errors import UserError
from asr_exp.core.files import recover
from asr_exp.data.fingerprint import LARGE, DataFingerprint, in_words
from asr_exp.runs.folder import resolve
from asr_exp.runs.results import read_result

OF_A_SCORE = ("dataset.reader=", "text.rules=", "decode.name=")  # parts that a score depends on
_TODAY: dict[str, DataFingerprint | None] = {}  # by dataset and index files: the runs of a sweep share theirs


def todays_fingerprint(config: DictConfig, before: DataFingerprint) -> DataFingerprint | None:
    """The fingerprint of a config's corpus as it is now; None where it cannot be read, on this machine or at
    this time. It is read once in a process, as long as its index files stay as they are.

    before: as a run kept it, with the names of the index files.
    """
    key = json.dumps([resolve(config)["dataset"], before.files_now()], sort_keys=True)
    if key not in _TODAY:
        try:
            logging.disable(logging.WARNING)  # what a reader warns of was said when the run began
            corpus = read_raw(config)
            _TODAY[key] = DataFingerprint.of(config.dataset, corpus)
        except (UserError, OSError):
            _TODAY[key] = None
        finally:
            logging.disable(logging.NOTSET)
    return _TODAY[key]


def changes_since(config: DictConfig, folder: Path, recorded: Mapping[str, Any]) -> dict[str, str]:
    """What of a run's data has changed since it was recorded, in words by split; {} where nothing has, or
    where that cannot be told: an older run, a corpus that is not there, the hub's.

    folder: of the run. recorded: the section `data` of its result.json. The corpus is read again, but for a
    large one whose index files have the sizes and times that they had.
    """
    before = DataFingerprint.load(folder)
    if before is None or not recorded or before.source != "local":
        return {}
    large = sum(one.utterances for one in before.splits.values()) > LARGE
    if large and before.untouched():
        return {}
    now = todays_fingerprint(config, before)
    return before.changes(now) if now else {}


def check_unchanged(config: DictConfig, folder: Path, result: Mapping[str, Any]) -> None:
    """Raise UserError where the data of a finished run has changed: its score is not one of today's data."""
    if config.rehearsal:
        return
    if changes := changes_since(config, folder, result.get("data") or {}):
        raise UserError(
            f"The data has changed since this run finished ({in_words(changes)}), so its score in"
            f" {folder / 'result.json'} is none of today's data. Give the new data a name of its own"
            " (dataset.name=NAME), or delete that folder to run it again."
        )


def check_resumable(folder: Path, now: DataFingerprint) -> dict[str, str]:
    """Compare the data of a run that goes on with what it began with -> what has changed of test alone, which
    is scored at the end, in words by split.

    Raises UserError where train or dev has changed, of which the run has learned or chosen already.
    """
    before = DataFingerprint.load(folder)
    if before is None or not recover(folder / "checkpoints" / "last", keep_old=True):
        return {}
    changes = before.changes(now)
    if changes.keys() - {"test"}:
        raise UserError(
            f"The data has changed since {folder} was begun ({in_words(changes)}), and one run cannot be of"
            " both. Bring it back, give the new data a name of its own (dataset.name=NAME), or delete that"
            " folder to start afresh."
        )
    return changes


def check_references(config: DictConfig, folder: Path, now: DataFingerprint | None) -> tuple[str, str] | None:
    """What has changed, in words, of the split that a run is scored on since the run kept it, and the hash of
    what it is now; None where nothing has, where the run kept nothing of it, and for another dataset.
    """
    before = DataFingerprint.load(folder)
    if before is None or now is None or not same_data(config, folder):
        return None
    changes = before.changes(now)
    return (in_words(changes), now.splits[config.split].hash) if changes else None


def edited_plugins(config: DictConfig, folder: Path) -> dict[str, str]:
    """The parts of plugins that a score depends on and whose source is not what a run was made with, each
    with what it is now; {} where the run recorded none.
    """
    before = (read_result(folder) or {}).get("plugins") or {}
    now = plugin_sources(resolve(config))
    return {
        name: source
        for name, source in now.items()
        if name.startswith(OF_A_SCORE) and before.get(name, source) != source
    }
