"""Files of a run folder: result.json with the protocol of its scores, the hypotheses, the quarantine."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asr_exp.config.rules_name import shown_protocol
from asr_exp.core.errors import UserError
from asr_exp.core.files import read_json, write_text

LOSSES = (
    "losses.train.jsonl"  # a line a step: its utterances, as rows of the training split, and their losses
)
DEV_CANDIDATE = (
    "hypotheses.dev.candidate.jsonl"  # of the last score of dev, before it is known to be the best
)
OF_THE_SPLIT = ("split", "ids", "coverage", "hash")  # keys of a protocol that differ between splits
NUMBER = (int, float)
STATUSES = ("finished", "stopped", "failed")
SCORE: dict[str, Any] = {
    **dict.fromkeys(("wer", "cer", "per", "coverage", "ci95_degrees"), NUMBER),
    "ci95": list,
    **dict.fromkeys(("substitutions", "deletions", "insertions", "reference_length"), int),
    **dict.fromkeys(("utterances", "skipped"), int),
}  # the types of the entries of a split in result.json
RESULT: dict[str, Any] = {
    "status": str,
    "reason": str,
    "signature": str,
    "rehearsal": bool,
    "seed": int,
    "versions": dict,
    "data": dict,
    "protocol": {"hash": str},
    "checkpoint": {"hash": str},
    "best": {"step": int, "metric": str, "value": NUMBER},
    "splits": dict,
    "train": {"steps": int, "wall_seconds": NUMBER, "audio_seconds_per_second": NUMBER},
}  # and of a result.json
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
    hashes are equal. The name of changed text rules gets a star, which is not in the hash: the rules are. A
    hash among the parts is that of other ones, and is replaced.
    """
    parts.pop("hash", None)
    if isinstance(parts.get("text"), str):
        parts["text"] = parts["text"].removesuffix("*")  # of a protocol that was shown
    digest = hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=6).hexdigest()
    return {**shown_protocol(parts), "hash": digest}


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write the result.json of a run."""
    write_text(folder / "result.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def read_result(folder: Path) -> dict[str, Any] | None:
    """The content of a run's result.json; None where it does not exist, is not complete, or has an entry of
    another type than RESULT says: the run then counts as one that has not finished.

    Earlier versions wrote the name of changed text rules without a star.
    """
    result = read_json(folder / "result.json")
    if not result or not _fits(result, RESULT):
        return None
    if result.get("protocol"):
        result = {**result, "protocol": shown_protocol(result["protocol"])}
    return result


def _fits(entries: Any, kinds: Mapping[str, Any]) -> bool:
    """Whether entries are a dict, and those that `kinds` names are of its types, missing or null."""
    if not isinstance(entries, dict):
        return False
    for key, kind in kinds.items():
        value = entries.get(key)
        if value is None:
            continue
        if not (_fits(value, kind) if isinstance(kind, dict) else isinstance(value, kind)):
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if key == "best" and not kind.keys() <= value.keys():
            return False
        if key == "splits" and not all(_fits(score, SCORE) for score in value.values()):
            return False
        if key == "ci95" and (len(value) != 2 or not all(isinstance(end, NUMBER) for end in value)):
            return False
    return "status" not in kinds or entries.get("status") in STATUSES


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
    before = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    lines = [line + "\n" for line in before if line and json.loads(line)["split"] not in rejected]
    lines += [
        json.dumps({"split": split, **asdict(one)}, ensure_ascii=False) + "\n"
        for split, rows in rejected.items()
        for one in rows
    ]
    write_text(path, "".join(lines))
