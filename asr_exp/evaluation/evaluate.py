"""Score a model on a split: hypotheses, error counts and the CTC loss. Utterances are streamed: memory does
not grow with the split.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from asr_exp.data.prepare import Split
from asr_exp.decoding.decoders import Decoder, candidates
from asr_exp.evaluation.emission_cache import EmissionCache, emit, forward_passes, plan_passes
from asr_exp.evaluation.hypotheses import (
    HypothesesFile,
    Hypothesis,
    KeptLines,
    make_hypothesis,
    rescored,
)
from asr_exp.evaluation.speed import Stopwatch
from asr_exp.model.loss import ctc_losses
from asr_exp.model.recogniser import Emissions, Recogniser
from asr_exp.runtime.distributed import Runtime
from asr_exp.scoring.error_rates import Tally
from asr_exp.scoring.score_rules import ScoreRules


@dataclass
class Evaluation:
    """The scores of a split.

    summary: as in result.json; loss: the mean CTC loss of the utterances whose reference can be aligned, None
    where there is none; examples: a few hypotheses, spread over the split; speed: see `Stopwatch.figures`,
    None where it was not measured.
    """

    summary: dict[str, Any]
    loss: float | None
    examples: list[Hypothesis]
    speed: dict[str, float] | None = None


@dataclass(frozen=True)
class EvaluationSettings:
    """How a split is scored, and what is kept of it.

    device_seconds, loss_reduction: as in the section trainer; hypotheses: the file to write them to (None:
    none is written); examples: how many hypotheses the result shows; precision: as `evaluate.precision`;
    rules: what is done to texts before errors are counted; warm_up: whether a pass is made, and dropped,
    before.
    """

    device_seconds: float | str
    loss_reduction: str
    hypotheses: Path | None = None
    examples: int = 0
    precision: str = "fp32"
    rules: ScoreRules = ScoreRules()
    warm_up: bool = False


@torch.inference_mode()
def evaluate(
    model: Recogniser | None,
    split: Split,
    decoder: Decoder,
    runtime: Runtime,
    settings: EvaluationSettings,
    cache: EmissionCache | None = None,
    kept: KeptLines | None = None,
) -> Evaluation:
    """Score a split, the longest utterances first. The ranks share the forward passes, and rank 0
    writes the hypotheses in the order of the split.

    Args:
        model: put into evaluation mode; may be None where `cache` is complete.
        split: the utterances, with the tokenizer that made their labels.
        decoder: makes texts of the emissions.
        runtime: the ranks; rank 0 shows a progress bar in a terminal.
        settings: see `EvaluationSettings`.
        cache: emissions on the disk; those that it lacks are computed and added.
        kept: lines of hypotheses by the id of the utterance, to be scored again without model or decoder.

    Returns:
        The scores, the same on every rank; `examples` are those of rank 0.

    Raises:
        UserError: a file of the cache is damaged.
    """
    if model is not None:
        model.eval()
        if settings.warm_up:
            _warm_up(model, split, runtime, settings)
    measured = model is not None and not (cache and cache.begun)
    scores = _Scores(split, settings, runtime.main)
    losses = np.zeros(2)
    silent = None if runtime.main else True  # None: silent where there is no terminal
    with tqdm(
        total=len(split),
        desc=f"scoring {split.name}",
        unit="utt",
        disable=silent,
        leave=False,
        dynamic_ncols=True,
    ) as bar:
        passes = (
            _passes(model, split, decoder, runtime, settings, cache)
            if kept is None
            else rescored(kept, split, settings.rules, runtime.main)
        )
        watch = Stopwatch(runtime, settings.warm_up)
        for hypotheses, sum_and_count in _gather(passes, runtime):
            losses += sum_and_count
            for index, hypothesis in hypotheses:
                scores.add(index, hypothesis)
            bar.update(len(hypotheses))
            watch.passed(sum(hypothesis.seconds for _, hypothesis in hypotheses))
    summary = runtime.broadcast(scores.close())
    loss = runtime.broadcast(float(losses[0] / losses[1]) if losses[1] else None)
    examples = [scores.examples[i] for i in sorted(scores.examples)]
    return Evaluation(summary, loss, examples, watch.figures() if measured else None)


class _Scores:
    """Takes the hypotheses of a split as they come: their errors, their lines, some examples.

    Memory holds an offset and two numbers for each utterance. main: whether this is rank 0, which writes.
    """

    def __init__(self, split: Split, settings: EvaluationSettings, main: bool):
        self.split = split
        self.rules = settings.rules
        self.tally = Tally(split.tokenizer.unit == "phone")
        self.dropped = 0
        self.shown = _spread(len(split), settings.examples)
        self.examples: dict[int, Hypothesis] = {}
        path = settings.hypotheses
        self.file = HypothesesFile(path, len(split)) if path and main else None

    def add(self, index: int, hypothesis: Hypothesis) -> None:
        """Count the hypothesis of the utterance with this index in the split."""
        if self.rules.drops(hypothesis.reference):
            self.dropped += 1
            return
        counts = hypothesis.counts
        self.tally.add(counts["words"], counts["characters"], hypothesis.speaker)
        if index in self.shown:
            self.examples[index] = hypothesis
        if self.file:
            self.file.write(index, hypothesis)

    def close(self) -> dict[str, Any]:
        """Close the file -> the summary of the split. Its coverage counts utterances that the rules leave out
        too; `empty_references` says how many these are.
        """
        if self.file:
            self.file.close()
        split, coverage = self.split, self.split.coverage
        summary = {**self.tally.summary(), "skipped": len(split.rejected), "coverage": coverage}
        if self.rules.drop_empty:
            summary["coverage"] = coverage * (len(split) - self.dropped) / len(split)
            summary["empty_references"] = self.dropped
        return summary


def _warm_up(model: Recogniser, split: Split, runtime: Runtime, settings: EvaluationSettings) -> None:
    """Make the first, largest pass of the split, and drop what it gives."""
    passes = forward_passes(model, split, runtime.device, settings.precision)
    plan = plan_passes(split, settings.device_seconds, runtime.device)
    for _ in emit(passes, split, plan, [0]):
        pass


def _passes(
    model: Recogniser | None,
    split: Split,
    decoder: Decoder,
    runtime: Runtime,
    settings: EvaluationSettings,
    cache: EmissionCache | None,
) -> Iterator[tuple[list[tuple[int, Hypothesis]], np.ndarray]]:
    """Run this rank's forward passes. Each yields its hypotheses with their indices in the split, and (sum of
    losses, number of utterances that have a loss).
    """
    tokenizer = split.tokenizer
    plan = plan_passes(split, settings.device_seconds, runtime.device)
    own = range(runtime.rank, len(plan), runtime.world)
    passes = forward_passes(model, split, runtime.device, settings.precision) if model else None

    def losses_of(indices: np.ndarray, emissions: Emissions) -> torch.Tensor:
        labels, lengths = tokenizer.encode_many(
            [tokenizer.target(split.utterances.text(int(i))) for i in indices]
        )
        target = torch.from_numpy(labels.astype(np.int64))
        if emissions.logits.is_cuda:
            target = target.pin_memory().to(emissions.logits.device, non_blocking=True)
        return ctc_losses(emissions, target, lengths.tolist(), tokenizer.blank, settings.loss_reduction)

    for result in emit(passes, split, plan, own, cache, losses_of):
        assert result.measured is not None
        losses = result.measured.numpy()
        usable = np.isfinite(losses) & (losses > 0)
        rounded = [round(float(loss), 4) if ok else None for loss, ok in zip(losses, usable, strict=True)]
        decoded = candidates(decoder, result.emissions.logits, result.emissions.frames)
        hypotheses = [
            (int(index), make_hypothesis(split, int(index), texts, loss, settings.rules))
            for index, texts, loss in zip(result.indices, decoded, rounded, strict=True)
        ]
        yield hypotheses, np.array([losses[usable].sum(), usable.sum()], dtype=np.float64)
    rounds = -(-len(plan) // runtime.world)
    for _ in range(rounds - len(own)):  # ranks with a pass less still take part in the last round
        yield [], np.zeros(2)


def _gather(passes: Iterator, runtime: Runtime) -> Iterator:
    """The passes of all ranks, round by round, on rank 0; on the others their own alone."""
    for own in passes:
        if runtime.world == 1:
            yield own
            continue
        gathered: list | None = [None] * runtime.world if runtime.main else None
        dist.gather_object(own, gathered, dst=0, group=runtime.group)
        yield from gathered or [own]


def _spread(total: int, examples: int) -> set[int]:
    """A few indices spread evenly over a split: the same utterances at every evaluation."""
    count = min(examples, total)
    return {round((i + 0.5) * total / count - 0.5) for i in range(count)}


def table_rows(examples: list[Hypothesis], split: Split, audible: int) -> list[dict[str, Any]]:
    """Rows of a tracker's table of hypotheses. audible: how many of the first get their audio."""
    ids = {example.id for example in examples[:audible]}
    indices = {name: i for i, name in enumerate(split.utterances.ids()) if name in ids} if ids else {}
    return [
        {
            "id": example.id,
            "reference": example.reference,
            "hypothesis": example.hypothesis,
            "rate": example.counts["words"].rate,
            "audio": split.samples(indices[example.id]) if number < audible else None,
            "sample_rate": split.sample_rate,
        }
        for number, example in enumerate(examples)
    ]
