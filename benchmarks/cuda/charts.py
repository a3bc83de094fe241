"""A bar chart of the speed of one network, as inline SVG."""

from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH = 480.0
LEFT = 128.0  # where bars begin
RIGHT = 64.0  # room for a figure behind the longest bar
ROW = 24.0
TOP = 22.0  # room for what is said of the goal


def label(row: dict[str, Any]) -> str:
    """What a bar is of."""
    size = row.get("device_seconds", row.get("pass_seconds"))
    said = row["arm"] if size is None else f"{row['arm']}, {size if isinstance(size, str) else f'{size:g} s'}"
    if row.get("precision"):
        said += f", {row['precision']}"
    return said + (", ckpt" if row.get("checkpointing") else "")


def bars(rows: Sequence[dict[str, Any]], goal: float | None) -> str:
    """Bars of the rates of rows, and a line at the goal where there is one."""
    drawn = [row for row in rows if row.get("rate")]
    if not drawn:
        return ""
    scale = (WIDTH - LEFT - RIGHT) / max([*(row["rate"] for row in drawn), goal or 0.0])
    height = TOP + ROW * len(drawn) + 4
    parts = [f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="seconds of audio a second">']
    if goal:
        x = LEFT + goal * scale
        parts.append(f'<line class="goal" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4:g}" y2="{height - 2:g}"/>')
        parts.append(
            f'<text class="goal-text" x="{x:.1f}" y="{TOP - 9:g}" text-anchor="middle">'
            f"goal {goal:,.0f}</text>"
        )
    for number, row in enumerate(drawn):
        y = TOP + number * ROW
        width = max(1.0, row["rate"] * scale)
        parts.append(f'<text x="{LEFT - 8:g}" y="{y + 15:g}" text-anchor="end">{escape(label(row))}</text>')
        parts.append(
            f'<rect class="{escape(row["arm"])}" x="{LEFT:g}" y="{y + 3:g}" width="{width:.1f}"'
            ' height="16" rx="2"/>'
        )
        parts.append(f'<text x="{LEFT + width + 6:.1f}" y="{y + 15:g}">{row["rate"]:,.0f}</text>')
    return "".join([*parts, "</svg>"])
