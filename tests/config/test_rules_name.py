"""The name of text rules in every protocol: a star where they are not those that conf/text/ has under it."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from asr_exp.config.compose import compose
from asr_exp.config.groups import conf_folder
from asr_exp.config.rules_name import rules_name, text_name
from asr_exp.runs.earlier_rules import finished_by_earlier_rules
from asr_exp.runs.folder import run_folder
from asr_exp.runs.results import protocol, read_result

TEXTS = conf_folder() / "text"
ROOT = Path(__file__).parents[2]


def rules_of(choice):
    return yaml.safe_load((TEXTS / f"{choice}.yaml").read_text(encoding="utf-8"))["rules"]


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ([], "standard-2"),
        (["text=standard-1"], "standard"),
        (["text=upper-1"], "upper"),
        (["text=hf_compat"], "hf_compat"),
        (["text=hf_compat", "text.rules=[hf_compat]"], "hf_compat"),
        (["text.rules=[nfc,lower]"], "standard-2*"),
        (["text=standard-1", "text.rules=[nfc,lower]"], "standard*"),
        (["text=none", "text.rules=[lower]"], "none*"),
        (["text.rules=[nfc,lower]", "text.name=mine"], "mine"),
        (["text.rules=[nfc,lower]", "text.name=upper"], "upper*"),
        (["text.name=standard"], "standard*"),  # the new rules under the old name
    ],
)
def test_changed_rules_are_shown_as_changed(asked, shown):
    config = compose(asked)
    assert text_name(config) == shown
    assert config.text.name == shown.removesuffix("*")  # the signature is made of this


def test_rules_of_ones_own_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "conf/text/mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("name: mine\nrules: [lower]\n")
    # asr_exp has other rules under that name
    (mine.parent / "posing.yaml").write_text("name: standard-2\nrules: [lower]\n")
    assert text_name(compose(["text=mine"])) == "mine"
    assert text_name(compose(["text=mine", "text.rules=[upper]"])) == "mine*"
    assert text_name(compose(["text=posing"])) == "standard-2*"
    mine.write_text("name: mine\nrules: [upper]\n")
    assert rules_name("mine", ["upper"]) == "mine"


def test_a_protocol_has_the_star_and_the_hash_is_of_the_rules():
    row = next(csv.DictReader((ROOT / "sweeps/tables/demo.csv").open(newline="")))
    parts = json.loads(row["protocol"])
    old_hash = parts.pop("hash")
    assert protocol(**parts) == {**parts, "hash": old_hash}
    # by the code before there were stars: blake2b of these parts
    changed = {"text": "standard", "rules": ["nfc", "lower"], "metric": "wer"}
    assert protocol(**changed) == {**changed, "text": "standard*", "hash": "630b9d9050de"}


def test_an_old_result_with_changed_rules_is_read_with_the_star(tmp_path):
    old = {"status": "finished", "protocol": {"text": "standard", "rules": ["nfc", "lower"], "hash": "1"}}
    (tmp_path / "result.json").write_text(json.dumps(old))
    assert read_result(tmp_path) == {**old, "protocol": {**old["protocol"], "text": "standard*"}}
    own = {**old, "protocol": {"text": "standard", "rules": rules_of("standard-1"), "hash": "1"}}
    (tmp_path / "result.json").write_text(json.dumps(own))
    assert read_result(tmp_path) == own
    for odd in ({"protocol": None}, {"protocol": {"text": 3}}, {"protocol": {"rules": "x"}}, {}):
        (tmp_path / "result.json").write_text(json.dumps({"status": "stopped", **odd}))
        assert read_result(tmp_path) == {"status": "stopped", **odd}


@pytest.mark.parametrize("more", [[], ["text.rules=[nfc,lower]"]])
@pytest.mark.parametrize("text", ["standard", "upper"])
def test_a_run_by_the_rules_of_before_is_found(tmp_path, monkeypatch, text, more):
    monkeypatch.chdir(tmp_path)
    config = compose([f"text={text}", *more])
    assert finished_by_earlier_rules(config) is None
    folder = run_folder(compose([f"text={text}-1", *more]))
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"status": "stopped"}')
    assert finished_by_earlier_rules(config) is None
    (folder / "result.json").write_text('{"status": "finished"}')
    assert finished_by_earlier_rules(config) == (f"{text}-1", folder)
    assert finished_by_earlier_rules(compose([f"text={text}-1", *more])) is None
    assert finished_by_earlier_rules(compose([f"text={text}", *more, "seed=9"])) is None
