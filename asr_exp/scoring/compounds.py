"""Error counts where a compound may be written as one word or as several: white paper, whitepaper.

There are two ways, as on the Open ASR Leaderboard: `count_merging` aligns like kaldialign with
merge_compounds=True, and `join_compounds` goes by the alignment of difflib.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher

from asr_exp.scoring.error_rates import ErrorCounts

Step = tuple[int, int]  # so many words of the reference, so many of the hypothesis


def count_merging(reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[ErrorCounts, list[str]]:
    """Count the edits between words, where several words in a row that make one word of the other text are no
    error. Of alignments with as few errors, it is kaldialign's.

    Returns the counts, and the hypothesis with such compounds as the reference writes them.
    """
    steps = _align(reference, hypothesis)
    substitutions = deletions = insertions = 0
    written: list[str] = []
    i, j = len(reference), len(hypothesis)
    while i or j:
        taken, said = steps[i][j]
        if taken and said:
            compound = (taken, said) != (1, 1)
            substitutions += not compound and reference[i - 1] != hypothesis[j - 1]
            written += reversed(reference[i - taken : i]) if compound else [hypothesis[j - 1]]
        elif taken:
            deletions += 1
        else:
            insertions += 1
            written.append(hypothesis[j - 1])
        i, j = i - taken, j - said
    return ErrorCounts(substitutions, deletions, insertions, len(reference)), written[::-1]


def _align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[list[Step]]:
    """The last step of the alignment of the first i words of the reference and the first j of the hypothesis
    that has the fewest errors.
    """
    costs = [list(range(len(hypothesis) + 1))]
    steps: list[list[Step]] = [[(0, 1)] * (len(hypothesis) + 1)]
    merged_reference = _compounds(reference, hypothesis)
    merged_hypothesis = _compounds(hypothesis, reference)
    for i, word in enumerate(reference, 1):
        row = [i]
        above = costs[-1]
        last: list[Step] = [(1, 0)]
        for j, said in enumerate(hypothesis, 1):
            kept = above[j - 1] + (word != said)
            deleted = above[j] + 1
            inserted = row[j - 1] + 1
            # a substitution only where it is better than both others, a deletion where it beats an insertion
            if kept < inserted and kept < deleted:
                best, step = kept, (1, 1)
            elif deleted < inserted:
                best, step = deleted, (1, 0)
            else:
                best, step = inserted, (0, 1)
            for count in merged_reference.get((i, said), ()):
                if costs[i - count][j - 1] < best:
                    best, step = costs[i - count][j - 1], (count, 1)
            for count in merged_hypothesis.get((j, word), ()):
                if above[j - count] < best:
                    best, step = above[j - count], (1, count)
            row.append(best)
            last.append(step)
        costs.append(row)
        steps.append(last)
    return steps


def _compounds(words: Sequence[str], wholes: Sequence[str]) -> dict[tuple[int, str], list[int]]:
    """Which words of `wholes` the words before an index make, by (index, word): of how many words each."""
    known, longest = set(wholes), max(map(len, wholes), default=0)
    found: dict[tuple[int, str], list[int]] = {}
    for end in range(2, len(words) + 1):
        merged = words[end - 1]
        for start in range(end - 2, -1, -1):
            merged = words[start] + merged
            if len(merged) > longest:
                break
            if merged in known:
                found.setdefault((end, merged), []).append(end - start)
    return found


def join_compounds(reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[list[str], list[str]]:
    """Write as one word, in both texts, what is the same but for its spaces where the texts differ."""
    joined: tuple[list[str], list[str]] = ([], [])
    for kind, *bounds in SequenceMatcher(None, reference, hypothesis).get_opcodes():
        words = (list(reference[bounds[0] : bounds[1]]), list(hypothesis[bounds[2] : bounds[3]]))
        same = kind != "equal" and "".join(words[0]) == "".join(words[1])
        for side, some in zip(joined, words, strict=True):
            side += ["".join(some)] if same else some
    return joined
