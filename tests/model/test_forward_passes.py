"""Forward passes without gradients: side by side they give what one after the other gives; a pass that does
not fit in memory is split, and its results are those of the whole.
"""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from harness import save_backbone

from asr_exp.core.errors import UserError
from asr_exp.data.batch import Batch
from asr_exp.model.forward_passes import ForwardPasses
from asr_exp.model.loading import load_backbone
from asr_exp.model.model_config import ModelSettings
from asr_exp.model.recogniser import Emissions, Recogniser

CPU = torch.device("cpu")
LENGTHS = [8240, 16000, 5200, 12345, 8560, 9000]


def batch_of(indices) -> Batch:
    rng = np.random.default_rng(1)
    clips = [torch.from_numpy((rng.standard_normal(n) * 3000).astype(np.int16)) for n in LENGTHS]
    audio = torch.nn.utils.rnn.pad_sequence([clips[i] for i in indices], batch_first=True)
    labels = torch.tensor([label for i in indices for label in [i + 1] * (i + 1)])
    return Batch(np.array(indices), audio, [LENGTHS[i] for i in indices], labels, [i + 1 for i in indices])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_backbone("wav2vec2", "layer", tmp_path_factory.mktemp("model"))


def model_of(folder, padding="exact") -> Recogniser:
    torch.manual_seed(7)
    network, extractor = load_backbone(ModelSettings(str(folder)), 8, 0)
    return Recogniser(network, extractor, padding).eval()


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_side_by_side_gives_what_one_after_the_other_gives(folder, two_threads):
    passes = ForwardPasses(model_of(folder), CPU)
    items = [[0, 1], [2], [3, 4], [5], [1, 2]]
    at_work, most = [0], [0]
    forward, lock = passes.model.forward, threading.Lock()

    def counted(*arguments):
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        try:
            return forward(*arguments)
        finally:
            with lock:
                at_work[0] -= 1

    passes.model.forward = counted
    runs = {}
    for at_once in (1, 2):
        most[0] = 0
        runs[at_once] = list(passes.run(items, batch_of, at_once=at_once))
        assert most[0] == at_once
    for one, two in zip(runs[1], runs[2], strict=True):
        assert one.indices.tolist() == two.indices.tolist()
        torch.testing.assert_close(one.emissions.logits, two.emissions.logits, rtol=0, atol=1e-5)


def test_what_is_measured_comes_with_each_pass(folder):
    passes = ForwardPasses(model_of(folder), CPU)
    results = list(
        passes.run([[0, 1], [2]], batch_of, lambda indices, emissions: emissions.logits[:, 0, 0] + indices[0])
    )
    for result in results:
        assert torch.equal(result.measured, result.emissions.logits[:, 0, 0] + result.indices[0])


def test_in_bf16_a_cpu_differs_from_fp32_a_little(folder):
    model, batch = model_of(folder), batch_of([0, 1, 2])
    exact = ForwardPasses(model, CPU).emissions(batch).logits
    close = ForwardPasses(model, CPU, "bf16").emissions(batch).logits
    assert close.dtype == torch.float32
    assert 1e-6 < (exact - close).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("padding", ["exact", "hf_compat"])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_a_pass_that_does_not_fit_is_split_and_gives_the_same(folder, padding, rows):
    """Where the network sees padding, halves are padded as the whole is."""
    model = model_of(folder, padding)
    batch = batch_of(range(6))
    with torch.inference_mode():
        whole = model(batch)
    forward, tried = model.forward, []

    def limited(part, statistics=None):
        tried.append(len(part))
        assert part.labels.tolist() == [i + 1 for i in part.indices for _ in range(i + 1)]
        if len(part) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(part, statistics)

    model.forward = limited
    passes = ForwardPasses(model, CPU)
    split = passes.emissions(batch)
    assert split.frames == whole.frames
    for ours, theirs, n in zip(split.logits, whole.logits, whole.frames, strict=True):
        torch.testing.assert_close(ours[:n], theirs[:n], rtol=0, atol=1e-5)
    tried.clear()
    passes.emissions(batch)
    assert max(tried) <= rows  # what has not fitted is not tried again


def test_an_utterance_that_does_not_fit_by_itself_is_named():
    class TooLarge:
        extractor = SimpleNamespace(sampling_rate=16000)

        def __call__(self, batch, statistics=None):
            if max(batch.lengths) > 15000:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return Emissions(torch.zeros(len(batch), 1, 3), [1] * len(batch))

    passes = ForwardPasses(TooLarge(), CPU, name_of=lambda index: f"u{index}", remedy="less")
    with pytest.raises(UserError, match=r"^u1 \(1\.0 s\) does not fit .* by itself; give less\.$"):
        passes.emissions(batch_of(range(6)))
