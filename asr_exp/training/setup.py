"""The `TrainingSetup` that `fit` runs, and that `check` tries a step of: from a config and a training
split.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from asr_exp.data.augment import Masks, SpeedPerturbation
from asr_exp.data.batch_plan import BatchPlan
from asr_exp.data.prepare import Split
from asr_exp.model.recogniser import Recogniser
from asr_exp.runtime.distributed import Runtime
from asr_exp.training.ema import Ema
from asr_exp.training.gradients import GradientSum
from asr_exp.training.monitor import Recipe


@dataclass
class TrainingSetup:
    """The parts of a training run, built and ready."""

    model: Recogniser
    split: Split
    plan: BatchPlan
    masks: Masks | None
    speed: SpeedPerturbation | None
    optimizer: torch.optim.Optimizer
    factor: Callable[[int], float]
    runtime: Runtime
    seed: int
    blank: int
    reduction: str
    clip_norm: float | None
    freeze_encoder_steps: int
    ema: Ema | None
    scaler: torch.amp.GradScaler
    total: int
    eval_every: int
    log_every: int
    patience: int | None
    select: str  # the weights to keep as the best: by dev, or those of the last evaluation
    recipe: Recipe
    sharded: bool = False  # over the ranks, which then have to make the same number of passes

    def __post_init__(self) -> None:
        self.trained = [p for p in self.model.network.parameters() if p.requires_grad]
        head = {id(p) for p in self.model.network.lm_head.parameters()}
        self.encoder = [p for p in self.trained if id(p) not in head]
        # FSDP has its own
        self.gradients = GradientSum(self.trained, 1 if self.sharded else self.runtime.world)
