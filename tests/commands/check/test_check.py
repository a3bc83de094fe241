"""`check` against corpora with planted faults: each is found and named; a clean corpus passes without a word
of warning.
"""

import json
import logging
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from harness import QUIET, make_corpus, run, run_folder, spoken, write_manifest

from asr_exp.cli.main import main
from asr_exp.commands.check.report import histogram
from asr_exp.commands.check.text_rules import rule_findings
from asr_exp.data.text import build_rules

SMALL = ["model=tiny-random", "model.config.hidden_size=32", "model.config.intermediate_size=64",
         "model.config.num_conv_pos_embedding_groups=2",
         "trainer.max_steps=20", *QUIET]  # fmt: skip
ONLY_DATA = [*SMALL, "check.steps=false"]


class Looked:
    """What a check said, how it ended, and the lines of its check.jsonl."""

    def __init__(self, text: str, status: int, place: Path):
        self.text, self.status = text, status
        paths = list(place.rglob("check.jsonl"))
        self.path = paths[0] if paths else None
        self.rows = [json.loads(line) for line in self.path.read_text().splitlines()] if self.path else []

    def faults(self, id: str) -> set[tuple[str, str]]:
        return {(r["level"], r["fault"]) for r in self.rows if r["id"] == id}

    def said(self, level: str) -> list[str]:
        """The findings of a level, each on one line."""
        flat = re.sub(r"\n {8,}", " ", self.text)
        return [line.strip() for line in flat.splitlines() if line.startswith(f"  {level}")]


@pytest.fixture
def look(tmp_path, capsys):
    """look(overrides) -> what `check` says of them."""

    def check(*overrides: str, place: Path = tmp_path) -> Looked:
        capsys.readouterr()
        before = Path.cwd()
        os.chdir(place)
        try:
            status = main(["check", *overrides])
        finally:
            os.chdir(before)
            logging.getLogger("asr_exp").handlers.clear()
        return Looked(capsys.readouterr().out, status, place)

    return check


class Corpus:
    """A corpus of tones with its manifests, into which faults are planted."""

    def __init__(self, folder: Path):
        self.overrides = make_corpus(folder, train=30, rest=6)
        self.folder = folder
        # voices and sentences of its own for each split, and no sentence twice
        for split in ("train", "dev", "test"):
            texts = {
                f"{split}{i}.wav": f"{a} {b} {'du'[i % 2]}{split[0]}"
                for i, (a, b) in enumerate(self._pairs(split))
            }
            self.write(
                split, [(file, text, f"{split}-{i % 3}") for i, (file, text) in enumerate(texts.items())]
            )

    @staticmethod
    def _pairs(split: str):
        words = ("ba", "di", "go", "lu", "me", "bago", "dilu")
        pairs = [(a, b) for a in words for b in words]
        return pairs[:30] if split == "train" else pairs[30:36] if split == "dev" else pairs[36:42]

    def write(self, split: str, rows: list) -> None:
        write_manifest(self.folder / f"{split}.csv", rows)

    def rows(self, split: str) -> list[list[str]]:
        return [line.split(",") for line in (self.folder / f"{split}.csv").read_text().splitlines()[1:]]

    def change(
        self,
        split: str,
        number: int,
        file: str | None = None,
        text: str | None = None,
        speaker: str | None = None,
    ) -> str:
        """Give a row another file, text or speaker -> its file."""
        rows = self.rows(split)
        rows[number] = [
            file or rows[number][0],
            rows[number][1] if text is None else text,
            speaker or rows[number][2],
        ]
        self.write(split, rows)
        return rows[number][0]

    def samples(self, name: str) -> np.ndarray:
        return soundfile.read(self.folder / name, dtype="float32")[0]

    def sound(self, name: str, samples: np.ndarray, rate: int = 16000) -> str:
        soundfile.write(self.folder / name, samples, rate, subtype="PCM_16")
        return name


@pytest.fixture
def planted(tmp_path):
    return Corpus(tmp_path / "corpus")


# ------------------------------------------------------------------------------------------------------------
# nothing wrong


def test_a_clean_corpus_passes_without_a_warning(planted, look):
    seen = look(*planted.overrides, *SMALL)
    assert seen.status == 0, seen.text
    assert seen.said("FAIL") == seen.said("WARN") == [] and seen.path is None
    assert all(len(line) <= 80 for line in seen.text.splitlines()), max(seen.text.splitlines(), key=len)
    for part in (
        "30 clips",
        "3 speakers",
        "WAV PCM_16 16 kHz mono 42",
        "42 of 42 clips",
        "0 FAIL, 0 WARN",
        "lengths of train",
        "####",
    ):
        assert part in seen.text
    assert re.search(
        r"in a median pass, measured\n.*in the worst pass, measured\n.*worst pass of scoring", seen.text
    )
    assert re.search(r"[\d.]+ s a step, \d+ audio-s/s", seen.text) and "20: 6.7 epochs of 3" in seen.text


@pytest.mark.parametrize("corpus", ["TIMIT", "LibriSpeech"])
def test_real_recordings_have_no_broken_or_silent_files(corpus, look, shared_data):
    name = {"TIMIT": "timit", "LibriSpeech": "librispeech-100h"}[corpus]
    seen = look(
        f"dataset={name}",
        "dataset.dev=null",
        "dataset.test=null",
        f"dataset.root={shared_data(corpus)}",
        *ONLY_DATA,
    )
    assert not {"missing", "unreadable", "truncated", "silent", "near-silent", "clipped", "too-much-text"} & {
        r["fault"] for r in seen.rows
    }


def test_it_leaves_a_later_run_alone(planted, look, tmp_path):
    planted.change("train", 3, file="gone.wav")
    seen = look(*planted.overrides, *SMALL)
    assert seen.status == 1 and seen.path
    folder = run(*planted.overrides, *SMALL, cwd=tmp_path)
    assert seen.path.parent.resolve() == folder.resolve()
    assert seen.path.exists() and json.loads((folder / "result.json").read_text())["status"] == "finished"
    look(*planted.overrides, *SMALL)  # and looks again beside a finished run
    assert json.loads((folder / "result.json").read_text())["status"] == "finished"


def test_mended_faults_take_their_file_away(planted, look):
    planted.change("train", 3, file="gone.wav")
    assert look(*planted.overrides, *ONLY_DATA).path
    planted.change("train", 3, file="train3.wav")
    seen = look(*planted.overrides, *ONLY_DATA)
    assert seen.status == 0 and seen.path is None


# ------------------------------------------------------------------------------------------------------------
# recordings


def test_broken_files(planted, look):
    planted.change("train", 0, file="gone.wav")
    (planted.folder / "train1.wav").write_bytes(b"this is not a recording" * 100)
    whole = (planted.folder / "dev2.wav").read_bytes()
    (planted.folder / "dev2.wav").write_bytes(whole[: len(whole) // 2])
    planted.sound("train4.wav", np.zeros(0, dtype=np.float32))
    (planted.folder / "test5.wav").write_bytes(b"")
    samples = planted.samples("train6.wav")
    soundfile.write(planted.folder / "cut.flac", samples, 16000)
    (planted.folder / "cut.flac").write_bytes((planted.folder / "cut.flac").read_bytes()[:4000])
    planted.change("train", 6, file="cut.flac")
    seen = look(*planted.overrides, *SMALL)
    assert seen.status == 1
    expected = {
        "gone.wav": "missing",
        "train1.wav": "unreadable",
        "dev2.wav": "truncated",
        "train4.wav": "empty-audio",
        "test5.wav": "unreadable",
        "cut.flac": "unreadable",
    }
    for id, fault in expected.items():
        assert ("FAIL", fault) in seen.faults(id)
        assert any(id in line for line in seen.said("FAIL"))
    assert "worst pass, measured" in seen.text  # what is left is tried all the same


def cut(path: Path, share: float) -> str:
    """Leave the first part of a file -> its name."""
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path.name


@pytest.mark.parametrize("share", [0.97, 0.6])
def test_compressed_files_cut_short_are_found_without_decoding_them(planted, look, share):
    """By FLAC's last sample, the length that LAME writes into an MP3, and the mark on the last page of an Ogg
    stream.
    """
    kinds = {
        "flac": ("FLAC", "PCM_16"),
        "mp3": ("MP3", "MPEG_LAYER_III"),
        "opus": ("OGG", "OPUS"),
        "vorbis.ogg": ("OGG", "VORBIS"),
    }
    rng = np.random.default_rng(0)
    long = np.concatenate([spoken(["ba", "di", "go", "lu", "me"], rng) for _ in range(8)])
    for number, (ending, (container, coding)) in enumerate(kinds.items()):
        for row, name in ((number, f"whole.{ending}"), (number + 10, f"cut.{ending}")):
            soundfile.write(planted.folder / name, long[row * 100 :], 16000, format=container, subtype=coding)
            planted.change("train", row, file=name, text="ba di go lu me " * 6 + "abegilmotu"[number])
        cut(planted.folder / f"cut.{ending}", share)
    seen = look(*planted.overrides, *ONLY_DATA, "check.audio=none")
    assert seen.status == 1
    assert {r["id"]: f"{r['level']} {r['fault']}" for r in seen.rows} == {
        "cut.flac": "FAIL unreadable",
        "cut.mp3": "FAIL truncated",
        "cut.opus": "WARN no-end",
        "cut.vorbis.ogg": "WARN no-end",
    }


def test_what_is_heard(planted, look):
    rng = np.random.default_rng(0)
    quiet = rng.standard_normal(16000).astype(np.float32)
    planted.sound("train0.wav", np.zeros(16000, dtype=np.float32))
    planted.sound("train1.wav", quiet * 5e-4)
    planted.sound("train2.wav", quiet * 2e-3)
    planted.sound("train3.wav", np.clip(20 * planted.samples("train3.wav"), -1, 1))
    planted.sound("train4.wav", planted.samples("train4.wav") * 0.5 + 0.2)
    voice = planted.samples("train5.wav")
    planted.sound("train5.wav", np.stack([voice, -voice], axis=1))
    planted.sound("train6.wav", voice * 0.99 / np.abs(voice).max() + 0.0)  # loud, and not clipped
    planted.sound("train7.wav", np.stack([voice * 0, voice], axis=1))
    seen = look(*planted.overrides, *ONLY_DATA)
    found = {f"train{i}.wav": seen.faults(f"train{i}.wav") for i in range(8)}
    assert found == {
        "train0.wav": {("FAIL", "silent")},
        "train1.wav": {("WARN", "near-silent")},
        "train2.wav": {("WARN", "low-level")},
        "train3.wav": {("WARN", "clipped")},
        "train4.wav": {("WARN", "dc-offset")},
        "train5.wav": {("WARN", "channels-cancel")},
        "train6.wav": set(),
        "train7.wav": {("WARN", "dead-channel")},
    }
    share = float(
        re.search(r"([\d.]+) %", next(r["reason"] for r in seen.rows if r["fault"] == "clipped"))[1]
    )
    assert share == pytest.approx(100 * np.mean(np.abs(planted.samples("train3.wav")) >= 0.999), abs=0.01)
    unheard = look(*planted.overrides, *ONLY_DATA, "check.audio=none")
    assert unheard.status == 0 and "0 of 42 clips" in unheard.text


def test_a_sample_finds_what_is_suspiciously_small(planted, look):
    """Of 30 FLAC files 5 are drawn, and the silent ones, which take up no room, are among them whatever the
    seed.
    """
    for i, (file, *_) in enumerate(planted.rows("train")):
        samples = planted.samples(file)
        soundfile.write(planted.folder / f"t{i}.flac", samples * 0 if i in (11, 23) else samples, 16000)
        planted.change("train", i, file=f"t{i}.flac")
    for seed in (1, 2, 3):
        seen = look(*planted.overrides, *ONLY_DATA, "check.clips=5", f"seed={seed}")
        assert (
            "5 of 42 clips; check.audio=all decodes all" in seen.text and "known of these alone" in seen.text
        )
        assert ("FAIL", "silent") in seen.faults("t11.flac") & seen.faults("t23.flac")


def test_sampling_rates_that_differ(planted, look):
    for i in (2, 7):
        planted.sound(f"train{i}.wav", planted.samples(f"train{i}.wav")[::2], 8000)
    seen = look(*planted.overrides, *ONLY_DATA)
    assert ("WARN", "mixed-rates") in seen.faults("train2.wav") & seen.faults("train7.wav")
    assert "WAV PCM_16 16 kHz mono 40, WAV PCM_16 8 kHz mono 2" in seen.text


def test_the_same_recording_twice(planted, look):
    def copy(split, target, source, **more):
        """Row `target` of a split becomes another file with the same bytes."""
        shutil.copy(planted.folder / source, planted.folder / f"copy-{split}{target}.wav")
        return planted.change(split, target, file=f"copy-{split}{target}.wav", **more)

    leak = copy("test", 0, "train0.wav")
    twin = copy("train", 5, "train4.wav", text=planted.rows("train")[4][1])
    other = copy("train", 9, "train8.wav")
    chosen = copy("test", 3, "dev2.wav")
    planted.change("train", 12, file="train11.wav")  # the same path
    seen = look(*planted.overrides, *ONLY_DATA)
    assert ("FAIL", "audio-leak") in seen.faults(leak)
    assert ("WARN", "audio-dev-is-test") in seen.faults(chosen)
    assert ("WARN", "audio-copy") in seen.faults(twin)
    assert ("FAIL", "audio-two-transcripts") in seen.faults(other)
    assert ("FAIL", "audio-two-transcripts") in seen.faults("train11.wav#2")
    assert next(r["reason"] for r in seen.rows if r["id"] == leak) == "the same audio as train0.wav of train"
    assert len(seen.rows) == len({r["id"] for r in seen.rows if r["fault"].startswith("audio")}), seen.rows


def test_segments_of_one_file_are_no_copies(planted, look):
    rng = np.random.default_rng(0)
    planted.sound("long.wav", np.concatenate([spoken(["ba", "di"], rng) for _ in range(12)]))
    rows = [("long.wav", f"ba {'di ' * (i + 1)}".strip(), "s", i * 0.5, i * 0.5 + 0.5) for i in range(8)]
    write_manifest(
        planted.folder / "train.csv",
        [*rows, ("long.wav", "ba", "s", 400, 401)],
        ("file", "text", "speaker", "start", "end"),
    )
    seen = look(*planted.overrides, *ONLY_DATA)
    assert not any(r["fault"].startswith("audio") for r in seen.rows)
    assert {r["id"] for r in seen.rows if r["fault"] == "segment"} == {"long.wav#9"}


# ------------------------------------------------------------------------------------------------------------
# transcripts


def test_transcripts_that_cannot_be(planted, look):
    empty = planted.change("train", 0, text="")
    emptied = planted.change("dev", 1, text="?!")
    endless = planted.change("train", 2, text="ba di go lu me " * 40)
    scored = planted.change("test", 3, text="ba di go lu me " * 40)
    planted.sound("train3.wav", np.ones(800, dtype=np.float32) * 0.1)
    rng = np.random.default_rng(1)
    planted.sound("train4.wav", rng.standard_normal(31 * 16000) * 0.1)
    seen = look(*planted.overrides, *SMALL)
    assert seen.status == 1
    assert seen.faults(empty) == {("FAIL", "empty-transcript")}
    assert seen.faults(emptied) == {("FAIL", "emptied-transcript")}
    assert ("FAIL", "labels-longer-than-frames") in seen.faults(endless)
    assert ("WARN", "labels-longer-than-frames") in seen.faults(scored)  # it is scored, and cannot be right
    assert ("FAIL", "too-short") in seen.faults("train3.wav") and ("FAIL", "too-long") in seen.faults(
        "train4.wav"
    )
    reason = next(r["reason"] for r in seen.rows if r["fault"] == "labels-longer-than-frames")
    assert re.search(r"\d+ frames needed for 599 labels", reason)


def test_few_in_many_are_a_warning_in_train_and_a_failure_in_dev(planted, look):
    texts = [f"ba {'bdgl'[i % 4]}{'aeiou'[i % 5]}{'mnrs'[i // 4 % 4]}" for i in range(400)]
    rows = [(f"train{i % 30}.wav", text, f"v{i}", 0.0, 0.3 + i / 1e4) for i, text in enumerate(texts)]
    header = ("file", "text", "speaker", "start", "end")
    write_manifest(planted.folder / "train.csv", [(*rows[0][:1], "", *rows[0][2:]), *rows[1:]], header)
    seen = look(*planted.overrides, *ONLY_DATA)
    assert ("WARN", "empty-transcript") in seen.faults("train0.wav")
    planted.change("dev", 1, text="")
    assert ("FAIL", "empty-transcript") in look(*planted.overrides, *ONLY_DATA).faults("dev1.wav")


def test_the_same_sentences_and_voices(planted, look):
    for i in (1, 2, 3):
        planted.change("train", i, text=planted.rows("train")[0][1], speaker=planted.rows("train")[0][2])
    shared = planted.change("test", 4, text=planted.rows("train")[20][1])
    voice = planted.change("dev", 5, speaker="train-1")
    seen = look(*planted.overrides, *ONLY_DATA)
    assert all(("WARN", "duplicate-transcript") in seen.faults(f"train{i}.wav") for i in (1, 2, 3))
    assert "4 times" in re.sub(r"\s+", " ", seen.text)
    assert ("WARN", "sentence-overlap") in seen.faults(shared) and "1 of 6 sentences of test" in " ".join(
        seen.said("WARN")
    )
    assert ("WARN", "speaker-overlap") in seen.faults(voice)
    assert seen.status == 0


def test_many_speakers_of_one_sentence_are_how_corpora_are_made(planted, look):
    planted.write(
        "train",
        [
            (file, f"ba di go {i // 3}".translate(str.maketrans("0123456789", "abcdefghij")), f"v{i}")
            for i, (file, *_) in enumerate(planted.rows("train"))
        ],
    )
    seen = look(*planted.overrides, *ONLY_DATA)
    assert not any("Said again" in line for line in [*seen.said("WARN"), *seen.said("NOTE")])


def test_characters_against_the_vocabulary(planted, look):
    strange = planted.change("dev", 0, text="ba ñandú xx")
    rare = planted.change("train", 0, text="ba čo di")
    seen = look(*planted.overrides, *ONLY_DATA)
    assert ("FAIL", "outside-vocabulary") in seen.faults(strange)
    (told,) = [line for line in seen.said("FAIL") if "vocabulary" in line]
    assert "'x' 2" in told and "'ñ' 1" in told and "'ú' 1" in told
    # too small a corpus to hold it against it
    assert any("'č' 1" in line for line in seen.said("NOTE")) and not seen.faults(rare)


def test_a_vocabulary_of_the_other_case(planted, look, tmp_path):
    tokens = [*"ABDEGILMOTU", "|", "[UNK]", "[PAD]"]
    (tmp_path / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    seen = look(*planted.overrides, *ONLY_DATA, f"tokenizer.vocabulary={tmp_path}/vocab.json")
    assert seen.status == 1 and any("text=upper" in line for line in seen.said("FAIL"))
    assert (
        look(
            *planted.overrides, *ONLY_DATA, f"tokenizer.vocabulary={tmp_path}/vocab.json", "text=upper"
        ).status
        == 0
    )


def test_text_that_does_not_fit_its_audio(planted, look):
    rng = np.random.default_rng(0)
    planted.sound("train0.wav", spoken(["ba", "di"] * 10, rng))
    planted.sound("train1.wav", long := spoken(["ba", "di", "go", "lu", "me"] * 2, rng))
    hurried = planted.change("train", 1, text=("badigolume" * 30)[: len(long) * 40 // 16000])
    slow = planted.change("train", 0, text="ba")
    seen = look(*planted.overrides, *ONLY_DATA)
    assert ("WARN", "too-much-text") in seen.faults(hurried) and ("WARN", "too-little-text") in seen.faults(
        slow
    )


# ------------------------------------------------------------------------------------------------------------
# text rules


def told(text: list[str], *rules, language=None) -> dict[str, str]:
    return {f.fault: f.text for f in rule_findings(text, build_rules(rules, language), language)}


def test_what_rules_do_to_words():
    text = ["Don’t you, don't they?", "It's 1984; well-known 'quotes' 50 %", "café"]
    found = told(text, "hf_compat")
    assert found["rules-delete-apostrophes"].startswith("Your rules delete apostrophes: 2 words change (")
    # it keeps that one
    assert (
        "don't -> dont" in found["rules-delete-apostrophes"]
        and "Don’t" not in found["rules-delete-apostrophes"]
    )
    assert "1984; -> (nothing)" in found["rules-delete-digits"]
    assert "well-known -> wellknown" in found["rules-delete-joints"]
    assert "rules-delete-letters" not in found
    assert set(told(text, "nfc", "lower", "remove_punctuation", "collapse_whitespace")) == {
        "rules-delete-signs",
        "digits",
    }
    assert "café -> cafe" in told(text, "strip_accents")["rules-delete-letters"]
    assert told(["Don't stop.", "Well, «yes»"], "lower", "remove_punctuation") == {}


def test_capitals_of_turkish_are_no_loss():
    assert told(["İstanbul'da IŞIK", "ılık"], "nfc", "lower", language="tr") == {}
    assert told(["ılık istanbul"], "upper", language="tr") == {}


STANDARD = ["nfc", "unify_forms", "remove_invisible", "unify_apostrophes"] + [
    "remove_punctuation_but_apostrophes",
    "lowercase",
]


def test_what_rules_write_otherwise():
    text = ["don`t l´eau oﬃce كتـاب ＡＢＣ Auf\u00adlage 5′3″ dogs’ 'quoted' don’t plain"]
    found = told(text, *STANDARD)
    assert "2 words change (don`t -> don't, l´eau -> l'eau)" in found["rules-unify-apostrophes"]
    assert "oﬃce -> office" in found["rules-unify-forms"] and "3 words" in found["rules-unify-forms"]
    assert r"Auf\u00adlage -> auflage" in found["rules-delete-invisible"]
    assert found.keys() - {"digits"} == {
        "rules-unify-apostrophes",
        "rules-unify-forms",
        "rules-delete-invisible",
    }
    found = told(text, "nfc", "lower", "remove_punctuation")
    assert "don`t -> don t" in found["rules-cut-apostrophes"]
    assert "ＡＢＣ -> ａｂｃ" in found["rules-keep-forms"]
    assert "don`t -> don`t" in told(text, "lower")["rules-keep-signs"]
    assert told(["don't don’t 5′3 it's plain"], *STANDARD).keys() == {"digits"}


def test_letters_at_the_ends_of_words_ask_for_the_language():
    assert "ʻokina -> ʻokina" in told(["ʻokina"], *STANDARD)["rules-keep-apostrophes"]
    assert told(["ʻokina bogʻ"], *STANDARD, language="haw").keys() == {"rules-keep-apostrophes"}
    assert told(["ʻokina"], *STANDARD, language="haw") == told(["bogʻ"], *STANDARD, language="uz") == {}


@pytest.mark.parametrize("rules", [STANDARD, ["lower"]])
@pytest.mark.parametrize(
    ("texts", "asked"),
    [
        (["Kırmızı ışık", "IŞIK yaktı"], "tr"),
        (["KIRMIZI ŞAPKA İZMİR"], "tr"),
        (["Qızıl gəl", "İlqar I"], "az"),
        (["Qazaq tılı", "Iŋkär"], "kk"),
    ],
)
def test_a_language_with_a_dotless_i_is_asked_for(rules, texts, asked):
    def question(language):
        found = rule_findings(texts, build_rules(rules, language), language)
        return [one for one in found if one.fault == "dotless-i"]

    (one,) = question(None)
    assert one.level == "WARN" and f"dataset.language={asked} " in one.advice and " -> " in one.text
    assert question("en")
    if rules == ["lower"] and asked == "kk":  # which it does not know
        assert "lowercase" in question("kk")[0].advice
    else:
        assert question(asked) == []


def test_it_is_not_asked_where_nothing_is_lost():
    assert "dotless-i" not in told(["kırmızı ışık"], "lower")  # no capital that could go wrong
    assert "dotless-i" not in told(["Kırmızı IŞIK"], "nfc")
    assert "dotless-i" not in told(["I like Kadıköy"] + ["and so on"] * 50, "lower", language="en")
    assert "dotless-i" in told(["kırmızı iş"], "upper") and "dotless-i" not in told(["Ich bin"], "lower")


def test_counts_are_of_words_as_often_as_they_come():
    assert (
        "1,204 words change (don't -> dont)"
        in told(["don't"] * 1204, {"apostrophes": "remove"})["rules-delete-apostrophes"]
    )


# ------------------------------------------------------------------------------------------------------------
# the model and the machine


def test_without_the_hub_the_data_is_looked_at_all_the_same(planted, look):
    planted.change("train", 0, file="gone.wav")
    seen = look(*planted.overrides, "model=wav2vec2-base", *QUIET)
    assert ("FAIL", "missing") in seen.faults("gone.wav")
    assert any(
        "model part was skipped" in line and "HF_HUB_OFFLINE is set" in line for line in seen.said("WARN")
    )
    planted.change("train", 0, file="train0.wav")
    assert look(*planted.overrides, "model=wav2vec2-base", *QUIET).status == 0
    seen = look(*planted.overrides, "model=hf", f"model.checkpoint={planted.folder}/nothing-here", *QUIET)
    assert seen.status == 1 and any("is not a folder" in line for line in seen.said("FAIL"))


def test_a_pass_that_cannot_fit_is_not_run(planted, look, monkeypatch):
    from asr_exp.commands.check import trial_step as trial

    monkeypatch.setattr(trial, "available_memory", lambda device: trial.used_memory(device) // 2)
    seen = look(*planted.overrides, *SMALL)
    assert seen.status == 1
    (told,) = [line for line in seen.said("FAIL") if "does not fit" in line]
    assert "trainer.device_seconds=" in told and "gradient_checkpointing" in told
    assert "worst pass, measured" not in seen.text


def test_one_process_does_not_try_what_several_hold_in_parts(planted, look):
    seen = look(*planted.overrides, *SMALL, "trainer.strategy=fsdp", "trainer.devices=2")
    assert "forward pass" in seen.text and "No pass was run" in seen.text and "measured" not in seen.text
    assert "measured" in look(*planted.overrides, *SMALL, "trainer.strategy=fsdp").text


def test_no_room_on_the_disk(planted, look, monkeypatch):
    from asr_exp.commands.check import forecast

    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100_000}))
    seen = look(*planted.overrides, *SMALL)
    assert seen.status == 1 and any("cache_root=FOLDER" in line for line in seen.said("FAIL"))


def test_the_plan_is_the_one_that_is_trained(planted, look, tmp_path):
    """Steps, passes and lengths come from headers; the run's own come from decoded audio."""
    lengths = [
        "trainer.max_steps=null",
        "trainer.max_epochs=2",
        "trainer.batch_seconds=4",
        "trainer.device_seconds=2",
    ]
    overrides = [*planted.overrides, *SMALL[:-4], *QUIET, *lengths]
    planted.change("train", 2, text="ba di go lu me " * 40)
    seen = look(*overrides)
    folder = run(*overrides, cwd=tmp_path)
    log = (folder / "train.log").read_text()
    steps = re.search(r"steps +([\d,]+) = 2\.0 epochs of (\d+)", log)
    assert f"steps        {steps[1]}: 2.0 epochs of {steps[2]}" in seen.text
    assert run_folder(tmp_path).resolve() == folder.resolve()


def test_histogram_bins_are_round_and_hold_everything():
    values = [0.1, 0.4, 1.9, 2.0, 15.2, 15.9]
    lines = histogram(values, "s")
    assert [line.split("-")[0].strip() for line in lines] == ["0", "2", "4", "6", "8", "10", "12", "14"]
    assert sum(int(line.split()[-1]) for line in lines) == len(values) and all(
        len(line) <= 80 for line in lines
    )
    assert histogram([], "s") == []
