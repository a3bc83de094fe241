"""LibriSpeech (OpenSLR 12), SUBSET/SPEAKER/CHAPTER/{SPEAKER-CHAPTER.trans.txt, SPEAKER-CHAPTER-NNNN.flac}, or
from the hub.
"""

import os
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

# subset -> configuration and split on the hub
SUBSETS = {
    "train-clean-100": ("clean", "train.100"),
    "train-clean-360": ("clean", "train.360"),
    "train-other-500": ("other", "train.500"),
    "dev-clean": ("clean", "validation"),
    "dev-other": ("other", "validation"),
    "test-clean": ("clean", "test"),
    "test-other": ("other", "test"),
}
_FIELDS = Fields(text="text", speaker="speaker_id", id="id")


@register_reader("librispeech")
def read_librispeech(dataset: Any, cache: Path) -> Corpus:
    """Read LibriSpeech. Subsets have OpenSLR's names; locally, any folder of the same layout is a subset."""
    root = resolve_root(dataset)
    if root is None:
        return gather(
            dataset,
            lambda subset, key: _read_hub(dataset, subset, key),
            f"the hub's {dataset.hub.id}",
            source="hub",
        )
    if not _present(root) and (root / "LibriSpeech").is_dir():
        root = root / "LibriSpeech"
    return gather(dataset, lambda subset, key: _read_local(root, subset, key), str(root))


def _read_hub(dataset: Any, subset: str, key: str) -> Rows:
    if subset not in SUBSETS:
        raise UserError(
            f"{key}={subset} is not a subset of LibriSpeech.{nearest(subset, SUBSETS)} There are:"
            f" {', '.join(SUBSETS)}."
        )
    config, split = SUBSETS[subset]
    return read_split(dataset.hub, config, split, _FIELDS, key)


def _read_local(root: Path, subset: str, key: str) -> Rows:
    if not (root / subset).is_dir():
        present = _present(root)
        raise UserError(
            f"{key}={subset} is not in {root}.{nearest(subset, present)} "
            f"Subsets there: {', '.join(present) or 'none; give the folder that holds them as dataset.root'}."
        )
    utterances = Utterances()
    rejected: list[Rejected] = []
    for place, _, names in sorted(os.walk(root / subset)):
        audio = {name.partition(".")[0]: name for name in names if not name.endswith(".txt")}
        for transcripts in sorted(name for name in names if name.endswith(".trans.txt")):
            with open(os.path.join(place, transcripts), encoding="utf-8") as lines:
                for line in filter(str.strip, lines):
                    name, _, text = line.strip().partition(" ")
                    path = os.path.join(place, audio.get(name, f"{name}.flac"))
                    if text:
                        utterances.append(Utterance(name, FileAudio(path), text, name.partition("-")[0]))
                    else:
                        rejected.append(Rejected(name, path, f"{transcripts} gives it no transcript"))
    return utterances, rejected


def _present(root: Path) -> list[str]:
    """The folders of `root` that are subsets: they have a transcript two levels down."""
    return sorted(p.name for p in root.iterdir() if p.is_dir() and next(p.glob("*/*/*.trans.txt"), None))
