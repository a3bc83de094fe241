"""The request of a table's command line: its runs, as cells without a score yet, and the keys that make rows
and columns.
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
from asr_exp.config.groups import choices, conf_folders
from asr_exp.config.hydra_internals import parse_override
from asr_exp.config.schema import key_field
from asr_exp.config.sweep_syntax import expanded
from asr_exp.core.errors import UserError, nearest


@dataclass(frozen=True)
class TableRequest:
    """The overrides of a table's runs, and the keys of its layout.

    name: the table of experiments, or else the keys that vary. values: by key, its values as they are written
    in an override, several for a key that is swept. layout: the keys of `rows`, `columns` and `mean_over`;
    one that is not swept, such as `model` beside `experiment=hf-timit`, is read from each run's config.
    """

    name: str
    values: Mapping[str, Sequence[str]]
    layout: Mapping[str, Sequence[str]]
    config_dir: str | None

    @staticmethod
    def read(words: Sequence[str], layout: Mapping[str, Any], config_dir: str | None) -> "TableRequest":
        """The request of the words of a command line, less the table's own options, which are in `layout`.

        Raises UserError for overrides that cannot be swept, and for a layout of keys that do not exist.
        """
        overrides, broken = expand_sweep(words, config_dir)
        values = dict(map(_values, (text for text in overrides if not re.match(r"[+~]*hydra[./]", text))))
        if broken:  # they are shown in the table, with the reason
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
        self, run_config: Callable[[DictConfig], DictConfig]
    ) -> Iterator[tuple[TableCell, DictConfig | None]]:
        """Each run as a cell without a score yet, and its config; None, and the reason in the cell, where the
        run has no valid config.

        run_config: makes of a composed config the one that the run's folder is named by. Composing takes
        time, so runs that differ in a number or a word alone share a config, in which that key is set.
        """
        named = [name for names in self.layout.values() for name in names]
        shown = {*named, "experiment", *(name for name, several in self.values.items() if len(several) > 1)}
        plain = [name for name in self.values if len(self.values[name]) > 1 and _is_plain(name)]
        composed: dict[tuple[str, ...], DictConfig | UserError] = {}
        for combination in itertools.product(*self.values.values()):
            settings = tuple(zip(self.values, combination, strict=True))
            base = tuple(f"{name}={value}" for name, value in settings if name not in plain)
            if base not in composed:
                composed[base] = _composed(base, self.config_dir)
            config = composed[base]
            keys = {name: value for name, value in settings if name in shown}
            try:
                if isinstance(config, UserError):
                    raise config
                config = config.copy()
                for name, value in settings:
                    if name in plain:
                        OmegaConf.update(config, name, parse_override(f"{name}={value}").value())
                validate(config)
                config = run_config(config)
            except UserError as error:
                yield impossible_cell(keys, settings, str(error)), None
            else:
                yield (
                    requested_cell(
                        keys | {name: _value_of(config, name) for name in named if name not in self.values},
                        settings,
                        config,
                    ),
                    config,
                )

    def arranged(self, cells: Sequence[TableCell]) -> dict[str, list[str]]:
        """The layout, with the swept keys that it does not name added to the rows.

        `experiment` is not added where the named keys, read from the configs, tell the experiments apart
        already (rows=model columns=dataset).
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
    except UserError as error:  # of one row, while the others can be composed
        return error


def _value_of(config: DictConfig, name: str) -> str:
    """The value of a key in a config; for a section, its name."""
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
    """Whether a key holds a number or a word; a group, which chooses a YAML file, does not."""
    field = key_field(name)
    return field is not None and field.type in (int, float, str, bool, int | None, float | None, str | None)


# ------------------------------------------------------------------------------------------------------------
# published elsewhere


def published_elsewhere(configs: Iterable[DictConfig], config_dir: str | None) -> list[str]:
    """For runs of no experiment, the experiments with a published score for the same model and dataset.

    A line each: 'experiment=hf-timit/wav2vec2-base (... on test)'.
    """
    pairs = {_pair(config) for config in configs}
    folders = conf_folders(config_dir)
    lines = []
    for row in choices(folders)["experiment"]:
        places = [(home / "experiment" / row).parent for home in folders]
        files = [
            path
            for name in (row.rpartition("/")[2], "_*")
            for place in places
            for path in place.glob(f"{name}.yaml")
        ]
        text = "".join(path.read_text(encoding="utf-8") for path in files)
        if not any(model in text for _, _, model in pairs):
            continue  # it takes seconds to compose them all
        config = _composed([f"experiment={row}"], config_dir)
        if isinstance(config, DictConfig) and config.published.value is not None and _pair(config) in pairs:
            p = config.published
            lines.append(f"experiment={row} ({100 * p.value:.2f} on {p.split})")
    return lines


def _pair(config: DictConfig) -> tuple[str, str | None, str]:
    """The dataset, its language, and the model."""
    return config.dataset.name, config.dataset.language, config.model.name
