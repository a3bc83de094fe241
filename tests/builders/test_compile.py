"""Where trainer.compile is refused, and what it hands on where it is not."""

from types import SimpleNamespace

import pytest
import torch

from asr_exp.builders import training
from asr_exp.config.compose import compose
from asr_exp.core.errors import UserError
from asr_exp.runs.folder import signature

MODEL = SimpleNamespace(network="the network", blocks=lambda: "its layers")
GPU = torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "checkpointed", "triton", "sentence"),
    [
        ("cpu", False, True, "trainer.compile=true is for a GPU.*leave trainer.compile out"),
        ("cuda", True, True, "nothing where trainer.gradient_checkpointing=true; leave one"),
        ("cuda", False, False, "needs Triton.*leave trainer.compile out"),
    ],
)
def test_compiling_is_refused_where_it_is_of_no_use(monkeypatch, device, checkpointed, triton, sentence):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if triton else None)
    monkeypatch.setattr(training, "compile_blocks", lambda *_: pytest.fail("compiled"))
    with pytest.raises(UserError, match=sentence):
        training._compile(MODEL, torch.device(device), checkpointed)


def test_the_layers_are_compiled_on_a_gpu(monkeypatch):
    compiled = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(training, "compile_blocks", lambda *given: compiled.append(given))
    training._compile(MODEL, GPU, checkpointed=False)
    assert compiled == [("the network", "its layers")]


def test_a_compiled_run_is_another_run():
    assert signature(compose(["trainer.compile=true"])) != signature(compose())
    assert signature(compose(["trainer.compile=false"])) == signature(compose())
