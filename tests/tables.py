"""Run folders as `train` leaves them, written by hand, and the tables that are made of them."""

import csv
import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from asr_exp import __version__
from asr_exp.cli.main import main
from asr_exp.config.compose import compose
from asr_exp.runs.folder import resolve, run_folder, signature
from asr_exp.runs.results import protocol

ROOT = "dataset.root=/corpora/TIMIT"
BASE = ["experiment=hf-mini/base", ROOT]
EXPERIMENTS = {
    "base": ("model: wav2vec2-base", "value: 0.2151\n  time: 32 min\n"),
    "large": ("model: unispeech-large-1500h-cv", "value: 0.2196\n  time: 35 min\n"),
    "sew": ("model: sew-small-100k", "value: 0.2988\n  inferred: [schedule.warmup_steps]\n"),
    "distil": ("model: distilhubert", "value: 0.6776\n"),
}


def write_experiments(
    conf: Path, names: tuple[str, ...] = tuple(EXPERIMENTS), table: str = "hf-mini"
) -> None:
    """conf/experiment/TABLE/ROW.yaml for some of the rows above."""
    (conf / "experiment" / table).mkdir(parents=True, exist_ok=True)
    for name in names:
        choice, published = EXPERIMENTS[name]
        text = (
            f"# @package _global_\ndefaults:\n  - override /dataset: timit\n  - override /{choice}\n  -"
            " override /text: hf_compat\n"
        )
        text += (
            "published:\n  metric: wer\n  split: test\n  source: https://example.org/models\n  hardware: 1"
            f" TITAN RTX\n  {published}"
        )
        (conf / "experiment" / table / f"{name}.yaml").write_text(text)


def write_run(
    overrides: list[str],
    rate: float = 0.2,
    ci95: list[float] | None = None,
    speakers: int = 168,
    status: str = "finished",
    of_protocol: dict[str, Any] | None = None,
    **result: Any,
) -> Path:
    """A run folder where these overrides lead, relative to where we stand -> the folder."""
    config = compose(overrides)
    folder = run_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(resolve(config))))
    (folder / "environment.json").write_text(json.dumps({"device": "NVIDIA H200", "devices": 2}))
    parts = {
        "dataset": config.dataset.name,
        "language": config.dataset.language,
        "split": ["test"],
        "ids": "1234",
        "coverage": 1.0,
        "text": config.text.name,
        "rules": [],
        "metric": "wer",
        "inventory": None,
        "decoder": "greedy",
        "padding": "exact",
    } | (of_protocol or {})
    test = {
        "wer": rate,
        "cer": rate / 3,
        "per": None,
        "ci95": ci95 or [rate - 0.01, rate + 0.01],
        "utterances": 1680,
        "coverage": parts["coverage"],
        "ci95_degrees": speakers - 1,
    }
    whole = {
        "status": status,
        "signature": signature(config),
        "seed": config.seed,
        "protocol": protocol(**parts),
        "splits": {"test": test},
        "train": {"steps": 2900, "wall_seconds": 1900.0},
        "versions": {"asr_exp": __version__},
    } | result
    if status != "finished":
        whole = {key: whole[key] for key in ("status", "signature", "seed", "versions", *result)}
    (folder / "result.json").write_text(json.dumps(whole))
    return folder


def edit(folder: Path, **parts: Any) -> None:
    """Change parts of a run's result.json."""
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


def table(capsys: Any, *arguments: str) -> tuple[str, list[dict[str, str]]]:
    """`asr_exp table ARGUMENTS` -> what it printed, and the rows of its table.csv."""
    assert main(["table", *arguments]) == 0
    newest = max(Path("outputs/tables").glob("*/table.csv"), key=lambda path: path.stat().st_mtime_ns)
    with newest.open(newline="") as file:
        return capsys.readouterr().out, list(csv.DictReader(file))


def row(
    rows: list[dict[str, str]], label: str, column: str = "", protocol: str | None = None
) -> dict[str, str]:
    """The one row of a table.csv at a place (and under a protocol)."""
    (one,) = [
        r for r in rows if (r["row"], r["column"]) == (label, column) and protocol in (None, r["protocol"])
    ]
    return one


def grids(markdown: str) -> list[list[list[str]]]:
    """The tables of a page of Markdown: rows of cells, the header first."""
    found: list[list[list[str]]] = []
    for before, line in zip(["", *markdown.splitlines()], markdown.splitlines(), strict=False):
        if line.startswith("|"):
            found += [] if before.startswith("|") else [[]]
            found[-1] += (
                [] if line.startswith("|-") else [[cell.strip() for cell in line.strip("|").split("|")]]
            )
    return found
