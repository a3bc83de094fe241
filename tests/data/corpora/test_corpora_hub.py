"""The hub's code path, against local folders of parquet files with the hub's columns, through the same
`load_dataset` call.
"""

import importlib.util
import io
import os
import socket

import pytest
from corpus_section import make_repository, read, section, shared

from asr_exp.core.errors import UserError
from asr_exp.data.corpora.base import TableAudio, read_corpus
from asr_exp.runtime import hub

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def audio_bytes(utterance):
    stream = utterance.audio.open()
    assert isinstance(stream, io.BytesIO)
    return stream.read()


def test_librispeech_of_the_hub(tmp_path):
    files = {
        "clean": {s: [f"clean/{s}/0000.parquet"] for s in ("train.100", "validation", "test")},
        "other": {"train.500": ["other/train.500/0000.parquet"]},
    }
    root = make_repository(
        tmp_path / "ls",
        files,
        lambda i: {
            "file": f"/x/{i}.flac",
            "text": f"WORD {i}",
            "speaker_id": 7 + i % 2,
            "chapter_id": 1,
            "id": f"7-1-{i:04d}",
        },
    )
    corpus = read("librispeech-100h", tmp_path, hub__id=root, train=["train-clean-100", "train-other-500"])
    assert corpus.source == "hub" and {s: len(r) for s, r in corpus.splits.items()} == {
        "train": 20,
        "dev": 10,
        "test": 10,
    }
    first, last = corpus.splits["train"][0], corpus.splits["train"][-1]
    assert (first.id, first.text, first.speaker) == ("7-1-0000", "WORD 0", "7") and (
        last.id,
        last.speaker,
    ) == ("7-1-0039", "8")
    assert isinstance(last.audio, TableAudio) and audio_bytes(last) == b"RIFF39"
    assert len({u.audio.identity() for rows in corpus.splits.values() for u in rows}) == 40
    with pytest.raises(
        UserError, match="dataset.dev=dev-clear is not a subset of LibriSpeech. Did you mean 'dev-clean'"
    ):
        read("librispeech-100h", tmp_path, hub__id=root, dev=["dev-clear"])


def test_common_voice_of_the_hub(tmp_path):
    files = {"tr": {s: [f"audio/tr/{s}.parquet"] for s in ("train", "validation", "test")}}
    root = make_repository(
        tmp_path / "cv",
        files,
        lambda i: {
            "client_id": f"c{i}",
            "path": f"common_voice_tr_{i}.mp3",
            "sentence": f"Söz {i}" if i else None,
        },
    )
    corpus = read("common-voice", tmp_path, hub__id=root, language="tr")
    assert [u.id for u in corpus.splits["dev"]] == [f"common_voice_tr_{i}" for i in range(10, 20)]
    assert (corpus.splits["dev"][0].text, corpus.splits["dev"][0].speaker) == ("Söz 10", "c10")
    assert [(r.id, r.reason) for r in corpus.rejected["train"]] == [
        ("common_voice_tr_0", "it has no sentence")
    ]
    with pytest.raises(
        UserError,
        match=(
            r"cannot give what dataset.hub.config \(or dataset.language\) names \(xx, train\).*Available:"
            r" \['tr'\]"
        ),
    ):
        read("common-voice", tmp_path, hub__id=root, language="xx")
    with pytest.raises(UserError, match="cannot give what dataset.train names.*invalid"):
        read("common-voice", tmp_path, hub__id=root, language="tr", train=["invalid"])


def test_mls_of_the_hub(tmp_path):
    files = {"german": {s: [f"german/{s}.parquet"] for s in ("dev", "test", "train", "9_hours", "1_hours")}}
    root = make_repository(
        tmp_path / "mls",
        files,
        lambda i: {"transcript": f"wort {i}", "speaker_id": "12", "id": f"12_1_{i:06d}"},
    )
    corpus = read("mls", tmp_path, hub__id=root, language="german", train=["10hr"])
    assert [u.text for u in corpus.splits["train"]] == [
        f"wort {i}" for i in range(30, 50)
    ] and corpus.subsets["train"] == ["10hr"]
    with pytest.raises(UserError, match="dataset.train=1hr/0 is not a split of MLS on the hub"):
        read("mls", tmp_path, hub__id=root, language="german", train=["1hr/0"])


def minds_row(i):
    return {
        "path": f"en-US~ABROAD/{i:03d}.wav",
        "transcription": f"I'd like {i}",
        "english_transcription": "",
        "intent_class": 0,
        "lang_id": 4,
    }


@pytest.mark.parametrize(
    "settings",
    [lambda root: {"hub__id": root}, lambda root: {"root": root}, lambda root: {"root": f"{root}/en-US"}],
)
def test_minds14_of_the_hub_and_its_files(tmp_path, settings):
    root = make_repository(
        tmp_path / "minds", {"en-US": {"train": ["en-US/train-00000-of-00001.parquet"]}}, minds_row, count=50
    )
    corpus = read("minds14", tmp_path, **settings(root))
    assert {s: len(r) for s, r in corpus.splits.items()} == {"train": 40, "dev": 5, "test": 5}
    rows = sorted((u for r in corpus.splits.values() for u in r), key=lambda u: u.id)
    assert [u.id for u in rows[:2]] == ["000", "001"]
    assert {u.text: audio_bytes(u) for u in rows} == {f"I'd like {i}": f"RIFF{i}".encode() for i in range(50)}
    assert corpus.subsets["dev"] == ["train[5 of 50 utterances, seed 0]"]
    again = read("minds14", tmp_path, **settings(root), split_seed=1)
    assert {u.id for u in again.splits["test"]} != {u.id for u in corpus.splits["test"]}
    if "root" in settings(root):
        with pytest.raises(UserError, match="dataset.language=de-DE is not in"):
            read("minds14", tmp_path, root=root, language="de-DE")


def test_any_dataset_with_slices_columns_and_names_from_the_audio(tmp_path):
    root = make_repository(
        tmp_path / "any",
        {"default": {"train": ["data/train-0.parquet", "data/train-1.parquet"]}},
        lambda i: {"words": f"w{i}", "who": i % 3},
    )
    corpus = read(
        "hub",
        tmp_path,
        hub__id=root,
        columns__text="words",
        columns__speaker="who",
        train=["train[:50%]"],
        dev=["train[50%:75%]"],
        test=["train[75%:]"],
    )
    assert {s: [u.id for u in r] for s, r in corpus.splits.items()} == {
        "train": [str(i) for i in range(10)],
        "dev": [str(i) for i in range(10, 15)],
        "test": [str(i) for i in range(15, 20)],
    }
    assert audio_bytes(corpus.splits["test"][2]) == b"RIFF17" and corpus.splits["test"][2].speaker == "2"
    carved = read("hub", tmp_path, root=root, columns__text="words")
    assert {s: len(r) for s, r in carved.splits.items()} == {"train": 16, "dev": 2, "test": 2}
    for settings, message in (
        (
            {"columns__text": "word"},
            (
                "no column 'word' in split train. Did you mean 'words'.*Columns there: audio, words,"
                " who.*dataset.columns.text"
            ),
        ),
        ({"columns__audio": "sound"}, "no column 'sound'.*dataset.columns.audio"),
        ({"train": ["trian"]}, "what dataset.train names"),
    ):
        with pytest.raises(UserError, match=message):
            read("hub", tmp_path, **{"hub__id": root, "columns__text": "words", **settings})


def test_a_folder_of_audio_files_is_read_by_its_table(tmp_path):
    """`datasets` reads such folders with torchcodec and FFmpeg only; their metadata.csv is a manifest."""
    for i in range(12):
        (tmp_path / f"{i}.wav").write_bytes(b"RIFF")
    (tmp_path / "metadata.csv").write_text(
        "file_name,transcription\n" + "".join(f"{i}.wav,ciao {i}\n" for i in range(12))
    )
    if importlib.util.find_spec("torchcodec") is None:
        with pytest.raises(
            UserError, match="dataset=csv dataset.train=FOLDER/metadata.csv dataset.columns.file=file_name"
        ):
            read("hub", tmp_path, root=str(tmp_path), columns__text="transcription")
    corpus = read(
        "csv",
        tmp_path,
        train=str(tmp_path / "metadata.csv"),
        columns__file="file_name",
        columns__text="transcription",
    )
    assert corpus.splits["train"][0].audio.path == str(tmp_path / "0.wav")


def test_audio_by_path_opens(tmp_path):
    import soundfile

    wav = str(next(iter(sorted(shared("telephone-8k", "it").glob("*.wav")))))
    (tmp_path / "repository").mkdir()
    datasets.Dataset.from_list([{"audio": wav, "text": f"ciao {i}"} for i in range(12)]).to_parquet(
        tmp_path / "repository" / "train.parquet"
    )
    utterance = read("hub", tmp_path, root=str(tmp_path / "repository")).splits["train"][0]
    assert utterance.audio.open() == wav and soundfile.info(utterance.audio.open()).samplerate == 8000


def test_no_network_is_one_sentence(tmp_path):
    expected = (
        "nobody/nothing cannot be loaded: it is not in the local cache, and HF_HUB_OFFLINE is"
        " set.*dataset.root=FOLDER"
    )
    with pytest.raises(UserError, match=expected):
        read_corpus(section("hub", hub__id="nobody/nothing"), tmp_path)


def test_the_cache_alone_where_the_hub_is_out_of_reach(monkeypatch):
    """Known at once from a connection that is refused; not where there is one, and not behind a proxy, which
    is asked instead.
    """
    offline = hub.offline_where_unreachable.__wrapped__
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{there.getsockname()[1]}")
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        there.listen()
        offline()
        assert os.environ["HF_HUB_OFFLINE"] == "0" and not datasets.config.HF_HUB_OFFLINE
    with monkeypatch.context() as behind:
        behind.setenv("http_proxy", "http://127.0.0.1:1")
        offline()
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    offline()
    assert os.environ["HF_HUB_OFFLINE"] == "1" and datasets.config.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hub", "dataset.hub.id has no value"),
        ("common-voice", "Common Voice needs a language"),
        ("mls", "MLS needs a language"),
    ],
)
def test_what_the_hub_needs(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        read(name, tmp_path)
