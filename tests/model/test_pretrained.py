"""The backbone that comes with the package: that it is what its card says, and worth starting from."""

import hashlib
import json
import re

import pytest
import torch
import yaml
from harness import QUIET, latest, result, run
from safetensors import safe_open

from asr_exp.config.compose import compose
from asr_exp.config.groups import conf_folder
from asr_exp.core.errors import UserError
from asr_exp.model.loading import load_backbone
from asr_exp.model.model_config import ModelSettings
from asr_exp.model.pretrained.source import BUILTIN
from asr_exp.runs.folder import resolve, signature

TINY = BUILTIN / "tiny"
CARD = (TINY / "README.md").read_text(encoding="utf-8")


def test_plain_transformers_loads_all_of_it():
    from transformers import AutoFeatureExtractor, AutoModel

    encoder, info = AutoModel.from_pretrained(TINY, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values())
    heard = AutoFeatureExtractor.from_pretrained(TINY)(
        [0.1, -0.1] * 8000, sampling_rate=16000, return_tensors="pt"
    )
    with torch.no_grad():
        frames = encoder.eval()(**heard).last_hidden_state
    assert frames.shape == (1, 48, 192) and torch.isfinite(frames).all()  # 20 ms a frame


def test_the_card_says_what_is_there():
    weights = TINY / "model.safetensors"
    with safe_open(weights, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    count = sum(tensor.numel() for tensor in tensors.values())
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16} and not any(
        "lm_head" in name for name in tensors
    )
    assert count < 4e6 and weights.stat().st_size < 8e6
    assert f"{count:,} parameters" in CARD and hashlib.sha256(weights.read_bytes()).hexdigest() in CARD
    assert {path.name for path in TINY.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }


def test_the_recipe_makes_this_network():
    theirs = json.loads((TINY / "config.json").read_text())
    for name, value in compose(["experiment=tiny-voices"]).model.config.items():
        assert name.endswith("dropout") or theirs[name] == value
    commands = re.findall(r"experiment=([\w-]+)", CARD)
    assert commands == ["tiny-voices", "tiny-recordings"]
    for name in commands:
        text = (conf_folder() / "experiment" / f"{name}.yaml").read_text()
        assert f"# python -m asr_exp experiment={name}" in text and yaml.safe_load(text)


def test_no_machine_s_path_is_in_a_signature(tmp_path, monkeypatch):
    asked = compose(["model=tiny"])
    assert resolve(asked)["model"]["checkpoint"] == "builtin:tiny"
    here = signature(asked)
    monkeypatch.chdir(tmp_path)
    assert signature(compose(["model=tiny"])) == here


def test_a_name_that_does_not_come_with_the_package():
    with pytest.raises(
        UserError, match="model.checkpoint=builtin:tinny does not come with asr_exp; there is builtin:tiny"
    ):
        load_backbone(ModelSettings("builtin:tinny"), vocabulary=5, blank=4)


@pytest.mark.slow
def test_it_beats_random_weights_by_far(tmp_path):
    """The same few steps on the demo, whose test voices neither has heard; the settings are each
    model's own.
    """
    pytest.importorskip("espeakng_loader", reason="the demo extra is not installed")
    few = [
        "trainer.max_steps=150",
        "trainer.batch_seconds=12",
        "trainer.eval_every=150",
        "dataset.max_utterances=1500",
        *QUIET,
    ]
    cer = {}
    for model in ("tiny", "tiny-random"):
        (tmp_path / model).mkdir()
        folder = run(*latest([f"model={model}", *few]), cwd=tmp_path / model)
        cer[model] = result(folder)["splits"]["test"]["cer"]
    assert cer["tiny"] < 0.2 and cer["tiny"] < 0.4 * cer["tiny-random"], cer
