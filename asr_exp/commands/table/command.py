"""Make a table of runs: published beside ours, with intervals, verdicts, protocols and the commands to
reproduce them.

  python -m asr_exp table experiment=hf-timit dataset.root=/data/TIMIT seed=0,1
  python -m asr_exp table rows=model columns=dataset model=a,b dataset=x,y
  python -m asr_exp table rows=model columns=dataset \\
      experiment=hf-timit,hf-librispeech

The settings are those the runs were started with, so each cell is found by its signature among the run
folders; experiment=NAME is a folder of experiments, one a row. Cells that are missing, running, failed,
stopped or stale are shown as what they are, with the reason; scores of different protocols are kept apart.
Leaves table.md, table.tex, table.csv, table.html and cells.csv (a line a run) in OUTPUT_ROOT/tables/NAME,
and prints the Markdown (format=latex: LaTeX, for the package booktabs). The keys may be given without their
section: rows=model.

In a column of datasets or languages, a run that was not trained on one fills its cell where it was scored on
it (evaluate RUN dataset=...); trained_on=NAME takes the runs of one dataset for all the others.
"""

import difflib
import functools
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asr_exp.commands.table.arrange import arrange
from asr_exp.commands.table.data_changes import forget
from asr_exp.commands.table.document import document
from asr_exp.commands.table.kept_cells import KeptCells, cells_csv
from asr_exp.commands.table.latex import latex
from asr_exp.commands.table.markdown import block_of, markdown
from asr_exp.commands.table.page import html
from asr_exp.commands.table.request import TableRequest, published_elsewhere
from asr_exp.commands.table.rows import ResultTable, TableCell
from asr_exp.commands.table.run_folders import read_cell
from asr_exp.commands.table.scored_elsewhere import fill
from asr_exp.commands.table.table_csv import table_csv
from asr_exp.config.compose import compose, validate
from asr_exp.config.plugins import import_plugins
from asr_exp.config.schema import TableOptions as Section
from asr_exp.core.errors import UserError, nearest
from asr_exp.core.files import write_text
from asr_exp.core.json_document import give_json

OPTIONS = [one.name for one in fields(Section)]
FORMATS = {None: markdown, "markdown": markdown, "latex": latex}
# A command that is printed in a page leaves these keys out: they say where things are on one machine, or
# cannot change the result.
LOCAL_KEYS = (
    "dataset.root",
    "output_root",
    "cache_root",
    "tracking",
    "trainer.devices",
    "trainer.device",
    "trainer.workers",
)


def run(overrides: Sequence[str], config_dir: str | None = None) -> int:
    """Make the table that a command line asks for. The exit status is 1 where `check` finds another block in
    the page than it should, else 0.

    Raises UserError for settings that make no run, files that cannot be read, and pages without a block.
    """
    own = [text for text in overrides if _is_option(text)]
    others = [text for text in overrides if not _is_option(text) and not text.startswith("format=")]
    shown = _format([text for text in overrides if text.startswith("format=")], own)
    places = [text for text in others if text.startswith("output_root=")]
    options, output_root = _options(own, places, config_dir)
    keys = {name: options[name] for name in ("rows", "columns", "mean_over")}
    request = TableRequest.read(others, keys, config_dir)
    kept = KeptCells.read(Path(options.cells).expanduser()) if options.cells else None
    read = []
    forget()
    for cell, config in request.cells(_run_config):
        if config is not None:
            cell = kept.read_cell(cell) if kept else read_cell(cell, config)
        read.append((cell, config))
    cells = (
        [cell for cell, _ in read] if kept else fill(read, request.layout["mean_over"], options.trained_on)
    )
    if not (configs := [config for _, config in read if config is not None]):
        raise UserError(cells[0].reason)
    name, layout = options.name or request.name, request.arranged(cells)
    elsewhere = () if "experiment" in request.values else tuple(published_elsewhere(configs, config_dir))
    table = replace(arrange(name, cells, **layout), elsewhere=elsewhere)
    answer = document(table)
    if options.into:
        portable = replace(arrange(name, [_portable(cell) for cell in cells], **layout), elsewhere=elsewhere)
        page = Path(options.into).expanduser()
        status = _write_block(page, portable, options.check, _own_command(overrides, options.keep))
        answer |= {"page": page, "up_to_date": not status}
        if options.check:
            give_json("table", answer)
            return status
    folder = Path(options.out).expanduser() if options.out else output_root / "tables" / table.name
    _write_pages(table, cells, folder, shown)
    give_json("table", {**answer, "folder": folder})
    if options.keep:
        Path(options.keep).expanduser().parent.mkdir(parents=True, exist_ok=True)
        write_text(Path(options.keep).expanduser(), cells_csv(cells))
    return 0


def _is_option(text: str) -> bool:
    """Whether an override is one of the table's own options."""
    return text.partition("=")[0].removeprefix("table.") in OPTIONS


def _options(own: Sequence[str], places: Sequence[str], config_dir: str | None) -> tuple[Any, Path]:
    """The table's options, and the output root. Raises UserError for options that are wrong or contradict
    each other.
    """
    config = compose([*(f"table.{text.removeprefix('table.')}" for text in own), *places], config_dir)
    validate(config)
    options = config.table
    if options.check and not options.into:
        raise UserError("check=true compares the block of a page; give the page, into=README.md.")
    if options.check and options.keep or options.cells and options.keep:
        raise UserError(
            f"keep={options.keep} writes what the run folders say; drop it, or cells= and check=."
        )
    return options, Path(config.output_root).expanduser()


def _format(words: Sequence[str], own: Sequence[str]) -> str | None:
    """The format that is printed. Raises UserError for one that is not known, or that a page cannot take."""
    name = words[-1].partition("=")[2] if words else None
    name = None if name in ("null", "") else name
    if name not in FORMATS:
        known = [one for one in FORMATS if one]
        raise UserError(
            f"format={name}: a table is shown as {' or '.join(known)}.{nearest(str(name), known)}"
        )
    into = [text for text in own if text.removeprefix("table.").startswith("into=")]
    if name == "latex" and into:
        raise UserError(f"format=latex is printed, and {into[0]} takes Markdown; drop one of them.")
    return name


@functools.cache
def _import_plugins(names: tuple[str, ...]) -> None:
    import_plugins(OmegaConf.create({"plugins": list(names)}))


def _run_config(config: DictConfig) -> DictConfig:
    """The config that a run's folder is named by: that of a rehearsal where `rehearsal` is true. Its plugins
    are imported, as their source is part of the name.
    """
    _import_plugins(tuple(config.plugins))
    if not config.rehearsal:
        return config
    from asr_exp.rehearsal.rehearse import rehearsal_config

    return rehearsal_config(config, write=False)


def _write_pages(table: ResultTable, cells: Sequence[TableCell], folder: Path, shown: str | None) -> None:
    """Write the table in all its formats into a folder, and print the one to be shown."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "table.md": markdown(table),
        "table.tex": latex(table),
        "table.csv": table_csv(table),
        "table.html": html(table),
        "cells.csv": cells_csv(cells),
    }
    for name, content in contents.items():
        write_text(folder / name, content)
    print(FORMATS[shown](table), end="")
    if shown != "latex":  # which can be sent to a file as it is
        print(f"\nWritten: {folder}/table.html, .md, .tex, .csv, cells.csv")


# ------------------------------------------------------------------------------------------------------------
# the block of a page


def _portable(cell: TableCell) -> TableCell:
    """The cell with a command line that holds on any machine."""
    overrides = [(key, value) for key, value in cell.overrides if not key.startswith(LOCAL_KEYS)]
    overrides += [("dataset.root", "FOLDER")] if cell.local else []
    return replace(cell, overrides=tuple(overrides))


def _own_command(overrides: Sequence[str], keep: str | None) -> str:
    """The command that makes the block of a page again, from the cells that are kept where there are any.

    The settings come first, as typed; the table's own options follow in one order, however they were typed.
    """
    words = [text for text in overrides if not text.startswith((*LOCAL_KEYS, "check=", "keep=", "out="))]
    words += [f"cells={keep}"] if keep else []
    words.sort(
        key=lambda text: (
            OPTIONS.index(text.partition("=")[0].removeprefix("table.")) if _is_option(text) else -1
        )
    )
    return " ".join(["python -m asr_exp table", *map(shlex.quote, words)])


def _write_block(page: Path, table: ResultTable, check: bool, command: str) -> int:
    """Write the block of a table in a page, or (`check`) print how it differs; return the exit status.

    Raises UserError for a page that cannot be read or has no such block.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"into={page} cannot be read ({error.strerror}).") from error
    start, end = block_of(text, table.name, str(page))
    block = f"\n{markdown(table)}\nMade by `{command}`.\n\n"
    if text[start:end] == block:
        print(f"{page}: the block {table.name} is up to date.")
        return 0
    if check:
        before, after = text[start:end].splitlines(), block.splitlines()
        lines = difflib.unified_diff(before, after, f"{page} as it is", "as it should be", lineterm="")
        print("\n".join(lines))
        remedy = (
            f"The block {table.name} of {page} is not what its data say; the same command without check=true"
            " writes it."
        )
        print(f"error: {remedy}", file=sys.stderr)
        return 1
    write_text(page, text[:start] + block + text[end:])
    print(f"{page}: the block {table.name} is written.\n")
    return 0
