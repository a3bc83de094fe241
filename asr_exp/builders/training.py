"""The training loop's parts, built from the config, a model and the training split."""

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from asr_exp.core.errors import UserError
from asr_exp.data.augment import SpeedPerturbation
from asr_exp.data.batch_plan import BatchPlan
from asr_exp.data.prepare import Split
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.model.masking import build_masks
from asr_exp.model.recogniser import Recogniser
from asr_exp.model.transformers_patches import compile_blocks, enable_gradient_checkpointing
from asr_exp.runs.folder import AUTO_SECONDS
from asr_exp.runtime.distributed import Runtime
from asr_exp.runtime.fsdp import shard
from asr_exp.training.ema import Ema
from asr_exp.training.memory import MemoryForecast, TrainingMemory
from asr_exp.training.monitor import Recipe
from asr_exp.training.optim import make_optimizer, make_schedule
from asr_exp.training.pass_size import largest_pass
from asr_exp.training.setup import TrainingSetup


def build_training(
    config: DictConfig,
    split: Split,
    tokenizer: Tokenizer,
    model: Recogniser,
    runtime: Runtime,
    cache: Path | None = None,
) -> TrainingSetup:
    """Build the parts of the training loop; the batch plan and the number of steps are known from here on.

    Args:
        config: its sections trainer, optimizer, schedule, augment and model.
        split: the training split.
        tokenizer: of the split's labels.
        model: the network to train; with trainer.strategy=fsdp its weights are cut across the ranks here.
        runtime: the ranks and the device.
        cache: where the features of a frozen front end are kept on a CPU; None: they are computed each time.

    Returns:
        The setup, as `fit` takes it.

    Raises:
        UserError: for an unknown optimizer, schedule or parameter name, and trainer.compile in vain.
    """
    trainer = config.trainer
    sharded = trainer.strategy == "fsdp" and runtime.world > 1
    _prepare(trainer, model, runtime, sharded)
    forecast = memory_of(config, model, runtime, sharded).forecast()
    plan = _batch_plan(config, split, forecast, runtime, one_by_one=sharded and model.one_by_one)
    total = _steps(config, plan)
    schedule = _schedule(config, total)
    if cache and not sharded:
        _keep_features(config, split, model, runtime, cache / "features")
    return TrainingSetup(
        model=model,
        split=split,
        plan=plan,
        masks=build_masks(model.info, config.seed),
        speed=_speed_perturbation(config, model),
        optimizer=_optimizer(config, model),
        factor=schedule,
        runtime=runtime,
        seed=config.seed,
        blank=tokenizer.blank,
        reduction=trainer.loss_reduction,
        clip_norm=config.optimizer.clip_norm,
        freeze_encoder_steps=config.model.freeze_encoder_steps,
        ema=None if trainer.ema is None else Ema(model.network, trainer.ema),
        scaler=torch.amp.GradScaler(runtime.device.type, enabled=runtime.precision == "fp16"),
        total=total,
        eval_every=trainer.eval_every or plan.steps_per_epoch,
        log_every=trainer.log_every,
        patience=trainer.patience,
        select=trainer.select,
        recipe=_recipe(config, tokenizer, plan, total, schedule),
        sharded=sharded,
        forecast=forecast,
        automatic_size=trainer.device_seconds == "auto",
        save_every=trainer.save_every,
    )


def _prepare(trainer: DictConfig, model: Recogniser, runtime: Runtime, sharded: bool) -> None:
    """Cut the weights across the ranks, before the optimizer has them; have the encoder's layers compute
    activations again, or be compiled, where the run says so.
    """
    if sharded:
        shard(model, model.blocks(), runtime.device, runtime.world, runtime.gather_dtype)
    if trainer.gradient_checkpointing:
        enable_gradient_checkpointing(model.network)
    if trainer.compile:
        _compile(model, runtime.device, trainer.gradient_checkpointing)


def _compile(model: Recogniser, device: torch.device, checkpointed: bool) -> None:
    """Compile the encoder's layers. Raises UserError where that is of no use or cannot be done."""
    if checkpointed:  # attention breaks the graph, and torch compiles nothing of a checkpoint with a break
        raise UserError(
            "trainer.compile=true compiles nothing where trainer.gradient_checkpointing=true; leave one of"
            " the two out."
        )
    if device.type != "cuda":
        raise UserError(
            "trainer.compile=true is for a GPU, and this run is on a CPU, where it would gain nothing; leave"
            " trainer.compile out."
        )
    if importlib.util.find_spec("triton") is None:
        raise UserError(
            f"trainer.compile=true needs Triton, which torch {torch.__version__} was installed without; leave"
            " trainer.compile out, or install a torch that brings it."
        )
    compile_blocks(model.network, model.blocks())


def memory_of(config: DictConfig, model: Recogniser, runtime: Runtime, sharded: bool) -> TrainingMemory:
    """What the memory of a training run depends on. sharded: whether the ranks share the weights."""
    trainer = config.trainer
    return TrainingMemory(
        model,
        cuda=runtime.device.type == "cuda",
        half=runtime.precision != "fp32",
        checkpointing=trainer.gradient_checkpointing,
        ema=trainer.ema is not None,
        moments=1 if config.optimizer.name == "sgd" else 2,
        shards=runtime.world if sharded else 1,
        ranks=1 if sharded else runtime.world,
        gathered=4 if runtime.gather_dtype is None else runtime.gather_dtype.itemsize,
    )


def _batch_plan(
    config: DictConfig,
    split: Split,
    forecast: MemoryForecast,
    runtime: Runtime,
    one_by_one: bool,
) -> BatchPlan:
    """Which utterances make each step.

    Args:
        config: its section trainer, and the seed.
        split: the training split.
        forecast: of the memory that a pass takes.
        runtime: on a GPU, trainer.device_seconds=auto is what fits there.
        one_by_one: a micro-batch is a single utterance, where FSDP needs one run of the encoder in each.
    """
    t, on_gpu = config.trainer, runtime.device.type == "cuda"
    if one_by_one:
        size = 0.0
    elif t.device_seconds == "auto":
        size = largest_pass(forecast, float(split.seconds.max()), runtime) if on_gpu else AUTO_SECONDS
    else:
        size = float(t.device_seconds)
    # On a CPU time counts, and attention takes time by the square of the length.
    cost = forecast.pass_cost if on_gpu else None
    return BatchPlan(
        split.seconds, t.batch_seconds, size, config.seed, t.shortest_first, t.batch_utterances, cost
    )


def _steps(config: DictConfig, plan: BatchPlan) -> int:
    """The number of steps: the lesser of trainer.max_steps and trainer.max_epochs, where both are set."""
    steps, epochs = config.trainer.max_steps, config.trainer.max_epochs
    limits = [steps, None if epochs is None else math.ceil(epochs * plan.steps_per_epoch)]
    return min(limit for limit in limits if limit is not None)


def _optimizer(config: DictConfig, model: Recogniser) -> torch.optim.Optimizer:
    settings = {key: value for key, value in config.optimizer.items() if key != "clip_norm"}
    return make_optimizer(model.network, **settings)


def _schedule(config: DictConfig, total: int) -> Callable[[int], float]:
    s = config.schedule
    return make_schedule(s.name, total, s.warmup_steps, s.warmup_ratio, s.hold_ratio, s.final_scale)


def _speed_perturbation(config: DictConfig, model: Recogniser) -> SpeedPerturbation | None:
    factors = list(config.augment.speed)
    if not factors:
        return None
    return SpeedPerturbation(factors, model.extractor.sampling_rate, model.frames, config.seed)


def _keep_features(
    config: DictConfig, split: Split, model: Recogniser, runtime: Runtime, folder: Path
) -> None:
    """On a CPU, keep the features of a frozen front end in `folder`, unless audio changes from epoch to
    epoch.
    """
    budget = config.trainer.feature_cache_gb * 1e9  # bytes
    if budget and not config.augment.speed and runtime.device.type == "cpu":
        samples = np.rint(split.seconds * model.extractor.sampling_rate).astype(np.int64)
        model.front_end.open_cache(folder, samples, runtime.precision, budget, runtime.world)


def _recipe(
    config: DictConfig, tokenizer: Tokenizer, plan: BatchPlan, total: int, schedule: Callable[[int], float]
) -> Recipe:
    """What the training monitor goes by when it tells a slow start from a run that learns nothing.

    Args:
        config: its sections model, optimizer and trainer.
        tokenizer: of the labels.
        plan: of the batches.
        total: the number of steps.
        schedule: the factor on the peak learning rate by step.

    Returns:
        The recipe; its `settled` is the first step at the peak with everything being trained.
    """
    peak = max(range(1, total + 1), key=schedule, default=1)
    return Recipe(
        total=total,
        settled=max(peak, config.model.freeze_encoder_steps),
        lr=config.optimizer.lr,
        tokens=tokenizer.tokens,
        blank=tokenizer.blank,
        comparable_from=plan.steps_per_epoch if config.trainer.shortest_first else 0,
        front_end_trained=not config.model.freeze_front_end and config.model.checkpoint is not None,
    )
