"""Hydra's own settings: which of them this program goes by, and what to give in the place of the others.

A run has a folder of its own and the record of a sweep too, so most of what Hydra says about folders and jobs
would be without effect. It is refused, on the command line and in YAML files.
"""

import re
from typing import Any

from omegaconf import OmegaConf

FOLDERS = "a run's folder is OUTPUT_ROOT/DATASET/MODEL/SIGNATURE; give output_root=FOLDER"
RECORD = "the record of a sweep is sweeps/NAME; give sweep.name=NAME"
# Hydra's settings that would have no effect -> what is given instead
REFUSED = {
    "hydra.run": FOLDERS,
    "hydra.sweep": RECORD,
    "hydra.output_subdir": "a run keeps its config in config.yaml of its folder; see output_root",
    "hydra.job.name": "runs are named by dataset.name and model.name",
    "hydra.job.chdir": "a run stays in the folder it is started from; give output_root=FOLDER",
    "hydra/sweeper": "sweeper=grid, optuna, random or wandb says how a sweep goes",
    "hydra.callbacks": "a config cannot name Python code to call; a module in plugins=[...] registers parts",
}
# Those that it goes by, each with everything below it.
HONOURED = (
    "hydra.mode",
    "hydra.searchpath",
    "hydra.launcher",
    "hydra.sweeper.params",
    "hydra.sweeper.max_batch_size",
    "hydra.verbose",
    "hydra.job.env_set",
    "hydra.job.env_copy",
    "hydra.job_logging",
    "hydra.hydra_logging",
    "hydra/launcher",
    "hydra/job_logging",
    "hydra/hydra_logging",
)
# What conf/config.yaml, or Hydra, has for the settings that are refused.
_OURS: dict[str, Any] = {
    "hydra.run.dir": ".",
    "hydra.sweep.dir": "sweeps/multirun",
    "hydra.sweep.subdir": ".",
    "hydra.output_subdir": None,
    "hydra.job.name": "asr_exp",
    "hydra.job.chdir": None,
    "hydra.callbacks": {},
}


def setting_problem(text: str, name: str) -> str | None:
    """What is wrong with an override of Hydra's setting `name`; None where it has an effect."""
    if name in ("hydra.launcher", "hydra.sweeper") or re.match("~", text):
        return (
            f"{text}: hydra/launcher=NAME chooses what runs the cells, and {name}.KEY=VALUE sets a key of it."
        )
    if name.endswith("._target_"):
        return f"{text}: a config cannot name Python code to call; choose hydra/launcher=NAME."
    if _below(name, HONOURED):
        return None
    if one := _below(name, REFUSED):
        return f"{text} has no effect in this program: {REFUSED[one]}."
    return (
        f"{text}: {name} is no setting of Hydra's that this program goes by; those are"
        f" {', '.join(HONOURED[:-3])}, and the groups {', '.join(HONOURED[-3:])}."
    )


def _below(name: str, settings: Any) -> str | None:
    return next((one for one in settings if re.match(re.escape(one) + r"([./]|$)", name)), None)


def settings_problems(config: Any) -> list[str]:
    """What is wrong with the section `hydra` of a composed config, where YAML files have set it."""
    problems = []
    # what has an interpolation in it is Hydra's own, so nothing is resolved
    hydra = {"hydra": OmegaConf.to_container(config.hydra, resolve=False)}
    for name, ours in _OURS.items():
        value: Any = hydra
        for part in name.split("."):
            value = (value or {}).get(part)
        if value != ours:
            problems.append(setting_problem(f"{name}={value}, which a YAML file says,", name) or "")
    batch = config.hydra.sweeper.get("max_batch_size")
    if batch is not None and not (isinstance(batch, int) and batch > 0):
        problems.append(f"hydra.sweeper.max_batch_size={batch} must be a whole number above 0, or null.")
    for target in (config.hydra.launcher._target_, config.hydra.sweeper._target_):
        if not re.match(r"hydra\.|hydra_plugins\.", str(target)):
            problems.append(
                f"hydra: _target_={target} names Python code to call, which a config cannot; choose"
                " hydra/launcher=NAME."
            )
    return problems
