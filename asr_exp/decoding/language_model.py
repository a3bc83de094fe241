"""The language model and the lexicon of a beam search, made of the training transcripts, of a text or of
files.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from asr_exp.core.errors import UserError
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.decoding.beam import Lexicon, Weights, spelled, token_names
from asr_exp.decoding.model_files import read_content, words_of
from asr_exp.decoding.ngram import MAX_ORDER, UNKNOWN, estimate, write_arpa

log = logging.getLogger(__name__)
LM_ADVICE = "give train-text, an ARPA file, a binary of KenLM, a text file, or null"
MODEL_FOLDER = "language_model"  # of a checkpoint, where pyctcdecode keeps the files of its decoder


def arpa_of(
    texts: Iterable[str], tokenizer: Tokenizer, of_words: bool, order: int, path: Path, source: str
) -> None:
    """Estimate an n-gram model of texts and write it as an ARPA file.

    Args:
        texts: after the text rules.
        tokenizer: spells the texts.
        of_words: whether the n-grams are of words or of tokens.
        order: the length of the longest n-grams.
        path: the file to write.
        source: what decode.lm named, for messages.

    Raises:
        UserError: the texts have no word.
    """
    names = [UNKNOWN if i == tokenizer.unknown else name for i, name in enumerate(token_names(tokenizer))]

    def sentences() -> Iterable[Sequence[str]]:
        for text in texts:
            if text.strip():
                yield (
                    text.split() if of_words else [names[i] for i in tokenizer.encode(tokenizer.target(text))]
                )

    try:
        model = estimate(sentences(), order)
    except ValueError:
        raise UserError(
            f"decode.lm={source}: there is no text in it to make a language model of; give decode.lm=FILE."
        ) from None
    write_arpa(path, [len(grams) for grams in model.grams], model)


def words_beside(path: Path) -> list[str]:
    """The words of the model of a checkpoint: those of unigrams.txt or, without it, of the model itself."""
    unigrams = path.with_name("unigrams.txt")
    if not unigrams.is_file():
        return words_of(path)
    return read_content(unigrams, "decode.lm", "give decode.lm=FILE").decode("utf-8-sig").split()


def weights_beside(path: Path) -> Weights | None:
    """The weights (alpha, beta) that the authors of a checkpoint set for its model; None where there are
    none.
    """
    try:
        attributes = json.loads(path.with_name("attrs.json").read_text(encoding="utf-8"))
        return Weights(float(attributes["alpha"]), float(attributes["beta"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def text_file(
    path: Path, normalise: Callable[[list[str]], Iterable[str]], settings: Any
) -> tuple[str, Callable[[], Iterable[str]]]:
    """Read a text file -> (a hash of its content and of `settings`, a function that returns its lines after
    the text rules). Raises UserError where it cannot be read.
    """
    content = read_content(path, "decode.lm", LM_ADVICE)
    lines = content.decode("utf-8-sig").splitlines()
    return hashlib.blake2b(content + repr(settings).encode(), digest_size=8).hexdigest(), lambda: normalise(
        lines
    )


def lexicon_of(words: Sequence[str], tokenizer: Tokenizer, source: str) -> Lexicon:
    """Make a lexicon of the words of a language model. Words that the network cannot spell are left out, and
    the log names some.

    source: what decode.lm named, for messages. Raises UserError where not one word can be spelled.
    """
    lexicon, foreign = spelled(words, tokenizer)
    if not lexicon:
        raise UserError(
            f"{source}: the model can spell none of its words, such as"
            f" {foreign[0] if foreign else '(none)'!r}; its characters are {_token_list(tokenizer)}. Give a"
            " language model of words written so."
        )
    if foreign:
        log.warning(
            "%d of %d words of %s cannot be spelled by the model and are left out: %s ...",
            len(foreign),
            len(words),
            source,
            " ".join(foreign[:5]),
        )
    return lexicon


def check_hot_words(phrases: Sequence[str], tokenizer: Tokenizer) -> None:
    """Raise UserError for a hot word that the model cannot spell, and for a phrase of too many words."""
    _, foreign = spelled(" ".join(phrases).split(), tokenizer)
    if foreign:
        raise UserError(
            f"decode.hot_words: the model cannot spell {foreign[0]!r}; its characters are"
            f" {_token_list(tokenizer)}."
        )
    if longer := [phrase for phrase in phrases if len(phrase.split()) > MAX_ORDER]:
        raise UserError(
            f"decode.hot_words has a phrase of more than {MAX_ORDER} words ({longer[0]!r}); give a shorter"
            " part of it."
        )


def read_lexicon(file: str, tokenizer: Tokenizer, normalise: Callable[[list[str]], Iterable[str]]) -> Lexicon:
    """Read a lexicon file. Each line has a word; what follows it, a spelling in torchaudio's files, is
    ignored.

    The text rules are applied to a word that the model cannot spell as it is written. Raises UserError where
    the file cannot be read, has no words, or has a word with a character that the model does not emit.
    """
    path = Path(file).expanduser()
    content = read_content(path, "decode.lexicon", "give a file with a word a line, auto, or null")
    lines = content.decode("utf-8-sig").splitlines()
    written = {number: line.split()[0] for number, line in enumerate(lines, 1) if line.strip()}
    spellable, _ = spelled(list(written.values()), tokenizer)
    numbers: dict[str, int] = {}  # word -> the first line that has it
    normalised = normalise(list(written.values()))
    for (number, original), text in zip(written.items(), normalised, strict=True):
        for word in [original] if original in spellable else text.split():
            numbers.setdefault(word, number)
    lexicon, foreign = spelled(list(numbers), tokenizer)
    if foreign:
        unknown = next(character for character in foreign[0] if not tokenizer.spell(character))
        raise UserError(
            f"Line {numbers[foreign[0]]} of decode.lexicon={path}: the model cannot emit the {unknown!r} of"
            f" {foreign[0]!r}; its characters are {_token_list(tokenizer)}."
        )
    if not lexicon:
        raise UserError(f"decode.lexicon={path} has no words; give a file with a word a line, auto, or null.")
    return lexicon


def check_tokens(path: Path, tokenizer: Tokenizer) -> None:
    """Raise UserError for a model that has none of the tokens: a search without lexicon needs one of them."""
    if not set(words_of(path)) & set(token_names(tokenizer)):
        raise UserError(
            f"decode.lm={path} is a model of words; a search without lexicon needs one of"
            f" {_token_list(tokenizer)}. Give decode.lexicon=auto, or an ARPA file of tokens."
        )


def _token_list(tokenizer: Tokenizer) -> str:
    """The tokens of a vocabulary, shortened for a message."""
    tokens = " ".join(token.strip() for token in tokenizer.tokens)
    return tokens if len(tokens) < 80 else tokens[:77] + "..."
