"""Common Voice as it is released, cv-corpus-*/LANGUAGE/{train,dev,test,validated,...}.tsv and clips/*.mp3, or
a mirror on the hub.
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
from asr_exp.data.corpora.hub import Fields, read_split
from asr_exp.data.corpora.splits import Rows, gather

_FIELDS = Fields(text="sentence", speaker="client_id", id="path")
_HUB_SPLITS = {"dev": "validation"}


@register_reader("common-voice")
def read_common_voice(dataset: Any, cache: Path) -> Corpus:
    """Read Common Voice. Subsets are the names of the TSV files: train, dev, test, validated, other,
    invalidated.
    """
    root = resolve_root(dataset)
    if root is not None:
        folder = _language_folder(root, dataset)
        return gather(dataset, lambda subset, key: _read_tsv(folder, subset, key), str(folder))
    if not dataset.language:
        raise UserError("Common Voice needs a language, as its releases write it: dataset.language=tr.")

    def read(subset: str, key: str) -> Rows:
        return read_split(
            dataset.hub, dataset.hub.config or dataset.language, _HUB_SPLITS.get(subset, subset), _FIELDS, key
        )

    return gather(dataset, read, f"the hub's {dataset.hub.id}", source="hub")


def _language_folder(root: Path, dataset: Any) -> Path:
    """ROOT/LANGUAGE, ROOT/cv-corpus-*/LANGUAGE or ROOT itself. Raises UserError where the language is not
    there.
    """
    releases = [root, *sorted(root.glob("cv-corpus*"))]
    languages = {
        p.name: p
        for release in reversed(releases)
        for p in sorted(release.iterdir())
        if next(p.glob("*.tsv"), None)
    }
    if dataset.language in languages:
        return languages[dataset.language]
    tsv = next(iter(sorted(root.glob("*.tsv"))), None)
    if tsv is not None:
        languages = {root.name: root}
        if dataset.language == root.name or (dataset.language and _locale(tsv) == dataset.language):
            return root
    if not languages:
        raise UserError(
            f"dataset.root={dataset.root} holds no Common Voice language; give the folder cv-corpus-*, "
            "which holds LANGUAGE/train.tsv and LANGUAGE/clips."
        )
    problem = (
        f"dataset.language={dataset.language} is not in {root}"
        if dataset.language
        else f"dataset.language is not given for {root}"
    )
    raise UserError(
        f"{problem}.{nearest(dataset.language or '', languages)} Languages there:"
        f" {', '.join(sorted(languages))}."
    )


def _locale(tsv: Path) -> str | None:
    """The language that the first row of a table names."""
    with tsv.open(encoding="utf-8", newline="") as lines:
        row = next(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), {})
    return row.get("locale")


def _read_tsv(folder: Path, subset: str, key: str) -> Rows:
    tsv = folder / f"{subset}.tsv"
    if not tsv.is_file():
        present = sorted(p.stem for p in folder.glob("*.tsv"))
        raise UserError(
            f"{key}={subset}: there is no {subset}.tsv in {folder}.{nearest(subset, present)} There are:"
            f" {', '.join(present)}."
        )
    utterances = Utterances()
    rejected: list[Rejected] = []
    with tsv.open(encoding="utf-8-sig", newline="") as lines:
        # The cells are not quoted: a quotation mark is part of a sentence.
        rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        header = {name: i for i, name in enumerate(next(rows, []))}
        for name in ("path", "sentence"):
            if name not in header:
                raise UserError(
                    f"{tsv} has no column {name!r}; it has: {', '.join(header) or 'none (it is empty)'}."
                )
        path = header["path"]
        sentence = header["sentence"]
        speaker = header.get("client_id")
        for row in filter(None, rows):
            if len(row) <= max(path, sentence) or not row[path]:
                rejected.append(
                    Rejected(
                        f"{tsv.name}:{rows.line_num}",
                        str(tsv),
                        f"line {rows.line_num} has too few fields or no path",
                    )
                )
                continue
            clip = row[path] if Path(row[path]).suffix else f"{row[path]}.mp3"
            utterances.append(
                Utterance(
                    Path(clip).stem,
                    FileAudio(str(folder / "clips" / clip)),
                    row[sentence],
                    row[speaker] if speaker is not None and len(row) > speaker else None,
                )
            )
    return utterances, rejected
