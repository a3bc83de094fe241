"""Build the decoder that a config describes, and the protocol of a score."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asr_exp.builders.data import Data, build_data, own_data, text_rules
from asr_exp.builders.score_rules import score_protocol
from asr_exp.builders.session import cache_folder
from asr_exp.config.rules_name import text_name
from asr_exp.config.schema import Decode
from asr_exp.core.errors import UserError
from asr_exp.core.files import is_run
from asr_exp.data.corrections import read_corrections
from asr_exp.data.prepare import Split
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.decoding.beam import Beam, BeamSettings, Lexicon, Weights, require_flashlight
from asr_exp.decoding.decoders import Decoder, make_decoder
from asr_exp.decoding.language_model import (
    LM_ADVICE,
    MODEL_FOLDER,
    arpa_of,
    check_hot_words,
    check_tokens,
    lexicon_of,
    read_lexicon,
    text_file,
    weights_beside,
    words_beside,
)
from asr_exp.decoding.model_files import find_model, words_of
from asr_exp.decoding.ngram import is_arpa, is_whole_arpa
from asr_exp.model.pretrained.source import CheckpointSource, find_checkpoint
from asr_exp.runs.results import protocol
from asr_exp.runtime.distributed import Runtime


def build_decoder(
    config: DictConfig,
    tokenizer: Tokenizer,
    runtime: Runtime,
    folder: Path | None = None,
    data: Data | None = None,
) -> Decoder:
    """Build the decoder that the section `decode` describes, with the weights given there.

    Args:
        config: the whole config.
        tokenizer: of the model.
        runtime: rank 0 makes or finds the language model, the others are sent its path.
        folder: the run's, where a language model of its training transcripts is kept once it is made.
        data: the corpus, where it is read already; else it is read if a language model has to be made of it.

    Raises:
        UserError: a package is missing, a language model or a lexicon cannot be used, or a hot word cannot.
    """
    decode = config.decode
    if decode.name != "beam":
        return make_decoder(decode.name, tokenizer, decode.settings)
    require_flashlight()
    lm_name = None if decode.lm == "none" else decode.lm
    hot_words = _hot_words(config, tokenizer)
    of_words = _uses_lexicon(config, tokenizer)
    make_lm = lm_name and runtime.main
    lm = runtime.broadcast(_language_model(config, tokenizer, folder, data, of_words) if make_lm else None)
    lexicon = None
    if of_words:
        lexicon = _lexicon(config, tokenizer, lm)
        check_hot_words(hot_words, tokenizer)
    elif lm is not None:
        check_tokens(lm, tokenizer)
    if hot_words and lm is not None and not is_arpa(lm):
        raise UserError(
            f"decode.hot_words cannot be added to {lm.name}, a binary of KenLM; give an ARPA file:"
            " decode.lm=FILE."
        )
    weights = Weights(decode.lm_weight, decode.word_score)
    if lm_name == "checkpoint" and weights == Weights(Decode.lm_weight, Decode.word_score):
        weights = weights_beside(lm) or weights
    settings = BeamSettings(decode.beam, decode.nbest, weights, hot_words, decode.hot_word_weight)
    origin = lm_name if lm_name in ("train-text", "checkpoint") else "file"
    return Beam(tokenizer, lm, lexicon, settings, origin)


def _hot_words(config: DictConfig, tokenizer: Tokenizer) -> list[str]:
    """The hot words after the text rules. Raises UserError for one of which nothing is left."""
    typed = list(config.decode.hot_words)
    hot_words = [tokenizer.target(text) for text in text_rules(config).apply_many(typed)]
    for word, normalised in zip(typed, hot_words, strict=True):
        if not normalised.strip():
            raise UserError(
                f"decode.hot_words has {word!r}, of which the text rules (text={text_name(config)}) leave"
                " nothing; drop it."
            )
    return hot_words


def _uses_lexicon(config: DictConfig, tokenizer: Tokenizer) -> bool:
    """Whether the search goes by the words of a lexicon. Raises UserError where the model emits no words."""
    decode = config.decode
    emits_words = tokenizer.unit == "character" and tokenizer.space in tokenizer.ids
    if decode.lexicon == "auto":  # the words of the language model, if there are any
        return emits_words and decode.lm not in (None, "none")
    if decode.lexicon is not None and not emits_words:
        raise UserError(
            f"decode.lexicon={decode.lexicon} needs a model that emits spaces between words, and this one"
            " does not; drop it."
        )
    return decode.lexicon is not None


def _lexicon(config: DictConfig, tokenizer: Tokenizer, lm: Path) -> Lexicon:
    """The words of a lexicon file or of the language model, as the model spells them."""
    decode = config.decode
    if decode.lexicon != "auto":
        return read_lexicon(decode.lexicon, tokenizer, text_rules(config).apply_many)
    words = words_beside(lm) if decode.lm == "checkpoint" else words_of(lm)
    return lexicon_of(words, tokenizer, f"decode.lm={decode.lm}")


def _language_model(
    config: DictConfig, tokenizer: Tokenizer, folder: Path | None, data: Data | None, of_words: bool
) -> Path:
    """The ARPA file or binary that `decode.lm` names; it is made first where that is train-text or a text
    file.

    Args:
        config: the whole config.
        tokenizer: spells words in tokens.
        folder: the run's; None where no run is used.
        data: the corpus, where it is read already.
        of_words: whether the n-grams are of words or of tokens.

    Raises:
        UserError: there is no run to take the transcripts of, or a file cannot be read.
    """
    decode = config.decode
    unit = "words" if of_words else "tokens"
    order = decode.order or (3 if of_words else 6)
    if decode.lm == "train-text":
        if folder is None:
            raise UserError(
                "decode.lm=train-text is made of the transcripts of a run, and no run of ours is used; give"
                " decode.lm=FILE."
            )
        path = folder / "lm" / f"train-text.{unit}.{order}.arpa"
        if data or not is_whole_arpa(path):
            data = data or build_data(own_data(config, folder), only="train")
            arpa_of(data.texts(["train"]), tokenizer, of_words, order, path, decode.lm)
        return path
    if decode.lm == "checkpoint":
        names_checkpoint = config.run and not is_run(config.run)
        checkpoint = config.run if names_checkpoint else config.model.checkpoint or ""
        return checkpoint_model(find_checkpoint(checkpoint, config.model.revision))
    source = Path(decode.lm).expanduser()
    kept = cache_folder(config) / "lm"
    if model := find_model(source, kept, "decode.lm", LM_ADVICE):
        return model
    settings = [
        OmegaConf.to_container(config.text.rules),
        config.dataset.language,
        unit,
        order,
        tokenizer.tokens,
        tokenizer.inventory,
    ]
    name, lines = text_file(source, text_rules(config).apply_many, settings)
    path = kept / f"{name}.arpa"
    if not is_whole_arpa(path):
        arpa_of(lines(), tokenizer, of_words, order, path, decode.lm)
    return path


def decoder_name(config: DictConfig, decoder: Decoder) -> str:
    """The name of a decoder and its settings, as a protocol has them: 'greedy', 'my-beam(beam=8)'."""
    if isinstance(decoder, Beam):
        return decoder.description
    settings = ", ".join(f"{name}={value}" for name, value in sorted(config.decode.settings.items()))
    return f"{config.decode.name}({settings})" if settings else config.decode.name


def build_protocol(config: DictConfig, data: Data, split: Split, decoder: Decoder) -> dict[str, Any]:
    """The protocol of a score on a split: all that tells whether two scores may be compared."""
    tokenizer, precision = config.tokenizer, config.evaluate.precision
    corrections = config.dataset.corrections
    return protocol(
        dataset=config.dataset.name,
        language=config.dataset.language,
        split=data.corpus.subsets.get(split.name, [split.name]),
        ids=split.all_ids,
        coverage=round(split.coverage, 6),
        text=config.text.name,
        rules=OmegaConf.to_container(config.text.rules),
        metric="per" if tokenizer.unit == "phone" else "wer",
        inventory=tokenizer.score_inventory or tokenizer.inventory,
        decoder=decoder_name(config, decoder),
        padding=config.model.padding,
        name=config.protocol.name,
        select=config.trainer.select,
        # what earlier scores did not have is left out, so that they keep their hash
        **({} if precision == "fp32" else {"precision": precision}),
        **({"corrections": read_corrections(corrections).digest} if corrections else {}),
        **score_protocol(config),
    )


def checkpoint_model(source: CheckpointSource) -> Path:
    """The n-gram model of a checkpoint, where transformers' Wav2Vec2ProcessorWithLM keeps it: an ARPA file or
    a binary of KenLM.

    The files beside it are fetched too: unigrams.txt, attrs.json. Raises UserError where there is no model.
    """
    files = [source.file(name) for name in source.names() if name.startswith(f"{MODEL_FOLDER}/")]
    models = [path for path in files if path and path.suffix not in (".txt", ".json")]
    if not models:
        raise UserError(
            f"decode.lm=checkpoint: {source.name} comes without a language model ({MODEL_FOLDER}/*.arpa or"
            " *.bin); give train-text, a file, or null."
        )
    return models[0]
