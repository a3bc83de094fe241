"""What compare prints: the verdict, the tests, and the utterances that changed most."""

import textwrap
from collections.abc import Iterator
from typing import Any

from asr_exp.core import console
from asr_exp.runs.pairing import OF_THE_SPLIT, PairedRuns, corpus_name, counted, differing
from asr_exp.scoring.error_rates import READ_CER, unspaced
from asr_exp.scoring.intervals import LEVEL, Estimate
from asr_exp.scoring.significance import Comparison

FEW_SEGMENTS = 50  # with fewer, the distribution of z is far from normal (Gillick & Cox 1989)
FEW_CLUSTERS = 20  # with fewer, the bootstrap's p value is too small
ROUGH = " (few: a rough guide)"
SHOWN = 5  # utterances that are printed
WIDTH = 79  # columns of a line


def verdict(rates: Comparison, metric: str, basis: str) -> str:
    """A sentence on whether A is better than B; where that cannot be told, how large a difference could be.

    basis: what the test rests on, such as "12 speakers".
    """
    difference = rates.difference
    scores = f"{metric.upper()} {console.percent(rates.a.value)} against {console.percent(rates.b.value)}"
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


def page(pair: PairedRuns, record: dict[str, Any], rates: dict[str, Comparison]) -> Iterator[str]:
    """The lines of the answer, of at most 80 columns unless a folder's name is longer."""
    seeded = len(pair.a) + len(pair.b) > 2
    origins = {each.trained_on for each in (*pair.a, *pair.b)}
    apart = len(origins) > 1 and "" not in origins
    for side, runs in (("A", pair.a), ("B", pair.b)):
        for number, each in enumerate(runs):
            details = [f"seed {each.seed}"] * seeded + [f"trained on {each.trained_on}"] * apart
            yield f"{' ' if number else side}  {each.folder}" + (f" ({', '.join(details)})" * bool(details))
    for metric, one in rates.items():
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
        split = f"{corpus_name(record['dataset'], record['language'])} {record['split']}"
        yield f"\n{metric.upper()} on {split}, {counted(len(pair.ids), 'utterance')}, 95 % intervals"
        yield from (f"  {name:<12} {value}" for name, value in rows)
    yield "\n" + textwrap.fill(record["verdict"], WIDTH)
    for note in _notes(pair, record, rates[pair.metric].difference.p):
        yield textwrap.fill(f"- {note}", WIDTH, subsequent_indent="  ")


def _notes(pair: PairedRuns, record: dict[str, Any], p: float | None) -> Iterator[str]:
    """Limits of the answer. p: of the t test."""
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


def changed_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The utterances that changed most; of several seeds, the transcripts of the first are shown."""
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


def _difference(rates: Comparison) -> str:
    """The difference in percentage points with its interval, and relative to B."""
    one, b = rates.difference, rates.b.value
    within = f"  [{100 * one.interval[0]:+.2f} .. {100 * one.interval[1]:+.2f}]" if one.interval else ""
    return f"{100 * one.value:+.2f} points{within}" + (
        f", {100 * one.value / b:+.1f} % of B" if b and one.value else ""
    )


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
