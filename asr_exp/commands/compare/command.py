"""Is run A better than run B, or is it luck? compare A B, or compare a=[RUN,RUN] b=[RUN,RUN] for several
seeds of each.

A run is the folder that train printed, or one of its evaluations/; split=dev compares what was said of dev.
Both sides must have been scored on the same references by the same protocol. A paired t test over speakers
(and seeds) answers; beside it stand the bootstrap, which draws them, and MAPSSWE, which looks at the
stretches of words where either side erred. compare.json and utterances.jsonl (the most changed first) go to
OUTPUT_ROOT/comparisons/.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from asr_exp.commands.compare.page import changed_lines, page, verdict
from asr_exp.core import console
from asr_exp.core.files import write_text
from asr_exp.core.json_document import give_json
from asr_exp.runs.pairing import PairedRuns, Run, pair_up, read_runs
from asr_exp.scoring.error_rates import error_places
from asr_exp.scoring.intervals import Estimate
from asr_exp.scoring.significance import (
    Bootstrap,
    Comparison,
    MatchedPairs,
    bootstrap,
    compare_rates,
    mapsswe,
)


@dataclass(frozen=True)
class Statistics:
    """The results of all tests. rates, bootstraps: by metric. segments: of MAPSSWE, for the main metric."""

    rates: dict[str, Comparison]
    bootstraps: dict[str, Bootstrap | None]
    segments: MatchedPairs


def run(config: DictConfig) -> int:
    """Compare the runs that a= and b= name -> exit status 0, whatever the answer.

    Raises UserError where they cannot be compared.
    """
    pair = pair_up(
        read_runs("a", config.a, config.split), read_runs("b", config.b, config.split), config.split
    )
    statistics = _run_tests(pair, config.resamples)
    record, changes = _record(pair, config.split, statistics), _changes(pair)
    folder = _folder(config, pair)
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in changes)
    write_text(folder / "utterances.jsonl", rows)
    write_text(folder / "compare.json", console.pretty_json(record))
    changed = [one for one in changes if one["errors_a"] != one["errors_b"]]
    print("\n".join([*page(pair, record, statistics.rates), *changed_lines(changed)]))
    print(f"\n{folder / 'compare.json'}")
    give_json("compare", {**record, "folder": folder})
    return 0


def _folder(config: DictConfig, pair: PairedRuns) -> Path:
    """The folder of the comparison, named by a hash of the runs and the split."""
    runs = [[str(one.folder.resolve()) for one in side] for side in (pair.a, pair.b)]
    name = hashlib.sha256(json.dumps([*runs, config.split]).encode()).hexdigest()[:10]
    return Path(config.output_root).expanduser() / "comparisons" / name


# ------------------------------------------------------------------------------------------------------------
# the tests, and their record


def _run_tests(pair: PairedRuns, resamples: int) -> Statistics:
    """Run the t test, the bootstrap and MAPSSWE. resamples: draws of the bootstrap."""
    same_seeds = len(pair.a) > 1 and [one.seed for one in pair.a] == [one.seed for one in pair.b]
    rates = {
        metric: compare_rates(*counts, pair.clusters, same_seeds) for metric, counts in pair.counts.items()
    }
    bootstraps = {
        metric: bootstrap(*counts, pair.clusters, same_seeds, resamples)
        for metric, counts in pair.counts.items()
    }
    places_a, places_b = ([_error_places(one, pair.ids) for one in side] for side in (pair.a, pair.b))
    segments = mapsswe(places_a, places_b, pair.counts[pair.metric].lengths)
    return Statistics(rates, bootstraps, segments)


def _error_places(run: Run, ids: Sequence[str]) -> list[list[int]]:
    """The places of a run's word errors in each utterance."""
    return [
        error_places(run.lines[id]["reference"].split(), run.lines[id]["hypothesis"].split()) for id in ids
    ]


def _changes(pair: PairedRuns) -> list[dict[str, Any]]:
    """The rows of utterances.jsonl, the most changed utterance first, among equals the shorter first."""
    counts = pair.counts[pair.metric]
    rows = []
    for i in np.lexsort((counts.lengths, -np.abs(counts.difference))):
        id = pair.ids[i]
        texts = {
            side: [run.lines[id]["hypothesis"] for run in runs]
            for side, runs in (("a", pair.a), ("b", pair.b))
        }
        errors = {
            "errors_a": round(float(counts.a[:, i].mean()), 3),
            "errors_b": round(float(counts.b[:, i].mean()), 3),
        }
        rows.append(
            {
                "id": id,
                **errors,
                "reference": pair.a[0].lines[id]["reference"],
                **texts,
                "speaker": pair.a[0].lines[id]["speaker"],
            }
        )
    return rows


def _wins(difference: np.ndarray) -> dict[str, int]:
    """How often A has fewer errors, B has, and neither. difference: errors of A minus errors of B, of each
    utterance or speaker.
    """
    return {
        "a": int((difference < 0).sum()),
        "b": int((difference > 0).sum()),
        "neither": int((difference == 0).sum()),
    }


def _record(pair: PairedRuns, split: str, statistics: Statistics) -> dict[str, Any]:
    """The content of compare.json. In its estimates, `error` is the standard error and `interval` Student's,
    with `degrees` of freedom.
    """
    difference = pair.counts[pair.metric].difference
    wins = {"utterances": _wins(difference)}
    if pair.by_speaker:
        wins["speakers"] = _wins(np.bincount(pair.clusters, weights=difference).round(9))
    sides = {
        side: {
            "runs": [str(run.folder) for run in runs],
            "seeds": [run.seed for run in runs],
            "protocol": runs[0].protocol["hash"],
        }
        for side, runs in (("a", pair.a), ("b", pair.b))
    }
    metrics = {
        metric: {
            "a": _estimate(one.a),
            "b": _estimate(one.b),
            "difference": {
                **_estimate(one.difference),
                "p": one.difference.p,
                "detectable": one.difference.detectable,
            },
            "bootstrap": asdict(draws) if (draws := statistics.bootstraps[metric]) else None,
        }
        for metric, one in statistics.rates.items()
    }
    return {
        "verdict": verdict(statistics.rates[pair.metric], pair.metric, pair.basis),
        **sides,
        "trained_on": {side: runs[0].trained_on or None for side, runs in (("a", pair.a), ("b", pair.b))},
        "dataset": pair.a[0].protocol.get("dataset"),
        "language": pair.a[0].protocol.get("language"),
        "split": split,
        "utterances": len(pair.ids),
        "clusters": int(pair.clusters.max()) + 1,
        "clusters_are": "speaker" if pair.by_speaker else "utterance",
        "metrics": metrics,
        "mapsswe": asdict(statistics.segments),
        "wins": wins,
    }


def _estimate(one: Estimate) -> dict[str, Any]:
    return {"value": one.value, "error": one.error, "degrees": one.degrees, "interval": one.interval}
