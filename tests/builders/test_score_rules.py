"""`score=`: other rules for both sides of a score, on what a run keeps, without the network."""

import json
import shutil
from pathlib import Path

import jiwer
import pytest
from harness import QUIET, TWO_STEPS, lines, result, run

from asr_exp.builders.score_rules import score_name, score_protocol
from asr_exp.config.compose import compose
from asr_exp.data.text import build_rules


@pytest.fixture
def folder(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def scores(folder: Path) -> dict[str, dict]:
    """The scores by other rules, by their name."""
    found = [
        json.loads(path.read_text()) | {"folder": path.parent}
        for path in folder.glob("evaluations/*/result.json")
    ]
    return {one["protocol"]["score"]: one for one in found}


def reworded(folder: Path, change) -> None:
    """Change the lines of the hypotheses of test."""
    path = folder / "hypotheses.test.jsonl"
    path.write_text(
        "".join(json.dumps(change(number, line)) + "\n" for number, line in enumerate(lines(path)))
    )


def test_names_and_protocols():
    def of(*overrides):
        config = compose(["dataset.language=en", *overrides])
        return score_name(config), score_protocol(config)

    assert (
        of() == ("same", {}) and of("score=same") == ("same", {}) and of("score.language=de") == ("same", {})
    )
    name, protocol = of("score=open-asr-english")
    assert name == protocol["score"] == "open-asr-english"
    assert protocol["scoring"] == {
        "rules": ["open_asr_english"],
        "references": "corpus",
        "compounds": "merge",
        "drop_empty": True,
        "language": "en",
    }
    assert of("score=whisper", "score.compounds=merge")[0] == "whisper*"
    assert of("score.rules=[strip_accents]")[1]["score"] == "same*"
    assert of("score.rules=[strip_accents]", "score.name=lab")[1]["score"] == "lab"


@pytest.mark.parametrize("split", ["test", "dev"])
def test_a_score_is_taken_again_without_the_network(folder, tmp_path, no_network, split):
    own = result(folder)
    no_network()
    run(
        "evaluate",
        folder,
        "score=whisper",
        "dataset.language=null",
        "score.language=en",
        f"split={split}",
        *QUIET,
        cwd=tmp_path,
    )
    (score,) = scores(folder).values()
    kept = lines(folder / f"hypotheses.{split}.jsonl")
    rules = build_rules(["whisper"], "en")
    pairs = [[rules(line[f"raw_{side}"]) for line in kept] for side in ("reference", "hypothesis")]
    assert score["splits"][split]["wer"] == jiwer.wer(*pairs)
    assert score["splits"][split]["cer"] == pytest.approx(jiwer.cer(*pairs))
    assert result(folder) == own and not (folder / "emissions").exists()
    scored = lines(score["folder"] / f"hypotheses.{split}.jsonl")
    assert [line["raw_hypothesis"] for line in scored] == [line["raw_hypothesis"] for line in kept]


def test_a_word_renamed_on_both_sides_changes_no_wer(folder, tmp_path, no_network):
    """Text rules would change the references alone, and are refused."""
    no_network()
    words = ["ba", "go", "me", "di", "lu"]
    reworded(
        folder, lambda number, line: line | {"raw_hypothesis": f"{words[number % 5]} {line['reference']}"}
    )
    renamed = "score.rules=[{replace: {ba: zz}}]"
    run("evaluate", folder, renamed, *QUIET, cwd=tmp_path)
    run("evaluate", folder, "score.rules=[lower]", "score.name=plain", *QUIET, cwd=tmp_path)
    found = {name: one["splits"]["test"] for name, one in scores(folder).items()}
    assert found["same*"] == found["plain"] and found["plain"]["insertions"] == found["plain"]["utterances"]
    assert "zz" in (scores(folder)["same*"]["folder"] / "hypotheses.test.jsonl").read_text()


@pytest.mark.parametrize("change", [["text=upper"], ["text.name=mine", "text.rules=[lower]"], ["text=none"]])
def test_text_rules_of_a_run_cannot_be_changed(folder, tmp_path, capsys, change):
    run("evaluate", folder, *change, *QUIET, cwd=tmp_path, status=2)
    told = capsys.readouterr().err
    assert "score.rules=[...]" in told and str(folder) in told and not (folder / "evaluations").exists()


def test_empty_references_are_left_out_and_counted(folder, tmp_path, no_network):
    no_network()
    whole = result(folder)["splits"]["test"]
    run(
        "evaluate",
        folder,
        "score.rules=[{replace: {ba: '', di: '', go: '', lu: ''}}, collapse_whitespace]",
        "score.drop_empty=true",
        *QUIET,
        cwd=tmp_path,
    )
    (score,) = scores(folder).values()
    test = score["splits"]["test"]
    kept = [line for line in lines(folder / "hypotheses.test.jsonl") if "me" in line["reference"]]
    assert test["empty_references"] == whole["utterances"] - len(kept)
    assert test["utterances"] == len(kept) and test["coverage"] == len(kept) / whole["utterances"]
    assert [line["id"] for line in lines(score["folder"] / "hypotheses.test.jsonl")] == [
        line["id"] for line in kept
    ]


def test_hypotheses_of_other_weights_are_not_used(folder, tmp_path, no_network):
    no_network()
    weights = folder / "checkpoints/best/model.safetensors"
    weights.write_bytes(weights.read_bytes())
    run("evaluate", folder, "score=hf_compat", *QUIET, cwd=tmp_path, status=1)


def test_the_speed_is_measured_where_it_is_asked_for(folder, tmp_path):
    before = result(folder)
    run("evaluate", folder, "evaluate.rtfx=true", *QUIET, cwd=tmp_path)
    speed = result(folder).pop("speed")["test"]
    seconds = sum(line["seconds"] for line in lines(folder / "hypotheses.test.jsonl"))
    assert speed["audio_seconds"] == pytest.approx(seconds, abs=0.01) and speed["threads"] >= 1
    assert speed["rtfx"] == pytest.approx(speed["audio_seconds"] / speed["wall_seconds"], rel=0.05)
    assert {"device", "precision", "batch_seconds", "devices"} <= speed.keys()
    assert {**before, "speed": {"test": speed}} == result(folder)


def test_training_is_scored_by_the_rules_too(corpus, trained, tmp_path):
    rules = "score.rules=[{replace: {ba: '', di: ''}}, collapse_whitespace]"
    folder = run(*corpus, *TWO_STEPS, rules, "trainer.metric=dev.loss", cwd=tmp_path)
    found = result(folder)
    assert found["protocol"]["score"] == "same*" and folder.name != trained.name
    assert found["best"]["metric"] == "loss"
    losses = [line["dev/loss"] for line in lines(folder / "metrics.jsonl") if "dev/loss" in line]
    assert found["best"]["value"] == min(losses)
    for split in ("dev", "test"):
        pairs = lines(folder / f"hypotheses.{split}.jsonl")
        assert not {"ba", "di"} & {word for line in pairs for word in line["reference"].split()}
        assert {"ba", "di"} & {word for line in pairs for word in line["raw_reference"].split()}
        assert found["splits"][split]["reference_length"] == sum(
            len(line["reference"].split()) for line in pairs
        )
