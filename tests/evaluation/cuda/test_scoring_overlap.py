"""Scoring on a GPU: the next pass is launched before the last one is decoded, batches are copied from pinned
memory, and a pass that does not fit is split. On the stand-in, which counts.
"""

import pytest
from fake_cuda import figures, needs_fake_cuda

pytestmark = needs_fake_cuda

SCORE = """
from types import SimpleNamespace
from fake_cuda_probe import NoiseSplit
from asr_exp.core.errors import UserError
from asr_exp.decoding.decoders import make_decoder
from asr_exp.evaluation.evaluate import EvaluationSettings, evaluate

class Utterances(list):
    def text(self, index):
        return "ab" * int(2 * lengths[index])

class Split(NoiseSplit):
    def __init__(self):
        super().__init__(lengths, 32)
        self.utterances = Utterances(SimpleNamespace(id=f"u{i}", speaker=None) for i in range(len(lengths)))
        self.coverage = 1.0
        self.tokenizer = SimpleNamespace(
            unit="character", blank=0, target=str, scored=str, decode=lambda labels: "a" * len(labels),
            encode_many=lambda texts: (np.concatenate([[1, 2] * (len(t) // 2) for t in texts]),
                                       np.array([len(t) for t in texts])),
        )
    def reference(self, index):
        return self.utterances.text(index)

    original_reference = reference

def score(seconds, precision="fp32", before=lambda model: None):
    # -> the order of launches and decoded passes, and what was counted after the first scoring
    order = []
    with started("cuda", "fp32") as runtime:
        setup = build(runtime, "wav2vec2", "layer", "tiny", ["trainer.device=cuda", "trainer.max_steps=1"])
        split, greedy = Split(), make_decoder("greedy", Split().tokenizer, {})
        before(setup.model)
        setup.model.register_forward_pre_hook(lambda *_: order.append("launch"))
        class Decoder:
            def __call__(self, logits, frames):
                order.append("decode")
                assert not logits.is_cuda and logits.is_pinned()
                return greedy(logits, frames)
        settings = EvaluationSettings(seconds, "mean", precision=precision)
        evaluate(setup.model, split, Decoder(), runtime, settings)  # torch's lazy starts are over
        first = len(order)
        with Counts() as counts:
            evaluate(setup.model, split, Decoder(), runtime, settings)
    return {"order": order[first:], **counts.summary()}
"""


@pytest.fixture(scope="module")
def counted():
    """Twelve utterances of 4 s in passes of 10 s: two in each."""
    return figures(
        f"{SCORE}\nlengths = [4.0] * 12\n"
        "result = {kind: score(10, kind) for kind in ('fp32', 'tf32', 'bf16', 'fp16')}"
    )


def test_a_pass_is_launched_before_the_last_one_is_decoded(counted):
    order = counted["fp32"]["order"]
    assert order == ["launch", "launch", *["decode", "launch"] * 4, "decode", "decode"]


def test_batches_and_results_go_through_pinned_memory(counted):
    """What is left in pageable memory are a few integers, an utterance each."""
    copies = counted["fp32"]["copies"]
    frames = 12 * 199  # of 4 s
    assert copies["COPY H2D pinned"][1] >= 12 * 4 * 16_000 * 2
    assert copies["COPY D2H pinned"][1] >= frames * 32 * 4
    assert copies.get("COPY H2D pageable", [0, 0])[1] < 12 * 100
    assert copies.get("COPY D2H pageable", [0, 0])[1] < 12 * 1000  # the labels, by F.ctc_loss


def test_the_host_waits_once_a_pass(counted):
    """For its result, when the next pass is on its way. `F.ctc_loss` and the network's lengths have tests of
    their own.
    """
    elsewhere = ("model/loss.py", "model/recogniser.py")
    syncs = {
        where: n for where, n in counted["fp32"]["syncs"].items() if not any(s in where for s in elsewhere)
    }
    assert sum(syncs.values()) == 6 and all("model/forward_passes.py" in where for where in syncs), syncs


def test_the_precision_is_that_of_the_products(counted):
    assert set(counted["fp32"]["gemm_tflop"]) == set(counted["tf32"]["gemm_tflop"]) == {"fp32"}
    for kind in ("bf16", "fp16"):
        flops = counted[kind]["gemm_tflop"]
        assert flops[kind] > 10 * flops.get("fp32", 0.0)


def test_a_pass_that_does_not_fit_is_split_and_an_utterance_that_does_not_is_named():
    """The network refuses more than three utterances, as a GPU would; then those that are longer than 5 s."""
    got = figures(
        SCORE
        + """
from asr_exp.model import forward_passes
sizes = []
def refuse(model, rows, seconds):
    forward = model.forward
    def limited(batch, statistics=None):
        sizes.append(len(batch))
        if len(batch) > rows or max(batch.lengths) > seconds * 16_000:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(batch, statistics)
    model.forward = limited
lengths = [4.0] * 16
score(45, before=lambda model: refuse(model, 3, 99))
half = len(sizes) // 2
result = {"sizes": [sizes[:half], sizes[half:]]}
lengths = [4.0, 4.0, 6.0]
try:
    score(45, before=lambda model: refuse(model, 9, 5))
except UserError as why:
    result["told"] = str(why)
"""
    )
    # Passes of 9 and 7. The 9 and the 4 are refused; from then on 4 and more are split untried.
    assert got["sizes"][0] == [9, 4, 2, 2, 2, 3, 3, 2, 2]
    assert got["told"].startswith("The utterance u2 of train (6.0 s) does not fit in the GPU's memory")
    assert "evaluate.precision=bf16" in got["told"]
