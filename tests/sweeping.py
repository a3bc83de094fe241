"""Sweeps in tests: a stand-in for training, and what a sweep leaves."""

import csv
import json
import math
import os
import sys
import time
import types
from pathlib import Path

import optuna

from asr_exp.cli.arguments import module_of
from asr_exp.core.errors import Pruned, UserError
from asr_exp.runs.folder import run_folder

LR = "optimizer.lr=tag(log, interval(1e-5, 1e-3))"
SEARCH = ["-m", "sweeper=optuna", "sweep.name=s"]
EXTRAS = {
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher",
}


def stand_in(seconds: float = 0.0) -> None:
    """Put in the place of `train` what scores abs(log10(lr) + 4) (at once, or after so many seconds) and
    fails at seed 5.
    """

    def run(config):
        folder = run_folder(config)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "starts.txt").open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(seconds)
        if config.seed == 5:
            raise UserError("seed 5 is bad luck.")
        value = abs(math.log10(config.optimizer.lr) + 4)
        judge = sys.modules["asr_exp.commands.train.command"].judge(config)
        for step in (1, 2):
            if judge and (why := judge(step, value + 0.1 / step)):
                (folder / "result.json").write_text(
                    json.dumps({"status": "stopped", "reason": f"Pruned: {why}"})
                )
                raise Pruned(why)
        scores = {"wer": value + 0.01, "cer": value / 2, "per": None, "ci95": [value, value + 0.02]}
        result = {
            "status": "finished",
            "best": {"step": 2, "metric": "wer", "value": value},
            "train": {"wall_seconds": 61.2},
        }
        (folder / "result.json").write_text(json.dumps({**result, "splits": {"dev": scores, "test": scores}}))

    def judge(config):
        from asr_exp.sweeps.study import Pruner

        s = config.sweep
        return None if s.trial is None else Pruner(s.storage, s.name, s.trial, s.prune, s.startup)

    for name in ("train", "evaluate"):
        sys.modules[module_of(name)] = types.SimpleNamespace(run=run, judge=judge)  # type: ignore[assignment]


def cells(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.glob("sweeps/*/cells.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def study(folder: Path, name: str = "s") -> optuna.Study:
    return optuna.load_study(storage=f"sqlite:///{folder}/sweeps/{name}/study.db", study_name=name)


def params(folder: Path) -> list[tuple]:
    return [tuple(sorted(trial.params.items())) for trial in study(folder).trials]
