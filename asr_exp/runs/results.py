"""The record of a run: protocol, quarantine, result.json."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asr_exp.core.errors import UserError
from asr_exp.core.files import read_json, write_text

LOSSES = "losses.train.jsonl"  # a line a training step: its utterances, by number, and the loss of each
KINDS: dict[str, Any] = {
    "id": str,
    "reference": str,
    "hypothesis": str,
    "counts": dict,
    "speaker": str | None,
    "seconds": int | float,
    "loss": int | float | None,
}  # of what stands in a line of hypotheses


def protocol(**parts: Any) -> dict[str, Any]:
    """What a score was measured by, and the hash of it: two scores may be set side by side only where the
    hashes agree.
    """
    digest = hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=6).hexdigest()
    return {**parts, "hash": digest}


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    write_text(folder / "result.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def read_result(folder: Path) -> dict[str, Any] | None:
    """The run's result.json, or None where there is none (or a torn one)."""
    return read_json(folder / "result.json")


def read_hypotheses(path: Path) -> dict[str, dict[str, Any]]:
    """The lines of a `hypotheses.<split>.jsonl` by utterance id, in their order. Raises UserError for a line
    that is none.
    """
    lines: dict[str, dict[str, Any]] = {}
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
                lines[line["id"]] = _checked({"speaker": None, "seconds": 0.0, "loss": None, **line})
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"Line {number} of {path} is no line of hypotheses ({error!r}); score the run again."
                ) from error
            if len(lines) < number:
                raise UserError(
                    f"Line {number} of {path} is of {line['id']}, which was there before; score the run"
                    " again."
                )
    return lines


def _checked(line: dict[str, Any]) -> dict[str, Any]:
    """A line of hypotheses. Raises KeyError or TypeError where something is missing or of another type."""
    for key, kind in KINDS.items():
        if not isinstance(line[key], kind):
            raise TypeError(f"{key} is {line[key]!r}")
    for counts in (line["counts"], line["counts"]["characters"]):
        for key in ("substitutions", "deletions", "insertions", "reference_length"):
            if not isinstance(counts[key], int):
                raise TypeError(f"{key} is {counts[key]!r}")
    return line


def write_quarantine(folder: Path, rejected: Mapping[str, Iterable[Any]]) -> None:
    """`quarantine.jsonl`: one line for each utterance left out, with its split, file and reason. Lines of
    other splits stay.
    """
    path = folder / "quarantine.jsonl"
    before = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    lines = [line for line in before if json.loads(line)["split"] not in rejected]
    lines += [
        json.dumps({"split": split, **asdict(one)}, ensure_ascii=False) + "\n"
        for split, rows in rejected.items()
        for one in rows
    ]
    write_text(path, "".join(lines))


DEV_CANDIDATE = "hypotheses.dev.candidate.jsonl"
