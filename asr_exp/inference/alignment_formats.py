"""Alignments as files: Praat's TextGrid, NIST's CTM, JSON."""

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
_ENDING = re.compile(r"\.(wav|flac|mp3|ogg|opus|sph)$", re.IGNORECASE)

Tiers = Mapping[str, Sequence[Word]]


def textgrid(tiers: Tiers, seconds: float) -> str:
    """A TextGrid in Praat's long text format: interval tiers that cover the recording, with empty intervals
    where nothing is said.

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
        intervals = _covering(words, seconds)
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


def _covering(words: Sequence[Word], seconds: float) -> list[tuple[float, float, str]]:
    """Intervals from 0 to the end: the words, and the gaps between them."""
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
    """Lines of a CTM: recording, channel, start, duration, word, confidence, as NIST's sclite reads them."""
    name = "_".join(name.split())
    return "".join(
        f"{name} 1 {w.start:.3f} {w.end - w.start:.3f} {w.text} {w.confidence:.4f}\n" for w in words
    )


def unused(name: str, taken: set[str]) -> str:
    """A name, with a number where it is among those taken; it then is."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found


class AlignmentWriter:
    """Where alignments go: to a folder, a file each (as CTM, a file for each tier), or to standard output."""

    def __init__(self, folder: Path | None, formats: Sequence[str]):
        """Raises UserError where the folder cannot be written."""
        self.folder, self.formats = folder, formats
        # alignment.json tells of them all
        self._names: set[str] = {"alignment"} if folder and "json" in formats else set()
        self._begun: set[str] = set()  # files of many recordings that have some already
        try:
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as why:
            raise UserError(
                f"Nothing can be written to out={folder} ({why.strerror}); give another folder."
            ) from None

    def write(self, name: str, tiers: Tiers, seconds: float, facts: Mapping[str, Any]) -> str:
        """Write one recording's tiers, in every format -> what it is called there. facts: what JSON says
        besides.
        """
        plain = re.sub(r"[^\w.+-]+", "_", _ENDING.sub("", name)).strip("._") or "recording"
        name = unused(plain, self._names)
        for format in self.formats:
            if format == "textgrid":
                self._put(f"{name}.TextGrid", textgrid(tiers, seconds))
            elif format == "json":
                said = {
                    **facts,
                    "seconds": round(seconds, 3),
                    **{tier: [asdict(one) for one in words] for tier, words in tiers.items()},
                }
                self._put(
                    f"{name}.json",
                    json.dumps(said, ensure_ascii=False, indent=2 if self.folder else None) + "\n",
                )
            else:
                for tier, words in tiers.items() if self.folder else list(tiers.items())[:1]:
                    self._put(f"{tier}.ctm", ctm(name, words))
        return name

    def _put(self, name: str, text: str) -> None:
        if self.folder is None:
            sys.stdout.write(text)
            return
        with (self.folder / name).open("a" if name in self._begun else "w", encoding="utf-8") as file:
            file.write(text)
        self._begun.add(name)
