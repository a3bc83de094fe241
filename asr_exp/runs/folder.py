"""The run that a config describes: its signature, its folder, and the config as that folder keeps it."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from asr_exp.config.compose import compose
from asr_exp.config.groups import OPTIONAL_GROUPS
from asr_exp.config.messages import composition_problem
from asr_exp.config.plugin_sources import plugin_sources
from asr_exp.config.schema import NOT_IN_SIGNATURE, SIGNED_WHERE_CHANGED, Config
from asr_exp.core.errors import UserError
from asr_exp.core.files import write_text

AUTO_SECONDS = 100.0  # what trainer.device_seconds=auto counts as in a signature, and is on a CPU
LAST_KEY = "sweep"  # of every config.yaml, whichever version wrote it: one without it is cut short
# values of decode.lm and decode.lexicon that are no file
NO_PATHS = {"lm": (None, "train-text", "checkpoint"), "lexicon": (None, "auto")}


def resolve(config: DictConfig) -> dict[str, Any]:
    """The config as plain dicts and lists, with interpolations resolved and local paths made absolute, so
    that it is the same in whatever directory the command is given.
    """
    settings: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    dataset, model = settings["dataset"], settings["model"]
    for split in ("train", "dev", "test"):
        named = [dataset[split]] if isinstance(dataset[split], str) else dataset[split]
        dataset[split] = (
            [_absolute(path) for path in named] if named and dataset["reader"] == "manifest" else named
        )
    dataset["root"] = _absolute(dataset["root"])
    dataset["corrections"] = _absolute(dataset["corrections"])
    settings["tokenizer"]["vocabulary"] = _absolute(settings["tokenizer"]["vocabulary"])
    decode = settings["decode"]
    decode["lm"] = None if decode["lm"] == "none" else decode["lm"]
    decode.update(
        {key: _absolute(decode[key]) for key, names in NO_PATHS.items() if decode[key] not in names}
    )
    for section, name in ((model, "checkpoint"), (dataset["hub"], "id")):  # a folder, or an id on the hub
        if section[name] and Path(section[name]).expanduser().is_dir():
            section[name] = _absolute(section[name])
    return settings


def _absolute(path: Any) -> Any:
    return os.path.abspath(os.path.expanduser(path)) if isinstance(path, str) else path


def signature(config: DictConfig) -> str:
    """A hash of the config, ten hex digits, without the keys that cannot change the result.

    Keys of `decode` and those of SIGNED_WHERE_CHANGED count only where they differ from their defaults, so
    that a new key leaves the signatures of earlier runs as they are. The source of plugins counts where the
    config uses what they registered; they have to be imported before.
    """
    settings = with_size(resolve(config))
    defaults: dict[str, Any] = OmegaConf.to_container(OmegaConf.structured(Config))  # type: ignore[assignment]
    decode = [f"decode.{leaf}" for leaf in settings["decode"] if leaf not in ("name", "settings")]
    for name in (*NOT_IN_SIGNATURE, *SIGNED_WHERE_CHANGED, *decode):
        section, _, leaf = name.rpartition(".")
        place, usual = settings, defaults
        for part in filter(None, section.split(".")):
            place, usual = place[part], usual[part]
        if name in NOT_IN_SIGNATURE or leaf in place and place[leaf] == usual[leaf]:
            place.pop(leaf, None)
    settings = {name: value for name, value in settings.items() if value != {}}  # a section of young keys
    if sources := plugin_sources(settings):
        settings["plugin_sources"] = sources
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]


def with_size(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with a number for `trainer.device_seconds`, which was one before it could be auto: hashes
    of earlier runs were made with it.
    """
    size = settings["trainer"]["device_seconds"]
    seconds = AUTO_SECONDS if size == "auto" else float(size)
    return {**settings, "trainer": {**settings["trainer"], "device_seconds": seconds}}


def run_folder(config: DictConfig) -> Path:
    """The folder of a run: OUTPUT_ROOT/DATASET/MODEL/SIGNATURE, relative to the current directory."""
    return Path(config.output_root).expanduser() / config.dataset.name / config.model.name / signature(config)


def write_config(folder: Path, config: DictConfig) -> None:
    """Write the config.yaml of a run."""
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(resolve(config))))


def is_config_whole(folder: Path) -> bool:
    """Whether the config.yaml of a run can be read to its end."""
    try:
        _read_config(folder / "config.yaml")
    except (UserError, OSError):
        return False
    return True


def _read_config(path: Path) -> DictConfig:
    """Read a config.yaml. Raises UserError where it is damaged, or does not fit this version."""
    try:
        text = path.read_text(encoding="utf-8")
        own = OmegaConf.create(text)
        config = OmegaConf.merge(OmegaConf.structured(Config), own)
        if LAST_KEY not in own:
            raise ValueError("it is cut short")
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(
            f"{path} does not fit this version of asr_exp. {composition_problem(error, {}, [])}"
        ) from error
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}); bring back a whole copy, or have train write it anew, by the"
            " command that began the run."
        ) from error
    assert isinstance(config, DictConfig)
    return config


def load_run(folder: str | Path, overrides: Sequence[str] = (), config_dir: str | None = None) -> DictConfig:
    """Read the config of a run from its folder, and apply overrides (keys, and choices of groups) to it.

    Raises UserError where the folder holds no run, its config does not fit this version, or an override is
    wrong.
    """
    path = Path(folder).expanduser() / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"run={folder} is not the folder of a run: it has no config.yaml. Give the folder that train"
            " printed."
        )
    config = _read_config(path)
    composed = compose(overrides, config_dir)
    for text in overrides:
        name = text.partition("=")[0].lstrip("+~")
        if name in OPTIONAL_GROUPS:
            raise UserError(
                f"{text} cannot be laid over run={folder}, whose settings are made; give the keys that should"
                " differ."
            )
        if name in ("model", "tokenizer"):
            raise UserError(
                f"{text} cannot be laid over run={folder}: its own {name} is what is used; drop it."
            )
        if not name.startswith(("hydra.", "hydra/")):
            OmegaConf.update(config, name, OmegaConf.select(composed, name), merge=False, force_add=True)
    return config
