"""What was asked and what has come of it: a config's cell out of the run folders, and cells kept in a CSV
file. Imports no torch.
"""

import csv
import hashlib
import io
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr_exp import __version__
from asr_exp.commands.table.rows import TableCell
from asr_exp.commands.table.scores import TOLERANCE, PublishedScore, Score
from asr_exp.config.schema import NOT_IN_SIGNATURE, Config
from asr_exp.core.errors import UserError
from asr_exp.runs.folder import resolve, run_folder, signature
from asr_exp.runs.results import read_result

# seconds since a run last wrote, within which it may be at work on a machine whose locks are not seen here
FRESH = 600.0
TRACES = ("config.yaml", "result.json", "train.log", "metrics.jsonl", "checkpoints", ".lock")
COLUMNS = (
    "cell",
    "status",
    "reason",
    "metric",
    "value",
    "ci95_low",
    "ci95_high",
    "ci95_degrees",
    "coverage",
    "utterances",
    "protocol_hash",
    "hardware",
    "wall_seconds",
    "steps",
    "version",
    "signature",
    "recipe",
    "protocol",
)


# ------------------------------------------------------------------------------------------------------------
# what was asked


def requested_cell(
    keys: Mapping[str, str], asked: Sequence[tuple[str, str]], config: DictConfig
) -> TableCell:
    """A cell nothing is known of yet, from its composed config."""
    d, p = config.dataset, config.published
    splits = [d.test] if isinstance(d.test, str) else d.test or ["test"]
    where = " ".join(filter(None, [d.name, d.language, "+".join(Path(str(split)).name for split in splits)]))
    material = (
        f"{where}, {metric_of(config).upper()}, text {config.text.name}, {config.decode.name}, padding"
        f" {config.model.padding}"
    )
    tolerance = TOLERANCE if p.tolerance is None else p.tolerance
    published = PublishedScore(
        p.value,
        p.metric,
        p.split,
        p.source,
        p.hardware,
        p.time,
        tolerance,
        tuple(p.inferred),
        dict(p.protocol),
    )
    return TableCell(
        f"{d.name}/{config.model.name}",
        keys,
        tuple(asked),
        material,
        signature(config),
        recipe(config),
        published,
        local=not d.hub.id and d.reader not in ("demo", "manifest"),
    )


def impossible_cell(keys: Mapping[str, str], asked: Sequence[tuple[str, str]], why: str) -> TableCell:
    """A cell whose settings do not make a run."""
    return TableCell(
        "?", keys, tuple(asked), "settings that cannot be", "", "", status="failed", reason=_one_line(why)
    )


def metric_of(config: DictConfig) -> str:
    """The rate a cell is judged by: the published one's, else WER, or PER for phones."""
    return config.published.metric or ("per" if config.tokenizer.unit == "phone" else "wer")


def recipe(config: DictConfig) -> str:
    """Ten hex digits for what was asked, wherever the corpus lies and whatever keys a later version adds: a
    hash of the config less what is no part of a signature, less folders, less what is the schema's own
    default."""
    asked = resolve(config)
    for name in NOT_IN_SIGNATURE:
        section, _, leaf = name.rpartition(".")
        (asked[section] if section else asked).pop(leaf)
    dataset = asked["dataset"]
    del dataset["root"], dataset["source"]
    if dataset["reader"] == "manifest":
        dataset |= {
            split: [Path(path).name for path in dataset[split] or []] for split in ("train", "dev", "test")
        }
    for section, name in (
        (asked["model"], "checkpoint"),
        (dataset["hub"], "id"),
        (asked["tokenizer"], "vocabulary"),
    ):
        if section[name] and Path(section[name]).is_absolute():
            section[name] = Path(section[name]).name
    different = _different(asked, OmegaConf.to_container(OmegaConf.structured(Config)))
    return hashlib.sha256(json.dumps(different, sort_keys=True).encode()).hexdigest()[:10]


def _different(asked: dict[str, Any], plain: Any) -> dict[str, Any]:
    known = plain if isinstance(plain, dict) else {}
    parts = {
        name: _different(value, known.get(name)) if isinstance(value, dict) else value
        for name, value in asked.items()
    }
    return {
        name: value
        for name, value in parts.items()
        if value != ({} if isinstance(value, dict) else known.get(name))
    }


# ------------------------------------------------------------------------------------------------------------
# among the run folders


def found(cell: TableCell, config: DictConfig) -> TableCell:
    """The cell with what its run folder says: its score, or why there is none."""
    folder = run_folder(config)
    if not any((folder / name).exists() for name in TRACES):
        other = _same_ask_elsewhere(folder, cell.signature)
        return replace(cell, status="stale", reason=other) if other else replace(cell, status="missing")
    result = read_result(folder)
    if result and result.get("status") == "finished":
        if stale := _stale(folder, result, cell.signature):
            return replace(cell, status="stale", reason=stale)
        if result.get("rehearsal"):
            return replace(cell, status="rehearsal", reason="")
        score = _score(folder, result, metric_of(config))
        if isinstance(score, str):
            return replace(cell, status="stale", reason=score)
        return replace(cell, status="finished", reason="", score=score)
    status, reason = _unfinished(folder, result, config.trainer.max_steps)
    return replace(cell, status=status, reason=reason)


def _unfinished(folder: Path, result: Mapping[str, Any] | None, total: int | None) -> tuple[str, str]:
    step = _last_step(folder / "metrics.jsonl")
    at = f"step {step:,}" + (f" of {total:,}" if total else "") if step else "before its first step"
    if _held(folder / ".lock"):
        return "running", at
    if result and result.get("status") in ("failed", "stopped"):
        return result["status"], _one_line(str(result.get("reason") or at).removeprefix("UserError: "))
    if (folder / "result.json").exists():
        return "stale", "its result.json cannot be read"
    written = [path.stat().st_mtime for name in TRACES if (path := folder / name).exists()]
    if (
        time.time() - max(written, default=0.0) < FRESH
        and _machine(folder).get("host") != socket.gethostname()
    ):
        return "running", f"{at}; its files are fresh, but no process of this machine holds its lock"
    return "stopped", f"ended without a word at {at}; the same command goes on"


def _held(lock: Path) -> bool:
    """Whether a process of this machine is at work in a run folder."""
    if not lock.exists():
        return False
    attempt = FileLock(lock)
    try:
        attempt.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # a folder of someone else's
        return False
    attempt.release()
    return False


def _last_step(metrics: Path) -> int | None:
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - 4096))
            last = file.read().splitlines()[-1]
        return int(json.loads(last)["step"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


def _stale(folder: Path, result: Mapping[str, Any], wanted: str) -> str:
    """Why a finished run is not the one that was asked for, or ''."""
    if result.get("signature") != wanted:
        return f"its result.json has the signature {result.get('signature')}, and {wanted} was asked for"
    made = _signature_of(folder / "config.yaml")
    if made != wanted:
        found = f"has the signature {made}" if made else "is gone or does not fit this version"
        return f"its config.yaml {found}, and {wanted} was asked for"
    version = str((result.get("versions") or {}).get("asr_exp") or __version__)
    if _generation(version) != _generation(__version__):
        return f"it was made by asr_exp {version}, this is {__version__}"
    return ""


def _generation(version: str) -> list[str]:
    """What two versions must share for their scores to be alike: the first number; before 1.0, the second
    too.
    """
    numbers = version.split(".")
    return numbers[: 2 if numbers[0] == "0" else 1]


def _signature_of(path: Path) -> str | None:
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        config = OmegaConf.merge(
            OmegaConf.structured(Config), yaml.load(path.read_text(encoding="utf-8"), loader)
        )
        return signature(config)  # type: ignore[arg-type]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError, OmegaConfBaseException):
        return None


def _same_ask_elsewhere(folder: Path, wanted: str) -> str:
    """Why a run of the same settings is in another folder than theirs, where there is one: a version with
    fewer keys made it.
    """
    for other in sorted(folder.parent.iterdir()) if folder.parent.is_dir() else ():
        if (other / "result.json").exists() and _signature_of(other / "config.yaml") == wanted:
            return f"{other.name} asked for the same in the keys of another version; run it again"
    return ""


def _score(folder: Path, result: Mapping[str, Any], metric: str) -> Score | str:
    """The score of a finished run, or what its result lacks."""
    test, protocol = (result.get("splits") or {}).get("test") or {}, result.get("protocol") or {}
    if test.get(metric) is None:
        return f"its result.json has no {metric.upper()} of the test split"
    if not protocol.get("hash"):
        return "its result.json does not say by which protocol it was scored"
    machine = _machine(folder)
    training, main = result.get("train") or {}, "per" if test.get("wer") is None else "wer"
    within = test.get("ci95") if metric == main else None
    device = str(machine.get("device") or "")
    return Score(
        metric,
        float(test[metric]),
        (float(within[0]), float(within[1])) if within else None,
        test.get("ci95_degrees"),
        float(test.get("coverage", 1.0)),
        int(test.get("utterances") or 0),
        protocol,
        f"{machine['devices']} x {device}" if machine.get("devices", 1) > 1 else device,
        training.get("wall_seconds"),
        training.get("steps"),
        str((result.get("versions") or {}).get("asr_exp") or ""),
    )


def _machine(folder: Path) -> dict[str, Any]:
    """What a run's environment.json says."""
    try:
        return json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _one_line(text: str, width: int = 160) -> str:
    # a path from where the user stands tells as much
    line = " ".join(text.replace(f"{Path.cwd()}{os.sep}", "").split())
    return line if len(line) <= width else line[: width - 3] + "..."


# ------------------------------------------------------------------------------------------------------------
# kept in a file


def cells_csv(cells: Sequence[TableCell]) -> str:
    """A line for each run, numbers to the last digit: all that a table is made of, but what its
    configs say.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cell in cells:
        row: dict[str, Any] = {
            "cell": cell.name,
            "status": cell.status,
            "reason": cell.reason,
            "signature": cell.signature,
        }
        row["recipe"] = cell.recipe
        if s := cell.score:
            low, high = s.ci95 or ("", "")
            row |= {
                "metric": s.metric,
                "value": s.value,
                "ci95_low": low,
                "ci95_high": high,
                "ci95_degrees": s.degrees,
                "coverage": s.coverage,
                "utterances": s.utterances,
                "protocol_hash": s.protocol["hash"],
                "hardware": s.hardware,
                "wall_seconds": s.wall_seconds,
                "steps": s.steps,
                "version": s.version,
                "protocol": json.dumps(s.protocol, sort_keys=True, ensure_ascii=False),
            }
        writer.writerow(row)
    return out.getvalue()


@dataclass(frozen=True)
class KeptCells:
    """Cells read back from a file that `cells_csv` wrote, by name."""

    path: Path
    rows: Mapping[str, Mapping[str, str]]

    @staticmethod
    def read(path: Path) -> "KeptCells":
        """Raises UserError where the file is not one of ours."""
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        except OSError as why:
            raise UserError(
                f"cells={path} cannot be read ({why.strerror}); give a file that `table keep=FILE` wrote."
            ) from why
        if not all({"cell", "status", "value", "protocol", "recipe"} <= row.keys() for row in rows):
            raise UserError(
                f"cells={path} has not the columns of a table's cells; give a file that `table keep=FILE`"
                " wrote."
            )
        return KeptCells(path, {row["cell"]: row for row in rows})

    def found(self, cell: TableCell) -> TableCell:
        """The cell with what the file says of it."""
        row = self.rows.get(cell.name)
        if row is None:
            return replace(cell, status="missing", reason=f"not in {self.path.name}")
        if row["recipe"] != cell.recipe:
            return replace(
                cell, status="stale", reason=f"its recipe is not that of {self.path.name} any more"
            )
        kept = replace(cell, signature=row["signature"], status=row["status"], reason=row["reason"])
        return replace(kept, score=_kept_score(row, self.path)) if row["status"] == "finished" else kept


def _kept_score(row: Mapping[str, str], path: Path) -> Score:
    def number(name: str) -> float | None:
        return float(row[name]) if row.get(name) else None

    try:
        low, high = number("ci95_low"), number("ci95_high")
        steps = number("steps")
        return Score(
            row["metric"],
            float(row["value"]),
            None if low is None or high is None else (low, high),
            number("ci95_degrees"),
            float(row["coverage"]),
            int(row["utterances"]),
            json.loads(row["protocol"]),
            row["hardware"],
            number("wall_seconds"),
            None if steps is None else int(steps),
            row["version"],
        )
    except (KeyError, ValueError) as why:
        raise UserError(
            f"cells={path}, {row['cell']!r}: {why}. The file has been edited; write it again with `table"
            " keep=FILE`."
        ) from why
