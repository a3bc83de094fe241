"""Schedules against transformers and fairseq's definition; gradients over two processes against one; groups,
clipping, averages.
"""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn

from asr_exp.core.errors import UserError
from asr_exp.training import gradients
from asr_exp.training.ema import Ema
from asr_exp.training.gradients import BUCKET, GradientSum, clip_gradients
from asr_exp.training.optim import make_optimizer, make_schedule

ADAMW = {"name": "adamw", "lr": 0.1, "weight_decay": 0.01, "betas": [0.9, 0.98], "eps": 1e-8, "momentum": 0.9}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 5, bias=False), nn.Linear(5, 3))


# ------------------------------------------------------------------------------------------------------------
# schedules


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize(("total", "warmup"), [(100, 10), (100, 0), (7, 3), (1, 0), (50, 49)])
def test_the_schedules_of_transformers(name, total, warmup):
    import transformers  # here, so that the ranks below start without it

    make = getattr(transformers, f"get_{name}_schedule_with_warmup")
    theirs = make(torch.optim.SGD([torch.zeros(1)], lr=1.0), warmup, total).lr_lambdas[0]
    ours = make_schedule(name, total, warmup, 0.5, 0.3, 0.0)
    for step in range(1, total + 1):
        # They use 0 for the first step and s - 1 of warm-up for step s; ours wastes no step, and decays just
        # as theirs.
        assert ours(step) == pytest.approx(theirs(step) if step <= warmup else theirs(step - 1), abs=1e-12)


def test_warm_up_by_ratio_and_the_peak():
    ours = make_schedule("linear", 200, None, 0.1, 0.0, 0.0)
    assert [ours(s) for s in (1, 10, 20, 21)] == [0.05, 0.5, 1.0, 1.0]
    assert ours(22) == pytest.approx(1 - 1 / 180) and ours(200) == pytest.approx(1 / 180)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_final_scale_is_where_the_decay_ends(name):
    ours = make_schedule(name, 100, 10, 0.0, 0.0, 0.25)
    assert ours(11) == 1.0 and ours(101) == pytest.approx(0.25)
    assert ours(56) == pytest.approx(0.25 + 0.75 / 2)


def test_constant_stays_at_the_peak_after_its_warm_up():
    ours = make_schedule("constant", 100, 4, 0.0, 0.0, 0.0)
    assert [ours(s) for s in (1, 2, 4, 5, 50, 100)] == [0.25, 0.5, 1.0, 1.0, 1.0, 1.0]


def fairseq(updates, total, ratios, final):
    """fairseq's tri_stage_lr_scheduler.py, less the warm-up, for a peak of 1: the rate after `updates`
    updates.
    """
    warmup, hold, decay = (int(total * r) for r in ratios)
    if updates <= warmup + hold:
        return 1.0
    return (
        math.exp(math.log(final) / decay * (updates - warmup - hold))
        if updates <= warmup + hold + decay
        else final
    )


@pytest.mark.parametrize("final", [0.05, 0.01])
def test_tri_stage_is_that_of_fairseq(final):
    total, ratios = 1000, (0.1, 0.4, 0.5)
    ours = make_schedule("tri-stage", total, None, 0.1, 0.4, final)
    for step in range(101, total + 1):
        assert ours(step) == pytest.approx(fairseq(step - 1, total, ratios, final), rel=1e-9)
    assert ours(50) == 0.5 and ours(501) == 1.0 > ours(502) and ours(total + 1) == pytest.approx(final)


def test_tri_stage_of_extreme_settings_stays_finite():
    for hold, final, warmup in ((1.0, 0.0, 0), (0.0, 0.0, 0), (0.9, 0.0, 50)):
        factors = [make_schedule("tri-stage", 100, warmup, 0.0, hold, final)(s) for s in range(1, 101)]
        assert all(0 <= f <= 1 for f in factors)


def test_unknown_names_are_errors_with_the_nearest_name():
    with pytest.raises(UserError, match=r"schedule\.name=tristage .*'tri-stage'"):
        make_schedule("tristage", 10, 0, 0.0, 0.0, 0.0)
    with pytest.raises(UserError, match=r"optimizer\.name=adam .*'adamw'"):
        make_optimizer(network(), **{**ADAMW, "name": "adam"}, lr_scale={})


# ------------------------------------------------------------------------------------------------------------
# optimizers


def named_groups(net, optimizer):
    names = {id(p): n for n, p in net.named_parameters()}
    return {
        names[id(p)]: (g["lr"], g["peak_lr"], g["weight_decay"])
        for g in optimizer.param_groups
        for p in g["params"]
    }


def test_biases_and_norms_do_not_decay_and_patterns_scale_the_rate():
    net = network()
    net[2].requires_grad_(False)
    optimizer = make_optimizer(net, **ADAMW, lr_scale={"0.*": 0.5, "*.bias": 0.1})
    expected = {
        "0.weight": (0.5, 0.01),
        "0.bias": (0.05, 0),
        "1.weight": (1, 0),
        "1.bias": (0.1, 0),
        "3.weight": (1, 0.01),
    }
    expected["3.bias"] = (0.1, 0)
    found = named_groups(net, optimizer)
    assert found == {
        n: (pytest.approx(0.1 * f), pytest.approx(0.1 * f), decay) for n, (f, decay) in expected.items()
    }


def test_a_pattern_that_names_nothing_is_an_error():
    with pytest.raises(UserError, match=r"lr_scale.*'3\.wieght'.*'3\.weight'"):
        make_optimizer(network(), **ADAMW, lr_scale={"3.wieght": 0.5})


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_steps_are_those_of_torch(name):
    net, other = network(), network()
    ours = make_optimizer(net, **{**ADAMW, "name": name}, lr_scale={})
    decays = [
        {"params": [p for p in other.parameters() if (p.ndim > 1) == heavy], "weight_decay": 0.01 * heavy}
        for heavy in (True, False)
    ]
    theirs = {
        "adamw": lambda: torch.optim.AdamW(decays, lr=0.1, betas=(0.9, 0.98), eps=1e-8),
        "sgd": lambda: torch.optim.SGD(decays, lr=0.1, momentum=0.9, nesterov=True),
    }[name]()
    data = torch.randn(5, 4)
    for _ in range(3):
        for model, optimizer in ((net, ours), (other, theirs)):
            optimizer.zero_grad()
            model(data).square().sum().backward()
            optimizer.step()
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("largest", [None, 0.5, 1e9])
def test_clipping_is_that_of_torch(largest):
    net, other = network(), network()
    for model in (net, other):
        (10 * model(torch.ones(2, 4))).square().sum().backward()
        model[1].weight.grad = None
    norm = clip_gradients(list(net.parameters()), largest)
    expected = nn.utils.clip_grad_norm_(other.parameters(), math.inf if largest is None else largest)
    assert torch.allclose(norm, expected) and norm.ndim == 0
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None)
        assert one.grad is None or torch.allclose(one.grad, two.grad)


# ------------------------------------------------------------------------------------------------------------
# over ranks: (utterances of rank 0, utterances of rank 1, layer used) a step; 4 has nothing on rank 1,
# 3 drops a layer everywhere

STEPS = [
    ([0, 1], [2], True),
    ([3], [4, 5, 6], True),
    ([7, 1], [0, 2], False),
    ([5, 6], [], True),
    ([2], [3], False),
    ([4], [1], True),
]


def train(rank, world, messages=()):
    """The parameters that are learned, and the messages that each step sent before its last backward pass was
    over.
    """
    net, early = network(), []
    unused = nn.Parameter(torch.ones(3, 3))  # by any rank, ever
    parameters = [unused, *net.parameters()]
    gradients = GradientSum(parameters, world)
    optimizer = torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1)
    data = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    for first, second, used in STEPS:
        mine = [*first, *second] if world == 1 else (first, second)[rank]
        before = len(messages)
        for index in mine:
            if index == mine[-1]:
                gradients.last_pass([] if used else net[2].parameters())
            hidden = net[1](net[0](data[index]))
            hidden = net[2](hidden) if used else hidden[:5]
            (net[3](hidden).square().sum() / len(first + second)).backward()
        early.append(len(messages) - before)
        gradients.finish()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return [p.detach().clone() for p in parameters], early


def one_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results = {}
    messages = []
    send = dist.all_reduce
    dist.all_reduce = lambda flat, **how: (messages.append(flat.numel()), send(flat, **how))[1]
    for bucket in (1, 100, BUCKET):  # bytes: a message for each, for some, for all
        gradients.BUCKET = bucket
        results[bucket], results[f"early {bucket}"] = train(rank, 2, messages)
    given = [
        nn.Parameter(torch.zeros(3, 4)),
        nn.Parameter(torch.zeros(5)),
        nn.Parameter(torch.zeros(())),
        nn.Parameter(torch.zeros(2)),
    ]
    given[0].grad = (torch.arange(12.0).view(4, 3) * (rank + 1)).T  # not contiguous
    given[1].grad = None if rank else torch.ones(5)
    given[2].grad = torch.tensor(2.0 + rank)
    GradientSum(given, 2).finish()
    results["given"] = [p.grad for p in given]
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def fork_ranks(_, folder):
    """Two ranks for one import of torch: forked off a process that has not computed yet, as torch's threads
    want it.
    """
    torch.multiprocessing.start_processes(one_rank, (folder,), nprocs=2, start_method="fork")


def test_two_ranks_learn_what_one_learns(tmp_path):
    torch.multiprocessing.spawn(fork_ranks, (str(tmp_path),), nprocs=1)
    alone, _ = train(0, 1)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for bucket in (1, 100, BUCKET):
        for mine, theirs, expected in zip(ranks[0][bucket], ranks[1][bucket], alone, strict=True):
            assert torch.equal(mine, theirs)
            assert torch.allclose(mine, expected, rtol=1e-5, atol=1e-6)
    # A message for each of the seven parameters of the network, during the last pass; what nobody uses is
    # left, and all where none is made.
    assert ranks[0]["early 1"] == [7] * 6 and ranks[1]["early 1"] == [7, 7, 7, 0, 7, 7]
    assert ranks[0][f"early {BUCKET}"] == [0] * 6  # one message, with the unused one in it
    for rank in ranks:
        first, second, third, fourth = rank["given"]
        assert torch.equal(first, (3 * torch.arange(12.0).view(4, 3)).T) and torch.equal(
            second, torch.ones(5)
        )
        assert third.item() == 5.0 and torch.equal(fourth, torch.zeros(2))


# ------------------------------------------------------------------------------------------------------------
# the moving average


def test_the_average_follows_by_hand():
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 1.0)
    ema, expected = Ema(net, 0.9), 1.0
    for step in range(1, 200):
        nn.init.constant_(net.weight, float(step))
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert ema.average[0].item() == pytest.approx(expected, rel=1e-5)
    assert 199 - ema.average[0].item() == pytest.approx(9.0, rel=0.01)  # the lag of a decay of 0.9


def test_the_average_of_the_first_steps_follows_closely_by_hand():
    """At step s no more than (1 + s) / (10 + s) of the old average stays, however slow the decay."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 1.0)
    ema = Ema(net, 0.9)
    for step, weight, expected in ((1, 12.0, 10.0), (2, 34.0, 28.0)):  # 2/11 and 1/4 of the old one stay
        nn.init.constant_(net.weight, weight)
        ema.update(step)
        assert ema.average[0].item() == pytest.approx(expected, rel=1e-6)


def test_swapping_twice_changes_nothing_and_once_everything_trained():
    net = network()
    net[0].requires_grad_(False)
    before = [p.detach().clone() for p in net.parameters()]
    ema = Ema(net, 0.5)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    live = [p.detach().clone() for p in net.parameters()]
    ema.swap()
    for number, (parameter, old, new) in enumerate(zip(net.parameters(), before, live, strict=True)):
        assert torch.equal(parameter, new if number < 2 else old)
    ema.swap()
    assert all(torch.equal(p, new) for p, new in zip(net.parameters(), live, strict=True))
    ema.update(5)
    assert all(torch.equal(p, new) for p, new in zip(net.parameters(), live, strict=True))
