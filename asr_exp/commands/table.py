"""Make a table of runs: published beside ours, with intervals, verdicts, protocols and the commands to reproduce them.

  python -m asr_exp table experiment=hf-timit dataset.root=/data/TIMIT seed=0,1,2
  python -m asr_exp table rows=model columns=dataset model=a,b dataset=x,y seed=0,1

The settings are those the runs were started with, so each cell is found by its signature among the run folders; experiment=NAME is
a folder of experiments, one a row. Cells that are missing, running, failed, stopped or stale are shown as what they are, with
the reason; scores of different protocols are kept apart. Leaves table.md, table.csv, table.html and cells.csv (a line a run)
in OUTPUT_ROOT/tables/NAME, and prints the Markdown.

  rows=, columns=    swept keys that make rows and columns (columns: a grid)
  mean_over=         swept keys whose runs are averaged (seed)
  name=, out=        name of the table; folder of its files
  keep=FILE          write the runs' scores to a CSV file, to make the table from again
  cells=FILE         read them there, instead of from run folders
  into=PAGE          rewrite the block <!-- asr_exp table NAME --> ... <!-- end --> of a page
  check=true         write nothing; exit status 1 where that block is not what would be written
"""

import difflib
import itertools
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asr_exp.config import check_overrides, compose, conf_folders, expanded, validate
from asr_exp.errors import UserError, nearest
from asr_exp.hints import key_field
from asr_exp.results import write_text
from asr_exp.schema import Table as Section
from asr_exp.tables.cells import KeptCells, asked_cell, cells_csv, found, impossible_cell
from asr_exp.tables.page import html
from asr_exp.tables.rows import Cell, Table, arrange
from asr_exp.tables.text import block_of, markdown, table_csv

OWN = [one.name for one in fields(Section)]
# What a command in a page leaves out: it says where things are on one machine, or what cannot change the result.
PLACES = ("dataset.root", "output_root", "cache_root", "tracking", "trainer.devices", "trainer.device", "trainer.workers")


def run(overrides: Sequence[str], config_dir: str | None = None) -> int:
    """Make the table that a command line asks for -> exit status: 1 where `check` finds another block than it should.

    Raises UserError for settings that cannot be, files that cannot be read, and pages without a block.
    """
    sweep = Sweep.read(overrides, config_dir)
    options, layout = sweep.options, sweep.layout()
    kept = KeptCells.read(Path(options.cells).expanduser()) if options.cells else None
    cells = []
    for cell, config in sweep.cells(config_dir):
        cells.append(cell if config is None else kept.found(cell) if kept else found(cell, config))
    if all(cell.status == "failed" and not cell.signature for cell in cells):
        raise UserError(cells[0].reason)
    table = arrange(sweep.name, cells, **layout)
    if options.into:
        portable = arrange(sweep.name, [_portable(cell) for cell in cells], **layout)
        status = _into(Path(options.into).expanduser(), portable, options.check, sweep.remade())
        if options.check:
            return status
    _write(table, cells, Path(options.out).expanduser() if options.out else sweep.output_root / "tables" / table.name)
    if options.keep:
        Path(options.keep).expanduser().parent.mkdir(parents=True, exist_ok=True)
        write_text(Path(options.keep).expanduser(), cells_csv(cells))
    return 0


def _write(table: Table, cells: Sequence[Cell], folder: Path) -> None:
    text = markdown(table)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"table.md": text, "table.csv": table_csv(table), "table.html": html(table), "cells.csv": cells_csv(cells)}
    for name, content in contents.items():
        write_text(folder / name, content)
    print(f"{text}\nWritten: {folder}/table.html, table.md, table.csv, cells.csv")


# ---------------------------------------------------------------------------------------------------------------------
# what was asked


@dataclass(frozen=True)
class Sweep:
    """A table's command line: its options, and the values of every key of its runs (several of those that are swept)."""

    options: Any
    values: dict[str, list[str]]
    name: str
    output_root: Path
    words: tuple[str, ...]

    @staticmethod
    def read(overrides: Sequence[str], config_dir: str | None) -> "Sweep":
        """Raises UserError for options that are wrong and keys that cannot be swept."""
        own = [f"table.{text}" for text in overrides if text.partition("=")[0] in OWN]
        own += [text for text in overrides if text.startswith("table.")]
        others = [text for text in overrides if text.partition("=")[0] not in OWN and not text.startswith(("table.", "hydra."))]
        places = [text for text in others if text.startswith("output_root=")]
        config = compose([*own, *places], config_dir)
        validate(config)
        options, folders = config.table, conf_folders(config_dir)
        if options.check and not options.into:
            raise UserError("check=true compares the block of a page; give the page, into=README.md.")
        if options.check and options.keep or options.cells and options.keep:
            raise UserError(f"keep={options.keep} writes what the run folders say; drop it, or cells= and check=.")
        rows = expanded(others, folders)
        check_overrides(rows, folders, multirun=True)
        values = {name: several for name, several in map(_values, rows)}
        for text in others:
            if text.startswith("split=") and text != "split=test":
                raise UserError(f"{text}: a table is made of the scores of dataset.test; drop it.")
        return Sweep(options, values, options.name or _name(others, values), Path(config.output_root).expanduser(), tuple(overrides))

    @property
    def swept(self) -> list[str]:
        return [name for name, several in self.values.items() if len(several) > 1 or name == "experiment"]

    def layout(self) -> dict[str, list[str]]:
        """Which keys make rows and columns, and which are averaged over. Raises UserError for one that has not several values."""
        asked = {name: _listed(self.options[name]) for name in ("rows", "columns", "mean_over")}
        for option, names in asked.items():
            for name in names:
                if name not in self.values and not (option == "mean_over" and name == "seed"):
                    hint = nearest(name, self.values) or f" Give its values: {name}=a,b."
                    raise UserError(f"{option}={name}: {name} is not among this table's settings.{hint}")
        used = [name for names in asked.values() for name in names]
        if twice := {name for name in used if used.count(name) > 1}:
            raise UserError(f"{' and '.join(sorted(twice))} cannot be in two of rows, columns and mean_over; drop it from one.")
        rest = [name for name in self.swept if name not in used]
        return {"rows": [*asked["rows"], *rest], "columns": asked["columns"], "mean_over": asked["mean_over"]}

    def cells(self, config_dir: str | None) -> Iterator[tuple[Cell, DictConfig | None]]:
        """Every run that is asked for, as a cell nothing is known of yet, and its config; None, and the reason, where it cannot be.

        Composing takes time: runs that differ in a number or a word alone are made of one another.
        """
        told = {name for names in self.layout().values() for name in names} & self.values.keys() | set(self.swept)
        plain = [name for name in self.values if len(self.values[name]) > 1 and _is_plain(name)]
        composed: dict[tuple[str, ...], DictConfig | UserError] = {}
        for combination in itertools.product(*self.values.values()):
            asked = tuple(zip(self.values, combination, strict=True))
            base = tuple(f"{name}={value}" for name, value in asked if name not in plain)
            if base not in composed:
                composed[base] = _composed(base, config_dir)
            keys, config = {name: value for name, value in asked if name in told}, composed[base]
            try:
                if isinstance(config, UserError):
                    raise config
                config = config.copy()
                for name, value in asked:
                    if name in plain:
                        OmegaConf.update(config, name, _parsed(f"{name}={value}").value())
                validate(config)
            except UserError as error:
                yield impossible_cell(keys, asked, str(error)), None
            else:
                yield asked_cell(keys, asked, config), config

    def remade(self) -> str:
        """The command that makes the block of a page again, from cells that are kept where there are any."""
        words = [text for text in self.words if not text.startswith((*PLACES, "check=", "keep=", "out="))]
        words += [f"cells={self.options.keep}"] if self.options.keep else []
        return " ".join(["python -m asr_exp table", *(shlex.quote(word) for word in sorted(words, key=_own_last))])


def _composed(overrides: Sequence[str], config_dir: str | None) -> DictConfig | UserError:
    try:
        return compose(overrides, config_dir)
    except UserError as error:  # a broken row's, which the others do not suffer for
        return error


def _own_last(text: str) -> int:
    """Where a word of the command line goes: settings first, as given; the table's own options in one order, whatever was typed."""
    name = text.partition("=")[0].removeprefix("table.")
    return OWN.index(name) + 1 if name in OWN else 0


def _listed(value: Any) -> list[str]:
    return [str(one) for one in ([value] if isinstance(value, str) else value or [])]


def _name(given: Sequence[str], values: dict[str, list[str]]) -> str:
    """The experiments' own name, or the keys that vary."""
    tables = [text.partition("=")[2] for text in given if text.startswith("experiment=")]
    varied = [name for name, several in values.items() if len(several) > 1 and name != "seed"]
    return (tables[0] if tables else "-".join(varied) or "table").replace(",", "-").replace("/", "-")


def _parsed(text: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(text)


def _values(text: str) -> tuple[str, list[str]]:
    """'seed=0,1' -> ('seed', ['0', '1']), in Hydra's syntax. Raises UserError for a range that has no list of values."""
    override, (name, _, value) = _parsed(text), text.partition("=")
    if not override.is_sweep_override():
        return name, [value]
    if not override.is_discrete_sweep():
        raise UserError(f"{text} has no list of values; a table needs one, such as {name}=1,2.")
    return name, list(override.sweep_string_iterator())


def _is_plain(name: str) -> bool:
    """Whether a key holds a number or a word, and chooses no file."""
    field = key_field(name)
    return field is not None and field.type in (int, float, str, bool, int | None, float | None, str | None)


# ---------------------------------------------------------------------------------------------------------------------
# the block of a page


def _portable(cell: Cell) -> Cell:
    """The cell with a command that holds anywhere."""
    asked = [(key, value) for key, value in cell.asked if not key.startswith(PLACES)]
    return replace(cell, asked=tuple([*asked, ("dataset.root", "FOLDER")] if cell.local else asked))


def _into(page: Path, table: Table, check: bool, command: str) -> int:
    """Rewrite the block of a table in a page, or say how it differs -> exit status."""
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as why:
        raise UserError(f"into={page} cannot be read ({why.strerror}).") from why
    start, end = block_of(text, table.name, str(page))
    wanted = f"\n{markdown(table)}\nMade by `{command}`.\n\n"
    if text[start:end] == wanted:
        print(f"{page}: the block {table.name} is up to date.")
        return 0
    if check:
        lines = difflib.unified_diff(text[start:end].splitlines(), wanted.splitlines(), f"{page} as it is", "as it should be", lineterm="")
        print("\n".join(lines))
        remedy = f"The block {table.name} of {page} is not what its data say; the same command without check=true writes it."
        print(f"error: {remedy}", file=sys.stderr)
        return 1
    write_text(page, text[:start] + wanted + text[end:])
    print(f"{page}: the block {table.name} is written.\n")
    return 0
