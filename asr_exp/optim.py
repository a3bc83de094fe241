"""Optimizers and learning-rate schedules by name; gradients summed across ranks, clipped, and kept finite."""

import fnmatch
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from asr_exp.errors import UserError, nearest
from asr_exp.registry import Registry
from asr_exp.sharding import is_sharded

OptimizerFactory = Callable[..., torch.optim.Optimizer]
Shape = Callable[[float], float]
OPTIMIZERS: Registry[OptimizerFactory] = Registry("optimizer.name")
SCHEDULES: Registry[Callable[..., Shape]] = Registry("schedule.name")
BUCKET = 32 * 2**20  # bytes of gradients summed across ranks in one message


def register_optimizer(name: str) -> Callable[[OptimizerFactory], OptimizerFactory]:
    """Make `factory(groups, **settings)` known as `optimizer.name=name`; settings are the section's other keys."""
    return OPTIMIZERS.register(name)


def register_schedule(name: str) -> Callable[[Callable[..., Shape]], Callable[..., Shape]]:
    """Make `factory(hold, final_scale) -> shape` known as `schedule.name=name`.

    shape(progress) gives the factor on the peak learning rate, progress running from 0 (warm-up over) to 1 (the end).
    """
    return SCHEDULES.register(name)


@register_optimizer("adamw")
def _adamw(groups: Iterable[dict], lr: float, betas: Sequence[float], eps: float, **_: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=True)


@register_optimizer("sgd")
def _sgd(groups: Iterable[dict], lr: float, momentum: float, **_: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True)


def make_optimizer(model: nn.Module, name: str, lr: float, weight_decay: float, lr_scale: dict[str, float],
                   **settings: Any) -> torch.optim.Optimizer:
    """An optimizer over the trained parameters: no weight decay on biases and norms, learning-rate factors by name pattern.

    Raises UserError for an unknown optimizer or a pattern that names no parameter.
    """
    factory = OPTIMIZERS.find(name)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for pattern in lr_scale:
        if not fnmatch.filter(trained, pattern):
            raise UserError(f"optimizer.lr_scale: no trained parameter is named like {pattern!r}.{nearest(pattern, trained)}")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter_name, parameter in trained.items():
        factor = math.prod(f for pattern, f in lr_scale.items() if fnmatch.fnmatch(parameter_name, pattern))
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return factory(
        [{"params": p, "lr": lr * factor, "peak_lr": lr * factor, "weight_decay": decay} for (factor, decay), p in groups.items()],
        lr=lr, **settings,
    )


# ---------------------------------------------------------------------------------------------------------------------
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


def make_schedule(name: str, total: int, warmup_steps: int | None, warmup_ratio: float, hold_ratio: float,
                  final_scale: float) -> Callable[[int], float]:
    """factor(step) on the peak learning rate for steps 1 .. total, after a linear warm-up.

    Raises UserError for an unknown name.
    """
    warmup = round(warmup_ratio * total) if warmup_steps is None else warmup_steps
    after = max(1, total - warmup)
    shape = SCHEDULES.find(name)(min(1.0, hold_ratio * total / after), final_scale)
    # Step s uses the rate reached after s - 1 steps, as torch's and transformers' schedulers do; the first is not wasted on 0.
    return lambda step: step / max(1, warmup) if step <= warmup else shape(min(1.0, (step - 1 - warmup) / after))


# ---------------------------------------------------------------------------------------------------------------------
# gradients


class GradientSum:
    """Sums gradients over ranks in buckets, each sent once a rank's last backward pass of a step has made it, beside the rest of that pass.

    Buckets go out in one order on every rank, from the last parameters to the first, whatever passes it has to make. A parameter
    that a rank did not use (a dropped layer, no utterance) counts as zero.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], world: int):
        self.parameters, self.world = parameters, world
        self._buckets: list[list[nn.Parameter]] = []
        self._sent: list[tuple[Any, torch.Tensor]] = []
        self._bucket_of: dict[nn.Parameter, int] = {}
        self._missing: list[int] = []  # gradients of each bucket
        if world > 1:
            for parameter in parameters:
                parameter.register_post_accumulate_grad_hook(self._made)

    def last_pass(self, unused: Iterable[nn.Parameter] = ()) -> None:
        """The backward pass to come is this rank's last of the step. unused: parameters that have no part in it."""
        if self.world > 1:
            self._buckets = list(_buckets([p for p in reversed(self.parameters) if p.requires_grad]))
            self._bucket_of = {p: number for number, bucket in enumerate(self._buckets) for p in bucket}
            for parameter in unused:
                self._bucket_of.pop(parameter, None)
            waited_for = Counter(self._bucket_of.values())
            self._missing = [waited_for[number] for number in range(len(self._buckets))]

    def _made(self, parameter: nn.Parameter) -> None:
        if self._buckets:
            self._missing[self._bucket_of[parameter]] -= 1
            while len(self._sent) < len(self._buckets) and not self._missing[len(self._sent)]:
                self._send()

    def _send(self) -> None:
        bucket = self._buckets[len(self._sent)]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket])
        self._sent.append((dist.all_reduce(flat, async_op=True), flat))

    def finish(self) -> None:
        """Send what is left, and put the sums in the gradients' place.

        Zeros for missing ones on one rank too: the optimizer would pass over a missing gradient, and would not over the sum of several.
        """
        for parameter in self.parameters:
            if parameter.grad is None and parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        if self.world == 1:
            return
        if not self._buckets:  # no pass at all
            self.last_pass()
        while len(self._sent) < len(self._buckets):
            self._send()
        for bucket, (work, flat) in zip(self._buckets, self._sent, strict=True):
            work.wait()
            for parameter, total in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                parameter.grad.copy_(total.view_as(parameter))  # type: ignore[union-attr]
        self._buckets, self._sent = [], []


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Runs of parameters of at least BUCKET bytes, but for the last."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        bucket.append(parameter)
        if sum(p.nbytes for p in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def clip_gradients(parameters: Sequence[nn.Parameter], largest: float | None) -> torch.Tensor:
    """Scale gradients down to a global norm of at most `largest` -> the norm before, a scalar on the device."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if is_sharded(norm):
        norm = norm.full_tensor()  # type: ignore[attr-defined]
    if largest is not None:
        torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))
    return norm


def step_if_finite(optimizer: torch.optim.Optimizer, norm: torch.Tensor) -> None:
    """The optimizer's step, unless the gradients' norm is not finite: then weights and moments stay as they are."""
    if optimizer.defaults.get("fused"):
        optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]  # the kernel looks: no host sync
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.step()
    elif torch.isfinite(norm):
        optimizer.step()


class Ema:
    """Exponential moving average of the trained weights (Polyak & Juditsky 1992), started from the first step's weights."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self._live = [p for p in model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self._live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        # The average of few steps follows closely, so that early evaluations do not score the initial weights.
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self._live], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the live weights and the average; a second call undoes it."""
        for live, average in zip(self._live, self.average, strict=True):
            kept = live.detach().clone()
            live.copy_(average)
            average.copy_(kept)
