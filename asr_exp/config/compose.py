"""Compose a config of YAML files and overrides, and check it.

Composing goes by Hydra's documented functions, which keep one global instance; `compose_with_hydra` hands it
over for as long as it takes, so that a config may be composed from several threads and inside a Hydra run.
"""

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from asr_exp.config.groups import choices, conf_folders, expanded
from asr_exp.config.hydra_internals import JOB_NAME, VERSION_BASE, parse_override, store_schema
from asr_exp.config.messages import composition_problem
from asr_exp.config.override_problems import override_problems
from asr_exp.config.overrides import quoted, to_hydra_overrides
from asr_exp.config.validation import problems
from asr_exp.core.errors import UserError

_composing = threading.Lock()

# ------------------------------------------------------------------------------------------------------------
# compose


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
    config = compose_with_hydra(check_overrides(overrides, folders), folders)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    OmegaConf.set_struct(config, True)
    return config


def compose_with_hydra(overrides: Sequence[str], folders: Sequence[Path]) -> DictConfig:
    """The config with Hydra's own section `hydra`, for overrides that Hydra can read (`to_hydra_overrides`).

    Raises UserError for an override or a YAML file that cannot be composed.
    """
    import hydra

    store_schema()
    settings: dict[str, Any] = {"job_name": JOB_NAME, "version_base": VERSION_BASE}
    try:
        with _composing, _without_global_hydra(), hydra.initialize_config_dir(str(folders[0]), **settings):
            return hydra.compose(
                "config", overrides=_with_search_path(overrides, folders[1:]), return_hydra_config=True
            )
    except Exception as error:
        if (message := translate_error(error, folders)) is None:
            raise
        raise message from error


@contextmanager
def _without_global_hydra() -> Iterator[None]:
    """Set Hydra's global instance (a notebook may have one) aside: `initialize_config_dir` replaces none."""
    from hydra.core.global_hydra import GlobalHydra

    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().clear()
        if outer is not None:
            GlobalHydra.instance().initialize(outer)


def _with_search_path(overrides: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The overrides with one `hydra.searchpath` that holds these folders, and after them those of the
    overrides.
    """
    if not folders:
        return list(overrides)
    places = [f"file://{folder}" for folder in folders]
    others = []
    for text in overrides:
        if text.startswith("hydra.searchpath="):
            theirs: Any = parse_override(text).value()
            places += theirs or []
        else:
            others.append(text)
    return [f"hydra.searchpath=[{','.join(map(quoted, places))}]", *others]


def expand_sweep(overrides: Sequence[str], config_dir: str | None = None) -> tuple[list[str], dict[str, str]]:
    """The overrides of a sweep with all that it varies in them, and of each experiment that does not compose,
    what is wrong with it.

    A table of experiments becomes its rows that compose; what `hydra.sweeper.params` of YAML files varies
    becomes overrides, unless the command line sets it. Raises UserError for a wrong override, and for
    experiments that vary different things.
    """
    folders = conf_folders(config_dir)
    words = expanded(overrides, folders)
    asked = check_overrides(words, folders, multirun=True)
    parsed = {text: parse_override(text) for text in asked}
    common = [text for text, one in parsed.items() if not one.is_sweep_override()]
    several = (one for one in parsed.values() if one.key_or_group == "experiment" and one.is_discrete_sweep())
    rows = [row for one in several for row in one.sweep_string_iterator()]
    varied: dict[str, dict[str, Any]] = {}
    broken: dict[str, str] = {}
    for row in rows or [""]:
        try:
            config = compose_with_hydra(
                [*common, "hydra.mode=RUN", *([f"experiment={row}"] if row else [])], folders
            )
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
