"""The CTC kernels under Triton's interpreter against torch's loss in double, on a CPU.

    TRITON_INTERPRET=1 python tests/ctc_cases.py CASE ...

prints a JSON line for each case. The variable has to be there before triton is imported.
"""

import json
import sys
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from asr_exp.model.ctc import ctc

IMPOSSIBLE = -1e4  # stands for -inf in torch's loss, whose gradient is not a number there


def transcript(length: int, vocabulary: int) -> torch.Tensor:
    """Labels of which every third or so repeats the one before."""
    labels = torch.randint(1, vocabulary, (length,))
    for place in range(1, length):
        if torch.rand(()) < 0.3:
            labels[place] = labels[place - 1]
    return labels


def noise(
    lengths: Sequence[tuple[int, int]], vocabulary: int, scale: float = 1.0
) -> tuple[torch.Tensor, list[torch.Tensor], list[int]]:
    """Logits, transcripts and frames of utterances of so many (frames, labels)."""
    frames = [t for t, _ in lengths]
    logits = scale * torch.randn(len(frames), max(frames), vocabulary)
    return logits, [transcript(n, vocabulary) for _, n in lengths], frames


def confident() -> tuple[torch.Tensor, list[torch.Tensor], list[int]]:
    """A label every fifth frame and the blank elsewhere, almost for sure: the loss is nearly 0."""
    logits, labels, frames = noise([(30, 6)], 32)
    labels = [torch.arange(6) + 1]
    logits[0, :, 0] += 14
    for place, label in enumerate(labels[0].tolist()):
        logits[0, 5 * place + 2, label] += 28
    return logits, labels, frames


def minimal() -> tuple[torch.Tensor, list[torch.Tensor], list[int]]:
    """As many frames as the transcript needs, with a blank between repeated labels, and one less."""
    logits, labels, frames = noise([(6, 4), (5, 4)], 8)
    return logits, [torch.tensor([1, 1, 2, 2]) for _ in labels], frames


def forbidden() -> tuple[torch.Tensor, list[torch.Tensor], list[int]]:
    """A label that is -inf at every frame, beside a transcript that has it and one that has it not; and one
    frame at which another is.
    """
    logits, _, frames = noise([(9, 3), (9, 3)], 8)
    logits[:, :, 3], logits[1, 4, 5] = float("-inf"), float("-inf")
    return logits, [torch.tensor([1, 3, 2]), torch.tensor([1, 5, 5])], frames


def not_a_number() -> tuple[torch.Tensor, list[torch.Tensor], list[int]]:
    logits, labels, frames = noise([(8, 2), (9, 3)], 8)
    logits[0, 3, 2] = float("nan")
    return logits, labels, frames


CASES = {
    "not a number": not_a_number,
    "mixed lengths": lambda: noise([(14, 4), (9, 3), (6, 0), (1, 1), (1, 0)], 9),
    "peaky": lambda: noise([(16, 5)], 12, 20.0),
    "minimal": minimal,
    "forbidden": forbidden,
    "confident": confident,
    "vocabulary of 400": lambda: noise([(14, 5)], 400),
    "several tiles": lambda: noise([(60, 37)], 70),
    "long": lambda: noise([(1500, 300)], 32),
    "long and peaky": lambda: noise([(1500, 300)], 32, 20.0),
    "long, vocabulary of 400": lambda: noise([(200, 60), (150, 40)], 400, 5.0),
}


def compare(name: str) -> dict[str, object]:
    """The losses and gradients of a case by both, and the largest element of an error.

    loss_error: relative. gradient_error: relative where an element of the gradient is above 1e-5, and else
    divided by 1e-5.
    """
    torch.manual_seed(sorted(CASES).index(name))
    logits, transcripts, frames = CASES[name]()
    labels, lengths = torch.cat(transcripts), [len(one) for one in transcripts]
    weights = torch.rand(len(frames)) + 0.5
    ours = logits.clone().requires_grad_(True)
    losses = ctc(ours, labels, frames, lengths, 0)[0]
    (losses * weights).sum().backward()
    with torch.no_grad():
        scored = ctc(logits, labels, frames, lengths, 0)[0]
    double = logits.double().clamp(min=IMPOSSIBLE).requires_grad_(True)
    log_probs = F.log_softmax(double, dim=-1).transpose(0, 1)
    expected = F.ctc_loss(
        log_probs, labels, torch.tensor(frames), torch.tensor(lengths), reduction="none", zero_infinity=True
    )
    expected = torch.where(expected > -IMPOSSIBLE / 2, 0.0, expected) if name == "forbidden" else expected
    (expected * weights.double()).sum().backward()
    assert ours.grad is not None and double.grad is not None
    gradient = torch.where((expected == 0)[:, None, None], 0.0, double.grad)
    error = (ours.grad.double() - gradient).abs() / gradient.abs().clamp(min=1e-5)
    return {
        "losses": losses.tolist(),
        "expected": expected.tolist(),
        "scored": scored.tolist(),
        "loss_error": float(((losses - expected).abs() / expected.abs().clamp(min=1e-30)).max()),
        "gradient_error": float(error.max()),
        "gradient_of": ours.grad.abs().amax(dim=(1, 2)).tolist(),
    }


if __name__ == "__main__":
    for case in sys.argv[1:]:
        print(json.dumps(compare(case)), flush=True)
