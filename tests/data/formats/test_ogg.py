"""Ogg files in which several streams follow one another."""

import numpy as np
import pytest
import soundfile

from asr_exp.data.audio import read_clip
from asr_exp.data.corpora import FileAudio


@pytest.mark.parametrize(
    "subtypes", [("VORBIS", "VORBIS"), ("OPUS", "OPUS"), ("VORBIS", "OPUS"), ("VORBIS",) * 3]
)
def test_all_streams_are_read(tmp_path, tone, subtypes):
    pieces, data = [], b""
    for number, subtype in enumerate(subtypes):
        path = tmp_path / f"{number}.ogg"
        soundfile.write(
            path, tone(1 + number, 16000, 200.0 * (number + 1)), 16000, format="OGG", subtype=subtype
        )
        pieces.append(soundfile.read(path, dtype="float32")[0])
        data += path.read_bytes()
    (tmp_path / "joined.ogg").write_bytes(data)
    audio = FileAudio(str(tmp_path / "joined.ogg"))
    want = np.concatenate(pieces)
    assert read_clip(audio, True).frames == len(want)
    assert np.array_equal(read_clip(audio).samples[:, 0], want)
    second = read_clip(FileAudio(audio.path, 0.5, 1.5))
    assert np.abs(second.samples[:, 0] - want[8000:24000]).max() < 1e-6


def test_another_rate_is_that_of_the_first(tmp_path, tone):
    soundfile.write(tmp_path / "a.ogg", tone(1, 16000), 16000)
    soundfile.write(tmp_path / "b.ogg", np.stack([tone(2, 44100)] * 2, 1), 44100)
    (tmp_path / "c.ogg").write_bytes((tmp_path / "a.ogg").read_bytes() + (tmp_path / "b.ogg").read_bytes())
    clip = read_clip(FileAudio(str(tmp_path / "c.ogg")))
    assert (clip.rate, clip.channels, clip.frames) == (16000, 1, 48000)
    second = clip.samples[17000:47000, 0]
    assert np.corrcoef(second, tone(2, 16000)[1000:31000])[0, 1] > 0.95
