"""Score a model on a split: hypotheses, error counts and the CTC loss. Utterances are streamed: memory does
not grow with the split.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from asr_exp.data.prepare import Split
from asr_exp.decoding.decoders import Candidate, Decoder, candidates
from asr_exp.evaluation.emission_cache import EmissionCache, emit, forward_passes, plan_passes
from asr_exp.model.loss import ctc_losses
from asr_exp.model.recogniser import Emissions, Recogniser
from asr_exp.runtime.distributed import Runtime
from asr_exp.scoring.error_rates import Tally, character_errors, word_errors


@dataclass(frozen=True)
class Hypothesis:
    """What the recogniser makes of one utterance.

    counts: the `ErrorCounts` of `words` (or phones) and of `characters`; seconds: of audio; loss: the CTC
    loss of the reference, None where it cannot be aligned; nbest: {text, score} of the best texts, where the
    decoder returns several.
    """

    id: str
    reference: str
    hypothesis: str
    counts: dict[str, Any]
    speaker: str | None
    seconds: float
    loss: float | None = None
    nbest: list[dict[str, Any]] | None = None


@dataclass
class Evaluation:
    """The scores of a split.

    summary: as in result.json; loss: the mean CTC loss of the utterances whose reference can be aligned, None
    where there is none; examples: a few hypotheses, spread over the split.
    """

    summary: dict[str, Any]
    loss: float | None
    examples: list[Hypothesis]

    @property
    def rate(self) -> float:
        """The WER, or the PER for phones, by which the best checkpoint is chosen; infinite without one."""
        value = self.summary["per"] if self.summary["wer"] is None else self.summary["wer"]
        return float("inf") if value is None else value


@dataclass(frozen=True)
class EvaluationSettings:
    """How a split is scored, and what is kept of it.

    device_seconds, loss_reduction: as in the section trainer; hypotheses: the file to write them to (None:
    none is written); examples: how many hypotheses the result shows; precision: as `evaluate.precision`.
    """

    device_seconds: float | str
    loss_reduction: str
    hypotheses: Path | None = None
    examples: int = 0
    precision: str = "fp32"


@torch.inference_mode()
def evaluate(
    model: Recogniser | None,
    split: Split,
    decoder: Decoder,
    runtime: Runtime,
    settings: EvaluationSettings,
    cache: EmissionCache | None = None,
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

    Returns:
        The scores, the same on every rank; `examples` are those of rank 0.

    Raises:
        UserError: a file of the cache is damaged.
    """
    if model is not None:
        model.eval()
    tally = Tally(split.tokenizer.unit == "phone")
    losses = np.zeros(2)
    example_indices = _spread(len(split), settings.examples)
    examples: dict[int, Hypothesis] = {}
    path = settings.hypotheses
    writer = _OrderedWriter(path, len(split)) if path and runtime.main else None
    silent = None if runtime.main else True  # None: silent where there is no terminal
    with tqdm(
        total=len(split),
        desc=f"scoring {split.name}",
        unit="utt",
        disable=silent,
        leave=False,
        dynamic_ncols=True,
    ) as bar:
        passes = _passes(model, split, decoder, runtime, settings, cache)
        for hypotheses, sum_and_count in _gather(passes, runtime):
            losses += sum_and_count
            for index, hypothesis in hypotheses:
                counts = hypothesis.counts
                tally.add(counts["words"], counts["characters"], hypothesis.speaker)
                if index in example_indices:
                    examples[index] = hypothesis
                if writer:
                    writer.write(index, _json_line(hypothesis))
            bar.update(len(hypotheses))
    if writer:
        writer.close()
    summary = {**tally.summary(), "skipped": len(split.rejected), "coverage": split.coverage}
    loss = float(losses[0] / losses[1]) if losses[1] else None
    return Evaluation(
        runtime.broadcast(summary), runtime.broadcast(loss), [examples[i] for i in sorted(examples)]
    )


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
            (int(index), _hypothesis(split, int(index), texts, loss))
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


def _hypothesis(split: Split, index: int, texts: list[Candidate], loss: float | None) -> Hypothesis:
    utterance = split.utterances[index]
    reference = split.reference(index)
    scored = split.tokenizer.scored
    text = scored(texts[0].text)
    nbest = [{"text": scored(c.text), "score": round(c.score, 4)} for c in texts] if len(texts) > 1 else None
    counts = {"words": word_errors(reference, text), "characters": character_errors(reference, text)}
    return Hypothesis(
        utterance.id,
        reference,
        text,
        counts,
        utterance.speaker,
        round(float(split.seconds[index]), 3),
        loss,
        nbest,
    )


def _json_line(hypothesis: Hypothesis) -> str:
    """A line of hypotheses.SPLIT.jsonl."""
    counts = hypothesis.counts
    fields = {
        **vars(hypothesis),
        "counts": {**asdict(counts["words"]), "characters": asdict(counts["characters"])},
    }
    if hypothesis.nbest is None:
        del fields["nbest"]
    return json.dumps(fields, ensure_ascii=False) + "\n"


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


class _OrderedWriter:
    """Writes lines that come in any order to a file in the order of their index. Memory holds one offset a
    line.
    """

    def __init__(self, path: Path, lines: int):
        self.path = path
        self.unordered = path.with_name(path.name + ".unordered")
        self.offsets = np.full(lines, -1, dtype=np.int64)
        self.file = self.unordered.open("w+b")

    def write(self, index: int, line: str) -> None:
        self.offsets[index] = self.file.tell()
        self.file.write(line.encode())

    def close(self) -> None:
        ordered = self.path.with_name(self.path.name + ".new")
        with ordered.open("wb") as out:
            for offset in self.offsets[self.offsets >= 0]:
                self.file.seek(offset)
                out.write(self.file.readline())
        self.file.close()
        self.unordered.unlink()
        ordered.replace(self.path)
