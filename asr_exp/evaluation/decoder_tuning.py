"""The weights of a beam search that make the fewest errors on dev: a coarse grid, then from its best point on
in small steps.
"""

import json
from collections.abc import Callable, Sequence
from copy import copy
from itertools import product
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from asr_exp.core import console
from asr_exp.core.errors import UserError
from asr_exp.core.files import write_text
from asr_exp.data.prepare import Split
from asr_exp.decoding.beam import Beam, Weights
from asr_exp.evaluation.emission_cache import EmissionCache, EmissionStore, emit
from asr_exp.model.recogniser import Recogniser
from asr_exp.runtime.distributed import Runtime
from asr_exp.scoring.error_rates import ErrorCounts, word_errors

SECONDS = 1800.0  # of audio, of a larger dev split: enough to tell weights apart
LM_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
WORD_SCORES = (-1.0, 0.0, 1.0, 2.0)
STEPS = ((0.25, 1.0), (0.125, 0.5))
TuningGrid = dict[Weights, float]  # error rate by weights


def tuning_indices(split: Split) -> np.ndarray:
    """Indices of the utterances to tune on: all, or as many as make `SECONDS`, spread evenly over the
    split.
    """
    count = min(len(split), max(1, int(len(split) * SECONDS / max(SECONDS, split.seconds.sum()))))
    return np.unique(np.linspace(0, len(split) - 1, count).round().astype(np.int64))


def tune_on_dev(
    decoder: Beam,
    emissions: EmissionStore,
    dev: Callable[[], Split],
    network: Callable[[], Recogniser],
    runtime: Runtime,
) -> None:
    """Give a decoder the weights that make the fewest errors on dev, and keep them in the run folder for the
    next time.

    Args:
        decoder: gets the weights.
        emissions: of the checkpoint and the run; the weights are kept in the same run folder.
        dev: reads the dev split; called only where the weights are not known yet, on every rank.
        network: loads the network; called only where emissions are missing, on every rank.
        runtime: the ranks that share the work.
    """
    run, key = emissions.run, _key(decoder, emissions.checkpoint)
    weights = runtime.broadcast(read_tuned(run).get(key) if runtime.main else None)
    if weights:
        set_tuned(decoder, weights)
        return
    split = dev()
    cache = emissions.open(split, runtime.device, tuning_indices(split))
    grid = tune(decoder, split, cache, runtime, None if runtime.broadcast(cache.complete) else network())
    if runtime.main:
        show(grid, decoder.weights, split)
        best = {"lm_weight": decoder.weights.lm, "word_score": decoder.weights.word}
        write_text(run / "lm" / "tuned.json", console.pretty_json({**read_tuned(run), key: best}))


def use_tuned(decoder: Beam, run: Path, checkpoint: str) -> None:
    """Give a decoder the weights that were found for it before. Raises UserError where there are none."""
    found = read_tuned(run).get(_key(decoder, checkpoint))
    if not found:
        raise UserError(
            f"decode.tune=true: no weights have been found for this decoder yet; give `evaluate {run}` with"
            " the same decode keys first, or give decode.lm_weight and decode.word_score."
        )
    set_tuned(decoder, found)


def set_tuned(decoder: Beam, found: dict[str, float]) -> None:
    decoder.tuned_on = "dev"
    decoder.set_weights(Weights(found["lm_weight"], found["word_score"]))


def read_tuned(run: Path) -> dict[str, dict[str, float]]:
    """The weights that were found for decoders of a run, by checkpoint and decoder."""
    try:
        return json.loads((run / "lm" / "tuned.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _key(decoder: Beam, checkpoint: str) -> str:
    """What weights are kept by: the checkpoint, and the decoder without hot words and with the usual weights,
    as it is tuned.
    """
    plain = copy(decoder)
    plain.weights = Weights()
    plain.hot_words = set()
    plain.tuned_on = ""
    return f"{checkpoint} {plain.description}"


def tune(
    decoder: Beam, split: Split, kept: EmissionCache, runtime: Runtime, model: Recogniser | None = None
) -> TuningGrid:
    """Set a decoder to the weights with the lowest WER (or PER) on these passes of dev -> the rate at every
    point tried.

    The network runs once at the most: what it says is kept, and decoded at every point. Each rank decodes its
    share; all end with the same weights. Hot words do not count here: dev is not where they are said.
    """
    mine = range(runtime.rank, len(kept.passes), runtime.world)
    for _ in emit(
        model, split, kept.passes, [number for number in mine if not kept.has(number)], runtime.device, kept
    ):
        pass
    hot_words, decoder.hot_words = decoder.hot_words, set()
    table: TuningGrid = {}

    def measure(points: Sequence[Weights]) -> None:
        for point in points:
            if point not in table:
                decoder.set_weights(point)
                total = sum((_errors(decoder, split, kept, number) for number in mine), ErrorCounts())
                sums = runtime.sum(
                    torch.tensor([total.errors, total.reference_length], device=runtime.device)
                )
                table[point] = float(sums[0] / sums[1])
                bar.update()

    silent = None if runtime.main else True  # None: silent where there is no terminal
    with tqdm(desc="tuning", unit="point", disable=silent, leave=False) as bar:
        measure([Weights(lm, word) for lm, word in product(LM_WEIGHTS, WORD_SCORES)])
        for lm_step, word_step in STEPS:
            for _ in range(4):  # the best may lie beyond the grid
                best = _best(table)
                around = product((-lm_step, 0.0, lm_step), (-word_step, 0.0, word_step))
                measure([Weights(max(0.0, best.lm + lm), best.word + word) for lm, word in around])
                if _best(table) == best:
                    break
    decoder.hot_words, decoder.tuned_on = hot_words, split.name
    decoder.set_weights(_best(table))
    return table


def _errors(decoder: Beam, split: Split, kept: EmissionCache, number: int) -> ErrorCounts:
    indices, emissions = kept.read(number)
    texts = decoder(emissions.logits, emissions.frames)
    pairs = zip(indices.tolist(), texts, strict=True)
    return sum(
        (word_errors(split.reference(index), split.tokenizer.scored(text)) for index, text in pairs),
        ErrorCounts(),
    )


def _best(table: TuningGrid) -> Weights:
    """The point with the lowest rate. Of several, one in the middle of their plain, by the mean of its
    neighbours; then the most usual.
    """
    usual, lowest = Weights(), min(table.values())

    def around(point: Weights) -> float:
        near = [
            rate
            for other, rate in table.items()
            if abs(other.lm - point.lm) <= 0.5 and abs(other.word - point.word) <= 1
        ]
        return sum(near) / len(near)

    def odd(point: Weights) -> float:
        return abs(point.lm - usual.lm) + abs(point.word - usual.word)

    return min(
        (point for point, rate in table.items() if rate == lowest),
        key=lambda point: (around(point), odd(point)),
    )


def show(table: TuningGrid, weights: Weights, split: Split) -> None:
    """Print the coarse grid, a line for each lm_weight and a column for each word_score, and what was
    found.
    """
    rate = "PER" if split.tokenizer.unit == "phone" else "WER"
    rows = [("", "word_score" + "".join(f"{word:>9g}" for word in WORD_SCORES))]
    rows += [
        (f"{lm:>9g}", " " * 10 + "".join(f"{100 * table[Weights(lm, word)]:>7.2f} %" for word in WORD_SCORES))
        for lm in LM_WEIGHTS
    ]
    found = f"decode.lm_weight={weights.lm:g} decode.word_score={weights.word:g}"
    console.page(
        f"{rate} of {split.name} by lm_weight",
        [*rows, ("best", f"{console.percent(table[weights])} with {found}")],
    )
