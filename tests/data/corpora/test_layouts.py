"""Readers of official layouts: against the files of ../shared/data read in another way, and against corpora
written here.
"""

import csv
import logging
import re
import shutil
from pathlib import Path

import pytest
from corpus_section import read, shared

from asr_exp.core.errors import UserError
from asr_exp.data.corpora import timit

# ------------------------------------------------------------------------------------------------------------
# TIMIT


def make_timit(root, speakers, case=str.upper, sentences=("SA1", "SX10", "SI20")):
    """speakers: {"TRAIN/DR1": ["FCJF0", ...]}"""
    for place, names in speakers.items():
        for name in names:
            folder = root / case(place) / case(name)
            folder.mkdir(parents=True)
            for sentence in sentences:
                (folder / case(f"{sentence}.WAV")).write_bytes(b"")
                (folder / case(f"{sentence}.TXT")).write_text(f"0 1234 {name} says, {sentence}.\n")
                (folder / case(f"{sentence}.PHN")).write_text("0 10 h#\n10 20 sh\n20 30 q\n30 40 h#\n")
    return root


def whole(extra=()):
    """A corpus small in sentences but whole in speakers: those of the core test, of dev, and one more in
    TEST.
    """
    return {
        "TRAIN/DR1": ["FCJF0", "MDAC0"],
        "TEST/DR2": sorted(timit.CORE_TEST),
        "TEST/DR3": sorted(timit.DEV),
        "TEST/DR4": ["FZZZ0", *extra],
    }


def test_timit_speaker_lists_are_disjoint_and_whole():
    assert (len(timit.CORE_TEST), len(timit.DEV)) == (24, 50) and not timit.CORE_TEST & timit.DEV


@pytest.mark.parametrize("case", [str.upper, str.lower])
@pytest.mark.parametrize("place", [".", "TIMIT", "timit/TIMIT", "data", "timit/raw/TIMIT"])
def test_timit_in_any_case_at_any_depth(tmp_path, case, place):
    make_timit(tmp_path / place, whole(), case)
    corpus = read("timit", tmp_path, root=str(tmp_path))
    assert [(u.id, u.speaker, u.text) for u in corpus.splits["train"][:2]] == [
        ("FCJF0_SI20", "FCJF0", "FCJF0 says, SI20."),
        ("FCJF0_SX10", "FCJF0", "FCJF0 says, SX10."),
    ]
    assert {s: len(rows) for s, rows in corpus.splits.items()} == {"train": 4, "dev": 100, "test": 150}
    assert corpus.subsets == {"train": ["train"], "dev": ["dev"], "test": ["test"]}


def test_timit_phones_core_test_and_sa_sentences(tmp_path):
    make_timit(tmp_path, whole())
    corpus = read("timit-phones", tmp_path, root=str(tmp_path), sa_sentences=True)
    assert {s: len(rows) for s, rows in corpus.splits.items()} == {"train": 6, "dev": 150, "test": 72}
    assert {u.speaker for u in corpus.splits["test"]} == timit.CORE_TEST
    assert corpus.splits["train"][0].text == "h# sh q h#" and corpus.splits["train"][0].id == "FCJF0_SA1"


def test_timit_broken_utterances_are_rejected_and_converted_audio_is_found(tmp_path):
    make_timit(tmp_path, whole())
    speaker = tmp_path / "TRAIN/DR1/FCJF0"
    (speaker / "SX10.TXT").write_text("0 1234\n")
    (speaker / "SI20.TXT").unlink()
    (tmp_path / "TRAIN/DR1/MDAC0/SX10.WAV").rename(tmp_path / "TRAIN/DR1/MDAC0/SX10.WAV.wav")
    corpus = read("timit", tmp_path, root=str(tmp_path))
    assert [(r.id, r.reason) for r in corpus.rejected["train"]] == [
        ("FCJF0_SI20", "there is no SI20.TXT beside it"),
        ("FCJF0_SX10", "SX10.TXT has a line of fewer than three fields"),
    ]
    assert [u.id for u in corpus.splits["train"]] == ["MDAC0_SI20", "MDAC0_SX10"]


def test_timit_sample(tmp_path, caplog):
    """The sample holds none of the dev speakers: dev is two training speakers, and that is said and part of
    the protocol.
    """
    root = shared("TIMIT")
    with caplog.at_level(logging.WARNING):
        corpus = read("timit", tmp_path, root=str(root))
    texts = {
        f"{p.parent.name}_{p.stem}": p.read_text().split(" ", 2)[2].strip()
        for p in root.glob("*/DR*/*/*.TXT")
        if not p.stem.startswith("SA")
    }
    assert {u.id: u.text for rows in corpus.splits.values() for u in rows} == texts
    speakers = {s: {u.speaker for u in rows} for s, rows in corpus.splits.items()}
    assert (
        speakers["test"] == {"FBCG1", "MBCG0"} and len(speakers["dev"]) == 2 and len(speakers["train"]) == 12
    )
    assert not speakers["dev"] & speakers["train"]
    assert corpus.subsets == {
        "train": ["train[less dev]"],
        "dev": ["train[2 of 14 speakers, seed 0]"],
        "test": ["test"],
    }
    assert [r.getMessage() for r in caplog.records] == [
        "There is no dev split: it is 2 of the 14 speakers of train (16 utterances, dataset.split_seed=0)"
    ]
    again = read("timit-phones", tmp_path, root=str(root.parent), test=["test"])
    assert [u.id for u in again.splits["dev"]] == [u.id for u in corpus.splits["dev"]]
    phones = root / "TEST/DR8/FBCG1/SI982.PHN"
    assert next(u.text for u in again.splits["test"] if u.id == "FBCG1_SI982") == " ".join(
        re.findall(r"\S+$", phones.read_text(), re.M)
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"test": ["core-test"]},
            r"dataset.test=core-test: none of its 24 speakers.*give dataset.test=\[test\]",
        ),
        ({"dev": ["dev-set"]}, "dataset.dev=dev-set is not a subset of TIMIT. Did you mean 'dev'"),
        ({"root": "/no/such"}, "dataset.root=/no/such is not a folder"),
        ({"root": None}, "TIMIT is not on the hub; give dataset.root"),
    ],
)
def test_timit_errors(tmp_path, settings, message):
    make_timit(tmp_path, {"TRAIN/DR1": ["A", "B", "C"], "TEST/DR1": ["D"]})
    with pytest.raises(UserError, match=message):
        read("timit", tmp_path, **{"root": str(tmp_path), **settings})


def test_timit_with_a_half_missing_or_elsewhere(tmp_path):
    with pytest.raises(UserError, match="holds no TRAIN or TEST"):
        read("timit", tmp_path, root=str(tmp_path))
    make_timit(tmp_path, {"TRAIN/DR1": ["A", "B", "C"]})
    with pytest.raises(UserError, match="needs the folder TEST"):
        read("timit", tmp_path, root=str(tmp_path))


# ------------------------------------------------------------------------------------------------------------
# LibriSpeech


def test_librispeech_sample(tmp_path):
    root = shared("LibriSpeech")
    corpus = read("librispeech-100h", tmp_path, root=str(root), dev=["test-clean"])
    for split, subset in (("train", "train-clean-100"), ("test", "test-clean")):
        wanted = dict(
            re.findall(
                r"^(\S+) (.+)$", "\n".join(p.read_text() for p in root.glob(f"{subset}/*/*/*.txt")), re.M
            )
        )
        rows = corpus.splits[split]
        assert {u.id: u.text for u in rows} == wanted and [u.id for u in rows] == sorted(wanted)
        assert sorted(u.audio.path for u in rows) == sorted(map(str, root.glob(f"{subset}/**/*.flac")))
        assert all(u.speaker == u.id.split("-")[0] for u in rows)
    above = read("librispeech-100h", tmp_path, root=str(root.parent), dev=["test-clean"])
    assert above.splits["train"] == corpus.splits["train"]


def test_librispeech_errors_and_rows_without_transcript(tmp_path):
    chapter = tmp_path / "train-clean-100" / "1" / "2"
    chapter.mkdir(parents=True)
    (chapter / "1-2.trans.txt").write_text("1-2-0000 HELLO THERE\n1-2-0001\n\n1-2-0002 BYE\n")
    (chapter / "1-2-0002.wav").write_bytes(b"")
    corpus = read(
        "librispeech-100h", tmp_path, root=str(tmp_path), dev=["train-clean-100"], test=["train-clean-100"]
    )
    assert [(u.id, u.text, Path(u.audio.path).name) for u in corpus.splits["train"]] == [
        ("1-2-0000", "HELLO THERE", "1-2-0000.flac"),
        ("1-2-0002", "BYE", "1-2-0002.wav"),
    ]
    assert [r.id for r in corpus.rejected["train"]] == ["1-2-0001"]
    with pytest.raises(
        UserError,
        match=(
            "dataset.train=train-clean-10 is not in .*Did you mean 'train-clean-100'.*Subsets there:"
            " train-clean-100"
        ),
    ):
        read("librispeech-100h", tmp_path, root=str(tmp_path), train=["train-clean-10"])


# ------------------------------------------------------------------------------------------------------------
# Common Voice


@pytest.mark.parametrize("language", ["tr", "it", "sv-SE"])
def test_common_voice_sample(tmp_path, language):
    root = shared("cv-corpus-6.1-2020-12-11")
    corpus = read("common-voice", tmp_path, root=str(root), language=language)
    for split, rows in corpus.splits.items():
        lines = (root / language / f"{split}.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
        wanted = [line.split("\t")[:3] for line in lines]
        assert [[u.speaker, f"{u.id}.mp3", u.text] for u in rows] == wanted
        assert all(u.audio.path == str(root / language / "clips" / f"{u.id}.mp3") for u in rows)
    for other in (root / language, root.parent):
        assert read("common-voice", tmp_path, root=str(other), language=language).splits == corpus.splits


@pytest.fixture
def voice(tmp_path):
    """A language of a release whose columns stand in another order and whose paths lack the ending; with
    quotation marks.
    """
    folder = tmp_path / "cv-corpus-1" / "fy-NL"
    (folder / "clips").mkdir(parents=True)
    (folder / "validated.tsv").write_text(
        'locale\tsentence\tpath\tclient_id\nfy-NL\t"Hoi, sei er\tclip_1\ta\nfy-NL\tJa "nee"\tclip_2.mp3\tb\n'
        "fy-NL\tte koart\nfy-NL\tgjin paad\t\tb\n\nfy-NL\tNochris\tclip_1\ta\n",
        encoding="utf-8",
    )
    return tmp_path


def test_common_voice_of_other_releases(voice):
    corpus = read(
        "common-voice",
        voice,
        root=str(voice),
        language="fy-NL",
        train=["validated"],
        dev=["validated"],
        test="validated",
    )
    folder = voice / "cv-corpus-1" / "fy-NL"
    assert [(u.id, u.text, u.speaker, u.audio.path) for u in corpus.splits["test"]] == [
        ("clip_1", '"Hoi, sei er', "a", f"{folder}/clips/clip_1.mp3"),
        ("clip_2", 'Ja "nee"', "b", f"{folder}/clips/clip_2.mp3"),
        ("clip_1#2", "Nochris", "a", f"{folder}/clips/clip_1.mp3"),
    ]
    assert [r.id for r in corpus.rejected["train"]] == ["validated.tsv:4", "validated.tsv:5"]


def test_common_voice_folder_of_another_name_is_known_by_its_locale(voice):
    folder = shutil.move(voice / "cv-corpus-1" / "fy-NL", voice / "frisian")
    settings = {"root": str(folder), "train": ["validated"], "dev": ["validated"], "test": ["validated"]}
    assert len(read("common-voice", voice, language="fy-NL", **settings).splits["train"]) == 3
    with pytest.raises(UserError, match="dataset.language=tr is not in .*Languages there: frisian"):
        read("common-voice", voice, language="tr", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"language": "fy"}, "dataset.language=fy is not in .*Did you mean 'fy-NL'.*Languages there: fy-NL"),
        ({"language": None}, "Languages there: fy-NL"),
        (
            {"language": "fy-NL", "train": ["trian"]},
            "dataset.train=trian: there is no trian.tsv in .*There are: validated",
        ),
    ],
)
def test_common_voice_errors(voice, settings, message):
    with pytest.raises(UserError, match=message):
        read("common-voice", voice, root=str(voice), **settings)


def test_common_voice_without_its_columns_or_languages(voice):
    (voice / "cv-corpus-1" / "fy-NL" / "train.tsv").write_text("path\ttext\na\tb\n")
    with pytest.raises(UserError, match="has no column 'sentence'; it has: path, text"):
        read("common-voice", voice, root=str(voice), language="fy-NL")
    (voice / "empty").mkdir()
    with pytest.raises(UserError, match="holds no Common Voice language"):
        read("common-voice", voice, root=str(voice / "empty"), language="fy-NL")


# ------------------------------------------------------------------------------------------------------------
# MLS


def test_mls_sample(tmp_path):
    root = shared("mls_german")
    corpus = read("mls", tmp_path, root=str(root), language="german")
    for split, rows in corpus.splits.items():
        assert [f"{u.id}\t{u.text}" for u in rows] == (root / split / "transcripts.txt").read_text(
            encoding="utf-8"
        ).strip().split("\n")
        assert sorted(u.audio.path for u in rows) == sorted(map(str, root.glob(f"{split}/audio/*/*/*.flac")))
    limited = read("mls", tmp_path, root=str(root.parent), language="german", train=["10hr"])
    handles = " ".join(p.read_text() for p in root.glob("train/limited_supervision/**/handles.txt")).split()
    assert {u.id for u in limited.splits["train"]} == set(handles) and len(handles) == len(
        limited.splits["train"]
    ) == 50
    assert (
        len(read("mls", tmp_path, root=str(root), language="german", train=["1hr/0"]).splits["train"]) == 10
    )


def test_mls_opus_and_limited_supervision(tmp_path):
    root = tmp_path / "mls_polish_opus"
    for split in ("train", "dev", "test"):
        (root / split / "audio" / "7" / "8").mkdir(parents=True)
        (root / split / "transcripts.txt").write_text(
            "".join(f"7_8_{i:06d}\ttekst {i}\n" for i in range(4)) + "7_8_000009\n"
        )
        (root / split / "audio/7/8/7_8_000000.opus").write_bytes(b"")
    for part, names in (("9hr", (0, 1)), ("1hr/0", (2,)), ("1hr/5", (3,))):
        folder = root / "train" / "limited_supervision" / part
        folder.mkdir(parents=True)
        (folder / "handles.txt").write_text("".join(f"7_8_{i:06d}\n" for i in names))
    for subset, count in (("train", 4), ("9hr", 2), ("1hr", 2), ("1hr/5", 1), ("10hr", 4)):
        rows = read("mls", tmp_path, root=str(tmp_path), language="polish", train=[subset]).splits["train"]
        assert len(rows) == count and all(
            u.audio.path.endswith(f"audio/7/8/{u.id}.opus") and u.speaker == "7" for u in rows
        )
    assert [r.id for r in read("mls", tmp_path, root=str(root), language="polish").rejected["dev"]] == [
        "7_8_000009"
    ]
    for settings, message in (
        ({"language": "german"}, "dataset.language=german is not in .*Languages there: polish"),
        ({"language": "polish", "train": ["1hr/3"]}, "dataset.train=1hr/3 needs .*handles.txt"),
        (
            {"language": "polish", "train": ["9h"]},
            "Did you mean '9hr'.*Subsets there: dev, test, train, 9hr, 1hr, 10hr, 1hr/0, 1hr/5.$",
        ),
    ):
        with pytest.raises(UserError, match=message):
            read("mls", tmp_path, root=str(tmp_path), **settings)


# ------------------------------------------------------------------------------------------------------------
# MInDS-14, unpacked from its zip


def test_minds14_of_the_zip(tmp_path):
    folder = tmp_path / "MInDS-14" / "text"
    folder.mkdir(parents=True)
    rows = [(f"en-US~ABROAD/{i:03d}.wav", f"I would, like {i}", "translated", "ABROAD") for i in range(20)]
    with (folder / "en-US.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("filename", "transcription", "english", "intent"), *rows, ("broken",)])
    corpus = read("minds14", tmp_path, root=str(tmp_path), language="en-US")
    assert {s: len(r) for s, r in corpus.splits.items()} == {"train": 16, "dev": 2, "test": 2}
    audio = str(tmp_path / "MInDS-14" / "audio")
    assert sorted((u.audio.path, u.text) for r in corpus.splits.values() for u in r) == [
        (f"{audio}/{name}", text) for name, text, *_ in rows
    ]
    assert all(u.id == Path(u.audio.path).stem for u in corpus.splits["train"])
    assert corpus.rejected["train"][0].reason == "line 22 has too few fields or no path"
    with pytest.raises(UserError, match="dataset.language=en-UK is not in .*Did you mean 'en-US'"):
        read("minds14", tmp_path, root=str(tmp_path), language="en-UK")
