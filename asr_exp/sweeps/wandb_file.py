"""Write a sweep file for Weights & Biases, whose server then gives the trials to `wandb agent`.

https://docs.wandb.ai/guides/sweeps/define-sweep-configuration
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from asr_exp.core.files import write_text
from asr_exp.sweeps.ranges import Range


def write(
    folder: Path, command: str, fixed: Sequence[str], ranges: Sequence[Range], config: DictConfig
) -> int:
    """Print the sweep file and write it to FOLDER/wandb.yaml -> exit status 0.

    Args:
        folder: of the sweep's record; its name is the sweep's.
        command: what each trial runs.
        fixed: the overrides that all trials share.
        ranges: what the trials vary.
        config: what all trials share.
    """
    text = yaml.safe_dump(describe(folder.name, command, fixed, ranges, config), sort_keys=False, width=1000)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "wandb.yaml", text)
    print(
        f"# wandb sweep {folder / 'wandb.yaml'}    and then, on every machine that is to help: wandb agent"
        " SWEEP_ID"
    )
    print(text, end="")
    return 0


def describe(
    name: str, command: str, fixed: Sequence[str], ranges: Sequence[Range], config: DictConfig
) -> dict[str, Any]:
    """The content of the sweep file; the arguments are those of `write`, `name` the sweep's.

    Ranges that are all lists of values make a grid, others a Bayesian search; sweep.sampler=random a random
    one.
    """
    s = config.sweep
    chosen = "" if config.trainer.metric == "auto" else config.trainer.metric
    usual = "per" if config.tokenizer.unit == "phone" else "wer"
    rate = (s.metric or chosen).partition(".")[2] or usual
    grid = s.sampler != "random" and all(one.kind == "choice" for one in ranges)
    method = "grid" if grid else "random" if s.sampler == "random" else "bayes"
    untracked = [word for word in fixed if not word.startswith("tracking=")]
    content: dict[str, Any] = {
        "name": name,
        "project": config.tracking.project,
        "method": method,
        "metric": {"name": f"dev/{rate}", "goal": "minimize"},
        "parameters": {one.name: _parameter(one) for one in ranges},
        # ${args_no_hyphens} writes key=value, which is what Hydra reads.
        "command": [
            "${env}",
            "${interpreter}",
            "-m",
            "asr_exp",
            command,
            *untracked,
            "tracking=wandb",
            "${args_no_hyphens}",
        ],
    }
    if not grid:
        content["run_cap"] = s.trials
        if s.prune:
            content["early_terminate"] = {"type": "hyperband", "min_iter": 3}
    return content


def _parameter(one: Range) -> dict[str, Any]:
    if one.kind == "choice":
        return {"values": [_plain(text) for text in one.choices]}
    if one.step is None:
        return {
            "distribution": "log_uniform_values" if one.log else "uniform",
            "min": one.low,
            "max": one.high,
        }
    if one.kind == "int" and one.step == 1:
        return {
            "distribution": "q_log_uniform_values" if one.log else "int_uniform",
            "min": int(one.low),
            "max": int(one.high),
        }
    return {"values": one.values}


def _plain(text: str) -> Any:
    """A number or a truth value as such, as W&B writes those as Hydra reads them; other values as text."""
    value = yaml.safe_load(text)
    return value if isinstance(value, int | float) else text
