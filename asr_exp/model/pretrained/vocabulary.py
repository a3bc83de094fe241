"""The vocabulary of fine-tuned checkpoints, as transformers' two CTC tokenizers read it."""

from dataclasses import dataclass
from typing import Any

from asr_exp.core.errors import UserError
from asr_exp.core.libraries import import_failure
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.data.transformers_tokenizer import PHONEMES, Conventions, SpecialTokens
from asr_exp.model.pretrained.source import CheckpointSource, find_checkpoint
from asr_exp.model.pretrained.weights import head_size

# transformers adds these to the end of a vocabulary without them; a CTC head has no output for them
SENTENCE = ("<s>", "</s>")


@dataclass(frozen=True)
class CheckpointVocabulary:
    """The vocabulary of a CTC head.

    tokens: of each output of the head; None for one that the vocabulary does not name. blank, unknown:
    tokens. space: the token between words; "" where there is none. conventions: of the text that is printed.
    """

    tokens: list[str | None]
    blank: str
    unknown: str
    space: str
    conventions: Conventions


def read_tokenizer(
    checkpoint: str,
    revision: str | None = None,
    unit: str = "character",
    inventory: str | None = None,
    score_inventory: str | None = None,
) -> Tokenizer:
    """The vocabulary of a fine-tuned CTC checkpoint.

    Args:
        checkpoint: its name; see `find_checkpoint`.
        revision: of a hub id.
        unit: character or phone, for a checkpoint whose tokenizer does not say; the unit of a
            Wav2Vec2PhonemeCTCTokenizer is the phone.
        inventory: of the phones.
        score_inventory: to which phones are folded before they are scored.

    Returns:
        A tokenizer with one token for each output of the head.

    Raises:
        UserError: where the checkpoint has no vocabulary, or one that does not fit its head.
    """
    v = read_vocabulary(find_checkpoint(checkpoint, revision))
    unit = "phone" if v.conventions.phonemes else unit
    special = SpecialTokens(v.blank, v.unknown, v.space)
    return Tokenizer(v.tokens, unit, special, inventory, score_inventory, v.conventions)


def read_vocabulary(source: CheckpointSource) -> CheckpointVocabulary:
    """The vocabulary of a fine-tuned checkpoint, with one token for each output of its head.

    Raises UserError where the checkpoint has no vocabulary, or one that does not fit its head.
    """
    settings = {**(source.json("config.json") or {}), **(source.json("tokenizer_config.json") or {})}
    phonemes = settings.get("tokenizer_class") == PHONEMES
    theirs, vocabulary = _their_tokenizer(source, phonemes, settings.get("target_lang"))
    outputs = head_size(source)
    if not outputs:
        raise _unfit(source, "it has no CTC head")
    blank = _special(theirs, vocabulary, "pad_token", "<pad>", "[PAD]")
    unknown = _special(theirs, vocabulary, "unk_token", "<unk>", "[UNK]")
    ids = {**theirs.get_vocab(), **vocabulary}
    if ids.get(blank, outputs) >= outputs:
        raise _unfit(
            source, f"its tokenizer's blank ({blank}) is not among the {outputs} outputs of its head"
        )
    added = {*theirs.all_special_tokens, *SENTENCE, theirs.word_delimiter_token}
    beyond = {token: i for token, i in vocabulary.items() if i >= outputs and token not in added}
    if beyond:
        token, number = next(iter(beyond.items()))
        raise _unfit(
            source,
            f"its vocab.json has {len(vocabulary)} tokens and its head {outputs} outputs ({token!r} would be"
            f" number {number}): they are not of one model, or not of one language",
        )
    # vocab.json takes precedence over the tokens that transformers adds
    names = {i: token for token, i in [*theirs.get_vocab().items(), *vocabulary.items()]}
    if names[ids[blank]] != blank:
        raise _unfit(
            source,
            f"its vocab.json gives the number {ids[blank]} to the blank ({blank}) and to"
            f" {names[ids[blank]]!r}",
        )
    tokens = [names.get(i) for i in range(outputs)]
    delimiter = _word_delimiter(theirs)
    space = "" if delimiter is None or delimiter == blank else delimiter
    if not phonemes and space not in tokens and " " in tokens:
        space = " "
    printed = "" if phonemes else getattr(theirs, "replace_word_delimiter_char", " ")
    conventions = Conventions(
        bool(getattr(theirs, "do_lower_case", False)),
        printed if isinstance(printed, str) else " ",
        bool(theirs.clean_up_tokenization_spaces),
        phonemes,
    )
    return CheckpointVocabulary(tokens, blank, unknown, space, conventions)


def _their_tokenizer(
    source: CheckpointSource, phonemes: bool, language: str | None
) -> tuple[Any, dict[str, int]]:
    """transformers' own tokenizer of a checkpoint, and its vocab.json.

    phonemes: whether it is a tokenizer of phonemes. language: whose vocabulary is read, where vocab.json has
    several. (AutoTokenizer has no tokenizer for SEW.)
    """
    import transformers

    for name in ("special_tokens_map.json", "added_tokens.json"):
        source.json(name)  # downloads it to where the tokenizer reads it, and checks that it is JSON
    vocabulary = source.json("vocab.json")
    if vocabulary is None:
        raise _unfit(source, "it has no vocabulary (vocab.json)")
    if any(isinstance(ids, dict) for ids in vocabulary.values()):
        if not isinstance(language, str) or language not in vocabulary:
            raise _unfit(
                source,
                f"its vocab.json has a vocabulary for each of {len(vocabulary)} languages, and"
                f" tokenizer_config.json names {'none of them' if language is None else language}"
                " (target_lang)",
            )
        vocabulary = vocabulary[language]
    if not all(isinstance(number, int) for number in vocabulary.values()):
        raise _unfit(source, "its vocab.json does not give each token a number")
    if any("\ud800" <= character <= "\udfff" for token in vocabulary for character in token):
        raise _unfit(source, "its vocab.json has half of a character (a lone surrogate) in it")
    try:
        kind = getattr(transformers, PHONEMES if phonemes else "Wav2Vec2CTCTokenizer")
        # the tokenizer's phonemizer writes labels from text, and may not be installed
        options = {"do_phonemize": False} if phonemes else {}
        return kind.from_pretrained(source.folder, **options), vocabulary
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as why:
        if sentence := import_failure(why):
            raise UserError(sentence) from why
        first = (str(why).splitlines() or [type(why).__name__])[0]
        raise _unfit(source, f"its tokenizer's files cannot be read ({first.rstrip('.')})") from why


def _word_delimiter(tokenizer: Any) -> str | None:
    """The token that parts words; None where the tokenizer has none.

    The private attribute `_word_delimiter_token` says so, as seen in transformers 5.18 to 5.24; the public
    property makes the word "None" of a missing one. Without the attribute that word is taken for none.
    """
    if hasattr(tokenizer, "_word_delimiter_token"):
        delimiter = tokenizer._word_delimiter_token
        return None if delimiter is None else str(delimiter)
    delimiter = str(tokenizer.word_delimiter_token)
    return None if delimiter == "None" else delimiter


def _special(theirs: Any, vocabulary: dict[str, int], role: str, *usual: str) -> str:
    """The token of a role: the one that the tokenizer's files name, or, where the vocabulary lacks it, the
    first of `usual` that the vocabulary has.
    """
    named = getattr(theirs, role)
    return (
        str(named)
        if named in vocabulary
        else next((token for token in usual if token in vocabulary), str(named or usual[-1]))
    )


def _unfit(source: CheckpointSource, reason: str) -> UserError:
    """The error for a vocabulary that does not fit. reason: a clause without a full stop."""
    return UserError(
        f"model.checkpoint={source.name} cannot keep its head: {reason}. Use model.head=new, or give another"
        " checkpoint."
    )
