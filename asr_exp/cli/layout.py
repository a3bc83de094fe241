"""How the pages of `--help` are laid out: paragraphs and tables of two columns."""

import os
import shutil
import textwrap
from collections.abc import Mapping


def width() -> int:
    """The columns of a page: those of the terminal, from 60 to 100, and 80 where it is none."""
    return max(
        60,
        min(
            100, shutil.get_terminal_size((80, 24)).columns if "COLUMNS" in os.environ or os.isatty(1) else 80
        ),
    )


def wrap(text: str, indent: str = "", first: str = "") -> str:
    """A paragraph in lines of the page's width. indent: of its lines; first: of the first one."""
    return textwrap.fill(
        text,
        width(),
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def table(rows: Mapping[str, str]) -> str:
    """Two columns: the names, and the text, which is wrapped."""
    left = min(26, max(map(len, rows), default=0)) + 2
    margin = " " * (left + 2)
    blocks = {  # a name too long for its column stands on a line of its own
        name: (
            wrap(f"  {name:<{left}}{text}", margin)
            if len(name) < left
            else f"  {name}\n{wrap(text, margin, margin)}"
        )
        for name, text in rows.items()
    }
    return "".join(f"{block}\n" for block in blocks.values())
