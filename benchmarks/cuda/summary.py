"""The goals, and how far what was measured is from them."""

from typing import Any

GOALS = (
    ("training, base: audio-s/s", "train", "base", 7000.0),
    ("training, wavlm-large: audio-s/s", "train", "wavlm-large", 2500.0),
    ("scoring, base: RTFx, the faster precision", "score", "base", 8000.0),
    ("scoring, wavlm-large: RTFx, the faster precision", "score", "wavlm-large", 3500.0),
)
TIMES_HF = 2.0  # as fast as transformers, tuned


def fails(row: dict[str, Any]) -> bool:
    """Whether a row is a fault of ours. That transformers does not fit is a result."""
    return row.get("holds") is False or "failed" in row and row.get("arm", "ours") == "ours"


def best(parts: dict[str, Any], part: str, network: str, arm: str = "ours") -> dict[str, Any] | None:
    """The fastest row of a network in a part."""
    rows = [
        row
        for row in parts.get(part, {}).get("rows", [])
        if row.get("network") == network and row.get("arm") == arm and row.get("rate")
    ]
    return max(rows, key=lambda row: row["rate"], default=None)


def goals(parts: dict[str, Any]) -> list[dict[str, Any]]:
    """Each goal with what was found: `met` is None where nothing was measured."""
    made = []
    for text, part, network, wanted in GOALS:
        found = best(parts, part, network)
        made.append(_goal(text, wanted, found["rate"] if found else None))
    for network in ("base", "wavlm-large", "xls-r-1b"):
        ours, theirs = best(parts, "train", network), best(parts, "hf", network, "hf-tuned")
        ratio = ours["rate"] / theirs["rate"] if ours and theirs else None
        made.append(_goal(f"training, {network}: times transformers tuned", TIMES_HF, ratio))
    return made


def _goal(text: str, wanted: float, found: float | None) -> dict[str, Any]:
    met = None if found is None else found >= wanted
    digits = 0 if wanted > 100 else 2
    said = "not measured" if found is None else f"{found:,.{digits}f}, {'met' if met else 'NOT met'}"
    return {
        "goal": f"{text} ≥ {wanted:,.{digits if wanted > 100 else 0}f}",
        "wanted": wanted,
        "found": found,
        "met": met,
        "says": said,
    }
