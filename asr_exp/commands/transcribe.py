"""Say what is said in recordings: transcribe a.wav talks/ 'b/*.flac' run=FOLDER.

Recordings are files, folders, globs, or - for standard input, of any format, rate and length; words after
the command or files=. run= is the folder of a run, a fine-tuned CTC checkpoint (a folder or a hub id), or
torchaudio:NAME of torchaudio.pipelines. format= is text (a line a recording), jsonl (with word times and
confidences), srt, vtt or ctm. What is said goes to standard output or to out=, a file or a folder; progress
and complaints go to standard error. A recording that cannot be used does not stop the others (in text, its
line is empty); the exit status is then 1.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np
from omegaconf import DictConfig, ListConfig
from tqdm import tqdm

from asr_exp.builders.transcriber import load_transcriber
from asr_exp.core.console import counted
from asr_exp.core.errors import UserError, nearest
from asr_exp.core.exit_status import say
from asr_exp.data.audio import Samples
from asr_exp.data.batch import prefetch
from asr_exp.data.batch_plan import cost
from asr_exp.data.recordings import STDIN, named_files, read_recording, seconds_of
from asr_exp.inference.transcriber import Transcriber, Transcript
from asr_exp.inference.transcript_formats import ENDINGS, FORMATS, ONE_RECORDING, names_in_ctm
from asr_exp.runtime.distributed import started

PASSES = 8  # forward passes' worth of recordings that are sorted by length together
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"

# (name of a recording, text to write; None where it cannot be transcribed)
Write = Callable[[str, str | None], object]


def run(config: DictConfig) -> int:
    """Transcribe the recordings of `files=` -> exit status: 1 where some could not be transcribed.

    Raises UserError where the options contradict each other, the model cannot be loaded or there are no
    recordings.
    """
    files, complaints = named_files(_file_arguments(config))
    for complaint in complaints:
        say("error: ", f"{complaint}.")
    format = _format(config, files)
    targets = _targets(config.out, format, files)
    failed = len(complaints)
    # a line for each recording, so that line n is that of recording n
    placeholder = "\n" if format == "text" and len(files) > 1 else ""
    if files:
        with started(config.trainer.device, "fp32") as runtime:
            transcriber = load_transcriber(config, runtime)
            with _output(config.out, placeholder, targets) as write, _progress_bar(files) as bar:
                failed += _write_all(_transcripts(transcriber, files, bar), format, files, write)
    if failed:
        say("", f"{counted(failed, 'recording')} could not be transcribed.")
    return int(failed > 0)


def _write_all(
    transcripts: Iterator[tuple[str, Transcript | UserError]],
    format: str,
    files: Sequence[str],
    write: Write,
) -> int:
    """Write all transcripts, and print the errors of those that failed -> the number of errors."""
    names = names_in_ctm(files) if format == "ctm" else {name: name for name in files}
    failed = 0
    for name, transcript in transcripts:
        with tqdm.external_write_mode(file=sys.stderr):
            try:
                if isinstance(transcript, UserError):
                    write(name, None)
                    raise transcript
                write(name, FORMATS[format](transcript, names[name]))
            except UserError as why:
                say("error: ", str(why))
                failed += 1
    return failed


def _file_arguments(config: DictConfig) -> list[str]:
    """files= as a list of words. Raises UserError where there are none."""
    files = config.files if isinstance(config.files, ListConfig) else [config.files]
    words = [str(one) for one in files if one is not None]
    if not words:
        raise UserError(
            "transcribe needs recordings: python -m asr_exp transcribe a.wav b/ run=FOLDER, or"
            " files=[a.wav,b/], or - for standard input."
        )
    return words


def _format(config: DictConfig, files: Sequence[str]) -> str:
    """The format of the transcripts: format=, or that of the ending of out=, or text.

    Raises UserError for a format that does not exist, that contradicts out=, or that needs a file for each
    recording.
    """
    by_ending = {ending: name for name, ending in ENDINGS.items()}
    of_ending = by_ending.get(Path(config.out or "").suffix.lower())
    format = config.format or of_ending or "text"
    if format not in FORMATS:
        raise UserError(f"format={format} is not one of {', '.join(FORMATS)}.{nearest(format, FORMATS)}")
    if not _is_folder(config.out) and of_ending not in (None, format):
        raise UserError(
            f"format={format} and the ending of out={config.out} contradict each other; drop format, or give"
            f" *{ENDINGS[format]}."
        )
    if format in ONE_RECORDING and len(files) > 1 and not _is_folder(config.out):
        raise UserError(
            f"format={format} of {len(files)} recordings needs a folder, for a file each: out=FOLDER/."
        )
    return format


def _is_folder(out: str | None) -> bool:
    """Whether out= names a folder: one that exists, or any name with a slash at its end."""
    return out is not None and (out.endswith(os.sep) or Path(out).expanduser().is_dir())


# ------------------------------------------------------------------------------------------------------------
# from recordings to transcripts


def _transcripts(
    transcriber: Transcriber, files: Sequence[str], bar: tqdm
) -> Iterator[tuple[str, Transcript | UserError]]:
    """(name, transcript or the reason why there is none) of each recording, in their order.

    Recordings are read in groups of `PASSES` forward passes; inside a group they are batched by length.
    """

    def read(name: str) -> tuple[str, Samples | UserError]:
        try:
            return name, read_recording(name, transcriber.rate)
        except UserError as why:
            return name, why

    group: list[tuple[str, Samples | UserError]] = []
    group_cost = 0.0
    # prefetch reads in a thread, and a thread that waits for standard input cannot be ended
    for name, samples in map(read, files) if STDIN in files else prefetch(files, read):
        group.append((name, samples))
        if not isinstance(samples, UserError):
            group_cost += float(cost(np.array(len(samples) / transcriber.rate)))
        if group_cost >= PASSES * transcriber.device_seconds:
            yield from _transcribe_group(transcriber, group, bar)
            group, group_cost = [], 0.0
    yield from _transcribe_group(transcriber, group, bar)


def _transcribe_group(
    transcriber: Transcriber, group: Sequence[tuple[str, Samples | UserError]], bar: tqdm
) -> Iterator[tuple[str, Transcript | UserError]]:
    clips = [samples for _, samples in group if not isinstance(samples, UserError)]
    transcripts = iter(transcriber(clips, bar.update))
    for name, samples in group:
        yield name, samples if isinstance(samples, UserError) else next(transcripts)


def _progress_bar(files: Sequence[str]) -> tqdm:
    """A progress bar in seconds of audio; invisible where standard error is not a terminal."""
    visible = sys.stderr.isatty()
    total = sum(map(seconds_of, files)) if visible else 0.0
    return tqdm(
        total=total,
        desc="transcribing",
        bar_format=BAR if total else None,
        disable=not visible,
        leave=False,
        dynamic_ncols=True,
    )


# ------------------------------------------------------------------------------------------------------------
# output files


def _targets(out: str | None, format: str, files: Sequence[str]) -> dict[str, Path]:
    """The file for the transcript of each recording: one file for all, or one for each in a folder; empty for
    standard output.

    Raises UserError where that file is one of the recordings, or may be the reference transcript of one.
    """
    if out is None:
        return {}
    path = Path(out).expanduser()
    is_folder = _is_folder(out)
    recordings = {os.path.realpath(name) for name in files if name != STDIN}
    targets = _files_in_folder(files, path, ENDINGS[format]) if is_folder else dict.fromkeys(files, path)
    for name, target in targets.items():
        if os.path.realpath(target) in recordings:
            raise UserError(
                f"out={out} would overwrite {target}, which is one of the recordings; give another out=."
            )
        folder_of_recording = os.path.realpath(os.path.dirname(name))
        is_beside = name != STDIN and os.path.realpath(target.parent) == folder_of_recording
        if is_folder and format == "text" and is_beside and target.is_file():
            raise UserError(
                f"out={out} would overwrite {target}, which may be the reference transcript of the recording"
                " beside it; give another out=."
            )
    return targets


@contextmanager
def _output(out: str | None, placeholder: str, targets: Mapping[str, Path]) -> Iterator[Write]:
    """A function that writes transcripts: to standard output, to one file, or to a file for each recording in
    a folder.

    placeholder: written for a recording that cannot be transcribed, where several share a file. A file is
    left as it was where none of its recordings can be transcribed. Raises UserError where a file cannot be
    written.
    """
    if out is None:
        yield lambda name, text: (sys.stdout.write(placeholder if text is None else text), sys.stdout.flush())
    elif _is_folder(out):

        def write(name: str, text: str | None) -> None:
            if text is not None:
                with _replacing(targets[name]) as file:
                    file.write(text)

        yield write
    else:
        transcribed: list[str] = []
        with _replacing(Path(out).expanduser(), lambda: bool(transcribed)) as file:

            def write(name: str, text: str | None) -> None:
                file.write(placeholder if text is None else text)
                if text is not None:
                    transcribed.append(name)

            yield write


@contextmanager
def _replacing(path: Path, is_wanted: Callable[[], bool] = lambda: True) -> Iterator[TextIO]:
    """A new file that replaces `path` at the end of the block, where it ends without an error and `is_wanted`
    returns True. Otherwise `path` stays as it was.

    Raises UserError where the file cannot be written.
    """
    # the process id, so that two processes may write the same file: the later one's stays
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    with _user_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = new.open("w", encoding="utf-8")
    try:
        with file:
            yield file
        if is_wanted():
            with _user_errors(path):
                new.replace(path)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def _user_errors(path: Path) -> Iterator[None]:
    """Raise UserError for an OSError."""
    try:
        yield
    except OSError as why:
        raise UserError(f"out={path} cannot be written: {why.strerror or why}.") from why


def _files_in_folder(files: Sequence[str], folder: Path, ending: str) -> dict[str, Path]:
    """The file for each recording: the same path below `folder` as below the common folder of all recordings,
    with another ending.

    a.wav and a.flac of one folder become a.wav.txt and a.flac.txt.
    """
    paths = {name: os.path.abspath("stdin" if name == STDIN else name) for name in files}
    common = os.path.commonpath([os.path.dirname(path) for path in paths.values()]) if paths else ""
    relative = {name: os.path.relpath(path, common) for name, path in paths.items()}
    stems = {name: os.path.splitext(path)[0] for name, path in relative.items()}
    counts = Counter(stems.values())
    return {
        name: folder / f"{relative[name] if counts[stem] > 1 else stem}{ending}"
        for name, stem in stems.items()
    }
