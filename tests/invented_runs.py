"""Runs with made-up references and hypotheses, to be compared."""

import json
import random

from asr_exp.runs.results import protocol, write_result
from asr_exp.scoring.error_rates import Tally, character_errors, word_errors


def invented(seed, count=60, rates=(0.08, 0.12)):
    """References in which no word comes twice, so that there is one best alignment, and two hypotheses of
    each.
    """
    rng = random.Random(seed)
    references, sides = [], ([], [])
    for number in range(count):
        reference = [f"w{number}x{i}" for i in range(rng.randint(3, 14))]
        references.append(" ".join(reference))
        for side, rate in zip(sides, rates, strict=True):
            said = []
            for i, word in enumerate(reference):
                luck = rng.random()
                said += (
                    [f"sub{rng.randint(0, 9)}"] if luck < rate * 0.5 else [] if luck < rate * 0.8 else [word]
                )
                if rng.random() < rate * 0.2 and i < len(reference) - 1:
                    said.append(f"ins{rng.randint(0, 9)}")
            side.append(" ".join(said))
    return references, *sides


PROTOCOL = {
    "dataset": "demo",
    "language": "en",
    "split": ["test"],
    "ids": "1f",
    "coverage": 1.0,
    "text": "standard",
    "rules": ["lower"],
    "metric": "wer",
    "inventory": None,
    "decoder": "greedy",
    "padding": "exact",
}


def write_run(folder, references, hypotheses, speakers=None, seed=42, split="test", **held):
    """A finished run as train leaves it, less what compare does not read."""
    parts, tally = {**PROTOCOL, **held}, Tally(phones=held.get("metric") == "per")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"hypotheses.{split}.jsonl").open("w", encoding="utf-8") as file:
        for number, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True)):
            words, characters = word_errors(reference, hypothesis), character_errors(reference, hypothesis)
            speaker = speakers[number % len(speakers)] if speakers else None
            tally.add(words, characters, speaker)
            line = {
                "id": f"utt-{number:03d}",
                "reference": reference,
                "hypothesis": hypothesis,
                "counts": {**vars(words), "characters": vars(characters)},
                "speaker": speaker,
                "seconds": 1.0,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    write_result(
        folder,
        {
            "status": "finished",
            "seed": seed,
            "protocol": protocol(**parts),
            "splits": {split: tally.summary()},
        },
    )
    return str(folder)
