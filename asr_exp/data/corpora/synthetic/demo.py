"""The demo corpus: commands to a small house robot, spoken by espeak-ng. It is made once and kept in the
cache.
"""

import random
from itertools import product
from pathlib import Path
from typing import Any

from asr_exp.data.corpora.base import Corpus, register_reader
from asr_exp.data.corpora.synthetic.speech import Line, read_spoken, spoken

ROOMS = ("kitchen", "garden", "bedroom")
# Each template is a sequence of slots, "" an empty one. There are 35 words, in sentences of 2 to 6 words.
TEMPLATES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (
        ("", "robot", "please"),
        ("turn",),
        ("on", "off"),
        ("the",),
        ("", *ROOMS),
        ("light", "lamp", "fan", "radio"),
    ),
    (("", "robot", "please"), ("open", "close"), ("the",), ("", *ROOMS), ("door", "window")),
    (
        ("", "robot", "please"),
        ("bring", "find"),
        ("my", "the"),
        ("red", "blue", "green"),
        ("cup", "book", "hat"),
    ),
    (("", "robot", "please"), ("make", "bring"), ("some",), ("tea", "coffee", "soup")),
    (("", "robot", "please"), ("play",), ("some",), ("music",)),
    (("", "robot", "please"), ("stop",), ("the",), ("music", "radio", "fan")),
    (("", "robot", "please"), ("feed", "find"), ("the", "my"), ("cat", "dog")),
    (("", "robot", "please"), ("clean", "water"), ("the",), ROOMS),
)
MAX_WORDS = 6  # of a sentence

# "en" is British English; this espeak-ng has no voice named en-gb
ACCENTS = ("en-us", "en", "en-gb-scotland", "en-us-nyc")
VARIANTS = (
    "m1",
    "m2",
    "m3",
    "m5",
    "m6",
    "m8",
    "f1",
    "Andrea",
    "belinda",
    "Annie",
    "Andy",
    "Gene",
    "Jacky",
    "Lee",
    "Mario",
    "Michael",
    "linda",
    "steph",
    "adam",
    "max",
)
# No two splits share a variant. None uses one with breath (f2, f3, f5), which sounds different each time,
# whatever the seed.
VOICES = {
    "train": tuple(f"{accent}+{variant}" for accent, variant in product(ACCENTS, VARIANTS)),
    "dev": ("en-us+m7", "en+anika"),
    "test": ("en-us+m4", "en-us+f4", "en+m4", "en+f4"),
}
SIZES = {"train": 6000, "dev": 60, "test": 200}
RATES, PITCHES = (140, 220), (30, 70)  # words a minute; espeak's scale of 0 to 100


@register_reader("demo")
def read_demo(dataset: Any, cache: Path) -> Corpus:
    """Make or read about two hours of speech. Train, dev and test share no sentence and no voice. Raises
    UserError without the demo extra.
    """
    return read_spoken(dataset, spoken(splits(SIZES, dataset.split_seed), cache / "demo", dataset.split_seed))


def sentences() -> list[str]:
    """Every sentence of the grammar, sorted."""
    choices = (words for template in TEMPLATES for words in product(*template))
    filled = (tuple(word for word in words if word) for words in choices)
    return sorted({" ".join(words) for words in filled if len(words) <= MAX_WORDS})


def splits(sizes: dict[str, int], seed: int) -> dict[str, list[Line]]:
    """Draw `sizes[split]` lines for each split. No two splits share a voice or a sentence."""
    draw = random.Random(seed)
    texts = sentences()
    draw.shuffle(texts)
    eighth = len(texts) // 8
    pools = {"dev": texts[:eighth], "test": texts[eighth : 2 * eighth], "train": texts[2 * eighth :]}

    def line(split: str) -> Line:
        return Line(
            draw.choice(pools[split]),
            draw.choice(VOICES[split]),
            draw.randint(*RATES),
            draw.randint(*PITCHES),
        )

    return {split: [line(split) for _ in range(count)] for split, count in sizes.items()}
