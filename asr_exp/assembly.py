"""Builders: a config section in, the part it describes out. The only place where config keys meet the parts' arguments."""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asr_exp.backbone import load_backbone
from asr_exp.beam import Beam, Weights, require_flashlight
from asr_exp.bundles import bundle_labels
from asr_exp.checkpoint import locked
from asr_exp.checkpoint_source import BUNDLE, find_checkpoint
from asr_exp.config import is_run, load_run, resolve
from asr_exp.console import logging_to_terminal
from asr_exp.data.corpora import read_corpus
from asr_exp.data.corpora.base import Corpus
from asr_exp.data.prepare import Limits, Split, normalise, prepare_split
from asr_exp.data.text import TextRules, build_rules
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.decoding import Decoder, make_decoder
from asr_exp.errors import UserError
from asr_exp.language import (
    arpa_of,
    check_hot_words,
    check_tokens,
    checkpoint_model,
    lexicon_of,
    read_lexicon,
    text_file,
    weights_beside,
    words_beside,
)  # fmt: skip
from asr_exp.model import Outline, Recogniser
from asr_exp.ngram import is_arpa, vocabulary
from asr_exp.results import protocol
from asr_exp.runtime import Runtime, is_main, seed_everything, started
from asr_exp.schema import Decode

log = logging.getLogger(__name__)


@dataclass
class Data:
    """A corpus after its text rules, not yet decoded, and as it was read where that is wanted."""

    corpus: Corpus
    raw: Corpus | None = None

    def texts(self, splits: Iterable[str]) -> Iterator[str]:
        """The transcripts of splits after the text rules."""
        return chain.from_iterable(self.corpus.splits[split].texts() for split in splits)


def cache_folder(config: DictConfig) -> Path:
    """Where decoded audio is kept. Raises UserError where nothing can be written there."""
    chosen = config.cache_root or os.environ.get("ASR_EXP_CACHE")
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    folder = Path(chosen or Path(base) / "asr_exp").expanduser().absolute()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UserError(f"Decoded audio cannot be kept in {folder}: nothing can be written there. Give another cache_root=FOLDER.")
    return folder


@contextmanager
def at_work(config: DictConfig, folder: Path | None = None) -> Iterator[Runtime]:
    """Hold a run folder (rank 0), where one is given, join the ranks and send the log to the terminal.

    Raises UserError where another process holds it.
    """
    with (
        locked(folder) if folder and is_main() else nullcontext(),
        started(config.trainer.device, config.trainer.precision) as runtime,
        logging_to_terminal(runtime.main, runtime.rank),
    ):
        yield runtime


def build_data(config: DictConfig, keep_raw: bool = False) -> Data:
    """Read the corpus and apply the text rules."""
    raw = read_corpus(config.dataset, cache_folder(config))
    return Data(normalise(raw, _text_rules(config)), raw if keep_raw else None)


def build_tokenizer(config: DictConfig, data: Data) -> Tokenizer:
    """The checkpoint's vocabulary where its head is kept, a vocabulary given, or one made of the transcripts of `tokenizer.splits`."""
    t, m = config.tokenizer, config.model
    if m.head == "keep":
        kept = checkpoint_tokenizer(config, m.checkpoint, m.revision)
        check_unit(config, kept)
        return kept
    if t.vocabulary:
        return Tokenizer.from_vocabulary(t.vocabulary, t.unit)
    return Tokenizer.build(data.texts(t.splits), t.unit, t.inventory, t.score_inventory, t.min_count)


def checkpoint_tokenizer(config: DictConfig, checkpoint: str, revision: str | None = None) -> Tokenizer:
    """The vocabulary of a fine-tuned checkpoint, or of a bundle of torchaudio. Raises UserError where it has none that fits its head."""
    if checkpoint.startswith(BUNDLE):
        labels = bundle_labels(checkpoint.removeprefix(BUNDLE))
        return Tokenizer(labels, blank=labels[0])
    t = config.tokenizer
    return Tokenizer.from_checkpoint(checkpoint, revision, t.unit, t.inventory, t.score_inventory)


def check_unit(config: DictConfig, tokenizer: Tokenizer) -> None:
    """Raise UserError where a checkpoint emits phones and the transcripts are to be characters: one is no measure of the other."""
    if tokenizer.unit != config.tokenizer.unit:
        raise UserError(f"model.checkpoint={config.model.checkpoint} emits phones; give tokenizer=phone, with text=phones where the "
                        "transcripts are phones, or text=espeak to have them made.")


def model_arguments(config: DictConfig, device: str = "cpu") -> dict[str, Any]:
    """What `load_backbone` (and `read_config`) take from the model and augment sections."""
    m = config.model
    return {
        "checkpoint": m.checkpoint, "revision": m.revision, "architecture": m.architecture, "settings": OmegaConf.to_container(m.config),
        "augment": {k: v for k, v in config.augment.items() if k not in ("name", "speed")}, "keep_head": m.head == "keep",
        "attention": m.attention, "device": device,
    }


def build_recogniser(config: DictConfig, tokenizer: Tokenizer, runtime: Runtime, checkpoint: Path | str | None = None) -> Recogniser:
    """The run's backbone with a head for its vocabulary, drawn from the seed; or, from `checkpoint`, what a run has trained."""
    arguments = model_arguments(config, runtime.device.type)
    if checkpoint:
        arguments |= {"checkpoint": str(checkpoint), "architecture": None, "settings": {}, "keep_head": True}
    seed_everything(config.seed)
    model = Recogniser(*load_backbone(vocabulary=len(tokenizer), blank=tokenizer.blank, **arguments), config.model.padding)
    model.freeze(config.model.freeze_front_end, list(config.model.freeze))
    return model.to(runtime.device)


def build_split(config: DictConfig, data: Data, name: str, tokenizer: Tokenizer, model: Recogniser | Outline, progress: bool,
                lazy: bool = False) -> Split:
    """Label one split, and decode it: all of it, or (lazy) no more than its lengths take."""
    d = config.dataset
    limits = Limits(d.min_seconds, d.max_seconds, d.max_eval_seconds, d.max_utterances, model.frames)
    rate = model.extractor.sampling_rate
    return prepare_split(name, data.corpus.splits[name], data.corpus.rejected[name], tokenizer, cache_folder(config), rate, limits,
                         config.trainer.workers, progress, lazy)


# ---------------------------------------------------------------------------------------------------------------------
# decoders


def build_decoder(config: DictConfig, tokenizer: Tokenizer, runtime: Runtime, folder: Path | None = None,
                  data: Data | None = None) -> Decoder:
    """The decoder that `decode` describes, with the weights given there.

    folder: the run's, where a language model of its training transcripts is kept once it is made; data: where they are read already.
    Raises UserError for a language model or a lexicon that cannot be had.
    """
    d = config.decode
    if d.name != "beam":
        return make_decoder(d.name, tokenizer, d.settings)
    require_flashlight()
    asked = None if d.lm == "none" else d.lm
    normalise = _text_rules(config).apply_many
    hot_words = [tokenizer.target(text) for text in normalise(list(d.hot_words))]
    if empty := [given for given, words in zip(d.hot_words, hot_words, strict=True) if not words.strip()]:
        raise UserError(f"decode.hot_words has {empty[0]!r}, of which the text rules (text={config.text.name}) leave nothing; drop it.")
    words = tokenizer.unit == "character" and tokenizer.space in tokenizer.ids
    by_words = d.lexicon is not None and (d.lexicon != "auto" or words and asked is not None)
    if by_words and not words:
        raise UserError(f"decode.lexicon={d.lexicon} needs a model that emits spaces between words, and this one does not; drop it.")
    lm = runtime.share(_language_model(config, tokenizer, folder, data, by_words) if asked and runtime.main else None)
    lexicon = None
    own = asked == "checkpoint"
    if by_words:
        auto = d.lexicon == "auto"
        words_of = words_beside if own else vocabulary
        lexicon = lexicon_of(words_of(lm), tokenizer, f"decode.lm={asked}") if auto else read_lexicon(d.lexicon, tokenizer, normalise)
        check_hot_words(hot_words, tokenizer)
    elif lm is not None:
        check_tokens(lm, tokenizer)
    if hot_words and lm is not None and not is_arpa(lm):
        raise UserError(f"decode.hot_words cannot be added to {lm.name}, a binary of KenLM; give an ARPA file: decode.lm=FILE.")
    weights = Weights(d.lm_weight, d.word_score)
    if own and weights == Weights(Decode.lm_weight, Decode.word_score):
        weights = weights_beside(lm) or weights
    return Beam(tokenizer, lm, lexicon, d.beam, weights, hot_words, d.hot_word_weight, d.nbest,
                asked if asked in ("train-text", "checkpoint") else "file")


def _text_rules(config: DictConfig) -> TextRules:
    return build_rules(OmegaConf.to_container(config.text.rules), config.dataset.language)  # type: ignore[arg-type]


def _language_model(config: DictConfig, tokenizer: Tokenizer, folder: Path | None, data: Data | None, by_words: bool) -> Path:
    """The ARPA file that `decode.lm` names, or leads to."""
    d, unit = config.decode, "words" if by_words else "tokens"
    order = d.order or (3 if by_words else 6)
    if d.lm == "train-text":
        if folder is None:
            raise UserError("decode.lm=train-text is made of the transcripts of a run, and no run of ours is used; give decode.lm=FILE.")
        path = folder / "lm" / f"train-text.{unit}.{order}.arpa"
        if data or not path.exists():
            data = data or build_data(own_data(config, folder, "train"))
            arpa_of(data.texts(["train"]), tokenizer, by_words, order, path, d.lm)
        return path
    if d.lm == "checkpoint":
        other = config.run and not is_run(config.run)
        return checkpoint_model(find_checkpoint(config.run if other else config.model.checkpoint or "", config.model.revision))
    source = Path(d.lm).expanduser()
    if source.suffix == ".arpa" or is_arpa(source):
        return source
    made_of = [OmegaConf.to_container(config.text.rules), config.dataset.language, unit, order, tokenizer.tokens, tokenizer.inventory]
    name, lines = text_file(source, _text_rules(config).apply_many, made_of)
    path = cache_folder(config) / "lm" / f"{name}.arpa"
    if not path.exists():
        arpa_of(lines(), tokenizer, by_words, order, path, d.lm)
    return path


def own_data(config: DictConfig, folder: Path, split: str) -> DictConfig:
    """The config of a run, to read one split of the data that it was trained on, wherever that lies now, by the run's own text rules."""
    made = load_run(folder)
    own = config.copy() if same_data(config, folder) else made
    own.dataset.only, own.text = split, made.text
    return own


def same_data(config: DictConfig, folder: Path) -> bool:
    """Whether the dataset is the run's own, wherever it lies now. (File names, which ids are made of, are alike in many corpora.)"""
    read, own = (resolve(one)["dataset"] for one in (config, load_run(folder)))
    return {**read, "only": None, "root": None} == {**own, "only": None, "root": None}


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
        dataset=d.name, language=d.language, split=data.corpus.subsets.get(split.name, [split.name]), ids=split.all_ids,
        coverage=round(split.coverage, 6), text=config.text.name, rules=OmegaConf.to_container(config.text.rules),
        metric="per" if t.unit == "phone" else "wer", inventory=t.score_inventory or t.inventory, decoder=decoder_name(config, decoder),
        padding=config.model.padding, name=config.protocol.name, select=config.trainer.select,
    )
