"""What is done to a reference and a hypothesis before their errors are counted, and how compounds count."""

from collections.abc import Callable
from dataclasses import dataclass

from asr_exp.scoring.compounds import count_merging, join_compounds
from asr_exp.scoring.error_rates import ErrorCounts, character_errors, word_errors

# What the references of some corpora say of a stretch that is not to be scored.
NOT_SCORED = "ignore time segment in scoring"


@dataclass(frozen=True)
class ScoredPair:
    """A reference and a hypothesis as they are compared, and their errors in words (or phones) and
    characters.
    """

    reference: str
    hypothesis: str
    words: ErrorCounts
    characters: ErrorCounts


@dataclass(frozen=True)
class ScoreRules:
    """The rules that a score is measured by; without arguments, texts are compared as they are.

    normalise: applied to references and hypotheses (None: nothing is). from_corpus: whether references are
    normalised from the corpus's own transcripts, not from what the text rules left of them. compounds: words
    that differ in their spaces alone count as they are (`apart`) or as right (`merge`), or are joined in both
    texts before (`join`). drop_empty: whether an utterance whose reference is empty is left out.
    """

    normalise: Callable[[str], str] | None = None
    from_corpus: bool = False
    compounds: str = "apart"
    drop_empty: bool = False

    def drops(self, reference: str) -> bool:
        """Whether an utterance with this reference, normalised, is left out of the score."""
        return self.drop_empty and reference in ("", NOT_SCORED)

    def apply(self, text: str) -> str:
        """A text after the rules."""
        return text if self.normalise is None else self.normalise(text)

    def pair(self, reference: str, hypothesis: str) -> ScoredPair:
        """Count the errors of a hypothesis; both texts are normalised already.

        Where compounds do not count as errors, the pair has the hypothesis with those of the reference.
        """
        if self.compounds == "apart":
            words = word_errors(reference, hypothesis)
        else:
            pair = (reference.split(), hypothesis.split())
            words, written = count_merging(*(join_compounds(*pair) if self.compounds == "join" else pair))
            if self.compounds == "join":  # the texts before they were joined
                _, written = count_merging(*pair)
            hypothesis = " ".join(written)
        return ScoredPair(reference, hypothesis, words, character_errors(reference, hypothesis))
