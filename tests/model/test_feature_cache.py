"""What a frozen front end makes of the clips, kept on the disk: what is learned must not tell whether it was
there.
"""

import errno
import os

import numpy as np
import pytest
import torch
from harness import QUIET, SMALL, losses, run

from asr_exp.data.batch import Batch
from asr_exp.model import feature_cache as features
from asr_exp.model.feature_cache import FeatureCache, FeatureTable, cache_name, open_cache

FRAMES = np.array([3, 5, 2])
CLIP = torch.arange(100, dtype=torch.int16)


def cache(path, budget=1e6) -> FeatureCache:
    return FeatureCache(path / "a.features", FeatureTable(FRAMES, 4), budget)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_what_is_kept_comes_back_to_the_bit(tmp_path, kind):
    made = torch.randn(5, 4).to(kind)
    one = cache(tmp_path)
    assert one.read(1, CLIP) is None
    one.write(1, CLIP, made)
    for other in (one, cache(tmp_path)):  # here, and in another process
        back = other.read(1, CLIP)
        assert back.dtype == kind and torch.equal(back, made)
        assert other.read(0, CLIP) is None and other.read(2, CLIP) is None
    batch = Batch(np.array([1, 2]), torch.stack([CLIP, CLIP]), [100, 100], torch.empty(0), [0, 0])
    known, unknown = one.attach(batch).features
    assert torch.equal(known, made) and unknown is None


def test_other_audio_and_torn_files_are_made_anew(tmp_path):
    one = cache(tmp_path)
    one.write(1, CLIP, torch.ones(5, 4))
    one.write(2, CLIP, torch.ones(2, 4))
    assert one.read(1, CLIP + 1) is None
    path = tmp_path / "a.features"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the last byte is of the last utterance
    path.write_bytes(data)
    assert cache(tmp_path).read(2, CLIP) is None
    path.write_bytes(data[:-1])
    assert cache(tmp_path).read(2, CLIP) is None and cache(tmp_path).read(1, CLIP) is not None


def test_no_more_is_kept_than_there_is_room_for(tmp_path):
    one = cache(tmp_path, budget=100)
    one.write(0, CLIP, torch.ones(3, 4))  # 48 bytes
    one.write(1, CLIP, torch.ones(5, 4))  # 80
    assert one.read(0, CLIP) is not None and one.read(1, CLIP) is None


def test_a_full_disk_is_told_of_once(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    one = cache(tmp_path)
    monkeypatch.setattr(features.os, "pwrite", full)
    for number in (0, 1):
        one.write(number, CLIP, torch.ones(int(FRAMES[number]), 4))
    assert [record.message for record in caplog.records] == [
        "Features of the front end are kept no longer: No space left on device."
    ]
    assert one.read(0, CLIP) is None


def test_the_longest_unused_makes_room(tmp_path):
    def opened(weight: float, budget: float) -> FeatureCache:
        name = cache_name({"w": torch.tensor([weight])}, "", FRAMES * 320)
        return open_cache(tmp_path, name, FeatureTable(FRAMES * 10_000, 4), budget)

    first = opened(1.0, 1e7)
    first.write(0, CLIP, torch.ones(30_000, 4))
    second = opened(2.0, 1e7)
    second.write(0, CLIP, torch.ones(30_000, 4))
    paths = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime)
    for age, path in enumerate(paths):
        os.utime(path, (age, age))
    # the same weights find the same file, and it is used now
    assert len(paths) == 2 and opened(1.0, 1e7).read(0, CLIP) is not None
    opened(3.0, 2.2e6)
    assert len(list(tmp_path.iterdir())) == 2 and opened(1.0, 2.2e6).read(0, CLIP) is not None


GROUP = ["model.config.feat_extract_norm=group", "model.config.conv_bias=false"]


@pytest.mark.parametrize("more", [[], GROUP, ["trainer.precision=bf16"]], ids=["layer", "group", "bf16"])
def test_a_run_does_not_tell_what_the_cache_holds(corpus, tmp_path, more, monkeypatch):
    """Without a cache, filling one, out of one that is whole, and out of one that is torn: the same curve and
    scores.
    """
    short = [
        "model.freeze_front_end=true",
        "trainer.max_steps=9",
        "trainer.eval_every=9",
        "trainer.batch_seconds=20",
        "augment.mask_time_prob=0.2",
        "augment.speed=[]",
    ]
    asked = [*corpus, *SMALL, *short, *QUIET, *more, f"cache_root={tmp_path / 'cache'}"]
    made, found = [], []
    write, read = FeatureCache.write, FeatureCache.read
    monkeypatch.setattr(
        FeatureCache, "write", lambda self, index, *rest: (made.append(index), write(self, index, *rest))
    )
    monkeypatch.setattr(
        FeatureCache,
        "read",
        lambda self, *rest: (found.append((got := read(self, *rest)) is not None), got)[1],
    )

    def curve(name: str, *extra: str) -> tuple:
        made.clear(), found.clear()
        folder = run(*asked, *extra, f"output_root={tmp_path / name}", cwd=tmp_path)
        return losses(folder), (folder / "hypotheses.test.jsonl").read_bytes()

    without = curve("without", "trainer.feature_cache_gb=0")
    assert not found
    assert curve("filling") == without
    assert sorted(made) == list(range(20)) and any(found)  # each once, though batches are made steps ahead
    assert curve("whole") == without
    assert not made and all(found)
    (file,) = (tmp_path / "cache" / "features").iterdir()
    file.write_bytes(file.read_bytes()[:-5000])
    assert curve("torn") == without
    assert 0 < len(set(made)) < 20
    curve("speed", "augment.speed=[0.9,1.1]")  # changes the waveform
    assert not found
