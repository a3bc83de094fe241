"""Characters or phones to label ids and back. One artifact: the transformers files beside the weights; blank
= pad.
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
    """Label ids of a vocabulary whose tokens are characters (words parted by `space`, "" where nothing parts
    them) or phones.

    Phone tokens are kept with a trailing space ("sh "), so that joining the emitted tokens gives the phone
    string; that is what lets a bare transformers pipeline print phones apart. A token that is None stands for
    an output of the head that the vocabulary does not name: transformers prints it as the unknown token.
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
        blank, unknown, space = special.blank, special.unknown, special.space
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
        # transformers writes labels in capitals then; of a vocabulary that has none it would know no letter.
        self._capitals = conventions.do_lower_case and any(
            token != token.lower() for token in self.tokens if len(token) == 1
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def _by_character(self) -> np.ndarray:
        """The label of each code point, up to the highest of the vocabulary; the last entry is that of all
        others.
        """
        # a blank may be called "-"
        labels = {ord(unit): i for unit, i in self._units.items() if len(unit) == 1 and i != self.blank}
        if self.space in self.ids:
            labels[ord(" ")] = self.ids[self.space]
        table = np.full(max(labels, default=0) + 2, self._other, dtype=np.int32)
        table[list(labels)] = list(labels.values())
        return table

    # -- making one
    # ---------------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        unit: str = "character",
        inventory: str | None = None,
        score_inventory: str | None = None,
        min_count: int = 1,
    ) -> "Tokenizer":
        """A vocabulary of the training transcripts: sorted units, then [UNK], then [PAD] (the blank) last.

        A named TIMIT inventory gives all its phones, seen in training or not. Raises UserError where no unit
        is left.
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
        """A vocabulary from a vocab.json ({token: id}). Raises UserError where the file is missing or not of
        that form.
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

    # -- using it
    # -----------------------------------------------------------------------------------------------------

    def target(self, text: str) -> str:
        """The transcript in the units the model learns (phones folded to the training inventory)."""
        return fold(text, "timit61", self.inventory) if self.inventory in INVENTORIES else text

    def encode(self, text: str) -> np.ndarray:
        """Label ids (int32) of a transcript; units not in the vocabulary become [UNK], or are left out where
        there is none.
        """
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Label ids (int32) of many transcripts, end to end, and how many each has."""
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
            labels = self._table[np.minimum(_points("".join(texts)), len(self._table) - 1)]
        if self.unknown is None:
            kept = labels >= 0
            labels, counts = labels[kept], segment_sums(kept, counts)
        return labels, counts

    def spell(self, word: str) -> list[str] | None:
        """The tokens that spell a word, of a vocabulary of characters; None where it lacks one."""
        characters = word.upper() if self._capitals else word
        return (
            None if any(one not in self.ids or one == self.space for one in characters) else list(characters)
        )

    def speech(self, labels: np.ndarray) -> np.ndarray:
        """Which of the labels are units of speech (not [UNK], not a space)."""
        return (labels != self._other) & (labels != self.ids.get(self.space, -1))

    def known(self, labels: np.ndarray) -> int:
        """How many of the labels are units of speech."""
        return int(np.sum(self.speech(labels)))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of collapsed label ids (no repeats, blanks allowed): what a transformers pipeline prints
        for them.

        (`batch_decode(skip_special_tokens=True)` of transformers prints something else: it takes the blanks
        away before it merges repeats, so "hello" becomes "helo".)
        """
        # transformers merges repeats of what it prints, and all of these are one unknown token to it
        if self._unnamed:
            unknown = -1 if self.unknown is None else self.unknown
            merged = (i for i, _ in groupby(unknown if i in self._unnamed else i for i in ids))
            text = "".join(self.unknown_token if i == -1 else self._printed[i] for i in merged)
        else:
            text = "".join(self._printed[i] for i in ids)
        return self.conventions.apply(text.strip())

    def scored(self, text: str) -> str:
        """A reference or a hypothesis as it is scored: phones folded to the scoring inventory, characters as
        they are.
        """
        if self.score_inventory is None or self.inventory not in INVENTORIES:
            return text.strip()
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
    """The sum of each of the runs that follow each other in `values`, `counts` of them long."""
    totals = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    ends = np.cumsum(counts)
    return totals[ends] - totals[ends - counts]


def _points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _count(texts: Iterable[str], unit: str) -> Counter[str]:
    """How often each unit is there."""
    counts: Counter[str] = Counter()
    for some in chunks(texts):
        if unit == "phone":
            counts.update(phone + " " for text in some for phone in text.split())
        else:
            seen = np.bincount(_points("".join(some)))
            counts.update({chr(point): int(seen[point]) for point in np.flatnonzero(seen)})
    return counts


def frames_needed(labels: np.ndarray) -> int:
    """Frames CTC needs for these labels: one each, and a blank between two that are the same."""
    return len(labels) + int(np.count_nonzero(labels[1:] == labels[:-1]))
