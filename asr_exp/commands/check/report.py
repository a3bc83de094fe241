"""The report of a check, on the terminal and in check.jsonl."""

import json
import logging
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr_exp.commands.check.findings import FAIL, NOTE, WARN, Finding
from asr_exp.core import console
from asr_exp.core.files import write_text
from asr_exp.core.json_document import give_json

log = logging.getLogger(__name__)

FILE = "check.jsonl"
WRAP = 65  # columns of a value


@dataclass
class CheckReport:
    """Prints the sections of a check one after the other, and keeps their findings."""

    findings: list[Finding] = field(default_factory=list)
    sections: list[dict[str, Any]] = field(default_factory=list)  # as --json has them

    def section(
        self,
        title: str,
        rows: Iterable[tuple[str, str]],
        findings: Iterable[Finding],
        footer: Sequence[str] = (),
    ) -> None:
        """Print a section: a table of names and values, then the findings, the worst first. footer: lines
        between the two.
        """
        ordered = sorted(findings, key=lambda one: (FAIL, WARN, NOTE).index(one.level))
        self.findings += ordered
        rows = list(rows)
        self.sections.append(
            {
                "title": title,
                "rows": [{"name": name, "value": value} for name, value in rows],
                "findings": [one.document() for one in ordered],
            }
        )
        console.page(title, rows)
        for line in (*footer, *(line for one in ordered for line in one.lines())):
            log.info("%s", line)

    def verdict(self, folder: Path) -> int:
        """Print the last section, and write check.jsonl into the run folder, or remove an old one where
        nothing is wrong -> exit status.
        """
        levels = Counter(one.level for one in self.findings)
        lines = as_json_lines(self.findings)
        path = folder / FILE
        rows = [("found", f"{levels[FAIL]} FAIL, {levels[WARN]} WARN")]
        if lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, lines)
            rows += [("utterances", f"{console.counted(lines.count(chr(10)), 'line')} in"), ("", str(path))]
        else:
            path.unlink(missing_ok=True)
        next_step = (
            "mend what says FAIL, then look again" if levels[FAIL] else "the same settings with `train`"
        )
        console.page("Verdict", [*rows, ("next", next_step)])
        give_json(
            "check",
            {
                "status": "fail" if levels[FAIL] else "warn" if levels[WARN] else "ok",
                "found": {level: levels[level] for level in (FAIL, WARN, NOTE)},
                "sections": self.sections,
                "run": folder,
                "utterances": path if lines else None,
            },
        )
        return 1 if levels[FAIL] else 0


def as_json_lines(findings: Iterable[Finding]) -> str:
    """A line of JSON for each utterance of each finding, notes excepted."""
    return "".join(
        json.dumps({"level": one.level, "fault": one.fault, **concern._asdict()}, ensure_ascii=False) + "\n"
        for one in findings
        if one.level != NOTE
        for concern in one.concerns
    )


def histogram(values: Sequence[float], unit: str, bins: int = 10, width: int = 40) -> list[str]:
    """A histogram in text, a line for each bin. Bins are equally wide, start at zero and have a round width.

    width: columns of the longest bar.
    """
    if not values:
        return []
    round_steps = [m * 10.0**e for e in range(-2, 4) for m in (1, 2, 5)]
    step = next((s for s in round_steps if s * bins >= max(values)), max(values) / bins)
    counts = Counter(min(int(v / step), bins - 1) for v in values)
    largest = max(counts.values())
    bars = ["#" * -(-counts[i] * width // largest) for i in range(max(counts) + 1)]
    return [
        f"{i * step:>7g} - {(i + 1) * step:<5g} {unit} {bar:<{width}} {counts[i]:>9,}"
        for i, bar in enumerate(bars)
    ]


def most_common(counts: Mapping[str, int], shown: int = 4) -> str:
    """'FLAC PCM_16 1,200, MP3 4'."""
    ordered = Counter(counts).most_common()
    more = f" and {len(ordered) - shown} more" if len(ordered) > shown else ""
    return ", ".join(f"{name} {n:,}" for name, n in ordered[:shown]) + more


def wrapped(name: str, value: str) -> list[tuple[str, str]]:
    """A row of a section whose value may take several lines."""
    return [("" if number else name, line) for number, line in enumerate(textwrap.wrap(value, WRAP))]
