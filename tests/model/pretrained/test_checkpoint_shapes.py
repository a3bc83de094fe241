"""Pretrained checkpoints in the shapes in which the world has them: what loads gives every tensor, what
cannot says why in a sentence.
"""

import json
import os
import pickle
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import transformers
from harness import FAMILIES, settings
from safetensors.torch import load_file, save_file
from transformers import initialization

from asr_exp.core.errors import UserError
from asr_exp.model.loading import load_backbone, read_model_info
from asr_exp.model.model_config import ModelSettings

OUTPUTS = 12
KINDS = [*FAMILIES, ("wav2vec2-conformer", "layer")]


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """original(kind, norm, **settings) -> (the folder of a fine-tuned network as save_pretrained leaves it,
    its weights).
    """
    made = {}

    def make(kind="wav2vec2", norm="group", **more):
        key = (kind, norm, repr(more))
        if key not in made:
            torch.manual_seed(len(made))
            config = transformers.AutoConfig.for_model(
                kind, **settings(kind, norm, vocab_size=OUTPUTS, **more)
            )
            network = transformers.AutoModelForCTC.from_config(config)
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
            folder = tmp_path_factory.mktemp(kind)
            network.save_pretrained(folder)
            made[key] = (
                folder,
                {name: tensor.detach().clone() for name, tensor in network.state_dict().items()},
            )
        return made[key]

    return make


@pytest.fixture
def folder(original, tmp_path):
    """A copy of the small wav2vec 2.0 of `original`, to be spoilt."""
    return Path(shutil.copytree(original()[0], tmp_path / "model"))


def rewrite(folder: Path, change, name="pytorch_model.bin", **how):
    """Put what `change` makes of the weights in a file of another kind, in place of model.safetensors."""
    weights = change(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    (
        save_file(weights, folder / name)
        if name.endswith("safetensors")
        else torch.save(weights, folder / name, **how)
    )


def configure(folder: Path, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def loaded(folder, **how):
    network, _ = load_backbone(ModelSettings(str(folder), **how), OUTPUTS, OUTPUTS - 1)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    return network.state_dict()


def same(found, wanted, but=()):
    different = [name for name in wanted if name not in but and not torch.equal(found[name], wanted[name])]
    assert not different and set(found) == set(wanted)


def refusal(folder, **how):
    with pytest.raises(UserError) as caught:
        load_backbone(ModelSettings(str(folder), **how), OUTPUTS, OUTPUTS - 1)
    told = str(caught.value)
    assert (
        "\n" not in told
        and told.endswith((".", "?"))
        and "weights_only=False" not in told
        and "`weights_only`" not in told
    )
    return told


def old_names(weights):
    """As they were before torch 2: weight_g and weight_v."""
    told = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    return {
        next((name.replace(new, old) for new, old in told.items() if new in name), name): w
        for name, w in weights.items()
    }


# ------------------------------------------------------------------------------------------------------------
# what must load


SHAPES = {
    "safetensors": lambda folder: None,
    "safetensors in old names": lambda folder: rewrite(folder, old_names, "model.safetensors"),
    "zip": lambda folder: rewrite(folder, dict),
    "zip in old names": lambda folder: rewrite(folder, old_names),
    "of DataParallel": lambda folder: rewrite(
        folder, lambda weights: {f"module.{name}": w for name, w in weights.items()}
    ),
    "legacy": lambda folder: rewrite(folder, old_names, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("kind", "norm"), KINDS)
def test_every_family_loads_every_tensor(original, tmp_path, kind, norm, shape):
    source, wanted = original(kind, norm)
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    SHAPES[shape](folder)
    same(loaded(folder, keep_head=True), wanted)
    head = {"lm_head.weight", "lm_head.bias"}
    found = loaded(folder)
    same(found, wanted, but=head)
    # new, though as large as the old one
    assert not any(torch.equal(found[name], wanted[name]) for name in head)


@pytest.mark.parametrize("position", ["relative", "rotary"])
def test_both_conformers(original, position):
    source, wanted = original("wav2vec2-conformer", "layer", position_embeddings_type=position)
    same(loaded(source, keep_head=True), wanted)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_fp32(folder, dtype, name):
    rewrite(folder, lambda weights: {key: w.to(dtype) for key, w in weights.items()}, name)
    halved = torch.load(folder / name) if name.endswith(".bin") else load_file(folder / name)
    configure(folder, torch_dtype="float16", dtype=...)
    same(loaded(folder, keep_head=True), {key: w.float() for key, w in halved.items()})


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards(original, folder, ending):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = "model" if ending == "safetensors" else "pytorch_model"
    index = f"{stem}.{ending}.index.json"
    places = {}
    for part in range(3):
        some = dict(list(weights.items())[part::3])
        shard = f"{stem}-{part + 1:05}-of-00003.{ending}"
        save_file(some, folder / shard) if ending == "safetensors" else torch.save(some, folder / shard)
        places |= dict.fromkeys(some, shard)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    same(loaded(folder, keep_head=True), original()[1])
    (folder / f"{stem}-00002-of-00003.{ending}").unlink()
    assert (
        f"1 of the 3 files that {index} names are not there, such as {stem}-00002-of-00003.{ending}"
        in refusal(folder)
    )


def test_safetensors_are_preferred_where_both_are_there(original, folder):
    torch.save({"nonsense": torch.zeros(1)}, folder / "pytorch_model.bin")
    same(loaded(folder, keep_head=True), original()[1])


@pytest.mark.parametrize("prefix", [True, False])
def test_the_head_of_pretraining_and_other_extras_are_left_alone(original, folder, prefix):
    def pretrained(weights):
        inner = {k if prefix else k.removeprefix("wav2vec2."): w for k, w in weights.items()}
        extras = {
            "quantizer.codevectors": torch.zeros(1, 4, 2),
            "project_q.weight": torch.zeros(3, 3),
            "project_hid.bias": torch.zeros(3),
            "classifier.weight": torch.zeros(2, 3),
        }
        return {
            k: w
            for k, w in inner.items()
            if not k.startswith("lm_head") and k != "wav2vec2.masked_spec_embed"
        } | extras

    rewrite(folder, pretrained)
    wanted = original()[1]
    same(
        loaded(folder),
        wanted,
        but=[name for name in wanted if name.startswith("lm_head") or name.endswith("masked_spec_embed")],
    )
    assert "or one without a CTC head (model.head=new)?" in refusal(folder, keep_head=True)


def test_a_mask_embedding_that_is_not_there_is_drawn_whatever_transformers_makes_of_it(folder, monkeypatch):
    rewrite(folder, lambda weights: {k: w for k, w in weights.items() if not k.endswith("masked_spec_embed")})

    def leave(tensor, *_, **__):
        return tensor if getattr(tensor, "_is_hf_initialized", False) else tensor.data.fill_(float("nan"))

    monkeypatch.setattr(initialization, "uniform_", leave)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(loaded(folder)["wav2vec2.masked_spec_embed"])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert min(drawn[0]) >= 0 and max(drawn[0]) <= 1 and drawn[0].std() > 0.1


@pytest.mark.parametrize(("kind", "norm"), KINDS)
def test_retired_keys_and_a_null_vocabulary_in_the_config(original, tmp_path, kind, norm):
    source, wanted = original(kind, norm)
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    configure(
        folder,
        vocab_size=None,
        gradient_checkpointing=True,
        feat_extract_dropout=0.0,
        freeze_feat_extract_train=True,
        apply_spec_augment=True,
        mask_channel_prob=0.1,
        no_mask_channel_overlap=False,
        transformers_version="4.5.0.dev0",
        architectures=["Wav2Vec2ForPreTraining"],
    )
    network, _ = load_backbone(ModelSettings(str(folder), keep_head=True), 0, 0)
    same(network.state_dict(), wanted)
    assert network.config.vocab_size == OUTPUTS
    assert not any(getattr(module, "gradient_checkpointing", False) for module in network.modules())
    same(loaded(folder), wanted, but=("lm_head.weight", "lm_head.bias"))


@pytest.mark.parametrize(
    ("kind", "norm"),
    [("wav2vec2", "group"), ("wav2vec2", "layer"), ("data2vec-audio", "layer"), ("sew", "group")],
)
def test_without_preprocessor_config_the_front_end_says_whether_there_is_a_mask(original, kind, norm):
    source, _ = original(kind, norm)
    for extractor in (
        load_backbone(ModelSettings(str(source)), OUTPUTS, 0)[1],
        read_model_info(source).extractor,
    ):
        assert (
            extractor.return_attention_mask == (norm == "layer")
            and extractor.do_normalize
            and extractor.sampling_rate == 16000
        )


def test_the_feature_extractor_in_the_older_and_the_newer_file(folder):
    for name, content in {
        "preprocessor_config.json": {
            "do_normalize": False,
            "feature_size": 1,
            "sampling_rate": 8000,
            "return_attention_mask": True,
        },
        "processor_config.json": {
            "processor_class": "Wav2Vec2Processor",
            "feature_extractor": {
                "do_normalize": False,
                "feature_extractor_type": "Wav2Vec2FeatureExtractor",
                "sampling_rate": 8000,
                "return_attention_mask": True,
            },
        },
    }.items():
        (folder / name).write_text(json.dumps(content))
        extractor = load_backbone(ModelSettings(str(folder)), OUTPUTS, 0)[1]
        assert (extractor.do_normalize, extractor.sampling_rate, extractor.return_attention_mask) == (
            False,
            8000,
            True,
        )
        (folder / name).unlink()
    # as it was once
    (folder / "processor_config.json").write_text('{"processor_class": "Wav2Vec2Processor"}')
    assert load_backbone(ModelSettings(str(folder)), OUTPUTS, 0)[1].sampling_rate == 16000
    (folder / "preprocessor_config.json").write_text('{"do_norm')
    assert "preprocessor_config.json is not a JSON object" in refusal(folder)


# ------------------------------------------------------------------------------------------------------------
# what must be refused


class Code:
    """What a malicious pickle does when it is opened."""

    def __reduce__(self):
        return os.mkdir, ("opened",)


def cut(folder, name, share):
    path = folder / name
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def without_weights(folder, *others):
    (folder / "model.safetensors").unlink()
    for name in others:
        (folder / name).write_bytes(b"\0" * 64)


def pointer(folder, name="model.safetensors"):
    (folder / name).write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    )


REFUSED = {
    "no weights": (
        without_weights,
        "it has no weights (model.safetensors or pytorch_model.bin); it holds config.json",
    ),
    "flax": (
        lambda f: without_weights(f, "flax_model.msgpack"),
        "it holds weights of Flax (flax_model.msgpack), which",
    ),
    "tensorflow": (
        lambda f: without_weights(f, "tf_model.h5"),
        "it holds weights of TensorFlow (tf_model.h5), which",
    ),
    "peft": (
        lambda f: without_weights(f, "adapter_config.json", "adapter_model.safetensors"),
        "a PEFT adapter (adapter_",
    ),
    "git-lfs": (
        pointer,
        "model.safetensors is a pointer of git-lfs and not the file itself; run `git lfs pull` in",
    ),
    "git-lfs config": (lambda f: pointer(f, "config.json"), "config.json is a pointer of git-lfs"),
    "cut safetensors": (
        lambda f: cut(f, "model.safetensors", 0.6),
        "model.safetensors is cut short or damaged (",
    ),
    "cut header": (
        lambda f: cut(f, "model.safetensors", 0.001),
        "model.safetensors is cut short or damaged (",
    ),
    "empty safetensors": (
        lambda f: cut(f, "model.safetensors", 0),
        "model.safetensors is cut short or damaged (0 bytes",
    ),
    "a page": (
        lambda f: (f / "model.safetensors").write_text("<html>404</html>"),
        "model.safetensors is cut short or damaged (",
    ),
    "cut zip": (
        lambda f: (rewrite(f, dict), cut(f, "pytorch_model.bin", 0.6)),
        "pytorch_model.bin is cut short or damaged (",
    ),
    "stub of zip": (
        lambda f: (rewrite(f, dict), cut(f, "pytorch_model.bin", 0.01)),
        "pytorch_model.bin is cut short or damaged (",
    ),
    "cut legacy": (
        lambda f: (rewrite(f, dict, _use_new_zipfile_serialization=False), cut(f, "pytorch_model.bin", 0.6)),
        "is cut short or damaged (",
    ),
    "empty pickle": (
        lambda f: (rewrite(f, dict), cut(f, "pytorch_model.bin", 0)),
        "pytorch_model.bin is cut short or damaged (0 bytes",
    ),
    "code": (
        lambda f: rewrite(f, lambda w: w | {"x": Code()}),
        "holds more than weights (posix.mkdir), which would run as code",
    ),
    "legacy code": (
        lambda f: rewrite(f, lambda w: w | {"x": Code()}, _use_new_zipfile_serialization=False),
        "than weights (posix.mkdir)",
    ),
    "plain code": (
        lambda f: (without_weights(f), (f / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Code()}))),
        "(posix.mkdir)",
    ),
    "state_dict": (
        lambda f: rewrite(f, lambda w: {"state_dict": w, "epoch": 3}),
        "holds state_dict, epoch, as training scripts save",
    ),
    "a list": (lambda f: rewrite(f, lambda w: list(w.values())), "holds a list, as training scripts"),
    "fairseq weights": (
        lambda f: rewrite(f, lambda w: {"args": Namespace(arch="wav2vec2"), "model": w}),
        "of fairseq (argparse.Names",
    ),
    "fairseq alone": (
        lambda f: (rewrite(f, lambda w: {"model": w}, "wav2vec_small.pt"), (f / "config.json").unlink()),
        "it has no config.json; it holds a checkpoint of fairseq or of a training script (wav2vec_small.pt)",
    ),
    "not finite": (
        lambda f: rewrite(f, lambda w: {k: v * float("nan") for k, v in w.items()}),
        "its weights hold what is no number",
    ),
    "numbered": (lambda f: rewrite(f, lambda w: {3: torch.zeros(1)}), "holds 3, as training scripts save"),
    "quantised": (
        lambda f: configure(f, quantization_config={"load_in_8bit": True}),
        "its weights are quantised (quantization_config)",
    ),
    "no rate": (
        lambda f: (f / "preprocessor_config.json").write_text('{"sampling_rate": 0}'),
        "has the sampling_rate 0, which",
    ),
    "an index that leaves the folder": (
        lambda f: (
            (f / "model.safetensors").unlink(),
            (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b.safetensors"}}'),
        ),
        "does not say which file holds which weight",
    ),
    "no config": (
        lambda f: (f / "config.json").unlink(),
        "it has no config.json; it holds model.safetensors",
    ),
    "broken config": (
        lambda f: cut(f, "config.json", 0.5),
        "config.json is not a JSON object; download it again",
    ),
    "no model_type": (lambda f: configure(f, model_type=...), "its config.json has no model_type"),
    "unknown model_type": (
        lambda f: configure(f, model_type="hubert2"),
        "does not know. Did you mean 'hubert'?",
    ),
    "a value of the wrong kind": (
        lambda f: configure(f, hidden_size="large"),
        "its config.json is not one of a wav2vec2 (",
    ),
    "adapter": (
        lambda f: configure(f, add_adapter=True),
        "shortens its output; add +model.config.add_adapter=false",
    ),
    "another size": (
        lambda f: configure(f, hidden_size=48, num_attention_heads=4),
        "weights of Wav2Vec2ForCTC, such as ",
    ),
}


@pytest.mark.parametrize("shape", REFUSED)
def test_what_cannot_be_loaded_is_named(folder, shape, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spoil, sentence = REFUSED[shape]
    spoil(folder)
    told = refusal(folder)
    assert sentence in told and str(folder) in told
    assert not (tmp_path / "opened").exists()  # nothing of a pickle has run


def test_the_advice_for_an_adapter_works_and_keeps_no_head_that_was_trained_on_it(original, folder):
    configure(folder, add_adapter=True)
    same(loaded(folder, config={"add_adapter": False}), original()[1], but=("lm_head.weight", "lm_head.bias"))
    told = refusal(folder, config={"add_adapter": False}, keep_head=True)
    assert "which cannot be used. Train a new head without the adapter: model.head=new" in told


def test_a_file_and_a_folder_that_is_not_there(tmp_path):
    torch.save({}, tmp_path / "wav2vec_small.pt")
    assert "is a file; give the folder that save_pretrained wrote, or a hub id. A fairseq" in refusal(
        tmp_path / "wav2vec_small.pt"
    )
    assert "is not a folder" in refusal(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "it has no config.json; it is empty" in refusal(tmp_path / "empty")
