"""The recordings that are aligned, and their transcripts as they are written."""

import re
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from asr_exp.builders.data import build_data
from asr_exp.commands.align.timit import beside, read_times
from asr_exp.core.errors import UserError
from asr_exp.data.audio import Samples, decode
from asr_exp.data.corpora import FileAudio, Utterance
from asr_exp.data.phones import INVENTORIES
from asr_exp.data.recordings import STDIN, named_files, read_recording
from asr_exp.data.tokenizer import Tokenizer


def find_recordings(config: DictConfig, tokenizer: Tokenizer) -> Iterator[Utterance]:
    """The recordings of files=, or those of a split, with their transcripts as they are written.

    Raises UserError for files that do not exist, and for one transcript for several files.
    """
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


def _transcript(path: str, text: str | None, tokenizer: Tokenizer) -> str:
    """The transcript of a recording: `text`, or that of a file beside it; '' where there is none."""
    if text is not None:
        return text
    phones = beside(path, ".phn")
    if phones and tokenizer.unit == "phone" and tokenizer.inventory in INVENTORIES:
        return " ".join(label for label, _, _ in read_times(phones))
    file = beside(path, ".txt") or beside(path, ".lab")
    if not file:
        return ""
    content = file.read_text(encoding="utf-8-sig", errors="replace").strip()
    # a .TXT of TIMIT begins with the recording's first and last sample
    return re.sub(r"^\d+\s+\d+\s+", "", content) if phones or beside(path, ".wrd") else content


def read_samples(utterance: Utterance, rate: int) -> Samples | str:
    """The audio of a recording, (samples,) int16 at `rate` hertz, or the reason why it cannot be decoded."""
    audio = utterance.audio
    if isinstance(audio, FileAudio) and audio.start is None and audio.end is None:
        try:
            return read_recording(audio.path, rate)
        except UserError as why:
            return str(why).removeprefix(f"{audio.path}: ").rstrip(".")
    clip = decode(audio, rate)
    return clip.reason if clip.samples is None else clip.samples
