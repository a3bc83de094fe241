"""The emissions that are kept of a checkpoint: what they are kept under, what comes back, and the room that
they may take.
"""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from asr_exp.evaluation.emission_cache import EmissionCache, checkpoint_hash, plan_passes
from asr_exp.model.recogniser import Emissions

PASSES = ((2, 0), (1,))
CPU = torch.device("cpu")


def cache_of(
    run, checkpoint="weights", name="dev", audio="audio", padding="exact", passes=PASSES, precision="fp32"
):
    split = SimpleNamespace(name=name, audio_hash=audio)
    return EmissionCache(run, checkpoint, split, padding, [np.array(one) for one in passes], precision)


def test_all_that_emissions_depend_on_is_in_the_name_of_their_folder(tmp_path):
    others = [
        {"checkpoint": "other"},
        {"name": "test"},
        {"audio": "other"},
        {"padding": "hf_compat"},
        {"precision": "bf16"},
        {"passes": ((0, 2), (1,))},
        {"passes": ((2,), (0, 1))},
        {"passes": ((2, 0, 1),)},
    ]
    folders = [cache_of(tmp_path, **settings).folder for settings in ({}, *others)]
    assert len(set(folders)) == len(folders) == 9 and cache_of(tmp_path).folder == folders[0]
    assert folders[0].name == "dev-e1b2bbe1a9442182"  # where earlier versions have kept it


def test_a_pass_comes_back_as_it_was(tmp_path):
    cache = cache_of(tmp_path)
    logits = torch.randn(2, 7, 5)
    assert not cache.has(0) and not cache.complete
    cache.write(0, np.array([2, 0]), Emissions(logits, [7, 4]))
    assert cache.has(0) and not cache.has(1) and not cache.complete
    indices, found = cache_of(tmp_path).read(0)
    assert indices.tolist() == [2, 0] and found.frames == [7, 4]
    assert torch.equal(found.logits[0], logits[0]) and torch.equal(found.logits[1, :4], logits[1, :4])
    cache.write(1, np.array([1]), Emissions(logits[:1], [3]))
    assert cache.complete


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[:-9],
        lambda data: b"",
        lambda data: data[:-30] + bytes([data[-30] ^ 64]) + data[-29:],
        lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
        lambda data: data.replace(b'"F32"', b'"I32"'),
        lambda data: data.replace(b"crc32", b"crc_2"),
    ],
    ids=["cut", "empty", "a bit flipped", "half zeroed", "of another type", "without a checksum"],
)
def test_a_damaged_pass_is_no_longer_there(tmp_path, caplog, harm):
    emissions = Emissions(torch.randn(2, 7, 5), [7, 4])
    cache_of(tmp_path).write(0, np.array([2, 0]), emissions)
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(harm(whole))
    assert file.read_bytes() != whole
    cache = cache_of(tmp_path)
    assert not cache.has(0) and not cache.has(0) and len(caplog.records) == 1
    cache.write(0, np.array([2, 0]), emissions)
    assert cache.has(0) and cache_of(tmp_path).has(0) and file.read_bytes() == whole


def test_the_oldest_of_a_run_make_room_and_no_more_of_them_than_must(tmp_path, monkeypatch):
    """A pass of 100 numbers is 400 bytes, so the two of this split may take 800."""
    for age, name in enumerate(("young", "old", "oldest")):
        folder = tmp_path / "emissions" / name
        folder.mkdir(parents=True)
        (folder / "000000.safetensors").write_bytes(b"x" * 500)
        os.utime(folder, (1000 - age, 1000 - age))
    monkeypatch.setattr("asr_exp.evaluation.emission_cache.ROOM", 1800)
    cache = cache_of(tmp_path)
    cache.write(0, np.array([0]), Emissions(torch.zeros(1, 10, 10), [10]))
    assert {path.name for path in (tmp_path / "emissions").iterdir()} == {"young", "old", cache.folder.name}


@pytest.mark.parametrize(("room", "kept"), [(799, False), (800, True)])
def test_what_would_take_too_much_is_not_kept_at_all(tmp_path, monkeypatch, room, kept):
    monkeypatch.setattr("asr_exp.evaluation.emission_cache.ROOM", room)
    cache = cache_of(tmp_path)
    for number in range(2):
        cache.write(number, np.array([number]), Emissions(torch.zeros(1, 10, 10), [10]))
    assert cache.complete == kept and cache.folder.exists() == kept


def test_a_checkpoint_is_told_from_another_by_all_that_its_emissions_depend_on(tmp_path):
    names = ["model.safetensors", "config.json", "preprocessor_config.json", "processor_config.json"]
    for name in names:
        (tmp_path / name).write_text("{}")
    hashes = [checkpoint_hash(tmp_path)]
    (tmp_path / "README.md").write_text("nothing of it")
    assert checkpoint_hash(tmp_path) == hashes[0]
    for name in names:
        (tmp_path / name).write_text('{"other": true}')
        hashes.append(checkpoint_hash(tmp_path))
    assert len(set(hashes)) == 5


@pytest.mark.parametrize(
    ("device", "seconds", "sizes"),
    [("cpu", 1000.0, [3, 3, 3, 1]), ("cpu", 12.0, [2] * 5), ("cuda", 60.0, [10]), ("cuda", 30.0, [5, 5])],
)
def test_a_pass_on_a_cpu_is_of_twenty_seconds_at_the_most(device, seconds, sizes):
    """Of ten utterances of 5 s, each of which costs 5 * (1 + 5 / 30) = 5.83."""

    class Ten:
        seconds = np.full(10, 5.0)

        def __len__(self):
            return 10

    passes = plan_passes(Ten(), seconds, torch.device(device))
    assert [len(one) for one in passes] == sizes and sorted(np.concatenate(passes)) == list(range(10))
    some = plan_passes(Ten(), seconds, torch.device(device), np.array([7, 3]))
    assert sorted(np.concatenate(some)) == [3, 7]
