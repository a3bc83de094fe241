r"""A table in LaTeX (`table format=latex`), in the style of the package booktabs: \input it into a paper. The
lowest rate under a protocol is bold.
"""

from collections.abc import Sequence

from asr_exp.commands.table.arrange import grid
from asr_exp.commands.table.rows import Entry, ResultTable
from asr_exp.commands.table.wording import commands, heading, legend, place_of, points, remarks, runs

# What LaTeX would take for its own; the rest of a text is left to the engine, which reads UTF-8.
SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": "'",
    '"': "''",
}


def escaped(text: str) -> str:
    """A text in which LaTeX finds nothing of its own. Square brackets at its beginning are kept apart from
    the `\\\\` of the line before.
    """
    clean = "".join(SPECIAL.get(sign, sign) for sign in " ".join(text.split()))
    return f"{{}}{clean}" if clean.startswith(("[", "*")) else clean


def latex(table: ResultTable) -> str:
    """The table as a `table` environment, and the commands that made its runs as comments."""
    best = _best(table)
    tabular = _grid(table, best) if table.column_keys else _list(table, best)
    captions = [
        ". ".join(filter(None, heading(table, protocol, material)))
        for protocol, material, _ in table.sections()
    ]
    notes = [f"{place_of(entry)}: {text}" for entry in table.entries if (text := remarks(entry))]
    sentences = [*captions, *notes, *legend(table)]
    sentences += ["Bold: the lowest rate under its protocol"] if best else []
    caption = " ".join(text if text.endswith(".") else f"{text}." for text in sentences)
    lines = [
        r"% needs \usepackage{booktabs}; made by asr_exp from the runs of:",
        *(f"%   {' '.join(line.split())}" for line in commands(table)),
        r"\begin{table}",
        r"\centering",
        *tabular,
        rf"\caption{{{escaped(caption)}}}",
        rf"\label{{tab:{''.join(sign if sign.isalnum() or sign in '-.' else '-' for sign in table.name)}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _best(table: ResultTable) -> set[int]:
    """The entries, by `id`, with the lowest mean of those under their protocol, where there are several."""
    best = set()
    for protocol in table.protocols:
        entries = [e for e in table.entries if e.letter == protocol.letter and e.mean is not None]
        lowest = min((round(e.mean or 0.0, 9) for e in entries), default=0.0)
        if len(entries) > 1:
            best |= {id(e) for e in entries if round(e.mean or 0.0, 9) == lowest}
    return best


def _ours(entry: Entry, best: set[int]) -> str:
    """'\\textbf{21.40} [20.52, 22.28]', or the status of an entry without a score."""
    if entry.mean is None:
        return escaped(entry.status)
    mean = points(entry.mean)
    bold = rf"\textbf{{{mean}}}" if id(entry) in best else mean
    interval = entry.interval
    return bold + (f" [{points(interval[0])}, {points(interval[1])}]" if interval else "")


def _grid(table: ResultTable, best: set[int]) -> list[str]:
    layout = grid(table)
    body = []
    for name, row in layout.rows:
        cells = [" and ".join(_in_cell(entry, best) for entry in entries) for entries in row]
        body.append([escaped(name), *cells])
    header = [", ".join(table.row_keys) or "run", *layout.columns]
    return _tabular("l" + "r" * len(layout.columns), header, [body])


def _in_cell(entry: Entry, best: set[int]) -> str:
    partly = entry.scores and len(entry.scored) < len(entry.cells)
    return _ours(entry, best) + (f", {runs(entry)}" if partly else "")


def _list(table: ResultTable, best: set[int]) -> list[str]:
    """The rows of each protocol, apart from those of the next by a rule."""
    published = any(entry.published.value is not None for entry in table.entries)
    header = [", ".join(table.row_keys) or "run", "ours", "seeds" if table.mean_over == ("seed",) else "runs"]
    if published:
        header = [header[0], "published", *header[1:], "diff.", "verdict"]
    blocks = []
    for _, _, entries in table.sections():
        block = []
        for entry in entries:
            row = [escaped(entry.row), _ours(entry, best), runs(entry)]
            if published:
                difference = points(entry.difference, signed=True).replace("-", "$-$")
                row = [row[0], points(entry.published.value), *row[1:], difference, escaped(entry.verdict)]
            block.append(row)
        blocks.append(block)
    return _tabular("lrrrrl" if published else "lrr", header, blocks)


def _tabular(columns: str, header: Sequence[str], blocks: Sequence[Sequence[Sequence[str]]]) -> list[str]:
    """A tabular of blocks of rows, with booktabs' rules. The header is not escaped yet, the rows are."""
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(map(escaped, header)) + r" \\"]
    for block in blocks:
        lines += [r"\midrule", *(" & ".join(row) + r" \\" for row in block)]
    return [*lines, r"\bottomrule", r"\end{tabular}"]
