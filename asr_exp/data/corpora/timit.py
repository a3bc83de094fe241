"""TIMIT (LDC93S1) in the LDC's layout, TRAIN/DR1/FCJF0/SA1.{WAV,TXT,PHN}, names in any case."""

import os
from collections.abc import Callable
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
from asr_exp.data.corpora.splits import Rows, gather

# The core test set, and the development set of Halberstadt (1998) that Kaldi uses.
CORE_TEST = frozenset(
    """
    mdab0 mwbt0 felc0 mtas1 mwew0 fpas0 mjmp0 mlnt0 fpkt0 mlll0 mtls0 fjlm0 mbpm0 mklt0 fnlp0 mcmj0
    mjdh0 fmgd0 mgrt0 mnjm0 fdhc0 mjln0 mpam0 fmld0
    """.upper().split()
)
DEV = frozenset(
    """
    faks0 fdac1 fjem0 mgwt0 mjar0 mmdb1 mmdm2 mpdf0 fcmh0 fkms0 mbdg0 mbwm0 mcsh0 fadg0 fdms0 fedw0
    mgjf0 mglb0 mrtk0 mtaa0 mtdt0 mthc0 mwjg0 fnmr0 frew0 fsem0 mbns0 mmjr0 mdls0 mdlf0 mdvc0 mers0
    fmah0 fdrw0 mrcs0 mrjm4 fcal1 mmwh0 fjsj0 majc0 mjsw0 mreb0 fgjd0 fjmg0 mroa0 mteb0 mjfc0 mrjr0
    fmml0 mrws1
    """.upper().split()
)
SUBSETS: dict[str, tuple[str, frozenset[str] | None]] = {
    "train": ("TRAIN", None),
    "test": ("TEST", None),
    "dev": ("TEST", DEV),
    "core-test": ("TEST", CORE_TEST),
}


@register_reader("timit")
def read_timit(dataset: Any, cache: Path) -> Corpus:
    """Read TIMIT with its sentences. Subsets are train, dev (50 speakers of TEST), test (all of TEST) and
    core-test (24 speakers of TEST).
    """
    return _read(dataset, ".TXT", _sentence)


@register_reader("timit-phones")
def read_timit_phones(dataset: Any, cache: Path) -> Corpus:
    """Read TIMIT with its 61 phones, `h#` included, separated by spaces; the tokenizer folds them."""
    return _read(dataset, ".PHN", _phones)


def _read(dataset: Any, ending: str, transcript: Callable[[str], str]) -> Corpus:
    halves = _halves(dataset)
    rows: dict[str, Rows] = {}

    def read(subset: str, key: str) -> Rows:
        if subset not in SUBSETS:
            raise UserError(
                f"{key}={subset} is not a subset of TIMIT.{nearest(subset, SUBSETS)} There are:"
                f" {', '.join(SUBSETS)}."
            )
        half, speakers = SUBSETS[subset]
        if half not in halves:
            raise UserError(
                f"{key}={subset} needs the folder {half}, which is not in {dataset.root}; there is"
                f" {', '.join(halves)}."
            )
        if half not in rows:
            rows[half] = _read_half(halves[half], ending, transcript, dataset.sa_sentences)
        if speakers is None:
            return rows[half]
        utterances = Utterances(u for u in rows[half][0] if u.speaker in speakers)
        if not utterances and subset == "core-test":
            raise UserError(
                f"{key}={subset}: none of its 24 speakers is in {halves[half]} (a partial copy?); "
                f"to take every speaker there, give {key}=[test]."
            )
        return utterances, [r for r in rows[half][1] if r.id.partition("_")[0] in speakers]

    # a partial copy may have none of the 50 dev speakers: then dev is carved out of train
    return gather(dataset, read, f"{dataset.root}", may_be_empty=("dev",))


def _halves(dataset: Any) -> dict[str, Path]:
    """The folders TRAIN and TEST by name, in the root or in a `timit` or `data` folder up to three levels
    down. Raises UserError where there is neither.
    """
    root = resolve_root(dataset)
    if root is None:
        raise UserError(
            "TIMIT is not on the hub; give dataset.root=FOLDER, the folder of LDC93S1 that holds TRAIN and"
            " TEST."
        )
    level = [root]
    for _ in range(4):
        for folder in level:
            inside = {p.name.upper(): p for p in sorted(folder.iterdir()) if p.is_dir()}
            if halves := {name: path for name, path in inside.items() if name in ("TRAIN", "TEST")}:
                return halves
        level = [
            p
            for folder in level
            for p in sorted(folder.iterdir())
            if p.is_dir() and _may_hold_timit(p.name.lower())
        ]
    raise UserError(
        f"dataset.root={dataset.root} holds no TRAIN or TEST folder; give the folder of TIMIT (LDC93S1) that"
        " does."
    )


def _may_hold_timit(name: str) -> bool:
    return "timit" in name or name in ("data", "raw")


def _read_half(folder: Path, ending: str, transcript: Callable[[str], str], sa_sentences: bool) -> Rows:
    utterances = Utterances()
    rejected: list[Rejected] = []
    for place, _, names in sorted(os.walk(folder)):
        speaker = os.path.basename(place).upper()
        files = {name.upper(): os.path.join(place, name) for name in names}
        for stem in sorted({name.partition(".")[0] for name in files}):
            # SA1.WAV.wav: the name that converters from SPHERE leave.
            audio = files.get(f"{stem}.WAV") or files.get(f"{stem}.WAV.WAV")
            if audio is None or (stem.startswith("SA") and not sa_sentences):
                continue
            try:
                text = transcript(Path(files[stem + ending]).read_text(encoding="utf-8", errors="replace"))
                utterances.append(Utterance(f"{speaker}_{stem}", FileAudio(audio), text, speaker))
            except KeyError:
                rejected.append(Rejected(f"{speaker}_{stem}", audio, f"there is no {stem}{ending} beside it"))
            except IndexError:
                rejected.append(
                    Rejected(
                        f"{speaker}_{stem}", audio, f"{stem}{ending} has a line of fewer than three fields"
                    )
                )
    return utterances, rejected


def _sentence(content: str) -> str:
    return content.split(maxsplit=2)[2].strip()


def _phones(content: str) -> str:
    return " ".join(line.split()[2] for line in content.splitlines() if line.strip())
