"""Corrected transcripts: a table of ids and transcripts that is laid over a corpus, such as the suspects.csv
of a report after it has been mended.
"""

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from asr_exp.config.data_schema import Columns
from asr_exp.core.errors import UserError
from asr_exp.data.columns import PackedStrings
from asr_exp.data.corpora.base import SPLITS, Corpus
from asr_exp.data.corpora.manifest_formats import read_rows
from asr_exp.data.utterances import Utterances

log = logging.getLogger(__name__)

COLUMNS = ("id", "transcript", "split")  # split may be missing, or empty: any split


@dataclass(frozen=True)
class Corrections:
    """The transcripts of a file by (split, id); split is '' for a row that holds for every split.

    file: as the user gave it; digest: of what the rows say, whatever their order.
    """

    file: str
    transcripts: Mapping[tuple[str, str], str]

    @property
    def digest(self) -> str:
        lines = sorted("\t".join((*key, text)) for key, text in self.transcripts.items())
        return hashlib.blake2b("\n".join(lines).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    def apply(self, corpus: Corpus, only: str | None = None) -> Corpus:
        """The corpus with these transcripts. A row that names no utterance is counted, and said.

        only: the one split that was read, if not all were. Raises UserError where no row names an utterance
        of a corpus that was read whole.
        """
        matched: set[tuple[str, str]] = set()
        changed = 0
        splits: dict[str, Utterances] = {}
        for name, rows in corpus.splits.items():
            texts = []
            for id, text in zip(rows.ids(), rows.texts(), strict=True):
                key = next((key for key in ((name, id), ("", id)) if key in self.transcripts), None)
                if key is not None:
                    matched.add(key)
                    changed += self.transcripts[key] != text
                    text = self.transcripts[key]
                texts.append(text)
            splits[name] = rows.with_texts(PackedStrings(texts)).cleaned()
        unmatched = [id for split, id in self.transcripts.keys() - matched if only in (None, split)]
        if unmatched and only is None:
            if not matched:
                raise UserError(
                    f"dataset.corrections={self.file}: no utterance has the id {min(unmatched)!r}, nor any"
                    " other of its ids; give the corrections of this dataset."
                )
            log.warning(
                "%s: %d of %d ids name no utterance, the first %r.",
                self.file, len(unmatched), len(self.transcripts), min(unmatched),
            )  # fmt: skip
        log.info("%s corrects %d transcripts.", self.file, changed)
        return Corpus(splits, corpus.rejected, corpus.subsets, corpus.source)


def read_corrections(path: str) -> Corrections:
    """Read a CSV, TSV, JSON or JSON Lines file with the columns id and transcript, and split where there is
    one. An empty transcript leaves its utterance out.

    Raises UserError where it cannot be read, lacks a column, or says two things of one utterance.
    """
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        raise UserError(
            f"dataset.corrections={path} is not a file (looked in {Path.cwd()}); give a table with the"
            " columns id and transcript, such as the suspects.csv of a report."
        )
    transcripts: dict[tuple[str, str], str] = {}
    for row in read_rows(file, _delimiter(file), lambda names: Columns(id=COLUMNS[0], text=COLUMNS[1])):
        where = f"{file}, row {row.number}"
        if row.broken:
            raise UserError(f"{where}: {row.broken}.")
        missing = next((name for name in COLUMNS[:2] if not isinstance(row.cells.get(name), str)), None)
        if missing:
            raise UserError(
                f"{where} has no {missing}; dataset.corrections needs the columns id and transcript."
            )
        split = str(row.cells.get("split") or "")
        if split and split not in SPLITS:
            raise UserError(f"{where}: its split {split!r} is not one of {', '.join(SPLITS)}.")
        key = (split, row.cells["id"])
        if transcripts.setdefault(key, row.cells["transcript"]) != row.cells["transcript"]:
            raise UserError(f"{where}: {key[1]!r} has another transcript in a row above; keep one of them.")
    return Corrections(path, transcripts)


def _delimiter(file: Path) -> str | None:
    """`;` where it parts the file's first line, as many spreadsheets save it; None: the usual one."""
    with file.open(encoding="utf-8-sig", errors="replace") as stream:
        names = stream.readline().replace('"', "").strip().split(";")
    return ";" if set(COLUMNS[:2]) <= set(names) else None
