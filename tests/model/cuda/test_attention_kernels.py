"""Which kernels compute attention on a CUDA device, how many are launched, and that nothing waits for it.

On the stand-in of fake_cuda.py, which counts kernels and runs none.
"""

from fake_cuda import figures, needs_fake_cuda

pytestmark = needs_fake_cuda
FUNCTIONAL = ("wav2vec2", "hubert", "unispeech", "unispeech-sat")

# One step of a network of two or three layers; a pass holds all of it.
STEPS = """
result = {
    name: measure(family, norm, size, precision, batch_seconds=60, device_seconds=60, steps=1)
    for name, family, norm, size, precision in CASES
}
"""

# Attention alone, forward and backward, of utterances of these frames.
ALONE = """
from asr_exp.model import packed_encoder
from asr_exp.model.layout import Layout

def alone(frames, dtype, head_size, gradient):
    device = torch.device("cuda")
    layout = Layout(frames, 0, torch.zeros(sum(frames), dtype=torch.int64), device)
    packed_encoder.current_layout = lambda: layout
    shape = (1, layout.count + layout.tail, 4, head_size)
    q, k, v = (torch.zeros(shape, dtype=dtype, device=device, requires_grad=gradient) for _ in range(3))
    for _ in range(2):
        with Counts() as counts:
            heads = (x.transpose(1, 2) for x in (q, k, v))
            out, _ = packed_encoder.attend_fused(None, *heads, None, 0.1, 0.25)
            assert out.shape == (*shape[:2], 4 * head_size)
            if gradient:
                out.backward(torch.zeros_like(out))
    return counts.summary() | {"layout": sorted(vars(layout))}

few, many = [700, 650, 320, 7, 5], [300] * 40
"""


def kinds(counts: dict) -> set[str]:
    """The kernels of attention: flash or efficient, forward (F) or backward (B), and the latter's dtype."""
    found = set()
    for name in counts["attention"]:
        if "flash_fwd" in name or "flash_bwd_dq_dk_dv" in name:
            found.add("flash " + ("F" if "fwd" in name else "B"))
        elif "fmha_cutlass" in name:
            kernel = name[name.index("fmha_cutlass") + len("fmha_cutlass") :]
            found.add(f"efficient {kernel[0]} {kernel.split('_')[1]}")
    return found


def test_the_flash_kernel_is_taken_in_half_precision_and_the_efficient_one_in_fp32():
    cases = [
        *((f"{family} bf16", family, "group", "tiny", "bf16") for family in FUNCTIONAL),
        ("fp16", "wav2vec2", "layer", "tiny", "fp16"),
        ("fp32", "hubert", "layer", "tiny", "fp32"),
        ("head size 36", "wav2vec2", "group", "tiny-random", "bf16"),
        ("head size 36 in fp32", "wav2vec2", "group", "tiny-random", "fp32"),
    ]
    found = figures(f"CASES = {cases}{STEPS}")
    assert set(found) == {name for name, *_ in cases}
    for name, counts in found.items():
        fp32 = name.endswith("fp32")
        assert kinds(counts) == ({"efficient F f32", "efficient B f32"} if fp32 else {"flash F", "flash B"})


def test_cards_before_ampere_take_the_efficient_kernel_in_fp16():
    found = figures(f"CASES = {[('fp16', 'wav2vec2', 'group', 'tiny-random', 'fp16')]}{STEPS}", capability=75)
    assert kinds(found["fp16"]) == {"efficient F f16", "efficient B f16"}


def test_attention_waits_for_nothing_and_launches_as_much_for_many_utterances_as_for_few():
    found = figures(
        f"""{ALONE}
result = {{
    f"{{name}} {{size}} {{frames[0]}} {{gradient}}": alone(frames, dtype, size, gradient)
    for name, dtype in (("flash", torch.bfloat16), ("flash", torch.float16), ("efficient", torch.float32))
    for size in (64, 36)
    for frames in (few, many)
    for gradient in (True, False)
}}
"""
    )
    for name, counts in found.items():
        kernel, size, _, gradient = name.split()
        assert {one.split()[0] for one in kinds(counts)} == {kernel}, name
        assert len(kinds(counts)) == (2 if gradient == "True" else 1)
        assert counts["syncs"] == {} and "groups" not in counts["layout"]
        # heads of 36 channels are filled up to 40
        most = {"64 False": 1, "36 False": 8, "64 True": 18, "36 True": 30}[f"{size} {gradient}"]
        assert counts["launches"] <= most, (name, counts)
        assert counts["launches"] == found[name.replace(" 700 ", " 300 ")]["launches"]


def test_where_no_kernel_takes_the_dtype_attention_is_computed_in_groups():
    (counts,) = figures(f"{ALONE}\nresult = [alone(few, torch.float64, 64, True)]")
    assert kinds(counts) == set() and "groups" in counts["layout"] and counts["syncs"] == {}
