"""The audio store, against soundfile and soxr used directly, and against every kind of file that cannot be
used.
"""

import itertools
import json
import multiprocessing
import os
import time

import datasets
import numpy as np
import pytest
import soundfile
import soxr

from asr_exp.data import audio_shards as shards_module
from asr_exp.data import audio_store as store_module
from asr_exp.data.audio_store import SHARD, open_store, undecoded
from asr_exp.data.corpora.base import FileAudio, TableAudio, Utterance

WRITTEN = [  # suffix, format, subtype, rate, channels
    ("wav", "WAV", "PCM_16", 16000, 1),
    ("wav", "WAV", "PCM_U8", 16000, 1),
    ("wav", "WAV", "PCM_24", 16000, 1),
    ("wav", "WAV", "PCM_32", 16000, 1),
    ("wav", "WAV", "FLOAT", 16000, 1),
    ("wav", "WAV", "DOUBLE", 48000, 1),
    ("wav", "WAV", "PCM_16", 16000, 2),
    ("wav", "WAVEX", "PCM_16", 44100, 6),
    ("wav", "WAV", "ULAW", 8000, 1),
    ("wav", "WAV", "PCM_16", 8000, 1),
    ("wav", "WAV", "PCM_16", 22050, 1),
    ("wav", "WAV", "PCM_16", 48000, 2),
    ("wav", "RF64", "PCM_16", 16000, 1),
    ("flac", "FLAC", "PCM_16", 16000, 1),
    ("flac", "FLAC", "PCM_24", 44100, 2),
    ("mp3", "MP3", "MPEG_LAYER_III", 16000, 1),
    ("mp3", "MP3", "MPEG_LAYER_III", 48000, 2),
    ("mp3", "MP3", "MPEG_LAYER_III", 44100, 1),
    ("ogg", "OGG", "VORBIS", 16000, 1),
    ("ogg", "OGG", "VORBIS", 44100, 2),
    ("opus", "OGG", "OPUS", 16000, 1),
    ("opus", "OGG", "OPUS", 48000, 2),
]


def rows(*paths, **times):
    return [Utterance(f"u{i}", FileAudio(str(path), **times), "text") for i, path in enumerate(paths)]


def write(path, samples, rate=16000, **how):
    soundfile.write(path, samples, rate, **how)
    return path


def sphere(path, samples, claimed=None, rate=16000, channels=1, order="01"):
    """A NIST SPHERE file, written byte by byte."""
    lines = [
        "NIST_1A",
        "   1024",
        f"channel_count -i {channels}",
        f"sample_count -i {len(samples) if claimed is None else claimed}",
        f"sample_rate -i {rate}",
        "sample_n_bytes -i 2",
        f"sample_byte_format -s2 {order}",
        "sample_sig_bits -i 16",
        "sample_coding -s3 pcm",
        "end_head",
    ]
    body = samples.astype("<i2" if order == "01" else ">i2").tobytes()
    path.write_bytes(("\n".join(lines) + "\n").encode().ljust(1024) + body)
    return path


def directly(path, rate=16000, first=0, last=None):
    """What soundfile and soxr make of a file, as float."""
    samples, found = soundfile.read(path, dtype="float64", always_2d=True)
    mono = samples[first:last].mean(axis=1)
    return mono if found == rate else soxr.resample(mono, found, rate)


def forbid(monkeypatch):
    def decode(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(shards_module, "decode", decode)
    monkeypatch.setattr(store_module, "decode", decode)


# ------------------------------------------------------------------------------------------------------------
# formats


@pytest.mark.parametrize(("suffix", "format", "subtype", "rate", "channels"), WRITTEN)
def test_every_format_as_soundfile_and_soxr_give_it(
    tmp_path, cache, tone, suffix, format, subtype, rate, channels
):
    samples = np.stack([tone(0.7, rate, 200.0 * (c + 1)) for c in range(channels)], axis=1)
    path = write(tmp_path / f"a.{suffix}", samples, rate, format=format, subtype=subtype)
    store = open_store(rows(path), cache)
    assert not store.reasons and store[0].dtype == np.int16
    expected = directly(path)
    assert len(store[0]) == store.lengths[0] == len(expected)
    assert abs(len(expected) - 0.7 * 16000) < 0.1 * 16000  # lossy formats pad
    assert np.abs(store[0] / 32768 - expected).max() < 1.01 / 32768
    assert np.abs(store[0]).max() > 3000


@pytest.mark.parametrize("format", ["WAV", "FLAC", "NIST"])
def test_16_bit_mono_at_the_stores_rate_is_kept_bit_for_bit(tmp_path, cache, format):
    samples = np.random.default_rng(0).integers(-32768, 32768, 20000).astype(np.int16)
    samples[:2] = -32768, 32767
    path = (
        sphere(tmp_path / "a.sph", samples)
        if format == "NIST"
        else write(tmp_path / "a", samples, format=format)
    )
    assert np.array_equal(open_store(rows(path), cache)[0], samples)


def test_floats_beyond_full_scale_are_clipped_not_wrapped(tmp_path, cache):
    path = write(tmp_path / "a.wav", np.array([2.0, -2.0, 0.5, 1.0] * 500, dtype=np.float32), subtype="FLOAT")
    assert open_store(rows(path), cache)[0][:4].tolist() == [32767, -32768, 16384, 32767]


@pytest.mark.parametrize("order", ["01", "10"])
def test_sphere_of_two_channels_in_either_byte_order(tmp_path, cache, order):
    left, right = np.arange(0, 8000, 2, dtype=np.int16), np.arange(8000, 0, -2, dtype=np.int16)
    path = sphere(tmp_path / "a.wav", np.stack([left, right], axis=1), order=order, channels=2)
    assert open_store(rows(path), cache)[0].tolist() == [4000] * 4000


def test_timits_own_sphere_files(cache, shared_data):
    paths = sorted(p for p in shared_data("TIMIT").rglob("*") if p.suffix.lower() == ".wav")[:5]
    assert paths
    store = open_store(rows(*paths), cache)
    for number, path in enumerate(paths):
        head = path.read_bytes()[:1024]
        assert head.startswith(b"NIST_1A")
        assert np.array_equal(store[number], np.frombuffer(path.read_bytes()[1024:], dtype="<i2"))


def test_another_rate_is_another_store(tmp_path, cache, tone):
    path = write(tmp_path / "a.wav", tone(1))
    assert len(open_store(rows(path), cache)[0]) == 16000
    assert len(open_store(rows(path), cache, rate=8000)[0]) == 8000


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_segment_is_that_part_of_the_file(tmp_path, cache, tone, rate):
    path = write(tmp_path / "a.wav", tone(2, rate), rate)
    # an end a little late is the file's
    parts = [(0.5, 1.25), (None, 0.5), (1.5, None), (0.0, 2.05), (0.5, 0.75)]
    store = open_store([Utterance(str(p), FileAudio(str(path), *p), "") for p in parts], cache)
    assert not store.reasons
    for number, (start, end) in enumerate(parts):
        expected = directly(
            path, 16000, round((start or 0) * rate), None if end is None else round(end * rate)
        )
        assert len(store[number]) == len(expected)
        assert np.abs(store[number] / 32768 - expected).max() < 1.01 / 32768


def test_rows_of_a_hub_table(tmp_path, cache, tone):
    write(tmp_path / "a.wav", tone(0.5))
    write(tmp_path / "b.flac", tone(0.25, 8000), 8000)
    cells = [
        {"bytes": (tmp_path / "a.wav").read_bytes(), "path": None},
        {"bytes": None, "path": str(tmp_path / "b.flac")},
        {"bytes": b"junk", "path": None},
        {"bytes": None, "path": None},
        None,
    ]
    cell = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    table = datasets.Dataset.from_dict({"audio": cells}, features=datasets.Features({"audio": cell}))
    table = table.cast_column("audio", datasets.Audio(decode=False))
    utterances = [Utterance(str(i), TableAudio(table, i), "") for i in range(5)]
    store = open_store([*utterances, Utterance("part", TableAudio(table, 0, start=0.1, end=0.3), "")], cache)
    assert store.lengths.tolist() == [8000, 4000, 0, 0, 0, 3200] and sorted(store.reasons) == [2, 3, 4]
    assert np.abs(store[0] / 32768 - directly(tmp_path / "a.wav")).max() < 1.01 / 32768
    assert np.array_equal(store[5], store[0][1600:4800])
    part = [Utterance("part", TableAudio(table, 0, start=start, end=0.3), "") for start in (0.0, 0.2)]
    assert [open_store([one], cache).lengths[0] for one in part] == [4800, 1600]


# ------------------------------------------------------------------------------------------------------------
# what cannot be used


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def broken(folder, tone):
    """{kind: (audio, words its reason must have)}"""
    good = write(folder / "whole.wav", tone(2))
    (folder / "folder.wav").mkdir()
    (folder / "empty.wav").write_bytes(b"")
    (folder / "junk.wav").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "junk.mp3").write_bytes(b"<html>404 not found</html>" * 100)
    (folder / "head.wav").write_bytes(good.read_bytes()[:20])
    samples = (tone(2) * 32767).astype(np.int16)
    nan = tone(1)
    nan[100] = np.nan
    stereo = np.stack([tone(1), tone(1)], axis=1)
    stereo[5, 1] = np.inf
    files = {
        "missing": (folder / "none.wav", "no such file"),
        "missing folder": (folder / "none" / "a.wav", "no such file"),
        "folder": (folder / "folder.wav", "unreadable"),
        "empty file": (folder / "empty.wav", "unreadable"),
        "junk": (folder / "junk.wav", "unreadable"),
        "web page": (folder / "junk.mp3", "unreadable"),
        "half a header": (folder / "head.wav", "unreadable"),
        "truncated wav": (cut(write(folder / "cut.wav", tone(2)), 0.6), "truncated"),
        "wav without its last sample": (
            cut(write(folder / "cut1.wav", tone(2)), 1 - 1.5 / 64044),
            "truncated",
        ),
        "truncated 24-bit stereo wav": (
            cut(write(folder / "cut24.wav", np.stack([tone(2)] * 2, 1), subtype="PCM_24"), 0.6),
            "truncated",
        ),
        "truncated flac": (cut(write(folder / "cut.flac", tone(2)), 0.6), ("truncated", "unreadable")),
        "truncated mp3": (cut(write(folder / "cut.mp3", tone(3)), 0.6), ("truncated", "unreadable")),
        "truncated sphere": (sphere(folder / "cut.sph", samples[:20000], claimed=32000), "truncated"),
        "no samples": (write(folder / "none0.wav", np.zeros(0, dtype=np.int16)), "empty"),
        "no samples in a sphere": (sphere(folder / "none0.sph", samples[:0]), ("empty", "unreadable")),
        "not a number": (write(folder / "nan.wav", nan, subtype="FLOAT"), "not finite"),
        "infinite in one channel": (write(folder / "inf.wav", stereo, subtype="FLOAT"), "not finite"),
    }
    made = {kind: (FileAudio(str(path)), words) for kind, (path, words) in files.items()}
    times = {
        "starts after the file": (2.5, 3.0),
        "ends after the file": (1.0, 2.5),
        "ends before it starts": (1.5, 0.5),
        "starts before 0": (-1.0, 1.0),
        "not a time": (float("nan"), 1.0),
        "no length": (1.0, 1.0),
    }
    return made | {kind: (FileAudio(str(good), *time), ("segment", "NaN")) for kind, time in times.items()}


def test_every_broken_kind_has_its_reason_and_harms_no_other(tmp_path, cache, tone, monkeypatch):
    kinds = broken(tmp_path, tone)
    good = [write(tmp_path / f"good{i}.wav", tone(0.2 + i / 50)) for i in range(len(kinds) + 1)]
    utterances = rows(good[0])
    for (audio, _), path in zip(kinds.values(), good[1:], strict=True):
        utterances += [Utterance("broken", audio, ""), *rows(path)]
    for _ in range(2):  # decoded, then found again
        store = open_store(utterances, cache)
        for number, (kind, (_, words)) in enumerate(kinds.items()):
            reason, words = store.reasons.pop(2 * number + 1), [words] if isinstance(words, str) else words
            assert any(word in reason for word in words), f"{kind}: {reason}"
            assert "\n" not in reason and store.lengths[2 * number + 1] == 0 == len(store[2 * number + 1]), (
                kind
            )
        assert not store.reasons
        for number, path in enumerate(good):
            assert np.array_equal(store[2 * number], soundfile.read(path, dtype="int16")[0]), path
        forbid(monkeypatch)


def test_a_shard_of_nothing_but_broken_files(tmp_path, cache):
    store = open_store(rows(tmp_path / "a.wav", tmp_path / "b.wav"), cache)
    assert store.lengths.tolist() == [0, 0] and len(store.reasons) == 2 and len(store[1]) == 0


def test_headers_that_promise_nothing_or_more_than_they_must_are_no_truncation(tmp_path, cache, tone):
    odd = write(tmp_path / "odd.wav", tone(0.5)[1:], subtype="PCM_U8")  # RIFF pads chunks to even sizes
    assert soundfile.info(odd).frames % 2
    stream = write(tmp_path / "stream.wav", tone(0.5))
    data = bytearray(stream.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"  # as a program writes that cannot seek back
    stream.write_bytes(data)
    tagged = write(tmp_path / "tagged.wav", tone(0.5))
    data = tagged.read_bytes() + b"LIST\x08\x00\x00\x00INFOabcd"
    tagged.write_bytes(data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:])
    store = open_store(rows(odd, stream, tagged), cache)
    assert not store.reasons and store.lengths.tolist() == [7999, 8000, 8000]


def test_a_recording_of_hours_is_refused_but_its_segments_are_not(tmp_path, cache):
    path = write(tmp_path / "long.wav", np.zeros(3700 * 100, dtype=np.int16), 100)
    store = open_store([*rows(path), *rows(path, start=10.0, end=20.0)], cache, rate=100)
    assert "3700 s long" in store.reasons[0] and store.lengths.tolist() == [0, 1000]


# ------------------------------------------------------------------------------------------------------------
# the cache


def many(folder, count):
    """Files of `count` different lengths and contents."""
    return [write(folder / f"{i}.wav", np.full(100 + i, i + 1, dtype=np.int16)) for i in range(count)]


def is_right(store, paths):
    return len(store) == len(paths) and all(
        np.array_equal(store[i], np.full(100 + i, i + 1, dtype=np.int16)) for i in range(len(paths))
    )


def test_several_shards_and_any_order_of_access(tmp_path, cache):
    paths = many(tmp_path, 2 * SHARD + 3)
    store = open_store(rows(*paths), cache)
    assert len(list(cache.rglob("*.i16"))) == 3
    assert np.array_equal(store[2 * SHARD + 2], np.full(102 + 2 * SHARD, 2 * SHARD + 3, dtype=np.int16))
    assert is_right(store, paths)


def test_a_second_time_nothing_is_decoded(tmp_path, cache, monkeypatch):
    paths = many(tmp_path, SHARD + 2)
    open_store(rows(*paths), cache)
    forbid(monkeypatch)
    assert is_right(open_store(rows(*paths), cache), paths)


def test_what_would_have_to_be_decoded_is_told(tmp_path, cache):
    utterances = rows(*many(tmp_path, SHARD + 2))
    assert undecoded(utterances, cache, 16000) == list(range(SHARD + 2))
    open_store(utterances[:SHARD], cache)
    assert undecoded(utterances, cache, 16000) == [SHARD, SHARD + 1]
    assert undecoded(utterances[:SHARD], cache, 8000) == list(range(SHARD))
    open_store(utterances, cache)
    assert undecoded(utterances, cache, 16000) == []


def test_only_the_shard_of_a_changed_file_is_decoded_anew(tmp_path, cache, monkeypatch):
    paths = many(tmp_path, SHARD + 2)
    open_store(rows(*paths), cache)
    write(paths[-1], np.full(100 + len(paths) - 1, 99, dtype=np.int16))  # of the same size
    os.utime(paths[-1], ns=(1, 1))
    decoded, decode = [], shards_module.decode
    monkeypatch.setattr(
        shards_module, "decode", lambda audio, rate: decoded.append(audio.path) or decode(audio, rate)
    )
    store = open_store(rows(*paths), cache)
    assert decoded == [str(p) for p in paths[SHARD:]]
    assert (store[len(paths) - 1] == 99).all() and (store[0] == 1).all()


def test_a_file_that_was_missing_is_found_once_it_is_there(tmp_path, cache, tone):
    assert open_store(rows(tmp_path / "a.wav"), cache).reasons
    write(tmp_path / "a.wav", tone(0.1))
    assert open_store(rows(tmp_path / "a.wav"), cache).lengths.tolist() == [1600]


@pytest.mark.parametrize("leftover", ["i16", "i16.new", "json.new"])
def test_killed_before_the_index_was_there_the_shard_is_made_again(tmp_path, cache, leftover):
    paths = many(tmp_path, 5)
    open_store(rows(*paths), cache)
    (index,), (shard,) = cache.rglob("*.json"), cache.rglob("*.i16")
    index.unlink()
    if leftover != "i16":
        shard.unlink()
    shard.with_suffix(f".{leftover}").write_bytes(b"half of it")
    assert is_right(open_store(rows(*paths), cache), paths)
    assert not list(cache.rglob("*.new"))


def test_dying_at_any_file_operation_leaves_no_wrong_shard(tmp_path, cache, monkeypatch):
    class Killed(BaseException):
        pass

    paths = many(tmp_path, 3)
    replace = os.replace
    deaths = 0
    for fatal in itertools.count():
        calls = itertools.count()

        def dying(source, target, fatal=fatal, calls=calls):
            if next(calls) == fatal:
                raise Killed
            replace(source, target)

        folder = cache / str(fatal)
        monkeypatch.setattr(os, "replace", dying)
        try:
            open_store(rows(*paths), folder)
            break
        except Killed:
            deaths += 1
            assert not list(folder.rglob("*.json"))
        finally:
            monkeypatch.setattr(os, "replace", replace)
        assert is_right(open_store(rows(*paths), folder), paths)
    assert deaths == 2


def _open_at_once(paths, cache, go, decoded, results):
    decode = shards_module.decode

    def counted(audio, rate):
        with decoded.get_lock():
            decoded.value += 1
        time.sleep(0.002)
        return decode(audio, rate)

    shards_module.decode = counted
    go.wait()
    results.put(is_right(open_store(rows(*paths), cache), paths))


def test_two_processes_at_once_share_the_work_and_get_the_same_store(tmp_path, cache):
    paths = many(tmp_path, SHARD + 20)
    context = multiprocessing.get_context("fork")
    go = context.Barrier(2)
    decoded = context.Value("i", 0)
    results = context.Queue()
    workers = [
        context.Process(target=_open_at_once, args=(paths, cache, go, decoded, results)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=60) for _ in workers] == [True, True]
    for worker in workers:
        worker.join(60)
    assert decoded.value == len(paths)  # each clip by one of them
    assert is_right(open_store(rows(*paths), cache), paths)


def test_the_index_says_what_the_shard_holds(tmp_path, cache):
    open_store(rows(*many(tmp_path, 4), tmp_path / "none.wav"), cache)
    (path,) = cache.rglob("*.json")
    expected = {
        "lengths": [100, 101, 102, 103, 0],
        "reasons": {"4": "no such file"},
        "late": {},
        "silent": [],
    }
    index = json.loads(path.read_text())
    assert {name: index[name] for name in expected} == expected
