"""Mistakes in a command line, in YAML files and in plugins: each ends in one sentence and exit status 2,
before anything is loaded or created. The commands here are stand-ins, so that a hundred of them take seconds.
"""

import sys
import types

import pytest

from asr_exp.cli.arguments import module_of
from asr_exp.cli.main import main

G = "# @package _global_\n"
H = "from asr_exp.plugins import *\n"


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The configs that `train` was called with."""
    configs = []
    monkeypatch.setitem(sys.modules, module_of("train"), types.SimpleNamespace(run=configs.append))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("RANK", "WORLD_SIZE", "ASR_EXP_FULL_ERROR", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)
    before = set(sys.modules)
    yield configs
    for name in set(sys.modules) - before:
        if name.startswith("plug"):
            del sys.modules[name]


def files(folder):
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if "__pycache__" not in path.parts
    )


def refused(ran, folder, capsys, *arguments):
    """What is said of a command line that runs nothing and leaves nothing."""
    before = files(folder)
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and "Traceback" not in err + out and err.count("\n") == 1, err
    assert (ran, out, files(folder)) == ([], "", before)
    return err


@pytest.mark.parametrize(("arguments", "words"), [
    ("dataset=csv dataset.train=3", ["dataset.train=3", "quotes"]),
    ("dataset.train=[1]", ["dataset.train=[1]", "quotes"]),
    ("dataset.train={}", ["dataset.train={}"]),
    ("dataset.train=[[a]]", ["list of names"]),
    ("dataset.dev=[null]", ["dataset.dev", "None"]),
    ("dataset=csv dataset.train=nope.csv", ["dataset.train=nope.csv", "no such file"]),
    ("dataset=csv dataset.train=.", ["is a folder"]),
    ("table.rows=3", ["table.rows=3"]),
    ("text.rules=[null]", ["text.rules", "None"]),
    ("text.rules=[3]", ["text.rules", "3"]),
    ("text.rules=[lower,[lower]]", ["['lower']"]),
    ("text.rules=lower", ["must be a list"]),
    ("text.rules=[loewr]", ["'lower'"]),
    ("text.rules=[{lower:x}]", ["takes no argument"]),
    ("text.rules=[{remove:3}]", ["remove", "3"]),
    ("text.rules=[{digits:maybe}]", ["keep, remove"]),
    ("text.rules=[{}]", ["no rule"]),
    ("seed=99999999999999999999", ["too large"]),
    ("trainer.max_steps=99999999999999999999", ["too large"]),
    ("trainer.precision=off", ["auto, fp32"]),
    ("tracking.name=no", ["tracking.name=no", "tensorboard"]),
    ("decode.name=bem", ["'beam'"]),
    ("optimizer.name=adam", ["'adamw'"]),
    ("schedule.name=lin", ["'linear'"]),
    ("dataset.reader=timt", ["'timit'"]),
    ("decode=beam decode.lm=nope.arpa", ["decode.lm=nope.arpa", "no such file"]),
    ("decode=beam decode.lexicon=nope.txt", ["decode.lexicon=nope.txt"]),
    ("decode=beam decode.lm=.", ["decode.lm=. is a folder"]),
    ("tokenizer.vocabulary=nope.json", ["tokenizer.vocabulary=nope.json"]),
    ("tokenizer.score_inventory=foo", ["timit39"]),
    ("optimizer.lr_scale={x:nan}", ["optimizer.lr_scale", "nan"]),
    ("optimizer.lr_scale={x:-1}", ["optimizer.lr_scale", "-1"]),
    ("-m seed=range(0,1,0)", ["a step other than 0"]),
    ("-m seed=range(1,2,nan)", ["finite"]),
    ("-m seed=range(0,10000000)", ["10,000,000 values"]),
    ("-m seed=range(0,20000)", ["20,000 cells", "sweeper=random"]),
    ("-m schedule=glob(zz*)", ["matches no schedule", "cosine"]),
    ("-m seed=glob(*)", ["files of a group"]),
    ("-m hydra/launcher=glob(*)", ["one value"]),
    ("-m seed=choice(choice(1,2),3)", ["inside another"]),
    ("-m text.rules=[choice(lower,upper)]", ["inside a value"]),
    ("-m model.config={a:choice(1,2)}", ["inside a value"]),
    ("schedule=glob(c*)", ["Add -m"]),
    ("-m seed=range(0,3) --cfg job", ["--cfg", "leave out -m"]),
    ("-m optimizer.name=adamw,nope", ["optimizer.name=nope"]),
    ("-m schedule.name=linear,lin seed=1,2", ["'linear'"]),
    ("-m decode=beam decode.lm=train-text,b.arpa", ["b.arpa"]),
    ("-m text.rules=[lower],[loewr]", ["'lower'"]),
    ("hydra.run.dir=x", ["no effect", "output_root=FOLDER"]),
    ("hydra.sweep.dir=x", ["sweep.name=NAME"]),
    ("-m seed=1,2 hydra.sweep.subdir=y", ["sweep.name=NAME"]),
    ("hydra.job.name=z", ["dataset.name"]),
    ("hydra.job.chdir=true", ["no effect"]),
    ("hydra.output_subdir=.h", ["no effect"]),
    ("hydra/sweeper=basic", ["sweeper=grid"]),
    ("hydra.callbacks={}", ["Python code"]),
    ("hydra.launcher._target_=os.getcwd", ["Python code"]),
    ("hydra.launcher=null", ["hydra/launcher=NAME"]),
    ("hydra.searchpath=[nope]", ["hydra.searchpath", "no such folder"]),
    ("-m seed=1,2 hydra.mode=RUN", ["contradict"]),
    ("-m seed=1,2 hydra.sweeper.max_batch_size=0", ["above 0"]),
    ("+hydra.foo=3", ["hydra.foo"]),
    ("model@foo=tiny", ["model=tiny"]),
    ("experiment@x=null", ["'@x'"]),
    ("~seed", ["cannot be taken away"]),
    ("~foo", ["foo is not a key"]),
    ("plugins=['../x']", ["no name of a Python module"]),
    ("plugins=['']", ["no name of a Python module"]),
])  # fmt: skip
def test_a_mistake_on_the_command_line(ran, tmp_path, capsys, arguments, words):
    err = refused(ran, tmp_path, capsys, *arguments.split())
    assert [word for word in words if word not in err] == []


@pytest.mark.parametrize(("text", "words"), [
    (G + "defaults:\n  - /experiment/f\n", ["e.yaml", "f.yaml", "circle"]),
    (G + "seed: ${trainer.max_steps}\ntrainer:\n  max_steps: ${seed}\n", ["Recursive"]),
    (b"# \xe9\nseed: 3\n", ["e.yaml is not UTF-8"]),
    ("- a\n- b\n", ["e.yaml", "# @package _global_"]),
    ("", ["e.yaml", "# @package _global_"]),
    ("3\n", ["e.yaml", "keys with values"]),
    (G + "trainer:\n\tmax_steps: 3\n", ["e.yaml", "line 3"]),
    (G + "seed: 1\nseed: 2\n", ["duplicate key seed"]),
    (G + "defaults:\n  - override /nope: x\n", ["e.yaml", "nope"]),
    (G + "defaults:\n  - _self_\n  - _self_\n", ["_self_"]),
    (G + "defaults: {a: b}\n", ["e.yaml", "must be a list"]),
    (G + "defaults:\n", ["e.yaml", "must be a list"]),
    (G + "defaults: [3]\n", ["e.yaml"]),
    (G + "defaults:\n  - {model: tiny, text: none}\n", ["e.yaml", "Too many keys"]),
    (G + "trainer: {precision: off}\n", ["quotes"]),
    (G + "trainer: 3\n", ["e.yaml"]),
    (G + "hydra:\n  run: {dir: x}\n", ["hydra.run.dir=x", "output_root"]),
    (G + "hydra:\n  job: {chdir: true}\n", ["hydra.job.chdir"]),
    (G + "hydra:\n  callbacks: {x: {_target_: os.getcwd}}\n", ["hydra.callbacks"]),
    (G + "hydra:\n  launcher: {_target_: os.getcwd}\n", ["os.getcwd"]),
])  # fmt: skip
@pytest.mark.parametrize("sweep", [[], ["-m", "seed=1,2"]])
def test_a_mistake_in_a_yaml_file(ran, tmp_path, capsys, text, words, sweep):
    folder = tmp_path / "conf/experiment"
    folder.mkdir(parents=True)
    (folder / "e.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "f.yaml").write_text(G + "defaults:\n  - /experiment/e\n")
    if "seed: $" in str(text) and sweep:
        return  # the sweep gives seed a value, so nothing recurs
    err = refused(ran, tmp_path, capsys, *sweep, "experiment=e")
    assert [word for word in words if word not in err] == []


@pytest.mark.parametrize(("source", "words"), [
    ("x = 1\nraise ValueError('no luck')\n", ["line 2", "ValueError: no luck", "HYDRA_FULL_ERROR"]),
    ("def f(:\n", ["plug_a.py, line 1", "invalid syntax"]),
    ("import nope_nope\n", ["plug_a.py, line 1", "'nope_nope'"]),
    ("import sys\nsys.exit()\n", ["line 2", "sys.exit()"]),
    (b"x = '\xe9'\n", ["plug_a.py", "utf-8"]),
    (b"x = 'a\x00b'\n", ["plug_a", "null bytes"]),
    (H + "@register_reader('timit')\ndef r(d, c): pass\n", ["dataset.reader=timit is built in", "line 2"]),
    (H + "@register_rule('lower')\ndef r(a, l): pass\n", ["text.rules=lower is built in"]),
    (H + "@register_optimizer('adamw')\ndef r(p): pass\n", ["optimizer.name=adamw is built in"]),
    (
        H + "@register_reader('m')\ndef r(d, c): pass\n@register_reader('m')\ndef s(d, c): pass\n",
        ["registered by", "line 2", "line 4"],
    ),
])  # fmt: skip
def test_a_plugin_that_cannot_be_imported(ran, tmp_path, capsys, source, words):
    (tmp_path / "plug_a.py").write_bytes(source if isinstance(source, bytes) else source.encode())
    err = refused(ran, tmp_path, capsys, "plugins=[plug_a]")
    assert [word for word in words if word not in err] == []


def test_a_plugin_that_is_a_folder(ran, tmp_path, capsys):
    (tmp_path / "plug_folder").mkdir()
    assert "without __init__.py" in refused(ran, tmp_path, capsys, "plugins=[plug_folder]")


def test_the_traceback_is_there_for_who_asks_for_it(ran, tmp_path, capsys, monkeypatch):
    (tmp_path / "plug_a.py").write_text("raise ValueError('no luck')\n")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert main(["plugins=[plug_a]"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and err.rstrip().splitlines()[-1].startswith("error: plugins=[plug_a]")


def test_what_half_a_plugin_registered_is_taken_back(ran, tmp_path, capsys):
    """In one process, as in the cells of a sweep: the name is unknown after, and free for another plugin."""
    (tmp_path / "plug_half.py").write_text(
        H + "@register_schedule('only-in-half')\ndef r(h, f): pass\nraise OSError\n"
    )
    (tmp_path / "plug_whole.py").write_text(H + "@register_schedule('only-in-half')\ndef r(h, f): pass\n")
    refused(ran, tmp_path, capsys, "plugins=[plug_half]", "schedule.name=only-in-half")
    assert "schedule.name=only-in-half is not known" in refused(
        ran, tmp_path, capsys, "schedule.name=only-in-half"
    )
    assert main(["plugins=[plug_whole]", "schedule.name=only-in-half"]) == 0
    assert [config.schedule.name for config in ran] == ["only-in-half"]


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("schedule=glob(c*)", ["constant", "cosine"]),
        ("schedule=glob([*],exclude=c*)", ["linear", "tri-stage"]),
        ("schedule=glob([l*,t*])", ["linear", "tri-stage"]),
    ],
)
def test_a_glob_gives_the_choices_that_hydra_gives(ran, override, values):
    """Hydra's own parser says what it matches; the cells are those, in that order."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from asr_exp.config.groups import conf_folder

    loader = ConfigLoaderImpl(create_config_search_path(str(conf_folder())))
    (parsed,) = OverridesParser.create(config_loader=loader).parse_overrides([override])
    assert main(["-m", override]) == 0
    assert [config.schedule.name for config in ran] == values == list(parsed.sweep_string_iterator())


def test_a_glob_over_the_rows_of_a_table(ran, capsys):
    assert main(["-m", "experiment=glob(hf-timit/*)", "dataset.root=."]) == 0
    assert [config.model.name for config in ran] == sorted(config.model.name for config in ran)
    assert len(ran) == 4


def test_a_bug_of_ours_stays_a_traceback(ran, capsys, monkeypatch):
    def run(config):
        raise ValueError("a bug")

    monkeypatch.setitem(sys.modules, module_of("train"), types.SimpleNamespace(run=run))
    assert main(["seed=3"]) == 1 and "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("first", ["hydra", "asr_exp"])
def test_hydra_composes_our_folder_without_us(first, tmp_path):
    """In a process of its own, whichever is imported first; nothing heavy comes with asr_exp."""
    import subprocess

    from asr_exp.config.groups import conf_folder

    program = (
        f"import {first}, asr_exp, sys; print('torch' in sys.modules)\nimport hydra\n"
        f"with hydra.initialize_config_dir({str(conf_folder())!r}, version_base=None):\n"
        "    config = hydra.compose('config', overrides=['model=hubert-base', 'seed=3'])\n"
        "    print(config.seed, config.model.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["False", "3", "hubert-base"], done.stderr
