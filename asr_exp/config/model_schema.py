"""The sections of keys that say what the network is, how it is regularised, and how its output is decoded."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from asr_exp.config.key import key


@dataclass
class Model:
    name: str = key(MISSING, "name of the folder of results", folder="my-model")
    checkpoint: str | None = key(
        None, "hub id or local folder of the pretrained backbone; builtin:tiny comes with asr_exp"
    )
    revision: str | None = key(None, "git revision of the checkpoint")
    architecture: str | None = key(
        None, "transformers model type, to start from random weights instead of a checkpoint"
    )
    config: dict[str, Any] = key(
        {}, "architecture settings that differ from the checkpoint's (or the type's) own"
    )
    head: str = key(
        "new",
        "new: a head for this run's vocabulary; keep: the checkpoint's own head and vocabulary",
        choices=("new", "keep"),
    )
    padding: str = key(
        "exact",
        "exact: no utterance depends on its batch-mates; hf_compat: pad as transformers does; transformers:"
        " nothing of its network replaced, for comparison",
        choices=("exact", "hf_compat", "transformers"),
    )
    freeze_front_end: bool = key(True, "keep the convolutional front end as pretrained")
    freeze_encoder_steps: int = key(0, "train the head alone for the first N steps", minimum=0)
    freeze: list[str] = key(
        [], "parameters frozen for the whole run, by name pattern (wav2vec2.encoder.layers.0.*)"
    )
    attention: str = key(
        "auto", "attention implementation: auto, eager, sdpa", choices=("auto", "eager", "sdpa")
    )
    facts: dict[str, Any] = key(
        {}, "what the published checkpoint's own files say of its architecture; a rehearsal goes by it"
    )


@dataclass
class Decode:
    name: str = key("greedy", "decoder: greedy, beam, or a plugin's")
    settings: dict[str, Any] = key(
        {}, "what a plugin's decoder takes besides the tokenizer: decode.settings.beam=8"
    )
    lm: str | None = key(
        None,
        "beam: language model: train-text (made of the training transcripts), checkpoint (the one that came"
        " with it), a file .arpa, a text file, or null",
    )
    order: int | None = key(
        None,
        "beam: the n of a language model made from text (null: 3 for words, 6 for characters or phones)",
        minimum=2,
        maximum=6,
    )
    lexicon: str | None = key(
        "auto",
        "beam: the words there are: auto (the language model's; any for phones), a file, or null (any)",
    )
    beam: int = key(100, "beam: texts that are kept from frame to frame", minimum=1)
    lm_weight: float = key(0.5, "beam: factor of the language model's log probability", minimum=0)
    word_score: float = key(0.0, "beam: what every word adds to a text's score (below 0: costs)")
    tune: bool = key(False, "beam: look for the lm_weight and word_score that make the fewest errors on dev")
    hot_words: list[str] = key(
        [], "beam: words and phrases to find more readily, such as [robot,living room]"
    )
    hot_word_weight: float = key(5.0, "beam: what each hot word or phrase adds to a text's score", minimum=0)
    nbest: int = key(
        1,
        "beam: hypotheses of each utterance that are written down with their scores (transcribe:"
        " format=jsonl)",
        minimum=1,
    )


@dataclass
class Augment:
    name: str = key("default", "name of the settings")
    mask_time_prob: float | None = key(
        None, "share of frames masked in time (null: as the checkpoint says)", minimum=0, maximum=1
    )
    mask_time_length: int | None = key(None, "frames of one time mask", minimum=1)
    mask_time_min_masks: int | None = key(None, "time masks of an utterance at the least", minimum=0)
    mask_feature_prob: float | None = key(None, "share of feature channels masked", minimum=0, maximum=1)
    mask_feature_length: int | None = key(None, "channels of one feature mask", minimum=1)
    speed: list[float] = key(
        [], "speeds a training clip is played at, one drawn each time ([0.9, 1.0, 1.1]; []: as it is)"
    )
    dropout: float | None = key(
        None,
        "every dropout of the backbone and its head (null: as the checkpoint says)",
        minimum=0,
        maximum=0.9,
    )
    layerdrop: float | None = key(
        None, "probability that a step skips an encoder layer", minimum=0, maximum=0.9
    )
