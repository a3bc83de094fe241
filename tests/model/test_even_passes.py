"""How recordings are shared out among the passes that run side by side on a CPU."""

import numpy as np
import pytest

from asr_exp.data.batch_plan import pack
from asr_exp.model.forward_passes import even_budget


@pytest.mark.parametrize("count", [11, 17, 30, 31, 100])
def test_no_pass_waits_alone_and_none_is_larger_than_asked_for(count):
    costs = np.full(count, 2.0)
    passes = pack(np.arange(count), costs, even_budget(costs, 20.0))
    sizes = [costs[one].sum() for one in passes]
    assert len(passes) % 2 == 0 and sum(sizes) == costs.sum()
    assert max(sizes) <= 20.0


def test_what_one_pass_has_room_for_is_left_to_it():
    assert even_budget(np.full(10, 2.0), 20.0) == 20.0
