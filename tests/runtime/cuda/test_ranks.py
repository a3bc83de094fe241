"""Two ranks by trainer.devices=2, each on a device of its own: which collectives they make, of how many
bytes.
"""

import json
import re

import pytest
from fake_cuda import figures, needs_fake_cuda
from fake_cuda_commands import command
from harness import SMALL, run_folder

pytestmark = [needs_fake_cuda, pytest.mark.slow]

# heads of 16 channels, for which there is a flash kernel
NETWORK = [*SMALL, "model.config.num_attention_heads=2", "model.freeze_front_end=false"]
STEPS = [
    *("trainer.max_steps=3", "trainer.eval_every=3", "trainer.batch_seconds=6", "trainer.device_seconds=100"),
    *("trainer.device=cuda", "tracking=none", "augment.layerdrop=0", "trainer.devices=2"),
]


@pytest.fixture
def two_ranks(corpus, tmp_path):
    """two_ranks(WORD, ...) -> the counts of rank 0 and of rank 1, and the run folder."""

    def run(*words, **options):
        told, counts = command(
            *corpus, *NETWORK, *STEPS, *words, cwd=tmp_path, devices=2, OMP_NUM_THREADS=1, **options
        )
        assert "Done" in told and "Traceback" not in told
        folder = run_folder(tmp_path)
        environment = json.loads((folder / "environment.json").read_text())
        assert environment["devices"] == 2 and environment["gpu"]["devices"] == ["cuda:0", "cuda:1"]
        assert environment["gpu"]["capability"] == ["9.0"] * 2 and environment["gpu"]["nccl"]
        return counts["0"], counts["1"], folder

    return run


def parameters(folder):
    """How many weights the run has."""
    text = (folder / "train.log").read_text()
    return round(float(re.search(r"([\d.]+) M parameters", text)[1]) * 1e6)


def test_ddp_reduces_each_gradient_once_a_step(two_ranks):
    first, second, folder = two_ranks()
    for counts in (first, second):
        assert any("flash" in name for name in counts)
        calls = {name: seen for name, seen in counts.items() if name.startswith("NCCL")}
        assert calls.keys() == {"NCCL all_reduce"}
        # three steps' gradients in fp32, and a few numbers
        assert calls["NCCL all_reduce"][1] / (3 * 4) == pytest.approx(parameters(folder), rel=0.1)


def test_fsdp_by_the_command_line(two_ranks):
    first, second, folder = two_ranks("trainer.strategy=fsdp")
    assert "fsdp" in (folder / "train.log").read_text()
    for counts in (first, second):
        assert any("flash" in name for name in counts)
        # three steps of a pass: each of two blocks and the rest sums its gradients
        calls, size = counts["NCCL reduce_scatter"]
        assert calls == 3 * 3 and size / (3 * 4) == pytest.approx(parameters(folder), rel=0.1)


# One rank of two: nothing is sent, so that the other need not be there.
PASS = """
import torch.distributed as dist
import asr_exp.builders.training as training
from asr_exp.runtime.fsdp import shard
from asr_exp.training.loop import backward

def sent(family, norm, gathered_as):
    with started("cuda", "bf16") as runtime:
        dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=2)
        if gathered_as != "as the run does":
            training.shard = lambda *arguments, **_: shard(*arguments[:4], gathered_as)
        words = ["trainer.strategy=fsdp", "trainer.batch_seconds=20", "trainer.max_steps=2"]
        runtime.world = 2
        setup = build(runtime, family, norm, "tiny", words, freeze_front_end=False)
        runtime.world = 1
        setup.model.train()
        blocks = sum(p.numel() for block in setup.model.blocks() for p in block.parameters())
        (batch, *_) = training_loop._batches(setup, 1)
        with Counts() as counts:
            backward(setup, batch.to(runtime.device), 8)
        training.shard = shard
        return {
            "blocks": blocks,
            "all": sum(p.numel() for p in setup.model.parameters()),
            "gradients": sorted({str(p.grad.dtype) for p in setup.trained if p.grad is not None}),
            **{name[5:]: [count, size] for count, size, _, name in counts.rows if "NCCL" in name},
        }

import asr_exp.training.loop as training_loop
"""
KINDS = [
    *[
        ("wav2vec2", "group"),
        ("wav2vec2", "layer"),
        ("wavlm", "group"),
        ("wavlm", "layer"),
        ("hubert", "layer"),
    ],
    *[("sew", "group"), ("sew-d", "group"), ("data2vec-audio", "layer")],
]


def test_fsdp_gathers_blocks_in_bf16_where_the_run_is_in_bf16():
    """Of every family: a pass gathers twice what it computes with, and sums gradients in fp32."""
    program = "result = [[sent(*kind, None), sent(*kind, 'as the run does')] for kind in {}]"
    measured = figures(f"{PASS}\n{program.format(KINDS)}")
    for kind, (fp32, bf16) in zip(KINDS, measured, strict=True):
        assert fp32["reduce_scatter"] == bf16["reduce_scatter"], kind
        assert fp32["gradients"] == bf16["gradients"] == ["torch.float32"], kind
        assert fp32["all_gather"][0] == bf16["all_gather"][0], kind
        # a block is gathered in the forward and in the backward pass, the last one and the rest once
        saved = fp32["all_gather"][1] - bf16["all_gather"][1]
        assert saved == pytest.approx(2 * 2 * bf16["blocks"], rel=0.35), kind
        assert saved > 0.9 * 2 * bf16["blocks"], kind
