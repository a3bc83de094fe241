"""A run as one HTML page: curves, errors, utterances to hear and see, suspected label errors (report RUN;
report A B for two).

The page is FOLDER/report.html, or out=PAGE.html; it needs no network and nothing beside it. report.audio
utterances carry their sound, spectrogram and emissions. format=png out=FOLDER writes pictures of the same
for papers; with files=[a.wav], of the emissions and layer features of any checkpoint, run=CHECKPOINT, and
recording; one that cannot be used does not stop the others, and the exit status is then 1.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from asr_exp.builders.transcriber import load_transcriber
from asr_exp.commands.report.contents import UtteranceTable, contents, unit_of
from asr_exp.commands.report.figures import draw_run
from asr_exp.commands.report.page import html
from asr_exp.commands.report.record import Record, read_record, training_losses
from asr_exp.commands.report.sound import (
    Details,
    analyse_rows,
    read_split,
    rows_of,
    split_suspects,
    train_suspects,
)
from asr_exp.commands.report.suspects_csv import write_suspects
from asr_exp.commands.report.utterance_figures import draw_files, draw_rows
from asr_exp.core.console import counted
from asr_exp.core.errors import UserError
from asr_exp.core.exit_status import say
from asr_exp.core.files import is_run, write_text
from asr_exp.data.recordings import named_files
from asr_exp.runs.folder import load_run, run_folder
from asr_exp.runs.pairing import pair_up, read_runs
from asr_exp.runtime.distributed import Runtime, started
from asr_exp.scoring.intervals import Estimate
from asr_exp.scoring.significance import compare_rates


def run(config: DictConfig) -> int:
    """Write the page (or the pictures) of the runs that are named, and return the exit status.

    Raises UserError where there is nothing to show.
    """
    if config.format not in (None, "html", "png"):
        raise UserError(f"format={config.format}: report writes html (the default) or png.")
    with started(config.trainer.device, "fp32") as runtime:
        if config.files is not None:
            return _figures_of_files(config, runtime)
        configs = _configs(config)
        if config.format == "png":
            return _figures(config, configs, runtime)
        return _page(config, configs, runtime)


def _configs(config: DictConfig) -> list[DictConfig]:
    """The configs of the run, or of both, each with its own folder as `run`."""
    first, second = config.a or config.run or str(run_folder(config)), config.b
    if not all(isinstance(one, str) for one in (first, second) if one is not None):
        raise UserError("report shows one run or two, each a folder: report RUN, or report A B.")
    configs = [
        config if config.run == first and is_run(first) else load_run(first),
        *([load_run(second)] if second else []),
    ]
    for one, folder in zip(configs, (first, second), strict=False):
        one.run = folder
    return configs


def _records(config: DictConfig, configs: Sequence[DictConfig]) -> tuple[list[Record], str | None]:
    """The records of the run folders and, of two, the sentence on their difference."""
    records = [read_record(one, config.split) for one in configs]
    if len(records) == 1:
        return records, None
    a, b = (read_runs(side, one.run, config.split) for side, one in zip("ab", configs, strict=True))
    pair = pair_up(a, b, config.split)
    comparison = compare_rates(*pair.counts[pair.metric], pair.clusters, False)
    return records, _difference(comparison.difference, pair.metric, pair.basis)


def _difference(difference: Estimate, metric: str, basis: str) -> str:
    """The sentence on a difference of rates, with its interval and the p value of the t test."""
    interval, p = difference.interval, difference.p
    within = f" [{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}]" if interval else ""
    chance = ""
    if p is not None:
        chance = f", p {'< 0.001' if p < 0.001 else f'= {p:.3f}'} over {basis} (t test)"
    return f"{metric.upper()} of A less that of B: {100 * difference.value:+.2f} points{within}{chance}."


def _utterances(records: Sequence[Record], config: DictConfig) -> UtteranceTable | None:
    """The utterances of the split that is shown; None where it has no hypotheses yet."""
    if not records[0].lines:
        return None
    return UtteranceTable(records, unit_of(records, config.tokenizer.unit))


# ------------------------------------------------------------------------------------------------------------
# the page


def _page(config: DictConfig, configs: Sequence[DictConfig], runtime: Runtime) -> int:
    records, comparison = _records(config, configs)
    notes = []
    if records[0].split != config.split:
        shown = f"what was said of {records[0].split}" if records[0].split else "the training so far"
        notes.append(f"{config.split} has not been scored yet: this is {shown}.")
    utterances = _utterances(records, configs[0])
    rows, count = _chosen(config, utterances), config.report.suspects
    details = Details([])
    numbers: dict[int, int] = {}
    suspected = []
    if rows or count:
        try:
            details = Details([load_transcriber(one, runtime) for one in configs])
            if rows and utterances:
                split = read_split(configs[0], str(records[0].split), details.transcribers[0])
                numbers = analyse_rows(split, utterances, rows, details)
            if count and (losses := training_losses(records[0].folder)):
                split = read_split(configs[0], "train", details.transcribers[0])
                suspected.append(train_suspects(records[0].folder, losses, split, count, details))
            if details.left_out:
                notes.append(f"The page is full: {details.left_out} utterances more would have been heard.")
        except UserError as error:
            if config.report.utterances:
                raise
            notes += [f"Not every utterance can be heard here. {error}"] * bool(utterances)
    if count and utterances:
        of_split = split_suspects(str(records[0].split), utterances, count, numbers)
        suspected += [of_split] if of_split else []
    path = _path(config, configs)
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = _write_suspects(configs[0], path.parent, suspected, notes)
    data = contents(records, utterances, comparison, numbers, suspected, notes)
    write_text(path, html(data, details.packed))
    for note in notes:
        print(note)
    if listed:
        print(
            f"{listed}  (suspected label errors; mend transcripts, then train dataset.corrections={listed})"
        )
    print(f"{path}  ({path.stat().st_size / 1e6:.1f} MB, {len(details.packed)} utterances with sound)")
    return 0


def _write_suspects(
    config: DictConfig, folder: Path, suspected: Sequence[dict[str, Any]], notes: list[str]
) -> Path | None:
    """Write suspects.csv; None where there is no suspect, or, with a note, where the dataset cannot be
    read.
    """
    groups = {group["split"]: group["rows"] for group in suspected if group["rows"]}
    try:
        return write_suspects(config, folder, groups) if groups else None
    except UserError as error:
        notes.append(f"suspects.csv is not written. {error}")
        return None


def _chosen(config: DictConfig, utterances: UtteranceTable | None) -> list[int]:
    """The rows of the utterances that the page has with their sound."""
    if utterances is None:
        return []
    selected = [str(one) for one in config.report.utterances]
    return rows_of(utterances.ids, selected) if selected else utterances.worst(config.report.audio)


def _path(config: DictConfig, configs: Sequence[DictConfig]) -> Path:
    """The file of the page: out=FILE.html, out=FOLDER, or the folder of the (first) run."""
    name = f"report-against-{Path(configs[1].run).resolve().name}.html" if len(configs) > 1 else "report.html"
    out = Path(config.out or configs[0].run).expanduser()
    return out if config.out and out.suffix.lower() in (".html", ".htm") else out / name


# ------------------------------------------------------------------------------------------------------------
# figures


def _figures(config: DictConfig, configs: Sequence[DictConfig], runtime: Runtime) -> int:
    records, _ = _records(config, configs)
    utterances = _utterances(records, configs[0])
    folder = Path(config.out or Path(configs[0].run) / "pictures").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [draw_run(records, utterances, folder, config.report.width)]
    if utterances and config.report.utterances:
        rows, transcribers = _chosen(config, utterances), [load_transcriber(one, runtime) for one in configs]
        split = read_split(configs[0], str(records[0].split), transcribers[0])
        drawn.append(draw_rows(utterances, rows, split, transcribers, folder, config.report.width))
    for path in chain.from_iterable(drawn):
        print(path)
    return 0


def _figures_of_files(config: DictConfig, runtime: Runtime) -> int:
    if config.format != "png":
        raise UserError("report files=... draws pictures of recordings: give format=png, and out=FOLDER.")
    files, problems = named_files(
        str(one) for one in (config.files if isinstance(config.files, ListConfig) else [config.files])
    )
    for problem in problems:
        say("error: ", f"{problem}.")
    folder = Path(config.out or ".").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    failed = len(problems)
    for one in draw_files(load_transcriber(config, runtime), files, folder, config.report.width):
        if isinstance(one, UserError):
            say("error: ", str(one))
            failed += 1
        else:
            print(one)
    if failed:
        say("", f"{counted(failed, 'recording')} could not be drawn.")
    return int(failed > 0)
