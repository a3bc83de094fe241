"""Files of JSON lines that training appends to, such as metrics.jsonl, and how a damaged one is restored."""

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class MetricsFile:
    """A file of JSON lines, each with its step, such as `metrics.jsonl`. It holds only what another run of
    the same steps would repeat, so no times.
    """

    def __init__(self, path: Path, lines: int, copy: Path | None = None):
        """Open a file for appending, cut back to its first `lines`: those that a checkpoint counts. The steps
        after the checkpoint are made again, and so are their lines.

        copy: of these lines, in the checkpoint; earlier versions kept none. Where the file is not what the
        checkpoint knows (cut, deleted, overwritten), it is restored from the copy, or else its good lines are
        kept, and a line says so; the damaged file stays beside it as `NAME.damaged`.
        """
        kept = _past(path, lines, copy) if lines else b""
        self.lines = kept.count(b"\n")
        beside = path.with_name(path.name + ".new")
        with beside.open("wb") as file:
            file.write(kept)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append lines and hand them to the operating system: a killed process loses none."""
        texts = [json.dumps(line) + "\n" for line in lines]
        self._file.writelines(texts)
        self._file.flush()
        self.lines += len(texts)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk, which `write` has raised already
            self._file.close()


def _past(path: Path, lines: int, copy: Path | None) -> bytes:
    """The first `lines` of a file of JSON lines, restored where they are damaged."""
    found = path.read_bytes() if path.is_file() else b""
    if copy is not None and copy.is_file():
        kept = copy.read_bytes()
        if found.startswith(kept):
            return kept
        told = f"was {'damaged' if found else 'missing'}; it is restored from the checkpoint"
    else:
        rows = [row + b"\n" for row in found.split(b"\n")[:-1]][:lines]
        good = [row for row in rows if _is_line(row)]
        if len(good) == lines:
            return b"".join(good)
        kept, lost = b"".join(good), lines - len(good)
        told = f"lacked {lost} of the {lines} lines up to the checkpoint; they are lost"
    aside = path.with_name(path.name + ".damaged")
    if found:
        path.rename(aside)
        told += f", and the damaged file is kept as {aside.name}"
    log.warning("%s %s.", path, told)
    return kept


def _is_line(text: bytes) -> bool:
    """Whether a line is a JSON object of a step."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(line, dict) and isinstance(line.get("step"), int)
