"""What the pages of a table say in words, whatever their format: rates, protocols, notes, commands.

Rates are shown in per cent, with two digits.
"""

from asr_exp.commands.table.rows import NOT_COMPARABLE, Entry, ResultTable, ScoringProtocol, command
from asr_exp.commands.table.scores import INTERVALS, VERDICTS

# The parts of a protocol whose name in result.json does not say what they are.
PROTOCOL_PARTS = {
    "ids": "utterances",
    "hash": "its hash alone",
    "text": "the name of the text rules",
    "rules": "text rules",
    "data": "the transcripts that the corpus had",
}


def points(rate: float | None, signed: bool = False) -> str:
    """A rate in per cent, or a difference of two in percentage points: '21.40', '+0.49'."""
    return "" if rate is None else f"{100 * rate:{'+' if signed else ''}.2f}"


def ours(entry: Entry) -> str:
    """'21.40 [20.52, 22.28]': the mean and its interval; of an entry without a score its status."""
    if entry.mean is None:
        return entry.status
    interval = entry.interval
    return points(entry.mean) + (f" [{points(interval[0])}, {points(interval[1])}]" if interval else "")


def runs(entry: Entry) -> str:
    """'3': how many runs the mean is of; '2 of 3' where not all have a score."""
    scored, requested = len(entry.scored), len(entry.cells)
    return f"{scored}" if scored == requested else f"{scored} of {requested}"


def in_cell(entry: Entry) -> str:
    """What a grid shows of an entry."""
    return ours(entry) + (f", {runs(entry)}" if entry.scores and len(entry.scored) < len(entry.cells) else "")


def comparison(entry: Entry) -> str:
    """The published score of a grid's entry and how ours compares with it: '21.51: +0.49, as published'."""
    difference = ", ".join(filter(None, (points(entry.difference, signed=True), entry.verdict)))
    return ": ".join(filter(None, (points(entry.published.value) or "none", difference)))


def remarks(entry: Entry) -> str:
    """The notes of an entry, without the one that repeats its status."""
    return "; ".join(note for note in entry.notes if note != entry.status)


def place_of(entry: Entry) -> str:
    """'ROW / COLUMN'."""
    return " / ".join(filter(None, (entry.row, entry.column)))


def describe(protocol: ScoringProtocol) -> str:
    """'timit test, WER, text hf_compat, greedy, padding exact, coverage 100 %': a protocol in words."""
    p = protocol.parts
    splits = p.get("split") or []
    split = "+".join(map(str, splits)) if isinstance(splits, list | tuple) else str(splits)
    corpus = " ".join(str(word) for word in (p.get("dataset"), p.get("language"), split) if word)
    phones = f"{p['inventory']} phones" if p.get("inventory") else ""
    parts = [
        p.get("name"),
        corpus,
        str(p.get("metric", "")).upper(),
        f"text {p.get('text')}",
        f"score {p['score']}" if p.get("score") else "",
        phones,
        p.get("decoder"),
        f"padding {p.get('padding')}",
        p.get("precision"),
    ]
    coverage = f"coverage {100 * float(p.get('coverage', 1)):g} %"
    return ", ".join([*(str(part) for part in parts if part), coverage])


def heading(table: ResultTable, protocol: ScoringProtocol | None, material: str) -> tuple[str, str]:
    """How a group of entries was measured, and why it cannot be compared with another ('' where it can)."""
    if protocol is None:
        return f"Not measured yet: {material}", ""
    name = f"Protocol {protocol.letter}" if len(table.protocols) > 1 else "Protocol"
    first = next(one.letter for one in table.protocols if one.material == protocol.material)
    differences = " and ".join(PROTOCOL_PARTS.get(part, part) for part in protocol.differs)
    apart = f"Not to be compared with {first}: it differs in {differences}."
    return f"{name} `{protocol.hash}`: {describe(protocol)}", apart if protocol.differs else ""


def legend(table: ResultTable) -> list[str]:
    """How the numbers were computed, where the published ones come from, and what the verdicts mean."""
    alone = " Scores may be compared under the same protocol alone." if len(table.protocols) > 1 else ""
    intervals = f" {INTERVALS}" if any(entry.interval for entry in table.entries) else ""
    sentences = [f"Rates in %.{alone}{intervals}"]
    compared = {e.published.tolerance for e in table.entries if e.verdict not in ("", NOT_COMPARABLE)}
    if compared:
        tolerances = " or ".join(f"{100 * tolerance:g}" for tolerance in sorted(compared))
        sentences.append(f"{VERDICTS} Tolerance: {tolerances} %, absolute.")
    if any(entry.verdict == NOT_COMPARABLE for entry in table.entries):
        sentences.append(f"`{NOT_COMPARABLE}`: the published score was measured by another protocol.")
    if table.column_keys and not any(entry.published.value for entry in table.entries):
        sentences.append("No published score belongs to these runs.")
    if table.elsewhere:
        names = ", ".join(table.elsewhere)
        sentences.append(f"Published for these models and datasets, by recipes of their own: {names}.")
    if sources := list(dict.fromkeys(e.published.source for e in table.entries if e.published.source)):
        sentences.append(f"Published: {', '.join(sources)}.")
    return sentences


def commands(table: ResultTable) -> list[str]:
    """The command lines that start the runs of the table: one for each experiment, or one for a grid."""
    if any("experiment" in cell.keys for entry in table.entries for cell in entry.cells):
        return list(dict.fromkeys(entry.command for entry in table.entries))
    return [command(cell for entry in table.entries for cell in entry.cells)]
