"""The configuration of a run: find conf/, compose, validate, load the plugins, and say which run it is."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from asr_exp.config.groups import choices, conf_folders, expanded
from asr_exp.config.messages import composition_problem
from asr_exp.config.overrides import override_problems, to_hydra_overrides
from asr_exp.config.schema import Config
from asr_exp.config.validation import problems
from asr_exp.core.errors import UserError

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra


# ------------------------------------------------------------------------------------------------------------
# where the YAML files are


# ------------------------------------------------------------------------------------------------------------
# compose and validate


def hydra_at(folders: Sequence[Path]) -> "Hydra":
    """Hydra, knowing our schema and looking for YAML files in these folders."""
    from hydra import version
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.config_store import ConfigStore

    version.setbase("1.3")
    ConfigStore.instance().store(name="schema", node=Config)
    search_path = create_config_search_path(str(folders[0]))
    for folder in folders[1:]:
        # the schema stays last
        search_path.prepend("user", f"file://{folder}", anchor=SearchPathQuery(provider="schema"))
    return Hydra("asr_exp", ConfigLoaderImpl(config_search_path=search_path))


def check_overrides(overrides: Sequence[str], folders: Sequence[Path], multirun: bool = False) -> list[str]:
    """The overrides as Hydra wants them.

    Raises UserError with everything that is wrong with them.
    """
    if found := override_problems(overrides, choices(folders), multirun):
        raise UserError("\n".join(found))
    return to_hydra_overrides(overrides)


def translate_error(error: Exception, folders: Sequence[Path]) -> UserError | None:
    """What Hydra objects to while composing, in a user's words; None for an exception that is not the user's
    doing.
    """
    from hydra.errors import HydraException

    if isinstance(error, HydraException | OmegaConfBaseException | YAMLError):
        return UserError(composition_problem(error, choices(folders), folders))
    return None


def compose(overrides: Sequence[str] = (), config_dir: str | None = None) -> DictConfig:
    """The config that a command line leads to. It is complete, not yet checked: see `validate`.

    Raises UserError for an override or a YAML file that cannot be composed.
    """
    folders = conf_folders(config_dir)
    config = _composed(check_overrides(overrides, folders), folders)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    OmegaConf.set_struct(config, True)
    return config


def _composed(asked: list[str], folders: Sequence[Path]) -> DictConfig:
    """A config with Hydra's own part, of overrides in Hydra's words. Raises UserError."""
    from hydra.types import RunMode

    try:
        return hydra_at(folders).compose_config(
            "config", asked, run_mode=RunMode.RUN, with_log_configuration=False
        )
    except Exception as error:
        if (told := translate_error(error, folders)) is None:
            raise
        raise told from error


def expand_sweep(overrides: Sequence[str], config_dir: str | None = None) -> tuple[list[str], dict[str, str]]:
    """The overrides of a sweep with all that it varies in them, and of each experiment that does not compose,
    what is wrong with it.

    A table of experiments becomes its rows that compose; what `hydra.sweeper.params` of YAML files varies
    becomes overrides, unless the command line sets it. Raises UserError for a wrong override, and for
    experiments that vary different things.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    folders = conf_folders(config_dir)
    words = expanded(overrides, folders)
    asked = check_overrides(words, folders, multirun=True)
    parsed = {text: OverridesParser.create().parse_override(text) for text in asked}
    common = [text for text, one in parsed.items() if not one.is_sweep_override()]
    several = (one for one in parsed.values() if one.key_or_group == "experiment" and one.is_discrete_sweep())
    rows = [row for one in several for row in one.sweep_string_iterator()]
    varied: dict[str, dict[str, Any]] = {}
    broken: dict[str, str] = {}
    for row in rows or [""]:
        try:
            config = _composed([*common, "hydra.mode=RUN", *([f"experiment={row}"] if row else [])], folders)
            varied[row] = dict(config.hydra.sweeper.get("params") or {})
        except UserError as why:
            broken[row] = str(why)
    if not varied:
        raise UserError("\n".join(dict.fromkeys(broken.values())))
    (first, params), *others = varied.items()
    if unlike := [row for row, its in others if its != params]:
        raise UserError(
            f"experiment={first} and experiment={unlike[0]} vary different things in hydra.sweeper.params "
            f"({params or 'nothing'}, {varied[unlike[0]] or 'nothing'}); run them one at a time."
        )
    words = [
        f"experiment={','.join(varied)}" if rows and text.startswith("experiment=") else text
        for text in words
    ]
    given = {text.partition("=")[0].lstrip("+~") for text in words}
    return [
        *(f"{name}={value}" for name, value in params.items() if name.lstrip("+~") not in given),
        *words,
    ], broken


def validate(config: DictConfig) -> None:
    """Check every value of a config, and the values against each other.

    Raises UserError with all that is wrong, a line each.
    """
    try:
        OmegaConf.resolve(copy.deepcopy(config))
    except OmegaConfBaseException as error:
        raise UserError(composition_problem(error, {}, [])) from error
    if found := problems(config):
        raise UserError("\n".join(found))


# ------------------------------------------------------------------------------------------------------------
# plugins


# ------------------------------------------------------------------------------------------------------------
# which run it is
