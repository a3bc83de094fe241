"""Two processes with a part of the weights each walk the curve of one; their checkpoints are those of one, to
go on from either way.
"""

import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from harness import Fork, fork, lines, result, run, run_folder, signalled_at, two_forks
from safetensors.torch import load_file
from test_ddp import die_at_step_9_on_rank_1, overrides_of, same_curve
from torch import nn
from torch.distributed.tensor import DTensor

from asr_exp.commands.train import command as train
from asr_exp.runtime.fsdp import gathered, shard, shard_optimizer_state, whole
from asr_exp.training.ema import Ema
from asr_exp.training.gradients import clip_gradients, step_if_finite
from asr_exp.training.optim import make_optimizer

pytestmark = pytest.mark.slow
BESIDES = {
    "wav2vec2-group": ["model.freeze_encoder_steps=3"],  # and an average of the weights
    "wavlm-layer": ["trainer.gradient_checkpointing=true"],  # and checkpoints averaged at the end
    "sew-group": [],  # its utterances go through the encoder one by one
}
STEP = "asr_exp.training.loop.train_step"


@pytest.fixture
def asked(corpus, backbone):
    """asked(name) -> the overrides of a run of that backbone."""
    return lambda name: [*overrides_of(corpus, backbone, name), *BESIDES[name]]


def sharded(*overrides: str, cwd: Path, patch: tuple | None = None) -> list[Fork]:
    return two_forks(*overrides, "trainer.strategy=fsdp", cwd=cwd, patch=patch)


def local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def note_what_is_held(place: Path) -> None:
    """Have a rank write down, at its end, how many weights and moments it holds."""
    fit = train.fit

    def then_note(job, state, hooks):
        fit(job, state, hooks)
        moments = [one[name] for one in job.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
        held = [sum(local(t).numel() for t in tensors) for tensors in (job.model.parameters(), moments)]
        (place / f"held{os.environ['RANK']}.json").write_text(json.dumps(held))

    train.fit = then_note


@pytest.mark.parametrize("name", BESIDES)
def test_two_ranks(alone, asked, tmp_path, name):
    for rank in sharded(*asked(name), cwd=tmp_path, patch=(note_what_is_held, tmp_path)):
        rank.wait()
    one, two = alone(asked(name)), run_folder(tmp_path)
    same_curve(one, two)
    assert two.name == one.name  # the strategy is no part of what is asked
    same_checkpoints(one, two)
    held = [json.loads((tmp_path / f"held{rank}.json").read_text()) for rank in (0, 1)]
    weights = sum(t.numel() for t in load_file(one / "checkpoints/last/model.safetensors").values())
    assert [sum(of_rank) for of_rank in zip(*held, strict=True)] == [weights, 2 * weights]
    assert max(held[0][0], held[1][0]) < 0.6 * weights


def same_checkpoints(one: Path, two: Path) -> None:
    """The same files, names, types and shapes; the same values but for rounding."""
    for place in ("best", "last"):
        first, second = one / "checkpoints" / place, two / "checkpoints" / place
        assert sorted(p.name for p in first.iterdir()) == sorted(p.name for p in second.iterdir())
        assert (first / "config.json").read_bytes() == (second / "config.json").read_bytes()
        assert header(first / "model.safetensors") == header(second / "model.safetensors")
        alike(load_file(first / "model.safetensors"), load_file(second / "model.safetensors"))
    states = [
        torch.load(folder / "checkpoints/last/training_state.pt", weights_only=True) for folder in (one, two)
    ]
    for state in states:
        state["state"].pop("wall_seconds")
    alike(*states)


def header(path: Path) -> bytes:
    whole_file = path.read_bytes()
    return whole_file[: 8 + int.from_bytes(whole_file[:8], "little")]


def alike(one, two) -> None:
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
        return
    assert isinstance(two, type(one)) or isinstance(one, dict) and isinstance(two, dict)
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for name in one:
            alike(one[name], two[name])
    elif isinstance(one, list | tuple):
        for first, second in zip(one, two, strict=True):
            alike(first, second)
    else:
        assert one == (pytest.approx(two, rel=1e-4) if isinstance(one, float) else two)


def test_one_device_is_plain(alone, asked, tmp_path):
    folder, plain = (
        run(*asked("wavlm-layer"), "trainer.strategy=fsdp", cwd=tmp_path),
        alone(asked("wavlm-layer")),
    )
    assert (folder / "metrics.jsonl").read_bytes() == (
        plain / "metrics.jsonl"
    ).read_bytes() and folder.name == plain.name


@pytest.mark.parametrize("name", ["wav2vec2-group", "wavlm-layer"])
def test_each_goes_on_from_the_others_checkpoint(alone, asked, tmp_path, name):
    """Sharded until a rank is killed; one process until it is asked to leave; sharded until both are; two
    whole ranks to the end.
    """
    overrides = asked(name)
    first, second = sharded(*overrides, cwd=tmp_path, patch=(die_at_step_9_on_rank_1,))
    second.wait(status=-9)
    out = first.wait(status=1)
    assert "Traceback" not in out and "the same command goes on" in out
    out = fork(*overrides, cwd=tmp_path, patch=(signalled_at, STEP, signal.SIGTERM, 2), status=143)
    assert "Going on from step 6" in out and "Stopped at step 8 of 12 and saved" in out
    for rank in sharded(*overrides, cwd=tmp_path, patch=(signalled_at, STEP, signal.SIGTERM, 2)):
        out = rank.wait(status=143)
        assert "Traceback" not in out
    assert result(run_folder(tmp_path))["status"] == "stopped"
    for rank in two_forks(*overrides, cwd=tmp_path):
        rank.wait()
    assert "Going on from step 10 of 12" in (run_folder(tmp_path) / "train.log").read_text()
    same_curve(alone(overrides), run_folder(tmp_path))


def test_no_step_at_all(asked, tmp_path):
    for rank in sharded(*asked("wavlm-layer"), "trainer.max_steps=0", cwd=tmp_path):
        rank.wait()
    assert result(run_folder(tmp_path))["train"]["steps"] == 0
    assert [line["step"] for line in lines(run_folder(tmp_path) / "metrics.jsonl")] == [0, 0]


# ------------------------------------------------------------------------------------------------------------
# the parts, beside those of a network that is whole


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 1))


def one_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    full, cut = network(), network()
    shard(cut, [cut[0]], torch.device("cpu"), 2)
    data = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    mine = data[2 * rank : 2 * rank + 2]
    optimizers = [torch.optim.AdamW(net.parameters(), lr=0.1, fused=True) for net in (full, cut)]
    averages = [Ema(net, 0.9) for net in (full, cut)]
    for step in range(1, 4):
        norms = []
        for net, batch, optimizer, ema in zip((full, cut), (data, mine), optimizers, averages, strict=True):
            net(batch).square().sum().backward()
            norms.append(clip_gradients(list(net.parameters()), 0.1))
            step_if_finite(optimizer, norms[-1] * (math.nan if step == 2 else 1.0))
            optimizer.zero_grad()
            ema.update(step)
        torch.testing.assert_close(*norms)
        alike(full.state_dict(), gathered(cut.state_dict(), True))
    alike(optimizers[0].state_dict(), gathered(optimizers[1].state_dict(), True))
    assert gathered(cut.state_dict(), False) == dict.fromkeys(full.state_dict())
    for ema in averages:
        ema.swap()
    alike(full.state_dict(), gathered(cut.state_dict(), True))
    with whole(cut):
        if rank == 0:  # alone: no message passes
            torch.testing.assert_close(cut(data), full(data))
    infinity_on_one_rank(cut, optimizers[1], mine, rank)
    optimizers[1].load_state_dict(shard_optimizer_state(optimizers[0].state_dict(), optimizers[1]))
    alike(optimizers[0].state_dict(), gathered(optimizers[1].state_dict(), True))
    moment = local(optimizers[1].state[cut[0].weight]["exp_avg"])
    assert moment.untyped_storage().nbytes() == 4 * moment.numel() < 4 * 20  # the whole is let go
    Path(folder, f"rank {rank} came through").touch()
    dist.destroy_process_group()


def one_rank_of_sgd(rank, folder):
    """Momentum and weights are those of whole parameters, a gradient that is not finite changes none of them,
    and each goes on from the other's state by kernels of its own.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    full, cut = network(), network()
    shard(cut, [cut[0]], torch.device("cpu"), 2)
    data = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    mine = data[2 * rank : 2 * rank + 2]
    settings = {"name": "sgd", "lr": 0.1, "weight_decay": 0.01, "lr_scale": {}, "momentum": 0.9}
    optimizers = [make_optimizer(net, **settings) for net in (full, cut)]
    for step in range(1, 6):
        for net, batch, optimizer in zip((full, cut), (data, mine), optimizers, strict=True):
            net(batch).square().sum().backward()
            norm = clip_gradients(list(net.parameters()), 0.1)
            step_if_finite(optimizer, norm * (math.nan if step in (2, 5) else 1.0))
            optimizer.zero_grad()
        alike(full.state_dict(), gathered(cut.state_dict(), True))
        saved = [gathered(optimizer.state_dict(), True) for optimizer in optimizers]
        alike(*(state["state"] for state in saved))
        if step == 3:
            for optimizer, state in zip(optimizers, reversed(saved), strict=True):
                optimizer.load_state_dict(shard_optimizer_state(state, optimizer))
    Path(folder, f"rank {rank} came through").touch()
    dist.destroy_process_group()


def one_rank_in_bf16(rank, folder):
    """The block's weights travel in bf16: what autocast computes of whole weights, bit for bit, in forward
    and backward; the sum of the ranks' gradients is one of fp32 numbers.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    full, cut = network(), network()
    shard(cut, [cut[0]], torch.device("cpu"), 2, gathered_as=torch.bfloat16)
    halves = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)).split(2)
    seen = []
    cut[0].register_forward_pre_hook(lambda block, _: seen.append((block.weight.dtype, cut[1].weight.dtype)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        of_each = [full(half) for half in halves]
        mine = cut(halves[rank])
    assert torch.equal(mine, of_each[rank])
    assert seen == [(torch.bfloat16, torch.float32)]
    for out in (*of_each, mine):
        out.float().square().sum().backward()
    for one, other in zip(full.parameters(), cut.parameters(), strict=True):
        assert other.grad.dtype == torch.float32
        torch.testing.assert_close(one.grad, other.grad.full_tensor(), rtol=1e-6, atol=1e-7)
    with whole(cut), torch.no_grad():  # scored in fp32
        for half in halves[: rank + 1]:
            assert torch.equal(cut(half), full(half))
    alike(full.state_dict(), gathered(cut.state_dict(), True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cut(halves[rank]), mine)
    Path(folder, f"rank {rank} came through").touch()
    dist.destroy_process_group()


def infinity_on_one_rank(net, optimizer, batch, rank):
    """The GradScaler of both ranks passes over the step and lowers its scale."""
    scaler, before = torch.amp.GradScaler("cpu", init_scale=4.0), gathered(net.state_dict(), True)
    scaler.scale(net(batch).square().sum()).backward()
    if rank:
        local(net[0].weight.grad)[0, 0] = math.inf
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0
    alike(before, gathered(net.state_dict(), True))
    optimizer.zero_grad()


def fork_ranks(_, rank, folder):
    torch.multiprocessing.start_processes(rank, (folder,), nprocs=2, start_method="fork")


@pytest.mark.parametrize("rank", [one_rank, one_rank_of_sgd, one_rank_in_bf16])
def test_what_is_sharded_is_worth_what_is_whole(tmp_path, rank):
    torch.multiprocessing.spawn(fork_ranks, (rank, str(tmp_path)), nprocs=1)
    assert len(list(tmp_path.glob("rank * came through"))) == 2
