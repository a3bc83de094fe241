"""What became of the recordings: how many were aligned, and which were left out, and why."""

import textwrap
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from asr_exp.commands.align.transcript import AlignmentTranscript
from asr_exp.core.console import counted
from asr_exp.core.errors import UserError


@dataclass
class AlignmentSummary:
    """Counts of the recordings.

    left_out: id, file and reason of each that could not be aligned. unknown: units that the vocabulary lacks.
    silent: words of which the text rules leave nothing. rewritten: how many recordings have the words of the
    text rules instead of those of the transcript. files: names of alignments to paths of recordings.
    """

    aligned: int = 0
    left_out: list[dict[str, str]] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    silent: Counter[str] = field(default_factory=Counter)
    rewritten: int = 0
    files: dict[str, str] = field(default_factory=dict)

    def add(self, transcript: AlignmentTranscript) -> None:
        """Count an aligned recording."""
        self.aligned += 1
        self.unknown.update(transcript.unknown)
        self.silent.update(transcript.silent)
        self.rewritten += not transcript.as_written

    def check(self) -> None:
        """Raises UserError where nothing was aligned."""
        if self.aligned:
            return
        first = self.left_out[0] if self.left_out else {"file": "no recording", "reason": "there is none"}
        raise UserError(
            f"Nothing could be aligned, of {len(self.left_out)}. The first, {first['file']}:"
            f" {first['reason']}."
        )

    def lines(self, folder: Path | None) -> list[str]:
        """The summary for the terminal, in lines of at most 80 columns. folder: of the alignments."""
        lines = [f"{counted(self.aligned, 'recording')} aligned" + (f": {folder}" if folder else "")]
        lines += [f"  left out  {one['file']}: {one['reason']}" for one in self.left_out[:5]]
        if len(self.left_out) > 5:
            lines.append(f"  left out  {len(self.left_out) - 5} more; alignment.json names them")
        if self.unknown:
            lines.append(f"  not in the vocabulary, and passed over: {_most_common(self.unknown)}")
        if self.silent:
            lines.append(f"  of no sound by the text rules, and without a time: {_most_common(self.silent)}")
        if self.rewritten:
            number = counted(self.rewritten, "recording")
            lines.append(f"  {number} whose words are those of the text rules, not of the writer")
        return [
            textwrap.fill(
                line, 80, subsequent_indent="      ", break_long_words=False, break_on_hyphens=False
            )
            for line in lines
        ]


def _most_common(counts: Counter[str], shown: int = 6) -> str:
    names = ", ".join(f"{unit} ({number})" for unit, number in counts.most_common(shown))
    return names + (f" and {len(counts) - shown} more" if len(counts) > shown else "")
