"""Plan which utterances make an optimiser step, and which rank and forward pass gets them.

All of it is a pure function of (seed, step): a run resumes at any step, on any number of ranks, without
replaying batches. Only lengths are used here; audio is read by `batch.collate`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ATTENTION_SECONDS = 30.0  # an utterance this long costs twice its seconds: attention grows with the square
SORT_WINDOW = 50  # batches; utterances are sorted by length within windows of this many, to save padding


@dataclass(frozen=True)
class PassCost:
    """How many seconds of audio utterances count for in a forward pass.

    doubling_seconds: an utterance this long costs twice its seconds, because attention grows with the square
    of the length; infinite where it does not. padded: each utterance costs as much as the longest of its
    pass. each: seconds that every utterance costs besides, of whatever length.
    """

    doubling_seconds: float = ATTENTION_SECONDS
    padded: bool = True
    each: float = 0.0

    def of(self, seconds: np.ndarray) -> np.ndarray:
        """The cost of each utterance alone."""
        return seconds * (1.0 + seconds / self.doubling_seconds) + self.each

    def of_pass(self, costs: np.ndarray) -> float:
        """The cost of a pass over utterances with these costs."""
        return float(len(costs) * costs.max() if self.padded else costs.sum())


def cost(seconds: np.ndarray) -> np.ndarray:
    """What utterances of these lengths cost in a padded pass; see `PassCost`."""
    return PassCost().of(seconds)


class BatchPlan:
    """Splits the utterances of an epoch into optimiser steps, and a step into micro-batches on each rank.

    Every epoch has the same number of steps, each with at least one utterance.
    """

    def __init__(
        self,
        seconds: np.ndarray,
        batch_seconds: float | None,
        device_seconds: float,
        seed: int,
        shortest_first: bool = False,
        batch_utterances: int | None = None,
        pass_cost: PassCost | None = None,
    ):
        """Count the steps of an epoch.

        Args:
            seconds: lengths of the utterances, (utterances,).
            batch_seconds: about how much audio a step has; unused where `batch_utterances` is given.
            device_seconds: the most that a forward pass may cost, see `PassCost`.
            seed: of the run.
            shortest_first: whether the first epoch goes from short to long utterances, unshuffled.
            batch_utterances: how many utterances a step has; the last step of an epoch has what is left.
            pass_cost: what a forward pass costs; None: as where it is padded.
        """
        self.seconds = seconds
        self.seed = seed
        self.sizes: list[tuple[int, float]] = [(1, device_seconds)]
        self.shortest_first = shortest_first
        self.batch_utterances = batch_utterances
        self.pass_cost = pass_cost or PassCost()
        self.costs = self.pass_cost.of(seconds)
        steps = len(seconds) / batch_utterances if batch_utterances else seconds.sum() / batch_seconds
        self.steps_per_epoch = int(np.clip(np.ceil(steps), 1, len(seconds)))
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    def epoch_of(self, step: int) -> int:
        """The epoch (from 0) of a step (from 1)."""
        return (step - 1) // self.steps_per_epoch

    def step(self, step: int) -> np.ndarray:
        """Indices of all utterances of an optimiser step (from 1), all ranks together."""
        epoch = self.epoch_of(step)
        number, batches = self._epoch  # read once: a prefetching thread sets it too, an epoch ahead
        if number != epoch:
            batches = self._make_epoch(epoch)
            self._epoch = (epoch, batches)
        return batches[(step - 1) % self.steps_per_epoch]

    def _make_epoch(self, epoch: int) -> list[np.ndarray]:
        """The indices of the utterances of each step of an epoch."""
        rng = np.random.default_rng([self.seed, 1, epoch])
        order = rng.permutation(len(self.seconds))
        in_order = self.shortest_first and epoch == 0
        window = len(order) if in_order else -(-len(order) * SORT_WINDOW // self.steps_per_epoch)
        windows = [order[i : i + window] for i in range(0, len(order), window)]
        order = np.concatenate([w[np.argsort(self.seconds[w], kind="stable")] for w in windows])
        count = self.batch_utterances
        cuts = (
            np.arange(count, len(order), count) if count else _cuts(self.seconds[order], self.steps_per_epoch)
        )
        batches = np.split(order, cuts)
        return batches if in_order else [batches[i] for i in rng.permutation(len(batches))]

    def set_sizes(self, sizes: Sequence[tuple[int, float]]) -> None:
        """Give forward passes other sizes. sizes: (first step, device_seconds), beginning with step 1."""
        self.sizes = [(int(step), float(size)) for step, size in sizes]

    def device_seconds(self, step: int) -> float:
        """The most that a forward pass of a step may cost."""
        return [size for first, size in self.sizes if first <= step][-1]

    def micro_batches(self, step: int, rank: int = 0, world: int = 1) -> list[np.ndarray]:
        """The forward passes of a rank in a step: for each, the indices of its utterances.

        The cost of each is within the `device_seconds` of the step. A rank has none where a step has fewer
        utterances than there are ranks.
        """
        own = _split_across_ranks(self.step(step), self.costs, world)[rank]
        return self._pack(own, step)

    def _pack(self, indices: np.ndarray, step: int) -> list[np.ndarray]:
        return pack(indices, self.costs, self.device_seconds(step), self.pass_cost.padded)

    def max_micro_batches(self, step: int, world: int, most: float | None = None) -> int:
        """The number of forward passes of the rank that has the most of them in a step.

        most: seconds of audio above which a pass is made in parts; None: passes are whole.
        """
        shards = _split_across_ranks(self.step(step), self.costs, world)
        passes = (self._pack(shard, step) for shard in shards)
        return max(sum(len(runs(self.seconds[one], most)) for one in of_rank) for of_rank in passes)


def runs(seconds: np.ndarray, most: float | None) -> list[tuple[int, int]]:
    """(first, last) of each run of utterances of at most so many seconds together, as few as there can be. An
    utterance that is longer has a run of its own. None: all are one run.
    """
    if most is None or seconds.sum() <= most:
        return [(0, len(seconds))]
    starts, total = [0], 0.0
    for place, one in enumerate(seconds):
        if total and total + one > most:
            starts.append(place)
            total = 0.0
        total += one
    return list(zip(starts, [*starts[1:], len(seconds)], strict=True))


def _cuts(seconds: np.ndarray, parts: int) -> np.ndarray:
    """Where to cut a sequence into `parts` pieces of about equal seconds, none of them empty."""
    ends = np.cumsum(seconds)
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, parts) / parts)
    numbers = np.arange(1, parts)
    cuts = np.maximum.accumulate(np.maximum(cuts, 1) - numbers) + numbers  # strictly rising ...
    return np.minimum(
        cuts, len(seconds) - parts + numbers
    )  # ... and with one element left for each piece to come


def _split_across_ranks(indices: np.ndarray, costs: np.ndarray, world: int) -> list[np.ndarray]:
    """Split utterances among ranks so that the costs are about even: the longest first, each to the rank with
    the lowest cost so far.
    """
    if world == 1:
        return [indices]
    shards: list[list[int]] = [[] for _ in range(world)]
    loads = np.zeros(world)
    for index in indices[np.argsort(-costs[indices], kind="stable")]:
        rank = int(loads.argmin())
        shards[rank].append(int(index))
        loads[rank] += costs[index]
    return [np.array(shard, dtype=np.int64) for shard in shards]


def pack(indices: np.ndarray, costs: np.ndarray, budget: float, padded: bool = True) -> list[np.ndarray]:
    """Split utterances, the longest first, into forward passes whose cost is within a budget.

    An utterance whose own cost exceeds the budget has a pass of its own. costs: of all utterances of the
    split. padded: each costs as much as the longest of its pass.
    """
    passes: list[list[int]] = []
    total = 0.0
    for index in indices[np.argsort(-costs[indices], kind="stable")]:
        more = (len(passes[-1]) + 1) * costs[passes[-1][0]] if passes and padded else total + costs[index]
        if passes and more <= budget:
            passes[-1].append(int(index))
            total += costs[index]
        else:
            passes.append([int(index)])
            total = costs[index]
    return [np.array(p, dtype=np.int64) for p in passes]
