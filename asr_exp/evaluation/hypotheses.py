"""What the recogniser makes of an utterance, and the file that keeps it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr_exp.data.prepare import Split
from asr_exp.decoding.decoders import Candidate
from asr_exp.scoring.score_rules import ScoreRules

KeptLines = Mapping[str, Mapping[str, Any]]  # lines of hypotheses.SPLIT.jsonl by the id of the utterance


@dataclass(frozen=True)
class Hypothesis:
    """What the recogniser makes of one utterance.

    counts: the `ErrorCounts` of `words` (or phones) and of `characters`; seconds: of audio; loss: the CTC
    loss of the reference, None where it cannot be aligned; nbest: {text, score} of the best texts, where the
    decoder returns several. raw_reference: the transcript as the corpus has it; raw_hypothesis: what the
    decoder gave. The reference and the hypothesis are what the rules of the score make of these.
    """

    id: str
    reference: str
    hypothesis: str
    counts: dict[str, Any]
    speaker: str | None
    seconds: float
    loss: float | None = None
    nbest: list[dict[str, Any]] | None = None
    raw_reference: str = ""
    raw_hypothesis: str = ""

    def json_line(self) -> str:
        """The line of hypotheses.SPLIT.jsonl."""
        counts = self.counts
        fields = {
            **vars(self),
            "counts": {**asdict(counts["words"]), "characters": asdict(counts["characters"])},
        }
        if self.nbest is None:
            del fields["nbest"]
        return json.dumps(fields, ensure_ascii=False) + "\n"


def make_hypothesis(
    split: Split, index: int, texts: list[Candidate], loss: float | None, rules: ScoreRules
) -> Hypothesis:
    """What is made of an utterance. texts: of the decoder, the best first."""
    utterance = split.utterances[index]
    raw_reference = split.original_reference(index)
    scored = str.strip if rules.from_corpus else split.tokenizer.scored
    reference = rules.apply(raw_reference if rules.from_corpus else split.reference(index))
    pair = rules.pair(reference, rules.apply(scored(texts[0].text)))
    nbest = [{"text": rules.apply(scored(c.text)), "score": round(c.score, 4)} for c in texts]
    return Hypothesis(
        utterance.id,
        pair.reference,
        pair.hypothesis,
        {"words": pair.words, "characters": pair.characters},
        utterance.speaker,
        round(float(split.seconds[index]), 3),
        loss,
        nbest if len(texts) > 1 else None,
        raw_reference,
        texts[0].text,
    )


def rescored(
    kept: KeptLines, split: Split, rules: ScoreRules, main: bool
) -> Iterator[tuple[list[tuple[int, Hypothesis]], np.ndarray]]:
    """Score kept hypotheses by other rules, on rank 0. Yields one at a time, with their index,
    and (sum of losses, number of utterances that have a loss). Other ranks get as many empty lists.
    """
    for index, id in enumerate(split.utterances.ids()):
        loss = kept[id]["loss"]
        texts = [Candidate(kept[id]["raw_hypothesis"], 0.0)]
        hypotheses = [(index, make_hypothesis(split, index, texts, loss, rules))] if main else []
        yield hypotheses, np.array([loss or 0.0, loss is not None]) if main else np.zeros(2)


class HypothesesFile:
    """A hypotheses.SPLIT.jsonl, written in the order of the split from hypotheses that come in any order.
    Memory holds one offset a line.
    """

    def __init__(self, path: Path, lines: int):
        self.path = path
        self.unordered = path.with_name(path.name + ".unordered")
        self.offsets = np.full(lines, -1, dtype=np.int64)
        self.file = self.unordered.open("w+b")

    def write(self, index: int, hypothesis: Hypothesis) -> None:
        """Add the hypothesis of the utterance with this index in the split."""
        self.offsets[index] = self.file.tell()
        self.file.write(hypothesis.json_line().encode())

    def close(self) -> None:
        """Put the lines in order, and the file in its place."""
        ordered = self.path.with_name(self.path.name + ".new")
        with ordered.open("wb") as out:
            for offset in self.offsets[self.offsets >= 0]:
                self.file.seek(offset)
                out.write(self.file.readline())
        self.file.close()
        self.unordered.unlink()
        ordered.replace(self.path)
