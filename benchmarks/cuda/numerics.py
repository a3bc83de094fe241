"""Every family of networks on the device against the CPU, in fp32 and bf16."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr_exp.data.batch import Batch
from asr_exp.model.loading import load_backbone
from asr_exp.model.loss import ctc_losses
from asr_exp.model.masking import build_masks
from asr_exp.model.model_config import ModelSettings
from asr_exp.model.recogniser import Recogniser
from asr_exp.runtime.distributed import Runtime, started
from benchmarks.cuda.parts import Attempt, Bench, Row, check

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from harness import FAMILIES, settings  # noqa: E402  # tiny networks of every family

LENGTHS = [8240, 16000, 5200, 12345, 8560]  # samples: odd and even frames, for SEW's squeezing by two
LABELS = [[1, 2, 2, 5], [7, 8, 9, 1, 1, 3], [4], [6, 2, 1], [11, 12]]
VOCABULARY = 32
BLANK = 0
MASKS = {"mask_time_prob": 0.4, "mask_time_length": 2, "mask_feature_prob": 0.2, "mask_feature_length": 4}
LOGITS = 1e-4  # of the largest logit
COSINE = {"fp32": 0.9999, "bf16": 0.99}


def run(bench: Bench) -> Iterator[Row]:
    """Rows of `check`, for each family: logits, gradients, packed against alone."""
    families = FAMILIES[:3] if bench.quick else FAMILIES
    for kind, norm in families:
        with started("cpu", "fp32") as cpu:
            there, here = (network(kind, norm, bench.device) for _ in range(2))  # of the same weights
            batch = batch_of(here, range(len(LENGTHS)))
            wanted, gradients = logits(here, batch, cpu), gradient(here, batch, cpu)
        for precision in ("fp32", "bf16"):
            with started(bench.device, precision) as runtime:
                there.to(runtime.device)
                attempt = Attempt(family=f"{kind}, {norm} norm", precision=precision)
                rows: list[Row] = []
                with attempt:
                    rows = list(_compare(there, batch, runtime, wanted, gradients))
                yield from [{**attempt.row, **row} for row in rows] or [attempt.row]


def _compare(
    model: Recogniser,
    batch: Batch,
    runtime: Runtime,
    wanted: list[torch.Tensor],
    gradients: dict[str, torch.Tensor],
) -> Iterator[Row]:
    there = batch.to(runtime.device)
    if runtime.precision == "fp32":
        found = logits(model, there, runtime)
        yield check("logits, of the largest", _worst(found, wanted), LOGITS)
        alone = [
            logits(model, batch_of(model, [i]).to(runtime.device), runtime)[0] for i in range(len(LENGTHS))
        ]
        yield check("packed against alone, of the largest logit", _worst(found, alone), LOGITS)
    own = gradient(model, there, runtime)
    least = COSINE[runtime.precision]
    yield check("gradient, cosine", cosine(_flat(own), _flat(gradients)), least, below=False)
    if runtime.precision == "fp32":  # of one tensor alone, bf16 says little
        largest = max(float(g.norm()) for g in gradients.values())
        by_tensor = {
            name: cosine(own[name].flatten(), g.flatten())
            for name, g in gradients.items()
            if float(g.norm()) > 1e-3 * largest
        }
        name = min(by_tensor, key=lambda one: by_tensor[one])
        yield check(
            "gradient, the least cosine of a tensor", by_tensor[name], least, below=False, tensor=name
        )


# ------------------------------------------------------------------------------------------------------------
# networks and batches


def network(kind: str, norm: str, device: str) -> Recogniser:
    """A tiny network of a family, in fp32 on the CPU, with weights large enough that its outputs differ; its
    attention is the one that the device gets.
    """
    torch.manual_seed(0)
    config = {k: v for k, v in settings(kind, norm).items() if k not in ("vocab_size", "mask_time_length")}
    augment = {**MASKS, "dropout": 0.0, "layerdrop": 0.0}
    chosen = ModelSettings(None, None, kind, config, augment, device=device)
    made, extractor = load_backbone(chosen, VOCABULARY, BLANK)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Recogniser(made, extractor)


def batch_of(model: Recogniser, indices: Any) -> Batch:
    """Noise of `LENGTHS`, with the masks of a step."""
    rng = np.random.default_rng(1)
    clips = [(rng.standard_normal(n) * 3000 * np.hanning(n)).astype(np.int16) for n in LENGTHS]
    chosen = [torch.from_numpy(clips[i]) for i in indices]
    lengths = [LENGTHS[i] for i in indices]
    labels = [LABELS[i] for i in indices]
    masks = build_masks(model.info, seed=5)
    drawn = masks.draw(3, np.array(list(indices)), lengths) if masks else (None, None)
    audio = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True)
    flat = torch.tensor([label for row in labels for label in row])
    return Batch(np.array(list(indices)), audio, lengths, flat, [len(row) for row in labels], *drawn)


@torch.no_grad()
def logits(model: Recogniser, batch: Batch, runtime: Runtime) -> list[torch.Tensor]:
    """The logits of each utterance, (frames, vocabulary), on the CPU."""
    model.eval()
    with runtime.autocast():
        emissions = model(batch)
    return [row[:n].cpu() for row, n in zip(emissions.logits, emissions.frames, strict=True)]


def gradient(model: Recogniser, batch: Batch, runtime: Runtime) -> dict[str, torch.Tensor]:
    """The gradient of the mean CTC loss by the name of the tensor, in double on the CPU."""
    model.train()
    model.zero_grad(set_to_none=True)
    with runtime.autocast():
        emissions = model(batch)
    ctc_losses(emissions, batch.labels, batch.label_lengths, BLANK, "mean").mean().backward()
    return {
        name: parameter.grad.double().cpu()
        for name, parameter in model.network.named_parameters()
        if parameter.grad is not None
    }


def _flat(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()).clamp(min=1e-300))


def _worst(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))
        for a, b in zip(found, wanted, strict=True)
    )
