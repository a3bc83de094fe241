"""Say what is said in recordings: transcribe a.wav talks/ 'b/*.flac' run=FOLDER.

Recordings are files, folders, globs, or - for standard input, of any format, rate and length; words after the
command or files=. run= is the folder of a run, a fine-tuned CTC checkpoint (a folder or a hub id), or
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

# name of a recording, what is written of it (None: it cannot be transcribed)
Write = Callable[[str, str | None], object]


def run(config: DictConfig) -> int:
    """Transcribe the recordings of `files=` -> 0, or 1 where some could not be used. Raises UserError where
    none can be, as asked.
    """
    files, complaints = named_files(_asked(config))
    for complaint in complaints:
        say("error: ", f"{complaint}.")
    style, failed = _format(config, files), len(complaints)
    targets = _targets(config.out, style, files)
    # a line a recording, so that they can be told apart
    lost = "\n" if style == "text" and len(files) > 1 else ""
    if files:
        with started(config.trainer.device, "fp32") as runtime:
            transcriber = load_transcriber(config, runtime)
            with _outlet(config.out, lost, targets) as write, _bar(files) as bar:
                failed += _written(_transcripts(transcriber, files, bar), style, files, write)
    if failed:
        say("", f"{counted(failed, 'recording')} could not be transcribed.")
    return int(failed > 0)


def _written(
    found: Iterator[tuple[str, Transcript | UserError]], style: str, files: Sequence[str], write: Write
) -> int:
    """Write what is found, and tell of the recordings that could not be transcribed -> their number."""
    names = names_in_ctm(files) if style == "ctm" else {name: name for name in files}
    failed = 0
    for name, transcript in found:
        with tqdm.external_write_mode(file=sys.stderr):
            try:
                if isinstance(transcript, UserError):
                    write(name, None)
                    raise transcript
                write(name, FORMATS[style](transcript, names[name]))
            except UserError as why:
                say("error: ", str(why))
                failed += 1
    return failed


def _asked(config: DictConfig) -> list[str]:
    asked = (
        config.files
        if isinstance(config.files, ListConfig)
        else []
        if config.files is None
        else [config.files]
    )
    if not asked:
        raise UserError(
            "transcribe needs recordings: python -m asr_exp transcribe a.wav b/ run=FOLDER, or"
            " files=[a.wav,b/], or - for standard input."
        )
    return [str(one) for one in asked]


def _format(config: DictConfig, files: Sequence[str]) -> str:
    """The format asked for, or the one that the ending of `out` says, or text. Raises UserError where it
    cannot be had.
    """
    by_ending = {ending: style for style, ending in ENDINGS.items()}
    style = config.format or by_ending.get(Path(config.out or "").suffix.lower(), "text")
    if style not in FORMATS:
        raise UserError(f"format={style} is not one of {', '.join(FORMATS)}.{nearest(style, FORMATS)}")
    if not _is_folder(config.out) and by_ending.get(Path(config.out or "").suffix.lower(), style) != style:
        raise UserError(
            f"format={style} and the ending of out={config.out} contradict each other; drop format, or give"
            f" *{ENDINGS[style]}."
        )
    if style in ONE_RECORDING and len(files) > 1 and not _is_folder(config.out):
        raise UserError(
            f"format={style} of {len(files)} recordings needs a folder, for a file each: out=FOLDER/."
        )
    return style


def _is_folder(out: str | None) -> bool:
    return out is not None and (out.endswith(os.sep) or Path(out).expanduser().is_dir())


# ------------------------------------------------------------------------------------------------------------
# from recordings to transcripts


def _transcripts(
    transcriber: Transcriber, files: Sequence[str], bar: tqdm
) -> Iterator[tuple[str, Transcript | UserError]]:
    """What is said in each recording, or why it cannot be told, in the order given; short ones in batches by
    length.
    """

    def read(name: str) -> tuple[str, Samples | UserError]:
        try:
            return name, read_recording(name, transcriber.rate)
        except UserError as why:
            return name, why

    window: list[tuple[str, Samples | UserError]] = []
    charged = 0.0
    # a thread that waits for input cannot be ended
    for name, samples in map(read, files) if STDIN in files else prefetch(files, read):
        window.append((name, samples))
        charged += (
            0.0 if isinstance(samples, UserError) else float(cost(np.array(len(samples) / transcriber.rate)))
        )
        if charged >= PASSES * transcriber.device_seconds:
            yield from _together(transcriber, window, bar)
            window, charged = [], 0.0
    yield from _together(transcriber, window, bar)


def _together(
    transcriber: Transcriber, window: Sequence[tuple[str, Samples | UserError]], bar: tqdm
) -> Iterator[tuple[str, Transcript | UserError]]:
    clips = [samples for _, samples in window if not isinstance(samples, UserError)]
    transcripts = iter(transcriber(clips, bar.update))
    for name, samples in window:
        yield name, samples if isinstance(samples, UserError) else next(transcripts)


def _bar(files: Sequence[str]) -> tqdm:
    """Progress in seconds of audio; silent where standard error is no terminal."""
    shown = sys.stderr.isatty()
    total = sum(map(seconds_of, files)) if shown else 0.0
    return tqdm(
        total=total,
        desc="transcribing",
        bar_format=BAR if total else None,
        disable=not shown,
        leave=False,
        dynamic_ncols=True,
    )


# ------------------------------------------------------------------------------------------------------------
# where it goes


def _targets(out: str | None, style: str, files: Sequence[str]) -> dict[str, Path]:
    """The file that what is said in each recording goes to: one for all, or in a folder one each; none for
    standard output.

    Raises UserError where that file is a recording, or may be a recording's reference transcript.
    """
    if out is None:
        return {}
    place = Path(out).expanduser()
    apart = _is_folder(out)
    recordings = {os.path.realpath(name) for name in files if name != STDIN}
    targets = _places(files, place, ENDINGS[style]) if apart else dict.fromkeys(files, place)
    for name, path in targets.items():
        if os.path.realpath(path) in recordings:
            raise UserError(
                f"out={out} would overwrite {path}, which is one of the recordings; give another out=."
            )
        beside = name != STDIN and os.path.realpath(path.parent) == os.path.realpath(os.path.dirname(name))
        if apart and style == "text" and beside and path.is_file():
            raise UserError(
                f"out={out} would overwrite {path}, which may be the reference transcript of the recording"
                " beside it; give another out=."
            )
    return targets


@contextmanager
def _outlet(out: str | None, lost: str, targets: Mapping[str, Path]) -> Iterator[Write]:
    """Where what is written of a recording goes: to standard output, to one file, or to a file a recording in
    a folder.

    lost: what stands for a recording that cannot be transcribed, where several share a file. A file is left
    as it was where none of its recordings could be. Raises UserError where nothing can be written there.
    """
    if out is None:
        yield lambda name, text: (sys.stdout.write(lost if text is None else text), sys.stdout.flush())
    elif _is_folder(out):

        def write(name: str, text: str | None) -> None:
            if text is not None:
                with _beside(targets[name]) as file:
                    file.write(text)

        yield write
    else:
        told: list[str] = []
        with _beside(Path(out).expanduser(), told) as file:

            def write(name: str, text: str | None) -> None:
                file.write(lost if text is None else text)
                told.extend([] if text is None else [name])

            yield write


@contextmanager
def _beside(path: Path, wanted: Sequence | None = None) -> Iterator[TextIO]:
    """A file to write, which takes its name when it is whole and, of `wanted`, there is something; else
    nothing is left of it.
    """
    # two processes may write one file: the last one's is kept
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    with _refused(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = new.open("w", encoding="utf-8")
    try:
        with file:
            yield file
        if wanted is None or wanted:
            with _refused(path):
                new.replace(path)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as why:
        raise UserError(f"out={path} cannot be written: {why.strerror or why}.") from why


def _places(files: Sequence[str], folder: Path, ending: str) -> dict[str, Path]:
    """The file of each recording: its name with another ending, below the folder as it lies below what all
    have in common.
    """
    paths = {name: os.path.abspath("stdin" if name == STDIN else name) for name in files}
    common = os.path.commonpath([os.path.dirname(path) for path in paths.values()]) if paths else ""
    inside = {name: os.path.relpath(path, common) for name, path in paths.items()}
    stems = {name: os.path.splitext(path)[0] for name, path in inside.items()}
    taken = Counter(stems.values())  # a.wav and a.flac keep their endings
    return {
        name: folder / f"{inside[name] if taken[stem] > 1 else stem}{ending}" for name, stem in stems.items()
    }
