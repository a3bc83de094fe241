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
    """Sums gradients over the ranks in buckets. Each is sent as soon as a rank's last backward pass of a step
    has computed it, while the rest of that pass goes on.

    Buckets are sent in the same order on every rank, from the last parameters to the first, however many
    passes a rank makes. A parameter that a rank did not use (a dropped layer, no utterance) counts as zero.

    Why not torch's DistributedDataParallel: it expects the same number of passes on every rank, divides by
    the number of ranks where the loss is a mean over the utterances of all of them, and finds dropped layers
    by a walk through the graph in every step.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], world: int):
        self.parameters = parameters
        self.world = world
        self._buckets: list[list[nn.Parameter]] = []
        self._sent: list[tuple[Any, torch.Tensor]] = []
        self._bucket_of: dict[nn.Parameter, int] = {}
        self._missing: list[int] = []  # of each bucket, the gradients that are still to be computed
        if world > 1:
            for parameter in parameters:
                parameter.register_post_accumulate_grad_hook(self._on_gradient)

    def last_pass(self, unused: Iterable[nn.Parameter] = ()) -> None:
        """Announce that the next backward pass is this rank's last of the step. unused: the parameters that
        have no part in it.
        """
        if self.world > 1:
            self._buckets = list(_buckets([p for p in reversed(self.parameters) if p.requires_grad]))
            self._bucket_of = {p: number for number, bucket in enumerate(self._buckets) for p in bucket}
            for parameter in unused:
                self._bucket_of.pop(parameter, None)
            expected = Counter(self._bucket_of.values())
            self._missing = [expected[number] for number in range(len(self._buckets))]

    def restart(self) -> None:
        """This rank makes its passes of the step anew. Buckets that it has sent hold sums over all ranks
        already, and are not sent again.
        """
        self._buckets = []

    def _on_gradient(self, parameter: nn.Parameter) -> None:
        """Autograd has computed the gradient of a parameter: send the buckets that are complete by now."""
        if self._buckets:
            self._missing[self._bucket_of[parameter]] -= 1
            while len(self._sent) < len(self._buckets) and not self._missing[len(self._sent)]:
                self._send()

    def _send(self) -> None:
        bucket = self._buckets[len(self._sent)]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket])
        self._sent.append((dist.all_reduce(flat, async_op=True), flat))

    def finish(self) -> None:
        """Send the remaining buckets, wait, and replace the gradients by their sums.

        With one rank too, missing gradients become zeros: an optimizer leaves out a parameter without a
        gradient, but not one whose gradient is a sum of zeros, and runs would differ by their ranks.
        """
        for parameter in self.parameters:
            if parameter.grad is None and parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        if self.world == 1:
            return
        if not self._buckets:  # this rank has made no pass in the step
            self.last_pass()
        while len(self._sent) < len(self._buckets):
            self._send()
        for bucket, (work, flat) in zip(self._buckets, self._sent, strict=True):
            work.wait()
            for parameter, total in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                parameter.grad.copy_(total.view_as(parameter))  # type: ignore[union-attr]
        self._buckets, self._sent = [], []


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Cut parameters, in their order, into lists of at least BUCKET bytes each; the last may have less."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        bucket.append(parameter)
        if sum(p.nbytes for p in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def clip_gradients(parameters: Sequence[nn.Parameter], largest: float | None) -> torch.Tensor:
    """Scale the gradients down to a global norm of at most `largest`; None: leave them as they are.

    Returns the norm before, a scalar on the device: nothing waits for it.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if is_sharded(norm):
        norm = norm.full_tensor()  # type: ignore[attr-defined]
    if largest is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm


def step_if_finite(optimizer: torch.optim.Optimizer, norm: torch.Tensor) -> None:
    """Make the optimizer's step; where the norm of the gradients is not finite, leave weights and moments as
    they are.
    """
    if optimizer.defaults.get("fused"):
        _fused_step(optimizer, ~torch.isfinite(norm))
    elif torch.isfinite(norm):
        optimizer.step()


def _fused_step(optimizer: torch.optim.Optimizer, skip: torch.Tensor) -> None:
    """The step of a fused optimizer, in which the kernel itself looks whether to skip it: the host does not
    wait for the device.

    skip: a bool scalar on the device. It is handed over as torch's GradScaler does, by the attributes
    `found_inf` and `grad_scale`, which are described in GradScaler's source alone (seen with torch 2.14). A
    torch that no longer read them would apply a gradient that is not finite, and
    test_a_gradient_that_is_not_finite_leaves_everything_as_it_was would fail.
    """
    optimizer.found_inf = skip.float()  # type: ignore[attr-defined]
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.step()
