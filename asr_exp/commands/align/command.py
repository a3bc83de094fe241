"""Say when each word is spoken: align a.wav run=FOLDER format=textgrid out=FOLDER.

The transcript of a.wav stands beside it, in a.txt or a.lab, or is given: align.text='she had your suit'.
Without recordings, a split of the run's dataset is aligned (split=dev), or of another (dataset=csv
dataset.test=x.csv). Transcripts go through the run's text rules; the words come back as they are written,
with their characters (with phones, where the model emits phones).

Where TIMIT's own .WRD or .PHN stands beside a recording, the alignment is scored against it. alignment.json,
in the folder of the alignments, tells the score, and what was left out and why. Where recordings were named
and some are left out, the exit status is 1.
"""

import json
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from asr_exp.builders.data import build_data
from asr_exp.builders.transcriber import load_transcriber
from asr_exp.commands.align.timit import TimitTimes, beside, read_times, table
from asr_exp.commands.align.transcript import (
    Alignment,
    AlignmentTranscript,
    align_transcript,
    make_transcript,
)
from asr_exp.core.console import counted
from asr_exp.core.errors import UserError
from asr_exp.core.files import is_run, write_text
from asr_exp.core.libraries import torchaudio
from asr_exp.data.audio import Samples, decode
from asr_exp.data.corpora import FileAudio, Utterance
from asr_exp.data.phones import INVENTORIES
from asr_exp.data.recordings import STDIN, named_files, read_recording
from asr_exp.data.text import TextRules, build_rules
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.inference.alignment_formats import FORMATS, AlignmentWriter
from asr_exp.inference.transcriber import Transcriber
from asr_exp.runs.folder import load_run
from asr_exp.runtime.distributed import started

TOGETHER = 16  # recordings decoded and recognised at a time


@dataclass
class AlignmentSummary:
    """What became of the recordings. unknown: units that the vocabulary lacks; silent: words that the text
    rules leave nothing of; rewritten: recordings whose words are those of the text rules."""

    aligned: int = 0
    left_out: list[dict[str, str]] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    silent: Counter[str] = field(default_factory=Counter)
    rewritten: int = 0

    def add(self, script: AlignmentTranscript) -> None:
        self.aligned += 1
        self.unknown.update(script.unknown)
        self.silent.update(script.silent)
        self.rewritten += not script.as_written


def run(config: DictConfig) -> Path | int:
    """Align what is asked for -> the folder of the alignments, or the exit status: 1 where a recording that
    was named is left out.

    Raises UserError where nothing could be aligned.
    """
    torchaudio("functional", "forced_align")  # that it cannot be had is told before a recogniser is loaded
    out, formats = _place(config), _formats(config)
    with started(config.trainer.device, "fp32") as runtime:
        transcriber = load_transcriber(config, runtime)
        tokenizer = transcriber.tokenizer
        recordings = _recordings(config, tokenizer)
        rules = build_rules(OmegaConf.to_container(config.text.rules), config.dataset.language)  # type: ignore[arg-type]
        sheets = AlignmentWriter(out, formats)
        report = AlignmentSummary()
        timit = TimitTimes()
        inventory = tokenizer.inventory if tokenizer.inventory in INVENTORIES else None
        files: dict[str, str] = {}
        units = "phones" if tokenizer.unit == "phone" else "characters"
        for utterance, found, seconds in _aligned(recordings, transcriber, rules, report):
            tiers = {"words": found.words, units: found.units} if found.words else {units: found.units}
            facts = {
                "id": utterance.id,
                "file": str(utterance.audio),
                "text": utterance.text,
                "confidence": found.confidence,
            }
            files[sheets.write(utterance.id, tiers, seconds, facts)] = str(utterance.audio)
            if config.align.against != "none" and isinstance(utterance.audio, FileAudio):
                # a .wrd of the user's own
                with suppress(*([] if config.align.against == "timit" else [UserError])):
                    timit.add(
                        utterance.audio.path, found.words, found.units if units == "phones" else [], inventory
                    )
    _check(report, timit, config)
    against = timit.summary()
    if out:
        written = {
            "run": config.run,
            "formats": formats,
            "frame_ms": round(1000 * transcriber.frame, 3),
            "aligned": report.aligned,
            "left_out": report.left_out,
            "unknown_units": report.unknown,
            "words_of_no_sound": report.silent,
            "not_as_written": report.rewritten,
            "against_timit": against,
            "files": files,
        }
        write_text(out / "alignment.json", json.dumps(written, indent=2, ensure_ascii=False) + "\n")
    for line in [*_told(report, out), *(table(against) if against else [])]:
        print(line, file=sys.stdout if out else sys.stderr)
    return 1 if report.left_out and config.files else out or 0


def _check(report: AlignmentSummary, timit: TimitTimes, config: DictConfig) -> None:
    if not report.aligned:
        first = report.left_out[0] if report.left_out else {"file": "no recording", "reason": "there is none"}
        raise UserError(
            f"Nothing could be aligned, of {len(report.left_out)}. The first, {first['file']}:"
            f" {first['reason']}."
        )
    if config.align.against == "timit" and not timit.files:
        raise UserError(
            "align.against=timit, but no .WRD or .PHN stands beside the recordings; give files of TIMIT, or"
            " leave it out."
        )


def _told(report: AlignmentSummary, out: Path | None) -> list[str]:
    """What a person is told of it all, within 80 columns."""
    lines = [f"{counted(report.aligned, 'recording')} aligned" + (f": {out}" if out else "")]
    lines += [f"  left out  {one['file']}: {one['reason']}" for one in report.left_out[:5]]
    if len(report.left_out) > 5:
        lines.append(f"  left out  {len(report.left_out) - 5} more; alignment.json names them")
    if report.unknown:
        lines.append(f"  not in the vocabulary, and passed over: {_most(report.unknown)}")
    if report.silent:
        lines.append(f"  of no sound by the text rules, and without a time: {_most(report.silent)}")
    if report.rewritten:
        lines.append(
            f"  {counted(report.rewritten, 'recording')} whose words are those of the text rules, not of the"
            " writer"
        )
    return [
        textwrap.fill(line, 80, subsequent_indent="      ", break_long_words=False, break_on_hyphens=False)
        for line in lines
    ]


def _most(counts: Counter[str]) -> str:
    shown = ", ".join(f"{unit} ({number})" for unit, number in counts.most_common(6))
    return shown + (f" and {len(counts) - 6} more" if len(counts) > 6 else "")


# ------------------------------------------------------------------------------------------------------------
# what is asked for


def _place(config: DictConfig) -> Path | None:
    """The folder that the alignments go to; None for standard output."""
    if config.out:
        return Path(config.out).expanduser()
    if config.files:
        return None
    if not config.run or not is_run(config.run):
        raise UserError(
            "align has nowhere to put the alignments of a whole split; give out=FOLDER, or files=[a.wav] for"
            " some recordings."
        )
    asked, own = (
        {**one.dataset, "root": None, "max_utterances": None} for one in (config, load_run(config.run))
    )
    if asked != own:
        raise UserError(
            f"align keeps the alignments of {config.run}'s own dataset there; for another one give"
            " out=FOLDER."
        )
    return Path(config.run).expanduser() / "alignments" / config.split


def _formats(config: DictConfig) -> tuple[str, ...]:
    asked = config.format or ("ctm" if config.files and not config.out else "textgrid")
    if asked not in (*FORMATS, "all"):
        raise UserError(
            f"format={asked} is no form of an alignment; there is {', '.join(FORMATS)}, and all of them:"
            " format=all."
        )
    return FORMATS if asked == "all" else (asked,)


def _recordings(config: DictConfig, tokenizer: Tokenizer) -> Iterator[Utterance]:
    """The recordings with their transcripts as they are written: files, or a split."""
    if not config.files:
        raw = build_data(config, keep_raw=True, only=config.split).raw
        assert raw is not None
        return iter(raw.splits[config.split][: config.dataset.max_utterances])
    files, complaints = named_files(
        map(str, config.files) if isinstance(config.files, ListConfig) else [str(config.files)]
    )
    if complaints or STDIN in files:
        raise UserError(
            f"{complaints[0]}."
            if complaints
            else "align reads files, not standard input; name the recording."
        )
    if config.align.text is not None and len(files) > 1:
        raise UserError(
            f"align.text is what one recording says, and files= names {len(files)}; put a transcript beside"
            " each, as a.txt."
        )
    return iter(
        [
            Utterance(Path(name).stem, FileAudio(name), _transcript(name, config.align.text, tokenizer))
            for name in files
        ]
    )


def _transcript(path: str, given: str | None, tokenizer: Tokenizer) -> str:
    """What a recording says, as written; '' where that is nowhere to be found."""
    if given is not None:
        return given
    phones = beside(path, ".phn")
    if phones and tokenizer.unit == "phone" and tokenizer.inventory in INVENTORIES:
        return " ".join(label for label, _, _ in read_times(phones))
    found = beside(path, ".txt") or beside(path, ".lab")
    if not found:
        return ""
    text = found.read_text(encoding="utf-8-sig", errors="replace").strip()
    # TIMIT's begins with first and last sample
    return re.sub(r"^\d+\s+\d+\s+", "", text) if phones or beside(path, ".wrd") else text


# ------------------------------------------------------------------------------------------------------------
# aligning


def _aligned(
    recordings: Iterator[Utterance], transcriber: Transcriber, rules: TextRules, report: AlignmentSummary
) -> Iterator[tuple[Utterance, Alignment, float]]:
    """What can be aligned, with its length in seconds; the rest is named in the report."""
    while some := list(islice(recordings, TOGETHER)):
        clips = [_samples(one, transcriber.rate) for one in some]
        samples = {i: clip for i, clip in enumerate(clips) if not isinstance(clip, str)}
        emissions = dict(zip(samples, transcriber.emissions(list(samples.values())), strict=True))
        for i, (utterance, clip) in enumerate(zip(some, clips, strict=True)):
            script = make_transcript(utterance.text, rules, transcriber.tokenizer)
            try:
                if isinstance(clip, str):
                    raise ValueError(clip)
                if not utterance.text.strip():
                    raise ValueError("it has no transcript; write it beside the recording, as .txt or .lab")
                if not len(emissions[i]):
                    raise ValueError(f"too short ({len(clip) / transcriber.rate:.2f} s) for its transcript")
                found = align_transcript(emissions[i], script, transcriber.tokenizer, transcriber.frame)
            except ValueError as why:
                report.left_out.append({"id": utterance.id, "file": str(utterance.audio), "reason": str(why)})
                continue
            report.add(script)
            yield utterance, found, len(clip) / transcriber.rate


def _samples(utterance: Utterance, rate: int) -> Samples | str:
    """The samples of a recording at that rate, or why there are none."""
    audio = utterance.audio
    if isinstance(audio, FileAudio) and audio.start is None and audio.end is None:
        try:
            return read_recording(audio.path, rate)
        except UserError as why:
            return str(why).removeprefix(f"{audio.path}: ").rstrip(".")
    clip = decode(audio, rate)
    return clip.reason if clip.samples is None else clip.samples
