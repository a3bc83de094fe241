"""How a command line is read, and that nothing in it is read in another way without a word."""

import re
from pathlib import Path

import pytest

from asr_exp.cli.arguments import parse
from asr_exp.config.overrides import parsed

DESIGN = Path(__file__).parents[3] / "shared" / "DESIGN.md"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "overrides", "note"),
    [
        (["dataset.root=~/TIMIT"], ["dataset.root=~/TIMIT"], "is read as dataset.root='~/TIMIT'"),
        (["dataset.dev=é(1).csv"], ["dataset.dev=é(1).csv"], "is read as dataset.dev='é(1).csv'"),
        (["trainer.max_steps=1e3"], ["trainer.max_steps=1e3"], "is read as trainer.max_steps=1000"),
        (["transcribe", "talks/a=b.wav"], ["files=['talks/a=b.wav']"], "is taken for a recording"),
        (["transcribe", "x=1.wav", "c.wav"], ["files=['x=1.wav','c.wav']"], "is taken for a recording"),
    ],
)
def test_what_is_understood_in_another_way_is_shown(empty_folder, capsys, words, overrides, note):
    (empty_folder / "x=1.wav").touch()
    options, _ = parse(words)
    (line,) = capsys.readouterr().err.splitlines()
    word = words[min(1, len(words) - 1)]
    assert options.overrides == overrides and line.startswith(f"note: {word} ") and note in line


def test_a_note_is_what_the_run_goes_by(capsys):
    """The line that is shown is read as it stands, to the same config."""
    from asr_exp.config.compose import compose

    word = "dataset.dev=[~/a.csv,b#1.csv]"
    parse([word])
    shown = capsys.readouterr().err.strip().partition(" is read as ")[2]
    assert parsed(shown) and not parsed(word)
    assert compose([shown]).dataset.dev == compose([word]).dataset.dev == ["~/a.csv", "b#1.csv"]


@pytest.mark.parametrize(
    "words",
    [
        ["seed=3", "dataset.root=/data/TIMIT", "model.config.hidden_size=64", "optimizer.lr=1e-3"],
        ["experiment=null", "text.rules=[nfc,lower]", "dataset.root=/data/My Corpus", "dataset.root='~/x'"],
        ["evaluate", "outputs/0001", "split=dev"],
        ["transcribe", "a.wav", "b (1).wav", "-", "out=x.srt"],
        ["transcribe", "files=[a.wav]", "x=1.wav"],
        ["compare", "it's", "[b]"],
        ["-m", "model=a,b", "optimizer.lr=interval(1e-5,1e-3)", "seed=choice(1,2)"],
    ],
)
def test_what_is_read_as_it_stands_is_read_without_a_word(capsys, words):
    parse(words)
    assert capsys.readouterr() == ("", "")


def test_what_the_design_shows_is_read_without_a_word(capsys):
    if not DESIGN.exists():
        pytest.skip(f"the design is not there: {DESIGN}")
    lines = re.findall(r"-m asr_exp +([^#\n]*)", DESIGN.read_text(encoding="utf-8"))
    typed = [line.split() for line in lines if "COMMAND" not in line and "`" not in line]
    assert len(typed) >= 4
    for words in typed:
        parse(words)
        assert capsys.readouterr() == ("", "")


def test_of_several_ranks_the_first_shows_it(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    parse(["trainer.max_steps=1e3"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "word", ["a b", "it's", "\\", "${seed}", "\\${x}", "3", "null", "[a]", "a\\'", "x,y"]
)
def test_a_bare_word_is_the_text_that_it_is(word):
    """Whatever Hydra's grammar and OmegaConf's interpolations would make of it."""
    from asr_exp.config.compose import compose

    options, _ = parse(["evaluate", word])
    assert compose(options.overrides).run == word
