"""Composing, the words of what is wrong, the user's own YAML files, plugins, and which run a config is."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from asr_exp.config.compose import compose, validate
from asr_exp.config.groups import choices, conf_folders
from asr_exp.config.plugins import import_plugins
from asr_exp.config.validation import config_problems
from asr_exp.core.errors import UserError
from asr_exp.runs.folder import load_run, resolve, run_folder, signature

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(*overrides):
    with pytest.raises(UserError) as error:
        validate(compose(overrides))
    return str(error.value)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# ------------------------------------------------------------------------------------------------------------
# what is wrong


@pytest.mark.parametrize(("override", "words"), [
    ("model=wav2vec2-bas", ["wav2vec2-bas", "'wav2vec2-base'", "hubert-base"]),
    ("dataset=timitt", ["timitt", "Did you mean 'timit'", "common-voice"]),
    ("dataset=TIMIT", ["Did you mean 'timit'"]),
    ("experiment=nope", ["there is no experiment 'nope'"]),
    ("debug=one-stp", ["'one-step'"]),
    ("model=null", ["there is no model 'null'"]),
    ("model=[tiny,hf]", ["one choice"]),
    ("trainer={max_steps: 3}", ["trainer.KEY=VALUE"]),
    ("+model=tiny", ["without the '+'"]),
    ("trainer.lrr=1", ["trainer.lrr is not a key", "'optimizer.lr'", "max_steps"]),
    ("trainr.max_steps=3", ["trainr.max_steps is not a key", "'trainer.max_steps'"]),
    ("trainer.max_step=3", ["'trainer.max_steps'"]),
    ("trainr.quux=3", ["'trainer'"]),
    ("lr=1e-4", ["'optimizer.lr'"]),
    ("modle=tiny", ["'model'"]),
    ("timit=1", ["'dataset=timit'"]),
    ("+foo=1", ["foo is not a key"]),
    ("++trainer.foo=1", ["trainer.foo is not a key"]),
    ("optimizer.lr=fast", ["optimizer.lr must be a number", "'fast'"]),
    ("trainer.max_steps=1.5", ["trainer.max_steps must be a whole number or null"]),
    ("model.freeze=abc", ["model.freeze must be a list"]),
    ("dataset.hub=3", ["dataset.hub is a section", "dataset.hub.id"]),
    ("seed=", ["seed must be a whole number"]),
    ("trainer.max_steps=-3", ["trainer.max_steps=-3", "at least 0"]),
    ("trainer.precision=fp8", ["auto, fp32, bf16, fp16", "'fp32'"]),
    ("trainer.device=gpu", ["auto, cpu, cuda, cuda:N", "'cpu'"]),
    ("trainer.device=cuda:N", ["auto, cpu, cuda, cuda:N"]),
    ("trainer.device=cuda:-1", ["auto, cpu, cuda, cuda:N"]),
    ("model=tiny,hf", ["-m", "several values"]),
    ("dataset", ["key=value"]),
    ("=3", ["no key"]),
    ("text.rules=[nfc,lower", ["'text.rules=[nfc,lower]'", "single quotes"]),
    ("text.rules=[nfc,{remove: x", ["'text.rules=[nfc,{remove: x}]'"]),
    ("optimizer.lr=choice(1e-3,1e-4", ["'optimizer.lr=choice(1e-3,1e-4)'"]),
    ("dataset.root=[/a(b)", ["a bracket is not closed"]),
    ("text.rules=[nfc,{remove: ?!}]", ["double quotes", "single quotes"]),
    ("optimizer.lr=0,5", ["optimizer.lr=0.5"]),
    ("optimizer.betas=0,1", ["'optimizer.betas=[0,1]' for a list"]),
    ("dataset.root=a,b", ["'dataset.root=\"a,b\"' for a text"]),
    ("seed='", ["cannot be read"]),
    ("trainer.max_steps=1.5e0", ["whole number"]),
    ("trainer.max_steps=10k", ["whole number"]),
    ("optimizer.lr=${nope}", ["nope"]),
    ("hydra/launcher=joblibb", ["joblibb", "basic"]),
    ("hydra.foo=3", ["hydra.foo"]),
    ("~model", ["model.name has no value"]),
])  # fmt: skip
def test_a_mistake_is_told_in_words(override, words):
    message = told(override)
    assert [word for word in words if word not in message] == []
    assert (
        "full_key" not in message and "Config search path" not in message and len(message.splitlines()) == 1
    )


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("dataset.root=~/TIMIT", "~/TIMIT"),
        ("dataset.root=/a (b)", "/a (b)"),
        ("dataset.train=données(1).csv", "données(1).csv"),
        ("dataset.train=don't.csv", "don't.csv"),
        ("dataset.train=[~/a.csv,b#1.csv]", ["~/a.csv", "b#1.csv"]),
        ("dataset.root=/a=b", "/a=b"),
        ("trainer.max_steps=1e3", 1000),
        ("trainer.max_steps=2.5e2", 250),
        ("seed=1e0", 1),
        ("optimizer.lr=1e-3", 0.001),
        ("dataset.max_seconds=1e2", 100.0),
        ("dataset.root='x y'", "x y"),
        ('text.rules=[nfc,{remove: "?!"}]', ["nfc", {"remove": "?!"}]),
    ],
)
def test_what_a_shell_leaves_as_it_is(override, value):
    """Paths with signs that Hydra's grammar has other uses for, and whole numbers in the way of
    scientists.
    """
    found = OmegaConf.select(compose([override]), override.partition("=")[0])
    assert (OmegaConf.to_container(found) if OmegaConf.is_config(found) else found) == value


def test_what_a_shell_takes_apart():
    assert "'text.rules=[nfc, lower]'" in told("text.rules=[nfc,", "lower]", "seed=3")
    assert "'dataset.train=my file.csv'" in told("dataset.train=my", "file.csv")
    assert "'foo' is neither" in told("seed=3", "foo")


def test_all_mistakes_are_told_together():
    assert len(told("x=1", "trainer.lrr=2", "model=x", "optimizer.lr=fast").splitlines()) == 4
    assert len(told("trainer.max_steps=-3", "seed=-1").splitlines()) == 2


def test_two_answers_to_one_question():
    assert "model is given twice, as tiny and as hf" in told("model=tiny", "model=hf")
    assert compose(["seed=1", "seed=1"]).seed == 1


def test_keys_that_contradict_each_other():
    assert "model.checkpoint" in told("model=wav2vec2-base", "model.architecture=wav2vec2")
    assert "trainer.devices=2" in told("trainer.device=cuda:1", "trainer.devices=2")


@pytest.mark.parametrize(("override", "key", "value"), [
    ("dataset.root=/data/My Corpus", "dataset.root", "/data/My Corpus"),
    ("dataset.root=\"/a (b)\"", "dataset.root", "/a (b)"),
    ("dataset.train=[a,b]", "dataset.train", ["a", "b"]),
    ("model.config.hidden_size=64", "model.config.hidden_size", 64),
    ("+model.config.attention_dropout=0.25", "model.config.attention_dropout", 0.25),
    ("trainer.max_epochs=2", "trainer.max_epochs", 2.0),
    ("trainer.eval_every=null", "trainer.eval_every", None),
    ("experiment=null", "seed", 42),
    ("hydra.verbose=true", "seed", 42),
])  # fmt: skip
def test_what_is_right_passes(override, key, value):
    config = compose([override, *(["dataset=timit"] if key == "dataset.root" else [])])
    validate(config)
    assert OmegaConf.select(config, key) == value
    assert "hydra" not in config


# ------------------------------------------------------------------------------------------------------------
# the user's own files


def test_own_dataset_and_model_are_found_by_name(somewhere):
    write(somewhere / "conf/dataset/mine.yaml", "name: mine\nreader: manifest\ntrain: [a.csv]\n")
    write(somewhere / "conf/model/mine.yaml", "name: mine\narchitecture: wav2vec2\n")
    config = compose(["dataset=mine", "model=mine"])
    validate(config)
    assert (config.dataset.name, config.model.architecture) == ("mine", "wav2vec2")
    assert "mine" in choices(conf_folders())["dataset"]
    assert "Did you mean 'mine'" in told("dataset=minne")


def test_another_folder_of_files(somewhere):
    write(
        somewhere / "more/experiment/table.yaml",
        "# @package _global_\ndefaults:\n  - override /model: hubert-base\nseed: 7\n",
    )
    config = compose(["experiment=table"], config_dir="more")
    assert (config.seed, config.model.name) == (7, "hubert-base")
    with pytest.raises(UserError, match="no such folder"):
        compose(config_dir="nowhere")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "name: mine\nchekpoint: x\n",
            ["conf/model/mine.yaml", "model.chekpoint is not a key", "'model.checkpoint'"],
        ),
        (
            "name: mine\nfreeze_encoder_steps: many\n",
            ["conf/model/mine.yaml", "model.freeze_encoder_steps", "many"],
        ),
        ("name: mine\n checkpoint: x\n", ["conf/model/mine.yaml", "line 2"]),
        ("- a\n- b\n", ["conf/model/mine.yaml"]),
        ("defaults:\n  - override /text@_global_.text: standrd\nname: mine\n", ["standrd", "'standard'"]),
    ],
)
def test_a_mistake_in_a_file_names_the_file(somewhere, text, words):
    write(somewhere / "conf/model/mine.yaml", text)
    message = told("model=mine")
    assert [word for word in words if word not in message] == []


def test_plugins(somewhere, monkeypatch):
    write(somewhere / "my_own_plugin.py", "LOADED = True\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    import_plugins(compose(["plugins=[my_own_plugin]"]))
    assert sys.modules.pop("my_own_plugin").LOADED
    with pytest.raises(UserError, match="no_such_plugin"):
        import_plugins(compose(["plugins=[no_such_plugin.part]"]))


# ------------------------------------------------------------------------------------------------------------
# which run it is


@pytest.mark.parametrize(
    "override",
    [
        "tracking=none",
        "output_root=/elsewhere",
        "cache_root=/elsewhere",
        "trainer.devices=2",
        "trainer.device=cpu",
        "trainer.log_every=1",
        "trainer.examples=0",
        "trainer.workers=1",
        "split=dev",
    ],
)
def test_what_cannot_change_the_result_is_not_in_the_signature(override):
    assert signature(compose([override])) == signature(compose())


@pytest.mark.parametrize(
    "override", ["seed=1", "optimizer.lr=2e-4", "model.config.hidden_size=32", "text=hf_compat"]
)
def test_what_can_change_it_is(override):
    assert signature(compose([override])) != signature(compose())


@pytest.mark.parametrize(("overrides", "expected"), [
    (["text=standard-1"], "f646e27fbd"),
    (["dataset=timit", "dataset.root=/data/TIMIT", "model=wav2vec2-base", "text=standard-1"], "666df6c42e"),
    (["experiment=hf-timit/wav2vec2-base", "seed=3", "dataset.source=hub"], "f9015db2e1"),
    (["dataset=common-voice", "dataset.language=tr", "model=xls-r-300m", "decode=beam",
      "decode.lm=train-text", "trainer.batch_seconds=400", "text=standard-1"], "7e8448f67b"),
    (["dataset=demo", "debug=rehearsal", "augment=none", "text=standard-1"], "fd65b53436"),
    (["dataset=demo", "model=tiny", "seed=0", "text=upper-1"], "c61598d797"),  # this and below: of 968bd74
    (["experiment=hf-minds14/wav2vec2-base"], "fe610d5363"),
    (["dataset=demo", "model=tiny", "text=hf_compat"], "7f983354ff"),
    (["dataset=demo", "model=tiny", "text=standard-1", "text.rules=[nfc,lower]"], "c5c83074bb"),
])  # fmt: skip
def test_signatures_are_those_of_older_versions(overrides, expected):
    """What commit 09e1a33 made of the same overrides: runs of that time are found, and go on."""
    assert signature(compose(overrides)) == expected


def test_a_signature_worked_out_by_hand():
    config = OmegaConf.to_container(compose(), resolve=True)
    sections = "tracking published table sweep check transcribe align report export serve"
    for name in f"{sections} sweeper output_root cache_root run split a b resamples files format out".split():
        del config[name]
    of_trainer = "devices strategy device log_every examples workers feature_cache_gb profile save_every"
    for name in of_trainer.split():
        del config["trainer"][name]
    del config["model"]["facts"], config["dataset"]["only"]
    config["trainer"]["device_seconds"] = 60.0  # a float, as it was before there was auto
    for name in (
        "compile",
        "deterministic",
        "tf32",
        "metric",
    ):  # younger than the first runs, and at their defaults
        del config["trainer"][name]
    del config["evaluate"], config["score"]
    del config["dataset"]["corrections"], config["dataset"]["columns"]["duration"]
    config["decode"] = {"name": "greedy", "settings": {}}  # what is at its default there is left out
    text = json.dumps(config, sort_keys=True).encode()
    assert signature(compose()) == hashlib.sha256(text).hexdigest()[:10]


def test_a_young_key_counts_where_it_is_changed():
    usual = signature(compose())
    same = ["trainer.tf32=false", "evaluate.precision=fp32", "score=same", "trainer.metric=auto"]
    assert signature(compose([*same, "evaluate.rtfx=true"])) == usual
    young = ("trainer.tf32=true", "evaluate.precision=bf16", "score=whisper", "trainer.metric=dev.loss")
    young += ("dataset.columns.duration=null",)
    assert len({usual, *(signature(compose([one])) for one in young)}) == 6


def test_a_signature_is_ten_hex_digits_that_last():
    """In another process too, in which sets and hashes of words come in another order."""
    ours = signature(compose(["dataset=timit"]))
    assert re.fullmatch("[0-9a-f]{10}", ours)
    program = (
        "from asr_exp.config.compose import compose; from asr_exp.runs.folder import signature;"
        " print(signature(compose(['dataset=timit'])))"
    )
    for seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert there.stdout.strip() == ours


def test_the_same_ask_from_another_folder_is_the_same_run(somewhere, monkeypatch):
    near = signature(compose(["dataset=csv", "dataset.train=data/a.csv", "dataset.root=data"]))
    assert near == signature(
        compose(["dataset=csv", "dataset.train=[data/a.csv]", f"dataset.root={somewhere}/data/"])
    )
    (somewhere / "data").mkdir()
    monkeypatch.chdir(somewhere / "data")
    assert near == signature(compose(["dataset=csv", "dataset.train=a.csv", "dataset.root=."]))
    assert near != signature(compose(["dataset=csv", "dataset.train=data/a.csv", "dataset.root=data"]))


def test_a_subset_is_no_path_and_a_checkpoint_may_be_a_folder(somewhere):
    (somewhere / "test").mkdir()
    assert resolve(compose(["dataset=timit", "dataset.test=test"]))["dataset"]["test"] == ["test"]
    assert resolve(compose(["model=wav2vec2-base"]))["model"]["checkpoint"] == "facebook/wav2vec2-base"
    vocabulary = resolve(compose(["tokenizer.vocabulary=vocab.json"]))["tokenizer"]["vocabulary"]
    assert vocabulary == str(somewhere / "vocab.json")
    assert resolve(compose(["model=hf", "model.checkpoint=test"]))["model"]["checkpoint"] == str(
        somewhere / "test"
    )


def test_the_run_folder():
    config = compose(["dataset=timit", "model=hubert-base", "output_root=there"])
    assert run_folder(config).parts == ("there", "timit", "hubert-base", signature(config))
    assert run_folder(compose(["output_root=~/there"])).is_relative_to(Path.home() / "there")


def finished_run(folder, *overrides):
    config = compose(overrides)
    write(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(resolve(config))))
    return config


def test_a_finished_run_is_loaded_with_what_should_differ(somewhere):
    config = finished_run(
        somewhere / "run",
        "dataset=timit",
        "dataset.root=corpus",
        "model=hubert-base",
        "seed=3",
        "augment=heavy",
    )
    assert signature(load_run("run")) == signature(config)
    loaded = load_run(
        "run", ["run=run", "split=dev", "dataset=csv", "dataset.test=x.csv", "hydra.verbose=false"]
    )
    validate(loaded)
    assert (loaded.split, loaded.run, loaded.seed, loaded.model.name) == ("dev", "run", 3, "hubert-base")
    assert (loaded.dataset.reader, loaded.dataset.test, loaded.dataset.root) == ("manifest", "x.csv", None)


def test_a_run_of_an_older_version_is_loaded(somewhere):
    """config_of_09e1a33.yaml is what that commit wrote for a trial of a search, with its signature."""
    write(somewhere / "old/config.yaml", (HERE / "config_of_09e1a33.yaml").read_text())
    config = load_run("old", ["split=dev"])
    validate(config)
    assert signature(config) == "f05b5240c2" and config.model.checkpoint == "facebook/wav2vec2-base"
    assert (config.sweep.trial, config.dataset.only, config.rehearsal) == (2, None, False)


@pytest.mark.parametrize(
    ("override", "settings"),
    [
        ("+decode.settings.depth=2", {"width": 3, "depth": 2}),
        ("+decode.settings={depth: 2}", {"depth": 2}),
        ("decode=beam", {}),
        ("seed=1", {"width": 3}),
    ],
)
def test_what_is_laid_over_a_run_takes_the_place_of_what_was_there(somewhere, override, settings):
    finished_run(somewhere / "run", "+decode.settings.width=3")
    assert load_run("run", [override]).decode.settings == settings


def test_what_is_no_run(somewhere):
    with pytest.raises(UserError, match="run=nowhere"):
        load_run("nowhere")
    write(somewhere / "old/config.yaml", "gone: 3\n")
    with pytest.raises(UserError, match="does not fit this version.*gone"):
        load_run("old")
    finished_run(somewhere / "run")
    with pytest.raises(UserError, match="debug=overfit"):
        load_run("run", ["debug=overfit"])


@pytest.mark.parametrize("key", ["dataset.name", "model.name", "sweep.name", "table.name"])
@pytest.mark.parametrize(
    "name", ["/abs", "../..", "a/b", "a\\b", "", " ", ".", "..", "...", "a\0b", "a\x1bb", "\udce9", "x" * 201]
)
def test_a_name_that_becomes_a_folder_stays_in_its_folder(key, name):
    config = compose()
    OmegaConf.update(config, key, name)
    (problem,) = config_problems(config)
    assert problem.startswith(key) and "give the name of one folder" in problem
    problem.encode()


def test_usual_names_of_folders():
    for name in ("ok", "3", ".hidden", "a.b", "größer", "\u00e9\u4eca", "x" * 200):
        config = compose()
        OmegaConf.update(config, "dataset.name", name)
        assert config_problems(config) == []
