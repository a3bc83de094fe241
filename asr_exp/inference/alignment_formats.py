"""File formats of alignments: Praat's TextGrid, NIST's CTM, JSON."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asr_exp.core.errors import UserError
from asr_exp.decoding.alignment import Word

FORMATS = ("textgrid", "ctm", "json")
_AUDIO_ENDING = re.compile(r"\.(wav|flac|mp3|ogg|opus|sph)$", re.IGNORECASE)

Tiers = Mapping[str, Sequence[Word]]  # name of a tier to its intervals, as a TextGrid has them


def textgrid(tiers: Tiers, seconds: float) -> str:
    """A TextGrid in Praat's long text format, for a recording of so many seconds.

    Interval tiers have no gaps: intervals without text stand where there are no words. The format:
    https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html
    """
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {_number(seconds)}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, words) in enumerate(tiers.items(), 1):
        intervals = _intervals(words, seconds)
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{name}"',
            "        xmin = 0",
            f"        xmax = {_number(seconds)}",
            f"        intervals: size = {len(intervals)}",
        ]
        for place, (start, end, text) in enumerate(intervals, 1):
            quoted = text.replace('"', '""')
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {_number(start)}",
                f"            xmax = {_number(end)}",
                f'            text = "{quoted}"',
            ]
    return "\n".join(lines) + "\n"


def _intervals(words: Sequence[Word], seconds: float) -> list[tuple[float, float, str]]:
    """(start, end, text) of the words and of the gaps between them, from 0 to the end of the recording."""
    intervals: list[tuple[float, float, str]] = []
    now = 0.0
    for word in words:
        if word.start > now:
            intervals.append((now, word.start, ""))
        now = min(word.end, seconds)
        intervals.append((word.start, now, word.text))
    return [*intervals, (now, seconds, "")] if now < seconds or not intervals else intervals


def _number(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def ctm(name: str, words: Sequence[Word]) -> str:
    """The lines of a CTM file for one recording: name, channel, start, duration, word, confidence, as NIST's
    sclite reads them. Blanks in the name become underscores.
    """
    name = "_".join(name.split())
    return "".join(
        f"{name} 1 {w.start:.3f} {w.end - w.start:.3f} {w.text} {w.confidence:.4f}\n" for w in words
    )


def unused(name: str, taken: set[str]) -> str:
    """The name, or name_2, name_3 ... where it is taken. The result is added to `taken`."""
    candidate = name
    number = 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


class AlignmentWriter:
    """Writes alignments to a folder: a file for each recording, in CTM a file for each tier. Without a folder
    it writes to standard output.

    Raises UserError where the folder cannot be created.
    """

    def __init__(self, folder: Path | None, formats: Sequence[str]):
        self.folder = folder
        self.formats = formats
        # alignment.json is the summary
        self._names: set[str] = {"alignment"} if folder and "json" in formats else set()
        self._started: set[str] = set()  # files to which this writer has written: it appends to them
        try:
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as why:
            raise UserError(
                f"Nothing can be written to out={folder} ({why.strerror}); give another folder."
            ) from None

    def write(self, name: str, tiers: Tiers, seconds: float, metadata: Mapping[str, Any]) -> str:
        """Write the tiers of one recording in every format.

        Args:
            name: the recording's id; characters that do not belong in a file's name are replaced.
            tiers: words and units with their times.
            seconds: the length of the recording.
            metadata: further entries of the JSON format.

        Returns:
            The name of the files, without ending.
        """
        plain = re.sub(r"[^\w.+-]+", "_", _AUDIO_ENDING.sub("", name)).strip("._") or "recording"
        name = unused(plain, self._names)
        for format in self.formats:
            if format == "textgrid":
                self._append(f"{name}.TextGrid", textgrid(tiers, seconds))
            elif format == "json":
                record = {
                    **metadata,
                    "seconds": round(seconds, 3),
                    **{tier: [asdict(one) for one in words] for tier, words in tiers.items()},
                }
                self._append(
                    f"{name}.json",
                    json.dumps(record, ensure_ascii=False, indent=2 if self.folder else None) + "\n",
                )
            else:
                # standard output gets the first tier alone: a CTM has no column for the tier
                for tier, words in tiers.items() if self.folder else list(tiers.items())[:1]:
                    self._append(f"{tier}.ctm", ctm(name, words))
        return name

    def _append(self, name: str, text: str) -> None:
        if self.folder is None:
            sys.stdout.write(text)
            return
        with (self.folder / name).open("a" if name in self._started else "w", encoding="utf-8") as file:
            file.write(text)
        self._started.add(name)
