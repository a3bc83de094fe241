"""The pages of a table: Markdown, HTML and CSV, and the blocks of a README that are made and checked."""

import csv
import io
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tables import BASE, ROOT, row, table, write_experiments, write_run

from asr_exp.cli.main import main


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_experiments(tmp_path / "conf", ("base", "sew"))
    return tmp_path


class Page(HTMLParser):
    """Every tag is closed by its own, and nothing is fetched."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.texts = []
        self.fetched = []

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href", "data", "action")] + [
            tag
        ] * (tag in ("script", "link"))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in ("line", "rect", "circle")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize(
    "layout", [[], ["rows=experiment", "columns=text", "text=hf_compat,standard"], ["columns=dataset"]]
)
def test_the_page_is_whole_and_alone(capsys, somewhere, layout):
    path = somewhere / "conf/experiment/hf-mini/sew.yaml"
    path.write_text(
        path.read_text().replace("https://example.org/models", "'<script>alert(1)</script> & \"so\"'")
    )
    write_run([*BASE, "seed=0"], 0.2)
    write_run(["experiment=hf-mini/sew", ROOT, "seed=0"], status="failed", reason="</td><script>")
    table(capsys, "experiment=hf-mini", ROOT, "seed=0", *layout)
    text = Path("outputs/tables/hf-mini/table.html").read_text()
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == [] and page.fetched == [] and "url(" not in text and "@import" not in text
    assert "http" not in text and "example.org/models" in text and "prefers-color-scheme: dark" in text
    said = " ".join(page.texts)
    assert (
        "hf-mini" in said
        and "20.00" in said
        and "21.51" in said
        and "</td><script>" in said
        and "<script>alert(1)</script>" in said
    )


def test_what_is_written_fits_a_terminal_and_its_commands_a_shell(capsys):
    words = ["optimizer.lr=0.001,0.002", "tracking.tags=[first,second]"]
    words += [
        f"{key}=false"
        for key in ("trainer.gradient_checkpointing", "trainer.shortest_first", "model.freeze_front_end")
    ]
    out, rows = table(capsys, *words, "seed=0", "name=rates")
    (block,) = re.findall(r"```bash\n(.*?)```", out, flags=re.DOTALL)
    assert max(map(len, out.splitlines())) <= 80
    assert shlex.split(block.replace("\\\n", "")) == ["python", "-m", "asr_exp", "-m", *words, "seed=0"]


def test_csv_reads_back(capsys):
    write_run([*BASE, "seed=0"], 1 / 3, [0.1 + 0.2, 0.4])
    _, rows = table(capsys, "experiment=hf-mini", ROOT, "seed=0,1")
    assert float(rows[0]["ours"]) == 1 / 3 and float(rows[0]["ci95_low"]) == 0.1 + 0.2
    cells = list(csv.DictReader(io.StringIO(Path("outputs/tables/hf-mini/cells.csv").read_text())))
    assert float(cells[0]["value"]) == 1 / 3 and json.loads(cells[0]["protocol"])["dataset"] == "timit"


# ------------------------------------------------------------------------------------------------------------
# tables that are kept


PAGE = (
    "# Mine\n\n<!-- asr_exp table hf-mini -->\n<!-- end -->\n\nafter\n<!-- asr_exp table other -->\nleft"
    " alone\n<!-- end -->\n"
)
AGAIN = ["table", "experiment=hf-mini", "seed=0,1", "cells=sweeps/tables/hf-mini.csv", "into=README.md"]


@pytest.fixture
def page(somewhere, capsys):
    """A README.md with the table of two runs, whose scores are kept beside it."""
    path = somewhere / "README.md"
    path.write_text(PAGE)
    for seed in (0, 1):
        write_run([*BASE, f"seed={seed}"], 0.2 + seed / 100)
    assert main([*AGAIN[:3], ROOT, "keep=sweeps/tables/hf-mini.csv", "into=README.md"]) == 0
    for result in somewhere.glob("outputs/*/*/*/result.json"):
        result.unlink()  # the kept cells are enough
    capsys.readouterr()
    return path


def test_a_block_of_a_page_is_written_and_checked(capsys, page):
    text = page.read_text()
    assert text.startswith("# Mine\n\n<!-- asr_exp table hf-mini -->\n") and text.endswith(
        PAGE[PAGE.index("<!-- end -->") :]
    )
    assert "20.50" in text and "dataset.root=FOLDER" in text and "/corpora" not in text
    # what the block says of itself is what makes it
    assert f"`{' '.join(['python -m asr_exp', *AGAIN])}`" in text
    assert main([*AGAIN, "check=true"]) == 0 and main(AGAIN) == 0 and page.read_text() == text
    page.write_text(text.replace("20.50", "19.50"))
    capsys.readouterr()
    assert main([*AGAIN, "check=true"]) == 1
    told = capsys.readouterr()
    assert "19.50" in told.out and "hf-mini of README.md" in told.err and "19.50" in page.read_text()
    assert main(AGAIN) == 0 and page.read_text() == text


def test_kept_cells_of_another_recipe_are_stale(capsys, somewhere, page):
    _, rows = table(capsys, "experiment=hf-mini", "seed=0", "cells=sweeps/tables/hf-mini.csv")
    assert (row(rows, "base")["status"], row(rows, "base")["ours"]) == ("finished", "0.2")
    path = somewhere / "conf/experiment/hf-mini/base.yaml"
    path.write_text(path.read_text() + "optimizer: {lr: 0.5}\n")
    _, rows = table(capsys, "experiment=hf-mini", "seed=0,9", "cells=sweeps/tables/hf-mini.csv")
    assert (
        "seed 0 stale (its recipe is not that of hf-mini.csv" in row(rows, "base")["notes"]
        and row(rows, "base")["ours"] == ""
    )
    assert "seed 9 missing (not in hf-mini.csv)" in row(rows, "base")["notes"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<!-- asr_exp table hf-mini -->\nno end",
        PAGE + PAGE,
        "<!-- asr_exp table hf-mini -->\n<!-- asr_exp table b -->\n<!-- end -->",
    ],
)
def test_a_page_without_one_block(capsys, somewhere, text):
    (somewhere / "page.md").write_text(text)
    assert main(["table", "experiment=hf-mini", "into=page.md"]) == 2
    assert (
        "<!-- asr_exp table hf-mini -->" in capsys.readouterr().err
        and (somewhere / "page.md").read_text() == text
    )


BLOCK = re.compile(r"^<!-- asr_exp table (\S+) -->\n(.*?)^<!-- end -->", flags=re.DOTALL | re.MULTILINE)


def disagreements(root: Path) -> list[str]:
    """Where the tables in README.md are not what sweeps/tables/*.csv say. To be called in `root`."""
    found, used = [], set()
    for name, block in BLOCK.findall((root / "README.md").read_text()):
        commands = [
            shlex.split(words)
            for words in re.findall(r"^Made by `python -m asr_exp (.*)`\.$", block, flags=re.MULTILINE)
        ]
        kept = [
            word.removeprefix("cells=") for words in commands for word in words if word.startswith("cells=")
        ]
        used |= {Path(path).name for path in kept}
        if block.strip() and not (
            len(commands) == len(kept) == 1 and Path(kept[0]).parent == Path("sweeps/tables")
        ):
            found.append(f"{name} is not made from sweeps/tables")
        found += [
            f"{name} is not what {kept[0]} says"
            for words in commands
            if kept and main([*words, "check=true"]) != 0
        ]
    return found + [
        f"no table is made of {path.name}"
        for path in (root / "sweeps/tables").glob("*.csv")
        if path.name not in used
    ]


def test_our_own_tables_are_what_their_data_say(monkeypatch):
    root = Path(__file__).parents[3]
    monkeypatch.chdir(root)
    assert "<!-- asr_exp table demo -->\n" in (root / "README.md").read_text() and disagreements(root) == []


def test_tables_that_disagree_with_their_data_are_found(somewhere, page):
    empty = "<!-- asr_exp table other -->\nleft alone\n<!-- end -->\n"
    page.write_text(text := page.read_text().replace(empty, empty.replace("left alone\n", "")))
    assert disagreements(somewhere) == []
    kept = somewhere / "sweeps/tables/hf-mini.csv"
    (somewhere / "sweeps/tables/spare.csv").write_text(kept.read_text())
    assert disagreements(somewhere) == ["no table is made of spare.csv"]
    (somewhere / "sweeps/tables/spare.csv").unlink()
    kept.write_text(kept.read_text().replace(",0.2,", ",0.1,"))
    assert disagreements(somewhere) == ["hf-mini is not what sweeps/tables/hf-mini.csv says"]
    page.write_text(text.replace("Made by", "Typed by"))
    assert disagreements(somewhere) == [
        "hf-mini is not made from sweeps/tables",
        "no table is made of hf-mini.csv",
    ]
