"""Everything that training needs, made from the config and the training split."""

import math
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from asr_exp.data.augment import SpeedPerturbation
from asr_exp.data.batch_plan import BatchPlan
from asr_exp.data.prepare import Split
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.model.recogniser import Recogniser
from asr_exp.runtime.distributed import Runtime
from asr_exp.runtime.fsdp import shard
from asr_exp.training.ema import Ema
from asr_exp.training.monitor import Recipe
from asr_exp.training.optim import make_optimizer, make_schedule
from asr_exp.training.setup import TrainingSetup


def build_training(
    config: DictConfig,
    split: Split,
    tokenizer: Tokenizer,
    model: Recogniser,
    runtime: Runtime,
    cache: Path | None = None,
) -> TrainingSetup:
    """The parts of the training loop, from their config sections: with `plan` and `total`, all that is known
    of a run before step 1.

    cache: the folder where what a frozen front end makes of the utterances is kept, on a CPU, where it takes
    a good part of the time.
    """
    t = config.trainer
    o = config.optimizer
    s = config.schedule
    sharded = t.strategy == "fsdp" and runtime.world > 1
    if sharded:
        shard(model, model.blocks(), runtime.device, runtime.world)
    # a pass runs the encoder once, on every rank
    device_seconds = 0.0 if sharded and model.one_by_one else t.device_seconds
    plan = BatchPlan(
        split.seconds, t.batch_seconds, device_seconds, config.seed, t.shortest_first, t.batch_utterances
    )
    limits = [t.max_steps, None if t.max_epochs is None else math.ceil(t.max_epochs * plan.steps_per_epoch)]
    total = min(n for n in limits if n is not None)
    if t.gradient_checkpointing:
        network = model.network  # the later releases of transformers 5 call it by another name
        getattr(network, "activation_checkpointing_enable", network.gradient_checkpointing_enable)(
            {"use_reentrant": False}
        )
    optimizer = make_optimizer(model.network, **{k: v for k, v in o.items() if k != "clip_norm"})
    factors = list(config.augment.speed)
    speed = (
        SpeedPerturbation(factors, model.extractor.sampling_rate, model.frames, config.seed)
        if factors
        else None
    )
    if cache and runtime.device.type == "cpu" and t.feature_cache_gb and not factors and not sharded:
        samples = np.rint(split.seconds * model.extractor.sampling_rate).astype(np.int64)
        model.keep_features(
            cache / "features", samples, runtime.precision, t.feature_cache_gb * 1e9, runtime.world
        )
    factor = make_schedule(s.name, total, s.warmup_steps, s.warmup_ratio, s.hold_ratio, s.final_scale)
    peak = max(range(1, total + 1), key=factor, default=1)
    recipe = Recipe(
        total,
        max(peak, config.model.freeze_encoder_steps),
        o.lr,
        tokenizer.tokens,
        tokenizer.blank,
        plan.steps_per_epoch if t.shortest_first else 0,
        not config.model.freeze_front_end and config.model.checkpoint is not None,
    )
    return TrainingSetup(
        model=model,
        split=split,
        plan=plan,
        masks=model.masks(config.seed),
        speed=speed,
        optimizer=optimizer,
        factor=factor,
        runtime=runtime,
        seed=config.seed,
        blank=tokenizer.blank,
        reduction=t.loss_reduction,
        clip_norm=o.clip_norm,
        freeze_encoder_steps=config.model.freeze_encoder_steps,
        ema=None if t.ema is None else Ema(model.network, t.ema),
        scaler=torch.amp.GradScaler(runtime.device.type, enabled=runtime.precision == "fp16"),
        total=total,
        eval_every=t.eval_every or plan.steps_per_epoch,
        log_every=t.log_every,
        patience=t.patience,
        select=t.select,
        recipe=recipe,
        sharded=sharded,
    )
