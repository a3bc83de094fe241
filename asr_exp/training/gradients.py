"""Gradients: summed across ranks, clipped, and applied where they are finite."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from asr_exp.runtime.fsdp import is_sharded

BUCKET = 32 * 2**20  # bytes of gradients summed across ranks in one message


class GradientSum:
    """Sums gradients over ranks in buckets, each sent once a rank's last backward pass of a step has made it,
    beside the rest of that pass.

    Buckets go out in one order on every rank, from the last parameters to the first, whatever passes it has
    to make. A parameter that a rank did not use (a dropped layer, no utterance) counts as zero.
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
        """The backward pass to come is this rank's last of the step. unused: parameters that have no part in
        it.
        """
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

        Zeros for missing ones on one rank too: the optimizer would pass over a missing gradient, and would
        not over the sum of several.
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
    """Scale gradients down to a global norm of at most `largest` -> the norm before, a scalar on the
    device.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if is_sharded(norm):
        norm = norm.full_tensor()  # type: ignore[attr-defined]
    if largest is not None:
        torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))
    return norm


def step_if_finite(optimizer: torch.optim.Optimizer, norm: torch.Tensor) -> None:
    """The optimizer's step, unless the gradients' norm is not finite: then weights and moments stay as they
    are.
    """
    if optimizer.defaults.get("fused"):
        optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]  # the kernel looks: no host sync
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.step()
    elif torch.isfinite(norm):
        optimizer.step()
