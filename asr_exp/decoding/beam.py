"""Beam search over CTC emissions with an n-gram language model, by flashlight-text through torchaudio.

The score of a text is log P(text | audio) + lm_weight * log P(text) + word_score * words, in natural
logarithms, and hot_weight more for every hot word in it. With a lexicon, texts have its words only; without
one, tokens follow each other freely.
"""

import contextlib
import hashlib
import importlib.util
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr_exp.core.errors import UserError
from asr_exp.core.libraries import torchaudio
from asr_exp.decoding.decoders import Candidate, register_decoder
from asr_exp.decoding.hot_words import Phrase, boost, occurrences
from asr_exp.decoding.ngram import UNKNOWN, is_arpa, read_arpa

IMPOSSIBLE = -1e4  # the logarithm of a probability of zero
# A search without lexicon takes this many tokens of a frame, the most probable. It is three times as fast as
# with all, and gives the same texts.
TOKENS_OF_FRAME = 12
Lexicon = Mapping[str, Sequence[str]]  # word -> its spelling, in names of tokens


@dataclass(frozen=True)
class Weights:
    """The two weights of a search. lm: the factor of the language model's logarithm; word: what every word
    adds to the score, or costs, below 0.
    """

    lm: float = 0.5
    word: float = 0.0


@dataclass(frozen=True)
class BeamSettings:
    """The settings of a beam search.

    beam_size: texts that are kept from frame to frame; nbest: texts that are returned; weights: of the
    language model and of words; hot_words: words or phrases that are favoured; hot_weight: what each
    occurrence of one adds to the score of a text, a natural logarithm.
    """

    beam_size: int = 100
    nbest: int = 1
    weights: Weights = Weights()
    hot_words: Sequence[str] = ()
    hot_weight: float = 5.0


@register_decoder("beam")
class Beam:
    """A beam search that returns the best texts of each row of emissions.

    Without a lexicon, words and hot words are counted in the texts that the search ends with. With a lexicon,
    the hot words are added to it, and all are counted along the way.
    """

    def __init__(
        self,
        tokenizer: Any,
        lm: Path | None = None,
        lexicon: Lexicon | None = None,
        settings: BeamSettings = BeamSettings(),  # noqa: B008
        origin: str = "",
    ):
        """Load the language model.

        Args:
            tokenizer: names the tokens of the emissions.
            lm: an ARPA file: of words where there is a lexicon, else of the names of tokens (`token_names`).
            lexicon: the words that may come, each with its tokens; None: tokens follow each other freely.
            settings: see `BeamSettings`.
            origin: what the language model was made of, as a protocol says it.

        Raises:
            UserError: flashlight-text or torchaudio is missing, or the ARPA file is broken.
        """
        require_flashlight()
        self.tokenizer = tokenizer
        self.lm = lm
        self.origin = origin
        self.beam_size = settings.beam_size
        self.nbest = settings.nbest
        self.hot_weight = settings.hot_weight
        self.hot_words: set[Phrase] = {tuple(phrase.split()) for phrase in settings.hot_words}
        self.tuned_on = ""  # the split that the weights were tuned on, if they were
        self.plain_lexicon = lexicon  # without the hot words
        hot_spellings = spelled(" ".join(settings.hot_words).split(), tokenizer)[0]
        self.lexicon = None if lexicon is None else {**lexicon, **hot_spellings}
        self.names = token_names(tokenizer)
        self._unboosted: Any = None  # the language model without hot words, once it is loaded
        self.set_weights(settings.weights)

    def set_weights(self, weights: Weights) -> None:
        """Search with these weights from now on."""
        from flashlight.lib.text.decoder import (
            CriterionType,
            LexiconDecoderOptions,
            LexiconFreeDecoderOptions,
            ZeroLM,
        )
        from flashlight.lib.text.dictionary import Dictionary

        decoder = torchaudio("models.decoder", "CTCDecoder")
        self.weights = weights
        common = {
            "beam_size": self.beam_size,
            "sil_score": 0.0,
            "log_add": True,
            "criterion_type": CriterionType.CTC,
        }
        # flashlight's create_word_dict would number the tokens anew; they have to keep their label ids
        words = Dictionary([*(self.names if self.lexicon is None else self.lexicon), UNKNOWN])
        model, lm_weight, word_bonus = self._model(words)
        options: Any
        if self.lexicon is None:
            spellings = None
            options = LexiconFreeDecoderOptions(
                lm_weight=lm_weight, beam_size_token=TOKENS_OF_FRAME, beam_threshold=20.0, **common
            )
        else:
            options = LexiconDecoderOptions(
                lm_weight=lm_weight,
                word_score=weights.word + word_bonus,
                unk_score=-math.inf,
                beam_size_token=len(self.names),
                beam_threshold=50.0,
                **common,
            )
            spellings = {word: [list(spelling)] for word, spelling in self.lexicon.items()}
        # torchaudio documents the factory `ctc_decoder` alone, which numbers words its own way. The
        # constructor is called as torchaudio 2.11 has it; where it changes, this raises TypeError.
        self._search = decoder.CTCDecoder(
            nbest=self.nbest if self.lexicon else self.beam_size,
            lexicon=spellings,
            word_dict=words,
            tokens_dict=Dictionary(self.names),
            lm=model or ZeroLM(),
            decoder_options=options,
            blank_token=self.names[self.tokenizer.blank],
            sil_token=self.names[self.tokenizer.ids.get(self.tokenizer.space, self.tokenizer.blank)],
            unk_word=UNKNOWN,
        )

    def _model(self, words: Any) -> tuple[Any, float, float]:
        """The language model, the factor of its log10, and what to add to each word's score because the model
        has it too low (see `boost`).
        """
        weight = self.weights.lm * math.log(10)
        if self.hot_words and self.lexicon is not None and self.hot_weight:
            source, weight = (self.lm, weight) if self.lm and self.weights.lm else (None, 1.0)
            with tempfile.TemporaryDirectory() as scratch:
                target = Path(scratch) / "boosted.arpa"
                boost(source, target, self.hot_words, self.hot_weight / weight)
                return _kenlm(target, words), weight, self.hot_weight
        if self.lm is None or not self.weights.lm:
            return None, 0.0, 0.0
        self._unboosted = self._unboosted or _kenlm(self.lm, words)
        return self._unboosted, weight, 0.0

    def __call__(self, logits: torch.Tensor, frames: Sequence[int]) -> list[str]:
        return [texts[0].text for texts in self.candidates(logits, frames)]

    def candidates(self, logits: torch.Tensor, frames: Sequence[int]) -> list[list[Candidate]]:
        """The `nbest` texts of each row, the best first, at least one. logits: (batch, frames, vocabulary);
        frames: valid frames of each row.
        """
        log_probs = logits.float().log_softmax(-1).cpu()
        rows = zip(log_probs, frames, strict=True)
        return [self._row(row[:n]) if n else [Candidate("", 0.0)] for row, n in rows]

    def _row(self, log_probs: torch.Tensor) -> list[Candidate]:
        if self.lexicon is not None:  # one more frame, a space, ends the last word
            end = torch.full((1, log_probs.shape[1]), IMPOSSIBLE)
            end[0, self.tokenizer.ids[self.tokenizer.space]] = 0.0
            log_probs = torch.cat([log_probs, end])
        scores: dict[str, float] = {}
        for result in self._search(log_probs[None].contiguous())[0]:
            if self.lexicon is None:
                text = " ".join(self.tokenizer.decode(result.tokens.tolist()).split())
            else:
                text = " ".join(result.words)
                text = text.lower() if self.tokenizer.conventions.do_lower_case else text
            # results that differ in spaces alone are one text
            scores[text] = float(np.logaddexp(scores.get(text, -math.inf), result.score))
        if self.lexicon is None:
            scores = {text: score + self._bonus(text.split()) for text, score in scores.items()}
        best = [Candidate(text, scores[text]) for text in sorted(scores, key=lambda text: -scores[text])]
        return best[: self.nbest] or [Candidate("", IMPOSSIBLE)]

    @cached_property
    def _lm_hash(self) -> str:
        with open(self.lm or os.devnull, "rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:8]

    @property
    def description(self) -> str:
        """The decoder as a protocol names it: all that its texts depend on, with hashes of the contents of
        the language model and the lexicon.
        """
        settings = {"beam": str(self.beam_size)}
        if self.lm:
            settings |= {"lm": f"{self.origin}:{self._lm_hash}", "lm_weight": f"{self.weights.lm:g}"}
        if self.plain_lexicon is not None:
            content = repr(sorted(self.plain_lexicon.items())).encode()
            digest = hashlib.blake2b(content, digest_size=4).hexdigest()
            settings["lexicon"] = f"{len(self.plain_lexicon)}:{digest}"
        if self.weights.word:
            settings["word_score"] = f"{self.weights.word:g}"
        if self.tuned_on:
            settings["tuned_on"] = self.tuned_on
        if self.hot_words:
            settings |= {
                "hot_words": "|".join(sorted(map(" ".join, self.hot_words))),
                "hot_word_weight": f"{self.hot_weight:g}",
            }
        return f"beam({', '.join(f'{name}={value}' for name, value in settings.items())})"

    def _bonus(self, words: list[str]) -> float:
        return self.weights.word * len(words) + self.hot_weight * occurrences(words, self.hot_words)


def require_flashlight() -> None:
    """Raise UserError where flashlight-text is not installed."""
    if importlib.util.find_spec("flashlight") is None:
        raise UserError(
            "decode=beam needs flashlight-text, which is not installed: pip install 'asr_exp[beam]' (Python"
            " 3.11 or 3.12)."
        )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Discard what C++ code writes to standard error: KenLM draws a progress bar."""
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def _kenlm(path: Path, words: Any) -> Any:
    """Load an ARPA file, or a binary, with KenLM. Raises UserError where it is broken, with the line of an
    ARPA file.
    """
    from flashlight.lib.text.decoder.kenlm import KenLM

    try:
        with _silence():
            return KenLM(str(path), words)
    except Exception as why:
        for _ in (
            read_arpa(path) if is_arpa(path) else ()
        ):  # it raises with the line, which KenLM does not give
            pass
        raise UserError(f"decode.lm={path} cannot be read by KenLM ({str(why).splitlines()[-1]}).") from why


# ------------------------------------------------------------------------------------------------------------
# tokens and words


def token_names(tokenizer: Any) -> list[str]:
    """The name of each token in an ARPA file: the token itself or, for [UNK], <s> and the like, <NUMBER>."""
    names: list[str] = []
    for number, token in enumerate(tokenizer.tokens):
        name = token.strip()
        special = len(name) > 1 and name[0] + name[-1] in ("<>", "[]") or number == tokenizer.blank
        names.append(f"<{number}>" if special or not name or name in names or " " in name else name)
    return names


def spelled(words: Sequence[str], tokenizer: Any) -> tuple[Lexicon, list[str]]:
    """Spell words in the tokens of a character model, with the space that ends a word -> (a lexicon, the
    words that the model cannot spell).
    """
    lexicon, foreign = {}, []
    for word in words:
        if spelling := tokenizer.spell(word):
            lexicon[word] = [*spelling, tokenizer.space]
        else:
            foreign.append(word)
    return lexicon, foreign
