"""Several forward passes of a network at once, each in a thread with a share of torch's threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
