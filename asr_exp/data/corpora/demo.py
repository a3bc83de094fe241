"""The demo corpus: commands to a small house robot, spoken by espeak-ng's voices, made once and kept in the cache."""

import csv
import hashlib
import os
import random
import shutil
import wave
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from asr_exp.data.corpora.base import SPLITS, Corpus, FileAudio, Utterance, Utterances, register_reader
from asr_exp.data.corpora.splits import Rows, gather
from asr_exp.errors import UserError, nearest

ROOMS = ("kitchen", "garden", "bedroom")
# Each template is a sequence of slots; "" is a slot left out. 35 words, sentences of 2 to 6 words.
TEMPLATES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("", "robot", "please"), ("turn",), ("on", "off"), ("the",), ("", *ROOMS), ("light", "lamp", "fan", "radio")),
    (("", "robot", "please"), ("open", "close"), ("the",), ("", *ROOMS), ("door", "window")),
    (("", "robot", "please"), ("bring", "find"), ("my", "the"), ("red", "blue", "green"), ("cup", "book", "hat")),
    (("", "robot", "please"), ("make", "bring"), ("some",), ("tea", "coffee", "soup")),
    (("", "robot", "please"), ("play",), ("some",), ("music",)),
    (("", "robot", "please"), ("stop",), ("the",), ("music", "radio", "fan")),
    (("", "robot", "please"), ("feed", "find"), ("the", "my"), ("cat", "dog")),
    (("", "robot", "please"), ("clean", "water"), ("the",), ROOMS),
)
MOST_WORDS = 6

ACCENTS = ("en-us", "en", "en-gb-scotland", "en-us-nyc")  # "en" is British English; this espeak-ng has no voice named en-gb
VARIANTS = ("m1", "m2", "m3", "m5", "m6", "m8", "f1", "Andrea", "belinda", "Annie", "Andy", "Gene", "Jacky", "Lee", "Mario", "Michael",
            "linda", "steph", "adam", "max")
# No split uses a variant that another one uses, nor one with breath (f2, f3, f5), which no seed makes the same twice.
VOICES = {
    "train": tuple(f"{accent}+{variant}" for accent, variant in product(ACCENTS, VARIANTS)),
    "dev": ("en-us+m7", "en+anika"),
    "test": ("en-us+m4", "en-us+f4", "en+m4", "en+f4"),
}
SIZES = {"train": 6000, "dev": 60, "test": 200}
RATES, PITCHES = (140, 220), (30, 70)  # words a minute; espeak's scale of 0 to 100


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence and how it is to be said."""

    text: str
    voice: str
    rate: int
    pitch: int


@register_reader("demo")
def read_demo(dataset: Any, cache: Path) -> Corpus:
    """About two hours of speech: train, dev and test share no sentence and no voice. Raises UserError without the demo extra."""
    lines = splits(SIZES, dataset.split_seed)
    folder = _spoken(lines, cache / "demo", dataset.split_seed)

    def read(split: str, key: str) -> Rows:
        if split not in SPLITS:
            raise UserError(f"{key}={split} is not a split of the demo.{nearest(split, SPLITS)} There are: {', '.join(SPLITS)}.")
        with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as rows:
            return Utterances(Utterance(Path(row["file"]).stem, FileAudio(str(folder / row["file"])), row["text"], row["speaker"])
                              for row in csv.DictReader(rows)), []

    return gather(dataset, read, str(folder))


def sentences() -> list[str]:
    """Every sentence of the grammar, sorted."""
    every = (tuple(word for word in words if word) for template in TEMPLATES for words in product(*template))
    return sorted({" ".join(words) for words in every if len(words) <= MOST_WORDS})


def splits(sizes: dict[str, int], seed: int) -> dict[str, list[Line]]:
    """`sizes[split]` lines for each split; no voice and no sentence stands in two of them."""
    draw = random.Random(seed)
    texts = sentences()
    draw.shuffle(texts)
    held = len(texts) // 8
    pools = {"dev": texts[:held], "test": texts[held:2 * held], "train": texts[2 * held:]}

    def line(split: str) -> Line:
        return Line(draw.choice(pools[split]), draw.choice(VOICES[split]), draw.randint(*RATES), draw.randint(*PITCHES))

    return {split: [line(split) for _ in range(count)] for split, count in sizes.items()}


def _spoken(lines: dict[str, list[Line]], cache: Path, seed: int) -> Path:
    """The folder that holds the lines as WAV files and a manifest a split; made by one process, waited for by the others."""
    from filelock import FileLock

    from asr_exp.data import espeak

    digest = hashlib.sha256(repr((espeak.version(), seed, lines)).encode()).hexdigest()[:12]
    folder = cache / digest
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{digest}.lock"):
        if not folder.is_dir():
            beside = cache / f"{digest}.new"
            shutil.rmtree(beside, ignore_errors=True)
            _speak(lines, beside, seed)
            os.replace(beside, folder)
    return folder


def _speak(lines: dict[str, list[Line]], folder: Path, seed: int) -> None:
    from tqdm import tqdm

    from asr_exp.data.espeak import Synthesiser

    synthesiser = Synthesiser(seed)
    total = sum(map(len, lines.values()))
    with tqdm(total=total, desc="espeak-ng speaks the demo", unit="clip", disable=None, leave=False, dynamic_ncols=True) as bar:
        for split, split_lines in lines.items():
            (folder / split).mkdir(parents=True)
            with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as manifest:
                rows = csv.writer(manifest)
                rows.writerow(("file", "text", "speaker"))
                for number, line in enumerate(split_lines):
                    file = f"{split}/{split}-{number:05d}.wav"
                    samples, rate = synthesiser.say(line.text, line.voice, line.rate, line.pitch)
                    with wave.open(str(folder / file), "wb") as wav:  # a tenth of soundfile's time on small files
                        wav.setparams((1, 2, rate, len(samples), "NONE", ""))
                        wav.writeframes(samples.tobytes())
                    rows.writerow((file, line.text, line.voice))
                    bar.update()
