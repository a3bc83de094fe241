"""MP3s whose first frame does not say how long they are, or says something wrong, against the same frames
behind the Xing header that LAME wrote, and against ffmpeg.
"""

import shutil
import struct
import subprocess

import numpy as np
import pytest
import soundfile

from asr_exp.data import recordings
from asr_exp.data.audio import decode, read_clip
from asr_exp.data.audio_store import open_store
from asr_exp.data.corpora import FileAudio, Utterance
from asr_exp.data.formats import mpeg
from asr_exp.data.recordings import InMemory, read_recording

DELAY = 576 + 529  # samples that LAME and the decoder put before the audio
ID3V2 = b"ID3\4\0\0\0\0\2\1" + bytes(257)
ID3V1 = b"TAG" + b"title".ljust(125, b"\0")
APE = (
    b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0xA0000000) + bytes(8)
    + b"\xff".ljust(32, b"\xfb")
    + b"APETAGEX" + struct.pack("<IIII", 2000, 64, 0, 0x80000000) + bytes(8)
)  # fmt: skip
KINDS = [  # rate, channels, mode, compression
    (44100, 1, "VARIABLE", 0.5),
    (48000, 2, "AVERAGE", 0.9),
    (44100, 2, "CONSTANT", 0.0),
    (16000, 1, "VARIABLE", 0.0),
    (22050, 2, "CONSTANT", 0.3),
    (8000, 1, "VARIABLE", 0.7),
]


def speech(rate, seconds=3.0, order=(0.5, 0.003, 0.1)):
    """Noise of loud and quiet thirds: their frames differ in size, where that is free."""
    count = int(rate * seconds)
    level = np.repeat(order, -(-count // len(order)))[:count]
    return level * np.random.default_rng(0).normal(0, 0.3, count)


def write(path, rate=44100, channels=1, mode="VARIABLE", level=0.5, **how):
    """An MP3 with a Xing header -> its bytes."""
    samples = np.stack([speech(rate, **how), 0.5 * speech(rate, **how)], 1)[:, :channels]
    soundfile.write(path, samples, rate, format="MP3", bitrate_mode=mode, compression_level=level)
    return path.read_bytes()


def frame_bytes(head):
    """The size of a frame of layer III by its header: by the standard's formula, not by our table."""
    (word,) = struct.unpack(">I", head[:4])
    is_version_1, version = word >> 19 & 1, word >> 19 & 3
    steps = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    if not is_version_1:
        steps = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    rate = (44100, 48000, 32000)[word >> 10 & 3] // {3: 1, 2: 2, 0: 4}[version]
    return (144 if is_version_1 else 72) * steps[word >> 12 & 15] * 1000 // rate + (word >> 9 & 1)


def xing_place(data):
    return max(data[:200].find(b"Xing"), data[:200].find(b"Info"))


def frames_of(data):
    """How many frames LAME's header counts."""
    return struct.unpack_from(">I", data, xing_place(data) + 8)[0]


def without_xing(data):
    assert xing_place(data) > 0
    return data[frame_bytes(data) :]


def with_count(data, frames=None, size=None):
    data = bytearray(data)
    place = xing_place(data)
    for offset, value in ((8, frames), (12, size)):
        if value is not None:
            struct.pack_into(">I", data, place + offset, value)
    return bytes(data)


def samples_of(data, tmp_path, suffix="mp3", **times):
    """float32 samples of a file with these bytes, which its header and decoding agree on."""
    path = tmp_path / f"file.{suffix}"
    path.write_bytes(data)
    header, clip = (read_clip(FileAudio(str(path), **times), only) for only in (True, False))
    assert not header.reason and not clip.reason
    assert header.frames == clip.frames == len(clip.samples)
    return clip.samples


def is_same(some, others):
    """Whether samples differ by no more than mpg123's rounding, which depends on where decoding began."""
    limit = 1 if np.asarray(some).dtype == np.int16 else 1e-6
    return len(some) == len(others) and np.abs(some - others).max() <= limit


def per_frame(rate):
    return 1152 if rate >= 32000 else 576


@pytest.mark.parametrize(("rate", "channels", "mode", "level"), KINDS)
@pytest.mark.parametrize("tagged", [False, True], ids=["bare", "tagged"])
def test_without_a_xing_header_all_frames_count(tmp_path, rate, channels, mode, level, tagged):
    data = write(tmp_path / "a.mp3", rate, channels, mode, level)
    whole = soundfile.read(tmp_path / "a.mp3", dtype="float32", always_2d=True)[0]
    bare = without_xing(data)
    got = samples_of(ID3V2 + bare + APE + ID3V1 if tagged else bare, tmp_path)
    assert len(got) == frames_of(data) * per_frame(rate)
    assert is_same(got[DELAY : DELAY + len(whole)], whole)


@pytest.mark.parametrize("order", [(0.001, 0.5), (0.5, 0.001)], ids=["quiet first", "loud first"])
def test_where_libsndfile_guesses_by_a_first_frame_unlike_the_others(tmp_path, order):
    data = write(tmp_path / "a.mp3", 44100, 1, "VARIABLE", 0.0, order=order)
    got = samples_of(without_xing(data), tmp_path)
    assert len(got) == frames_of(data) * 1152
    guess = soundfile.info(tmp_path / "file.mp3").frames
    assert abs(guess - len(got)) > 0.2 * len(got)  # else this tests nothing


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
@pytest.mark.parametrize("between", [b"", ID3V2, bytes(5000)], ids=["", "tag", "zeros"])
def test_joined_files_are_read_to_the_end(tmp_path, first, second, between):
    data = write(tmp_path / "a.mp3", 16000, 1, "VARIABLE", 0.3)
    one = soundfile.read(tmp_path / "a.mp3", dtype="float32")[0]
    pieces = [data if has_xing else without_xing(data) for has_xing in (first, second)]
    got = samples_of(pieces[0] + between + pieces[1], tmp_path)[:, 0]
    delay = 0 if first else DELAY
    # a second file's Xing header is a silent frame to a decoder
    assert len(got) == 576 * (2 * frames_of(data) + second) - (DELAY - delay)
    assert is_same(got[delay : delay + len(one)], one)
    start = 576 * (frames_of(data) + second) + delay
    assert np.abs(got[start : start + len(one)] - one)[2000:].max() < 1e-6


def test_joined_files_of_other_rates_and_channels(tmp_path):
    first = write(tmp_path / "a.mp3", 16000, 1)
    one = soundfile.read(tmp_path / "a.mp3", dtype="float32")[0]
    second = write(tmp_path / "b.mp3", 44100, 2, seconds=1.5)
    got = samples_of(first + without_xing(second), tmp_path)[:, 0]
    assert is_same(got[: len(one)], one)
    assert len(got) - len(one) == round(frames_of(second) * 1152 * 16000 / 44100)
    assert np.abs(got[len(one) + 2000 : len(one) + 4000]).max() > 0.1
    segment = samples_of(first + without_xing(second), tmp_path, start=2.5, end=4.0)
    assert np.allclose(segment[:, 0], got[40000:64000], atol=1e-6)


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize("wrong", [0.5, 0.98, 1.02, 2.0])
def test_a_xing_header_with_a_wrong_count_of_frames(tmp_path, mode, wrong):
    data = write(tmp_path / "a.mp3", 44100, 1, mode, 0.4)
    whole = soundfile.read(tmp_path / "a.mp3", dtype="float32", always_2d=True)[0]
    got = samples_of(with_count(data, int(frames_of(data) * wrong)), tmp_path)
    assert is_same(got, whole)


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_a_file_that_is_cut_is_told_of_by_its_header(tmp_path, mode):
    data = write(tmp_path / "a.mp3", 44100, 1, mode, 0.4)
    path = tmp_path / "cut.mp3"
    path.write_bytes(data[: len(data) * 2 // 3])
    for audio in (FileAudio(str(path)), InMemory(path.read_bytes())):
        for only in (True, False):
            assert "truncated" in read_clip(audio, only).reason
    whole = soundfile.read(tmp_path / "a.mp3", dtype="float32", always_2d=True)[0]
    got = samples_of(path.read_bytes(), tmp_path, start=0.2, end=0.9)
    assert is_same(got, whole[8820:39690])
    assert "truncated" in read_clip(FileAudio(str(path), 2.0, 2.9)).reason


def test_without_a_xing_header_a_cut_file_is_what_is_left(tmp_path):
    data = without_xing(write(tmp_path / "a.mp3", 44100, 1, "CONSTANT", 0.4))
    whole = samples_of(data, tmp_path)
    got = samples_of(data[: len(data) // 2], tmp_path)
    assert len(got) == len(whole) // 2 // 1152 * 1152
    assert np.array_equal(got, whole[: len(got)])


@pytest.mark.parametrize("junk", [600, 3000, 100_000])
def test_junk_before_the_first_frame(tmp_path, junk):
    data = write(tmp_path / "a.mp3", 16000, 1)
    whole = soundfile.read(tmp_path / "a.mp3", dtype="float32", always_2d=True)[0]
    noise = np.random.default_rng(1).bytes(junk)
    assert is_same(samples_of(noise + data, tmp_path), whole)
    bare = without_xing(data)
    assert np.array_equal(samples_of(noise + bare, tmp_path, "bin"), samples_of(bare, tmp_path))


def test_junk_is_no_mp3(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    for seed in range(5):
        (tmp_path / "a.mp3").write_bytes(np.random.default_rng(seed).bytes(200_000))
        assert "unreadable" in read_clip(FileAudio(str(tmp_path / "a.mp3"))).reason


@pytest.mark.parametrize("has_xing", [True, False])
def test_a_segment_is_what_decoding_all_gives_there(tmp_path, has_xing):
    """Of loud bursts, whose bits stand in quiet frames before them; of a second file too."""
    bursts = np.random.default_rng(1).choice([0.001, 0.01, 0.5], 200)
    data = write(tmp_path / "a.mp3", 16000, 1, "VARIABLE", 0.9, seconds=20, order=bursts)
    data = data if has_xing else without_xing(data) * 2
    whole = samples_of(data, tmp_path)
    for start in np.random.default_rng(0).uniform(0, len(whole) / 16000 - 1, 25).round(3).tolist():
        segment = samples_of(data, tmp_path, start=start, end=start + 0.5)
        first = round(start * 16000)
        assert is_same(segment, whole[first : first + len(segment)])
    path = tmp_path / "file.mp3"
    assert "outside" in read_clip(FileAudio(str(path), len(whole) / 16000 + 0.2, None)).reason


def test_block_by_block_as_at_once(tmp_path, monkeypatch):
    path = tmp_path / "a.mp3"
    path.write_bytes(without_xing(write(path, 16000, 2, "AVERAGE", 0.95, seconds=8)))
    want = decode(FileAudio(str(path)), 16000).samples
    monkeypatch.setattr(recordings, "IN_MEMORY", 1.0)
    monkeypatch.setattr(recordings, "READ_SAMPLES", 5000)
    for source in (path, path.read_bytes()):
        assert np.array_equal(read_recording(source, 16000)[:], want)


def test_an_mp3_in_a_wav_file(tmp_path):
    data = without_xing(write(tmp_path / "a.mp3", 44100, 1, "VARIABLE", 0.0))
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 44100, 16000, 1, 0, 12, 1, 2, 417, 1, 1393)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    wav = b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
    assert np.array_equal(samples_of(wav, tmp_path, "wav"), samples_of(data, tmp_path))


def test_frames_are_walked_only_where_the_header_does_not_settle_it(tmp_path, monkeypatch):
    def walk(*_):
        raise AssertionError("walked")

    monkeypatch.setattr(mpeg, "walk", walk)
    data = write(tmp_path / "a.mp3", 44100, 1, "CONSTANT", 0.4)
    for file in (data, ID3V2 + data + ID3V1):
        samples_of(file, tmp_path)
    for file in (data[:-500], with_count(data, frames_of(data) - 3), without_xing(data)):
        (tmp_path / "b.mp3").write_bytes(file)
        with pytest.raises(AssertionError, match="walked"):
            read_clip(FileAudio(str(tmp_path / "b.mp3")), True)


def test_an_audio_store_of_them(tmp_path, cache):
    data = without_xing(write(tmp_path / "a.mp3", 16000, 1, "VARIABLE", 0.0))
    (tmp_path / "b.mp3").write_bytes(data)
    path = str(tmp_path / "b.mp3")
    rows = [Utterance("all", FileAudio(path), ""), Utterance("end", FileAudio(path, 2.5, 3.0), "")]
    for lazy in (False, True, False):
        store = open_store(rows, cache, lazy=lazy)
        assert store.lengths.tolist() == [
            576 * (len_frames := frames_of((tmp_path / "a.mp3").read_bytes())),
            8000,
        ]
        assert len_frames and is_same(store[1], store[0][40000:48000])


def test_the_files_of_the_report(shared_cases):
    """Their lengths are those that ffmpeg 5.1 decodes."""
    for name, frames in (("pipe.mp3", 65664), ("cbr-noxing-285s.mp3", 12569472)):
        clip = read_clip(FileAudio(str(shared_cases(name))))
        assert clip.frames == len(clip.samples) == frames
        end = clip.seconds
        part = read_clip(FileAudio(str(shared_cases(name)), end - 0.5, end))
        assert is_same(part.samples, clip.samples[-len(part.samples) :])
    # the silence of encoder and decoder stands before it
    original = soundfile.read(shared_cases("original.wav"))[0]
    speech = read_clip(FileAudio(str(shared_cases("pipe.mp3")))).samples[DELAY : DELAY + len(original), 0]
    assert np.corrcoef(speech, original)[0, 1] > 0.99


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="there is no ffmpeg on the PATH")
@pytest.mark.parametrize("rate", [44100, 16000, 8000])
def test_ffmpeg_decodes_as_many(tmp_path, rate):
    data = write(tmp_path / "a.mp3", rate, 1, "VARIABLE", 0.3)
    bare = without_xing(data)
    for file in (data, bare, ID3V2 + bare + ID3V1, data + data, data + bare, bare + data, bare + bare):
        ours = samples_of(file, tmp_path)
        command = ["ffmpeg", "-v", "error", "-i", tmp_path / "file.mp3", "-f", "f32le", "-"]
        theirs = np.frombuffer(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout, "<f4")
        assert len(ours) == len(theirs)
        assert np.abs(ours[:, 0] - theirs).max() < 1e-3
