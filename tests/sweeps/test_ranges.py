"""What a sweep varies: ranges in Hydra's syntax, what cannot be searched, and the sweep file for W&B."""

import pytest
import yaml
from sweeping import LR
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from asr_exp.cli.main import main
from asr_exp.sweeps.ranges import Range, split_overrides


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed=1,2", Range("seed", "choice", ("1", "2"))),
        (
            "trainer.batch_seconds=choice(100,200,400)",
            Range("trainer.batch_seconds", "choice", ("100", "200", "400")),
        ),
        ("optimizer.clip_norm=null,1.0", Range("optimizer.clip_norm", "choice", ("null", "1.0"))),
        ("augment.speed=[],[0.9,1.1]", Range("augment.speed", "choice", ("[]", "[0.9,1.1]"))),
        ("optimizer.lr=interval(1e-5,1e-3)", Range("optimizer.lr", "float", low=1e-5, high=1e-3)),
        (LR, Range("optimizer.lr", "float", low=1e-5, high=1e-3, log=True)),
        ("seed=range(1,5)", Range("seed", "int", low=1, high=4, step=1)),
        ("seed=range(10,1,-3)", Range("seed", "int", low=4, high=10, step=3)),
        ("optimizer.eps=range(0.1,0.4,0.1)", Range("optimizer.eps", "float", low=0.1, high=0.3, step=0.1)),
        ("seed=shuffle(range(1,3))", Range("seed", "choice", ("1", "2"))),
        # a key of whole numbers
        (
            "schedule.warmup_steps=interval(10,100)",
            Range("schedule.warmup_steps", "int", low=10, high=100, step=1),
        ),
        ("model.config.x=int(interval(1,8))", Range("model.config.x", "int", low=1, high=8, step=1)),
        (
            "trainer.average=tag(log, int(interval(1,64)))",
            Range("trainer.average", "int", low=1, high=64, step=1, log=True),
        ),
    ],
)
def test_the_syntax_of_ranges(text, expected):
    fixed, (found,) = split_overrides(["seed=7" if not text.startswith("seed") else "dataset=demo", text])
    assert len(fixed) == 1 and found.values == expected.values
    assert (found.name, found.kind, found.choices, found.log) == (
        expected.name,
        expected.kind,
        expected.choices,
        expected.log,
    )
    assert (found.low, found.high) == pytest.approx(
        (expected.low, expected.high)
    ) and found.step == expected.step


@pytest.mark.parametrize(("arguments", "words"), [
    (["sweeper=optuna", "optimizer.lr=tag(ln, interval(1e-5,1e-3))"], ["'ln'", "log"]),
    (["sweeper=optuna", "optimizer.lr=interval(-1,1)"], ["optimizer.lr=-1", "above 0"]),
    (["sweeper=optuna", "schedule.warmup_ratio=tag(log,interval(0,1))"], ["begin above 0"]),
    (["sweeper=optuna", "optimizer.lrr=interval(1,2)"], ["optimizer.lrr", "'optimizer.lr'"]),
    (["sweeper=optuna", "model.padding=interval(1,2)"], ["model.padding"]),
    (["sweeper=optuna", "seed=interval(1.5,2)"], ["seed", "whole number"]),
    (["sweeper=optuna", "optimizer.lr=interval(2,1)"], ["interval(LOW,HIGH)"]),
    (["sweeper=optuna", "seed=range(3,3)"], ["empty"]),
    (["sweeper=optuna"], ["nothing to search"]),
    ([LR], ["sweeper=optuna"]),
    (["sweeper=optunaa", LR], ["sweeper", "'optuna'"]),
    (["sweeper=optuna", LR, "sweep.metric=wer"], ["sweep.metric", "dev.wer"]),
    (["sweeper=optuna", LR, "sweep.workers=2"], ["hydra/launcher=joblib"]),
    (["sweeper=optuna", LR, "sweep.storage=nonsense://x"], ["sweep.storage=nonsense://x"]),
])  # fmt: skip
def test_what_cannot_be_searched_is_told_before_anything_runs(here, capsys, arguments, words):
    assert main(["-m", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (
        err.startswith("error: ")
        and "Traceback" not in err
        and [word for word in words if word not in err] == []
    )
    assert not (here / "outputs").exists()


# ------------------------------------------------------------------------------------------------------------
# the file for W&B

# What W&B draws from: https://docs.wandb.ai/guides/sweeps/sweep-config-keys, "distribution".
LEGAL = {"int_uniform": int, "q_log_uniform_values": int, "uniform": float, "log_uniform_values": float}


def written(here, capsys, *arguments):
    """The sweep file of a command line, which is printed too."""
    capsys.readouterr()
    assert main(["-m", "sweeper=wandb", "sweep.name=w", *arguments]) == 0
    text = (here / "sweeps/w/wandb.yaml").read_text()
    assert capsys.readouterr().out.endswith(text) and not (here / "outputs").exists()
    return yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LR, {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3}),
        ("optimizer.weight_decay=interval(0.0,0.2)", {"distribution": "uniform", "min": 0.0, "max": 0.2}),
        ("schedule.warmup_steps=interval(10,100)", {"distribution": "int_uniform", "min": 10, "max": 100}),
        (
            "trainer.average=tag(log, int(interval(1,64)))",
            {"distribution": "q_log_uniform_values", "min": 1, "max": 64},
        ),
        ("trainer.average=range(1,6)", {"distribution": "int_uniform", "min": 1, "max": 5}),
        ("trainer.average=range(1,5,2)", {"values": [1, 3]}),
        ("schedule.warmup_ratio=range(0,0.3,0.1)", {"values": [0.0, 0.1, 0.2]}),
        ("optimizer.clip_norm=null,1.0", {"values": ["null", 1.0]}),
        ("trainer.shortest_first=true,false", {"values": [True, False]}),
        ("augment.speed=[],[0.9,1.1]", {"values": ["[]", "[0.9,1.1]"]}),
        ("model=hubert-base,wavlm-base", {"values": ["hubert-base", "wavlm-base"]}),
        (
            "experiment=hf-minds14,hf-timit/distilhubert",
            {"values": ["hf-minds14/wav2vec2-base", "hf-timit/distilhubert"]},
        ),
        ("model.config.hidden_size=64,128", {"values": [64, 128]}),
    ],
)
def test_what_wandb_is_to_draw_is_what_its_agent_can_type(here, capsys, text, expected):
    found = written(here, capsys, text)
    ((name, one),) = found["parameters"].items()
    assert name.lstrip("+") == text.partition("=")[0] and one == expected
    ends = [one[end] for end in ("min", "max") if end in one]
    assert set(one) in ({"values"}, {"distribution", "min", "max"}) and all(
        isinstance(end, LEGAL[one["distribution"]]) for end in ends
    )
    for value in one.get("values", ends):  # as `wandb agent` makes a command line of it
        words = create_sweep_command_args({"args": {name: {"value": value}}})["args_no_hyphens"]
        assert main([*found["command"][4:-1], *words, "--cfg", "job", "-p", "seed"]) == 0, value


def test_a_sweep_file_says_how_to_search_and_what_to_run(here, capsys):
    fixed = ["dataset=timit", "dataset.root=/data/TI MIT", "tracking=none"]
    found = written(here, capsys, *fixed, LR, "model=hubert-base,wavlm-base", "sweep.trials=30")
    assert found["command"] == [
        "${env}",
        "${interpreter}",
        "-m",
        "asr_exp",
        "train",
        *fixed[:2],
        "tracking=wandb",
        "${args_no_hyphens}",
    ]
    assert create_sweep_command(found["command"])[-2:] == ["tracking=wandb", "${args_no_hyphens}"]
    assert (
        found["method"] == "bayes"
        and found["metric"] == {"name": "dev/wer", "goal": "minimize"}
        and found["run_cap"] == 30
    )
    assert found["early_terminate"]["type"] == "hyperband"
    assert "early_terminate" not in written(here, capsys, LR, "sweep.prune=false")
    assert written(here, capsys, LR, "sweep.sampler=random")["method"] == "random"
    grid = written(here, capsys, "tokenizer=phone", "text=phones", "seed=1,2")
    assert grid["method"] == "grid" and grid["metric"]["name"] == "dev/per" and "run_cap" not in grid
