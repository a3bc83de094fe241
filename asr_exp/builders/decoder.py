"""The decoder and the protocol of a score, made from the config."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asr_exp.builders.data import Data, build_data, own_data, text_rules
from asr_exp.builders.session import cache_folder
from asr_exp.config.schema import Decode
from asr_exp.core.errors import UserError
from asr_exp.core.files import is_run
from asr_exp.data.prepare import Split
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.decoding.beam import Beam, BeamSettings, Weights, require_flashlight
from asr_exp.decoding.decoders import Decoder, make_decoder
from asr_exp.decoding.language_model import (
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
from asr_exp.decoding.ngram import is_arpa, vocabulary
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
    """The decoder that `decode` describes, with the weights given there.

    folder: the run's, where a language model of its training transcripts is kept once it is made; data: where
    they are read already. Raises UserError for a language model or a lexicon that cannot be had.
    """
    d = config.decode
    if d.name != "beam":
        return make_decoder(d.name, tokenizer, d.settings)
    require_flashlight()
    asked = None if d.lm == "none" else d.lm
    normalise = text_rules(config).apply_many
    hot_words = [tokenizer.target(text) for text in normalise(list(d.hot_words))]
    if empty := [given for given, words in zip(d.hot_words, hot_words, strict=True) if not words.strip()]:
        raise UserError(
            f"decode.hot_words has {empty[0]!r}, of which the text rules (text={config.text.name}) leave"
            " nothing; drop it."
        )
    words = tokenizer.unit == "character" and tokenizer.space in tokenizer.ids
    by_words = d.lexicon is not None and (d.lexicon != "auto" or words and asked is not None)
    if by_words and not words:
        raise UserError(
            f"decode.lexicon={d.lexicon} needs a model that emits spaces between words, and this one does"
            " not; drop it."
        )
    lm = runtime.broadcast(
        _language_model(config, tokenizer, folder, data, by_words) if asked and runtime.main else None
    )
    lexicon = None
    own = asked == "checkpoint"
    if by_words:
        auto = d.lexicon == "auto"
        words_of = words_beside if own else vocabulary
        lexicon = (
            lexicon_of(words_of(lm), tokenizer, f"decode.lm={asked}")
            if auto
            else read_lexicon(d.lexicon, tokenizer, normalise)
        )
        check_hot_words(hot_words, tokenizer)
    elif lm is not None:
        check_tokens(lm, tokenizer)
    if hot_words and lm is not None and not is_arpa(lm):
        raise UserError(
            f"decode.hot_words cannot be added to {lm.name}, a binary of KenLM; give an ARPA file:"
            " decode.lm=FILE."
        )
    weights = Weights(d.lm_weight, d.word_score)
    if own and weights == Weights(Decode.lm_weight, Decode.word_score):
        weights = weights_beside(lm) or weights
    settings = BeamSettings(d.beam, d.nbest, weights, hot_words, d.hot_word_weight)
    return Beam(tokenizer, lm, lexicon, settings, asked if asked in ("train-text", "checkpoint") else "file")


def _language_model(
    config: DictConfig, tokenizer: Tokenizer, folder: Path | None, data: Data | None, by_words: bool
) -> Path:
    """The ARPA file that `decode.lm` names, or leads to."""
    d, unit = config.decode, "words" if by_words else "tokens"
    order = d.order or (3 if by_words else 6)
    if d.lm == "train-text":
        if folder is None:
            raise UserError(
                "decode.lm=train-text is made of the transcripts of a run, and no run of ours is used; give"
                " decode.lm=FILE."
            )
        path = folder / "lm" / f"train-text.{unit}.{order}.arpa"
        if data or not path.exists():
            data = data or build_data(own_data(config, folder, "train"))
            arpa_of(data.texts(["train"]), tokenizer, by_words, order, path, d.lm)
        return path
    if d.lm == "checkpoint":
        other = config.run and not is_run(config.run)
        return checkpoint_model(
            find_checkpoint(config.run if other else config.model.checkpoint or "", config.model.revision)
        )
    source = Path(d.lm).expanduser()
    if source.suffix == ".arpa" or is_arpa(source):
        return source
    made_of = [
        OmegaConf.to_container(config.text.rules),
        config.dataset.language,
        unit,
        order,
        tokenizer.tokens,
        tokenizer.inventory,
    ]
    name, lines = text_file(source, text_rules(config).apply_many, made_of)
    path = cache_folder(config) / "lm" / f"{name}.arpa"
    if not path.exists():
        arpa_of(lines(), tokenizer, by_words, order, path, d.lm)
    return path


def decoder_name(config: DictConfig, decoder: Decoder) -> str:
    """The decoder with its settings, as a protocol has it: 'greedy', 'my-beam(beam=8)'."""
    if isinstance(decoder, Beam):
        return decoder.description
    settings = ", ".join(f"{name}={value}" for name, value in sorted(config.decode.settings.items()))
    return f"{config.decode.name}({settings})" if settings else config.decode.name


def build_protocol(config: DictConfig, data: Data, split: Split, decoder: Decoder) -> dict[str, Any]:
    """What a score on this split was measured by."""
    d, t = config.dataset, config.tokenizer
    return protocol(
        dataset=d.name,
        language=d.language,
        split=data.corpus.subsets.get(split.name, [split.name]),
        ids=split.all_ids,
        coverage=round(split.coverage, 6),
        text=config.text.name,
        rules=OmegaConf.to_container(config.text.rules),
        metric="per" if t.unit == "phone" else "wer",
        inventory=t.score_inventory or t.inventory,
        decoder=decoder_name(config, decoder),
        padding=config.model.padding,
        name=config.protocol.name,
        select=config.trainer.select,
    )


def checkpoint_model(source: CheckpointSource) -> Path:
    """The n-gram model, ARPA or KenLM's binary, that came with a checkpoint as transformers'
    Wav2Vec2ProcessorWithLM keeps it.

    Its other files are fetched too: unigrams.txt, attrs.json. Raises UserError where there is none.
    """
    files = [source.file(name) for name in source.names() if name.startswith(f"{MODEL_FOLDER}/")]
    models = [path for path in files if path and path.suffix not in (".txt", ".json")]
    if not models:
        raise UserError(
            f"decode.lm=checkpoint: {source.name} comes without a language model ({MODEL_FOLDER}/*.arpa or"
            " *.bin); give train-text, a file, or null."
        )
    return models[0]
