"""What a table's command line asks for: its runs, as cells nothing is known of yet, and the keys that make
rows and columns.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asr_exp.commands.table.cells import impossible_cell, requested_cell
from asr_exp.commands.table.rows import TableCell
from asr_exp.config.compose import compose, expand_sweep, validate
from asr_exp.config.groups import choices, conf_folders, expanded
from asr_exp.config.hydra_internals import parse_override
from asr_exp.config.schema import key_field
from asr_exp.core.errors import UserError, nearest


@dataclass(frozen=True)
class TableRequest:
    """The values of every key of a table's runs (several of those that are swept), and the keys named for its
    layout.

    name: the experiments' own, or the keys that vary. layout: rows, columns and mean_over. A key there that
    is not swept, such as `model` beside `experiment=hf-timit`, is read from each run's config.
    """

    name: str
    values: Mapping[str, Sequence[str]]
    layout: Mapping[str, Sequence[str]]
    config_dir: str | None

    @staticmethod
    def read(words: Sequence[str], layout: Mapping[str, Any], config_dir: str | None) -> "TableRequest":
        """Raises UserError for settings that cannot be swept, and for a layout of keys there are not."""
        written, broken = expand_sweep(words, config_dir)
        values = dict(map(_values, (text for text in written if not re.match(r"[+~]*hydra[./]", text))))
        if broken:  # they have their place in the table, with the reason
            rows = expanded(
                [text for text in words if text.startswith("experiment=")], conf_folders(config_dir)
            )
            values |= dict(map(_values, rows))
        for text in words:
            if text.startswith("split=") and text != "split=test":
                raise UserError(f"{text}: a table is made of the scores of dataset.test; drop it.")
        named = {
            option: [str(one) for one in ([value] if isinstance(value, str) else value or [])]
            for option, value in layout.items()
        }
        for option, names in named.items():
            for name in names:
                if name not in values and (
                    key_field(name) is None or option == "mean_over" and name != "seed"
                ):
                    hint = nearest(name, values) or f" Give its values: {name}=a,b."
                    raise UserError(f"{option}={name}: {name} is not among this table's settings.{hint}")
        used = [name for names in named.values() for name in names]
        if twice := {name for name in used if used.count(name) > 1}:
            raise UserError(
                f"{' and '.join(sorted(twice))} cannot be in two of rows, columns and mean_over; drop it from"
                " one."
            )
        tables = [text.partition("=")[2] for text in words if text.startswith("experiment=")]
        varied = [name for name, several in values.items() if len(several) > 1 and name != "seed"]
        name = (tables[0] if tables else "-".join(varied) or "table").replace(",", "-").replace("/", "-")
        return TableRequest(name, values, named, config_dir)

    def cells(
        self, prepared: Callable[[DictConfig], DictConfig]
    ) -> Iterator[tuple[TableCell, DictConfig | None]]:
        """Every run, as a cell nothing is known of yet, and its config; None, and the reason in the cell,
        where it cannot be.

        prepared: the config that a run is made with, of the one that was asked for. Composing takes time:
        runs that differ in a number or a word alone are made of one another.
        """
        named = [name for names in self.layout.values() for name in names]
        told = {*named, "experiment", *(name for name, several in self.values.items() if len(several) > 1)}
        plain = [name for name in self.values if len(self.values[name]) > 1 and _is_plain(name)]
        composed: dict[tuple[str, ...], DictConfig | UserError] = {}
        for combination in itertools.product(*self.values.values()):
            asked = tuple(zip(self.values, combination, strict=True))
            base = tuple(f"{name}={value}" for name, value in asked if name not in plain)
            if base not in composed:
                composed[base] = _composed(base, self.config_dir)
            config = composed[base]
            keys = {name: value for name, value in asked if name in told}
            try:
                if isinstance(config, UserError):
                    raise config
                config = config.copy()
                for name, value in asked:
                    if name in plain:
                        OmegaConf.update(config, name, parse_override(f"{name}={value}").value())
                validate(config)
                config = prepared(config)
            except UserError as error:
                yield impossible_cell(keys, asked, str(error)), None
            else:
                yield (
                    requested_cell(
                        keys | {name: _told(config, name) for name in named if name not in self.values},
                        asked,
                        config,
                    ),
                    config,
                )

    def arranged(self, cells: Sequence[TableCell]) -> dict[str, list[str]]:
        """The layout with all that varies in it: what is neither named nor averaged over makes rows too.

        Experiments do not where each has a place of its own by keys that are read from it (rows=model
        columns=dataset).
        """
        rows, columns, mean_over = (list(self.layout[option]) for option in ("rows", "columns", "mean_over"))
        swept = [name for name, several in self.values.items() if len(several) > 1 or name == "experiment"]
        rows += [name for name in swept if name not in (*rows, *columns, *mean_over)]
        named = [name for name in (*rows, *columns) if name != "experiment"]
        if "experiment" not in self.layout["rows"] and any(name not in self.values for name in named):
            places = {
                (cell.keys["experiment"], *(cell.keys.get(name) for name in named))
                for cell in cells
                if "experiment" in cell.keys
            }
            if len({place[1:] for place in places}) == len(places):
                rows = [name for name in rows if name != "experiment"]
        return {"rows": rows, "columns": columns, "mean_over": mean_over}


def _composed(overrides: Sequence[str], config_dir: str | None) -> DictConfig | UserError:
    try:
        return compose(overrides, config_dir)
    except UserError as error:  # a broken row's, which the others do not suffer for
        return error


def _told(config: DictConfig, name: str) -> str:
    """The value of a key in a config; a section's name."""
    value = OmegaConf.select(config, name)
    return str(value.get("name") if isinstance(value, DictConfig) else value)


def _values(text: str) -> tuple[str, list[str]]:
    """'seed=0,1' -> ('seed', ['0', '1']), in Hydra's syntax. Raises UserError for a range that has no list of
    values.
    """
    override, (name, _, value) = parse_override(text), text.partition("=")
    if not override.is_sweep_override():
        return name, [value]
    if not override.is_discrete_sweep():
        raise UserError(f"{text} has no list of values; a table needs one, such as {name}=1,2.")
    return name, list(override.sweep_string_iterator())


def _is_plain(name: str) -> bool:
    """Whether a key holds a number or a word, and chooses no file."""
    field = key_field(name)
    return field is not None and field.type in (int, float, str, bool, int | None, float | None, str | None)


# ------------------------------------------------------------------------------------------------------------
# published elsewhere


def published_elsewhere(configs: Iterable[DictConfig], config_dir: str | None) -> list[str]:
    """For runs that are no experiment's: the experiments that have a published score for their model and
    dataset, in words.
    """
    wanted = {_pair(config) for config in configs}
    folders = conf_folders(config_dir)
    found = []
    for row in choices(folders)["experiment"]:
        places = [(home / "experiment" / row).parent for home in folders]
        files = [
            path
            for name in (row.rpartition("/")[2], "_*")
            for place in places
            for path in place.glob(f"{name}.yaml")
        ]
        text = "".join(path.read_text(encoding="utf-8") for path in files)
        if not any(model in text for _, _, model in wanted):
            continue  # composing them all takes seconds
        config = _composed([f"experiment={row}"], config_dir)
        if isinstance(config, DictConfig) and config.published.value is not None and _pair(config) in wanted:
            p = config.published
            found.append(f"experiment={row} ({100 * p.value:.2f} on {p.split})")
    return found


def _pair(config: DictConfig) -> tuple[str, str | None, str]:
    return config.dataset.name, config.dataset.language, config.model.name
