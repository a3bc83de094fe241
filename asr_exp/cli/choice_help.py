"""The pages of `--help` on what conf/ has: a choice of a group, and a table of experiments."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from asr_exp.cli.layout import table, width, wrap
from asr_exp.config.groups import OPTIONAL_GROUPS, conf_folders

COMMAND = "python -m asr_exp"


def choice_page(group: str, name: str) -> str:
    """The page on a choice of a group, such as dataset=timit: what its YAML file says of it, how to run it,
    and its settings.
    """
    comment, settings = _read(_file(group, f"{name}.yaml"))
    table_of_rows = name.rpartition("/")[0] if group == "experiment" else ""
    base = _comment_of_table(table_of_rows) if table_of_rows else []
    commands = [line for line in comment if line.startswith(COMMAND)] or [f"{COMMAND} {group}={name}"]
    said = [line for line in (*base, *comment) if not line.startswith(COMMAND)]
    parts = [f"{group}={name}", "\n".join(_paragraphs(said)), "\n".join(map(_command, commands)), settings]
    if group not in OPTIONAL_GROUPS:
        parts.append(f"Every key of a {group}: {COMMAND} --help {group}")
    elif table_of_rows:
        parts.append(f"The whole table: {COMMAND} --help {table_of_rows}")
    return "\n\n".join(filter(None, parts)) + "\n"


def experiments_page(name: str, rows: Sequence[str]) -> str:
    """The page on a table of experiments: what its base says, its rows, and how to run one or all of them.

    rows: the names of its experiments.
    """
    described = {}
    arguments = ""
    for row in rows:
        file = _file("experiment", f"{row}.yaml")
        comment, _ = _read(file)
        published = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("published") or {}
        value = published.get("value")
        score = f" [published: {100 * value:g} %]" if isinstance(value, float) else ""
        said = " ".join(line for line in comment if not line.startswith(COMMAND))
        described[row] = f"{said}{score}"
        command = next((line for line in comment if line.startswith(COMMAND)), "")
        arguments = arguments or command.partition(f"experiment={row}")[2]
    lines = [
        f"{COMMAND} experiment={rows[0]}{arguments}",
        f"{COMMAND} -m experiment={name}{arguments} seed=0,1,2",
        f"{COMMAND} table experiment={name}{arguments} seed=0,1,2",
        f"{COMMAND} -m experiment={name} debug=rehearsal",
    ]
    parts = [
        f"experiment={name}: {len(rows)} row{'s' * (len(rows) > 1)}",
        "\n".join(_paragraphs(_comment_of_table(name))),
        table(described).rstrip(),
        wrap("One row; all of them, with three seeds; their table; first, a rehearsal in three steps:"),
        "\n".join(map(_command, lines)),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _file(*parts: str) -> Path:
    """A file of conf/: ours, or that of the user's folders where we have none."""
    return next(path for folder in conf_folders() if (path := folder.joinpath(*parts)).exists())


def _comment_of_table(name: str) -> list[str]:
    """The comment of the base that the rows of a table of experiments share, if there is one."""
    try:
        return _read(_file("experiment", name, "_base.yaml"))[0]
    except StopIteration:
        return []


def _read(file: Path) -> tuple[list[str], str]:
    """The lines of the comment that a YAML file begins with, and its settings, as wide as the page."""
    lines = file.read_text(encoding="utf-8").splitlines()
    start = next((i for i, line in enumerate(lines) if line and not line.startswith("#")), len(lines))
    comment = [line.lstrip("#").rstrip()[1:] for line in lines[:start]]
    comment = [line for line in comment if line and not line.startswith("@package")]
    return comment, "\n".join(map(_folded, lines[start:])).rstrip()


def _folded(line: str) -> str:
    """A line of YAML, in several where it is too long; they mean the same."""
    if len(line) <= width() or re.search(r"[:-] *[|>\"']", line):
        return line
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    glued = line.replace(": ", ":\0")  # a key and its value stay together
    text = textwrap.fill(
        glued, width(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return text.replace("\0", " ")


def _paragraphs(lines: Sequence[str]) -> Iterator[str]:
    """Lines of comments as paragraphs: an indented line stands by itself."""
    text = ""
    for line in lines:
        if line.startswith(" "):
            yield from filter(None, (wrap(text), wrap(line.strip(), "      ", "  ")))
            text = ""
        else:
            text = f"{text} {line}".strip()
    if text:
        yield wrap(text)


def _command(line: str) -> str:
    r"""A command line, in several that end in \ where it is too long."""
    if len(line) <= width() - 2:
        return f"  {line}"
    lines = textwrap.wrap(line, width() - 8, break_long_words=False, break_on_hyphens=False)
    return "  " + " \\\n      ".join(lines)
