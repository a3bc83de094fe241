"""Two ranks by trainer.devices=2, each on a device of its own: which collectives they make, of how many
bytes.
"""

import json
import re

import pytest
from fake_cuda import needs_fake_cuda
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


def bytes_of_steps(first):
    return {name: size for name, (_, size) in first.items() if name.startswith("NCCL")}


def test_fsdp_gathers_blocks_in_bf16_where_the_run_is_in_bf16(two_ranks, tmp_path):
    """What scoring and the checkpoint gather is in fp32 in both."""
    bf16, _, folder = two_ranks("trainer.strategy=fsdp")
    assert "fsdp" in (folder / "train.log").read_text()
    bytes_of_bf16 = bytes_of_steps(bf16)
    assert bytes_of_bf16["NCCL reduce_scatter"] / (3 * 4) == pytest.approx(parameters(folder), rel=0.1)
    assert any("flash" in name for name in bf16)
