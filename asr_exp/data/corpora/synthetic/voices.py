"""Many synthetic voices that say a bit of everything, labelled with phones. The backbone of model=tiny is
trained on this corpus.
"""

import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from asr_exp.data.corpora.base import (
    Corpus,
    Utterance,
    Utterances,
    read_corpus,
    register_reader,
    resolve_root,
)
from asr_exp.data.corpora.splits import unique_ids
from asr_exp.data.corpora.synthetic.channel import recorded
from asr_exp.data.corpora.synthetic.demo import sentences as demo_sentences
from asr_exp.data.corpora.synthetic.speech import Line, read_spoken, spoken
from asr_exp.data.espeak import Phonemiser

SIZES = {"train": 20000, "dev": 120, "test": 120}
RATES, PITCHES = (110, 250), (15, 85)  # words a minute; espeak's scale of 0 to 100
# espeak-ng's name of a voice -> its name of the language whose phones the voice speaks.
ENGLISH = {
    "en-us": "en-us",
    "en": "en-gb",
    "en-gb-scotland": "en-gb-scotland",
    "en-us-nyc": "en-us-nyc",
    "en-gb-x-rp": "en-gb-x-rp",
    "en-029": "en-029",
}
OTHERS = {
    "fr": "fr-fr",
    **{name: name for name in ("de", "it", "tr", "sv", "es", "nl", "pl", "pt", "fi", "hu", "id")},
}
SHARE_OF_ENGLISH = 0.6  # of the lines
# Not among them: the demo's dev and test variants (m4, m7, f4, anika), and variants with breath or a whisper.
VARIANTS = {
    "train": tuple(
        """
        m1 m2 m3 m5 m6 m8 f1 Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo
        Jacky Lee Marco Mario Michael Mike Nguyen Reed RicishayMax RicishayMax2 adam antonio aunty
        belinda benjamin boris caleb david ed edward edward2 grandma grandpa gustave ian iven
        iven2 iven3 john kaukovalta klatt klatt2 klatt3 klatt4 linda marcelo max michel miguel
        mike2 norbert pablo paul pedro rob robert sandro steph steph2 steph3 victor
        """.split()  # noqa: SIM905
    ),
    "dev": ("zac", "quincy"),
    "test": ("travis", "shelby"),
}
# Real speech under a free licence (CC BY, CC0) that dataset.root may have: folder, reader, language, subset.
RECORDINGS = (
    ("LibriSpeech", "librispeech", "en", "train-clean-100"),
    ("cv-corpus-*/tr", "common-voice", "tr", "train"),
    ("cv-corpus-*/it", "common-voice", "it", "train"),
    ("cv-corpus-*/sv-SE", "common-voice", "sv-SE", "train"),
    ("mls_german", "mls", "german", "train"),
)
REPEATS = 4  # of each recording: there are far more synthetic clips
ONSETS = (
    "",
    *"""
    b bl br d dr f fl fr g gl gr h j k kl kr l m n p pl pr r s sk sl sm sn sp st str sw t tr v w y z
    sh ch th
    """.split(),  # noqa: SIM905
)
VOWELS = ("a", "e", "i", "o", "u", "ai", "ee", "oo", "ou", "ea", "ar", "er", "or")
CODAS = (
    *("", "", ""),
    *"""
    b d f g k l m n p r s t v x z sh ch th nd nt ng st ld rt mp
    """.split(),  # noqa: SIM905
)
# Common words by subject. The order has no meaning, but the drawn sentences depend on it.
WORDS = Path(__file__).with_name("words.txt").read_text(encoding="utf-8").split()


@register_reader("voices")
def read_voices(dataset: Any, cache: Path) -> Corpus:
    """Make or read about 12 hours of speech: sentences of common words, numbers, letters and made-up words,
    in voices of English and of twelve other languages.

    Train, dev and test share no voice, and none has a sentence of the demo. Training also gets the real
    corpora that `dataset.root` has (see RECORDINGS). Raises UserError without the demo extra.
    """
    lines = labelled(splits(SIZES, dataset.split_seed))

    def effect(samples: np.ndarray, rate: int, number: int) -> tuple[np.ndarray, int]:
        return recorded(samples, rate, np.random.default_rng([dataset.split_seed, number])), 16000

    corpus = read_spoken(dataset, spoken(lines, cache / "voices", dataset.split_seed, effect))
    if dataset.columns.text == "text":  # digits do not show how a language says a number
        corpus.splits = {
            split: Utterances(row for row in rows if not any(map(str.isdigit, row.text)))
            for split, rows in corpus.splits.items()
        }
    if (root := resolve_root(dataset)) and "train" in corpus.splits:
        corpus.splits["train"] = unique_ids(
            Utterances([*corpus.splits["train"], *recordings(dataset, root, cache)])
        )
    return corpus


def splits(sizes: dict[str, int], seed: int) -> dict[str, list[Line]]:
    """Draw `sizes[split]` lines for each split, without phones. No two splits share a voice."""
    draw = random.Random(seed)
    excluded = set(demo_sentences())

    def line(split: str) -> Line:
        accent = draw.choice(list(ENGLISH if draw.random() < SHARE_OF_ENGLISH else OTHERS))
        while (text := sentence(draw, accent in ENGLISH)) in excluded:
            pass
        return Line(
            text, f"{accent}+{draw.choice(VARIANTS[split])}", draw.randint(*RATES), draw.randint(*PITCHES)
        )

    return {split: [line(split) for _ in range(count)] for split, count in sizes.items()}


def sentence(draw: random.Random, english: bool) -> str:
    """Draw one to nine words without grammar: common words, numbers, letters and made-up words. Other
    languages than English get mostly the last.
    """
    words = []
    for _ in range(draw.choice((1, 1, 2, 2, 3, 4, 5, 6, 7, 9))):
        kind = draw.random()
        if kind < (0.7 if english else 0.2):
            words.append(draw.choice(WORDS))
        elif kind < (0.8 if english else 0.3):
            words.append(str(draw.choice((draw.randint(0, 10), draw.randint(0, 99), draw.randint(0, 2100)))))
        elif kind < (0.83 if english else 0.33):
            words.append(draw.choice("BCDEFGHJKLMNOPQRSTUVWXYZ"))
        else:
            words.append(
                "".join(
                    draw.choice(ONSETS) + draw.choice(VOWELS) + draw.choice(CODAS)
                    for _ in range(draw.randint(1, 3))
                )
            )
    return " ".join(words)


def labelled(lines: dict[str, list[Line]]) -> dict[str, list[Line]]:
    """Add to each line the phones of its text in the language of its voice."""
    phones: dict[str, dict[str, str]] = {}
    for accent, language in (ENGLISH | OTHERS).items():
        texts = sorted(
            {line.text for rows in lines.values() for line in rows if line.voice.partition("+")[0] == accent}
        )
        phones[accent] = dict(zip(texts, Phonemiser(language).many(texts), strict=True))
    return {
        split: [replace(line, phones=phones[line.voice.partition("+")[0]][line.text]) for line in rows]
        for split, rows in lines.items()
    }


def recordings(dataset: Any, root: Path, cache: Path) -> list[Utterance]:
    """Read the training utterances of the corpora under `root`, each `REPEATS` times. Their texts are
    espeak-ng's phones where `dataset.columns.text` is `phones`.
    """
    utterances: list[Utterance] = []
    for pattern, reader, language, subset in RECORDINGS:
        for folder in sorted(root.glob(pattern)):
            section = OmegaConf.merge(
                dataset,
                {
                    "reader": reader,
                    "root": str(folder),
                    "language": language,
                    "train": [subset],
                    "dev_fraction": 0.0,  # all of it
                    "test_fraction": 0.0,
                },
            )
            rows: Iterable[Utterance] = read_corpus(section, cache, only="train").splits["train"]
            if dataset.columns.text == "phones":
                phones = Phonemiser(language).many([row.text.lower() for row in rows])
                rows = [replace(row, text=text) for row, text in zip(rows, phones, strict=True) if text]
            utterances += rows
    return utterances * REPEATS
