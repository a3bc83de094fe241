"""What every corpus reader returns, and the registry of readers."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from asr_exp.core.console import printable
from asr_exp.core.errors import UserError
from asr_exp.core.registry import Registry
from asr_exp.data.utterances import FileAudio, TableAudio, Utterance, Utterances

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class Rejected:
    """An utterance that is left out, and why: a line of quarantine.jsonl."""

    id: str
    file: str
    reason: str

    def __post_init__(self) -> None:
        for name in self.__slots__:
            object.__setattr__(self, name, printable(getattr(self, name)))


class Corpus:
    """The splits of a corpus.

    splits: utterances by split; rejected: rows that cannot be used, by split; subsets: what each split was
    read from, which is part of a score's protocol; source: `local` or `hub`.
    """

    def __init__(
        self,
        splits: Mapping[str, Sequence[Utterance]],
        rejected: dict[str, list[Rejected]] | None = None,
        subsets: dict[str, list[str]] | None = None,
        source: str = "local",
    ):
        self.splits = {
            name: rows if isinstance(rows, Utterances) else Utterances(rows) for name, rows in splits.items()
        }
        self.rejected = rejected or {name: [] for name in SPLITS}
        self.subsets, self.source = subsets or {}, source


Reader = Callable[[Any, Path], Corpus]
# Built-in readers are imported when they are used, so that other runs need neither `datasets` nor espeak.
_BUILT_IN = {
    "timit": "timit",
    "timit-phones": "timit",
    "librispeech": "librispeech",
    "common-voice": "common_voice",
    "mls": "mls",
    "minds14": "minds14",
    "manifest": "manifest",
    "hub": "hub",
    "demo": "synthetic.demo",
    "voices": "synthetic.voices",
}
_READERS: Registry[Reader] = Registry(
    "dataset.reader", {name: f"asr_exp.data.corpora.{module}" for name, module in _BUILT_IN.items()}
)


def register_reader(name: str) -> Callable[[Reader], Reader]:
    """Register `reader(dataset_section, cache_folder) -> Corpus` as `dataset.reader=name`."""
    return _READERS.register(name)


def check_reader(name: str) -> None:
    """Raise UserError for a name that no reader has."""
    _READERS.check(name)


def read_corpus(dataset: Any, cache: Path, only: str | None = None) -> Corpus:
    """Read the corpus that a `dataset` section names, or the one split of it that `only` names.

    A reader finds that name as `dataset.only` in its section, and may read more. Raises UserError for a wrong
    root, subset or column, and for an empty split.
    """
    name = dataset.reader
    if only is not None:
        dataset = OmegaConf.merge(dataset, {"only": only})
    corpus = _READERS.make(name, dataset, cache)
    _READERS.expect(
        name, isinstance(corpus, Corpus), corpus, "a Corpus: Corpus({'train': [Utterance(...)], ...})"
    )
    missing = [split for split in ((only,) if only else SPLITS) if split not in getattr(corpus, "splits", ())]
    _READERS.expect(
        name, not missing, corpus, f"the splits {', '.join(SPLITS)}; {', '.join(missing)} is missing"
    )
    corpus.splits = {split: rows.cleaned() for split, rows in corpus.splits.items()}
    return corpus


def as_list(value: Any) -> list[str]:
    """A config value as a list: None gives none, a name one, a list its names."""
    if value is None:
        return []
    return [str(value)] if isinstance(value, str | int) else [str(v) for v in value]


def resolve_root(dataset: Any) -> Path | None:
    """The local folder to read, or None for the hub. Raises UserError where dataset.root is not a folder."""
    if dataset.source == "hub" or (dataset.source == "auto" and not dataset.root):
        return None
    root = Path(os.path.expanduser(str(dataset.root)))
    if not root.is_dir():
        raise UserError(
            f"dataset.root={dataset.root} is not a folder; give the folder of {dataset.name} in its official"
            " layout."
        )
    return root.resolve()


__all__ = [
    "Corpus",
    "FileAudio",
    "Reader",
    "Rejected",
    "SPLITS",
    "TableAudio",
    "Utterance",
    "Utterances",
    "as_list",
    "read_corpus",
    "register_reader",
    "resolve_root",
]
