"""Tokenizer: characters or phones to label ids and back. It is saved as the files of a transformers tokenizer
beside the weights; the CTC blank is the padding token.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from asr_exp.core.errors import UserError
from asr_exp.data.phones import INVENTORIES, fold
from asr_exp.data.text import chunks
from asr_exp.data.transformers_tokenizer import (
    BLANK,
    SPACE,
    UNKNOWN,
    Conventions,
    SpecialTokens,
    make_tokenizer,
    save_tokenizer,
)


class Tokenizer:
    """A vocabulary whose tokens are characters or phones, each with its label id.

    Words are separated by the token `space`, or by nothing where it is "". Phone tokens have a trailing space
    ("sh "): joined tokens are then a phone string, also in a plain transformers pipeline. A token that is
    None stands for an output of the head that the vocabulary does not name; transformers prints the unknown
    token for it.
    """

    def __init__(
        self,
        tokens: Sequence[str | None],
        unit: str = "character",
        special: SpecialTokens = SpecialTokens(),  # noqa: B008
        inventory: str | None = None,
        score_inventory: str | None = None,
        conventions: Conventions = Conventions(),  # noqa: B008
    ):
        """Number the tokens of a vocabulary.

        Args:
            tokens: in the order of the outputs of the head.
            unit: `character` or `phone`.
            special: the names of blank, unknown token and space.
            inventory: the TIMIT inventory that transcripts are folded to for training; None: as they are.
            score_inventory: the one that references and hypotheses are folded to for scoring.
            conventions: how the tokenizer of a checkpoint writes text.
        """
        blank, space = special.blank, special.space
        unknown = special.unknown
        self._unnamed = {i for i, token in enumerate(tokens) if token is None}
        names = [f"<output {i}>" if token is None else token for i, token in enumerate(tokens)]
        self._checkpoint_names = names
        if unit == "phone":
            names = [name if name in (blank, space) else name.strip() + " " for name in names]
            unknown = unknown.strip() + " "
        self.tokens = names
        self.unit = unit
        self.conventions = conventions
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self._units = {token.strip() if unit == "phone" else token: i for token, i in self.ids.items()}
        self.blank_token = blank
        self.unknown_token = unknown
        self.space = space
        self.blank = self.ids[blank]
        self.unknown = self.ids.get(unknown)
        self.inventory, self.score_inventory = inventory, score_inventory
        self._other = -1 if self.unknown is None else self.unknown
        self._table = self._by_character()
        printed = {space: conventions.replace_word_delimiter_char, blank: ""}
        # a Wav2Vec2PhonemeCTCTokenizer puts a space after its tokens, whatever is in them
        texts = [f"{name} " for name in self._checkpoint_names] if conventions.phonemes else self.tokens
        self._printed = [printed.get(token, text) for token, text in zip(self.tokens, texts, strict=True)]
        for i in self._unnamed:
            self._printed[i] = unknown
        # With do_lower_case, transformers encodes capitals. A vocabulary without any would lose all letters.
        self._capitals = conventions.do_lower_case and any(
            token != token.lower() for token in self.tokens if len(token) == 1
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def _by_character(self) -> np.ndarray:
        """A table of the label of each code point, up to the highest in the vocabulary. The last entry is for
        all others.
        """
        # a blank may be called "-"
        labels = {ord(unit): i for unit, i in self._units.items() if len(unit) == 1 and i != self.blank}
        if self.space in self.ids:
            labels[ord(" ")] = self.ids[self.space]
        table = np.full(max(labels, default=0) + 2, self._other, dtype=np.int32)
        table[list(labels)] = list(labels.values())
        return table

    # ------------------------------------------------------------------------------------------------------
    # making a tokenizer

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        unit: str = "character",
        inventory: str | None = None,
        score_inventory: str | None = None,
        min_count: int = 1,
    ) -> "Tokenizer":
        """Make a vocabulary of the training transcripts: sorted units, then [UNK], then [PAD], the blank.

        Args:
            texts: transcripts after the text rules.
            unit: `character` or `phone`.
            inventory: a TIMIT inventory gives all its phones, whether training has them or not.
            score_inventory: see `__init__`.
            min_count: a unit that is rarer is left out.

        Raises:
            UserError: no unit is left.
        """
        if unit == "phone" and inventory in INVENTORIES:
            units = [phone + " " for phone in sorted(INVENTORIES[inventory])]
        else:
            counts = _count(texts, unit)
            space = counts.pop(" ", 0)
            counts.pop(SPACE, None)  # a bar in a transcript would read as a space
            units = sorted(u for u, n in counts.items() if n >= min_count)
            units += [SPACE] if units and space else []
        if not units:
            raise UserError(
                "The training transcripts are all empty after the text rules; check dataset.columns.text and"
                " text=..."
            )
        return cls([*units, UNKNOWN, BLANK], unit, inventory=inventory, score_inventory=score_inventory)

    @classmethod
    def from_vocabulary(cls, path: str | Path, unit: str = "character") -> "Tokenizer":
        """Read a vocabulary from a vocab.json ({token: id}). Raises UserError where the file cannot be read
        or has another form.
        """
        try:
            ids = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
            tokens = [token for token, _ in sorted(ids.items(), key=lambda item: item[1])]
            if sorted(ids.values()) != list(range(len(ids))):
                raise ValueError("ids are not 0 .. n-1")
        except (OSError, ValueError, AttributeError, TypeError) as why:
            raise UserError(
                f"tokenizer.vocabulary={path} cannot be used ({why}); give a JSON file of the form {{token:"
                " id}."
            ) from None
        blank = next((t for t in (BLANK, "<pad>", "<blank>") if t in ids), None)
        if blank is None:
            raise UserError(f'tokenizer.vocabulary={path} has no blank; add a token "{BLANK}" to it.')
        special = SpecialTokens(blank, "<unk>" if "<unk>" in ids else UNKNOWN)
        return cls(tokens, unit, special)

    # ------------------------------------------------------------------------------------------------------
    # using a tokenizer

    def target(self, text: str) -> str:
        """The transcript in the units that the model learns: phones are folded to the training inventory."""
        return fold(text, "timit61", self.inventory) if self.inventory in INVENTORIES else text

    def encode(self, text: str) -> np.ndarray:
        """Label ids of a transcript, int32, (labels,). Units outside the vocabulary become the unknown token,
        or are left out where there is none.
        """
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Label ids of many transcripts one after the other, int32, (labels,), and how many each transcript
        has, int64, (transcripts,).
        """
        if self._capitals:
            texts = [text.upper() for text in texts]
        if self.unit == "phone":
            units = [text.split() for text in texts]
            counts = np.fromiter(map(len, units), np.int64, len(texts))
            labels = np.fromiter(
                (self._units.get(u, self._other) for row in units for u in row), np.int32, counts.sum()
            )
        else:
            counts = np.fromiter(map(len, texts), np.int64, len(texts))
            labels = self._table[np.minimum(code_points("".join(texts)), len(self._table) - 1)]
        if self.unknown is None:
            in_vocabulary = labels >= 0
            labels, counts = labels[in_vocabulary], segment_sums(in_vocabulary, counts)
        return labels, counts

    def spell(self, word: str) -> list[str] | None:
        """The tokens that spell a word in a vocabulary of characters; None where it lacks one of them."""
        characters = word.upper() if self._capitals else word
        if any(character not in self.ids or character == self.space for character in characters):
            return None
        return list(characters)

    def speech(self, labels: np.ndarray) -> np.ndarray:
        """Whether each label is a unit of speech, not the unknown token and not a space: bool, (labels,)."""
        return (labels != self._other) & (labels != self.ids.get(self.space, -1))

    def known(self, labels: np.ndarray) -> int:
        """How many of the labels are units of speech."""
        return int(np.sum(self.speech(labels)))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of label ids whose repeats are merged (blanks are allowed), as a transformers pipeline
        prints it.

        (`batch_decode(skip_special_tokens=True)` of transformers prints another text: it removes the blanks
        before it merges repeats, so "hello" becomes "helo".)
        """
        # transformers merges repeats of the texts that it prints: all of these are one unknown token to it
        if self._unnamed:
            unknown = -1 if self.unknown is None else self.unknown
            merged = (i for i, _ in groupby(unknown if i in self._unnamed else i for i in ids))
            text = "".join(self.unknown_token if i == -1 else self._printed[i] for i in merged)
        else:
            text = "".join(self._printed[i] for i in ids)
        return self.conventions.apply(text.strip())

    def scored(self, text: str) -> str:
        """A reference or a hypothesis as it is scored: phones are folded to the scoring inventory, characters
        stay as they are, with one space between words.
        """
        if self.score_inventory is None or self.inventory not in INVENTORIES:
            return " ".join(text.split())
        return fold(text, self.inventory, self.score_inventory)

    def save(self, folder: str | Path) -> None:
        """Write the transformers tokenizer files into a folder."""
        no_space = not self.space and SPACE in self.ids
        save_tokenizer(self.as_transformers(), Path(folder), no_space)

    def as_transformers(self) -> Any:
        """transformers' tokenizer of this vocabulary."""
        names = self._checkpoint_names if self.conventions.phonemes else self.tokens
        ids = {names[i]: i for i in self.ids.values() if i not in self._unnamed}
        special = SpecialTokens(self.blank_token, self.unknown_token, self.space)
        return make_tokenizer(ids, special, self.conventions)


def segment_sums(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sum consecutive segments of `values`. counts: the length of each, (segments,) -> (segments,) int64."""
    totals = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    ends = np.cumsum(counts)
    return totals[ends] - totals[ends - counts]


def code_points(text: str) -> np.ndarray:
    """The code points of a text, uint32, (characters,)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _count(texts: Iterable[str], unit: str) -> Counter[str]:
    """How often each unit occurs."""
    counts: Counter[str] = Counter()
    for chunk in chunks(texts):
        if unit == "phone":
            counts.update(phone + " " for text in chunk for phone in text.split())
        else:
            occurrences = np.bincount(code_points("".join(chunk)))
            counts.update({chr(code): int(occurrences[code]) for code in np.flatnonzero(occurrences)})
    return counts


def frames_needed(labels: np.ndarray) -> int:
    """The number of frames that CTC needs for these labels: one each, and a blank between two equal
    neighbours.
    """
    return len(labels) + int(np.count_nonzero(labels[1:] == labels[:-1]))
