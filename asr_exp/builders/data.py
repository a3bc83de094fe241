"""Builders: a config section in, the part it describes out. The only place where config keys meet the parts'
arguments.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from asr_exp.builders.session import cache_folder
from asr_exp.core.errors import UserError
from asr_exp.data.corpora import read_corpus
from asr_exp.data.corpora.base import Corpus
from asr_exp.data.prepare import AudioSettings, LengthLimits, Split, normalise, prepare_split
from asr_exp.data.text import TextRules, build_rules
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.data.transformers_tokenizer import SpecialTokens
from asr_exp.model.pretrained.source import BUNDLE
from asr_exp.model.pretrained.torchaudio_bundles import bundle_labels
from asr_exp.model.pretrained.vocabulary import read_tokenizer
from asr_exp.model.recogniser import ModelInfo, Recogniser
from asr_exp.runs.folder import load_run, resolve

log = logging.getLogger(__name__)


@dataclass
class Data:
    """A corpus after its text rules, not yet decoded, and as it was read where that is wanted."""

    corpus: Corpus
    raw: Corpus | None = None

    def texts(self, splits: Iterable[str]) -> Iterator[str]:
        """The transcripts of splits after the text rules."""
        return chain.from_iterable(self.corpus.splits[split].texts() for split in splits)


def build_data(config: DictConfig, keep_raw: bool = False) -> Data:
    """Read the corpus and apply the text rules."""
    raw = read_corpus(config.dataset, cache_folder(config))
    return Data(normalise(raw, text_rules(config)), raw if keep_raw else None)


def build_tokenizer(config: DictConfig, data: Data) -> Tokenizer:
    """The checkpoint's vocabulary where its head is kept, a vocabulary given, or one made of the transcripts
    of `tokenizer.splits`.
    """
    t, m = config.tokenizer, config.model
    if m.head == "keep":
        kept = checkpoint_tokenizer(config, m.checkpoint, m.revision)
        check_unit(config, kept)
        return kept
    if t.vocabulary:
        return Tokenizer.from_vocabulary(t.vocabulary, t.unit)
    return Tokenizer.build(data.texts(t.splits), t.unit, t.inventory, t.score_inventory, t.min_count)


def checkpoint_tokenizer(config: DictConfig, checkpoint: str, revision: str | None = None) -> Tokenizer:
    """The vocabulary of a fine-tuned checkpoint, or of a bundle of torchaudio. Raises UserError where it has
    none that fits its head.
    """
    if checkpoint.startswith(BUNDLE):
        labels = bundle_labels(checkpoint.removeprefix(BUNDLE))
        return Tokenizer(labels, special=SpecialTokens(labels[0]))
    t = config.tokenizer
    return read_tokenizer(checkpoint, revision, t.unit, t.inventory, t.score_inventory)


def check_unit(config: DictConfig, tokenizer: Tokenizer) -> None:
    """Raise UserError where a checkpoint emits phones and the transcripts are to be characters: one is no
    measure of the other.
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
    """Label one split, and decode it: all of it, or (lazy) no more than its lengths take."""
    d = config.dataset
    limits = LengthLimits(d.min_seconds, d.max_seconds, d.max_eval_seconds, d.max_utterances, model.frames)
    audio = AudioSettings(cache_folder(config), model.extractor.sampling_rate, config.trainer.workers, lazy)
    return prepare_split(name, data.corpus, tokenizer, limits, audio, progress)


# ------------------------------------------------------------------------------------------------------------
# decoders


def text_rules(config: DictConfig) -> TextRules:
    return build_rules(OmegaConf.to_container(config.text.rules), config.dataset.language)  # type: ignore[arg-type]


def own_data(config: DictConfig, folder: Path, split: str) -> DictConfig:
    """The config of a run, to read one split of the data that it was trained on, wherever that lies now, by
    the run's own text rules.
    """
    made = load_run(folder)
    own = config.copy() if same_data(config, folder) else made
    own.dataset.only, own.text = split, made.text
    return own


def same_data(config: DictConfig, folder: Path) -> bool:
    """Whether the dataset is the run's own, wherever it lies now. (File names, which ids are made of, are
    alike in many corpora.)
    """
    read, own = (resolve(one)["dataset"] for one in (config, load_run(folder)))
    return {**read, "only": None, "root": None} == {**own, "only": None, "root": None}
