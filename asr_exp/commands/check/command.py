"""Look before you train: the recordings, the transcripts, and a step of these settings that is really run.

Reads every file's header and decodes a sample of 200 clips (check.clips; check.audio=all for all, none for
headers alone), holds transcripts against vocabulary, text rules and the other splits, and runs the median
and the worst forward and backward pass on the device at hand (check.steps=false: not). Trains nothing. Exit
status 1 where something would hurt the run; the utterances concerned then stand in check.jsonl in the run
folder, with the reason.
"""

import os
from collections.abc import Iterator, Sequence

import numpy as np
from omegaconf import DictConfig, OmegaConf

from asr_exp.builders.data import Data, build_data
from asr_exp.builders.plan import advice
from asr_exp.builders.session import cache_folder
from asr_exp.builders.training import build_training
from asr_exp.commands.check import headers, recordings, signal_levels, transcripts
from asr_exp.commands.check.findings import WARN, CheckedUtterance, Concern
from asr_exp.commands.check.forecast import ForecastOptions, disk_space, forecast
from asr_exp.commands.check.loading import CheckedModel, load_model
from asr_exp.commands.check.report import CheckReport, histogram, most_common, wrapped
from asr_exp.commands.check.text_rules import rule_findings
from asr_exp.commands.check.usable import Exclusions, find_exclusions, usable_splits
from asr_exp.config.rules_name import text_name
from asr_exp.core import console
from asr_exp.core.errors import UserError
from asr_exp.core.log import logging_to_terminal
from asr_exp.data.audio_store import undecoded
from asr_exp.data.corpora.base import Utterance
from asr_exp.data.filtering import LengthLimits
from asr_exp.data.prepare import Split
from asr_exp.data.text import build_rules
from asr_exp.model.forward_passes import seconds_of
from asr_exp.runs.folder import run_folder
from asr_exp.runtime.determinism import deterministic
from asr_exp.runtime.distributed import Runtime, started


def run(config: DictConfig) -> int:
    """Check the run that a config describes -> exit status: 1 where something would hurt it.

    Raises UserError where the corpus cannot be read at all, and under torchrun.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            "check looks at one device; start it without torchrun (trainer.devices=N says how many the run"
            " will have)."
        )
    trainer = config.trainer
    with (
        started(trainer.device, trainer.precision, trainer.tf32) as runtime,
        deterministic(trainer.deterministic and runtime.device.type == "cuda"),
        logging_to_terminal(True, 0),
    ):
        return _check(config, runtime)


def _check(config: DictConfig, runtime: Runtime) -> int:
    report = CheckReport()
    data = build_data(config, keep_raw=True)
    model = load_model(config, data, runtime)
    utterances = _check_recordings(config, data, model.rate, report)
    d = config.dataset
    limits = LengthLimits(d.min_seconds, d.max_seconds, d.max_eval_seconds, d.max_utterances, model.frames)
    exclusions = find_exclusions(utterances, model, limits)
    _check_transcripts(config, utterances, model, exclusions, report)
    name = config.model.checkpoint or f"{config.model.architecture}, random weights"
    report.section("Model", [("name", name)], model.findings)
    splits = usable_splits(utterances, exclusions, data.corpus.splits, model)
    if model.recogniser and splits["train"]:
        _forecast(config, splits, model, runtime, report)
    return report.verdict(run_folder(config))


# ------------------------------------------------------------------------------------------------------------
# the recordings


def _check_recordings(
    config: DictConfig, data: Data, model_rate: int, report: CheckReport
) -> list[CheckedUtterance]:
    """Read all headers, decode a sample, print the section -> the utterances of all splits. model_rate: in
    hertz.
    """
    options, workers = config.check, config.trainer.workers
    sources = _sources(config, data)
    audios = [one.audio for _, one, _ in sources]
    read = headers.map_in_threads(headers.read_header, audios, "reading headers", workers)
    utterances = [
        CheckedUtterance(*source, header.clip) for source, header in zip(sources, read, strict=True)
    ]
    sizes = [header.size for header in read]
    chosen = signal_levels.choose_clips(utterances, sizes, options.audio, options.clips, config.seed)
    levels = headers.map_in_threads(
        signal_levels.measure_levels, [audios[i] for i in chosen], "decoding", workers
    )
    reasons = {i: one.clip.reason for i, one in enumerate(utterances) if one.clip.reason}
    reasons |= {i: one.reason for i, one in zip(chosen, levels, strict=True) if one.reason}
    rejected = [
        Concern(split, row.id, row.file, row.reason)
        for split, rows in data.corpus.rejected.items()
        for row in rows
    ]
    train_lengths = [one.clip.seconds for one in utterances if one.split == "train" and one.clip.rate]
    report.section(
        f"Recordings of {config.dataset.name}",
        [
            *((split, _split_summary(split, utterances)) for split in data.corpus.splits),
            *wrapped("formats", most_common(recordings.format_counts(utterances))),
            *_sample_rows(len(chosen), len(utterances)),
        ],
        [
            *transcripts.unusable_rows(rejected, {name: len(s) for name, s in data.corpus.splits.items()}),
            *recordings.unusable(utterances, dict(sorted(reasons.items()))),
            *recordings.sampling_rates(utterances, model_rate),
            *recordings.missing_ends(utterances, [header.has_end for header in read]),
            *recordings.duplicates(utterances, headers.duplicate_groups(audios, sizes, workers)),
            *signal_levels.level_findings([utterances[i] for i in chosen], levels),
        ],
        ["  lengths of train", *histogram(train_lengths, "s")],
    )
    return utterances


def _sources(config: DictConfig, data: Data) -> list[tuple[str, Utterance, str]]:
    """(split, utterance as the corpus has it, transcript after the text rules) of all splits."""
    raw = data.raw.splits if data.raw else {}
    return [
        (split, utterance, text)
        for split, rows in raw.items()
        for utterance, text in zip(
            rows[: config.dataset.max_utterances], data.corpus.splits[split].texts(), strict=False
        )
    ]


def _split_summary(split: str, utterances: Sequence[CheckedUtterance]) -> str:
    """'30 clips, 40 s, 3 speakers; 1.2 .. 1.5 s, median 1.3'."""
    in_split = [one for one in utterances if one.split == split]
    seconds = np.array([one.clip.seconds for one in in_split if one.clip.rate] or [0.0])
    number = len({one.utterance.speaker for one in in_split} - {None})
    speakers = console.counted(number, "speaker") if number else "speakers unknown"
    return (
        f"{console.counted(len(in_split), 'clip')}, {console.duration(seconds.sum())}, {speakers}; "
        f"{seconds.min():.1f} .. {seconds.max():.1f} s, median {np.median(seconds):.1f}"
    )


def _sample_rows(decoded: int, clips: int) -> Iterator[tuple[str, str]]:
    all_of_them = "; check.audio=all decodes all" if decoded < clips else ""
    yield "decoded", f"{decoded:,} of {clips:,} clips{all_of_them}"
    if decoded < clips:
        yield "", "silence, clipping, damage: known of these alone"


# ------------------------------------------------------------------------------------------------------------
# the transcripts


def _check_transcripts(
    config: DictConfig,
    utterances: list[CheckedUtterance],
    model: CheckedModel,
    exclusions: Exclusions,
    report: CheckReport,
) -> None:
    """Check the transcripts and print the section.

    Args:
        config: the run's settings, for the text rules.
        utterances: of all splits.
        model: its tokenizer has the vocabulary.
        exclusions: why utterances cannot be used, one reason for each.
        report: gets the section.
    """
    tokenizer = model.tokenizer
    built_from_train = config.model.head != "keep" and not config.tokenizer.vocabulary
    findings = [
        *transcripts.excluded(utterances, exclusions.left_out),
        *transcripts.excluded(utterances, exclusions.unlearnable, WARN),
        *transcripts.empty_transcripts(utterances),
        *transcripts.repeated_sentences(utterances),
        *transcripts.split_overlaps(utterances),
        *transcripts.vocabulary(
            utterances,
            tokenizer,
            built_from_train,
            lambda texts, covered: advice(config, texts, tokenizer, covered),
        ),
    ]
    if tokenizer.unit != "phone":
        rules = build_rules(OmegaConf.to_container(config.text.rules), config.dataset.language)  # type: ignore[arg-type]
        findings += transcripts.speaking_rates(utterances)
        raw = (one.utterance.text for one in utterances)
        findings += rule_findings(raw, rules, config.dataset.language)
    words = [word for one in utterances if one.split == "train" for word in one.text.split()]
    tokens = " ".join(token.strip() for token in tokenizer.tokens[:22]) + " ..." * (len(tokenizer) > 22)
    report.section(
        "Transcripts",
        [
            ("rules", f"text={text_name(config)}"),
            ("train", f"{len(words):,} words, {len(set(words)):,} different"),
            ("vocabulary", f"{len(tokenizer)} tokens ({tokenizer.unit}): {tokens}"),
        ],
        findings,
    )


# ------------------------------------------------------------------------------------------------------------
# the run


def _forecast(
    config: DictConfig,
    splits: dict[str, Split],
    model: CheckedModel,
    runtime: Runtime,
    report: CheckReport,
) -> None:
    """Print what the run will take: steps, memory, time and disk space.

    Args:
        config: the run's settings.
        splits: the usable utterances; train must not be empty.
        model: must have a recogniser, whose weights are of no use afterwards.
        runtime: the device that the trial steps run on.
        report: gets the sections.
    """
    assert model.recogniser
    setup = build_training(config, splits["train"], model.tokenizer, model.recogniser, runtime)
    if setup.total:
        t = config.trainer
        sharded = t.strategy == "fsdp" and t.devices > 1
        options = ForecastOptions(
            t.devices, seconds_of(t.device_seconds, runtime.device), config.check.steps, sharded
        )
        report.section("The run", *forecast(setup, splits, options))
    cache = cache_folder(config)
    missing = sum(
        split.seconds[undecoded(split.utterances, cache, model.rate)].sum() for split in splits.values()
    )
    audio_bytes = float(missing) * model.rate * 2
    report.section("Disk", *disk_space(setup, audio_bytes, cache, run_folder(config), config.trainer.average))
