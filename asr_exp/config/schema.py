"""Every key that a run may set, with its type, its default and its bounds: the sections of the other files,
put together. Imports no torch.

A key's `help` is what `--help` shows. Its bounds, and the rules that tie keys to each other, are checked in
validation.py before anything is loaded.
"""

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any

from asr_exp.config.command_schema import (
    AlignOptions,
    CheckOptions,
    EvaluateOptions,
    ExportOptions,
    ReportOptions,
    ServeOptions,
    SweepOptions,
    TableOptions,
    TranscribeOptions,
)
from asr_exp.config.data_schema import Dataset, Text, Tokenizer
from asr_exp.config.key import key
from asr_exp.config.model_schema import Augment, Decode, Model
from asr_exp.config.published_schema import Protocol, Published
from asr_exp.config.score_schema import Score
from asr_exp.config.training_schema import Optimizer, Schedule, Tracking, Trainer


@dataclass
class Config:
    """Every section, and the keys that are in none."""

    seed: int = key(42, "seeds the head, the order of the data, the masks and the dropout", minimum=0)
    dataset: Dataset = field(default_factory=Dataset)
    model: Model = field(default_factory=Model)
    text: Text = field(default_factory=Text)
    tokenizer: Tokenizer = field(default_factory=Tokenizer)
    decode: Decode = field(default_factory=Decode)
    score: Score = field(default_factory=Score)
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
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)
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
        "transcribe, align, report, table: what comes out: text, jsonl, srt, vtt, ctm (null: by the ending of"
        " out, else text); of align textgrid, ctm, json, all (null: textgrid, on standard output ctm); of"
        " report html (null), png; of table markdown (null), latex",
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


# Keys that cannot change what is learned or scored: a run's signature is made without them. If one of these
# names were dropped, every run would have another signature.
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
    "trainer.save_every",
    "trainer.log_every",
    "trainer.examples",
    "trainer.workers",
    "trainer.feature_cache_gb",
    "trainer.profile",
    "decode.nbest",
    "evaluate.rtfx",
)
# Keys that are younger than the first runs: they are in a signature only where they differ from their
# defaults, so that every earlier run is found. The keys of `decode` are treated alike.
SIGNED_WHERE_CHANGED: tuple[str, ...] = (
    "trainer.compile",
    "trainer.deterministic",
    "trainer.tf32",
    "dataset.corrections",
    "evaluate.precision",
    "dataset.columns.duration",
    "score.name",
    "score.rules",
    "score.references",
    "score.compounds",
    "score.drop_empty",
    "score.language",
    "trainer.metric",
)


def keys(section: type = Config, prefix: str = "") -> Iterator[tuple[str, Field]]:
    """Every key that a run may set, by its dotted name; a section comes before its keys."""
    for one in fields(section):
        yield prefix + one.name, one
        if is_dataclass(one.type) and isinstance(one.type, type):
            yield from keys(one.type, f"{prefix}{one.name}.")


def key_field(name: str) -> Field | None:
    """The field of the schema for a dotted name; None where no key has that name."""
    return next((one for dotted, one in keys() if dotted == name), None)
