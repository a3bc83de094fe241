"""The parts of a training run, as `fit` takes them."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from asr_exp.data.augment import Masks, SpeedPerturbation
from asr_exp.data.batch_plan import BatchPlan
from asr_exp.data.prepare import Split
from asr_exp.model.recogniser import Recogniser
from asr_exp.runtime.distributed import Runtime
from asr_exp.training.ema import Ema
from asr_exp.training.gradients import GradientSum
from asr_exp.training.memory import MemoryForecast
from asr_exp.training.monitor import Recipe
from asr_exp.training.pass_limit import PassLimit


@dataclass
class TrainingSetup:
    """The parts of a training run, built and ready: `fit` trains with it, and `check` tries a step of it.

    factor: what the peak learning rate is multiplied by at each step, from 1. blank: the CTC blank's index.
    reduction: of the loss of an utterance, `sum` over its labels or `mean`. total: the number of steps.
    eval_every, log_every: steps between scores of dev, and between lines of figures being written. patience:
    evaluations without a better score after which training ends. metric: of dev, by which its scores are
    compared: wer, cer, per or loss. select: which weights are kept as the best,
    those that score best on dev or those of the last evaluation. sharded: the weights are cut across the
    ranks (FSDP), which then have to make the same number of passes. pass_limit: set when a pass did not fit
    into memory. forecast: of the memory that it takes. automatic_size: whether the size of passes
    follows from the forecast (trainer.device_seconds=auto). save_every: see `SaveSchedule`.
    """

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
    select: str
    recipe: Recipe
    sharded: bool = False
    pass_limit: PassLimit = field(default_factory=PassLimit)
    forecast: MemoryForecast | None = None  # None where none is needed
    automatic_size: bool = False
    metric: str = "wer"
    save_every: str | int = "10min"

    def __post_init__(self) -> None:
        self.trained = [p for p in self.model.network.parameters() if p.requires_grad]
        head = {id(p) for p in self.model.network.lm_head.parameters()}
        self.encoder = [p for p in self.trained if id(p) not in head]
        # FSDP sums gradients itself.
        self.gradients = GradientSum(self.trained, 1 if self.sharded else self.runtime.world)
