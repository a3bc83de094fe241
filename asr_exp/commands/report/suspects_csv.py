"""The suspected label errors as a table, suspects.csv, in which transcripts can be mended. It is read back by
`dataset.corrections`.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from asr_exp.builders.data import build_data
from asr_exp.core.errors import UserError
from asr_exp.core.files import write_text
from asr_exp.data.corrections import read_corrections
from asr_exp.data.utterances import Utterance

NAME = "suspects.csv"
COLUMNS = ("id", "file", "transcript", "recognised", "score", "split")


def write_suspects(
    config: DictConfig, folder: Path, groups: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Path:
    """Write the table. A file there whose transcripts somebody has mended is left alone; the table then gets
    the next free name.

    Args:
        config: of the run; its dataset is read for the transcripts as they were before the text rules.
        folder: where the file goes.
        groups: by split, its suspects as the page has them: id, hypothesis, score.

    Returns:
        The file.

    Raises:
        UserError: the dataset cannot be read.
    """
    rows, originals = [], {}
    for split, suspects in groups.items():
        corpus = build_data(config, keep_raw=True, only=split).raw
        assert corpus is not None
        utterances = originals[split] = {one.id: one for one in corpus.splits[split]}
        for one in suspects:
            utterance = utterances[one["id"]]
            rows.append(
                [utterance.id, utterance.audio, utterance.text, one["hypothesis"], one["score"], split]
            )
    path = next(path for path in _names(folder) if not _is_mended(path, originals))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    write_text(path, text.getvalue())
    return path


def _names(folder: Path) -> Iterator[Path]:
    yield folder / NAME
    for number in count(2):
        yield folder / f"{Path(NAME).stem}-{number}.csv"


def _is_mended(path: Path, originals: Mapping[str, Mapping[str, Utterance]]) -> bool:
    """Whether a file is there whose transcripts are not all those of the dataset."""
    if not path.is_file():
        return False
    try:
        found = read_corrections(str(path)).transcripts
    except UserError:
        return True
    return any(
        id not in originals.get(split, {}) or originals[split][id].text != text
        for (split, id), text in found.items()
    )
