"""Checkpoints of the hub, from a stand-in of it: what is fetched, what is not, and the same id without a
network.
"""

import hub_server
import pytest
import soundfile
import torch
from harness import call
from safetensors.torch import load_file, save_file
from test_checkpoint_vocabularies import FIRST, UPPER, checkpoint

from asr_exp.builders.decoder import checkpoint_model
from asr_exp.core.errors import UserError
from asr_exp.model.loading import load_backbone
from asr_exp.model.model_config import ModelSettings
from asr_exp.model.pretrained import source as checkpoint_source
from asr_exp.model.pretrained.source import find_checkpoint
from asr_exp.model.pretrained.vocabulary import read_tokenizer

ID = "lab/reader"


@pytest.fixture
def model(tmp_path):
    """A fine-tuned checkpoint as most are on the hub: a pickle, and weights of other libraries beside it."""
    folder = checkpoint(
        tmp_path / "model", FIRST + UPPER, files={"tokenizer_config.json": {"do_lower_case": True}}
    )
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    for name in ("flax_model.msgpack", "tf_model.h5", "optimizer.pt", "README.md"):
        (folder / name).write_bytes(b"0" * 1000)
    return folder


def heard(name, tmp_path, capsys, tone, *keys):
    soundfile.write(tmp_path / "a.wav", tone(1.0), 16000, subtype="PCM_16")
    call("transcribe", "a.wav", f"run={name}", "trainer.device=cpu", *keys, cwd=tmp_path)
    return capsys.readouterr().out


def test_an_id_is_what_its_folder_is_and_stays_so_without_the_hub(
    hub, model, tmp_path, capsys, tone, monkeypatch
):
    hub.add_model(ID, model)
    text = heard(ID, tmp_path, capsys, tone)
    assert text == heard(model, tmp_path, capsys, tone) and text.strip()
    assert set(hub.fetched(ID)) == {"config.json", "tokenizer_config.json", "vocab.json", "pytorch_model.bin"}
    # nobody is asked to convert it
    assert not [path for method, path in hub.requests if method == "POST" or "discussions" in path]
    hub_server.go_offline(monkeypatch)
    checkpoint_source._commit.cache_clear()
    asked = len(hub.requests)
    assert heard(ID, tmp_path, capsys, tone) == text and len(hub.requests) == asked


def test_a_revision_is_heard_by_every_command(hub, model, tmp_path, capsys, tone):
    hub.add_model(ID, model, revision="v1")
    assert heard(ID, tmp_path, capsys, tone, "model.revision=v1") == heard(model, tmp_path, capsys, tone)
    call("transcribe", "a.wav", f"run={ID}", "model.revision=v2", cwd=tmp_path, status=2)
    assert f"run={ID} cannot be loaded: it has no such revision" in capsys.readouterr().err
    call("export", f"run={ID}", "model.revision=v1", "out=exported", cwd=tmp_path)
    assert (tmp_path / "exported/model.safetensors").is_file()


def test_a_language_model_is_fetched_once(hub, model, monkeypatch):
    (model / "language_model").mkdir()
    for name in ("5gram.arpa", "unigrams.txt", "attrs.json"):
        (model / "language_model" / name).write_text(name)
    hub.add_model(ID, model)
    path = checkpoint_model(find_checkpoint(ID))
    assert path.read_text() == "5gram.arpa" and path.with_name("unigrams.txt").is_file()
    hub_server.go_offline(monkeypatch)
    assert checkpoint_model(find_checkpoint(ID)) == path


def test_the_same_where_the_hub_is_gone(hub, model, tmp_path, monkeypatch):
    hub.add_model(ID, model)
    wanted = load_backbone(ModelSettings(ID), 5, 0)[0].state_dict()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for function in (checkpoint_source._commit, checkpoint_source.hub.offline_where_unreachable):
        function.cache_clear()
    found = load_backbone(ModelSettings(ID), 5, 0)[0].state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted if not name.startswith("lm_head"))


def test_safetensors_shards_and_a_revision(hub, model, tmp_path):
    weights = torch.load(model / "pytorch_model.bin")
    other = checkpoint(tmp_path / "other", FIRST + UPPER)
    halves = [dict(list(load_file(other / "model.safetensors").items())[part::2]) for part in range(2)]
    (other / "model.safetensors").unlink()
    for number, half in enumerate(halves):
        save_file({name: -tensor for name, tensor in half.items()}, other / f"model-{number}.safetensors")
    places = {name: f"model-{number}.safetensors" for number, half in enumerate(halves) for name in half}
    (other / "model.safetensors.index.json").write_text(f'{{"weight_map": {places}}}'.replace("'", '"'))
    hub.add_model(ID, model)
    hub.add_model(ID, other, revision="v2")
    first, second = (
        load_backbone(ModelSettings(ID, revision, keep_head=True), 0, 0)[0].state_dict()
        for revision in (None, "v2")
    )
    assert all(
        torch.equal(first[name], weights[name]) and torch.equal(second[name], -weights[name])
        for name in weights
    )
    assert read_tokenizer(ID, "v2").tokens == FIRST + UPPER


@pytest.mark.parametrize("there", ["flax_model.msgpack", "wav2vec_small.pt"])
def test_a_repository_without_weights_says_what_it_has(hub, model, there):
    (model / "pytorch_model.bin").unlink()
    for name in ("tf_model.h5", "flax_model.msgpack", "optimizer.pt"):
        (model / name).unlink()
    (model / there).write_bytes(b"0")
    if there.endswith(".pt"):
        (model / "config.json").unlink()
    hub.add_model(ID, model)
    with pytest.raises(
        UserError,
        match=rf"model.checkpoint={ID} cannot be loaded: it has no (weights|config.json).*\({there}\)",
    ):
        load_backbone(ModelSettings(ID), 5, 0)


def test_what_can_be_no_id():
    with pytest.raises(
        UserError, match="model.checkpoint=models/of/mine is neither a folder nor an id on the hub"
    ):
        load_backbone(ModelSettings("models/of/mine"), 5, 0)


REFUSALS = {
    "gated": ({"status": 403, "code": "GatedRepo"}, "accept them, and type `hf auth login`"),
    "gated, nobody logged in": (
        {"status": 401, "code": "GatedRepo"},
        "accept them, and type `hf auth login`",
    ),
    "missing": (
        {"status": 401, "code": "RepoNotFound"},
        "there is no folder of that name, and it is not on the hub, or it is private",
    ),
    "missing, without a word": (
        {"status": 404},
        "there is no folder of that name, and it is not on the hub, or it is private",
    ),
    "refused": (
        {"status": 403},
        "the hub refuses (403): it is private, or given to those alone who accept its terms",
    ),
    "no such revision": ({"status": 404, "code": "RevisionNotFound"}, "it has no such revision"),
    "too often": (
        {"status": 429, "headers": {"Retry-After": "7"}},
        "the hub asks to wait (429); try again in 7 s",
    ),
    "overloaded": ({"status": 503}, "the hub answers 503"),
}


@pytest.mark.parametrize("reason", REFUSALS)
@pytest.mark.parametrize("file", [None, "config.json"])
def test_the_hub_s_refusal_is_told_as_what_it_is(hub, hurried, model, tmp_path, capsys, reason, file):
    answer, sentence = REFUSALS[reason]
    hub.add_model(ID, model)
    hub.fail(ID, file=file, **answer)
    call("transcribe", "a.wav", f"run={ID}", "trainer.device=cpu", cwd=tmp_path, status=2)
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"error: run={ID} cannot be loaded: ") and sentence in told


@pytest.mark.parametrize("answer", [{"status": 404}, {"status": 404, "code": "EntryNotFound"}])
def test_a_file_that_is_not_there_is_not_missed(hub, hurried, model, answer):
    """Whichever way the hub says so."""
    for name in ("model.safetensors", "preprocessor_config.json", "processor_config.json"):
        hub.fail(ID, file=name, **answer)
    hub.add_model(ID, model)
    assert load_backbone(ModelSettings(ID), 5, 0)


@pytest.mark.parametrize("trouble", ["stall", "break_off"])
def test_a_download_that_does_not_come_to_its_end_is_made_again(hub, hurried, model, trouble):
    hub.add_model(ID, model)
    getattr(hub, trouble)(ID, "pytorch_model.bin")
    with pytest.raises(
        UserError,
        match=f"model.checkpoint={ID} cannot be loaded: the transfer broke off, or nothing more came",
    ):
        load_backbone(ModelSettings(ID), 5, 0)
    hub.heal(ID)
    assert load_backbone(ModelSettings(ID), 5, 0)
