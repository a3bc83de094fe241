"""The pages of `--help`: the whole program, a section's keys, or a command. Imports no Hydra, so that they
come at once.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, is_dataclass
from pathlib import Path
from typing import Any

import yaml

import asr_exp
from asr_exp.cli.choice_help import choice_page, experiments_page
from asr_exp.cli.layout import table, wrap
from asr_exp.config.groups import OPTIONAL_GROUPS, choices, conf_folder, conf_folders, tables
from asr_exp.config.schema import key_field, keys
from asr_exp.core.errors import UserError, nearest

USAGE = """\
usage: python -m asr_exp [COMMAND] [GROUP=CHOICE ...] [KEY=VALUE ...] [FLAG ...]
       (or asr-exp; without a COMMAND it is train)

  python -m asr_exp                       the demo: no data, account or network
  python -m asr_exp dataset=timit dataset.root=/data/TIMIT model=wav2vec2-base
  python -m asr_exp dataset=csv dataset.train=train.csv dataset.dev=dev.csv \\
      dataset.test=test.csv model=hf model.checkpoint=facebook/wav2vec2-base
  python -m asr_exp -m model=wav2vec2-base,hubert-base seed=0,1,2
  python -m asr_exp -m experiment=hf-timit dataset.root=/data/TIMIT
  torchrun --nproc-per-node 8 -m asr_exp dataset=mls dataset.language=german
"""
FLAGS = {
    "-h, --help [NAME]": "this page; with the NAME of a section its keys, of a command what it does",
    "-m, --multirun": "run every combination of comma-separated values, or search ranges (--help sweep)",
    "-c, --cfg job": "print the composed config instead of running (add --resolve)",
    "-cd, --config-dir DIR": "look for YAML files in DIR too (./conf is looked in anyway)",
    "-i, --info [WHAT]": "what the config is made of: defaults-tree, searchpath, ...",
    "--json": "check, compare, evaluate, table: one JSON document on standard output (docs/json.md)",
    "--hydra-help": "Hydra's own flags, tab completion among them",
    "--version": "the version",
}
MAIN_KEYS = (
    "seed",
    "dataset.root",
    "dataset.source",
    "dataset.language",
    "dataset.train",
    "dataset.dev",
    "dataset.test",
    "model.checkpoint",
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.batch_seconds",
    "trainer.device_seconds",
    "trainer.eval_every",
    "trainer.devices",
    "trainer.precision",
    "optimizer.lr",
    "schedule.warmup_steps",
    "output_root",
    "plugins",
    "sweeper",
    "sweep.trials",
)


def page(topic: str | None, commands: Mapping[str, Path], plugins: Sequence[str] = ()) -> str:
    """The page on `topic`: a command, a group, a choice of one, a section or a key. None: the page on the
    whole program.

    commands: by name, the file of each; plugins: modules whose text rules are listed too. Raises UserError
    for a topic that has no page.
    """
    if topic is None:
        return whole_page(commands)
    if topic in commands:
        return command_page(topic, commands[topic])
    one = key_field(topic)
    if one is not None and not is_dataclass(one.type):
        line = table({topic: _key_line(topic, one, _defaults())})
        return f"{line}\n{_rules(plugins)}" if topic == "text.rules" else line
    if one is not None or topic in OPTIONAL_GROUPS:
        return section_page(topic)
    group, equals, name = topic.rpartition("=")
    groups = choices(conf_folders())
    if pages := [
        choice_page(one, name) for one, names in groups.items() if name in names and group in ("", one)
    ]:
        return "\n".join(pages)
    if group in ("", "experiment") and (rows := tables(groups["experiment"]).get(name)):
        return experiments_page(name, rows)
    if equals:
        return whole_page(commands)
    topics = [
        *commands,
        *(name for name, _ in keys()),
        *OPTIONAL_GROUPS,
        *(name for names in groups.values() for name in names),
        *tables(groups["experiment"]),
    ]
    raise UserError(
        f"There is no help on {topic!r}.{nearest(topic, topics)} There is on commands, groups, sections and"
        " keys: see --help."
    )


def _rules(plugins: Sequence[str]) -> str:
    from omegaconf import OmegaConf

    from asr_exp.cli.rules_help import rules_page
    from asr_exp.config.plugins import import_plugins

    import_plugins(OmegaConf.create({"plugins": list(plugins)}))
    return rules_page()


def whole_page(commands: Mapping[str, Path]) -> str:
    """What the program is, how to call it, the commands, the choices of every group, the main keys, the
    flags.
    """
    defaults = _defaults()
    groups = {
        group: _choices_line(group, names, defaults) for group, names in choices(conf_folders()).items()
    }
    main_keys = {name: _key_line(name, one, defaults) for name in MAIN_KEYS if (one := key_field(name))}
    parts = {
        "": wrap(f"{(asr_exp.__doc__ or '').strip()} Version {asr_exp.__version__}.") + "\n\n" + USAGE,
        "Commands": table(
            {name: " ".join(docstring(path).partition("\n\n")[0].split()) for name, path in commands.items()}
        ),
        "Groups, chosen as GROUP=CHOICE": table(groups),
        "Main keys, set as KEY=VALUE (all keys of a section: --help trainer)": table(main_keys),
        "Flags": table(FLAGS),
        "Yours": (
            wrap(
                "  ./conf/dataset/NAME.yaml, ./conf/model/NAME.yaml, ... where you stand is chosen by its"
                " NAME.",
                "  ",
            )
            + "\n"
        ),
    }
    return "\n".join(f"{title}:\n{text}" if title else text for title, text in parts.items())


def section_page(section: str) -> str:
    """The choices of a group, and every key of its section with its default and its meaning."""
    defaults, groups = _defaults(), choices(conf_folders())
    listed = table({section: _choices_line(section, groups[section], defaults)}) if section in groups else ""
    rows = {
        name: _key_line(name, one, defaults)
        for name, one in keys()
        if name.startswith(f"{section}.") and not is_dataclass(one.type)
    }  # fmt: skip
    return "\n".join(part for part in (listed, table(rows) if rows else "") if part)


def command_page(command: str, path: Path) -> str:
    """What a command does, and its own keys: those whose help begins with its name, and its section's."""
    rows = {}
    for name, one in keys():
        readers, _, _ = one.metadata["help"].partition(": ") if one.metadata else ("", "", "")
        if command in readers.split(", "):
            rows[name] = _key_line(name, one, {}).removeprefix(f"{readers}: ")
        elif name.startswith(f"{command}."):
            rows[name] = _key_line(name, one, {})
    own = f"Keys:\n{table(rows)}\n" if rows else ""
    text = "\n\n".join(
        part if part.startswith(" ") else wrap(" ".join(part.split()))
        for part in docstring(path).split("\n\n")
    )
    return f"{text}\n\n{own}All settings, and the other commands: python -m asr_exp --help\n"


def docstring(path: Path) -> str:
    """The docstring of a module, read without importing it."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _choices_line(group: str, names: Sequence[str], defaults: Mapping[str, Any]) -> str:
    if group == "experiment" and (rows := tables(names)):
        single = [name for name in names if "/" not in name]
        return ", ".join(
            [
                *(f"{table} ({len(inside)} row{'s' * (len(inside) > 1)})" for table, inside in rows.items()),
                *single,
            ]
        )
    return (", ".join(names) or "none so far") + (
        f" (default: {defaults[group]})" if group in defaults and len(names) > 1 else ""
    )


def _key_line(name: str, one: Field, defaults: Mapping[str, Any]) -> str:
    default = defaults.get(
        name, one.default_factory() if one.default_factory is not NO_DEFAULT else one.default
    )
    if default == "???":
        return one.metadata["help"]
    shown = {"None": "null", "True": "true", "False": "false", "[]": "", "{}": ""}.get(str(default), default)
    return f"{one.metadata['help']} [{shown}]"


def _defaults() -> dict[str, Any]:
    """The default of each group in conf/config.yaml, and of each key that these choices set."""
    folder = conf_folder()
    defaults: dict[str, Any] = {}
    for entry in yaml.safe_load((folder / "config.yaml").read_text())["defaults"]:
        for group, choice in entry.items() if isinstance(entry, dict) else ():
            if isinstance(choice, str) and (file := folder / group / f"{choice}.yaml").exists():
                defaults[group] = choice
                # what the demo sets is no default of another dataset
                if group not in ("dataset", "model", "protocol"):
                    defaults |= {
                        f"{group}.{name}": value for name, value in yaml.safe_load(file.read_text()).items()
                    }
    return defaults
