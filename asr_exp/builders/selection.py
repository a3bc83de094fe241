"""By which score of dev the best checkpoint of a run is chosen."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from asr_exp.data.prepare import Split
from asr_exp.scoring.error_rates import unspaced
from asr_exp.training.checkpoint import resume
from asr_exp.training.setup import TrainingSetup
from asr_exp.training.state import State

SAMPLE = 1000  # references that tell whether a language is written without spaces


def resume_with_metric(config: DictConfig, folder: Path, setup: TrainingSetup, dev: Split) -> State:
    """Resume a run (see `resume`), or begin it, and tell its setup by which metric of dev it goes."""
    state = resume(folder, setup)
    setup.metric = selection_metric(config, dev, state.best)
    return state


def selection_metric(config: DictConfig, dev: Split, best: dict[str, Any]) -> str:
    """The metric that `trainer.metric` names: wer, cer, per or loss.

    With `auto` a run that goes on keeps the metric of its best checkpoint so far, which may be of a version
    that always chose by the WER.

    Args:
        config: of the run.
        dev: the split that is scored; it tells whether its language is written without spaces.
        best: the best checkpoint so far, as `State.best`; empty where there is none.

    Returns:
        The name of the metric, as in result.json.
    """
    if config.trainer.metric != "auto":
        return config.trainer.metric.removeprefix("dev.")
    if best:
        return best["metric"]
    if config.tokenizer.unit == "phone":
        return "per"
    return "cer" if unspaced(dev.references(first=SAMPLE)) else "wer"
