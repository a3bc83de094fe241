"""WAV, CAF and FLAC files of programs that did not know how long they would be, sample by sample."""

import struct

import numpy as np
import pytest
import soundfile

from asr_exp.data.audio import read_clip
from asr_exp.data.audio_store import open_store
from asr_exp.data.corpora import FileAudio, Utterance
from asr_exp.data.recordings import InMemory, read_recording

SIZES = {  # of the audio and of the whole, as programs write them that cannot seek back, or are killed
    "sox": (0x7FFFF000, 0x7FFFF024),
    "sox, 24 bits": (0x7FFFEFFE, 0x7FFFF022),
    "killed": (0, 0),
    "killed, with a whole header": (0, 36),
    "killed, of unknown size": (0, 0xFFFFFFFF),
    "ffmpeg": (0xFFFFFFFF, 0xFFFFFFFF),
    "arecord": (0x80000000, 0x80000024),
    "int32": (0x7FFFFFFF, 0x7FFFFFFF),
}
ENCODINGS = {  # tag, bits, and samples to bytes
    "PCM_16": (1, 16, lambda x: x.astype("<i2").tobytes()),
    "PCM_24": (1, 24, lambda x: (x.astype("<i4") << 8).view("u1").reshape(-1, 4)[:, :3].tobytes()),
    "FLOAT": (3, 32, lambda x: (x / 32768).astype("<f4").tobytes()),
    "PCM_U8": (1, 8, lambda x: ((x >> 8) + 128).astype("u1").tobytes()),
}
LIST = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf59.27.100\0"


def noise(count=7001):
    return np.random.default_rng(0).integers(-9000, 9000, count).astype(np.int16)


def wav(data, size, whole, encoding="PCM_16", before=b"", after=b"", magic=b"RIFF", extensible=False):
    tag, bits, _ = ENCODINGS[encoding]
    form = struct.pack(
        "<HHIIHH", 0xFFFE if extensible else tag, 1, 16000, 2000 * bits, bits // 8, bits
    )  # fmt: skip
    if extensible:
        guid = bytes.fromhex("000000001000800000aa00389b71")
        form += struct.pack("<HHIH", 22, bits, 4, tag) + guid
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + before + b"data" + struct.pack("<I", size)
    return magic + struct.pack("<I", whole) + b"WAVE" + chunks + data + after


def read(data, tmp_path, **times):
    """Samples of a file with these bytes and of the bytes themselves, whose header says how many they are."""
    path = tmp_path / "file"
    path.write_bytes(data)
    clips = [
        read_clip(audio, only, 16000)
        for audio in (FileAudio(str(path), **times), InMemory(data, **times))
        for only in (True, False)
    ]
    assert [clip.reason for clip in clips] == [""] * 4
    assert len({clip.frames for clip in clips}) == 1 and np.array_equal(clips[1].samples, clips[3].samples)
    assert clips[0].exact or "FLOAT" in clips[0].format
    return clips[1].samples


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_wav_of_a_size_that_was_never_known(tmp_path, sizes, encoding):
    samples = noise()
    data = ENCODINGS[encoding][2](samples)
    want = read(wav(data, len(data), 36 + len(data), encoding), tmp_path)
    assert len(want) == len(samples)
    for around in (
        {},
        {"before": LIST},
        {"after": LIST},
        {"before": LIST, "after": LIST + LIST},
        {"extensible": True},
    ):
        even = data + bytes(len(data) % 2 * bool(around.get("after")))  # chunks begin at even places
        assert np.array_equal(read(wav(even, *sizes, encoding, **around), tmp_path)[: len(want)], want)
        assert len(read(wav(even, *sizes, encoding, **around), tmp_path)) - len(want) in (
            0,
            len(even) - len(data),
        )
    assert np.array_equal(read(wav(data, *sizes, encoding), tmp_path, start=0.1, end=0.3), want[1600:4800])


@pytest.mark.parametrize("magic", [b"RF64", b"BW64"])
@pytest.mark.parametrize("size", ["right", 0, 2**64 - 1, 2**40])
def test_wav_with_sizes_of_64_bits(tmp_path, magic, size):
    data = noise().tobytes()
    long = len(data) if size == "right" else size
    sizes = b"ds64" + struct.pack("<IQQQI", 28, long, long, long // 2, 0)
    file = wav(data, 0xFFFFFFFF, 0xFFFFFFFF, magic=magic)
    assert np.array_equal(read(file[:12] + sizes + file[12:], tmp_path), noise())


def test_what_is_cut_or_empty_stays_so(tmp_path):
    data = noise().tobytes()
    told = {
        wav(data[:9000], len(data), 36 + len(data)): "truncated: 4500 samples where the header promises 7001",
        wav(data[:-2], len(data), 36 + len(data)): "truncated",
        wav(b"", 0, 36): "empty",
        wav(b"", 0, 36 + len(LIST), after=LIST): "empty",
        wav(b"", 0xFFFFFFFF, 0xFFFFFFFF): "empty",
    }
    for file, reason in told.items():
        (tmp_path / "a.wav").write_bytes(file)
        for audio in (FileAudio(str(tmp_path / "a.wav")), InMemory(file)):
            assert read_clip(audio, True).reason.startswith(reason)
    # what stands behind audio of a known size is none, whatever the size of the whole is
    for whole in (0, 36 + len(data), 5000):
        assert np.array_equal(
            read(wav(data, len(data), whole, after=noise(999).tobytes()), tmp_path), noise()
        )


def test_a_header_that_is_cut_anywhere_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    sizes = b"ds64" + struct.pack("<IQQQI", 28, 14002, 14002, 7001, 0)
    long = wav(b"", 0xFFFFFFFF, 0xFFFFFFFF, magic=b"BW64")
    for head in (wav(b"", 0, 0, before=LIST), long[:12] + sizes + long[12:], ID3 + flac(tmp_path)[0][:60]):
        for count in range(len(head)):
            assert read_clip(InMemory(head[:count])).reason.startswith(("unreadable", "empty"))


def test_a_lazy_store_takes_its_length_from_the_size_of_the_file(tmp_path, cache):
    (tmp_path / "a.wav").write_bytes(wav(noise().tobytes(), *SIZES["sox"]))
    store = open_store([Utterance("a", FileAudio(str(tmp_path / "a.wav")), "")], cache, lazy=True)
    assert store.lengths.tolist() == [7001] and not list(cache.rglob("*.i16"))
    assert np.array_equal(store[0], noise())


def test_caf_of_unknown_length(tmp_path):
    soundfile.write(tmp_path / "a.caf", noise(), 16000, subtype="PCM_16")
    data = (tmp_path / "a.caf").read_bytes()
    at = data.rfind(b"data", 0, len(data) - 2 * len(noise()))
    stream = data[: at + 4] + b"\xff" * 8 + data[at + 12 :]
    for file in (data, stream):
        (tmp_path / "b.caf").write_bytes(file)
        assert np.array_equal(read_recording(tmp_path / "b.caf", 16000), noise())


# ------------------------------------------------------------------------------------------------------------
# FLAC

ID3 = b"ID3\3\0\0\0\0\x07\x76" + bytes(1014)


def flac(tmp_path, channels=1, subtype="PCM_16", count=40_123):
    """(a FLAC file without the number of its samples, the samples)"""
    samples = np.stack([noise(count), noise(count) // 2], 1)[:, :channels]
    soundfile.write(tmp_path / "a.flac", samples, 16000, subtype=subtype)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    assert int.from_bytes(data[21:26], "big") & (2**36 - 1) == count
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data), samples


@pytest.mark.parametrize("before", [b"", ID3, ID3 + ID3], ids=["bare", "tag", "tags"])
@pytest.mark.parametrize(("channels", "subtype"), [(1, "PCM_16"), (2, "PCM_16"), (1, "PCM_24")])
@pytest.mark.parametrize("count", [100, 4096, 40_123, 400_000])
def test_flac_of_unknown_length(tmp_path, before, channels, subtype, count):
    data, samples = flac(tmp_path, channels, subtype, count)
    got = read(before + data + (b"TAG" + bytes(125)) * bool(before), tmp_path)
    want = samples if got.dtype == np.int16 else (samples / 32768).astype(np.float32)
    assert np.array_equal(got.reshape(want.shape[0], -1), want)
    if count > 40_000:
        assert np.array_equal(read(before + data, tmp_path, start=1.1, end=2.3), got[17600:36800])


def test_flac_behind_a_tag(tmp_path):
    flac(tmp_path)
    assert np.array_equal(read(ID3 + (tmp_path / "a.flac").read_bytes(), tmp_path), noise(40_123))


def test_flac_of_unknown_length_that_breaks_off_is_its_whole_frames(tmp_path):
    data, samples = flac(tmp_path)
    got = read(data[: len(data) // 2], tmp_path)
    assert len(got) > 8000 and len(got) % 4096 == 0 and np.array_equal(got, samples[: len(got), 0])


def test_damage_inside_a_flac_of_unknown_length_is_told(tmp_path):
    data = bytearray(flac(tmp_path)[0])
    data[len(data) // 2 : len(data) // 2 + 9] = b"oops, oop"
    clip = read_clip(InMemory(bytes(data)))
    assert clip.reason.startswith(("unreadable", "truncated")) and clip.decode_failure


def test_the_files_of_the_report(shared_cases):
    original = soundfile.read(shared_cases("original.wav"), dtype="int16")[0]
    for name in ("stream_sox.wav", "ff_pipe.flac"):
        assert np.array_equal(read_recording(shared_cases(name), 16000), original)
