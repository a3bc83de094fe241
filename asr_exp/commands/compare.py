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
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from asr_exp.core import console
from asr_exp.core.files import write_text
from asr_exp.runs.pairing import OF_THE_SPLIT, PairedRuns, Run, counted, differing, pair_up, read_runs
from asr_exp.scoring.error_rates import READ_CER, error_places, unspaced
from asr_exp.scoring.intervals import LEVEL, Estimate
from asr_exp.scoring.significance import (
    Bootstrap,
    Comparison,
    MatchedPairs,
    bootstrap,
    compare_rates,
    mapsswe,
)

FEW_SEGMENTS = 50  # below, z is far from normal (Gillick & Cox 1989)
FEW_CLUSTERS = 20  # below, the bootstrap's p value is too small
ROUGH = " (few: a rough guide)"
SHOWN, WIDTH = 5, 79


def run(config: DictConfig) -> int:
    """Compare what a= and b= name -> exit status 0, whatever the answer. Raises UserError where they cannot
    be compared.
    """
    pair = pair_up(
        read_runs("a", config.a, config.split), read_runs("b", config.b, config.split), config.split
    )
    matched = len(pair.a) > 1 and [one.seed for one in pair.a] == [one.seed for one in pair.b]
    found = {metric: compare_rates(*counts, pair.clusters, matched) for metric, counts in pair.counts.items()}
    places_a, places_b = ([_places(one, pair.ids) for one in group] for group in (pair.a, pair.b))
    segments = mapsswe(places_a, places_b, pair.counts[pair.metric].lengths)
    drawn = {
        metric: bootstrap(*counts, pair.clusters, matched, config.resamples)
        for metric, counts in pair.counts.items()
    }
    record, changes = _record(pair, config, found, drawn, segments), _changes(pair)
    asked = json.dumps(
        [[str(one.folder.resolve()) for one in side] for side in (pair.a, pair.b)] + [config.split]
    )
    folder = (
        Path(config.output_root).expanduser()
        / "comparisons"
        / hashlib.sha256(asked.encode()).hexdigest()[:10]
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(
        folder / "utterances.jsonl", "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in changes)
    )
    write_text(folder / "compare.json", console.pretty_json(record))
    lines = [
        *_page(pair, record, found),
        *_changed([one for one in changes if one["errors_a"] != one["errors_b"]]),
    ]
    print("\n".join([*lines, f"\n{folder / 'compare.json'}"]))
    return 0


# ------------------------------------------------------------------------------------------------------------
# what is found


def _places(run: Run, ids: Sequence[str]) -> list[list[int]]:
    return [
        error_places(run.lines[id]["reference"].split(), run.lines[id]["hypothesis"].split()) for id in ids
    ]


def _changes(pair: PairedRuns) -> list[dict[str, Any]]:
    """A row of each utterance, the most changed first, the shorter first among equals."""
    counts, rows = pair.counts[pair.metric], []
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
    """On how many units A makes fewer errors, on how many B, and on how many neither."""
    return {
        "a": int((difference < 0).sum()),
        "b": int((difference > 0).sum()),
        "neither": int((difference == 0).sum()),
    }


def _verdict(found: Comparison, metric: str, basis: str) -> str:
    """Is A better than B? And where it cannot be told: what could be."""
    difference = found.difference
    scores = f"{metric.upper()} {console.percent(found.a.value)} against {console.percent(found.b.value)}"
    if difference.p is None:
        return f"It cannot be told from {basis} whether A is better than B ({scores})."
    if not difference.error and not difference.value:
        return f"There is nothing to tell A from B ({scores}): they make as many errors on each of {basis}."
    if difference.p < LEVEL:
        better = "Yes, A is better than B" if difference.value < 0 else "No, B is better than A"
        return f"{better} at the 5 % level: {scores}, {_p(difference.p)} with {basis}."
    needed = difference.detectable
    return (
        f"It cannot be told with these {basis} whether A is better than B ({scores}, {_p(difference.p)})"
        + (
            f"; a difference of about {100 * needed:.2g} points would show four times in five."
            if needed
            else "."
        )
    )


def _record(
    pair: PairedRuns,
    config: DictConfig,
    found: dict[str, Comparison],
    drawn: dict[str, Bootstrap | None],
    segments: MatchedPairs,
) -> dict[str, Any]:
    """What compare.json says. error: the standard error; interval: Student's, with so many degrees of
    freedom.
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
            "bootstrap": asdict(draws) if (draws := drawn[metric]) else None,
        }
        for metric, one in found.items()
    }
    return {
        "verdict": _verdict(found[pair.metric], pair.metric, pair.basis),
        **sides,
        "split": config.split,
        "utterances": len(pair.ids),
        "clusters": int(pair.clusters.max()) + 1,
        "clusters_are": "speaker" if pair.by_speaker else "utterance",
        "metrics": metrics,
        "mapsswe": asdict(segments),
        "wins": wins,
    }


def _estimate(one: Estimate) -> dict[str, Any]:
    return {"value": one.value, "error": one.error, "degrees": one.degrees, "interval": one.interval}


# ------------------------------------------------------------------------------------------------------------
# what the user sees


def _page(pair: PairedRuns, record: dict[str, Any], found: dict[str, Comparison]) -> Iterator[str]:
    """The lines of the answer, within 80 columns where the folders' names are."""
    seeded = len(pair.a) + len(pair.b) > 2
    for side, runs in (("A", pair.a), ("B", pair.b)):
        for number, each in enumerate(runs):
            yield f"{' ' if number else side}  {each.folder}" + (f" (seed {each.seed})" if seeded else "")
    for metric, one in found.items():
        rows = [("A", _rate(one.a)), ("B", _rate(one.b)), ("A - B", _difference(one))]
        if one.difference.p is not None:
            rows.append(("t test", f"{_p(one.difference.p)} over {pair.basis}"))
        if draws := record["metrics"][metric]["bootstrap"]:
            low, high = (100 * end for end in draws["percentiles"])
            few = ROUGH if record["clusters"] < FEW_CLUSTERS else ""
            rows.append(
                (
                    "bootstrap",
                    f"{_p(draws['p'])}  [{low:+.2f} .. {high:+.2f}], {draws['resamples']:,} draws{few}",
                )
            )
        if metric == pair.metric:
            m = record["mapsswe"]
            few = ROUGH if 0 < m["segments"] < FEW_SEGMENTS else ""
            z = "all alike" if m["z"] is None else f"z = {m['z']:.2f}"
            rows.append(("MAPSSWE", f"{_p(m['p'])}, {z} over {counted(m['segments'], 'segment')}{few}"))
            rows += [
                (unit, f"A better on {w['a']:,}, B on {w['b']:,}, equal on {w['neither']:,}")
                for unit, w in record["wins"].items()
            ]
        split = f"{pair.a[0].protocol['dataset']} {record['split']}"
        yield f"\n{metric.upper()} on {split}, {counted(len(pair.ids), 'utterance')}, 95 % intervals"
        yield from (f"  {name:<12} {value}" for name, value in rows)
    yield "\n" + textwrap.fill(record["verdict"], WIDTH)
    for note in _notes(pair, record, found[pair.metric].difference.p):
        yield textwrap.fill(f"- {note}", WIDTH, subsequent_indent="  ")


def _notes(pair: PairedRuns, record: dict[str, Any], p: float | None) -> Iterator[str]:
    """What to bear in mind with this answer."""
    if p is not None and (p < LEVEL) != (record["mapsswe"]["p"] < LEVEL):
        yield (
            "The two tests disagree. The answer is the t test's: MAPSSWE takes every segment as independent,"
            f" however few {'speakers' if pair.by_speaker else 'utterances'} they come from."
        )
    if pair.metric == "wer" and unspaced(line["reference"] for line in pair.a[0].lines.values()):
        yield READ_CER
    if not pair.by_speaker:
        yield (
            "No two speakers are known, so the answer rests on utterances; speakers would make the intervals"
            " wider."
        )
    if alone := [side for side, runs in (("A", pair.a), ("B", pair.b)) if len(runs) == 1]:
        yield (
            f"{' and '.join(alone)} {'are one run each' if alone[1:] else 'is one run'}: what another seed"
            " would change is not counted."
        )
    if differ := differing(pair.a[0].protocol, pair.b[0].protocol, ("hash", *OF_THE_SPLIT)):
        yield f"A and B differ in {differ}."


def _changed(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The lines on the utterances that changed most; where there are several seeds, with what the first of
    them said.
    """
    if rows:
        yield f"\nThe utterances that changed most, of {len(rows):,} (all are in utterances.jsonl)"
    for row in rows[:SHOWN]:
        yield (
            f"  {row['id']}: {row['errors_a']:.3g} error{'s' * (row['errors_a'] != 1)} in A,"
            f" {row['errors_b']:.3g} in B"
        )
        for name, text in (("ref", row["reference"]), ("A", row["a"][0]), ("B", row["b"][0])):
            lines = textwrap.wrap(text or "(nothing)", WIDTH - 9, max_lines=3, placeholder=" ...")
            yield f"    {name:<5}" + "\n         ".join(lines)


def _rate(one: Estimate) -> str:
    within = (
        f"  [{console.percent(one.interval[0])} .. {console.percent(one.interval[1])}]"
        if one.interval
        else ""
    )
    return console.percent(one.value) + within


def _difference(found: Comparison) -> str:
    """In points with their interval, and as a share of B."""
    one, b = found.difference, found.b.value
    within = f"  [{100 * one.interval[0]:+.2f} .. {100 * one.interval[1]:+.2f}]" if one.interval else ""
    return f"{100 * one.value:+.2f} points{within}" + (
        f", {100 * one.value / b:+.1f} % of B" if b and one.value else ""
    )


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
