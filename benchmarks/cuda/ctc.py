"""The CTC loss and its gradient on the device against torch's, in double precision on the CPU."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from asr_exp.model.loss import ctc_losses
from asr_exp.model.recogniser import Emissions
from benchmarks.cuda.parts import Attempt, Bench, Row, check

BLANK = 0
VOCABULARY = 40
BOUND = 1e-5
# (what, frames, labels, largest logit) of each utterance; labels: a number of random ones, or themselves
Case = tuple[str, list[tuple[int, int | list[int], float]]]
CASES: list[Case] = [
    ("ordinary", [(500, 60, 5.0), (320, 41, 5.0), (77, 9, 5.0)]),
    ("as many labels as frames", [(12, list(range(1, 13)), 3.0), (12, list(range(2, 14)), 3.0)]),
    ("repeated labels that just fit", [(11, [5] * 6, 3.0), (9, [3, 3, 3, 3, 3], 3.0)]),
    ("no labels, and one", [(30, [], 3.0), (30, [4], 3.0), (1, [4], 3.0)]),
    ("certain and wrong", [(200, 30, 60.0), (90, 12, 200.0)]),
    ("long", [(3000, 500, 8.0), (1500, 250, 8.0)]),
    ("some that cannot be aligned", [(20, 15, 4.0), (4, [1, 2, 3, 4, 5], 4.0), (3, [7, 7], 4.0)]),
    ("very different lengths", [(1800, 300, 5.0), (3, [9], 5.0), (600, 2, 5.0)]),
]


def run(bench: Bench) -> Iterator[Row]:
    """Rows of `check`: losses, gradients, and whether they are the same bytes again."""
    for number, (what, rows) in enumerate(CASES):
        attempt = Attempt(case=what)
        found: list[Row] = []
        with attempt:
            found = list(_compare(number, rows, bench.device))
        yield from [{**attempt.row, **row} for row in found] or [attempt.row]


def _compare(number: int, rows: list[tuple[int, int | list[int], float]], device: str) -> Iterator[Row]:
    torch.manual_seed(number)
    frames = [count for count, *_ in rows]
    labels = [
        torch.randint(1, VOCABULARY, (one,)).tolist() if isinstance(one, int) else one for _, one, _ in rows
    ]
    logits = torch.zeros(len(rows), max(frames), VOCABULARY)
    for row, (count, _, largest) in zip(logits, rows, strict=True):
        row[:count] = largest * torch.randn(count, VOCABULARY) / 3
    flat = torch.tensor([label for row in labels for label in row], dtype=torch.int64)
    lengths = [len(row) for row in labels]
    wanted, wanted_gradient = _reference(logits, flat, frames, lengths)
    found, gradient = _ours(logits, flat, frames, lengths, device)
    again, gradient_again = _ours(logits, flat, frames, lengths, device)
    scale = wanted.abs().clamp(min=1.0)
    yield check("loss, relative", float(((found - wanted).abs() / scale).max()), BOUND)
    largest = float(wanted_gradient.abs().max())
    worst = float((gradient - wanted_gradient).abs().max()) / (largest or 1.0)
    yield check("gradient, of the largest", worst, BOUND)
    same = torch.equal(found, again) and torch.equal(gradient, gradient_again)
    yield {"what": "the same bytes a second time", "found": "yes" if same else "no"}


def _reference(
    logits: torch.Tensor, labels: torch.Tensor, frames: list[int], lengths: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """torch's losses, a row's divided by its labels, 0 where it cannot be aligned; and their gradient."""
    leaf = logits.double().requires_grad_()
    losses = F.ctc_loss(
        leaf.log_softmax(-1).transpose(0, 1),
        labels,
        torch.tensor(frames),
        torch.tensor(lengths),
        blank=BLANK,
        reduction="none",
        zero_infinity=True,
    )
    losses = losses / torch.tensor(lengths).clamp(min=1)
    losses.sum().backward()
    assert leaf.grad is not None
    return losses.detach(), leaf.grad


def _ours(
    logits: torch.Tensor, labels: torch.Tensor, frames: list[int], lengths: list[int], device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = logits.to(device, copy=True).requires_grad_()
    losses = ctc_losses(Emissions(leaf, frames), labels.to(device), lengths, BLANK, "mean")
    losses.sum().backward()
    assert leaf.grad is not None
    return losses.detach().double().cpu(), leaf.grad.double().cpu()
