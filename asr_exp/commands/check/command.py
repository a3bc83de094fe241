"""Look before you train: the recordings, the transcripts, and a step of these settings that is really run.

Reads every file's header and decodes a sample of 200 clips (check.clips; check.audio=all for all, none for
headers alone), holds transcripts against vocabulary, text rules and the other splits, and runs the median and
the worst forward and backward pass on the device at hand (check.steps=false: not). Trains nothing. Exit
status 1 where something would hurt the run; the utterances concerned then stand in check.jsonl in the run
folder, with the reason.
"""

import logging
import os
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from omegaconf import DictConfig, OmegaConf

from asr_exp.builders.data import Data, build_data, build_tokenizer
from asr_exp.builders.model import build_recogniser, model_arguments
from asr_exp.builders.plan import advice
from asr_exp.builders.session import cache_folder
from asr_exp.builders.training import build_training
from asr_exp.commands.check import headers, recordings, transcripts
from asr_exp.commands.check import text_rules as wording
from asr_exp.commands.check.findings import FAIL, NOTE, WARN, Finding, Row, common, histogram, quarantine
from asr_exp.commands.check.forecast import disk, plan
from asr_exp.commands.check.trial_step import OnDemand
from asr_exp.core import console
from asr_exp.core.errors import Unreachable, UserError
from asr_exp.core.files import write_text
from asr_exp.core.log import logging_to_terminal
from asr_exp.data.audio_store import undecoded
from asr_exp.data.corpora import Utterances
from asr_exp.data.filtering import LengthLimits, rejection_reason
from asr_exp.data.prepare import Split
from asr_exp.data.text import build_rules
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.model.loading import check_checkpoint
from asr_exp.model.recogniser import Recogniser
from asr_exp.runs.folder import run_folder
from asr_exp.runtime.distributed import Runtime, started

log = logging.getLogger(__name__)
FILE = "check.jsonl"
RATE = 16000  # of every backbone there is, where the one asked for cannot be had


@dataclass
class CheckReport:
    """Prints blocks as they come, and keeps what was found."""

    findings: list[Finding] = field(default_factory=list)

    def block(
        self,
        title: str,
        rows: Iterable[tuple[str, str]],
        findings: Iterable[Finding],
        after: Sequence[str] = (),
    ) -> None:
        """A topic: what there is, then what is wrong with it, the worst first."""
        found = sorted(findings, key=lambda one: (FAIL, WARN, NOTE).index(one.level))
        self.findings += found
        console.page(title, rows)
        for line in (*after, *(line for one in found for line in one.lines())):
            log.info("%s", line)

    def count(self, level: str) -> int:
        return sum(one.level == level for one in self.findings)


def run(config: DictConfig) -> int:
    """Inspect the run that a config asks for -> exit status: 1 where something would hurt it. Raises
    UserError.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            "check looks at one device; start it without torchrun (trainer.devices=N says how many the run"
            " will have)."
        )
    with started(config.trainer.device, config.trainer.precision) as runtime, logging_to_terminal(True, 0):
        return _check(config, runtime)


def _check(config: DictConfig, runtime: Runtime) -> int:
    report, data = CheckReport(), build_data(config, keep_raw=True)
    tokenizer, model, amiss = _model(config, data, runtime)
    rate = model.extractor.sampling_rate if model else RATE
    rows = _recordings(config, data, rate, report)
    usable = _transcripts(config, data, rows, tokenizer, model, report)
    report.block(
        "Model", [("name", config.model.checkpoint or f"{config.model.architecture}, random weights")], amiss
    )
    if model and usable["train"]:
        _forecast(config, usable, tokenizer, model, runtime, report)
    return _verdict(config, report)


def _model(
    config: DictConfig, data: Data, runtime: Runtime
) -> tuple[Tokenizer, Recogniser | None, list[Finding]]:
    """The vocabulary and the network; in the place of one that cannot be had, the training split's own
    vocabulary, and None.
    """
    amiss: list[Finding] = []
    try:
        check_checkpoint(**model_arguments(config))
        tokenizer = build_tokenizer(config, data)
        return tokenizer, build_recogniser(config, tokenizer, runtime), amiss
    except UserError as why:
        away = isinstance(why, Unreachable)
        amiss.append(
            Finding(
                WARN if away else FAIL,
                "no-model",
                f"The model part was skipped. {str(why).rstrip('.')}",
                "Frames are counted as wav2vec 2.0 makes them: 50 a second.",
            )
        )
    t = config.tokenizer
    try:
        return (
            Tokenizer.build(data.texts(["train"]), t.unit, t.inventory, t.score_inventory, t.min_count),
            None,
            amiss,
        )
    except UserError as why:
        amiss.append(Finding(FAIL, "no-vocabulary", str(why).rstrip(".")))
        return Tokenizer(["[UNK]", "[PAD]"], t.unit), None, amiss


# ------------------------------------------------------------------------------------------------------------
# the data


def _recordings(config: DictConfig, data: Data, rate: int, report: CheckReport) -> list[Row]:
    """Look at the recordings -> the rows of all splits."""
    c, workers = config.check, config.trainer.workers
    most = config.dataset.max_utterances
    raw = data.raw.splits if data.raw else {}
    pairs = [
        (split, u, text)
        for split in raw
        for u, text in zip(raw[split][:most], data.corpus.splits[split].texts(), strict=False)
    ]
    audios = [u.audio for _, u, _ in pairs]
    read = headers.in_threads(headers.read_header, audios, "reading headers", workers)
    rows, sizes = (
        [Row(*pair, header.clip) for pair, header in zip(pairs, read, strict=True)],
        [header.size for header in read],
    )
    chosen = recordings.to_hear(rows, sizes, c.audio, c.clips, config.seed)
    sounds = headers.in_threads(recordings.hear, [audios[i] for i in chosen], "listening", workers)
    reasons = {i: r.clip.reason for i, r in enumerate(rows) if r.clip.reason}
    reasons |= {i: s.reason for i, s in zip(chosen, sounds, strict=True) if s.reason}
    kinds = recordings.formats(rows)
    splits = [(split, _size(split, rows, data)) for split in data.corpus.splits]
    trained = [r.clip.seconds for r in rows if r.split == "train" and r.clip.rate]
    rejected = [(split, r.id, r.file, r.reason) for split, some in data.corpus.rejected.items() for r in some]
    counts = {split: len(some) for split, some in data.corpus.splits.items()}
    report.block(
        f"Recordings of {config.dataset.name}",
        [*splits, *_wrapped("formats", common(kinds)), *_heard(len(chosen), len(rows))],
        [
            *transcripts.left_out(rejected, counts),
            *recordings.broken(rows, dict(sorted(reasons.items()))),
            *recordings.rates(rows, rate),
            *recordings.unended(rows, [header.ended for header in read]),
            *recordings.copies(rows, headers.copies(audios, sizes, workers)),
            *recordings.heard([rows[i] for i in chosen], sounds),
        ],
        ["  lengths of train", *histogram(trained, "s")],
    )
    return rows


def _size(split: str, rows: Sequence[Row], data: Data) -> str:
    mine = [r for r in rows if r.split == split]
    seconds = np.array([r.clip.seconds for r in mine if r.clip.rate] or [0.0])
    speakers = len({r.utterance.speaker for r in mine} - {None})
    voices = console.counted(speakers, "speaker") if speakers else "speakers unknown"
    return (
        f"{console.counted(len(mine), 'clip')}, {console.duration(seconds.sum())}, {voices}; "
        f"{seconds.min():.1f} .. {seconds.max():.1f} s, median {np.median(seconds):.1f}"
    )


def _wrapped(name: str, text: str) -> list[tuple[str, str]]:
    return [("" if number else name, line) for number, line in enumerate(textwrap.wrap(text, 65))]


def _heard(chosen: int, there: int) -> Iterator[tuple[str, str]]:
    yield (
        "heard",
        f"{chosen:,} of {there:,} clips" + ("; check.audio=all hears all" if chosen < there else ""),
    )
    if chosen < there:
        yield "", "silence, clipping, damage, the end of MP3s: known of these alone"


def _transcripts(
    config: DictConfig,
    data: Data,
    rows: list[Row],
    tokenizer: Tokenizer,
    model: Recogniser | None,
    report: CheckReport,
) -> dict[str, Split]:
    """Look at the transcripts -> what a run can use of each split."""
    d, rate = config.dataset, model.extractor.sampling_rate if model else RATE
    frames = model.frames if model else lambda samples: (samples - 80) // 320
    limits = LengthLimits(d.min_seconds, d.max_seconds, d.max_eval_seconds, d.max_utterances, frames)
    targets = [tokenizer.target(r.text) for r in rows]

    def why_not(i: int, split: str) -> str:
        return rejection_reason(
            split, round(rows[i].clip.seconds * rate), rate, targets[i], tokenizer, limits
        )

    reasons = [r.clip.reason and "broken" or why_not(i, r.split) for i, r in enumerate(rows)]
    hopeless = ["" if reason else why_not(i, "train") for i, reason in enumerate(reasons)]
    hopeless = [why if why.startswith(("labels longer", "no character")) else "" for why in hopeless]
    own = config.model.head != "keep" and not config.tokenizer.vocabulary
    findings = [
        *transcripts.fit(rows, reasons),
        *transcripts.fit(rows, hopeless, WARN),
        *transcripts.contents(rows),
        *transcripts.vocabulary(
            rows, tokenizer, own, lambda texts, found: advice(config, texts, tokenizer, found)
        ),
    ]
    if tokenizer.unit != "phone":
        rules = build_rules(OmegaConf.to_container(config.text.rules), d.language)  # type: ignore[arg-type]
        findings += [*transcripts.pace(rows), *wording.changes((r.utterance.text for r in rows), rules)]
    words = [w for r in rows if r.split == "train" for w in r.text.split()]
    shown = " ".join(t.strip() for t in tokenizer.tokens[:22]) + (" ..." if len(tokenizer) > 22 else "")
    report.block(
        "Transcripts",
        [
            ("rules", f"text={config.text.name}"),
            ("train", f"{len(words):,} words, {len(set(words)):,} different"),
            ("vocabulary", f"{len(tokenizer)} tokens ({tokenizer.unit}): {shown}"),
        ],
        findings,
    )
    usable = {}
    for split in data.corpus.splits:
        keep = [i for i, r in enumerate(rows) if r.split == split and not reasons[i]]
        utterances = Utterances(replace(rows[i].utterance, text=rows[i].text) for i in keep)
        seconds = np.array([rows[i].clip.seconds for i in keep])
        usable[split] = Split(
            split,
            utterances,
            tokenizer,
            seconds,
            [],
            OnDemand(utterances, seconds, rate),  # type: ignore[arg-type]
            np.arange(len(keep)),
        )
    return usable


# ------------------------------------------------------------------------------------------------------------
# the run


def _forecast(
    config: DictConfig,
    usable: dict[str, Split],
    tokenizer: Tokenizer,
    model: Recogniser,
    runtime: Runtime,
    report: CheckReport,
) -> None:
    """What the run will do, take and need."""
    job = build_training(config, usable["train"], tokenizer, model, runtime)
    if job.total:
        t = config.trainer
        sharded = t.strategy == "fsdp" and t.devices > 1
        report.block("The run", *plan(job, usable, t.devices, t.device_seconds, config.check.steps, sharded))
    cache = cache_folder(config)
    folder = run_folder(config)
    rate = model.extractor.sampling_rate
    missing = sum(split.seconds[undecoded(split.utterances, cache, rate)].sum() for split in usable.values())
    report.block("Disk", *disk(job, float(missing) * rate * 2, cache, folder, config.trainer.average))


def _verdict(config: DictConfig, report: CheckReport) -> int:
    """Say how it stands, and leave the faults in the run folder."""
    fails, warnings = report.count(FAIL), report.count(WARN)
    lines, path = quarantine(report.findings), run_folder(config) / FILE
    rows = [("found", f"{fails} FAIL, {warnings} WARN")]
    if lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, lines)
        rows += [("utterances", f"{console.counted(lines.count(chr(10)), 'line')} in"), ("", str(path))]
    else:
        path.unlink(missing_ok=True)
    rows.append(
        ("next", "mend what says FAIL, then look again" if fails else "the same settings with `train`")
    )
    console.page("Verdict", rows)
    return 1 if fails else 0
