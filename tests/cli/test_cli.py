"""What a user types and what the process answers: commands, help, exit statuses, sweeps. The commands here
are stand-ins.
"""

import errno
import json
import os
import re
import subprocess
import sys
import time
import types

import pytest
import yaml

from asr_exp import __version__
from asr_exp.cli.arguments import commands, module_of
from asr_exp.cli.main import main
from asr_exp.cli.run_command import Job
from asr_exp.config.groups import choices, conf_folder, tables
from asr_exp.core import exit_status as endings
from asr_exp.core.errors import Stopped, UserError
from asr_exp.runs.folder import run_folder

ENDS = {
    5: UserError("seed 5 is bad luck."),
    6: RuntimeError("a bug"),
    7: Stopped("Stopped at step 3.", 15),
    8: OSError(errno.ENOSPC, "No space left on device", "/full/disk"),
    9: KeyboardInterrupt(),
    10: RuntimeError("failed writing: No space left on device (os error 28)"),
}


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The configs that `train` was called with; what its seed says is how it ends."""
    configs = []

    def run(config):
        configs.append(config)
        if config.seed in ENDS:
            raise ENDS[config.seed]
        folder = run_folder(config)
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(
            json.dumps({"status": "finished", "splits": {"test": {"wer": 0.25, "cer": 0.1, "per": None}}})
        )
        return 1 if config.seed == 11 else None

    for name in ("train", "evaluate"):
        monkeypatch.setitem(sys.modules, module_of(name), types.SimpleNamespace(run=run))
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return configs


# ------------------------------------------------------------------------------------------------------------
# one run


def test_without_a_command_it_is_train(ran, tmp_path):
    assert main(["seed=3"]) == 0 and main(["train", "seed=4"]) == 0
    assert [config.seed for config in ran] == [3, 4]
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}  # Hydra leaves nothing of its own


def test_flags_and_settings_in_any_order(ran, tmp_path):
    (tmp_path / "more/model").mkdir(parents=True)
    (tmp_path / "more/model/mine.yaml").write_text("name: mine\narchitecture: wav2vec2\n")
    assert main(["seed=3", "--config-dir", "more", "model=mine"]) == 0
    assert main(["--config-dir", "more", "evaluate", "model=mine", "split=dev"]) == 0
    assert [(config.model.name, config.split) for config in ran] == [("mine", "test"), ("mine", "dev")]


@pytest.mark.parametrize(("arguments", "words"), [
    (["trian"], ["trian", "'train'", "evaluate"]),
    (["train", "foo"], ["'foo'", "key=value"]),
    (["timit"], ["Did you mean dataset=timit?"]),
    (["dataset=timit", "evaluate"], ["command comes first", "python -m asr_exp evaluate"]),
    (["dataset=./a.csv"], ["dataset=csv dataset.train=./a.csv"]),
    (["model=facebook/wav2vec2-base"], ["model=hf model.checkpoint=facebook/wav2vec2-base"]),
    (["optimizer.lr=nan"], ["optimizer.lr=nan", "finite"]),
    (["trainer.max_epochs=inf"], ["trainer.max_epochs=inf", "finite"]),
    (["model=wav2vec2-bas"], ["'wav2vec2-base'"]),
    (["+foo=1"], ["foo"]),
    (["trainer.max_steps=-3"], ["trainer.max_steps"]),
    (["--frobnicate"], ["--frobnicate", "--help"]),
    (["--cfg"], ["--cfg"]),
    (["--config-name", "x"], ["--config-dir"]),
    (["--config-dir", "nowhere"], ["nowhere"]),
    (["--resolve"], ["--cfg"]),
    (["--help", "trainr"], ["'trainer'"]),
    (["plugins=[no_such_module]"], ["no_such_module"]),
    (["train", "run=nowhere"], ["run=nowhere"]),
    (["--cfg", "job", "trainer.max_steps=-3"], ["trainer.max_steps"]),
    (["-m", "seed=1,2", "model=tiny,x"], ["there is no model 'x'"]),
])  # fmt: skip
def test_a_mistake_ends_in_status_2_before_anything_runs(ran, capsys, arguments, words):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and "Traceback" not in err and out == ""
    assert [word for word in words if word not in err] == [] and ran == []


@pytest.mark.parametrize(
    ("seed", "status", "words"),
    [
        (5, 2, "error: seed 5 is bad luck."),
        (6, 1, "Traceback"),
        (8, 2, "The disk is full (/full/disk)"),
        (9, 130, "Interrupted"),
        (10, 2, "The disk is full"),
        (11, 1, ""),
        (1, 0, ""),
    ],
)
def test_how_a_run_ends(ran, capsys, seed, status, words):
    assert main([f"seed={seed}"]) == status
    err = capsys.readouterr().err
    assert words in err and ("Traceback" in err) == (seed == 6)


def test_only_training_goes_on_after_ctrl_c(ran, capsys):
    assert main(["seed=9"]) == 130
    assert "A run goes on from its last checkpoint" in capsys.readouterr().err
    assert main(["evaluate", "seed=9"]) == 130
    assert capsys.readouterr().err == "stopped: Interrupted.\n"


def test_a_run_that_was_asked_to_leave(ran, capsys):
    with pytest.raises(SystemExit) as left:
        main(["seed=7"])
    assert left.value.code == 128 + 15
    assert "Stopped at step 3." in capsys.readouterr().err


def test_only_rank_0_speaks_of_the_command_line(ran, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(endings, "HEAD_START", 0)
    assert main(["model=x"]) == 2
    assert capsys.readouterr().err == ""
    assert main(["seed=5"]) == 2
    assert capsys.readouterr().err == "error (rank 1): seed 5 is bad luck.\n"


def test_evaluate_takes_the_settings_of_the_run(ran, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    saved = {
        "seed": 3,
        "dataset": {"name": "timit", "reader": "timit"},
        "model": {"name": "tiny", "architecture": "wav2vec2"},
        "text": {"name": "standard"},
        "trainer": {"max_steps": 4},
        "sweep": {},
    }
    (tmp_path / "run/config.yaml").write_text(json.dumps(saved) + "\n")
    assert main(["evaluate", "run", "split=dev"]) == 0
    assert (ran[0].seed, ran[0].dataset.name, ran[0].split, ran[0].run) == (3, "timit", "dev", "run")
    assert main(["evaluate", "run=run", "model=hubert-base"]) == 2 and len(ran) == 1
    assert "its own model is what is used" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------
# sweeps


def test_a_sweep_runs_every_cell_and_tells_of_each(ran, tmp_path, capsys):
    assert main(["-m", "model=tiny,hubert-base", "seed=1,2"]) == 0
    assert [(config.model.name, config.seed) for config in ran] == [
        ("tiny", 1),
        ("tiny", 2),
        ("hubert-base", 1),
        ("hubert-base", 2),
    ]
    assert len(list((tmp_path / "outputs").rglob("result.json"))) == 4
    out = capsys.readouterr().out
    assert (
        "4 of 4 cells done" in out
        and out.count("test WER 25.00 %") == 4
        and "cell 3: model=hubert-base seed=1" in out
    )
    assert {path.name for path in tmp_path.glob("sweeps/model-seed-*/[!.]*")} == {
        "cells.csv",
        "table.md",
        "multirun.yaml",
    }


def test_a_failing_cell_does_not_stop_the_others(ran, capsys):
    assert main(["-m", "seed=5,6,-1,8,11,1"]) == 1
    assert [config.seed for config in ran] == [5, 6, 8, 11, 1]
    out, err = capsys.readouterr()
    assert "1 of 6 cells done, 5 failed" in out and out.splitlines()[-1].startswith("ok")
    assert (
        "error: cell 1: seed 5 is bad luck." in err
        and err.count("Traceback") == 1
        and "cell 3: seed=-1 is too" in err
    )


@pytest.mark.parametrize("seed", [7, 9])
def test_a_sweep_can_be_stopped(ran, seed):
    try:
        status = main(["-m", f"seed={seed},1"])
    except SystemExit as left:
        status = left.code
    assert status == {7: 143, 9: 130}[seed] and [config.seed for config in ran] == [seed]


def test_no_sweep_under_torchrun(ran, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["-m", "seed=1,2"]) == 2
    assert "torchrun" in capsys.readouterr().err and ran == []


def test_a_file_may_ask_for_a_sweep(ran, tmp_path):
    (tmp_path / "conf/experiment").mkdir(parents=True)
    text = "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: 1,2\n"
    (tmp_path / "conf/experiment/table.yaml").write_text(text)
    assert main(["experiment=table"]) == 0
    assert [config.seed for config in ran] == [1, 2]


# ------------------------------------------------------------------------------------------------------------
# what is shown


def test_help_is_readable(ran, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "conf/dataset").mkdir(parents=True)
    (tmp_path / "conf/dataset/mine.yaml").write_text("name: mine\nreader: manifest\n")
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    named = [
        "train  ",
        "evaluate  ",
        "wav2vec2-base",
        "librispeech-100h",
        "mine",
        "trainer.max_steps",
        "optimizer.lr",
        "-m, ",
        "[30]",
    ]
    assert [word for word in named if word not in out] == []


@pytest.mark.parametrize(
    ("topic", "words"),
    [
        ("trainer", ["trainer.gradient_checkpointing", "default"]),
        ("dataset", ["dataset.hub.id", "timit"]),
        ("experiment", []),
        ("evaluate", ["--help", "the run folder to use", "split  "]),
        ("optimizer.lr", ["peak learning rate [0.0001]"]),
        ("compare", ["set against a", "split  "]),
        ("check", ["check.clips", "[200]"]),
        ("align", ["align.against", "Without recordings"]),
        ("export", ["export.int8", "export.push"]),
        ("timit", ["reader: timit", "--help dataset"]),
        ("tiny-random", ["architecture: wav2vec2"]),
        ("model=tiny", ["checkpoint: builtin:tiny"]),
        (
            "hf-timit",
            ["TIMIT, characters", "hf-timit/sew-small-100k", "-m experiment=hf-timit dataset.root="],
        ),
        ("experiment=hf-mls", ["-m experiment=hf-mls", "xlsr-53"]),
        ("hf-timit/wav2vec2-base", ["TIMIT, characters", "0.2151", "WER .21 on the page", "--help hf-timit"]),
        ("overfit", ["python -m asr_exp debug=overfit", "max_utterances: 8"]),
        ("text.rules", ['"IŞIK İZMİR" -> "ışık izmir"', "{digits: keep|remove}", '"e\\u0301" -> "é"']),
    ],
)
def test_help_on_a_topic(ran, capsys, topic, words):
    assert main(["--help", topic]) == 0 and main([topic, "-h"]) == 0
    out = capsys.readouterr().out
    assert out and [word for word in words if out.count(word) < 2] == []


def every_choice():
    groups = choices([conf_folder()])
    return [*tables(groups["experiment"]), *(f"{group}={name}" for group in groups for name in groups[group])]


def test_help_on_every_choice_fits_a_terminal_and_says_how_to_run_it(ran, capsys):
    topics = every_choice()
    assert len(topics) > 100
    for topic in topics:
        assert main(["--help", topic]) == 0
        out = capsys.readouterr().out
        assert max(len(line) for line in out.splitlines() if "https://" not in line) <= 80, topic
        assert "\n  python -m asr_exp" in out, topic
        # long lines of YAML are folded, and still mean the same
        if "=" in topic and "/" not in topic:
            group, _, name = topic.partition("=")
            settings = yaml.safe_load((conf_folder() / group / f"{name}.yaml").read_text(encoding="utf-8"))
            body = "\n".join(line for line in out.splitlines() if line not in ("", topic))
            assert all(key in body for key in settings), topic


def test_help_lists_every_rule_with_an_example_that_is_run(ran, capsys, tmp_path, monkeypatch):
    from asr_exp.data.text.registry import RULES

    monkeypatch.setattr(RULES, "_parts", dict(RULES._parts))
    (tmp_path / "shouting_rules.py").write_text(
        "from asr_exp.plugins import register_rule\n"
        "@register_rule('cry')\ndef cry(argument, language):\n"
        "    'Say it aloud.'\n    return lambda text: text + '!'\n"
        "@register_rule('times', argument=int)\ndef times(argument, language):\n    return str\n"
        "@register_rule('broken')\ndef broken(argument, language):\n    raise KeyError('no')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["--help", "text.rules", "plugins=[shouting_rules]"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    headings = re.findall(r"^  \{?(\w+)", out, re.M)
    assert [one for one in headings if one in RULES.names()] == RULES.names()
    assert "  cry\n      Say it aloud.\n" in out and 'İzmir!"' in out and "KeyError" in out
    for name in set(RULES.names()) - {"times", "broken"}:  # each with a text that it changes
        entry = re.search(rf"^  \{{?{name}\b.*?(?=\n\n|\Z)", out, re.M | re.S).group()
        before, after = re.search(r'"(.*)" -> "(.*)"', " ".join(entry.split())).groups()
        assert before != after, name


@pytest.mark.parametrize("command", commands())
def test_help_on_a_command_fits_a_terminal(ran, capsys, command):
    assert main(["--help", command]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_a_name_too_long_for_its_column_has_a_line_of_its_own(ran, capsys):
    assert main(["--help", "trainer"]) == 0
    out = capsys.readouterr().out
    assert "  trainer.gradient_checkpointing\n" + " " * 30 + "recompute activations" in out
    assert all(len(line) <= 80 for line in out.splitlines()) and "True" not in out and "False" not in out


def test_hydras_own_flags(ran, capsys):
    for arguments, word in [
        (["--version"], __version__),
        (["--cfg", "job", "seed=3"], "seed: 3"),
        (["evaluate", "--cfg", "job", "-p", "seed", "seed=5"], "5"),
        (["--hydra-help"], "Hydra"),
    ]:
        assert main(arguments) == 0
        assert word in capsys.readouterr().out
    assert ran == []


# ------------------------------------------------------------------------------------------------------------
# the process


def process(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "asr_exp", *arguments], capture_output=True, text=True, timeout=60, **options
    )


def test_help_comes_at_once(tmp_path):
    took = []
    for _ in range(3):
        start = time.perf_counter()
        assert process("--help", cwd=tmp_path).returncode == 0
        took.append(time.perf_counter() - start)
    assert min(took) < 1


def test_the_process_says_what_it_is_and_how_it_ends(tmp_path):
    wrong = process("trainer.lrr=1", cwd=tmp_path)
    assert (
        wrong.returncode == 2
        and wrong.stdout == ""
        and wrong.stderr.startswith("error: trainer.lrr is not a key")
    )
    assert process("--cfg", "job", cwd=tmp_path).stdout.startswith("seed: 42\n")
    assert "model: tiny" in process("--info", "defaults-tree", cwd=tmp_path).stdout
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_is_quiet(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "asr_exp", "--help"],
        stdout=write,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        timeout=60,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_a_launcher_pickles_can_be_found_elsewhere():
    import pickle

    assert pickle.loads(pickle.dumps(Job("train"))) == Job("train")
    assert Job.__module__ == "asr_exp.cli.run_command"


def test_a_rank_leaves_at_once_with_its_status_and_what_is_registered_for_the_end():
    """Whatever thread is still about: this one would hold Python up for a minute."""
    rank = (
        "import atexit, threading, time; from asr_exp.core.exit_status import exit_rank;"
        " atexit.register(print, 'registered')\nthreading.Thread(target=time.sleep, args=(60,)).start();"
        " print('said', end=' '); exit_rank(3)\n"
    )
    ended = subprocess.run([sys.executable, "-c", rank], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout) == (3, "said registered\n")
