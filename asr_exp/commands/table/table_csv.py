"""A table as CSV: a line for each entry, with everything that the other pages show. Rates are fractions, to
the last digit.
"""

import csv
import io
from typing import Any

from asr_exp.commands.table.rows import Entry, ResultTable, ScoringProtocol
from asr_exp.commands.table.wording import describe


def table_csv(table: ResultTable) -> str:
    """The whole file, its header first."""
    protocols = {one.letter: one for one in table.protocols}
    lines = [_line(entry, protocols.get(entry.letter)) for entry in table.entries]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _line(entry: Entry, protocol: ScoringProtocol | None) -> dict[str, Any]:
    low, high = entry.interval or (None, None)
    published = entry.published
    return {
        "row": entry.row,
        "column": entry.column,
        "status": entry.status,
        "metric": entry.scores[0].metric if entry.scores else "",
        "published": published.value,
        "ours": entry.mean,
        "ci95_low": low,
        "ci95_high": high,
        "runs": len(entry.scored),
        "runs_asked": len(entry.cells),
        "difference": entry.difference,
        "verdict": entry.verdict,
        "tolerance": published.tolerance,
        "protocol": entry.letter,
        "protocol_hash": protocol.hash if protocol else "",
        "protocol_parts": describe(protocol) if protocol else entry.material,
        "coverage": min((score.coverage for score in entry.scores), default=None),
        "utterances": min((score.utterances for score in entry.scores), default=None),
        "published_split": published.split,
        "published_hardware": published.hardware,
        "published_time": published.time,
        "source": published.source,
        "hardware": entry.hardware,
        "seconds": entry.wall_seconds,
        "notes": "; ".join(entry.notes),
        "command": entry.command,
    }
