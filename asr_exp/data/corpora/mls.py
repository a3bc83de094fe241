"""Multilingual LibriSpeech (OpenSLR 94), mls_LANGUAGE/SPLIT/{transcripts.txt,
audio/SPEAKER/BOOK/ID.flac|opus}, or from the hub.
"""

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

# Limited supervision: subset -> the folders whose handles.txt list its utterances.
LIMITED = {
    "9hr": ("9hr",),
    "1hr": ("1hr/*",),
    "10hr": ("9hr", "1hr/*"),
    **{f"1hr/{i}": (f"1hr/{i}",) for i in range(6)},
}
_LIMITED_FOLDER = Path("train", "limited_supervision")
_HUB_SPLITS = {
    "train": ("train",),
    "dev": ("dev",),
    "test": ("test",),
    "9hr": ("9_hours",),
    "1hr": ("1_hours",),
    "10hr": ("9_hours", "1_hours"),
}
_FIELDS = Fields(text="transcript", speaker="speaker_id", id="id")


@register_reader("mls")
def read_mls(dataset: Any, cache: Path) -> Corpus:
    """Read MLS. Subsets are train, dev, test and, for limited supervision, 9hr, 1hr, 1hr/0 ... 1hr/5 and 10hr
    (9hr and all of 1hr).
    """
    root = resolve_root(dataset)
    if root is not None:
        folder = _language_folder(root, dataset)
        return gather(dataset, lambda subset, key: _read_local(folder, subset, key), str(folder))
    if not dataset.language:
        raise UserError("MLS needs a language, by its English name: dataset.language=german.")

    def read(subset: str, key: str) -> Rows:
        if subset not in _HUB_SPLITS:
            raise UserError(
                f"{key}={subset} is not a split of MLS on the hub.{nearest(subset, _HUB_SPLITS)} "
                f"There are: {', '.join(_HUB_SPLITS)}."
            )
        parts = [
            read_split(dataset.hub, dataset.hub.config or dataset.language, split, _FIELDS, key)
            for split in _HUB_SPLITS[subset]
        ]
        return Utterances.join([utterances for utterances, _ in parts]), [
            r for _, rejected in parts for r in rejected
        ]

    return gather(dataset, read, f"the hub's {dataset.hub.id}", source="hub")


def _language_folder(root: Path, dataset: Any) -> Path:
    """ROOT/mls_LANGUAGE[_opus], or ROOT itself where it holds the splits. Raises UserError where the language
    is not there.
    """
    languages = {_language(p): p for p in sorted(root.glob("mls_*"), reverse=True) if p.is_dir()}
    if _holds_splits(root):
        languages = {_language(root): root}
        if not root.name.startswith("mls_") and dataset.language:
            return root
    if dataset.language in languages:
        return languages[dataset.language]
    if not languages:
        raise UserError(
            f"dataset.root={dataset.root} is no MLS folder; give mls_LANGUAGE, which holds"
            " train/transcripts.txt."
        )
    problem = (
        f"dataset.language={dataset.language} is not in {root}."
        if dataset.language
        else f"dataset.language is not given for {root}."
    )
    raise UserError(
        f"{problem}{nearest(dataset.language or '', languages)} Languages there:"
        f" {', '.join(sorted(languages))}."
    )


def _language(folder: Path) -> str:
    return folder.name.removeprefix("mls_").removesuffix("_opus")


def _holds_splits(folder: Path) -> bool:
    return next(folder.glob("*/transcripts.txt"), None) is not None


def _read_local(folder: Path, subset: str, key: str) -> Rows:
    if subset not in LIMITED:
        return _read_split(folder, subset, key, None)
    handles: set[str] = set()
    for place in LIMITED[subset]:
        files = _handles(folder, place)
        if not files:
            raise UserError(
                f"{key}={subset} needs {folder / _LIMITED_FOLDER / place / 'handles.txt'}, which is not"
                f" there; give {key}=[train] for all of it."
            )
        handles.update(*(file.read_text(encoding="utf-8").split() for file in files))
    return _read_split(folder, "train", key, handles)


def _handles(folder: Path, place: str) -> list[Path]:
    return sorted((folder / _LIMITED_FOLDER).glob(f"{place}/handles.txt"))


def _read_split(folder: Path, split: str, key: str, handles: set[str] | None) -> Rows:
    transcripts = folder / split / "transcripts.txt"
    if not transcripts.is_file():
        limited = [
            name for name, places in LIMITED.items() if all(_handles(folder, place) for place in places)
        ]
        present = [*sorted(p.parent.name for p in folder.glob("*/transcripts.txt")), *limited]
        raise UserError(
            f"{key}={split}: there is no {transcripts}.{nearest(split, present)} Subsets there:"
            f" {', '.join(present)}."
        )
    endings = {}
    utterances = Utterances()
    rejected: list[Rejected] = []
    with transcripts.open(encoding="utf-8") as lines:
        for line in filter(str.strip, lines):
            name, _, text = line.strip().partition("\t")
            if handles is not None and name not in handles:
                continue
            speaker, _, rest = name.partition("_")
            place = folder / split / "audio" / speaker / rest.partition("_")[0]
            if place not in endings:
                endings[place] = ".opus" if next(place.glob("*.opus"), None) else ".flac"
            if text:
                utterances.append(
                    Utterance(name, FileAudio(f"{place}/{name}{endings[place]}"), text, speaker)
                )
            else:
                rejected.append(
                    Rejected(
                        name, f"{place}/{name}{endings[place]}", "transcripts.txt gives it no transcript"
                    )
                )
    return utterances, rejected
