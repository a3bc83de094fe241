"""The run that the same command led to when its text rules were older ones."""

from pathlib import Path

import yaml
from omegaconf import DictConfig

from asr_exp.config.groups import conf_folder
from asr_exp.config.rules_name import text_name
from asr_exp.runs.folder import run_folder
from asr_exp.runs.results import read_result


def finished_by_earlier_rules(config: DictConfig) -> tuple[str, Path] | None:
    """The choice of `text` that has the rules before those of a config, and the folder of the finished run of
    the same settings by them. None where there is no such run.
    """
    name, _, version = str(config.text.name).rpartition("-")
    if not version.isdigit():
        return None
    choice = f"{name}-{int(version) - 1}"
    file = conf_folder() / "text" / f"{choice}.yaml"
    if not file.is_file():
        return None
    text = yaml.safe_load(file.read_text(encoding="utf-8"))
    earlier = config.copy()
    earlier.text.name = text["name"]
    if text_name(config) == config.text.name:  # else the rules were given by hand, then as now
        earlier.text.rules = text["rules"]
    folder = run_folder(earlier)
    return (choice, folder) if (read_result(folder) or {}).get("status") == "finished" else None
