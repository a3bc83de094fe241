"""Say when each word is spoken: align a.wav run=FOLDER format=textgrid out=FOLDER.

The transcript of a.wav stands beside it, in a.txt or a.lab, or is given: align.text='she had your suit'.
Without recordings, a split of the run's dataset is aligned (split=dev), or of another (dataset=csv
dataset.test=x.csv). Transcripts go through the run's text rules; the words come back as they are written,
with their characters (with phones, where the model emits phones).

Where TIMIT's own .WRD or .PHN stands beside a recording, the alignment is scored against it.
alignment.json, in the folder of the alignments, tells the score, and what was left out and why. Where
recordings were named and some are left out, the exit status is 1.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from asr_exp.builders.transcriber import load_transcriber
from asr_exp.commands.align.inputs import find_recordings, read_samples
from asr_exp.commands.align.summary import AlignmentSummary
from asr_exp.commands.align.timit import TimitTimes, table
from asr_exp.commands.align.transcript import Alignment, align_transcript, make_transcript
from asr_exp.core.errors import UserError
from asr_exp.core.files import is_run, write_text
from asr_exp.core.libraries import torchaudio
from asr_exp.data.corpora import FileAudio, Utterance
from asr_exp.data.phones import INVENTORIES
from asr_exp.data.text import TextRules, build_rules
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.inference.alignment_formats import FORMATS, AlignmentWriter
from asr_exp.inference.transcriber import Transcriber
from asr_exp.runs.folder import load_run
from asr_exp.runtime.distributed import started

BATCH = 16  # recordings that are decoded and go through the network together


@dataclass(frozen=True)
class AlignedRecording:
    """A recording with its alignment. seconds: its length."""

    utterance: Utterance
    alignment: Alignment
    seconds: float


def run(config: DictConfig) -> Path | int:
    """Align the recordings that a config names -> the folder of the alignments, or the exit status: 1 where
    a recording that was named is left out.

    Raises UserError where nothing could be aligned.
    """
    torchaudio("functional", "forced_align")  # fails now, not after the recogniser is loaded
    folder, formats = _output_folder(config), _formats(config)
    summary, timit = AlignmentSummary(), TimitTimes()
    with started(config.trainer.device, "fp32") as runtime:
        transcriber = load_transcriber(config, runtime)
        writer = AlignmentWriter(folder, formats)
        recordings = find_recordings(config, transcriber.tokenizer)
        rules = build_rules(OmegaConf.to_container(config.text.rules), config.dataset.language)  # type: ignore[arg-type]
        unit_tier = _unit_tier(transcriber.tokenizer)
        for aligned in _aligned(recordings, transcriber, rules, summary):
            name = _write(writer, aligned, unit_tier)
            summary.files[name] = str(aligned.utterance.audio)
            if config.align.against != "none":
                _compare(timit, aligned, transcriber.tokenizer, strict=config.align.against == "timit")
    summary.check()
    if config.align.against == "timit" and not timit.files:
        raise UserError(
            "align.against=timit, but no .WRD or .PHN stands beside the recordings; give files of TIMIT, or"
            " leave it out."
        )
    against_timit = timit.summary()
    if folder:
        record = {
            "run": config.run,
            "formats": formats,
            "frame_ms": round(1000 * transcriber.frame, 3),
            "aligned": summary.aligned,
            "left_out": summary.left_out,
            "unknown_units": summary.unknown,
            "words_of_no_sound": summary.silent,
            "not_as_written": summary.rewritten,
            "against_timit": against_timit,
            "files": summary.files,
        }
        write_text(folder / "alignment.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    for line in [*summary.lines(folder), *(table(against_timit) if against_timit else [])]:
        print(line, file=sys.stdout if folder else sys.stderr)
    return 1 if summary.left_out and config.files else folder or 0


def _write(writer: AlignmentWriter, aligned: AlignedRecording, unit_tier: str) -> str:
    """Write the words and units of a recording -> the name of its files. unit_tier: the name of the units."""
    utterance, alignment = aligned.utterance, aligned.alignment
    tiers = {"words": alignment.words} if alignment.words else {}
    tiers[unit_tier] = alignment.units
    metadata = {
        "id": utterance.id,
        "file": str(utterance.audio),
        "text": utterance.text,
        "confidence": alignment.confidence,
    }
    return writer.write(utterance.id, tiers, aligned.seconds, metadata)


def _compare(timit: TimitTimes, aligned: AlignedRecording, tokenizer: Tokenizer, strict: bool) -> None:
    """Compare an alignment with the .WRD and .PHN beside its recording.

    strict: whether UserError is raised for such a file in another format than TIMIT's. Otherwise it is taken
    for a file of the user's own, and not compared.
    """
    audio, alignment = aligned.utterance.audio, aligned.alignment
    if not isinstance(audio, FileAudio):
        return
    inventory = tokenizer.inventory if tokenizer.inventory in INVENTORIES else None
    phones = alignment.units if _unit_tier(tokenizer) == "phones" else []
    try:
        timit.add(audio.path, alignment.words, phones, inventory)
    except UserError:
        if strict:
            raise


def _unit_tier(tokenizer: Tokenizer) -> str:
    return "phones" if tokenizer.unit == "phone" else "characters"


# ------------------------------------------------------------------------------------------------------------
# what the config names


def _output_folder(config: DictConfig) -> Path | None:
    """The folder for the alignments; None for standard output.

    Raises UserError where a split is aligned and there is no folder for it.
    """
    if config.out:
        return Path(config.out).expanduser()
    if config.files:
        return None
    if not config.run or not is_run(config.run):
        raise UserError(
            "align has nowhere to put the alignments of a whole split; give out=FOLDER, or files=[a.wav] for"
            " some recordings."
        )
    dataset, own_dataset = (
        {**one.dataset, "root": None, "max_utterances": None} for one in (config, load_run(config.run))
    )
    if dataset != own_dataset:
        raise UserError(
            f"align keeps the alignments of {config.run}'s own dataset there; for another one give"
            " out=FOLDER."
        )
    return Path(config.run).expanduser() / "alignments" / config.split


def _formats(config: DictConfig) -> tuple[str, ...]:
    """The file formats to write. Raises UserError for one that does not exist."""
    name = config.format or ("ctm" if config.files and not config.out else "textgrid")
    if name not in (*FORMATS, "all"):
        raise UserError(
            f"format={name} is no form of an alignment; there is {', '.join(FORMATS)}, and all of them:"
            " format=all."
        )
    return FORMATS if name == "all" else (name,)


# ------------------------------------------------------------------------------------------------------------
# aligning


def _aligned(
    recordings: Iterator[Utterance], transcriber: Transcriber, rules: TextRules, summary: AlignmentSummary
) -> Iterator[AlignedRecording]:
    """Align recordings. Those that cannot be aligned are added to the summary, with the reason."""
    while batch := list(islice(recordings, BATCH)):
        clips = [read_samples(one, transcriber.rate) for one in batch]
        samples = {i: clip for i, clip in enumerate(clips) if not isinstance(clip, str)}
        emissions = dict(zip(samples, transcriber.emissions(list(samples.values())), strict=True))
        for i, (utterance, clip) in enumerate(zip(batch, clips, strict=True)):
            transcript = make_transcript(utterance.text, rules, transcriber.tokenizer)
            try:
                if isinstance(clip, str):
                    raise ValueError(clip)
                if not utterance.text.strip():
                    raise ValueError("it has no transcript; write it beside the recording, as .txt or .lab")
                if not len(emissions[i]):
                    raise ValueError(f"too short ({len(clip) / transcriber.rate:.2f} s) for its transcript")
                alignment = align_transcript(
                    emissions[i], transcript, transcriber.tokenizer, transcriber.frame
                )
            except ValueError as why:
                summary.left_out.append(
                    {"id": utterance.id, "file": str(utterance.audio), "reason": str(why)}
                )
                continue
            summary.add(transcript)
            yield AlignedRecording(utterance, alignment, len(clip) / transcriber.rate)
