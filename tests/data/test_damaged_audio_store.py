"""Shards that are damaged on the disk, in every way that was thought of: what is read is right, or it is
refused.
"""

import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_audio_store import is_right, many, rows

from asr_exp.core.errors import UserError
from asr_exp.data import audio_shards
from asr_exp.data.audio_store import SHARD, open_store, undecoded

COUNT = 40


def shard_of(cache):
    (path,) = cache.rglob("*.i16")
    return path, path.with_suffix(".json")


def edit(path, change):
    """Write what `change` makes of the bytes of a file."""
    path.write_bytes(change(path.read_bytes()))


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flip(data, at=0.5):
    place = int(len(data) * at)
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def longer(index):
    index["lengths"][1] += 4
    index["lengths"][2] -= 4


OF_SAMPLES = {
    "half zeroed": lambda path: edit(path, lambda data: data[: len(data) // 2] + bytes(len(data) // 2)),
    "a page of zeros": lambda path: edit(path, lambda data: bytes(4096) + data[4096:]),
    "all zeros": lambda path: edit(path, lambda data: bytes(len(data))),
    "cut": lambda path: edit(path, lambda data: data[: len(data) // 2]),
    "cut by a byte": lambda path: edit(path, lambda data: data[:-1]),
    "cut by a sample": lambda path: edit(path, lambda data: data[:-2]),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: edit(path, lambda data: data + b"\1\0" * 7),
    "shifted": lambda path: edit(path, lambda data: data[2:] + data[:2]),
    "a bit flipped at the start": lambda path: edit(path, lambda data: flip(data, 0.0)),
    "a bit flipped": lambda path: edit(path, flip),
    "a bit flipped at the end": lambda path: edit(path, lambda data: flip(data, 0.99999)),
    "deleted": lambda path: path.unlink(),
}
OF_INDEX = {
    "torn": lambda path: edit(path, lambda data: data[: len(data) // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: edit(path, lambda data: bytes(len(data))),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe{"),
    "brackets": lambda path: path.write_bytes(b"[" * 100_000),
    "another kind": lambda path: path.write_text("[1, 2]"),
    "null": lambda path: path.write_text("null"),
    "nothing in it": lambda path: path.write_text("{}"),
    "other lengths": lambda path: edit_json(path, longer),
    "a length less": lambda path: edit_json(path, lambda index: index["lengths"].pop()),
    "a negative length": lambda path: edit_json(path, lambda index: index["lengths"].insert(0, -5)),
    "a reason made up": lambda path: edit_json(path, lambda index: index["reasons"].update({"3": "gone"})),
    "silent": lambda path: edit_json(path, lambda index: index["silent"].append(3)),
    "of the older version": lambda path: path.write_text(
        json.dumps({"lengths": [100 + i for i in range(COUNT)], "reasons": {}, "late": {}, "silent": []})
    ),
    "digits flipped": lambda path: edit(path, lambda data: data.replace(b"103", b"102", 1)),
    "deleted": lambda path: path.unlink(),
}
KINDS = [pytest.param(".i16", harm, id=f"samples {kind}") for kind, harm in OF_SAMPLES.items()]
KINDS += [pytest.param(".json", harm, id=f"index {kind}") for kind, harm in OF_INDEX.items()]


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
@pytest.mark.parametrize(("suffix", "harm"), KINDS)
def test_damage_is_mended_from_the_recordings_with_one_line(tmp_path, cache, caplog, suffix, harm, lazy):
    paths = many(tmp_path, COUNT)
    open_store(rows(*paths), cache)
    shard, index = shard_of(cache)
    before = shard.read_bytes(), index.read_bytes()
    harm(shard.with_suffix(suffix))
    with caplog.at_level(logging.WARNING):
        store = open_store(rows(*paths), cache, lazy=lazy)
        assert store.lengths.tolist() == [100 + i for i in range(COUNT)] and not store.reasons
        with store.decoding_in_background():
            give_up = time.monotonic() + 30
            while undecoded(rows(*paths), cache, 16000) and time.monotonic() < give_up:
                time.sleep(0.005)
        assert is_right(store, paths)
        store.read(range(COUNT))
    assert (shard.read_bytes(), index.read_bytes()) == before
    deleted_index = suffix == ".json" and harm is OF_INDEX["deleted"]  # as before the shard was made
    assert ["damaged" in record.message for record in caplog.records] == [True] * (not deleted_index)
    caplog.clear()
    assert is_right(open_store(rows(*paths), cache), paths) and not caplog.records


@pytest.mark.parametrize("harm", OF_SAMPLES.values(), ids=OF_SAMPLES)
def test_damage_under_an_open_store(tmp_path, cache, caplog, harm):
    paths = many(tmp_path, COUNT)
    store = open_store(rows(*paths), cache)
    before = shard_of(cache)[0].read_bytes()
    harm(shard_of(cache)[0])
    assert is_right(store, paths)
    # what is behind the samples is not read, so it does no harm
    assert len(caplog.records) == 1 or shard_of(cache)[0].read_bytes().startswith(before)


def test_a_cache_that_is_deleted_under_an_open_store_is_made_again(tmp_path, cache):
    paths = many(tmp_path, COUNT)
    store = open_store(rows(*paths), cache)
    shutil.rmtree(cache)
    assert is_right(store, paths) and shard_of(cache)[0].exists()


def test_several_threads_that_find_the_same_damage_mend_it_once(tmp_path, cache, caplog):
    paths = many(tmp_path, COUNT)
    store = open_store(rows(*paths), cache, workers=8)
    OF_SAMPLES["half zeroed"](shard_of(cache)[0])
    store._complete[0] = False  # so that the clips are read by threads
    clips = store.read(range(COUNT))
    assert all((clip == i + 1).all() and len(clip) == 100 + i for i, clip in enumerate(clips))
    assert len(caplog.records) == 1


@pytest.mark.parametrize("harm", ["half zeroed", "deleted"])
def test_without_the_recordings_a_damaged_shard_is_refused_in_a_sentence(tmp_path, cache, harm):
    paths = many(tmp_path, COUNT)
    store = open_store(rows(*paths), cache)
    shard, index = shard_of(cache)
    OF_SAMPLES[harm](shard)
    paths[7].unlink()
    with pytest.raises(UserError, match=r"missing or damaged, .*changed or gone"):
        is_right(store, paths)
    assert not list(cache.rglob("*.new")) and index.exists()
    write_other = np.full(2000, 5, dtype=np.int16)
    soundfile.write(paths[7], write_other, 16000)  # another recording in its place
    with pytest.raises(UserError, match=r"missing or damaged, .*changed or gone"):
        is_right(store, paths)
    again = open_store(rows(*paths), cache)  # which is another shard
    assert np.array_equal(again[7], write_other)


def test_a_shard_that_cannot_be_written_again_is_decoded_as_it_is_read(tmp_path, cache, monkeypatch):
    paths = many(tmp_path, COUNT)
    store = open_store(rows(*paths), cache)
    OF_SAMPLES["half zeroed"](shard_of(cache)[0])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert is_right(store, paths)


def test_of_several_shards_the_damaged_one_alone_is_decoded(tmp_path, cache, monkeypatch):
    paths = many(tmp_path, 2 * SHARD + 3)
    store = open_store(rows(*paths), cache)
    OF_SAMPLES["cut"](store.shards[1])
    assert undecoded(rows(*paths), cache, 16000) == list(range(SHARD, 2 * SHARD))
    decoded, decode = [], audio_shards.decode
    monkeypatch.setattr(
        audio_shards, "decode", lambda audio, rate: decoded.append(audio.path) or decode(audio, rate)
    )
    assert is_right(open_store(rows(*paths), cache), paths)
    assert decoded == [str(path) for path in paths[SHARD : 2 * SHARD]]


def _read_all(paths, cache, go, results):
    store = open_store(rows(*paths), cache)
    go.wait()
    if results.empty():
        OF_SAMPLES["half zeroed"](store.shards[0])
    results.put(is_right(store, paths))


def test_several_processes_that_meet_damage_at_once(tmp_path, cache):
    paths = many(tmp_path, SHARD + 20)
    open_store(rows(*paths), cache)
    context = multiprocessing.get_context("fork")
    go, results = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_read_all, args=(paths, cache, go, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=60) for _ in workers] == [True] * 4
    for worker in workers:
        worker.join(60)


MAKER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_audio_store import rows
from asr_exp.data.audio_store import open_store
print("ready", flush=True)
open_store(rows(*sorted(Path(sys.argv[1]).glob("*.wav"), key=lambda path: int(path.stem))), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("after", [0.0, 0.02, 0.05, 0.1])
def test_a_process_that_is_killed_while_it_writes_leaves_nothing_wrong(tmp_path, cache, after):
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    paths = many(recordings, 3 * SHARD)
    command = [sys.executable, "-c", MAKER, recordings, cache, Path(__file__).parent]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as maker:
        assert maker.stdout.readline()
        time.sleep(after)
        maker.send_signal(signal.SIGKILL)
    for path in cache.rglob("*.i16.new"):  # a power cut, too, can leave what was not flushed
        edit(path, lambda data: bytes(len(data)))
    assert is_right(open_store(rows(*paths), cache), paths)
    assert not list(cache.rglob("*.new"))


def test_the_checksums_are_zlibs_and_the_files_are_flushed_before_they_get_their_names(
    tmp_path, cache, monkeypatch
):
    paths = many(tmp_path, 3)
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append("fsync") or fsync(file))
    monkeypatch.setattr(
        os, "replace", lambda source, target: done.append(Path(target).suffix) or replace(source, target)
    )
    open_store(rows(*paths), cache)
    assert done == ["fsync", ".i16", "fsync", ".json"]
    index = json.loads(shard_of(cache)[1].read_text())
    data = [np.full(100 + i, i + 1, dtype="<i2").tobytes() for i in range(3)]
    assert index["sums"] == [zlib.crc32(one) for one in data]
