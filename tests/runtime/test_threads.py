"""Passes of a network side by side: the order, the share of threads, an error, and what is left behind."""

import threading
import time

import pytest
import torch

from asr_exp.runtime.threads import Turns, side_by_side


def test_two_at_a_time_come_in_order_with_half_of_the_threads_each():
    before, both = torch.get_num_threads(), threading.Barrier(2, timeout=20)

    def make(number):
        both.wait()  # a single thread would wait here for ever
        time.sleep(0.02 * (number % 2 == 0))
        return number, torch.get_num_threads(), threading.current_thread().name

    torch.set_num_threads(4)
    try:
        made = list(side_by_side(range(8), make, 2))
        assert [number for number, *_ in made] == list(range(8))
        assert {threads for _, threads, _ in made} == {2} and len({name for *_, name in made}) == 2
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_no_more_is_made_than_is_soon_used():
    begun, before = [], threading.active_count()
    made = side_by_side(range(100), lambda number: begun.append(number) or number, 2)
    assert [next(made), next(made)] == [0, 1]
    time.sleep(0.1)
    assert len(begun) <= 4
    made.close()
    assert len(begun) <= 4 and threading.active_count() == before


def test_an_error_reaches_who_asked():
    made = side_by_side([1, 0, 2], lambda number: 1 / number, 2)
    assert next(made) == 1
    with pytest.raises(ZeroDivisionError):
        list(made)


def test_turns_are_taken_in_the_order_of_asking():
    """Who wants both shares is not passed by those who want one, however many they are."""
    turns, order, asked = Turns(2), [], []

    def work(name, shares):
        asked.append(name)
        with turns.take(shares):
            order.append(name)

    with turns.take(1), turns.take(1):
        threads = []
        for name, shares in (("both", 2), ("one", 1), ("other", 1)):
            threads.append(threading.Thread(target=work, args=(name, shares)))
            threads[-1].start()
            while len(turns._waiting) < len(threads):
                time.sleep(0.001)
        assert order == []
    for thread in threads:
        thread.join(20)
    assert order[0] == "both" and sorted(order[1:]) == ["one", "other"]


def test_as_many_hold_a_share_as_there_are():
    turns, both = Turns(2), threading.Barrier(2, timeout=20)

    def work():
        with turns.take(1):
            both.wait()  # a single one would wait here for ever

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not both.broken
