"""Runs whose data, or whose plugins, have changed since: nothing of theirs passes for a score of today's."""

import json
import shutil
from pathlib import Path

import pytest
from harness import QUIET, TWO_STEPS, call, cli, fork, killed_at, make_corpus, one_sentence, result, run

from asr_exp.data.fingerprint import DataFingerprint


@pytest.fixture
def corpus(tmp_path, cache):
    return make_corpus(tmp_path / "corpus", train=8, rest=4)


def correct(tmp_path: Path, split: str, rows: int = 1) -> None:
    """Correct the first transcripts of a manifest."""
    path = tmp_path / "corpus" / f"{split}.csv"
    lines = path.read_text().splitlines()
    for number in range(1, rows + 1):
        name, _, speaker = lines[number].split(",")
        lines[number] = f"{name},{'ba di ' * number}lu,{speaker}"
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_the_same_command_on_a_finished_run(corpus, tmp_path, split):
    folder = run(*corpus, *TWO_STEPS, cwd=tmp_path)
    kept = result(folder)["data"]
    assert {name: one["utterances"] for name, one in kept.items()} == {"train": 8, "dev": 4, "test": 4}
    again = cli(*corpus, *TWO_STEPS, cwd=tmp_path)
    assert "This run is finished" in again.stdout and "test WER" in again.stdout
    correct(tmp_path, split, rows=2)
    refused = cli(*corpus, *TWO_STEPS, cwd=tmp_path, status=2)
    sentence = one_sentence(refused)
    assert f"({split}: 2 of {8 if split == 'train' else 4} transcripts differ)" in sentence
    assert "dataset.name=NAME" in sentence and "WER" not in refused.stdout
    # what the sentence says to type trains on the new data
    other = cli(*corpus, *TWO_STEPS, "dataset.name=corrected", cwd=tmp_path)
    assert "Done" in other.stdout
    shutil.rmtree(folder)
    assert "Done" in cli(*corpus, *TWO_STEPS, cwd=tmp_path).stdout


def test_a_corpus_that_is_not_there_is_no_changed_one(corpus, tmp_path, capsys):
    run(*corpus, *TWO_STEPS, cwd=tmp_path)
    (tmp_path / "corpus").rename(tmp_path / "unmounted")
    capsys.readouterr()
    call(*corpus, *TWO_STEPS, cwd=tmp_path)
    assert "This run is finished" in capsys.readouterr().out


def test_a_run_of_an_earlier_version_has_no_fingerprint(corpus, tmp_path, capsys):
    folder = run(*corpus, *TWO_STEPS, cwd=tmp_path)
    before = {key: value for key, value in result(folder).items() if key != "data"}
    (folder / "result.json").write_text(json.dumps(before))
    (folder / "data.json").unlink()
    correct(tmp_path, "test")
    capsys.readouterr()
    call(*corpus, *TWO_STEPS, cwd=tmp_path)
    assert "This run is finished" in capsys.readouterr().out
    call("table", *corpus, *TWO_STEPS, cwd=tmp_path)
    assert "stale" not in capsys.readouterr().out


@pytest.mark.parametrize("split, status", [("train", 2), ("dev", 2), ("test", 0)])
def test_a_run_goes_on_with_the_data_that_it_began_with(corpus, tmp_path, split, status):
    fork(
        *corpus,
        *TWO_STEPS,
        cwd=tmp_path,
        status=-9,
        patch=(killed_at, "asr_exp.commands.train.scoring.save_checkpoint", 2, True),
    )
    correct(tmp_path, split)
    told = fork(*corpus, *TWO_STEPS, cwd=tmp_path, status=status)
    assert f"{split}: 1 of {8 if split == 'train' else 4} transcripts differs" in told
    if status:
        assert "since" in told and "was begun" in told and "dataset.name=NAME" in told
    else:
        (folder,) = {path.parent for path in tmp_path.rglob("result.json")}
        now = DataFingerprint.load(folder)
        assert now and result(folder)["data"] == now.summary and "Done" in told


def test_evaluate_keeps_a_score_on_changed_references_apart(corpus, tmp_path, capsys):
    folder = run(*corpus, *TWO_STEPS, cwd=tmp_path)
    own, said = result(folder), (folder / "hypotheses.test.jsonl").read_bytes()
    call("evaluate", folder, *QUIET, cwd=tmp_path)
    assert result(folder) == own and not (folder / "evaluations").exists()
    capsys.readouterr()
    correct(tmp_path, "test")
    call("evaluate", folder, *QUIET, cwd=tmp_path)
    assert "(test: 1 of 4 transcripts differs)" in capsys.readouterr().out
    assert result(folder) == own and (folder / "hypotheses.test.jsonl").read_bytes() == said
    (place,) = (folder / "evaluations").iterdir()
    apart = result(place)
    assert {**apart["protocol"], "data": None, "hash": None} == {
        **own["protocol"],
        "data": None,
        "hash": None,
    }
    assert apart["protocol"]["hash"] == place.name != own["protocol"]["hash"]
    assert apart["data"]["test"]["hash"] != own["data"]["test"]["hash"]
    call("compare", folder, place, cwd=tmp_path, status=2)
    error = capsys.readouterr().err
    assert "were not measured alike" in error and "1 of 4 references differ" in error
    # and the run's own is stale to a table, which says so
    call("table", *corpus, *TWO_STEPS, cwd=tmp_path)
    assert "stale (its data has changed since: test: 1 of 4" in " ".join(capsys.readouterr().out.split())


PLUGIN = '''"""A rule."""
from asr_exp.plugins import register_rule
import own_words


@register_rule("lamp")
def lamp(argument, language):
    return lambda text: text.replace("ba", own_words.WORD)
'''


@pytest.fixture
def plugin(tmp_path):
    (tmp_path / "own_rules.py").write_text(PLUGIN)
    (tmp_path / "own_words.py").write_text('WORD = "lu"\n')
    return ["plugins=[own_rules]", "text.name=lamp", "text.rules=[lower,lamp]"]


@pytest.mark.slow
def test_an_edited_plugin_makes_another_run(corpus, plugin, tmp_path):
    words = [*corpus, *TWO_STEPS, *plugin]
    folder = run_of(cli(*words, cwd=tmp_path).stdout)
    assert list(result(tmp_path / folder)["plugins"]) == ["text.rules=lamp"]
    # comments, docstrings and layout count for nothing
    source = PLUGIN.replace('"""A rule."""', '"""A rule that is edited."""  # so').replace("\n\n\n", "\n\n")
    (tmp_path / "own_rules.py").write_text(source)
    assert "This run is finished" in cli(*words, cwd=tmp_path).stdout
    # a module that it imports, beside it, counts
    (tmp_path / "own_words.py").write_text('WORD = "me"\n')
    scored = cli("evaluate", folder, *QUIET, cwd=tmp_path).stdout
    assert "Plugins have been edited since this run was made (text.rules=lamp)" in scored
    assert list((tmp_path / folder / "evaluations").iterdir())
    table = " ".join(cli("table", *words, cwd=tmp_path).stdout.split())
    assert "stale" in table and "with plugins that have been edited since" in table
    assert run_of(cli(*words, cwd=tmp_path).stdout) != folder


def run_of(out: str) -> str:
    """The run folder that a run has printed."""
    return next(line.split()[1] for line in out.splitlines() if line.strip().startswith("folder "))
