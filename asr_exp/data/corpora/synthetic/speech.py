"""Let espeak-ng speak lines of text: a folder with WAV files and a manifest for each split, made once and
kept in the cache.
"""

import csv
import hashlib
import os
import shutil
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr_exp.core.errors import UserError, nearest
from asr_exp.core.locks import FileLock
from asr_exp.data.corpora.base import SPLITS, Corpus, FileAudio, Utterance, Utterances
from asr_exp.data.corpora.splits import Rows, gather

Effect = Callable[[np.ndarray, int, int], tuple[np.ndarray, int]]


@dataclass(frozen=True, slots=True)
class Line:
    """A text to be spoken. rate: words a minute; pitch: 0 to 100; phones: those of the text, where a corpus
    needs them.
    """

    text: str
    voice: str
    rate: int
    pitch: int
    phones: str = ""


def read_spoken(dataset: Any, folder: Path) -> Corpus:
    """Read the corpus that `spoken` has made in a folder. Its transcripts are the column
    `dataset.columns.text`: text or phones.

    Raises UserError for a subset that is not a split.
    """

    def read(split: str, key: str) -> Rows:
        if split not in SPLITS:
            raise UserError(
                f"{key}={split} is not a split of {dataset.name}.{nearest(split, SPLITS)} There are:"
                f" {', '.join(SPLITS)}."
            )
        with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as rows:
            return (
                Utterances(
                    Utterance(
                        Path(row["file"]).stem,
                        FileAudio(str(folder / row["file"])),
                        row[dataset.columns.text],
                        row["speaker"],
                    )
                    for row in csv.DictReader(rows)
                ),
                [],
            )

    return gather(dataset, read, str(folder))


def spoken(lines: dict[str, list[Line]], cache: Path, seed: int, effect: Effect | None = None) -> Path:
    """Make the folder with the lines of each split as WAV files and a manifest, unless it is in the cache.
    One process makes it, others wait.

    effect: (samples, rate, number of the line) -> int16 samples and their rate, which are written instead.
    Raises UserError without the demo extra.
    """
    from asr_exp.data import espeak

    digest = hashlib.sha256(repr((espeak.version(), seed, lines)).encode()).hexdigest()[:12]
    folder = cache / digest
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{digest}.lock"):
        if not folder.is_dir():
            temporary = cache / f"{digest}.new"
            shutil.rmtree(temporary, ignore_errors=True)
            _speak(lines, temporary, seed, effect)
            os.replace(temporary, folder)
    return folder


def _speak(lines: dict[str, list[Line]], folder: Path, seed: int, effect: Effect | None) -> None:
    from tqdm import tqdm

    from asr_exp.data.espeak import Synthesiser

    synthesiser = Synthesiser(seed)
    total = sum(map(len, lines.values()))
    with tqdm(
        total=total, desc="espeak-ng speaks", unit="clip", disable=None, leave=False, dynamic_ncols=True
    ) as bar:
        for split, split_lines in lines.items():
            (folder / split).mkdir(parents=True)
            with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as manifest:
                rows = csv.writer(manifest)
                rows.writerow(("file", "text", "phones", "speaker"))
                for number, line in enumerate(split_lines):
                    file = f"{split}/{split}-{number:05d}.wav"
                    samples, rate = synthesiser.say(line.text, line.voice, line.rate, line.pitch)
                    if effect:
                        samples, rate = effect(samples, rate, bar.n)
                    # takes a tenth of the time of soundfile for small files
                    with wave.open(str(folder / file), "wb") as wav:
                        wav.setparams((1, 2, rate, len(samples), "NONE", ""))
                        wav.writeframes(samples.tobytes())
                    rows.writerow((file, line.text, line.phones, line.voice))
                    bar.update()
