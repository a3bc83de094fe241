"""The data of a report: gathered from the records of one run or two, as JSON that the page's script draws."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

import asr_exp
from asr_exp.commands.report.breakdown import Confusions, binned, grouped, operations, units
from asr_exp.commands.report.record import Record
from asr_exp.core.console import counted, duration, measured
from asr_exp.scoring.error_rates import ErrorCounts, Tally, unspaced

MAX_CONFUSIONS = 100  # in a list
MAX_SPEAKERS = 200

LEGEND = (
    "Errors are the fewest edits that turn the reference into the hypothesis. Intervals are 95 %, from"
    " leaving out each speaker in turn (each utterance where speakers are not known)."
)


def unit_of(records: Sequence[Record], unit: str) -> str:
    """The unit that errors are counted in: word, phone, or character where the references have no spaces.

    unit: the tokenizer's.
    """
    if unit == "phone":
        return "phone"
    return "character" if unspaced(line["reference"] for line in records[0].lines.values()) else "word"


class UtteranceTable:
    """The utterances of a split in columns, with each run's hypotheses and their alignment.

    ids, speakers, seconds, references: a value for each utterance. hypotheses, losses, steps: such a list for
    each run; steps are the `operations` of the alignments. lengths: (utterances,) units of the references;
    errors: (runs, utterances).
    """

    def __init__(self, records: Sequence[Record], unit: str):
        self.unit, self.ids = unit, list(records[0].lines)
        first = [records[0].lines[id] for id in self.ids]
        self.speakers = [line["speaker"] for line in first]
        self.seconds = np.nan_to_num([line["seconds"] for line in first], posinf=0.0, neginf=0.0)
        self.references = [line["reference"] for line in first]
        self.hypotheses = [[record.lines[id]["hypothesis"] for id in self.ids] for record in records]
        self.losses = [[_finite(record.lines[id]["loss"]) for id in self.ids] for record in records]
        references = [units(text, unit) for text in self.references]
        self.confusions = [Confusions() for _ in records]
        self.steps: list[list[str]] = []
        for hypotheses, confusions in zip(self.hypotheses, self.confusions, strict=True):
            self.steps.append([])
            for reference, text in zip(references, hypotheses, strict=True):
                hypothesis = units(text, unit)
                steps = operations(reference, hypothesis)
                confusions.add(reference, hypothesis, steps)
                self.steps[-1].append(steps)
        self.lengths = np.array([len(one) for one in references])
        self.errors = np.array([[len(steps) - steps.count("=") for steps in side] for side in self.steps])

    def worst(self, count: int) -> list[int]:
        """So many rows: three in four are those with the most errors (among equals those with the shorter
        reference), the others are drawn at random.
        """
        order = np.lexsort((self.lengths, -self.errors.max(axis=0)))
        first = order[: count - count // 4].tolist()
        others = order[len(first) :]
        drawn = np.random.default_rng(0).permutation(others)[: count // 4]
        return [*first, *drawn.tolist()]

    def groups(self) -> dict[str, list[dict[str, Any]]]:
        """Error rates by length, speaking rate and speaker; the speakers with the highest rate come first."""
        clusters = [speaker or (row,) for row, speaker in enumerate(self.speakers)]
        pace = self.lengths / np.maximum(self.seconds, 1e-3)
        groups = {
            "length": grouped(*self._named(binned(self.lengths, 0)[0]), clusters, binned(self.lengths, 0)[1]),
            "rate": (
                grouped(*self._named(binned(pace, 1)[0]), clusters, binned(pace, 1)[1])
                if self.seconds.any()
                else []
            ),
            "speaker": [],
        }
        if len({*self.speakers} - {None}) > 1:
            names = [speaker or "unknown" for speaker in self.speakers]
            groups["speaker"] = grouped(*self._named(names), clusters, sorted({*names}))
            groups["speaker"].sort(key=lambda one: -max(rate or 0.0 for rate in one.rates))
        return {name: [asdict(one) for one in rows[:MAX_SPEAKERS]] for name, rows in groups.items()}

    def _named(self, names: Sequence[str]) -> tuple[Sequence[str], np.ndarray, np.ndarray]:
        return names, self.errors, self.lengths

    def columns(self) -> dict[str, Any]:
        """The columns as the page's script reads them; utterances without an error have '' for their
        steps.
        """
        steps = [["" if not errors else text for text, errors in zip(side, counts, strict=True)]
                 for side, counts in zip(self.steps, self.errors.tolist(), strict=True)]  # fmt: skip
        return {
            "id": self.ids,
            "speaker": self.speakers,
            "seconds": self.seconds.round(3).tolist(),
            "reference": self.references,
            "hypothesis": self.hypotheses,
            "steps": steps,
            "loss": self.losses,
        }

    def confused(self) -> dict[str, Any]:
        """The most frequent substitutions, deletions and insertions. A row is the words, the count of each
        run and, of deletions, how often the word stands in the references.
        """
        confused: dict[str, Any] = {}
        for name in ("substitutions", "deletions", "insertions"):
            counters = [getattr(one, name) for one in self.confusions]
            every = sum(counters[1:], counters[0].copy())
            rows = []
            for what, _ in sorted(every.items(), key=lambda item: (-item[1], item[0]))[:MAX_CONFUSIONS]:
                rows.append([*([what] if isinstance(what, str) else what), *(one[what] for one in counters)])
                if name == "deletions":
                    rows[-1].append(self.confusions[0].spoken[what])
            confused[name] = {"rows": rows, "kinds": len(every), "totals": [one.total() for one in counters]}
        return confused


def _finite(loss: float | None) -> float | None:
    return loss if loss is not None and math.isfinite(loss) else None


def contents(
    records: Sequence[Record],
    utterances: UtteranceTable | None,
    comparison: str | None,
    detail_numbers: Mapping[int, int],
    suspects: Sequence[dict[str, Any]],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Gather the data of the page.

    Args:
        records: of the run, or of the two that are compared.
        utterances: of the split that is shown; None where there are no hypotheses yet.
        comparison: the sentence on the difference of two runs.
        detail_numbers: the number of the detail of each utterance that has one, by its row.
        suspects: groups of utterances whose transcripts are in doubt.
        notes: sentences to be shown at the top.
    """
    return {
        "version": asr_exp.__version__,
        "title": " against ".join(record.name for record in records),
        "legend": LEGEND,
        "split": records[0].split,
        "unit": utterances.unit if utterances else "word",
        "metric": {"phone": "PER", "word": "WER", "character": "CER"}[
            utterances.unit if utterances else "word"
        ],
        "runs": [_run(record) for record in records],
        "comparison": comparison,
        "notes": list(notes),
        "utterances": utterances.columns() if utterances else None,
        "confusions": utterances.confused() if utterances else None,
        "groups": utterances.groups() if utterances else None,
        "details": {str(row): number for row, number in detail_numbers.items()},
        "suspects": list(suspects),
    }


def _run(record: Record) -> dict[str, Any]:
    result, facts = record.result, []
    if result:
        facts += [str(result.get("status", "")), f"seed {result.get('seed')}"]
    train, best = result.get("train") or {}, result.get("best") or {}
    if {"steps", "epochs", "wall_seconds"} <= train.keys():
        facts.append(
            f"{counted(train['steps'], 'step')}, {train['epochs']:g} epochs in"
            f" {duration(train['wall_seconds'])}"
        )
    if best:
        facts.append(f"best at step {best['step']:,} (dev {measured(best['metric'], best['value'])})")
    if protocol := result.get("protocol"):
        facts.append(f"protocol {protocol.get('hash')}")
    files = {name: text for name in ("config.yaml", "result.json") if (text := record.file(name))}
    return {
        "name": record.name,
        "folder": str(record.folder),
        "facts": facts,
        "curves": record.curves,
        "files": files,
        "summary": summary(record),
    }


def summary(record: Record) -> dict[str, Any] | None:
    """The scores of the split: those in result.json, or what it will say once the run has come to the split.

    None where there are no hypotheses.
    """
    if not record.lines:
        return None
    if scores := record.result.get("splits", {}).get(record.split):
        return scores
    tally = Tally(phones=record.phones)
    for line in record.lines.values():
        counts = dict(line["counts"])
        characters = ErrorCounts(**counts.pop("characters"))
        tally.add(ErrorCounts(**counts), characters, line["speaker"])
    return dict(tally.summary())
