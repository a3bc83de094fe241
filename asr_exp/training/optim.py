"""Optimizers and learning-rate schedules by name."""

import fnmatch
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from asr_exp.core.errors import UserError, nearest
from asr_exp.core.registry import Registry

OptimizerFactory = Callable[..., torch.optim.Optimizer]
Shape = Callable[[float], float]
OPTIMIZERS: Registry[OptimizerFactory] = Registry("optimizer.name")
SCHEDULES: Registry[Callable[..., Shape]] = Registry("schedule.name")


def register_optimizer(name: str) -> Callable[[OptimizerFactory], OptimizerFactory]:
    """Make `factory(groups, **settings)` known as `optimizer.name=name`; settings are the section's other
    keys.
    """
    return OPTIMIZERS.register(name)


def register_schedule(name: str) -> Callable[[Callable[..., Shape]], Callable[..., Shape]]:
    """Make `factory(hold, final_scale) -> shape` known as `schedule.name=name`.

    shape(progress) gives the factor on the peak learning rate, progress running from 0 (warm-up over) to 1
    (the end).
    """
    return SCHEDULES.register(name)


@register_optimizer("adamw")
def _adamw(
    groups: Iterable[dict], lr: float, betas: Sequence[float], eps: float, **_: Any
) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=True)


@register_optimizer("sgd")
def _sgd(groups: Iterable[dict], lr: float, momentum: float, **_: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True)


def make_optimizer(
    model: nn.Module, name: str, lr: float, weight_decay: float, lr_scale: dict[str, float], **settings: Any
) -> torch.optim.Optimizer:
    """An optimizer over the trained parameters: no weight decay on biases and norms, learning-rate factors by
    name pattern.

    Raises UserError for an unknown optimizer or a pattern that names no parameter.
    """
    factory = OPTIMIZERS.find(name)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for pattern in lr_scale:
        if not fnmatch.filter(trained, pattern):
            raise UserError(
                "optimizer.lr_scale: no trained parameter is named like"
                f" {pattern!r}.{nearest(pattern, trained)}"
            )
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter_name, parameter in trained.items():
        factor = math.prod(f for pattern, f in lr_scale.items() if fnmatch.fnmatch(parameter_name, pattern))
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return factory(
        [
            {"params": p, "lr": lr * factor, "peak_lr": lr * factor, "weight_decay": decay}
            for (factor, decay), p in groups.items()
        ],
        lr=lr,
        **settings,
    )


# ------------------------------------------------------------------------------------------------------------
# schedules: factors on the peak learning rate


@register_schedule("linear")
def _linear(hold: float, final_scale: float) -> Shape:
    return lambda t: final_scale + (1 - final_scale) * (1 - t)


@register_schedule("cosine")
def _cosine(hold: float, final_scale: float) -> Shape:
    return lambda t: final_scale + (1 - final_scale) * 0.5 * (1 + math.cos(math.pi * t))


@register_schedule("constant")
def _constant(hold: float, final_scale: float) -> Shape:
    return lambda t: 1.0


@register_schedule("tri-stage")
def _tri_stage(hold: float, final_scale: float) -> Shape:
    """Hold the peak, then decay exponentially (Baevski et al. 2020, as in fairseq)."""
    floor = max(final_scale, 1e-8)
    return lambda t: 1.0 if t <= hold else floor ** ((t - hold) / (1 - hold))


def make_schedule(
    name: str,
    total: int,
    warmup_steps: int | None,
    warmup_ratio: float,
    hold_ratio: float,
    final_scale: float,
) -> Callable[[int], float]:
    """factor(step) on the peak learning rate for steps 1 .. total, after a linear warm-up.

    Raises UserError for an unknown name.
    """
    warmup = round(warmup_ratio * total) if warmup_steps is None else warmup_steps
    after = max(1, total - warmup)
    shape = SCHEDULES.find(name)(min(1.0, hold_ratio * total / after), final_scale)
    # Step s uses the rate reached after s - 1 steps, as torch's and transformers' schedulers do; the first is
    # not wasted on 0.
    return lambda step: (
        step / max(1, warmup) if step <= warmup else shape(min(1.0, (step - 1 - warmup) / after))
    )
