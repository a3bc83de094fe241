"""A table as the document of --json: everything that the pages show, as numbers. Rates are fractions."""

from typing import Any

from asr_exp.commands.table.rows import Entry, ResultTable
from asr_exp.commands.table.wording import describe


def document(table: ResultTable) -> dict[str, Any]:
    """The table; its entries name the protocols by their letters."""
    return {
        "name": table.name,
        "rows": table.row_keys,
        "columns": table.column_keys,
        "mean_over": table.mean_over,
        "entries": [_entry(entry) for entry in table.entries],
        "protocols": [
            {"letter": one.letter, "hash": one.hash, "description": describe(one), "parts": one.parts}
            for one in table.protocols
        ],
        "published_elsewhere": table.elsewhere,
    }


def _entry(entry: Entry) -> dict[str, Any]:
    published = entry.published
    return {
        "row": entry.row,
        "column": entry.column or None,
        "status": entry.status,
        "metric": entry.scores[0].metric if entry.scores else None,
        "value": entry.mean,
        "ci95": entry.interval,
        "protocol": entry.letter or None,
        "published": published.value,
        "source": published.source,
        "difference": entry.difference,
        "verdict": entry.verdict or None,
        "notes": entry.notes,
        "wall_seconds": entry.wall_seconds,
        "hardware": entry.hardware or None,
        "command": entry.command,
        "runs": [
            {
                "name": cell.name,
                "signature": cell.signature or None,
                "status": cell.status,
                "reason": cell.reason or None,
                "trained_on": cell.trained_on or None,
                "value": cell.score.value if cell.score else None,
                "ci95": cell.score.ci95 if cell.score else None,
                "coverage": cell.score.coverage if cell.score else None,
                "utterances": cell.score.utterances if cell.score else None,
            }
            for cell in entry.cells
        ],
    }
