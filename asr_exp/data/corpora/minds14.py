"""MInDS-14 (8 kHz): from the hub, from its parquet files in a folder, or from MInDS-14.zip unpacked. The
corpus has one split, out of which dev and test are carved.
"""

import csv
from pathlib import Path
from typing import Any

from asr_exp.core.errors import UserError, nearest
from asr_exp.data.corpora.base import (
    Corpus,
    FileAudio,
    Rejected,
    Utterance,
    Utterances,
    register_reader,
    resolve_root,
)
from asr_exp.data.corpora.hub import Fields, load_table, read_split, rows_of
from asr_exp.data.corpora.splits import Rows, gather

_FIELDS = Fields(text="transcription", id="path")


@register_reader("minds14")
def read_minds14(dataset: Any, cache: Path) -> Corpus:
    """Read MInDS-14. `dataset.language` is the hub's configuration (en-US, de-DE ...). Speakers are not
    known.
    """
    root = resolve_root(dataset)
    if not dataset.language:
        raise UserError("MInDS-14 needs a language, as the corpus writes it: dataset.language=en-US.")
    if root is None:

        def read(split: str, key: str) -> Rows:
            return read_split(dataset.hub, dataset.hub.config or dataset.language, split, _FIELDS, key)

        return gather(dataset, read, f"the hub's {dataset.hub.id}", source="hub")
    table = next(iter(sorted(root.glob(f"**/text/{dataset.language}.csv"))), None)
    if table is not None:
        return gather(dataset, lambda split, key: _read_csv(table), str(root))
    parquet = _parquet_files(root, dataset.language)
    return gather(dataset, lambda split, key: rows_of(_load(parquet, split, key), _FIELDS, split), str(root))


def _load(files: list[str], split: str, key: str) -> Any:
    return load_table("parquet", None, split, None, key, data_files={"train": files})


def _parquet_files(root: Path, language: str) -> list[str]:
    """The parquet files of ROOT/LANGUAGE or of ROOT itself. Raises UserError where there are none."""
    folder = root / language if (root / language).is_dir() else root
    files = sorted(str(p) for p in folder.glob("*.parquet"))
    if files and (folder != root or root.name == language or not next(root.glob("*/*.parquet"), None)):
        return files
    languages = sorted(
        {p.parent.name for p in root.glob("*/*.parquet")} | {p.stem for p in root.glob("**/text/*.csv")}
    )
    if not languages:
        raise UserError(
            f"dataset.root={root} holds neither LANGUAGE/*.parquet nor text/LANGUAGE.csv; "
            "give the folder of the hub's repository, or of MInDS-14.zip unpacked."
        )
    raise UserError(
        f"dataset.language={language} is not in {root}.{nearest(language, languages)} Languages there:"
        f" {', '.join(languages)}."
    )


def _read_csv(table: Path) -> Rows:
    """Read text/LANGUAGE.csv. Its columns are the file under audio/, the transcription, an English
    translation and the intent; the first line is a header.
    """
    utterances = Utterances()
    rejected: list[Rejected] = []
    with table.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.reader(lines, skipinitialspace=True)
        next(rows, None)
        for row in filter(None, rows):
            if len(row) < 2 or not row[0]:
                reason = f"line {rows.line_num} has too few fields or no path"
                rejected.append(Rejected(f"{table.name}:{rows.line_num}", str(table), reason))
            else:
                utterances.append(
                    Utterance(
                        Path(row[0]).stem, FileAudio(str(table.parent.parent / "audio" / row[0])), row[1]
                    )
                )
    return utterances, rejected
