"""The stand-in of the hub, against the hub's own client: what it serves arrives, and each refusal is the one
the hub would give.
"""

from pathlib import Path

import huggingface_hub
import pytest
import transformers
from huggingface_hub import errors


@pytest.fixture
def tones(hub, backbone):
    hub.add_model("lab/tones", backbone("wav2vec2-group"))
    return hub


def test_a_model_arrives_as_it_is(tones, backbone):
    folder = backbone("wav2vec2-group")
    network = transformers.AutoModel.from_pretrained("lab/tones")
    expected = transformers.AutoModel.from_pretrained(folder)
    assert all(
        (a == b).all()
        for a, b in zip(network.state_dict().values(), expected.state_dict().values(), strict=True)
    )
    assert {"config.json", "model.safetensors"} <= set(tones.fetched("lab/tones"))
    assert {
        one.path: one.size
        for one in huggingface_hub.HfApi().list_repo_tree("lab/tones")
        if hasattr(one, "size")
    } == {path.name: path.stat().st_size for path in folder.iterdir()}


def test_a_revision_by_name_and_by_commit(hub, tmp_path):
    for name in ("main", "v1"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep/text").write_text(name)
        commit = hub.add_dataset("lab/texts", tmp_path / name, revision=name)
    for revision in ("v1", commit):
        path = huggingface_hub.hf_hub_download(
            "lab/texts", "deep/text", repo_type="dataset", revision=revision
        )
        assert Path(path).read_text() == "v1" and commit in path
    assert hub.fetched("lab/texts") == ["deep/text"]  # the second time from the cache
    files = huggingface_hub.HfFileSystem(endpoint=hub.url)
    (path,) = files.glob("datasets/lab/texts/**/text")
    assert files.read_text(path) == "main"


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ({"status": 403, "code": "GatedRepo"}, errors.GatedRepoError),
        ({"status": 401, "code": "RepoNotFound"}, errors.RepositoryNotFoundError),
        ({"status": 404, "code": "RevisionNotFound"}, errors.RevisionNotFoundError),
        ({"status": 404, "code": "EntryNotFound", "file": "config.json"}, errors.RemoteEntryNotFoundError),
    ],
)
def test_it_refuses_as_told_until_healed(tones, how, kind):
    tones.fail("lab/tones", **how)
    with pytest.raises(kind):
        huggingface_hub.hf_hub_download("lab/tones", "config.json")
    tones.heal("lab/tones")
    assert huggingface_hub.hf_hub_download("lab/tones", "config.json")


def test_what_is_not_there(tones):
    for repository, file, revision, kind in (
        ("lab/none", "config.json", None, errors.RepositoryNotFoundError),
        ("lab/tones", "none.json", None, errors.RemoteEntryNotFoundError),
        ("lab/tones", "config.json", "none", errors.RevisionNotFoundError),
    ):
        with pytest.raises(kind):
            huggingface_hub.hf_hub_download(repository, file, revision=revision)


def test_half_of_a_file(tones, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    for break_it in (tones.stall, tones.break_off):
        break_it("lab/tones", "model.safetensors")
        with pytest.raises(errors.HTTPError):
            huggingface_hub.hf_hub_download("lab/tones", "model.safetensors")
        tones.heal("lab/tones")
    assert huggingface_hub.hf_hub_download("lab/tones", "model.safetensors")
