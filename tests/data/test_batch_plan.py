"""Which utterances make a step, a rank's share, a forward pass; the masks; the batch; the thread that makes
it ahead.
"""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soxr
import torch
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

from asr_exp.data.augment import Masks, SpanMasking, SpeedPerturbation
from asr_exp.data.batch import Batch, collate, prefetch
from asr_exp.data.batch_plan import BatchPlan, cost, pack
from asr_exp.data.tokenizer import frames_needed


def speech(count=2000, seed=0):
    """Lengths as read speech has them: most of 2 to 16 s, in seconds."""
    return np.clip(np.random.default_rng(seed).gamma(4.0, 2.5, count), 0.5, 24.0)


HARD = {
    "realistic": (speech(), 100.0),
    "one giant among tiny ones": (np.array([600.0, *np.full(99, 0.1)]), 5.0),
    "giant last": (np.array([*np.full(99, 0.1), 600.0]), 5.0),
    "two giants": (np.array([300.0, 0.1, 0.1, 400.0]), 1.0),
    "fewer utterances than steps": (np.array([50.0, 60.0, 70.0]), 1.0),
    "all equal": (np.full(100, 2.0), 10.0),
    "all equal, not a whole number": (np.full(101, 2.0), 7.3),
    "one utterance": (np.array([3.0]), 100.0),
    "one long utterance": (np.array([300.0]), 1.0),
    "more budget than audio": (speech(7), 1e9),
    "exponential": (2.0 ** np.arange(14), 100.0),
}
CASES = pytest.mark.parametrize(("seconds", "budget"), HARD.values(), ids=list(HARD))


def plan_of(seconds, budget, seed=0, device=40.0, **how):
    return BatchPlan(seconds, budget, device, seed, **how)


def steps(plan, epoch=0):
    first = epoch * plan.steps_per_epoch + 1
    return [plan.step(s) for s in range(first, first + plan.steps_per_epoch)]


# ------------------------------------------------------------------------------------------------------------
# steps


@CASES
@pytest.mark.parametrize("shortest_first", [False, True])
def test_every_utterance_once_an_epoch_and_no_step_empty(seconds, budget, shortest_first):
    plan = plan_of(seconds, budget, shortest_first=shortest_first)
    for epoch in range(3):
        batches = steps(plan, epoch)
        assert all(len(b) > 0 for b in batches) and {
            plan.epoch_of(epoch * len(batches) + s + 1) for s in range(len(batches))
        } == {epoch}
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(seconds)))


@CASES
def test_a_step_is_within_the_budget_and_one_utterance_of_it(seconds, budget):
    """Cuts fall at the first utterance that reaches the next multiple of the mean step, so a step is off by
    less than the longest utterance, unless cuts had to be moved so that no step is empty: then steps of one
    utterance push the others along."""
    plan = plan_of(seconds, budget)
    mean = seconds.sum() / plan.steps_per_epoch
    assert plan.steps_per_epoch == min(int(np.ceil(seconds.sum() / budget)), len(seconds))
    sums = np.array([seconds[b].sum() for epoch in range(2) for b in steps(plan, epoch)])
    counts = np.array([len(b) for epoch in range(2) for b in steps(plan, epoch)])
    if seconds.max() <= mean:
        assert (np.abs(sums - mean) < seconds.max() + 1e-6).all()
    else:
        assert (sums[counts > 1] < max(mean, budget) + 2 * seconds.max()).all()


def test_the_steps_of_read_speech_are_near_the_budget():
    plan = plan_of(speech(), 200.0)
    sums = np.array([speech()[b].sum() for b in steps(plan)])
    assert (
        sums.mean() == pytest.approx(200, rel=0.02)
        and sums.max() < 224
        and np.abs(sums / 200 - 1).mean() < 0.05
    )


def test_a_step_is_a_function_of_seed_and_step_alone():
    seconds = speech(300)
    in_order = plan_of(seconds, 50.0, seed=5)
    sequence = [in_order.step(s) for s in range(1, 4 * in_order.steps_per_epoch)]
    at_random = plan_of(seconds, 50.0, seed=5)
    for s in np.random.default_rng(0).permutation(len(sequence))[:60]:
        assert np.array_equal(at_random.step(int(s) + 1), sequence[s])
    fresh = plan_of(seconds, 50.0, seed=5)  # the last one first, as after a resume
    assert np.array_equal(fresh.step(len(sequence)), sequence[-1])


def test_seeds_and_epochs_differ():
    seconds = speech(300)
    plans = [plan_of(seconds, 50.0, seed=s) for s in (1, 2)]
    groups = [{frozenset(b.tolist()) for b in steps(p, e)} for p in plans for e in (0, 1, 2)]
    for i, one in enumerate(groups):
        for other in groups[i + 1 :]:
            assert len(one & other) < 0.2 * len(one)


def test_steps_come_in_no_order_of_length():
    plan = plan_of(speech(), 100.0)
    means = [speech()[b].mean() for b in steps(plan)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


def test_shortest_first_is_for_the_first_epoch_only():
    seconds = speech(500)
    plan = plan_of(seconds, 50.0, shortest_first=True)
    first = np.concatenate(steps(plan))
    assert (np.diff(seconds[first]) >= 0).all()
    assert not (np.diff(seconds[np.concatenate(steps(plan, 1))]) >= 0).all()
    assert [b.tolist() for b in steps(plan, 1)] == [b.tolist() for b in steps(plan_of(seconds, 50.0), 1)]


def waste(seconds, passes):
    padded = sum(len(p) * seconds[p].max() for p in passes)
    return 1 - sum(seconds[p].sum() for p in passes) / padded


def test_little_of_a_pass_is_padding():
    seconds = speech()
    for world, bound in ((1, 0.04), (4, 0.06)):
        plan = plan_of(seconds, 200.0, device=100.0)
        passes = [
            p
            for s in range(1, plan.steps_per_epoch + 1)
            for r in range(world)
            for p in plan.micro_batches(s, r, world)
        ]
        assert waste(seconds, passes) < bound
    order = np.random.default_rng(0).permutation(len(seconds))
    assert waste(seconds, np.array_split(order, 200)) > 0.2  # what it is about


# ------------------------------------------------------------------------------------------------------------
# ranks and forward passes


@CASES
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_the_ranks_share_a_step_and_share_it_evenly(seconds, budget, world):
    plan = plan_of(seconds, budget)
    for step in range(1, min(plan.steps_per_epoch, 12) + 1):
        shares = [plan.micro_batches(step, rank, world) for rank in range(world)]
        dealt = [i for share in shares for one in share for i in one.tolist()]
        assert sorted(dealt) == sorted(plan.step(step).tolist())
        loads = [sum(cost(seconds)[p].sum() for p in share) for share in shares]
        longest = cost(seconds)[plan.step(step)].max()
        assert max(loads) - min(loads) <= longest + 1e-9  # what dealing the longest first guarantees


def test_the_most_passes_of_a_rank_are_those_of_the_rank_with_the_most():
    """Of a giant, which is a pass alone, and 30 of a second, which go by 9 to a pass: 1 and 4."""
    plan = plan_of(np.array([60.0, *np.ones(30)]), 1e9, device=10.0)
    assert [len(plan.micro_batches(1, rank, 2)) for rank in (0, 1)] == [1, 4]
    assert (plan.max_micro_batches(1, 2), plan.max_micro_batches(1, 1)) == (4, 5)


def test_the_longest_is_dealt_first():
    seconds = np.array([1.0, 1.0, 1.0, 6.0, 1.0, 1.0, 1.0])
    shares = [np.concatenate(plan_of(seconds, 1e9).micro_batches(1, rank, 2)).tolist() for rank in (0, 1)]
    assert sorted(map(len, shares)) == [1, 6]


@CASES
@pytest.mark.parametrize("world", [1, 3])
def test_a_pass_fits_the_device_unless_it_is_one_utterance(seconds, budget, world):
    plan = plan_of(seconds, budget, device=40.0)
    for step in range(1, min(plan.steps_per_epoch, 12) + 1):
        for rank in range(world):
            for one in plan.micro_batches(step, rank, world):
                assert len(one) == 1 or len(one) * cost(seconds)[one].max() <= 40.0


def test_the_square_of_attention_is_charged():
    assert cost(np.array([0.0, 15.0, 30.0])).tolist() == [0.0, 22.5, 60.0]


def test_packing_by_hand():
    costs = np.array([5.0, 1.0, 4.0, 1.0, 20.0, 3.0])
    assert [p.tolist() for p in pack(np.arange(6), costs, 10.0)] == [[4], [0, 2], [5, 1, 3]]
    assert pack(np.arange(0), costs, 10.0) == []


# ------------------------------------------------------------------------------------------------------------
# masks


def masks(**settings):
    usual = {
        "time": SpanMasking(0.3, 10, min_spans=2),
        "feature": SpanMasking(0.2, 8),
        "channels": 64,
        "seed": 3,
    }
    return Masks(**{"frames": lambda n: n // 320, **usual, **settings})


NEVER = SpanMasking(0.0, 10)


SHARES = [(0.05, 10, 500), (0.3, 10, 300), (0.65, 10, 120), (0.05, 10, 60), (0.5, 3, 41), (0.004, 64, 768)]


@pytest.mark.parametrize(("share", "length", "frames"), SHARES)
def test_as_much_is_masked_as_transformers_masks(share, length, frames):
    rows = 1500
    drawn, _ = masks(time=SpanMasking(share, length, 2), feature=NEVER).draw(
        1, np.arange(rows), [frames * 320] * rows
    )
    theirs = np.concatenate(
        [_compute_mask_indices((1, frames), share, length, min_masks=2) for _ in range(rows)]
    )
    ours = drawn.numpy()
    assert ours.mean() == pytest.approx(theirs.mean(), rel=0.05)
    assert (ours.sum(1) > 0).all() and (
        ours.sum(1) <= np.ceil(share * frames / length + 1).clip(2) * length
    ).all()
    spread = ours.mean(0)[length : frames - length]  # as much in the middle as anywhere
    assert len(spread) < 20 or spread.std() < 0.1 * spread.mean() + 4 * np.sqrt(spread.mean() / rows)


def test_channels_are_masked_as_transformers_masks_them_with_no_least_number():
    rows = 1500
    _, drawn = masks(time=NEVER, feature=SpanMasking(0.1, 16), channels=128).draw(
        1, np.arange(rows), [16000] * rows
    )
    theirs = np.concatenate([_compute_mask_indices((1, 128), 0.1, 16) for _ in range(rows)])
    assert drawn.shape == (rows, 128) and drawn.float().mean().item() == pytest.approx(
        theirs.mean(), rel=0.08
    )
    assert (drawn.sum(1) == 0).any() and set(drawn.sum(1).tolist()) <= {0, 16}


def test_the_least_number_of_spans_is_kept_where_there_is_room():
    few = masks(time=SpanMasking(1e-6, 10, 3), feature=SpanMasking(1e-6, 8, 1))
    time_mask, feature_mask = few.draw(1, np.arange(200), [500 * 320] * 199 + [25 * 320])
    assert set(time_mask[:199].sum(1).tolist()) <= set(range(12, 31)) and time_mask[:199].sum(1).max() == 30
    assert time_mask[199].sum() <= 20 and set(feature_mask.sum(1).tolist()) == {8}


def test_masks_belong_to_the_utterance_whatever_its_batch():
    lengths = np.random.default_rng(0).integers(20, 200, 30) * 320
    drawn = masks()
    time_mask, feature_mask = drawn.draw(7, np.arange(30), lengths.tolist())
    for some in (np.array([4]), np.array([29, 3, 4]), np.arange(29, -1, -1)):
        again_time, again_feature = drawn.draw(7, some, lengths[some].tolist())
        for row, index in enumerate(some):
            frames = lengths[index] // 320
            assert torch.equal(again_time[row, :frames], time_mask[index, :frames])
            assert not again_time[row, frames:].any()
            assert torch.equal(again_feature[row], feature_mask[index])


def test_masks_differ_by_seed_step_and_utterance():
    def bits(seed, step, index):
        time_mask, feature_mask = masks(seed=seed).draw(step, np.array([index]), [200 * 320])
        return tuple(time_mask.flatten().tolist()), tuple(feature_mask.flatten().tolist())

    drawn = [bits(seed, step, index) for seed in (0, 1) for step in (1, 2) for index in range(5)]
    assert len({time_mask for time_mask, _ in drawn}) == len(drawn)
    assert len({feature_mask for _, feature_mask in drawn}) > len(drawn) / 2


def test_a_clip_shorter_than_a_span_is_not_masked_and_one_as_long_is():
    drawn, _ = masks().draw(1, np.arange(3), [9 * 320, 10 * 320, 0])
    assert drawn.sum(1).tolist() == [0, 10, 0]


def test_no_mask_where_none_is_asked_for():
    assert masks(time=NEVER, feature=NEVER).draw(1, np.arange(2), [16000, 8000]) == (None, None)


# ------------------------------------------------------------------------------------------------------------
# the batch


def split_of(*lengths):
    clips = [np.arange(1, n + 1, dtype=np.int16) for n in lengths]
    labels = [np.full(i + 1, i, dtype=np.int32) for i in range(len(lengths))]
    return SimpleNamespace(clips=lambda indices: [clips[i] for i in indices], labels=lambda i: labels[i])


def test_a_batch_holds_what_the_split_holds():
    batch = collate(split_of(5, 3, 9), np.array([2, 0]))
    assert batch.audio.dtype == torch.int16 and batch.labels.dtype == torch.int64
    assert batch.audio.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 5, 0, 0, 0, 0]]
    assert (batch.lengths, batch.label_lengths, batch.labels.tolist()) == ([9, 5], [3, 1], [2, 2, 2, 0])
    assert (len(batch), batch.samples, batch.indices.tolist(), batch.time_mask, batch.feature_mask) == (
        2,
        14,
        [2, 0],
        None,
        None,
    )
    assert isinstance(batch, Batch) and batch.to(torch.device("cpu")) is batch


def test_all_of_a_batch_goes_to_its_device():
    batch = collate(split_of(6400, 3200), np.array([1, 0]), masks(), 4).to(torch.device("meta"))
    moved = (batch.audio, batch.labels, batch.time_mask, batch.feature_mask)
    assert [tensor.device.type for tensor in moved] == ["meta"] * 4
    assert (batch.lengths, batch.indices.tolist()) == ([3200, 6400], [1, 0])


def test_utterances_without_samples_are_not_in_the_batch():
    split = split_of(5, 0, 9)
    batch = collate(split, np.array([1, 2, 0]))
    assert (batch.indices.tolist(), batch.lengths, batch.label_lengths, batch.labels.tolist()) == (
        [2, 0],
        [9, 5],
        [3, 1],
        [2, 2, 2, 0],
    )
    assert len(collate(split, np.array([1]), masks())) == 0


def test_a_batch_has_the_masks_of_its_utterances():
    drawn = masks()
    batch = collate(split_of(6400, 3200, 9600), np.array([2, 0]), drawn, 4)
    time_mask, feature_mask = drawn.draw(4, np.array([2, 0]), [9600, 6400])
    assert torch.equal(batch.time_mask, time_mask) and torch.equal(batch.feature_mask, feature_mask)
    assert batch.time_mask.shape == (2, 30) and batch.feature_mask.shape == (2, 64)


def speed(*factors, seed=3):
    return SpeedPerturbation(factors, 16000, lambda n: n // 320, seed)


@pytest.mark.parametrize("factor", [0.9, 1.1, 1.25])
def test_speed_changes_length_and_pitch_alike(factor):
    clip = (10000 * np.sin(2 * np.pi * 400 * np.arange(16000) / 16000)).astype(np.int16)
    played = speed(factor)(clip, np.zeros(3, dtype=np.int32), 1, 0)
    assert played.dtype == np.int16 and len(played) == pytest.approx(16000 / factor, abs=2)
    heard = np.abs(np.fft.rfft(played * np.hanning(len(played)))).argmax() * 16000 / len(played)
    assert heard == pytest.approx(400 * factor, abs=2) and np.abs(played).max() == pytest.approx(
        10000, rel=0.05
    )


def test_speed_belongs_to_the_utterance_and_the_step():
    clip, labels = np.ones(16000, dtype=np.int16), np.zeros(1, dtype=np.int32)
    drawn = speed(0.9, 1.0, 1.1)
    lengths = {(step, i): len(drawn(clip, labels, step, i)) for step in (1, 2) for i in range(60)}
    assert lengths == {at: len(speed(0.9, 1.0, 1.1)(clip, labels, *at)) for at in reversed(lengths)}
    counts = np.unique(list(lengths.values()), return_counts=True)[1]
    assert len(counts) == 3 and counts.min() > 20
    assert any(lengths[1, i] != lengths[2, i] for i in range(60))
    assert any(len(speed(0.9, 1.0, 1.1, seed=4)(clip, labels, 1, i)) != lengths[1, i] for i in range(60))


def test_speed_adds_no_noise_of_its_own():
    """soxr dithers int16, and not the same way every time: two equal runs would part."""
    clip = (np.random.default_rng(0).normal(size=48145) * 3000).astype(np.int16)
    for factor in (0.85, 0.9, 1.1, 1.25):
        exact = 32768 * soxr.resample(clip.astype(np.float64) / 32768, 16000 * factor, 16000, quality="MQ")
        played = speed(factor)(clip, np.zeros(3, dtype=np.int32), 1, 0)
        assert played.dtype == np.int16 and np.abs(played - exact).max() < 0.51  # dither alone comes to 1


def test_speed_leaves_room_for_the_labels():
    clip, labels = np.ones(3200, dtype=np.int16), np.arange(9, dtype=np.int32)  # 10 frames; 9 at 1.1
    assert len(speed(1.1)(clip, labels[:8], 1, 0)) // 320 == 9
    assert speed(1.1)(clip, np.zeros(5, dtype=np.int32), 1, 0) is not clip  # 9 frames with the blanks between
    assert speed(1.1)(clip, np.arange(10, dtype=np.int32), 1, 0) is clip
    longer = np.ones(4002, dtype=np.int16)  # 3201 samples at 1.25, which may come out as one fewer: 10 frames
    assert speed(1.25)(longer, np.arange(10, dtype=np.int32), 1, 0) is not longer
    assert speed(1.25)(longer[:4000], np.arange(10, dtype=np.int32), 1, 0).base is longer  # 3200, or 3199: 9
    assert [frames_needed(np.array(row)) for row in ([], [1], [1, 2], [1, 1, 1], [1, 1, 2, 2])] == [
        0,
        1,
        2,
        5,
        6,
    ]


def test_a_batch_plays_its_clips_at_their_speed():
    split, drawn = split_of(6400, 3200, 9600), speed(0.8, 1.25)
    batch = collate(split, np.array([2, 0]), masks(), 4, drawn)
    expected = [drawn(split.clips([i])[0], split.labels(i), 4, i) for i in (2, 0)]
    assert batch.lengths == [len(clip) for clip in expected] and set(batch.lengths) != {9600, 6400}
    assert batch.audio[1, : batch.lengths[1]].tolist() == expected[1].tolist()
    assert batch.time_mask.shape == (2, max(batch.lengths) // 320)


# ------------------------------------------------------------------------------------------------------------
# making batches ahead


def threads_end(before, patience=5.0):
    deadline = time.monotonic() + patience
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    return threading.active_count() <= before


def test_prefetch_keeps_the_order_and_ends_its_thread():
    before = threading.active_count()
    assert list(prefetch(range(50), lambda i: i * i)) == [i * i for i in range(50)]
    assert list(prefetch([], str)) == []
    assert list(prefetch([0, None], lambda i: i)) == [0, None]
    assert threads_end(before)


def test_prefetch_works_ahead_but_not_far():
    made, before = [], threading.active_count()
    items = prefetch(range(100), lambda i: made.append(i) or i, ahead=3)
    next(items)
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3, 4]  # one used, three waiting, one in hand
    items.close()
    assert threads_end(before)


@pytest.mark.parametrize("error", [ValueError("bad clip"), KeyboardInterrupt(), MemoryError()])
def test_prefetch_raises_what_making_raised_after_what_came_before(error):
    def make(i):
        if i == 3:
            raise error
        return i

    got, before = [], threading.active_count()
    with pytest.raises(type(error)) as raised:
        for one in prefetch(range(10), make):
            got.append(one)
    assert got == [0, 1, 2] and raised.value is error and threads_end(before)


def test_prefetch_raises_what_its_items_raise():
    def items():
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(prefetch(items(), lambda i: i))


@pytest.mark.parametrize("ahead", [1, 4])
def test_leaving_early_ends_the_thread(ahead):
    before = threading.active_count()
    for _ in range(20):
        for one in prefetch(iter(int, 1), lambda i: i, ahead):
            assert one == 0
            break
    assert threads_end(before)
