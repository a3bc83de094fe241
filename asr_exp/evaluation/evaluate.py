"""A model and a split in; hypotheses, error counts and a loss out. Streams: memory does not grow with the
split.
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
from asr_exp.evaluation.emission_cache import EmissionCache, emit, plan_passes
from asr_exp.model.loss import ctc_losses
from asr_exp.model.recogniser import Recogniser
from asr_exp.runtime.distributed import Runtime
from asr_exp.scoring.error_rates import Tally, character_errors, word_errors


@dataclass(frozen=True)
class Hypothesis:
    """What the recogniser says of one utterance. counts: edits over words (or phones), and over characters
    under `characters`.

    loss: the CTC loss of the reference; None where it cannot be aligned.
    nbest: what else it may be, {text, score}, the best first, of a decoder that was asked for it.
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
    """Scores of a split: `summary` as in result.json, the mean CTC loss of what can be aligned, and a few
    hypotheses.
    """

    summary: dict[str, Any]
    loss: float | None
    examples: list[Hypothesis]

    @property
    def rate(self) -> float:
        """WER, or PER for phones: what the best checkpoint is chosen by."""
        value = self.summary["per"] if self.summary["wer"] is None else self.summary["wer"]
        return float("inf") if value is None else value


@dataclass(frozen=True)
class EvaluationSettings:
    """How a split is scored, and what is kept of it.

    device_seconds: audio of a forward pass; loss_reduction: as `trainer.loss_reduction`; hypotheses: the file
    to write them to (None: none is written); examples: how many hypotheses the result shows.
    """

    device_seconds: float
    loss_reduction: str
    hypotheses: Path | None = None
    examples: int = 0


@torch.inference_mode()
def evaluate(
    model: Recogniser | None,
    split: Split,
    decoder: Decoder,
    runtime: Runtime,
    settings: EvaluationSettings,
    cache: EmissionCache | None = None,
) -> Evaluation:
    """Score a split in fp32, the longest utterances first. The ranks share the forward passes, and rank 0
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
    shown = _spread(len(split), settings.examples)
    picked: dict[int, Hypothesis] = {}
    path = settings.hypotheses
    writer = _InOrder(path, len(split)) if path and runtime.main else None
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
        for rows, pair in _gathered(passes, runtime):
            losses += pair
            for index, one in rows:
                words, characters = one.counts["words"], one.counts["characters"]
                tally.add(words, characters, one.speaker)
                if index in shown:
                    picked[index] = one
                if writer:
                    writer.write(index, _line(one))
            bar.update(len(rows))
    if writer:
        writer.close()
    skipped = len(split.rejected)
    summary = {**tally.summary(), "skipped": skipped, "coverage": split.coverage}
    loss = float(losses[0] / losses[1]) if losses[1] else None
    return Evaluation(
        runtime.broadcast(summary), runtime.broadcast(loss), [picked[i] for i in sorted(picked)]
    )


def _passes(
    model: Recogniser | None,
    split: Split,
    decoder: Decoder,
    runtime: Runtime,
    settings: EvaluationSettings,
    cache: EmissionCache | None,
) -> Iterator[tuple[list[tuple[int, Hypothesis]], np.ndarray]]:
    """This rank's forward passes, each as its hypotheses and (sum of losses, utterances that have one)."""
    tokenizer = split.tokenizer
    everything = plan_passes(split, settings.device_seconds, runtime.device)
    mine = range(runtime.rank, len(everything), runtime.world)
    for indices, emissions in emit(model, split, everything, mine, runtime.device, cache):
        labels, lengths = tokenizer.encode_many(
            [tokenizer.target(split.utterances.text(int(i))) for i in indices]
        )
        target = torch.from_numpy(labels.astype(np.int64)).to(emissions.logits.device)
        losses = (
            ctc_losses(emissions, target, lengths.tolist(), tokenizer.blank, settings.loss_reduction)
            .cpu()
            .numpy()
        )
        usable = np.isfinite(losses) & (losses > 0)
        each = [round(float(loss), 4) if fine else None for loss, fine in zip(losses, usable, strict=True)]
        found = candidates(decoder, emissions.logits, emissions.frames)
        rows = [
            (int(i), _hypothesis(split, int(i), several, loss))
            for i, several, loss in zip(indices, found, each, strict=True)
        ]
        yield rows, np.array([losses[usable].sum(), usable.sum()], dtype=np.float64)
    rounds = -(-len(everything) // runtime.world)
    for _ in range(rounds - len(mine)):  # ranks with a pass less still take part in the last round
        yield [], np.zeros(2)


def _gathered(passes: Iterator, runtime: Runtime) -> Iterator:
    """All ranks' passes, round by round, on rank 0; on the others their own alone."""
    for one in passes:
        if runtime.world == 1:
            yield one
            continue
        everyone: list | None = [None] * runtime.world if runtime.main else None
        dist.gather_object(one, everyone, dst=0, group=runtime.group)
        yield from everyone or [one]


def _hypothesis(split: Split, index: int, found: list[Candidate], loss: float | None) -> Hypothesis:
    utterance = split.utterances[index]
    reference = split.reference(index)
    text = split.tokenizer.scored(found[0].text)
    nbest = (
        [{"text": split.tokenizer.scored(one.text), "score": round(one.score, 4)} for one in found]
        if len(found) > 1
        else None
    )
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


def _line(one: Hypothesis) -> str:
    counts = {**asdict(one.counts["words"]), "characters": asdict(one.counts["characters"])}
    line = {
        key: value
        for key, value in {**vars(one), "counts": counts}.items()
        if key != "nbest" or value is not None
    }
    return json.dumps(line, ensure_ascii=False) + "\n"


def _spread(total: int, wanted: int) -> set[int]:
    """A few indices spread evenly over a split: the same utterances at every evaluation."""
    count = min(wanted, total)
    return {round((i + 0.5) * total / count - 0.5) for i in range(count)}


def table_rows(examples: list[Hypothesis], split: Split, audible: int) -> list[dict[str, Any]]:
    """Rows of a tracker's table of hypotheses, the first few with audio."""
    shown = {e.id for e in examples[:audible]}
    index = {name: i for i, name in enumerate(split.utterances.ids()) if name in shown} if shown else {}
    return [
        {
            "id": e.id,
            "reference": e.reference,
            "hypothesis": e.hypothesis,
            "rate": e.counts["words"].rate,
            "audio": split.samples(index[e.id]) if number < audible else None,
            "sample_rate": 16000,
        }
        for number, e in enumerate(examples)
    ]


class _InOrder:
    """Lines that come in any order, written to a file in the order of their index; holds one offset a line in
    memory.
    """

    def __init__(self, path: Path, lines: int):
        self.path, self.beside = path, path.with_name(path.name + ".unordered")
        self.offsets = np.full(lines, -1, dtype=np.int64)
        self.file = self.beside.open("w+b")

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
        self.beside.unlink()
        ordered.replace(self.path)
