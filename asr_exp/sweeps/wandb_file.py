"""A sweep file for Weights & Biases, whose server then hands out the trials to `wandb agent`.

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
    """Print the file, and leave it as FOLDER/wandb.yaml -> exit status 0."""
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
    """What the file says. Lists of values alone make a grid; an interval asks for a Bayesian search, unless
    the sampler is random.
    """
    s = config.sweep
    rate = (s.metric or "").partition(".")[2] or ("per" if config.tokenizer.unit == "phone" else "wer")
    grid = s.sampler != "random" and all(one.kind == "choice" for one in ranges)
    method = "grid" if grid else "random" if s.sampler == "random" else "bayes"
    untracked = [word for word in fixed if not word.startswith("tracking=")]
    found: dict[str, Any] = {
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
        found["run_cap"] = s.trials
        if s.prune:
            found["early_terminate"] = {"type": "hyperband", "min_iter": 3}
    return found


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
    """A number or a truth value as such (W&B writes them as Hydra reads them), all else, null among it, as it
    is written.
    """
    value = yaml.safe_load(text)
    return value if isinstance(value, int | float) else text
