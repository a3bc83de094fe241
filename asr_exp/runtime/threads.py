"""Several forward passes of a network at once, each in a thread with a share of torch's threads."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch


def side_by_side(items: Iterable[Any], function: Callable[[Any], Any], workers: int) -> Iterator[Any]:
    """Yield `function(item)` for each item, in their order.

    `workers` threads compute the results, and at most one result more than that ahead of its use.
    """
    threads = torch.get_num_threads()
    futures: deque[Future] = deque()
    pool = ThreadPoolExecutor(
        workers, initializer=torch.set_num_threads, initargs=(max(1, threads // workers),)
    )
    try:
        for item in items:
            futures.append(pool.submit(function, item))
            if len(futures) > workers:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        # What a thread of the pool sets is the default of threads to come; that of this thread never changed.
        torch.set_num_threads(threads)


class Turns:
    """Shares of a device that threads take in turn: in the order in which they asked, so that none starves.

    shares: how many there are.
    """

    def __init__(self, shares: int):
        self.shares = shares
        self._free = shares
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def take(self, shares: int) -> Iterator[None]:
        """Hold so many of the shares; wait until they are free, and all who asked before have theirs."""
        me = object()
        with self._changed:
            self._waiting.append(me)
            self._changed.wait_for(lambda: self._waiting[0] is me and self._free >= shares)
            self._waiting.popleft()
            self._free -= shares
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += shares
                self._changed.notify_all()
