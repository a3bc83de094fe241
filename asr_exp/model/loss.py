"""The CTC loss of each utterance of a batch."""

import logging
from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F

from asr_exp.core.errors import UserError
from asr_exp.model.recogniser import Emissions
from asr_exp.runtime.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)


def ctc_losses(
    emissions: Emissions, labels: torch.Tensor, label_lengths: Sequence[int], blank: int, reduction: str
) -> torch.Tensor:
    """The CTC loss of each utterance (Graves et al. 2006).

    An utterance that cannot be aligned gives exactly 0 and no gradient. A finite loss is never exactly 0, so
    callers can tell.

    On CUDA kernels of our own compute it, in double, without a wait for the device and the same in every run;
    torch does where Triton cannot compile them, or where a transcript is too long for them.

    Args:
        emissions: of the batch.
        labels: (all labels,) of the utterances, one after the other.
        label_lengths: the number of labels of each utterance.
        blank: the number of the blank.
        reduction: mean divides the loss of an utterance by its number of labels; sum does not.

    Returns:
        (batch,) in fp32.

    Raises:
        UserError: torch would have to compute it on CUDA, where it is not deterministic, although
            deterministic algorithms were asked for.
    """
    logits = emissions.logits
    ctc = _kernels_for(logits.device.index, max(label_lengths)) if logits.is_cuda else None
    if ctc:
        losses, lengths = ctc(logits, labels, emissions.frames, label_lengths, blank)
        return losses / lengths.clamp(min=1) if reduction == "mean" else losses
    return _losses_by_torch(logits, labels, emissions.frames, label_lengths, blank, reduction)


def _losses_by_torch(
    logits: torch.Tensor,
    labels: torch.Tensor,
    frames: Sequence[int],
    label_lengths: Sequence[int],
    blank: int,
    reduction: str,
) -> torch.Tensor:
    """`ctc_losses` by torch's own function, which waits for a GPU several times."""
    # A gradient comes from differences of log-likelihoods of a thousand and more: in fp32 its relative error
    # is 1e-5 to 1e-4.
    dtype = torch.float64 if torch.is_grad_enabled() else torch.float32
    log_probs = F.log_softmax(logits, dim=-1, dtype=dtype).transpose(0, 1)
    lengths = torch.tensor(label_lengths)
    with torch.backends.cudnn.flags(enabled=False):
        losses = F.ctc_loss(
            log_probs,
            labels,
            torch.tensor(frames),
            lengths,
            blank=blank,
            reduction="none",
            zero_infinity=True,
        )
    losses = losses.float()
    return (
        losses / lengths.clamp(min=1).to(losses.device, non_blocking=True) if reduction == "mean" else losses
    )


def _kernels_for(device: int, longest: int) -> Callable[..., tuple[torch.Tensor, torch.Tensor]] | None:
    """`ctc.ctc` where it takes transcripts of `longest` labels on a device, None where torch has to."""
    problem = _problem(device)
    if not problem:
        from asr_exp.model.ctc import LONGEST, ctc

        if longest <= LONGEST:
            return ctc
        problem = f"a transcript has {longest} labels, and they take {LONGEST}"
    if torch.is_grad_enabled() and torch.are_deterministic_algorithms_enabled():
        raise UserError(
            "trainer.deterministic=true: torch's CTC loss is not deterministic on CUDA, and the project's own"
            f" kernels cannot be used: {problem}. Type trainer.deterministic=false."
        )
    return None


@cache
def _problem(device: int) -> str:
    """Why a device cannot run the kernels of `ctc`, which is logged once; '' where it can."""
    try:
        _compare_with_torch(torch.device("cuda", device))
    except Exception as error:  # a missing library, compiler's and driver's errors of all kinds
        if is_out_of_memory(error):  # which says nothing of the kernels: the pass is made again, in parts
            raise
        lines = str(error).strip().splitlines()
        problem = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
        log.warning(
            "The CTC loss is left to torch, which is slower and not the same in every run to the last bit."
            " The project's own kernels cannot be used: %s",
            problem,
        )
        return problem
    return ""


@torch.inference_mode(False)
@torch.enable_grad()
def _compare_with_torch(device: torch.device) -> None:
    """Compute losses and gradients of two utterances, one of which several warps share, by the kernels and
    by torch. Raises ArithmeticError where they differ: a device that the kernels are wrong on is not used.
    """
    from asr_exp.model.ctc import ctc

    frames, lengths = [150, 20], [70, 3]
    size = 7  # of the vocabulary
    values = torch.sin(torch.arange(2 * frames[0] * size) ** 1.5).view(2, frames[0], size).to(device)
    labels = (torch.arange(sum(lengths)) // 2 % (size - 1) + 1).to(
        device
    )  # each twice: repeats need a blank between
    found = []
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)  # torch's gradient has no other way
    try:
        for kernels in (True, False):
            logits = (3 * values).requires_grad_()
            losses = (
                ctc(logits, labels, frames, lengths, 0)[0]
                if kernels
                else _losses_by_torch(logits, labels, frames, lengths, 0, "sum")
            )
            found += [losses.detach(), *torch.autograd.grad(losses.sum(), logits)]
    finally:
        torch.use_deterministic_algorithms(deterministic)
    for ours, theirs in ((found[0], found[2]), (found[1], found[3])):
        if not torch.allclose(ours.cpu(), theirs.cpu(), rtol=1e-4, atol=1e-5):
            raise ArithmeticError("on this device they do not give what torch gives")
