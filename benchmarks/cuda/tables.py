"""What a part found, as tables."""

from collections.abc import Sequence
from typing import Any

HIDDEN = ("traceback", "rows", "failed", "sync_lines", "arm_note")
TITLES = {
    "device_seconds": "device_seconds",
    "pass_seconds": "s a pass",
    "rate": "audio-s/s",
    "step_s": "s a step",
    "first_step_s": "first step, s",
    "all_s": "with it all, s",
    "peak_gib": "peak, GiB",
    "reserved_gib": "reserved, GiB",
    "formula_gib": "formula, GiB",
    "hog_gib": "hog, GiB",
    "device_ms": "device, ms",
    "audio_s": "audio, s",
    "holds": "",
}


def named(row: dict[str, Any]) -> str:
    """What a row is of, in a few words."""
    return ", ".join(
        f"{value}" for key, value in row.items() if key not in HIDDEN and isinstance(value, str | int | float)
    )


def tables_of(rows: Sequence[dict[str, Any]], pivot: str | None = None) -> list[dict[str, Any]]:
    """The rows as a table, and one for each row that has rows of its own.

    pivot: the key by which rows of tests are gathered into one line.
    """
    whole = [row for row in rows if "failed" not in row] if pivot else list(rows)
    tables = [_pivoted(whole, pivot) if pivot else _table("", whole)] if whole else []
    for row in rows:
        if row.get("rows"):
            tables.append(_table(str(row.get("network", "")), row["rows"]))
    return tables


def _table(title: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = list(dict.fromkeys(key for row in rows for key in row if key not in HIDDEN))
    names = [name for name in names if any(row.get(name) is not None for row in rows)]
    if "arm" in names and len({row.get("arm") for row in rows}) == 1:
        names.remove("arm")
    for last in ("note", "holds"):  # in the last place
        if last in names:
            names = [*(name for name in names if name != last), last]
    numbers = {name for name in names if _is_number(name, rows)}
    columns = [{"title": TITLES.get(name, name), "number": name in numbers} for name in names]
    failed = any("failed" in row for row in rows)
    if failed:
        columns.append({"title": "", "number": False})
    cells = [
        [_cell(name, row.get(name), name in numbers) for name in names]
        + ([_badge("failed", "no") if "failed" in row else _text("")] if failed else [])
        for row in rows
    ]
    return {"title": title, "columns": columns, "rows": cells, "pivoted": False}


def _pivoted(rows: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    """A line for each value of the key, a column for each test, its bound in the head."""

    def test(row: dict[str, Any]) -> str:
        return f"{row['precision']}: {row['what']}" if "precision" in row else row["what"]

    lines = list(dict.fromkeys(row.get(key, "") for row in rows))
    tests = {test(row): row.get("bound", "") for row in rows}
    found = {(row.get(key, ""), test(row)): row for row in rows}
    columns = [{"title": key, "number": False}]
    columns += [{"title": f"{name} {bound}".strip(), "number": True} for name, bound in tests.items()]
    columns.append({"title": "", "number": False})
    cells = []
    for line in lines:
        own = [found.get((line, name)) for name in tests]
        held = all(row.get("holds", True) for row in own if row)
        badge = _badge("holds" if held else "does not hold", "yes" if held else "no")
        cells.append([_text(line, "text"), *(_tested(row) for row in own), badge])
    return {"title": "", "columns": columns, "rows": cells, "pivoted": True}


def _tested(row: dict[str, Any] | None) -> dict[str, Any]:
    """What a test found, marked where it does not hold."""
    if row is None:
        return _text("", "n")
    cell = _cell("found", row.get("found"), True)
    return {**cell, "kind": "n wrong"} if row.get("holds") is False else cell


def _is_number(name: str, rows: Sequence[dict[str, Any]]) -> bool:
    values = [row[name] for row in rows if row.get(name) is not None]
    return name in ("found", "device_seconds") or all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )


def _cell(name: str, value: Any, number: bool) -> dict[str, Any]:
    if name == "holds" and value is not None:
        return _badge("holds" if value else "does not hold", "yes" if value else "no")
    if name == "share":
        return _text(f"{value:.1%}", "n")
    if value is None:
        return _text("not a number" if name == "found" else "", "n" if number else "")
    if isinstance(value, bool):
        return _text("yes" if value else "no")
    if isinstance(value, float):
        return _text(_figure(value), "n")
    if isinstance(value, int):
        return _text(f"{value:,}", "n")
    text = str(value)
    kind = (
        "long"
        if name in ("kernel", "tensor", "note")
        else "n"
        if number
        else "text"
        if len(text) > 20
        else ""
    )
    return _text(text, kind)


def _figure(value: float) -> str:
    if value and (abs(value) < 1e-3 or abs(value) >= 1e7):
        return f"{value:.1e}"
    if 0.99 < value < 1:
        return f"{value:.7f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.4g}"


def _text(text: str, kind: str = "") -> dict[str, Any]:
    return {"text": text, "kind": kind, "badge": ""}


def _badge(text: str, kind: str) -> dict[str, Any]:
    return {"text": text, "kind": "badge", "badge": kind}
