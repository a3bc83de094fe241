"""cuda.html: what was found, by part, and the goals beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr_exp.core.templates import render
from benchmarks.cuda.charts import bars
from benchmarks.cuda.summary import GOALS, fails
from benchmarks.cuda.tables import named, tables_of

TEMPLATE = Path(__file__).with_name("page.html")
PIVOTED = {"numerics": "family", "ctc": "case"}  # a row of the table for each of these
SAYS = {
    "environment": "Matrix products are of random numbers, 8192 by 8192: the ceiling of everything below.",
    "numerics": "Tiny networks with large weights, noise of five lengths, masks as in training, no dropout."
    " fp32 with TF32 off.",
    "ctc": "Relative to torch's ctc_loss in double on the CPU; gradients to their largest element.",
    "cli": "A small network on tones. The second run is asked to leave and given again.",
    "ranks": "One process, with the collectives that several would use.",
    "train": "bf16, noise of LibriSpeech's lengths, 2,000 s a step, batches made ahead as in a run. Syncs are"
    " counted in a step of their own by torch's sync debug mode. The bars of transformers are those of the"
    " part hf.",
    "score": "Forward passes, greedy decoding, error counts and the loss.",
    "hf": "transformers' network in a plain loop: without what the Trainer spends besides. Audio without its"
    " padding.",
    "kernels": "One training step, bf16; kernels by the time they take, the 25 slowest.",
    "memory": "From the same weights: the step has to be made in pieces and give the same.",
    "switches": "bf16. The first step compiles.",
}


def page(made: dict[str, Any]) -> str:
    """The page of a report."""
    parts = made["parts"]
    facts = {row["what"]: row["found"] for row in parts.get("environment", {}).get("rows", [])}
    card = facts.get("card") or ("no GPU" if made["device"] == "cpu" else "card not known yet")
    versions = [f"{name} {facts[name]}" for name in ("torch", "transformers") if name in facts]
    return render(
        TEMPLATE,
        title=f"asr_exp on {card}",
        subtitle=", ".join([made["date"], f"{made['seconds']:.0f} s", *versions]),
        notices=list(_notices(made, parts)),
        goals=[_goal(one) for one in made["goals"]],
        parts=[_part(name, part, parts) for name, part in parts.items()],
    )


def _notices(made: dict[str, Any], parts: dict[str, Any]) -> Any:
    if made["device"] == "cpu":
        yield "This run had no GPU: its figures say nothing of one."
    if made["quick"]:
        yield "--quick: tiny networks and seconds of noise. No figure here is of a network that anyone uses."
    bad = [name for name, part in parts.items() if part["status"] in ("failed", "cut", "left out")]
    if bad:
        yield f"Not to its end: {', '.join(bad)}."


def _goal(one: dict[str, Any]) -> dict[str, Any]:
    text = one["goal"].partition(" ≥ ")
    found = one["found"]
    digits = 0 if one["wanted"] > 100 else 2
    return {
        "text": text[0],
        "wanted": text[2],
        "found": "" if found is None else f"{found:,.{digits}f}",
        "word": {None: "not measured", True: "met", False: "not met"}[one["met"]],
        "kind": {None: "", True: "yes", False: "no"}[one["met"]],
    }


def _part(name: str, part: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    tested = [row["holds"] for row in part["rows"] if "holds" in row]
    broken = [row for row in part["rows"] if "failed" in row]
    fine = part["status"] == "done" and not any(map(fails, part["rows"]))
    failures = [
        {"title": f"{named(row)}: {row['failed'][:160]}", "text": row.get("traceback") or row["failed"]}
        for row in broken
    ]
    if part.get("warnings"):
        said = "\n".join(part["warnings"])
        failures.append({"title": f"Warnings ({len(part['warnings'])})", "text": said})
    if part.get("traceback"):
        failures.append({"title": f"The part itself: {part['status']}", "text": part["traceback"]})
    return {
        "name": name,
        "heading": f"{part['title'][:1].upper()}{part['title'][1:]}",
        "title": part["title"],
        "says": SAYS.get(name, ""),
        "seconds": f"{part['seconds']:.0f}",
        "status": part["status"] if part["status"] != "done" or fine else "done, not all well",
        "held": f"{sum(tested)} of {len(tested)}" if tested else "",
        "kind": "" if part["status"] == "running" else "yes" if fine else "no",
        "charts": _charts(name, part["rows"], parts),
        "tables": tables_of(part["rows"], PIVOTED.get(name)),
        "failures": failures,
    }


def _charts(name: str, rows: Sequence[dict[str, Any]], parts: dict[str, Any]) -> list[dict[str, str]]:
    """A chart for each network of a part that measures speed; training with transformers' beside it."""
    if name not in ("train", "score"):
        return []
    others = parts.get("hf", {}).get("rows", []) if name == "train" else []
    charts = []
    for network in dict.fromkeys(row["network"] for row in rows if "network" in row):
        wanted = next((goal for _, part, one, goal in GOALS if (part, one) == (name, network)), None)
        own = [row for row in [*rows, *others] if row.get("network") == network]
        if svg := bars(own, wanted):
            charts.append({"title": f"{network}: seconds of audio a second", "svg": svg})
    return charts
