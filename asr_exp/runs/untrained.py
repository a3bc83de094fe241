"""Runs without a training step: a fine-tuned checkpoint is scored as it is."""

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from asr_exp.config.compose import compose
from asr_exp.config.schema import Decode, Score
from asr_exp.core.errors import UserError

# keys that run=CHECKPOINT sets
FIXED = ("model", "model.checkpoint", "model.head", "trainer.max_steps", "trainer.max_epochs")


def trains_nothing(config: DictConfig) -> bool:
    """Whether a config asks for a fine-tuned checkpoint to be scored as it is."""
    return config.model.head == "keep" and config.trainer.max_steps == 0


def of_checkpoint(overrides: Sequence[str], config_dir: str | None = None) -> DictConfig:
    """The config that scores the checkpoint which `run=` names among the overrides: it keeps the head of the
    checkpoint and makes no training step.

    Raises UserError for an override that contradicts this.
    """
    words = [*overrides, "model=hf", "model.head=keep", "trainer.max_steps=0"]
    for text in overrides:
        name, _, value = text.partition("=")
        if name in FIXED:
            raise UserError(f"{text} contradicts run=: a checkpoint is scored as it is; drop one of them.")
        words += [f"model.checkpoint={value}"] if name == "run" else []
    return compose(words, config_dir)


def own_config(config: DictConfig) -> DictConfig:
    """The config that the run folder of such a checkpoint is named after: the same whichever split is scored,
    and with whichever decoder and scoring rules.
    """
    own = config.copy()
    own.run = None
    own.split = "test"
    own.decode = OmegaConf.structured(Decode)
    own.score = OmegaConf.structured(Score)
    return own
