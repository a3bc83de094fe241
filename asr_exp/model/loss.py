"""The CTC loss of each utterance of a batch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from asr_exp.model.recogniser import Emissions


def ctc_losses(
    emissions: Emissions, labels: torch.Tensor, label_lengths: Sequence[int], blank: int, reduction: str
) -> torch.Tensor:
    """The CTC loss of each utterance (Graves et al. 2006).

    An utterance that cannot be aligned gives exactly 0 and no gradient. A finite loss is never exactly 0, so
    callers can tell.

    Args:
        emissions: of the batch.
        labels: (all labels,) of the utterances, one after the other.
        label_lengths: the number of labels of each utterance.
        blank: the number of the blank.
        reduction: mean divides the loss of an utterance by its number of labels; sum does not.

    Returns:
        (batch,) in fp32.
    """
    # A gradient comes from differences of log-likelihoods of a thousand and more: in fp32 its relative error
    # is 1e-5 to 1e-4.
    dtype = torch.float64 if torch.is_grad_enabled() else torch.float32
    log_probs = F.log_softmax(emissions.logits, dim=-1, dtype=dtype).transpose(0, 1)
    frames, lengths = torch.tensor(emissions.frames), torch.tensor(label_lengths)
    with torch.backends.cudnn.flags(enabled=False):
        losses = F.ctc_loss(
            log_probs, labels, frames, lengths, blank=blank, reduction="none", zero_infinity=True
        )
    losses = losses.float()
    return (
        losses / lengths.clamp(min=1).to(losses.device, non_blocking=True) if reduction == "mean" else losses
    )
