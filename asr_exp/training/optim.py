"""Optimizers and learning-rate schedules by name."""

import fnmatch
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from asr_exp.core.errors import UserError, nearest
from asr_exp.core.registry import Registry
from asr_exp.runtime.fsdp import is_sharded

OptimizerFactory = Callable[..., torch.optim.Optimizer]
Shape = Callable[[float], float]
OPTIMIZERS: Registry[OptimizerFactory] = Registry("optimizer.name")
SCHEDULES: Registry[Callable[..., Shape]] = Registry("schedule.name")


def register_optimizer(name: str) -> Callable[[OptimizerFactory], OptimizerFactory]:
    """Register `factory(groups, **settings) -> optimizer` as `optimizer.name=name`.

    groups: parameter groups as torch takes them; settings: the other keys of the config's section.
    """
    return OPTIMIZERS.register(name)


def register_schedule(name: str) -> Callable[[Callable[..., Shape]], Callable[..., Shape]]:
    """Register `factory(hold, final_scale) -> shape` as `schedule.name=name`.

    shape(progress) is the factor on the peak learning rate, where progress runs from 0 (the warm-up is over)
    to 1 (the last step). hold: the share of that way that stays at the peak; final_scale: the last factor.
    """
    return SCHEDULES.register(name)


@register_optimizer("adamw")
def _adamw(
    groups: Iterable[dict], lr: float, betas: Sequence[float], eps: float, **_: Any
) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=True)


@register_optimizer("sgd")
def _sgd(groups: Iterable[dict], lr: float, momentum: float, **_: Any) -> torch.optim.Optimizer:
    groups = list(groups)
    # torch has no fused kernel of SGD for sharded parameters (seen with torch 2.14)
    sharded = any(is_sharded(parameter) for group in groups for parameter in group["params"])
    how = {"foreach": True} if sharded else {"fused": True}
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, **how)


def make_optimizer(
    model: nn.Module, name: str, lr: float, weight_decay: float, lr_scale: dict[str, float], **settings: Any
) -> torch.optim.Optimizer:
    """Build an optimizer over the trained parameters, with no weight decay on biases and norms.

    Args:
        model: those of its parameters that need no gradient are left out.
        name: of a registered optimizer.
        lr: the peak learning rate.
        weight_decay: of parameters with more than one dimension.
        lr_scale: factors on the learning rate, by patterns of parameter names as in a shell.
        settings: whatever else the optimizer takes.

    Returns:
        The optimizer; each of its groups has its peak as `peak_lr`.

    Raises:
        UserError: for an unknown optimizer, or a pattern that matches no trained parameter.
    """
    OPTIMIZERS.check(name)
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
    optimizer = OPTIMIZERS.make(
        name,
        [
            {"params": p, "lr": lr * factor, "peak_lr": lr * factor, "weight_decay": decay}
            for (factor, decay), p in groups.items()
        ],
        lr=lr,
        **settings,
    )
    fits = isinstance(optimizer, torch.optim.Optimizer)
    OPTIMIZERS.expect(name, fits, optimizer, "an optimizer of torch (torch.optim.Optimizer)")
    return optimizer


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


def _checked(name: str, shape: Shape) -> Shape:
    """A plugin's shape, of which each value is looked at."""

    def factor(t: float) -> float:
        value = shape(t)
        fits = isinstance(value, int | float) and math.isfinite(value) and value >= 0
        SCHEDULES.expect(
            name, fits, value, f"a finite factor of at least 0, and at {t:.2f} of the steps it gave {value!r}"
        )
        return value

    return factor


def make_schedule(
    name: str,
    total: int,
    warmup_steps: int | None,
    warmup_ratio: float,
    hold_ratio: float,
    final_scale: float,
) -> Callable[[int], float]:
    """Build a learning-rate schedule: a linear warm-up, then the shape of that name.

    Args:
        name: of a registered schedule.
        total: the number of steps.
        warmup_steps: how long the warm-up lasts; None: as `warmup_ratio` says.
        warmup_ratio: how long it lasts, as a share of all steps.
        hold_ratio: how long the peak is held after it, as a share of all steps, where the shape holds it.
        final_scale: the factor at the last step.

    Returns:
        The factor on the peak learning rate as a function of the step, from 1 to `total`.

    Raises:
        UserError: for an unknown name.
    """
    warmup = round(warmup_ratio * total) if warmup_steps is None else warmup_steps
    after = max(1, total - warmup)
    shape = SCHEDULES.make(name, min(1.0, hold_ratio * total / after), final_scale)
    SCHEDULES.expect(name, callable(shape), shape, "a function of the share of the steps done, from 0 to 1")
    if name in SCHEDULES.places:
        shape = _checked(name, shape)
    # After the warm-up step s uses the rate reached after s - 1 steps, as the schedulers of torch and
    # transformers do. Within it step s uses s / warmup, so that the first step is not wasted on a rate of 0.
    return lambda step: (
        step / max(1, warmup) if step <= warmup else shape(min(1.0, (step - 1 - warmup) / after))
    )
