"""What the run folders say of a table's cells: the score of a finished run, or why there is none."""

import json
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr_exp import __version__
from asr_exp.commands.table.cells import metric_of, one_line
from asr_exp.commands.table.data_changes import changed_data
from asr_exp.commands.table.rows import TableCell
from asr_exp.commands.table.scores import Score
from asr_exp.config.schema import Config
from asr_exp.core.errors import UserError
from asr_exp.core.files import read_json
from asr_exp.core.locks import is_locked
from asr_exp.runs.folder import run_folder, signature
from asr_exp.runs.results import read_result

# A run whose files were written within so many seconds may be at work on a machine whose locks are not seen
# here.
FRESH_SECONDS = 600.0
RUN_FILES = ("config.yaml", "result.json", "train.log", "metrics.jsonl", "checkpoints", ".lock")


def read_cell(cell: TableCell, config: DictConfig) -> TableCell:
    """The cell with the status, reason and score that its run folder gives it."""
    folder = run_folder(config)
    if not any((folder / name).exists() for name in RUN_FILES):
        reason = _same_settings_elsewhere(folder, cell.signature)
        return replace(cell, status="stale" if reason else "missing", reason=reason)
    result = read_result(folder)
    if not result or result.get("status") != "finished":
        status, reason = _unfinished(folder, result, config.trainer.max_steps)
        return replace(cell, status=status, reason=reason)
    if reason := _stale(folder, result, cell.signature):
        return replace(cell, status="stale", reason=reason)
    if result.get("rehearsal"):
        return replace(cell, status="rehearsal", reason="")
    if changed := changed_data(config, folder, result):
        return replace(cell, status="stale", reason=f"its data has changed since: {changed}")
    score, reason = score_of(folder, result, config)
    return replace(cell, status="finished" if score else "stale", reason=reason, score=score)


# ------------------------------------------------------------------------------------------------------------
# runs that have not finished


def _unfinished(folder: Path, result: Mapping[str, Any] | None, max_steps: int | None) -> tuple[str, str]:
    """Status and reason of a run without a score."""
    step = _last_step(folder / "metrics.jsonl")
    progress = (
        f"step {step:,}" + (f" of {max_steps:,}" if max_steps else "") if step else "before its first step"
    )
    if is_locked(folder / ".lock"):
        return "running", progress
    if result and result.get("status") in ("failed", "stopped"):
        reason = str(result.get("reason") or progress).removeprefix("UserError: ")
        return result["status"], one_line(reason)
    if (folder / "result.json").exists():
        return "stale", "its result.json cannot be read"
    written = [path.stat().st_mtime for name in RUN_FILES if (path := folder / name).exists()]
    fresh = time.time() - max(written, default=0.0) < FRESH_SECONDS
    if fresh and _environment(folder).get("host") != socket.gethostname():
        return "running", f"{progress}; its files are fresh, but no process of this machine holds its lock"
    return "stopped", f"ended without a word at {progress}; the same command goes on"


def _last_step(metrics: Path) -> int | None:
    """The step of the last line of a metrics.jsonl, of which only the end is read."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - 4096))
            last = file.read().splitlines()[-1]
        return int(json.loads(last)["step"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


# ------------------------------------------------------------------------------------------------------------
# finished runs of other settings, or of another version


def _stale(folder: Path, result: Mapping[str, Any], expected: str) -> str:
    """Why a finished run is not the one with the expected signature, or ''."""
    if result.get("signature") != expected:
        return f"its result.json has the signature {result.get('signature')}, and {expected} was asked for"
    own = _signature_of(folder / "config.yaml")
    if own != expected:
        problem = f"has the signature {own}" if own else "is gone or does not fit this version"
        return f"its config.yaml {problem}, and {expected} was asked for"
    version = str((result.get("versions") or {}).get("asr_exp") or __version__)
    if _generation(version) != _generation(__version__):
        return f"it was made by asr_exp {version}, this is {__version__}"
    return ""


def _generation(version: str) -> list[str]:
    """The part of a version that two must share for their scores to be alike: the first number; before 1.0,
    the second too.
    """
    numbers = version.split(".")
    return numbers[: 2 if numbers[0] == "0" else 1]


def _signature_of(path: Path) -> str | None:
    """The signature of a config.yaml by the schema of today; None where it cannot be read or does not fit."""
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        settings = yaml.load(path.read_text(encoding="utf-8"), loader)
        return signature(OmegaConf.merge(OmegaConf.structured(Config), settings))  # type: ignore[arg-type]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError, OmegaConfBaseException):
        return None


def _same_settings_elsewhere(folder: Path, expected: str) -> str:
    """Which other folder holds a run of the same settings, made by a version that had fewer keys; '' for
    none.
    """
    for other in sorted(folder.parent.iterdir()) if folder.parent.is_dir() else ():
        if (other / "result.json").exists() and _signature_of(other / "config.yaml") == expected:
            plugins = (read_result(other) or {}).get("plugins")
            how = "with plugins that have been edited since" if plugins else "in the keys of another version"
            return f"{other.name} asked for the same {how}; run it again"
    return ""


# ------------------------------------------------------------------------------------------------------------
# finished runs


def score_of(folder: Path, result: Mapping[str, Any], config: DictConfig) -> tuple[Score | None, str]:
    """The score of a finished run, or None and the reason why its result.json gives none."""
    try:
        return _score(folder, result, metric_of(config)), ""
    except UserError as error:
        return None, str(error)


def _score(folder: Path, result: Mapping[str, Any], metric: str) -> Score:
    """The score of a finished run. Raises UserError for what its result.json lacks."""
    test, protocol = (result.get("splits") or {}).get("test") or {}, result.get("protocol") or {}
    if test.get(metric) is None:
        raise UserError(f"its result.json has no {metric.upper()} of the test split")
    if not protocol.get("hash"):
        raise UserError("its result.json does not say by which protocol it was scored")
    environment = _environment(folder)
    device, devices = str(environment.get("device") or ""), environment.get("devices")
    training = result.get("train") or {}
    main = "per" if test.get("wer") is None else "wer"  # the rate that the interval is of
    interval = test.get("ci95") if metric == main else None
    return Score(
        metric=metric,
        value=float(test[metric]),
        ci95=(float(interval[0]), float(interval[1])) if interval else None,
        degrees=test.get("ci95_degrees"),
        coverage=float(test.get("coverage", 1.0)),
        utterances=int(test.get("utterances") or 0),
        protocol=protocol,
        hardware=f"{devices} x {device}" if isinstance(devices, int) and devices > 1 else device,
        wall_seconds=training.get("wall_seconds"),
        steps=training.get("steps"),
        version=str((result.get("versions") or {}).get("asr_exp") or ""),
        data=((result.get("data") or {}).get("test") or {}).get("references", ""),
    )


def _environment(folder: Path) -> dict[str, Any]:
    """A run's environment.json, {} where it cannot be read."""
    return read_json(folder / "environment.json") or {}
