"""Compose a config of YAML files and overrides, and check it.

Composing goes by Hydra's documented functions, which keep one global instance; `compose_with_hydra` hands it
over for as long as it takes, so that a config may be composed from several threads and inside a Hydra run.
"""

import copy
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from asr_exp.config.groups import choices, conf_folders
from asr_exp.config.hydra_internals import JOB_NAME, VERSION_BASE, parse_override, store_schema
from asr_exp.config.hydra_settings import settings_problems
from asr_exp.config.messages import composition_problem
from asr_exp.config.override_problems import override_problems
from asr_exp.config.overrides import quoted, to_hydra_overrides
from asr_exp.config.sweep_syntax import expanded
from asr_exp.config.validation import config_problems
from asr_exp.config.yaml_problems import yaml_problem
from asr_exp.core.errors import UserError

_composing = threading.Lock()

# ------------------------------------------------------------------------------------------------------------
# compose


def check_overrides(overrides: Sequence[str], folders: Sequence[Path], multirun: bool = False) -> list[str]:
    """The overrides as Hydra needs them. Raises UserError with everything that is wrong with them."""
    if problems := override_problems(overrides, choices(folders), multirun):
        raise UserError("\n".join(problems))
    return to_hydra_overrides(overrides)


def translate_error(error: Exception, folders: Sequence[Path]) -> UserError | None:
    """Hydra's exception as a UserError; None for an exception that is no mistake of the user's."""
    from hydra.errors import HydraException

    if isinstance(error, HydraException | OmegaConfBaseException | YAMLError):
        return UserError(composition_problem(error, choices(folders), folders))
    problem = None if isinstance(error, UserError) else yaml_problem(error, folders)
    return UserError(problem) if problem else None


def compose(overrides: Sequence[str] = (), config_dir: str | None = None) -> DictConfig:
    """The config of a command line, complete and not yet checked: see `validate`.

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
        with (
            _composing,
            _without_global_hydra(),
            hydra.initialize_config_dir(str(folders[0]), **settings),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("error", "provider=hydra.searchpath")  # a folder that is not there
            config = hydra.compose(
                "config", overrides=_with_search_path(overrides, folders[1:]), return_hydra_config=True
            )
    except UserWarning as missing:
        raise UserError(_missing_search_path(missing)) from missing
    except Exception as error:
        if (message := translate_error(error, folders)) is None:
            raise
        raise message from error
    if problems := settings_problems(config):
        raise UserError("\n".join(problems))
    return config


def _missing_search_path(warning: UserWarning) -> str:
    path = str(warning).rpartition("path=")[2].removesuffix(" is not available.")
    return f"hydra.searchpath names {path}, and there is no such folder; give folders that hold YAML files."


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
    """Write out what a sweep varies -> (overrides, the message for each experiment that cannot be composed).

    A table of experiments becomes those of its rows that can be composed. What YAML files vary by
    `hydra.sweeper.params` becomes overrides, unless the command line gives them. Raises UserError for a wrong
    override, where no experiment can be composed, and for experiments that vary different keys.
    """
    folders = conf_folders(config_dir)
    words = expanded(overrides, folders)
    checked = {text: parse_override(text) for text in check_overrides(words, folders, multirun=True)}
    common = [text for text, override in checked.items() if not override.is_sweep_override()]
    rows = [
        row
        for override in checked.values()
        if override.key_or_group == "experiment" and override.is_discrete_sweep()
        for row in override.sweep_string_iterator()
    ]
    params_of, broken = _sweeper_params(common, rows, folders)
    (first, params), *others = params_of.items()
    if unlike := [row for row, its_params in others if its_params != params]:
        raise UserError(
            f"experiment={first} and experiment={unlike[0]} vary different things in hydra.sweeper.params "
            f"({params or 'nothing'}, {params_of[unlike[0]] or 'nothing'}); run them one at a time."
        )
    words = [
        f"experiment={','.join(params_of)}" if rows and text.startswith("experiment=") else text
        for text in words
    ]
    given = {text.partition("=")[0].lstrip("+~") for text in words}
    from_files = [f"{name}={value}" for name, value in params.items() if name.lstrip("+~") not in given]
    return [*from_files, *words], broken


def _sweeper_params(
    common: Sequence[str], experiments: Sequence[str], folders: Sequence[Path]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """`hydra.sweeper.params` of each experiment (of "" where there is none), and the messages of broken ones.

    Raises UserError where all of them are broken. common: the overrides that they share.
    """
    params: dict[str, dict[str, Any]] = {}
    broken: dict[str, str] = {}
    for name in experiments or [""]:
        experiment = [f"experiment={name}"] if name else []
        try:
            config = compose_with_hydra([*common, "hydra.mode=RUN", *experiment], folders)
            params[name] = dict(config.hydra.sweeper.get("params") or {})
        except UserError as error:
            broken[name] = str(error)
    if not params:
        raise UserError("\n".join(dict.fromkeys(broken.values())))
    return params, broken


def validate(config: DictConfig) -> None:
    """Check every value of a config, and the values against each other.

    Raises UserError with a line for each problem.
    """
    try:
        OmegaConf.resolve(copy.deepcopy(config))
    except OmegaConfBaseException as error:
        raise UserError(composition_problem(error, {}, [])) from error
    if messages := config_problems(config):
        raise UserError("\n".join(messages))
