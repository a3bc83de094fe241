"""Work on several passes of a network at once, each in a thread of its own with a share of torch's
threads.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch


class PerThread:
    """An attribute of which each thread has its own value.

    A thread that has set none finds what was set last: one of autograd's, say, in which a GPU's checkpointed
    layers are recomputed.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.own, self.last = f"_own_{name}", f"_last_{name}"

    def __set__(self, one: Any, value: Any) -> None:
        one.__dict__.setdefault(self.own, threading.local()).value = value
        one.__dict__[self.last] = value

    def __get__(self, one: Any, owner: type | None = None) -> Any:
        return getattr(one.__dict__[self.own], "value", one.__dict__[self.last])


def side_by_side(items: Iterable[Any], make: Callable[[Any], Any], workers: int) -> Iterator[Any]:
    """`make(item)` for each item, in order, `workers` of them at a time; one more than that is made ahead of
    its use.
    """
    threads = torch.get_num_threads()
    made: deque[Future] = deque()
    pool = ThreadPoolExecutor(
        workers, initializer=torch.set_num_threads, initargs=(max(1, threads // workers),)
    )
    try:
        for item in items:
            made.append(pool.submit(make, item))
            if len(made) > workers:
                yield made.popleft().result()
        while made:
            yield made.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # of threads to come; this one's were never others
