"""Run folders written by hand, for tests of the report."""

import json
from pathlib import Path

from invented_runs import PROTOCOL
from omegaconf import OmegaConf

from asr_exp.config.compose import compose
from asr_exp.runs.folder import resolve
from asr_exp.runs.results import protocol, write_result
from asr_exp.scoring.error_rates import Tally, character_errors, word_errors


def write_run(
    folder: Path, pairs, speakers=("s0", "s1", "s2"), losses=None, seed=42, steps=0, split="test"
) -> Path:
    """A finished run with these (reference, hypothesis) pairs and a curve of so many steps, less its
    checkpoints.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = resolve(
        compose(["dataset=csv", *(f"dataset.{one}=gone.csv" for one in ("train", "dev", "test"))])
    )
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    tally, lines = Tally(phones=False), []
    for number, (reference, hypothesis) in enumerate(pairs):
        words, characters = word_errors(reference, hypothesis), character_errors(reference, hypothesis)
        speaker = speakers[number % len(speakers)]
        tally.add(words, characters, speaker)
        counts = {**vars(words), "characters": vars(characters)}
        lines.append(
            {
                "id": f"utt-{number:05d}",
                "reference": reference,
                "hypothesis": hypothesis,
                "counts": counts,
                "speaker": speaker,
                "seconds": 1.0 + 0.1 * (number % 40),
                "loss": losses[number] if losses else None,
            }
        )
    said = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / f"hypotheses.{split}.jsonl").write_text(said, encoding="utf-8")
    curve = [
        {"step": step, "epoch": 0.1, "train/loss": 5 / step, "train/grad_norm": None}
        for step in range(1, steps + 1)
    ]
    curve += [{"step": steps, "dev/loss": 0.4, "dev/wer": 0.2, "dev/cer": 0.05}] if steps else []
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in curve))
    write_result(
        folder,
        {
            "status": "finished",
            "seed": seed,
            "protocol": protocol(**PROTOCOL),
            "splits": {split: tally.summary()},
            "best": {"step": max(1, steps), "metric": "wer", "value": 0.2},
        },
    )
    return folder


def data_of(page: Path) -> dict:
    """The data that a page carries, as its script reads it."""
    text = page.read_text(encoding="utf-8")
    start = text.index('<script type="application/json" id="data">') + len(
        '<script type="application/json" id="data">'
    )
    return json.loads(text[start : text.index("</script>", start)])
