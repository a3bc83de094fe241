"""A lazy store: it decodes what is asked for, and what it says does not depend on what has been decoded
before.
"""

import time

import numpy as np
import pytest
import soundfile
from harness import QUIET, SMALL, fork, killed_at, lines, make_corpus, result, run_folder
from test_audio_store import WRITTEN, cut, directly, forbid, rows, sphere, write

from asr_exp.data import audio_store as store_module
from asr_exp.data.audio import Clip, read_clip
from asr_exp.data.audio_store import SHARD, SILENT, open_store
from asr_exp.data.corpora.base import FileAudio, Utterance

EXACT = [kind for kind in WRITTEN if kind[1] not in ("MP3", "OGG") and kind[2] not in ("FLOAT", "DOUBLE")]


def damage(path):
    """Overwrite a little of the middle, which no header tells."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4] = b"oops"
    path.write_bytes(data)
    return path


def lazily(utterances, cache, **how):
    return open_store(utterances, cache, lazy=True, **how)


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(-9000, 9000, count).astype(np.int16)


@pytest.fixture
def mixed(tmp_path, tone):
    """Utterances of which four are fit, and the rest turn out not to be: by their headers (2, 5, 8) or later
    (3, 6).
    """
    files = [
        write(tmp_path / "0.flac", tone(2)),
        write(tmp_path / "1.wav", tone(1, 44100), 44100),
        tmp_path / "none.wav",
        damage(write(tmp_path / "3.flac", noise(40000))),
        write(tmp_path / "4.wav", tone(1)),
        cut(write(tmp_path / "5.wav", tone(2)), 0.6),
        write(tmp_path / "6.wav", np.zeros(4800, dtype=np.int16)),
        sphere(tmp_path / "7.sph", noise(5000)),
        cut(write(tmp_path / "8.flac", noise(40000)), 0.5),
    ]
    return rows(*files)


def facts(store):
    return store.lengths.tolist(), store.reasons


def test_lengths_come_from_headers_and_are_those_of_decoding(tmp_path, cache, tone, monkeypatch):
    paths, rng = [], np.random.default_rng(0)
    for n, (suffix, format, subtype, rate, channels) in enumerate(EXACT):
        for seconds in rng.uniform(0.05, 0.9, 3):
            samples = np.stack([tone(seconds, rate)] * channels, axis=1)
            paths.append(
                write(tmp_path / f"{len(paths)}-{n}.{suffix}", samples, rate, format=format, subtype=subtype)
            )
    utterances = [
        *rows(*paths),
        *rows(*paths, start=0.01, end=0.04),
        *rows(sphere(tmp_path / "a.sph", noise(777))),
    ]
    whole = open_store(utterances, cache)
    assert not whole.reasons and len(set(whole.lengths.tolist())) > len(EXACT)
    with monkeypatch.context() as patch:
        forbid(patch)
        store = lazily(utterances, cache / "lazy")
        assert facts(store) == facts(whole) and not list((cache / "lazy").rglob("*.i16"))
    for i in range(len(utterances)):
        assert np.array_equal(store[i], whole[i])
    assert store.refresh_decode_failures() == {}


def test_what_another_process_finds_out_meanwhile_counts(mixed, cache):
    """The shard is made after this store was opened: the first look at an utterance of no use gives nothing,
    as later ones do.
    """
    store = lazily(mixed, cache)
    open_store(mixed, cache)
    assert [len(store[index]) for index in (3, 6)] == [0, 0] and sorted(store.decode_failures) == [3, 6]


def test_soxr_gives_the_length_that_is_foretold():
    import soxr

    rng = np.random.default_rng(0)
    for rate in (8000, 11025, 22050, 24000, 32000, 44100, 48000, 96000):
        for frames in [*range(1, 20), *rng.integers(20, 200_000, 20).tolist()]:
            clip = Clip("", rate, frames)
            assert len(soxr.resample(np.zeros(frames, dtype=np.float32), rate, 16000)) == clip.length(
                16000
            ), (rate, frames)


@pytest.mark.parametrize(
    "kind", [("mp3", "MP3", "MPEG_LAYER_III"), ("ogg", "OGG", "VORBIS"), ("wav", "WAV", "FLOAT")]
)
def test_a_shard_with_a_clip_whose_header_does_not_tell_all_is_decoded_at_once(tmp_path, cache, tone, kind):
    suffix, format, subtype = kind
    odd = write(tmp_path / f"a.{suffix}", tone(0.7), format=format, subtype=subtype)
    assert not read_clip(FileAudio(str(odd)), header_only=True).exact
    plain = write(tmp_path / "b.wav", tone(0.5))
    store = lazily([*rows(*[plain] * SHARD), *rows(plain, odd)], cache)
    assert len(list(cache.rglob("*.i16"))) == 1
    assert store.lengths[SHARD + 1] == len(store[SHARD + 1]) == len(directly(odd))


def test_what_is_wrong_with_a_clip_that_is_decoded_at_once_is_known_at_once(tmp_path, cache, tone):
    """The header of a WAV of floats does not tell all, so a NaN in it is found before anything is planned."""
    samples = tone(0.5)
    samples[100] = np.nan
    odd = write(tmp_path / "nan.wav", samples, subtype="FLOAT")
    plain = write(tmp_path / "plain.wav", tone(0.5))
    for _ in range(2):  # decoded, then found again
        store = lazily(rows(plain, odd), cache)
        assert store.lengths.tolist() == [8000, 0] and store.decode_failures == {}
        assert list(store.reasons) == [1] and "not finite" in store.reasons[1]


def test_what_is_said_does_not_depend_on_what_is_decoded(mixed, cache):
    cold = lazily(mixed, cache)
    before = facts(cold)
    assert (
        list(cold.reasons) == [2, 5, 8]
        and cold.lengths[3] == 40000
        and cold.lengths[6] == 4800
        and cold.decode_failures == {}
    )
    clips = cold.read(range(len(mixed)))
    assert [len(clip) for clip in clips] == [32000, 16000, 0, 0, 16000, 0, 0, 5000, 0]
    assert (
        sorted(cold.decode_failures) == [3, 6]
        and cold.decode_failures[6] == SILENT
        and not list(cache.rglob("*.i16"))
    )
    late = dict(cold.decode_failures)
    with cold.decoding_in_background():
        wait_until(lambda: list(cache.rglob("*.json")))
    assert cold.refresh_decode_failures() == late and facts(cold) == before
    warm = lazily(mixed, cache)
    assert facts(warm) == before and warm.decode_failures == late
    for store in (cold, warm):
        assert all(np.array_equal(a, b) for a, b in zip(store.read(range(len(mixed))), clips, strict=True))


def test_a_store_that_is_not_lazy_knows_all_beforehand(mixed, cache):
    lazy = lazily(mixed, cache)
    with lazy.decoding_in_background():
        wait_until(lambda: list(cache.rglob("*.json")))
    for folder in (cache, cache / "other"):
        store = open_store(mixed, folder)
        assert sorted(store.reasons) == [2, 3, 5, 8] and store.silent == {6} and not store.decode_failures
        assert (
            store.lengths.tolist()
            == [len(store[i]) for i in range(len(mixed))]
            == [32000, 16000, 0, 0, 16000, 0, 4800, 5000, 0]
        )


def test_filling_ends_with_its_context_and_goes_on_another_time(tmp_path, cache, monkeypatch):
    path, count = str(write(tmp_path / "a.wav", noise(1600))), 3 * SHARD
    utterances, decode = (
        [Utterance(f"u{i}", FileAudio(path, start=i / 16000), "") for i in range(count)],
        store_module.decode,
    )
    monkeypatch.setattr(store_module, "decode", lambda *how: time.sleep(0.002) or decode(*how))
    store = lazily(utterances, cache, workers=1)
    with store.decoding_in_background():
        wait_until(lambda: list(cache.rglob("*.json")))
    time.sleep(0.4)  # the shard at hand is brought to its end
    made = len(list(cache.rglob("*.json")))
    assert 1 <= made < 3
    assert np.array_equal(store[count - 1], noise(1600)[count - 1 :])
    with lazily(utterances, cache).decoding_in_background():
        wait_until(lambda: len(list(cache.rglob("*.json"))) == 3)


def wait_until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


# ------------------------------------------------------------------------------------------------------------
# runs

SHORT = [
    *SMALL,
    "trainer.max_epochs=2",
    "trainer.batch_seconds=6",
    "optimizer.lr=3e-3",
    "trainer.log_every=1",
    *QUIET,
]


def spoil(folder):
    """A corpus of tones whose training split holds, besides, a damaged FLAC, silence, and a file that is not
    there.
    """
    overrides = make_corpus(folder)
    damage(write(folder / "bad.flac", noise(30000)))
    soundfile.write(folder / "silent.wav", np.zeros(16000, dtype=np.int16), 16000)
    with (folder / "train.csv").open("a") as file:
        file.write("bad.flac,ba di,s1\nsilent.wav,go lu,s1\nnone.wav,me,s1\n")
    return overrides


@pytest.mark.slow
def test_a_run_is_the_same_whatever_is_decoded_beforehand(tmp_path, cache):
    """From an empty cache, from a full one, and killed in its first epoch with half a cache."""
    overrides, runs = [*spoil(tmp_path / "corpus"), *SHORT], []
    for name in ("cold", "warm", "killed"):
        (tmp_path / name).mkdir()
        runs.append([*overrides, f"cache_root={tmp_path / ('other' if name == 'killed' else 'cache')}"])
    fork(
        *runs[2], cwd=tmp_path / "killed", patch=(killed_at, "asr_exp.training.loop.train_step", 3), status=-9
    )
    told = [
        fork(*run, cwd=tmp_path / name) for run, name in zip(runs, ("cold", "warm", "killed"), strict=True)
    ]
    folders = [run_folder(tmp_path / name) for name in ("cold", "warm", "killed")]
    assert len({(folder / "metrics.jsonl").read_bytes() for folder in folders}) == 1
    assert len({str(result(folder)["splits"]) for folder in folders}) == 1
    for folder, text in zip(folders, told, strict=True):
        assert (
            "bad.flac is left out: unreadable: its audio is damaged" in text
            and "silent.wav is left out: silent" in text
        )
        reasons = {line["id"]: line["reason"] for line in lines(folder / "quarantine.jsonl")}
        assert (
            sorted(reasons) == ["bad.flac", "none.wav", "silent.wav"]
            and reasons["none.wav"] == "no such file"
        )


@pytest.mark.slow
def test_an_utterance_of_no_use_is_no_part_of_the_loss(tmp_path, cache):
    """A step of it and another gives the other's loss, over the utterances that were dealt."""
    folder = tmp_path / "corpus"
    overrides = make_corpus(folder, train=1)
    once = ["trainer.max_steps=1", "trainer.eval_every=1", "augment=none"]
    runs = []
    for name in ("alone", "both"):
        if name == "both":
            soundfile.write(folder / "silent.wav", np.zeros(16000, dtype=np.int16), 16000)
            with (folder / "train.csv").open("a") as file:
                file.write("silent.wav,ba,s1\n")
        (tmp_path / name).mkdir()
        fork(*overrides, *SHORT, *once, cwd=tmp_path / name)
        runs.append(lines(run_folder(tmp_path / name) / "metrics.jsonl")[0]["train/loss"])
    assert runs[1] == pytest.approx(runs[0] / 2, rel=1e-6)


def test_the_utterances_of_a_reader_are_what_is_decoded(tmp_path, cache):
    path = write(tmp_path / "a.wav", noise(3200))
    store = lazily([Utterance("u", FileAudio(str(path), 0.05, 0.1), "text")], cache)
    assert np.array_equal(store[0], noise(3200)[800:1600])
