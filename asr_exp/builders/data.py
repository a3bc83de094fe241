"""Build the corpus, the tokenizer and the splits that a config describes. Config sections end in these
builders: the parts take plain arguments.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from asr_exp.builders.score_rules import build_score_rules
from asr_exp.builders.session import cache_folder
from asr_exp.core.errors import UserError
from asr_exp.data.corpora import read_corpus
from asr_exp.data.corpora.base import Corpus
from asr_exp.data.corrections import read_corrections
from asr_exp.data.filtering import LengthLimits
from asr_exp.data.fingerprint import DataFingerprint
from asr_exp.data.prepare import AudioSettings, Split, normalise, prepare_split
from asr_exp.data.text import TextRules, build_rules
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.data.transformers_tokenizer import SpecialTokens
from asr_exp.model.model_info import ModelInfo
from asr_exp.model.pretrained.source import BUNDLE
from asr_exp.model.pretrained.torchaudio_bundles import bundle_labels
from asr_exp.model.pretrained.vocabulary import read_tokenizer
from asr_exp.model.recogniser import Recogniser
from asr_exp.runs.folder import load_run, resolve

log = logging.getLogger(__name__)


@dataclass
class Data:
    """A corpus after the text rules, its audio not decoded yet. raw, fingerprint: the corpus as it was read,
    and its checksums, where they were asked for.
    """

    corpus: Corpus
    raw: Corpus | None = None
    fingerprint: DataFingerprint | None = None

    def texts(self, splits: Iterable[str]) -> Iterator[str]:
        """The transcripts of some splits, after the text rules."""
        return chain.from_iterable(self.corpus.splits[split].texts() for split in splits)


def build_data(
    config: DictConfig, keep_raw: bool = False, only: str | None = None, fingerprint: bool = False
) -> Data:
    """Read the corpus and apply the text rules. Raises UserError for a corpus that cannot be read.

    only: the one split that is needed, if not all are. fingerprint: take checksums of what is read.
    """
    raw = read_raw(config, only)
    known = DataFingerprint.of(config.dataset, raw, only) if fingerprint else None
    scored = (only,) if only else ("dev", "test")
    return Data(normalise(raw, text_rules(config), scored), raw if keep_raw else None, known)


def read_raw(config: DictConfig, only: str | None = None) -> Corpus:
    """Read the corpus, with corrected transcripts where the config names corrections. Raises UserError for a
    corpus or a file of corrections that cannot be read.
    """
    build_score_rules(config)  # what is wrong with them is said before the corpus is read
    corrections = config.dataset.corrections and read_corrections(config.dataset.corrections)
    raw = read_corpus(config.dataset, cache_folder(config), only)
    return corrections.apply(raw, only) if corrections else raw


def build_tokenizer(config: DictConfig, data: Data) -> Tokenizer:
    """Build the tokenizer: with the checkpoint's vocabulary where its head is kept, with that of the file
    `tokenizer.vocabulary`, or with the units of the transcripts of `tokenizer.splits`.
    """
    options = config.tokenizer
    if config.model.head == "keep":
        tokenizer = checkpoint_tokenizer(config, config.model.checkpoint, config.model.revision)
        check_unit(config, tokenizer)
        return tokenizer
    if options.vocabulary:
        return Tokenizer.from_vocabulary(options.vocabulary, options.unit)
    return Tokenizer.build(
        data.texts(options.splits),
        options.unit,
        options.inventory,
        options.score_inventory,
        options.min_count,
    )


def checkpoint_tokenizer(config: DictConfig, checkpoint: str, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a fine-tuned checkpoint, or of a bundle of torchaudio. Raises UserError where the
    checkpoint has no vocabulary that fits its head.
    """
    if checkpoint.startswith(BUNDLE):
        labels = bundle_labels(checkpoint.removeprefix(BUNDLE))
        return Tokenizer(labels, special=SpecialTokens(labels[0]))
    options = config.tokenizer
    return read_tokenizer(checkpoint, revision, options.unit, options.inventory, options.score_inventory)


def check_unit(config: DictConfig, tokenizer: Tokenizer) -> None:
    """Raise UserError where a checkpoint emits phones and the transcripts are characters, or the other way
    round: neither can be scored against the other.
    """
    if tokenizer.unit != config.tokenizer.unit:
        raise UserError(
            f"model.checkpoint={config.model.checkpoint} emits phones; give tokenizer=phone, with text=phones"
            " where the transcripts are phones, or text=espeak to have them made."
        )


def build_split(
    config: DictConfig,
    data: Data,
    name: str,
    tokenizer: Tokenizer,
    model: Recogniser | ModelInfo,
    progress: bool,
    lazy: bool = False,
) -> Split:
    """Label a split and decode its audio.

    Args:
        config: the whole config.
        data: the corpus.
        name: train, dev or test.
        tokenizer: makes the labels.
        model: says how many frames a clip has, and at which sample rate.
        progress: whether a bar shows what is decoded.
        lazy: decode only what it takes to know the lengths; the rest is decoded when it is used.

    Raises:
        UserError: not one utterance can be used.
    """
    dataset = config.dataset
    limits = LengthLimits(
        dataset.min_seconds,
        dataset.max_seconds,
        dataset.max_eval_seconds,
        dataset.max_utterances,
        model.frames,
    )
    audio = AudioSettings(cache_folder(config), model.extractor.sampling_rate, config.trainer.workers, lazy)
    return prepare_split(name, data.corpus, tokenizer, limits, audio, progress)


def text_rules(config: DictConfig) -> TextRules:
    """The text rules that the config lists, for the language of its dataset."""
    return build_rules(OmegaConf.to_container(config.text.rules), config.dataset.language)  # type: ignore[arg-type]


def own_data(config: DictConfig, folder: Path) -> DictConfig:
    """A config with which a run's own data is read, after the run's own text rules.

    The data is looked for where the config has it, if it is the same dataset, else where the run had it.
    """
    run_config = load_run(folder)
    own = config.copy() if same_data(config, folder) else run_config
    own.text = run_config.text
    return own


def same_data(config: DictConfig, folder: Path) -> bool:
    """Whether a config has the dataset of a run, wherever it lies now.

    The ids of the utterances would not tell: many corpora make them of the same file names.
    """
    anywhere = {"only": None, "root": None}
    dataset = {**resolve(config)["dataset"], **anywhere}
    return dataset == {**resolve(load_run(folder))["dataset"], **anywhere}
