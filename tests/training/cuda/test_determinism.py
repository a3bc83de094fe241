"""trainer.deterministic=true on a CUDA device, which the stand-in counts: what torch does not have in a
deterministic form it refuses there too.
"""

import json

import pytest
from fake_cuda import figures, needs_fake_cuda, on_fake_cuda
from harness import FAMILIES, NAMES, SMALL

pytestmark = needs_fake_cuda


@pytest.mark.slow
def test_every_family_makes_a_step_by_deterministic_algorithms():
    """No operator refuses, in bf16 and in fp32, and the attention's own backward is the deterministic one."""
    program = f"""
from asr_exp.runtime.determinism import deterministic

def both(family, norm, precision):
    counts = []
    for enabled in (False, True):
        with deterministic(enabled):
            counts.append(measure(family, norm, "tiny", precision, batch_seconds=30, steps=1))
    return counts

measure("wav2vec2", "group", "tiny", batch_seconds=30, steps=1)  # the first use of the CTC kernels waits
result = [both(*one, "bf16") for one in {FAMILIES}] + [both("wav2vec2", "group", "fp32")]
"""
    for name, (fast, same) in zip([*NAMES, "fp32"], figures(program), strict=True):
        assert same["launches"] > fast["launches"], name
        assert same["launches"] < 1.5 * fast["launches"], name
        assert same["syncs"] == fast["syncs"] == {}, name
        assert same["peak_gib"] < 1.25 * fast["peak_gib"] + 0.05, name


def test_an_operator_without_a_deterministic_form_is_refused_with_the_reason():
    program = """
from asr_exp.core.errors import UserError
from asr_exp.runtime.determinism import deterministic
state = lambda: [torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic]
before, x = state(), torch.zeros(8, device="cuda")
try:
    with deterministic(True):
        inside = state()
        x.put_(torch.zeros(2, dtype=torch.long, device="cuda"), x[:2])
    said = None
except UserError as error:
    said = str(error)
result = [before, inside, state(), said]
"""
    before, inside, after, said = figures(program)
    assert before == after == [False, False]
    assert inside == [True, True]
    assert said.startswith("trainer.deterministic=true: put_ does not have a deterministic implementation")
    assert said.endswith("Type trainer.deterministic=false.")


@pytest.mark.slow
def test_a_run_by_the_command_line(tmp_path):
    """The whole run, scoring too; environment.json says that it was deterministic."""
    on_fake_cuda(
        "-m", "asr_exp", "dataset=demo", *SMALL, "trainer.device=cuda", "trainer.deterministic=true",
        "trainer.max_steps=2", "trainer.eval_every=1", "tracking=none", f"output_root={tmp_path}",
    )  # fmt: skip
    (written,) = tmp_path.rglob("environment.json")
    assert json.loads(written.read_text(encoding="utf-8"))["deterministic"] is True
