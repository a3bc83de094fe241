"""Which utterances make a step, on which rank, in which forward pass; and the batch itself.

Everything is a pure function of (seed, step): a run resumes anywhere, on any number of ranks, without
replaying batches. Only lengths are looked at here, never audio, until `collate`.
"""

import numpy as np

ATTENTION_SECONDS = 30.0  # an utterance this long costs twice its seconds: attention grows with the square
WINDOW = 50  # batches; utterances are sorted by length inside windows of this many, to save padding


def cost(seconds: np.ndarray) -> np.ndarray:
    """The seconds a forward pass is charged for utterances of these lengths, attention's square included."""
    return seconds * (1.0 + seconds / ATTENTION_SECONDS)


class BatchPlan:
    """Deals the utterances of an epoch into optimiser steps, the steps to ranks and forward passes.

    A step holds about `batch_seconds` of audio or, where `batch_utterances` is given, so many utterances (the
    last cut of an epoch what is left). seconds: (utterances,) lengths. Every epoch has the same number of
    steps, each at least one utterance.
    """

    def __init__(
        self,
        seconds: np.ndarray,
        batch_seconds: float | None,
        device_seconds: float,
        seed: int,
        shortest_first: bool = False,
        batch_utterances: int | None = None,
    ):
        self.seconds = seconds
        self.seed = seed
        self.device_seconds = device_seconds
        self.shortest_first = shortest_first
        self.batch_utterances = batch_utterances
        self.costs = cost(seconds)
        steps = len(seconds) / batch_utterances if batch_utterances else seconds.sum() / batch_seconds
        self.steps_per_epoch = int(np.clip(np.ceil(steps), 1, len(seconds)))
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    def epoch_of(self, step: int) -> int:
        """The epoch (from 0) of a step (from 1)."""
        return (step - 1) // self.steps_per_epoch

    def step(self, step: int) -> np.ndarray:
        """Indices of all utterances of an optimiser step (from 1), all ranks together."""
        epoch = self.epoch_of(step)
        number, batches = self._epoch  # read once: the thread that prefetches asks too, for an epoch ahead
        if number != epoch:
            batches = self._make_epoch(epoch)
            self._epoch = (epoch, batches)
        return batches[(step - 1) % self.steps_per_epoch]

    def _make_epoch(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, 1, epoch])
        order = rng.permutation(len(self.seconds))
        in_order = self.shortest_first and epoch == 0
        window = len(order) if in_order else -(-len(order) * WINDOW // self.steps_per_epoch)
        parts = [order[i : i + window] for i in range(0, len(order), window)]
        order = np.concatenate([p[np.argsort(self.seconds[p], kind="stable")] for p in parts])
        count = self.batch_utterances
        cuts = (
            np.arange(count, len(order), count) if count else _cuts(self.seconds[order], self.steps_per_epoch)
        )
        batches = np.split(order, cuts)
        return batches if in_order else [batches[i] for i in rng.permutation(len(batches))]

    def micro_batches(self, step: int, rank: int = 0, world: int = 1) -> list[np.ndarray]:
        """The forward passes of a rank in a step: lists of utterance indices within `device_seconds`, padding
        counted.

        A rank may have none where a step has fewer utterances than there are ranks.
        """
        mine = _split_across_ranks(self.step(step), self.costs, world)[rank]
        return pack(mine, self.costs, self.device_seconds)

    def max_micro_batches(self, step: int, world: int) -> int:
        """The forward passes of the rank with the most of them in a step."""
        return max(
            len(pack(mine, self.costs, self.device_seconds))
            for mine in _split_across_ranks(self.step(step), self.costs, world)
        )


def _cuts(seconds: np.ndarray, parts: int) -> np.ndarray:
    """Where to cut a sequence into `parts` runs of about equal seconds, none empty."""
    ends = np.cumsum(seconds)
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, parts) / parts)
    numbers = np.arange(1, parts)
    cuts = np.maximum.accumulate(np.maximum(cuts, 1) - numbers) + numbers  # strictly rising ...
    return np.minimum(cuts, len(seconds) - parts + numbers)  # ... and enough left for the runs to come


def _split_across_ranks(indices: np.ndarray, costs: np.ndarray, world: int) -> list[np.ndarray]:
    """Deal utterances to ranks so that their costs come out even: longest first, each to the rank with the
    least so far.
    """
    if world == 1:
        return [indices]
    hands: list[list[int]] = [[] for _ in range(world)]
    loads = np.zeros(world)
    for index in indices[np.argsort(-costs[indices], kind="stable")]:
        rank = int(loads.argmin())
        hands[rank].append(int(index))
        loads[rank] += costs[index]
    return [np.array(hand, dtype=np.int64) for hand in hands]


def pack(indices: np.ndarray, costs: np.ndarray, budget: float) -> list[np.ndarray]:
    """Split utterances, longest first, into forward passes whose padded cost stays within the budget (one may
    exceed it alone).
    """
    passes: list[list[int]] = []
    for index in indices[np.argsort(-costs[indices], kind="stable")]:
        if passes and (len(passes[-1]) + 1) * costs[passes[-1][0]] <= budget:
            passes[-1].append(int(index))
        else:
            passes.append([int(index)])
    return [np.array(p, dtype=np.int64) for p in passes]


# ------------------------------------------------------------------------------------------------------------
# the batch
