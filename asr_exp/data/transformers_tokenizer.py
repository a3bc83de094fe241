"""How transformers' CTC tokenizers (5.17) write text, and the files that they load a vocabulary from."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PHONEMES = (
    "Wav2Vec2PhonemeCTCTokenizer"  # the class for phones; the one for characters is Wav2Vec2CTCTokenizer
)
SPACE = "|"
UNKNOWN = "[UNK]"
BLANK = "[PAD]"
# What transformers replaces where `clean_up_tokenization_spaces` is set.
CLEANED = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


@dataclass(frozen=True)
class SpecialTokens:
    """The names of the tokens that are no units of speech.

    blank: of CTC; transformers calls it the padding token. unknown: stands for a unit outside the vocabulary.
    space: stands between words; "" where nothing does.
    """

    blank: str = BLANK
    unknown: str = UNKNOWN
    space: str = SPACE


@dataclass(frozen=True)
class Conventions:
    """How a checkpoint's tokenizer writes text, in the words of its tokenizer_config.json.

    do_lower_case: the vocabulary is in capitals and the text is not; replace_word_delimiter_char: what is
    printed for the space token; clean_up_tokenization_spaces: no space is printed before punctuation;
    phonemes: the tokenizer is a Wav2Vec2PhonemeCTCTokenizer.
    """

    do_lower_case: bool = False
    replace_word_delimiter_char: str = " "
    clean_up_tokenization_spaces: bool = False
    phonemes: bool = False

    def apply(self, text: str) -> str:
        """Joined tokens as transformers prints them: in lower case and cleaned up, where that is set."""
        text = text.lower() if self.do_lower_case else text
        for spaced, joined in CLEANED if self.clean_up_tokenization_spaces else ():
            text = text.replace(spaced, joined)
        return text


def make_tokenizer(ids: Mapping[str, int], special: SpecialTokens, conventions: Conventions) -> Any:
    """transformers' tokenizer of a vocabulary. ids: by token, as transformers names it."""
    import transformers

    options: dict[str, Any] = {
        "bos_token": None,
        "eos_token": None,
        "unk_token": special.unknown,
        "pad_token": special.blank,
        "word_delimiter_token": special.space or None,
        "clean_up_tokenization_spaces": conventions.clean_up_tokenization_spaces,
    }
    if conventions.phonemes:
        options |= {"unk_token": special.unknown.strip(), "do_phonemize": False}
    else:
        # without a space token, the blank takes its place: it is never printed
        options["word_delimiter_token"] = special.space or special.blank
        options["do_lower_case"] = conventions.do_lower_case
        options["replace_word_delimiter_char"] = conventions.replace_word_delimiter_char
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "vocab.json"
        path.write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
        cls = getattr(transformers, PHONEMES if conventions.phonemes else "Wav2Vec2CTCTokenizer")
        return cls(str(path), **options)


def save_tokenizer(tokenizer: Any, folder: Path, no_space: bool) -> None:
    """Write transformers' tokenizer files into a folder.

    no_space: the vocabulary has a token "|" that is not the space between words. transformers reads a
    delimiter of None from the file, but writes it there as a word: it is mended.
    """
    tokenizer.save_pretrained(folder)
    if no_space:
        path = folder / "tokenizer_config.json"
        settings = {**json.loads(path.read_text(encoding="utf-8")), "word_delimiter_token": None}
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
