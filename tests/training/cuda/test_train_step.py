"""A training step of every family on a CUDA device, which the stand-in counts."""

from fake_cuda import figures, needs_fake_cuda
from harness import FAMILIES, NAMES

pytestmark = needs_fake_cuda


def test_every_family_makes_a_step_from_pinned_batches():
    """Audio comes from pinned memory, so that the copy runs while the device computes."""
    program = f"result = [measure(*one, size='tiny', batch_seconds=60) for one in {FAMILIES}]"
    for name, step in zip(NAMES, figures(program), strict=True):
        copied = step["copies"]["COPY H2D pinned"][1]
        assert copied > 2 * 16_000 * step["audio_seconds"], name
        assert step["copies"].get("COPY H2D pageable", [0, 0])[1] < 1000, name
        assert step["launches"] > 100, name
        assert step["gemm_tflop"]["bf16"] > 10 * step["gemm_tflop"].get("fp32", 0.0), name
