"""`evaluate`: a run scored again reads the split it scores and nothing else; a score joins the run's where it
is the run's own.
"""

import json
import shutil
from pathlib import Path

import pytest
from harness import QUIET, SMALL, lines, make_corpus, result, run

SHORT = [*SMALL, "trainer.max_steps=2", "trainer.eval_every=1", "trainer.batch_seconds=4", *QUIET]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of two steps, and of its data."""
    place = tmp_path_factory.mktemp("trained")
    return run(*make_corpus(place / "data"), *SHORT, cwd=place), place / "data"


@pytest.fixture
def folder(trained, tmp_path):
    """That run, for a test of its own."""
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


def apart(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("evaluations/*/result.json"))]


def test_of_another_dataset_the_scored_split_is_enough(folder, tmp_path):
    """Its file names are those of the run's own dataset, and still its score stays apart."""
    before = result(folder)
    make_corpus(tmp_path / "other", seed=1)
    for split in ("test", "dev"):
        run(
            "evaluate",
            folder,
            "dataset=csv",
            f"dataset.{split}=other/{split}.csv",
            f"split={split}",
            *QUIET,
            cwd=tmp_path,
        )
    assert result(folder) == before
    assert {(*score["protocol"]["split"], *score["splits"]) for score in apart(folder)} == {
        ("test.csv", "test"),
        ("dev.csv", "dev"),
    }


def test_of_the_runs_own_the_others_may_be_gone(folder, trained, tmp_path):
    before, scored = result(folder), (folder / "hypotheses.test.jsonl").read_bytes()
    gone = [trained[1] / "train.csv", trained[1] / "dev.csv"]
    for path in gone:
        path.rename(path.with_suffix(".gone"))
    try:
        run("evaluate", f"run={folder}", *QUIET, cwd=tmp_path)
        run("evaluate", folder, "split=dev", *QUIET, cwd=tmp_path, status=2)
    finally:
        for path in gone:
            path.with_suffix(".gone").rename(path)
    assert (
        result(folder) == before
        and (folder / "hypotheses.test.jsonl").read_bytes() == scored
        and not apart(folder)
    )


def test_a_run_that_has_not_finished_is_scored_apart(folder, tmp_path):
    """What it will say of itself is its own to write."""
    (folder / "result.json").unlink()
    run("evaluate", folder, "split=dev", *QUIET, cwd=tmp_path)
    assert not (folder / "result.json").exists() and [list(score["splits"]) for score in apart(folder)] == [
        ["dev"]
    ]


def test_what_is_carved_out_of_train_is_carved_again(trained, tmp_path):
    folder = run("dataset=csv", f"dataset.train={trained[1]}/train.csv", *SHORT, cwd=tmp_path)
    once = lines(folder / "hypotheses.test.jsonl")
    run("evaluate", folder, *QUIET, cwd=tmp_path)
    assert lines(folder / "hypotheses.test.jsonl") == once and not apart(folder)


@pytest.mark.parametrize(("settings", "words"), [
    (["dataset=csv"], "needs a manifest: dataset.test=FILE"),
    (["dataset=csv", "dataset.dev=dev.csv"], "dataset.test has no value; name what to score"),
    (["dataset=csv", "dataset.test=all.csv"], "by its column split no row is of test, they are of train"),
    (["dataset=csv", "dataset.test=gone.csv"], "dataset.test=gone.csv: there is no such file"),
    (["dataset.only=dev"], "split=dev"),
])  # fmt: skip
def test_a_split_that_cannot_be_read(folder, tmp_path, capsys, settings, words):
    (tmp_path / "all.csv").write_text("file,text,split\na.wav,a,train\n")
    (tmp_path / "dev.csv").write_text("file,text\na.wav,a\n")
    run("evaluate", folder, *settings, *QUIET, cwd=tmp_path, status=2)
    assert words in capsys.readouterr().err


def test_another_precision_is_part_of_the_protocol_and_has_emissions_of_its_own(folder, tmp_path, capsys):
    """bf16 by autocast, which a CPU has too. With fp32 a protocol is as it always was, without the key."""
    before = result(folder)
    assert "precision" not in before["protocol"]
    run("evaluate", folder, *QUIET, cwd=tmp_path)
    run("evaluate", folder, "evaluate.precision=bf16", *QUIET, cwd=tmp_path)
    assert result(folder) == before
    (score,) = apart(folder)
    parts = {**score["protocol"]}
    assert parts.pop("precision") == "bf16" and parts.pop("hash") != before["protocol"]["hash"]
    assert parts == {key: value for key, value in before["protocol"].items() if key != "hash"}
    assert len(list((folder / "emissions").iterdir())) == 2
    capsys.readouterr()
    run("evaluate", folder, "evaluate.precision=tf32", *QUIET, cwd=tmp_path, status=2)
    assert "evaluate.precision=tf32 needs a GPU" in capsys.readouterr().err


def test_a_run_whose_scores_are_of_another_precision_is_another_run(trained, tmp_path):
    place, data = trained
    settings = [f"dataset.{split}={data}/{split}.csv" for split in ("train", "dev", "test")]
    other = run("dataset=csv", *settings, "evaluate.precision=bf16", *SHORT, cwd=tmp_path)
    assert other.name != place.name and result(other)["protocol"]["precision"] == "bf16"
    run("evaluate", other, *QUIET, cwd=tmp_path)
    assert not apart(other)  # it is scored as it always was
