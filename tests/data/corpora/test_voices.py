"""The corpus the backbone of model=tiny is trained on: who speaks, what is said, what a room and a telephone
do to it.
"""

import numpy as np
import pytest
from corpus_section import read, section

from asr_exp.data.corpora.synthetic import demo, voices
from asr_exp.data.corpora.synthetic.channel import recorded
from asr_exp.rehearsal import corpora as synthetic_corpora

RATE = 16000


@pytest.fixture
def small(monkeypatch):
    pytest.importorskip("espeakng_loader", reason="the demo extra is not installed")
    monkeypatch.setattr(voices, "SIZES", {"train": 12, "dev": 3, "test": 4})


def test_no_voice_is_in_two_splits_and_none_is_kept_back_by_the_demo():
    lines = voices.splits({"train": 3000, "dev": 100, "test": 100}, 0)
    variants = [{line.voice.partition("+")[2] for line in rows} for rows in lines.values()]
    assert [len(v) for v in variants] == [len(v) for v in voices.VARIANTS.values()]
    assert not (variants[0] & variants[1] or variants[0] & variants[2] or variants[1] & variants[2])
    kept_back = {voice.partition("+")[2] for split in ("dev", "test") for voice in demo.VOICES[split]}
    assert kept_back == {"m4", "m7", "f4", "anika"} and not kept_back & set.union(*variants)


def test_no_sentence_of_the_demo_is_said():
    lines = voices.splits({"train": 20000}, 0)["train"]
    assert not {line.text for line in lines} & set(demo.sentences())
    assert voices.splits({"train": 50}, 0) == {"train": lines[:50]} != voices.splits({"train": 50}, 1)
    assert 0.55 < np.mean([line.voice.partition("+")[0] in voices.ENGLISH for line in lines]) < 0.65


def test_a_text_is_labelled_in_its_voice_s_language():
    pytest.importorskip("espeakng_loader", reason="the demo extra is not installed")
    said = [voices.Line("7", f"{voice}+m1", 175, 50) for voice in ("en-us", "de", "it", "es")]
    phones = [line.phones for line in voices.labelled({"train": said})["train"]]
    assert phones == ["s ɛ v ə n", "z iː b ə n", "s ɛ tː e", "s j e t e"]


def test_the_transcripts_are_phones_or_letters(small, tmp_path):
    phones = read("voices", tmp_path, columns__text="phones").splits
    letters = read("voices", tmp_path, columns__text="text").splits
    assert {split: len(rows) for split, rows in phones.items()} == {"train": 12, "dev": 3, "test": 4}
    said = {row.id: row.text for rows in letters.values() for row in rows}
    assert (
        said
        and not any(map(str.isdigit, "".join(said.values())))
        and set(said) < {row.id for rows in phones.values() for row in rows}
    )
    assert all(row.text != said.get(row.id) and row.speaker for rows in phones.values() for row in rows)


def test_recordings_under_the_root_are_heard_in_training_alone(small, tmp_path):
    synthetic_corpora.write("librispeech", "en", tmp_path / "data" / "LibriSpeech")
    synthetic_corpora.write("common-voice", "tr", tmp_path / "data" / "cv-corpus-17")
    alone = read("voices", tmp_path / "cache", columns__text="phones").splits
    both = read("voices", tmp_path / "cache", columns__text="phones", root=str(tmp_path / "data")).splits
    assert (
        both["dev"] == alone["dev"] and both["test"] == alone["test"] and both["train"][:12] == alone["train"]
    )
    more = both["train"][12:]
    folders = {"train-clean-100", "dev-clean", "test-clean", "clips"}
    assert {folder for row in more for folder in folders if folder in row.audio.path} == {
        "train-clean-100",
        "clips",
    }
    assert len({row.audio.path for row in more}) * voices.REPEATS == len(more)
    assert any("ʃ" in row.text for row in more) and not any(
        map(str.isupper, "".join(row.text for row in more))
    )


# ------------------------------------------------------------------------------------------------------------
# the channel


def test_a_recording_is_a_function_of_its_generator(tone):
    clean = (tone(1.0, 22050) * 20000).astype(np.int16)
    one, same, other = (recorded(clean, 22050, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (
        one.dtype == np.int16 and np.array_equal(one, same) and not np.array_equal(one[:9000], other[:9000])
    )
    for made in (one, other):
        assert 0.85 * RATE < len(made) < 1.8 * RATE and 1000 < np.abs(made).max() < 32767


class Middle(np.random.Generator):
    """Draws the middle of every range, and neither a room nor a telephone unless told to."""

    def __init__(self, chance: float):
        super().__init__(np.random.PCG64(0))
        self.chance = chance

    def uniform(self, low, high, size=None):
        return (low + high) / 2 if size is None else np.full(size, (low + high) / 2)

    def random(self):
        return self.chance


def _level(samples: np.ndarray) -> float:
    return 20 * np.log10(samples.astype(float).std())


def test_the_noise_is_as_far_below_the_speech_as_drawn():
    """The middle of 3 to 40 dB is 21.5; the level of the clip counts its 0.3 s of silence: 0.6 dB."""
    clean = (8000 * np.sin(2 * np.pi * 440 * np.arange(44100) / 22050)).astype(np.int16)
    made = recorded(clean, 22050, Middle(0.9))
    assert _level(made[8000:30000]) - _level(made[:2000]) == pytest.approx(22.1, abs=0.7)
    assert 20 * np.log10(np.abs(made).max() / 32767) == pytest.approx(-13, abs=0.1)


def test_a_telephone_passes_1_kHz_and_stops_6_kHz():
    time = np.arange(RATE * 2) / RATE
    clean = (6000 * (np.sin(2 * np.pi * 1000 * time) + np.sin(2 * np.pi * 6000 * time))).astype(np.int16)

    def power(samples: np.ndarray, hertz: int) -> float:
        spectrum = np.abs(np.fft.rfft(samples[6000:22000] * np.hanning(16000)))
        return 20 * np.log10(spectrum[hertz - 3 : hertz + 4].max())

    wide, telephone = (recorded(clean, RATE, Middle(chance)) for chance in (0.9, 0.3))
    assert power(wide, 1000) - power(wide, 6000) == pytest.approx(0, abs=1)
    assert power(telephone, 1000) - power(telephone, 6000) > 20


def test_the_section_asks_for_phones():
    assert section("voices").columns.text == "phones"
