"""Tune the two weights of a beam search for the fewest errors on dev: first over a coarse grid, then in small
steps from its best point.
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
from asr_exp.evaluation.emission_cache import EmissionCache, EmissionStore, emit, forward_passes
from asr_exp.model.recogniser import Recogniser
from asr_exp.runtime.distributed import Runtime
from asr_exp.scoring.error_rates import ErrorCounts, word_errors

SECONDS = 1800.0  # the most audio to tune on: enough to tell weights apart
LM_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
WORD_SCORES = (-1.0, 0.0, 1.0, 2.0)
STEPS = ((0.25, 1.0), (0.125, 0.5))  # (of lm_weight, of word_score), one round of search after the other
TuningGrid = dict[Weights, float]  # error rate by weights


def tuning_indices(split: Split) -> np.ndarray:
    """Indices of the utterances to tune on: all, or about `SECONDS` of them, spread evenly over the split."""
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
    run, key = emissions.run, _key(decoder, emissions.checkpoint, emissions.precision)
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


def use_tuned(decoder: Beam, run: Path, checkpoint: str, precision: str = "fp32") -> None:
    """Give a decoder the weights that `tune_on_dev` kept for it. Raises UserError where there are none."""
    weights = read_tuned(run).get(_key(decoder, checkpoint, precision))
    if not weights:
        raise UserError(
            f"decode.tune=true: no weights have been found for this decoder yet; give `evaluate {run}` with"
            " the same keys of decode and evaluate first, or give decode.lm_weight and decode.word_score."
        )
    set_tuned(decoder, weights)


def set_tuned(decoder: Beam, weights: dict[str, float]) -> None:
    """Give a decoder weights as lm/tuned.json has them."""
    decoder.tuned_on = "dev"
    decoder.set_weights(Weights(weights["lm_weight"], weights["word_score"]))


def read_tuned(run: Path) -> dict[str, dict[str, float]]:
    """The tuned weights that a run keeps in lm/tuned.json, by checkpoint and decoder (see `_key`)."""
    try:
        return json.loads((run / "lm" / "tuned.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _key(decoder: Beam, checkpoint: str, precision: str) -> str:
    """The key of a decoder's tuned weights: the hash of the checkpoint, and the decoder as it is tuned,
    without hot words and with the default weights; the precision of the scores where it is not fp32.
    """
    plain = copy(decoder)
    plain.weights = Weights()
    plain.hot_words = set()
    plain.tuned_on = ""
    return f"{checkpoint} {plain.description}" + (f" {precision}" if precision != "fp32" else "")


def tune(
    decoder: Beam, split: Split, cache: EmissionCache, runtime: Runtime, model: Recogniser | None = None
) -> TuningGrid:
    """Set a decoder to the weights with the lowest WER (or PER) on dev.

    The network runs once at most: its emissions are kept, and decoded with every pair of weights. Each rank
    decodes its share, and all end with the same weights. Hot words are left out: they are not meant for dev.

    Args:
        decoder: gets the weights.
        split: dev.
        cache: of the forward passes to tune on.
        runtime: the ranks that share the work.
        model: may be None where `cache` is complete.

    Returns:
        The error rate of every pair of weights that was tried.
    """
    own_passes = range(runtime.rank, len(cache.passes), runtime.world)
    missing = [number for number in own_passes if not cache.has(number)]
    passes = forward_passes(model, split, runtime.device, cache.precision) if model else None
    for _ in emit(passes, split, cache.passes, missing, cache):
        pass
    hot_words, decoder.hot_words = decoder.hot_words, set()
    grid: TuningGrid = {}

    def measure(points: Sequence[Weights]) -> None:
        for point in points:
            if point not in grid:
                decoder.set_weights(point)
                own = sum((_errors(decoder, split, cache, number) for number in own_passes), ErrorCounts())
                counts = torch.tensor([own.errors, own.reference_length], device=runtime.device)
                errors, length = runtime.sum(counts)
                grid[point] = float(errors / length)
                bar.update()

    silent = None if runtime.main else True  # None: silent where there is no terminal
    with tqdm(desc="tuning", unit="point", disable=silent, leave=False) as bar:
        measure([Weights(lm, word) for lm, word in product(LM_WEIGHTS, WORD_SCORES)])
        for lm_step, word_step in STEPS:
            for _ in range(4):  # the best may lie beyond the grid
                best = _best(grid)
                steps = product((-lm_step, 0.0, lm_step), (-word_step, 0.0, word_step))
                measure([Weights(max(0.0, best.lm + lm), best.word + word) for lm, word in steps])
                if _best(grid) == best:
                    break
    decoder.hot_words, decoder.tuned_on = hot_words, split.name
    decoder.set_weights(_best(grid))
    return grid


def _errors(decoder: Beam, split: Split, cache: EmissionCache, number: int) -> ErrorCounts:
    indices, emissions = cache.read(number)
    texts = decoder(emissions.logits, emissions.frames)
    pairs = zip(indices.tolist(), texts, strict=True)
    return sum(
        (word_errors(split.reference(index), split.tokenizer.scored(text)) for index, text in pairs),
        ErrorCounts(),
    )


def _best(grid: TuningGrid) -> Weights:
    """The weights with the lowest rate. Of several, those whose neighbours have the lowest mean rate, then
    those that are nearest to the default.
    """
    default = Weights()
    lowest = min(grid.values())

    def neighbours_mean(point: Weights) -> float:
        rates = [
            rate
            for other, rate in grid.items()
            if abs(other.lm - point.lm) <= 0.5 and abs(other.word - point.word) <= 1
        ]
        return sum(rates) / len(rates)

    def distance(point: Weights) -> float:
        return abs(point.lm - default.lm) + abs(point.word - default.word)

    best = [point for point, rate in grid.items() if rate == lowest]
    return min(best, key=lambda point: (neighbours_mean(point), distance(point)))


def show(grid: TuningGrid, weights: Weights, split: Split) -> None:
    """Print the coarse grid, a line for each lm_weight and a column for each word_score, and the best
    weights.
    """
    rate = "PER" if split.tokenizer.unit == "phone" else "WER"
    rows = [("", "word_score" + "".join(f"{word:>9g}" for word in WORD_SCORES))]
    rows += [
        (f"{lm:>9g}", " " * 10 + "".join(f"{100 * grid[Weights(lm, word)]:>7.2f} %" for word in WORD_SCORES))
        for lm in LM_WEIGHTS
    ]
    settings = f"decode.lm_weight={weights.lm:g} decode.word_score={weights.word:g}"
    console.page(
        f"{rate} of {split.name} by lm_weight",
        [*rows, ("best", f"{console.percent(grid[weights])} with {settings}")],
    )
