"""What is replaced in transformers' networks: no more than the table says, and nothing for comparison; and
the context of a pass, which the replaced parts read.
"""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from harness import NAMES
from test_padding import MASKS, batch_of, load
from torch._dynamo.testing import CompileCounterWithBackend

from asr_exp.model import pass_context
from asr_exp.model.dropout import dropout
from asr_exp.model.packed_encoder import FAMILIES
from asr_exp.model.pass_context import PassContext, current_pass, running
from asr_exp.model.recogniser import Recogniser
from asr_exp.model.transformers_patches import (
    PATCHES,
    _relative_positions,
    compile_blocks,
    enable_gradient_checkpointing,
)

ROOT = Path(__file__).parents[2]
PACKED = [name for name in NAMES if name.startswith(FAMILIES)]
METHODS = ("forward", "_mask_hidden_states", "get_rel_pos")


def replaced(model: Recogniser) -> set[str]:
    """The names of all methods that the instances of a network have of their own."""
    modules = {name: module for name, module in model.network.named_modules() if name}
    return {
        f"{name}.{method}" for name, module in modules.items() for method in METHODS if method in vars(module)
    }


def named_by_the_table(model: Recogniser) -> set[str]:
    """The same, as the rows of the table name them."""
    prefix, kind = model.network.base_model_prefix, model.network.config.model_type
    names = {name for name, _ in model.network.named_modules() if name}
    found = set()
    for row in PATCHES:
        place, _, method = row.replaced.rpartition(".")
        if method not in METHODS or not (row.families.startswith("all") or kind in row.families.split(", ")):
            continue
        if place == "network.modules()":
            kept = {name for name, one in model.network.named_modules() if type(one) is torch.nn.Dropout}
        elif kind == "sew-d" and "layers" in place:
            kept = set()
        else:
            pattern = place.replace("backbone", prefix).split(".")
            kept = {
                name
                for name in names
                if len(parts := name.split(".")) == len(pattern)
                and all(want in ("*", part) for want, part in zip(pattern, parts, strict=True))
            }
            assert kept, f"{kind} has no {place}"
        found |= {f"{name}.{method}" for name in kept}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_table_names_all_that_is_replaced(backbone, name):
    model = load(backbone(name), augment={"layerdrop": 0.5})
    assert replaced(model) == named_by_the_table(model)
    config = model.network.config
    assert config.layerdrop == 0.0
    functional = name.startswith(FAMILIES) and not name.startswith("wavlm")
    assert config._attn_implementation == ("asr_exp_packed" if functional else "eager")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_replaced_for_comparison(backbone, name):
    model = load(backbone(name), "transformers", augment={"layerdrop": 0.5})
    assert replaced(model) == set()
    assert not any(module._forward_pre_hooks for module in model.network.modules())
    assert model.network.config._attn_implementation == "eager"
    assert getattr(model.network.config, "layerdrop", 0.5) == 0.5


@pytest.mark.parametrize("frames", [1, 9, 700])
def test_relative_positions_on_a_gpu_are_those_of_transformers(frames, backbone, monkeypatch):
    encoder = load(backbone("sew-d-group"), "transformers").backbone.encoder.encoder
    encoder.position_buckets, encoder.max_relative_positions = 64, 128
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    on_gpu = SimpleNamespace(is_cuda=True, device=torch.device("cpu"), shape=(1, frames, 8))
    expected = encoder.get_rel_pos(torch.zeros(1, frames, 8))
    assert torch.equal(_relative_positions(encoder, lambda *_: None, on_gpu), expected)


def test_every_row_names_tests_that_are_there():
    for row in PATCHES:
        assert row.tests and row.reason
        for test in row.tests:
            file, _, function = test.partition("::")
            assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), test


@pytest.mark.parametrize("name", PACKED)
def test_every_dropout_is_replaced(backbone, name, monkeypatch):
    """Trained on a CPU, a packed network drops nothing by torch's own dropout."""
    drawn = []
    monkeypatch.setattr(
        "asr_exp.model.transformers_patches.dropout", lambda *args: drawn.append(args) or dropout(*args)
    )

    def slow(x, p=0.5, training=True, inplace=False):
        assert not (training and p), "torch's own dropout"
        return x

    model = load(backbone(name), augment={**MASKS, "dropout": 0.1, "layerdrop": 0.0}).train()
    batch = batch_of([0, 1], model)
    monkeypatch.setattr(torch.nn.functional, "dropout", slow)
    model(batch)
    assert len(drawn) > 4 and all(training for *_, training in drawn)


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("where", ["here", "in a thread"])
def test_checkpointed_layers_run_again_in_their_own_pass(backbone, name, where):
    """Also after another pass, and where the backward pass is in a thread, as a GPU's is."""
    gradients = []
    for checkpointed in (False, True):
        model = load(backbone(name), augment={**MASKS, "layerdrop": 0.5}).train()
        if checkpointed:
            enable_gradient_checkpointing(model.network)
        model.drop_layers(0, 2)
        logits = model(batch_of([0, 2, 1], model)).logits
        model.drop_layers(0, 1)
        model(batch_of([4], model))
        backward = threading.Thread(target=logits.square().sum().backward)
        backward.run() if where == "here" else backward.start()
        if where == "in a thread":
            backward.join()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    plain, again = gradients
    assert plain.keys() == again.keys() and len(plain) > 10
    assert all(torch.equal(plain[n], again[n]) for n in plain)


@pytest.mark.parametrize("name", ["wav2vec2-layer", "wavlm-layer", "sew-d-group"])
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_compiled_layers_compute_the_same(backbone, name, backend):
    """In training and in scoring, for batches of several shapes, and without a graph a shape."""
    found = []
    for compiled in (False, True):
        model = load(backbone(name), augment={**MASKS, "layerdrop": 0.5, "dropout": 0.1})
        if compiled:
            torch._dynamo.reset()
            graphs = CompileCounterWithBackend(backend)
            compile_blocks(model.network, model.blocks(), backend=graphs)
        outputs = []
        for step, indices in enumerate(([0, 2, 1], [4, 3], [1, 1, 0, 2])):
            model.train().drop_layers(0, step)
            torch.manual_seed(step)
            logits = model(batch_of(indices, model)).logits
            logits.square().sum().backward()
            with torch.inference_mode():
                outputs += [logits, model.eval()(batch_of(indices, model)).logits]
            if step == 1:
                after_two = graphs.frame_count if compiled else 0
        found.append(outputs + [p.grad for p in model.parameters() if p.grad is not None])
    plain, again = found
    assert len(plain) == len(again) > 10
    for one, other in zip(plain, again, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5 * float(one.abs().max()) + 1e-6)
    assert graphs.frame_count == after_two > 2


def test_masks_of_features_that_transformers_draws_follow_the_seed(backbone):
    model = load(backbone("hubert-layer"), "transformers", augment={**MASKS, "layerdrop": 0.0}).train()
    batch = batch_of([0, 1], model)

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model(batch).logits

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))


# ------------------------------------------------------------------------------------------------------------
# the context of a pass


def test_a_pass_is_over_when_its_forward_is(backbone, monkeypatch):
    model = load(backbone("wav2vec2-layer")).eval()
    model(batch_of([0], model))
    with pytest.raises(RuntimeError, match="run by the Recogniser alone"):
        current_pass()
    with pytest.raises(RuntimeError, match="run by the Recogniser alone"):
        model.network(torch.zeros(1, 16000))
    monkeypatch.setattr(model.backbone.encoder, "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(batch_of([0], model))
    with pytest.raises(RuntimeError, match="run by the Recogniser alone"):
        current_pass()


def test_each_thread_has_its_own_pass(backbone):
    model = load(backbone("wav2vec2-layer"))
    ours, theirs = (PassContext(batch_of([i], model)) for i in (0, 1))
    seen = {}

    def work() -> None:
        seen["before"] = pass_context._current.get(None)
        with running(theirs):
            seen["within"] = current_pass()

    with running(ours):
        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
        assert current_pass() is ours
        with running(theirs):
            assert current_pass() is theirs
        assert current_pass() is ours
    assert seen == {"before": None, "within": theirs}
