"""The configuration of a run: find conf/, compose, validate, load the plugins, and say which run it is."""

import copy
import hashlib
import importlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from asr_exp.errors import UserError
from asr_exp.hints import OPTIONAL_GROUPS, composition_problem, in_hydras_words, override_problems, tables
from asr_exp.libraries import hide_broken_torchaudio
from asr_exp.rules import problems
from asr_exp.schema import NOT_IN_SIGNATURE, Config, Decode

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra

NO_PATHS = {"lm": (None, "train-text", "checkpoint"), "lexicon": (None, "auto")}  # values of decode.lm and decode.lexicon that are no file
PLUGINS = "asr_exp.plugins"  # the group of Python entry points whose modules are imported before a run


# ---------------------------------------------------------------------------------------------------------------------
# where the YAML files are


def conf_folder() -> Path:
    """Our own conf/: inside the package in a wheel, beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def conf_folders(config_dir: str | None = None) -> list[Path]:
    """Every folder that YAML files are found in: ours, ./conf where the user stands, and --config-dir.

    Raises UserError where `config_dir` is no folder.
    """
    if config_dir and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir {config_dir}: there is no such folder.")
    users = [Path.cwd() / "conf", *([Path(config_dir).absolute()] if config_dir else [])]
    ours = conf_folder()
    return [ours, *(folder for folder in users if folder.is_dir() and folder.resolve() != ours)]


def choices(folders: Sequence[Path]) -> dict[str, list[str]]:
    """The choices of every group: the YAML files of a group's folder, in whichever of the folders; not those with a leading `_`,
    which hold what others have in common."""
    groups = sorted({*OPTIONAL_GROUPS, *(path.name for path in folders[0].iterdir() if path.is_dir())})
    found: dict[str, set[str]] = {group: set() for group in groups}
    for group in groups:
        for home in (folder / group for folder in folders):
            files = (path for path in home.rglob("*.yaml") if not path.name.startswith("_"))
            found[group] |= {path.relative_to(home).with_suffix("").as_posix() for path in files}
    return {group: sorted(names) for group, names in found.items()}


def expanded(overrides: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The overrides of a sweep with each table of experiments (`experiment=hf-timit`) as the rows that its folder holds."""
    known = tables(choices(folders)["experiment"])

    def rows(text: str) -> str:
        name, _, value = text.partition("=")
        return f"{name}={','.join(row for one in value.split(',') for row in known.get(one, [one]))}" if name == "experiment" else text

    return [rows(text) for text in overrides]


# ---------------------------------------------------------------------------------------------------------------------
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
        search_path.prepend("user", f"file://{folder}", anchor=SearchPathQuery(provider="schema"))  # the schema stays last
    return Hydra("asr_exp", ConfigLoaderImpl(config_search_path=search_path))


def check_overrides(overrides: Sequence[str], folders: Sequence[Path], multirun: bool = False) -> list[str]:
    """The overrides as Hydra wants them.

    Raises UserError with everything that is wrong with them.
    """
    if found := override_problems(overrides, choices(folders), multirun):
        raise UserError("\n".join(found))
    return in_hydras_words(overrides)


def explained(error: Exception, folders: Sequence[Path]) -> UserError | None:
    """What Hydra objects to while composing, in a user's words; None for an exception that is not the user's doing."""
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
        return hydra_at(folders).compose_config("config", asked, run_mode=RunMode.RUN, with_log_configuration=False)
    except Exception as error:
        if (told := explained(error, folders)) is None:
            raise
        raise told from error


def written_out(overrides: Sequence[str], config_dir: str | None = None) -> tuple[list[str], dict[str, str]]:
    """The overrides of a sweep with all that it varies in them, and of each experiment that does not compose, what is wrong with it.

    A table of experiments becomes its rows that compose; what `hydra.sweeper.params` of YAML files varies becomes overrides, unless the
    command line sets it. Raises UserError for a wrong override, and for experiments that vary different things.
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
        raise UserError(f"experiment={first} and experiment={unlike[0]} vary different things in hydra.sweeper.params "
                        f"({params or 'nothing'}, {varied[unlike[0]] or 'nothing'}); run them one at a time.")
    words = [f"experiment={','.join(varied)}" if rows and text.startswith("experiment=") else text for text in words]
    given = {text.partition("=")[0].lstrip("+~") for text in words}
    return [*(f"{name}={value}" for name, value in params.items() if name.lstrip("+~") not in given), *words], broken


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


def resolve(config: DictConfig) -> dict[str, Any]:
    """The config as plain dicts and lists, nothing left to look up, local paths absolute: the same ask from any folder."""
    asked: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    dataset, model = asked["dataset"], asked["model"]
    for split in ("train", "dev", "test"):
        named = [dataset[split]] if isinstance(dataset[split], str) else dataset[split]
        dataset[split] = [_absolute(path) for path in named] if named and dataset["reader"] == "manifest" else named
    dataset["root"] = _absolute(dataset["root"])
    asked["tokenizer"]["vocabulary"] = _absolute(asked["tokenizer"]["vocabulary"])
    decode = asked["decode"]
    decode["lm"] = None if decode["lm"] == "none" else decode["lm"]
    decode.update({key: _absolute(decode[key]) for key, names in NO_PATHS.items() if decode[key] not in names})
    for section, name in ((model, "checkpoint"), (dataset["hub"], "id")):  # a folder, or an id on the hub
        if section[name] and Path(section[name]).expanduser().is_dir():
            section[name] = _absolute(section[name])
    return asked


def _absolute(path: Any) -> Any:
    return os.path.abspath(os.path.expanduser(path)) if isinstance(path, str) else path


# ---------------------------------------------------------------------------------------------------------------------
# plugins


def import_plugins(config: DictConfig) -> None:
    """Import the modules that register someone's own readers, decoders and optimizers: installed entry points, then `plugins`.

    The command's own modules are to be imported before, and no model loaded: a torchaudio that is broken is hidden here from transformers,
    which plugins may import. Raises UserError for a module that is not there.
    """
    hide_broken_torchaudio()
    for entry in importlib.metadata.entry_points(group=PLUGINS):
        entry.load()
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # asr-exp finds a module where the user stands, as `python -m asr_exp` does
    for name in config.plugins:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            told = f"plugins=[{name}]: Python finds no module {error.name!r}. Install it, or add its folder to PYTHONPATH."
            raise UserError(told) from error


# ---------------------------------------------------------------------------------------------------------------------
# which run it is


def signature(config: DictConfig) -> str:
    """Ten hex digits that tell one ask from another: a hash of the config less what cannot change the result.

    What `decode` leaves at its default is no part of it, so that a key more there leaves the signatures of runs as they are.
    """
    asked = resolve(config)
    for name in NOT_IN_SIGNATURE:
        section, _, leaf = name.rpartition(".")
        (asked[section] if section else asked).pop(leaf)
    usual: dict[str, Any] = OmegaConf.to_container(OmegaConf.structured(Decode))  # type: ignore[assignment]
    decode = asked["decode"]
    asked["decode"] = {key: value for key, value in decode.items() if key in ("name", "settings") or value != usual[key]}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:10]


def run_folder(config: DictConfig) -> Path:
    """Where this run's files go: OUTPUT_ROOT/DATASET/MODEL/SIGNATURE, relative to where the user stands."""
    return Path(config.output_root).expanduser() / config.dataset.name / config.model.name / signature(config)


def is_run(folder: str | Path) -> bool:
    """Whether a folder is that of a run."""
    return (Path(folder).expanduser() / "config.yaml").is_file()


def load_run(folder: str | Path, overrides: Sequence[str] = (), config_dir: str | None = None) -> DictConfig:
    """The config of a run out of its folder, with overrides (keys, and choices of groups) laid over it.

    Raises UserError where the folder holds no run, its config does not fit this version, or an override is wrong.
    """
    path = Path(folder).expanduser() / "config.yaml"
    if not path.is_file():
        raise UserError(f"run={folder} is not the folder of a run: it has no config.yaml. Give the folder that train printed.")
    try:
        config = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{path} does not fit this version of asr_exp. {composition_problem(error, {}, [])}") from error
    assert isinstance(config, DictConfig)
    asked = compose(overrides, config_dir)
    for text in overrides:
        name = text.partition("=")[0].lstrip("+~")
        if name in OPTIONAL_GROUPS:
            raise UserError(f"{text} cannot be laid over run={folder}, whose settings are made; give the keys that should differ.")
        if name in ("model", "tokenizer"):
            raise UserError(f"{text} cannot be laid over run={folder}: its own {name} is what is used; drop it.")
        if not name.startswith(("hydra.", "hydra/")):
            OmegaConf.update(config, name, OmegaConf.select(asked, name), merge=False, force_add=True)
    return config
