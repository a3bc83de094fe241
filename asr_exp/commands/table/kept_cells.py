"""The cells of a table in a CSV file (`table keep=FILE`, and `cells=FILE` to read it back): what the run
folders said, to the last digit, so that a table can be made again without them.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asr_exp.commands.table.rows import TableCell
from asr_exp.commands.table.scores import PublishedScore, Score
from asr_exp.core.errors import UserError

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
    "data",
    "trained_on",
)


def cells_csv(cells: Sequence[TableCell]) -> str:
    """A line for each run. What its config says is not in it: that is composed again."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cell in cells:
        line = {"cell": cell.name, "status": cell.status, "reason": cell.reason}
        line |= {"signature": cell.signature, "recipe": cell.recipe, "trained_on": cell.trained_on}
        writer.writerow(line | (_score_columns(cell.score) if cell.score else {}))
    return out.getvalue()


def _score_columns(score: Score) -> dict[str, Any]:
    low, high = score.ci95 or ("", "")
    return {
        "metric": score.metric,
        "value": score.value,
        "ci95_low": low,
        "ci95_high": high,
        "ci95_degrees": score.degrees,
        "coverage": score.coverage,
        "utterances": score.utterances,
        "protocol_hash": score.protocol["hash"],
        "hardware": score.hardware,
        "wall_seconds": score.wall_seconds,
        "steps": score.steps,
        "version": score.version,
        "data": score.data,
        "protocol": json.dumps(score.protocol, sort_keys=True, ensure_ascii=False),
    }


@dataclass(frozen=True)
class KeptCells:
    """The lines of a file that `cells_csv` wrote, by the cells' names."""

    path: Path
    lines: Mapping[str, Mapping[str, str]]

    @staticmethod
    def read(path: Path) -> "KeptCells":
        """Raises UserError for a file that cannot be read, or that `cells_csv` did not write."""
        try:
            with path.open(newline="", encoding="utf-8") as file:
                lines = list(csv.DictReader(file))
        except OSError as error:
            raise UserError(
                f"cells={path} cannot be read ({error.strerror}); give a file that `table keep=FILE` wrote."
            ) from error
        if not all({"cell", "status", "value", "protocol", "recipe"} <= line.keys() for line in lines):
            raise UserError(
                f"cells={path} has not the columns of a table's cells; give a file that `table keep=FILE`"
                " wrote."
            )
        return KeptCells(path, {line["cell"]: line for line in lines})

    def read_cell(self, cell: TableCell) -> TableCell:
        """The cell with the status, reason and score that the file gives it.

        Raises UserError for a line that has been edited so that it makes no score.
        """
        line = self.lines.get(cell.name)
        if line is None:
            return replace(cell, status="missing", reason=f"not in {self.path.name}")
        if line["recipe"] != cell.recipe:
            reason = f"its recipe is not that of {self.path.name} any more"
            return replace(cell, status="stale", reason=reason)
        score = _score(line, self.path) if line["status"] == "finished" else None
        if origin := line.get("trained_on"):
            cell = replace(cell, trained_on=origin, published=PublishedScore())
        return replace(
            cell, signature=line["signature"], status=line["status"], reason=line["reason"], score=score
        )


def _score(line: Mapping[str, str], path: Path) -> Score:
    def number(name: str) -> float | None:
        return float(line[name]) if line.get(name) else None

    try:
        low, high = number("ci95_low"), number("ci95_high")
        steps = number("steps")
        return Score(
            metric=line["metric"],
            value=float(line["value"]),
            ci95=None if low is None or high is None else (low, high),
            degrees=number("ci95_degrees"),
            coverage=float(line["coverage"]),
            utterances=int(line["utterances"]),
            protocol=json.loads(line["protocol"]),
            hardware=line["hardware"],
            wall_seconds=number("wall_seconds"),
            steps=None if steps is None else int(steps),
            version=line["version"],
            data=line.get("data") or "",
        )
    except (KeyError, ValueError) as error:
        raise UserError(
            f"cells={path}, {line['cell']!r}: {error}. The file has been edited; write it again with `table"
            " keep=FILE`."
        ) from error
