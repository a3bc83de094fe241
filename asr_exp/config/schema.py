"""Every key a run may set, with its type, its default and its bounds. Imports no torch.

A key's `help` is what `--help` shows. `minimum`, `maximum` and `choices` are checked in `rules.py`, together
with the rules that tie keys to each other, before anything is loaded.
"""

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any

from omegaconf import MISSING

from asr_exp.config.command_schema import (
    AlignOptions,
    CheckOptions,
    ExportOptions,
    ReportOptions,
    ServeOptions,
    SweepOptions,
    TableOptions,
    TranscribeOptions,
    key,
)

# ------------------------------------------------------------------------------------------------------------
# the sections


@dataclass
class Columns:
    file: str = key("file", "column of the audio's path; relative paths are resolved against the manifest")
    text: str = key("text", "column of the transcript")
    id: str | None = key(
        None, "column of the utterance id (null: the path, with a row number where it repeats)"
    )
    speaker: str | None = key("speaker", "column of the speaker (ignored where the manifest has none)")
    start: str | None = key("start", "column of the segment's start in seconds (ignored where absent)")
    end: str | None = key("end", "column of the segment's end in seconds (ignored where absent)")
    split: str | None = key(
        "split", "column that says train, dev or test, for one manifest that holds all three"
    )
    audio: str = key("audio", "hub only: the column that holds the audio")


@dataclass
class Hub:
    id: str | None = key(None, "dataset id on the hub, or a local folder of the same layout")
    config: str | None = key(None, "configuration (subset) name on the hub")
    revision: str | None = key(None, "git revision on the hub")


@dataclass
class Dataset:
    name: str = key(MISSING, "name of the folder of results")
    reader: str = key(
        MISSING,
        "timit, timit-phones, librispeech, common-voice, mls, minds14, manifest, hub, demo, voices, or a"
        " plugin's",
    )
    source: str = key(
        "auto",
        "auto (the local root where it is given, else the hub), local, hub",
        choices=("auto", "local", "hub"),
    )
    root: str | None = key(None, "folder of the corpus in its official layout")
    language: str | None = key(
        None, "the corpus's own code of the language (Common Voice tr, MLS german, MInDS-14 en-US)"
    )
    train: Any = key(None, "training subset names, or manifest paths")
    dev: Any = key(None, "subset names or manifests that choose the best checkpoint")
    test: Any = key(None, "subset names or manifests of the final score")
    only: str | None = key(None, "the one split to read; set by evaluate", choices=("train", "dev", "test"))
    hub: Hub = field(default_factory=Hub)
    columns: Columns = field(default_factory=Columns)
    delimiter: str | None = key(None, "manifest column delimiter (null: by the file's ending)")
    split_seed: int = key(0, "seed of the random split where a corpus or manifest has none")
    dev_fraction: float = key(
        0.1, "share of the utterances for dev where there is no split", minimum=0, maximum=0.9
    )
    test_fraction: float = key(
        0.1, "share of the utterances for test where there is no split", minimum=0, maximum=0.9
    )
    sa_sentences: bool = key(False, "TIMIT: keep the two SA sentences that every speaker reads")
    min_seconds: float = key(0.1, "shorter training clips are left out", minimum=0)
    max_seconds: float = key(30.0, "longer training clips are left out", above=0)
    max_eval_seconds: float = key(
        120.0, "longer dev and test clips are left out (and lower the coverage)", above=0
    )
    max_utterances: int | None = key(
        None, "keep the first N utterances of each split (to try things out)", minimum=1
    )


@dataclass
class Text:
    name: str = key(MISSING, "name of the rules; part of every score's protocol")
    rules: list[Any] = key(
        [], "rules applied in order to every transcript, for training, scoring and serving"
    )


@dataclass
class Tokenizer:
    unit: str = key("character", "what the model emits: character or phone", choices=("character", "phone"))
    inventory: str | None = key(
        None, "phone inventory of the targets (timit61, timit48, timit39, espeak); null: from the text"
    )
    score_inventory: str | None = key(
        None, "phone inventory references and hypotheses are folded to before scoring"
    )
    vocabulary: str | None = key(
        None, "path of a vocab.json to use instead of the training split's characters"
    )
    splits: list[str] = key(
        ["train"], "splits whose transcripts the vocabulary is made of (train, dev, test)"
    )
    min_count: int = key(1, "characters seen less often in the training split are unknown", minimum=1)


@dataclass
class Model:
    name: str = key(MISSING, "name of the folder of results")
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
        "exact: no utterance depends on its batch-mates; hf_compat: pad as transformers does",
        choices=("exact", "hf_compat"),
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


@dataclass
class Optimizer:
    name: str = key("adamw", "optimizer: adamw, sgd, or a plugin's")
    lr: float = key(1e-4, "peak learning rate", above=0)
    betas: list[float] = key([0.9, 0.999], "AdamW's moment decays")
    eps: float = key(1e-8, "AdamW's epsilon", above=0)
    weight_decay: float = key(0.0, "decoupled weight decay (not on biases and norms)", minimum=0)
    momentum: float = key(0.9, "SGD's momentum", minimum=0, maximum=1)
    lr_scale: dict[str, float] = key({}, "learning-rate factor by parameter name pattern: {lm_head.*: 10}")
    clip_norm: float | None = key(1.0, "largest global gradient norm (null: no clipping)", above=0)


@dataclass
class Schedule:
    name: str = key("linear", "linear, cosine, constant, tri-stage, or a plugin's")
    warmup_steps: int | None = key(
        None, "steps to the peak learning rate (null: warmup_ratio of all steps)", minimum=0
    )
    warmup_ratio: float = key(0.1, "share of all steps to the peak learning rate", minimum=0, maximum=1)
    hold_ratio: float = key(0.4, "tri-stage: share of all steps at the peak", minimum=0, maximum=1)
    final_scale: float = key(
        0.0, "last learning rate, as a share of the peak (tri-stage: 0.05)", minimum=0, maximum=1
    )


@dataclass
class Trainer:
    max_steps: int | None = key(None, "optimiser steps (with max_epochs: whichever ends first)", minimum=0)
    max_epochs: float | None = key(None, "passes over the training split", above=0)
    batch_seconds: float | None = key(
        200.0, "audio per optimiser step, in seconds, all ranks together", above=0
    )
    batch_utterances: int | None = key(
        None, "utterances per optimiser step, all ranks together, where batch_seconds is null", minimum=1
    )
    device_seconds: float = key(
        100.0, "audio per forward pass on one device; more per step is accumulated", above=0
    )
    eval_every: int | None = key(None, "steps between evaluations on dev (null: once an epoch)", minimum=1)
    log_every: int = key(10, "steps between writes of the losses kept on the device", minimum=1)
    devices: int = key(1, "processes on this machine (under torchrun: torchrun's own)", minimum=1)
    strategy: str = key(
        "ddp",
        "several devices: ddp (each has all weights) or fsdp (each has a part: models of a billion"
        " parameters)",
        choices=("ddp", "fsdp"),
    )
    device: str = key("auto", "auto, cpu, cuda", choices=("auto", "cpu", "cuda"))
    precision: str = key(
        "auto",
        "auto (bf16 where the device has it), fp32, bf16, fp16",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    loss_reduction: str = key(
        "mean",
        "an utterance's loss: mean over its labels, or sum (a batch's: their mean)",
        choices=("mean", "sum"),
    )
    gradient_checkpointing: bool = key(
        False, "recompute activations in the backward pass: less memory, about 30 % slower"
    )
    ema: float | None = key(
        None, "decay of a moving average of the weights, which is then what is scored", minimum=0, maximum=1
    )
    average: int = key(1, "average the weights of the last N evaluations at the end", minimum=1)
    select: str = key(
        "best",
        "the weights that are scored: best (by dev) or last (the last step's)",
        choices=("best", "last"),
    )
    patience: int | None = key(None, "stop after N evaluations without a better dev score", minimum=1)
    shortest_first: bool = key(False, "first epoch from short to long utterances (SortaGrad)")
    examples: int = key(3, "hypotheses shown at each evaluation", minimum=0)
    profile: int = key(
        0,
        "profile so many steps, from the fourth on: profile.txt and profile.json in the run folder",
        minimum=0,
    )
    feature_cache_gb: float = key(
        10.0,
        "CPU: room on the disk for what a frozen front end makes of the clips, reused from the second "
        "epoch on and by other runs (0: none)",
        minimum=0,
    )
    workers: int | None = key(None, "threads that decode audio (null: one a core)", minimum=1)


@dataclass
class Tracking:
    name: str = key("wandb", "wandb, tensorboard, none, or a plugin's")
    project: str = key("asr_exp", "W&B project")
    entity: str | None = key(None, "W&B entity (user or team)")
    group: str | None = key(None, "W&B group")
    tags: list[str] = key([], "W&B tags")
    audio_examples: int = key(8, "rows of the table of hypotheses that carry audio", minimum=0)


@dataclass
class Protocol:
    name: str = key(
        "standard",
        "what the score is to be set beside: standard (ours), hf_compat (transformers' published rows)",
    )


@dataclass
class Published:
    """A score that someone has published for this recipe. Nothing here changes a run."""

    value: float | None = key(None, "the published rate, as a fraction", minimum=0)
    metric: str | None = key(None, "the rate it is: wer, cer or per", choices=("wer", "cer", "per"))
    cer: float | None = key(None, "the character error rate published beside it", minimum=0)
    split: str | None = key(None, "the split it was scored on, as the source names it")
    protocol: dict[str, Any] = key(
        {}, "parts of the protocol it was scored by (text, inventory); a run with others is not comparable"
    )
    source: str | None = key(None, "where it stands")
    hardware: str | None = key(None, "what it was trained on")
    time: str | None = key(None, "how long that took")
    tolerance: float | None = key(
        0.01, "how far from it a run may end and still reproduce it, as a fraction", minimum=0
    )
    inferred: list[str] = key([], "keys of the recipe that the source does not state")


@dataclass
class Config:
    """A whole run."""

    seed: int = key(42, "seeds the head, the order of the data, the masks and the dropout", minimum=0)
    dataset: Dataset = field(default_factory=Dataset)
    model: Model = field(default_factory=Model)
    text: Text = field(default_factory=Text)
    tokenizer: Tokenizer = field(default_factory=Tokenizer)
    decode: Decode = field(default_factory=Decode)
    augment: Augment = field(default_factory=Augment)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    trainer: Trainer = field(default_factory=Trainer)
    tracking: Tracking = field(default_factory=Tracking)
    protocol: Protocol = field(default_factory=Protocol)
    published: Published = field(default_factory=Published)
    rehearsal: bool = key(
        False, "set by debug=rehearsal: the run's own way with tiny weights and a few utterances"
    )
    table: TableOptions = field(default_factory=TableOptions)
    check: CheckOptions = field(default_factory=CheckOptions)
    report: ReportOptions = field(default_factory=ReportOptions)
    serve: ServeOptions = field(default_factory=ServeOptions)
    transcribe: TranscribeOptions = field(default_factory=TranscribeOptions)
    align: AlignOptions = field(default_factory=AlignOptions)
    export: ExportOptions = field(default_factory=ExportOptions)
    plugins: list[str] = key(
        [], "Python modules to import first; they register readers, rules, decoders, optimizers"
    )
    output_root: str = key("outputs", "where run folders go, relative to where you stand")
    cache_root: str | None = key(
        None, "where decoded audio is kept (null: $ASR_EXP_CACHE, else ~/.cache/asr_exp)"
    )
    run: str | None = key(
        None,
        "evaluate, transcribe, align, report, export, serve: the run folder to use (null: the folder these"
        " settings lead to), or a fine-tuned CTC checkpoint: a folder, a hub id; but for report and export"
        " also torchaudio:NAME",
    )
    files: Any = key(
        None, "transcribe, align, report: recordings: files, folders, globs, or - for standard input"
    )
    format: str | None = key(
        None,
        "transcribe, align, report: what comes out: text, jsonl, srt, vtt, ctm (null: by the ending of out,"
        " else text); of align textgrid, ctm, json, all (null: textgrid, on standard output ctm); of report"
        " html (null), png",
    )
    out: str | None = key(
        None,
        "transcribe, align, report, export: file or folder that it goes to (null: standard output; align of a"
        " split: alignments/SPLIT in the run's folder; report: the run's folder)",
    )
    split: str = key(
        "test",
        "evaluate, compare, align, report: the split to score, align or show",
        choices=("train", "dev", "test"),
    )
    a: Any = key(None, "compare, report: a run folder, or a list of them that differ by their seed")
    b: Any = key(None, "compare, report: the run folder, or list of them, to set against a")
    resamples: int = key(10_000, "compare: draws of the bootstrap", minimum=100)
    sweeper: str = key(
        "grid",
        "-m: grid (every combination), optuna or random (search ranges), wandb (write a W&B sweep file)",
        choices=("grid", "optuna", "random", "wandb"),
    )
    sweep: SweepOptions = field(default_factory=SweepOptions)


# Keys that cannot change what is learned or scored: they are no part of a run's signature.
NOT_IN_SIGNATURE = (
    "tracking",
    "published",
    "table",
    "model.facts",
    "sweeper",
    "sweep",
    "output_root",
    "cache_root",
    "dataset.only",
    "run",
    "split",
    "a",
    "b",
    "resamples",
    "files",
    "format",
    "out",
    "check",
    "transcribe",
    "align",
    "report",
    "export",
    "serve",
    "trainer.devices",
    "trainer.strategy",
    "trainer.device",
    "trainer.log_every",
    "trainer.examples",
    "trainer.workers",
    "trainer.feature_cache_gb",
    "trainer.profile",
    "decode.nbest",
)


def keys(section: type = Config, prefix: str = "") -> Iterator[tuple[str, Field]]:
    """Every key a run may set, with its dotted name; sections before their keys."""
    for one in fields(section):
        yield prefix + one.name, one
        if is_dataclass(one.type) and isinstance(one.type, type):
            yield from keys(one.type, f"{prefix}{one.name}.")


def key_field(name: str) -> Field | None:
    """The field of the schema that a dotted name stands for, if there is one."""
    return next((one for dotted, one in keys() if dotted == name), None)
