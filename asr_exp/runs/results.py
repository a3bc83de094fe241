"""Files of a run folder: result.json with the protocol of its scores, the hypotheses, the quarantine."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asr_exp.core.errors import UserError
from asr_exp.core.files import read_json, write_text

LOSSES = (
    "losses.train.jsonl"  # a line a step: its utterances, as rows of the training split, and their losses
)
DEV_CANDIDATE = (
    "hypotheses.dev.candidate.jsonl"  # of the last score of dev, before it is known to be the best
)
KINDS: dict[str, Any] = {
    "id": str,
    "reference": str,
    "hypothesis": str,
    "counts": dict,
    "speaker": str | None,
    "seconds": int | float,
    "loss": int | float | None,
}  # the types of the fields of a line of hypotheses


def protocol(**parts: Any) -> dict[str, Any]:
    """The settings that a score was measured with, and their hash. Two scores may be compared only where the
    hashes are equal. A hash among the parts is that of other ones, and is replaced.
    """
    parts.pop("hash", None)
    digest = hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=6).hexdigest()
    return {**parts, "hash": digest}


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write the result.json of a run."""
    write_text(folder / "result.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def read_result(folder: Path) -> dict[str, Any] | None:
    """The content of a run's result.json; None where it does not exist or is not complete."""
    return read_json(folder / "result.json")


def read_hypotheses(path: Path) -> dict[str, dict[str, Any]]:
    """Read a `hypotheses.<split>.jsonl`: its lines by the id of the utterance, in their order.

    Raises UserError for a line that is malformed, or that repeats an id.
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
    """A line of hypotheses as it is. Raises KeyError or TypeError for a field that is missing or of another
    type.
    """
    for key, kind in KINDS.items():
        if not isinstance(line[key], kind):
            raise TypeError(f"{key} is {line[key]!r}")
    for counts in (line["counts"], line["counts"]["characters"]):
        for key in ("substitutions", "deletions", "insertions", "reference_length"):
            if not isinstance(counts[key], int):
                raise TypeError(f"{key} is {counts[key]!r}")
    return line


def write_quarantine(folder: Path, rejected: Mapping[str, Iterable[Any]]) -> None:
    """Write `quarantine.jsonl`: a line for each utterance that is left out, with its split, file and reason.

    rejected: by split; the lines of other splits in the file stay.
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
