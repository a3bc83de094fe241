"""Datasets of the hub: only the splits asked for are fetched, once; why the hub does not give them, in one
sentence.
"""

import io
from types import SimpleNamespace

import harness
import hub_server
import numpy as np
import pytest
import soundfile
from corpus_section import make_repository, read, section

from asr_exp.core.errors import UserError
from asr_exp.data.corpora.base import read_corpus
from asr_exp.data.corpora.hub import load_table

datasets = pytest.importorskip("datasets")


def shards(folder, splits, count=1):
    """{split: its files}, as the repositories of the hub name them."""
    return {
        split: [f"{folder}/{split}-{i:05d}-of-{count:05d}.parquet" for i in range(count)] for split in splits
    }


LIBRISPEECH = {
    config: {split: [f"{config}/{split}/0000.parquet"] for split in splits}
    for config, splits in {
        "clean": ["train.100", "train.360", "validation", "test"],
        "other": ["train.500", "validation", "test"],
    }.items()
}
# a dataset's name -> its repository's files, a row, and what is asked of it -> the files to fetch
LAYOUTS = {
    "librispeech-100h": SimpleNamespace(
        files=LIBRISPEECH,
        settings={},
        row=lambda i: {
            "file": f"{i}.flac",
            "text": f"WORD {i}",
            "speaker_id": 7 + i % 2,
            "chapter_id": 1,
            "id": f"7-1-{i:04d}",
        },
        fetched={"clean/train.100/0000.parquet", "clean/validation/0000.parquet", "clean/test/0000.parquet"},
    ),
    "mls": SimpleNamespace(
        files={
            one: shards(one, ["dev", "test", "train", "9_hours", "1_hours"]) for one in ("german", "polish")
        },
        settings={"language": "german", "train": ["10hr"]},
        row=lambda i: {"transcript": f"wort {i}", "speaker_id": f"{i % 3}", "id": f"12_1_{i:06d}"},
        fetched={f"german/{split}-00000-of-00001.parquet" for split in ("9_hours", "1_hours", "dev", "test")},
    ),
    "minds14": SimpleNamespace(
        files={one: shards(one, ["train"], 2) for one in ("en-US", "de-DE")},
        settings={"language": "en-US"},
        row=lambda i: {
            "path": f"en-US~ABROAD/{i:03d}.wav",
            "transcription": f"I'd like {i}",
            "intent_class": 0,
        },
        fetched={f"en-US/train-0000{i}-of-00002.parquet" for i in (0, 1)},
    ),
    "common-voice": SimpleNamespace(
        files={
            one: shards(one, ["train", "validation", "test", "validated", "other"]) for one in ("tr", "cy")
        },
        settings={"language": "tr"},
        row=lambda i: {"client_id": f"c{i}", "path": f"common_voice_tr_{i}.mp3", "sentence": f"Söz {i}"},
        fetched={f"tr/{split}-00000-of-00001.parquet" for split in ("train", "validation", "test")},
    ),
}


@pytest.fixture
def speech(hub, tmp_path):
    """lab/speech, with the layout of LibriSpeech."""
    layout = LAYOUTS["librispeech-100h"]
    make_repository(tmp_path / "speech", layout.files, layout.row)
    hub.add_dataset("lab/speech", tmp_path / "speech")
    return hub


def parquet(hub):
    return {file for file in hub.fetched("lab/speech") if file.endswith(".parquet")}


def contents(corpus):
    return {
        split: [
            (row.id, row.text, row.speaker, row.audio.identity(), row.audio.open().read()) for row in rows
        ]
        for split, rows in corpus.splits.items()
    }


@pytest.mark.parametrize("name", LAYOUTS)
def test_only_the_splits_asked_for_are_fetched_and_only_once(hub, tmp_path, monkeypatch, name):
    layout = LAYOUTS[name]
    make_repository(tmp_path / "repository", layout.files, layout.row)
    hub.add_dataset("lab/speech", tmp_path / "repository")
    asked = {"hub__id": "lab/speech", **layout.settings}
    first = contents(read(name, tmp_path, **asked))
    assert parquet(hub) == layout.fetched
    assert len(first["train"]) > 10 or len(first["train"]) == len(first["dev"]) == 10

    hub.requests.clear()
    assert contents(read(name, tmp_path, **asked)) == first and parquet(hub) == set()
    hub.requests.clear()
    hub_server.go_offline(monkeypatch)
    assert contents(read(name, tmp_path, **asked)) == first and hub.requests == []


def test_the_rows_and_the_fingerprint_are_those_of_the_whole_which_is_used_where_it_is_there(
    speech, tmp_path
):
    alone = contents(read("librispeech-100h", tmp_path, hub__id="lab/speech"))
    whole = datasets.load_dataset("lab/speech", "clean")  # as earlier versions did
    assert {split: len(table) for split, table in whole.items()} == {
        "train.100": 10,
        "train.360": 10,
        "validation": 10,
        "test": 10,
    }
    assert contents(read("librispeech-100h", tmp_path, hub__id="lab/speech")) == alone
    table = load_table("lab/speech", "clean", "train.100", None, "dataset.train")
    assert (
        table._fingerprint == whole["train.100"]._fingerprint
        and table.cache_files == whole["train.100"].cache_files
    )
    more = load_table("lab/speech", "clean", "train.360", None, "dataset.train")
    assert more.cache_files == whole["train.360"].cache_files


def test_offline_after_an_earlier_version_that_fetched_everything(speech, tmp_path, monkeypatch):
    datasets.load_dataset("lab/speech", "clean")
    hub_server.go_offline(monkeypatch)
    corpus = read("librispeech-100h", tmp_path, hub__id="lab/speech")
    assert [row.id for row in corpus.splits["dev"]] == [f"7-1-{i:04d}" for i in range(20, 30)]


def test_offline_a_revision_that_an_earlier_version_fetched_whole(hub, tmp_path, monkeypatch):
    for revision in ("v1", "main"):
        files = {"default": shards("data", ["train", "test"])}
        make_repository(tmp_path / revision, files, lambda i, of=revision: {"text": f"{of} {i}"}, 3)
        hub.add_dataset("lab/speech", tmp_path / revision, revision=revision)
        datasets.load_dataset("lab/speech", revision=revision)
    hub_server.go_offline(monkeypatch)
    for revision in ("v1", "main"):
        assert (
            load_table("lab/speech", None, "train", revision, "dataset.train")["text"][0] == f"{revision} 0"
        )


def test_slices_and_sums_of_splits(speech):
    table = load_table("lab/speech", "clean", "train.100[:20%]+validation[50%:]", None, "dataset.train")
    assert table["id"][:] == [f"7-1-{i:04d}" for i in (0, 1, 25, 26, 27, 28, 29)]
    assert parquet(speech) == {"clean/train.100/0000.parquet", "clean/validation/0000.parquet"}
    assert len(load_table("lab/speech", "clean", "all", None, "dataset.train")) == 40


def test_offline_beside_another_configuration(speech, tmp_path, monkeypatch):
    """`datasets` looks for what it has prepared itself, and says that there is another configuration
    alone.
    """
    datasets.load_dataset("lab/speech", "other")
    load_table("lab/speech", "clean", "train.100", None, "dataset.train")
    hub_server.go_offline(monkeypatch)
    assert len(load_table("lab/speech", "clean", "train.100", None, "dataset.train")) == 10
    with pytest.raises(UserError, match="lab/speech"):
        load_table("lab/speech", "clean", "train.360", None, "dataset.train")


def test_a_split_that_is_not_there_is_known_before_anything_is_fetched(speech):
    for config, split, message in (
        (
            "clean",
            "trian.100",
            (
                r"dataset.train names \(clean, trian.100\): there is no split trian.100. Did you mean"
                r" 'train.100'"
            ),
        ),
        (
            "cleen",
            "train.100",
            r"dataset.hub.config \(or dataset.language\) names \(cleen, train.100\).*'clean', 'other'",
        ),
        (
            None,
            "train.100",
            r"dataset.hub.config \(or dataset.language\) names \(default, train.100\).*'clean', 'other'",
        ),
    ):
        with pytest.raises(UserError, match=message):
            load_table("lab/speech", config, split, None, "dataset.train")
    assert parquet(speech) == set()
    load_table("lab/speech", "clean", "train.100", None, "dataset.train")
    with pytest.raises(UserError, match=message):  # though there is but one configuration in the cache
        load_table("lab/speech", None, "train.100", None, "dataset.train")


def test_the_number_of_rows_that_the_card_promises_is_held_to(hub, tmp_path):
    layout = LAYOUTS["mls"]
    make_repository(tmp_path / "speech", {"german": layout.files["german"]}, layout.row)
    promised = {split: 11 if split == "test" else 10 for split in layout.files["german"]}
    sizes = "".join(
        f"  - {{name: {split}, num_bytes: 1, num_examples: {count}}}\n" for split, count in promised.items()
    )
    columns = {"audio": "audio", "transcript": "string", "speaker_id": "string", "id": "string"}
    features = "".join(f"  - {{name: {name}, dtype: {kind}}}\n" for name, kind in columns.items())
    card = tmp_path / "speech/README.md"
    info = f"dataset_info:\n- config_name: german\n  features:\n{features}  splits:\n{sizes}"
    info += f"  size_in_bytes: {10**18}\n"  # no disk has room for all of it
    card.write_text(card.read_text().removesuffix("---\n") + f"{info}---\n")
    hub.add_dataset("lab/speech", tmp_path / "speech")
    assert len(load_table("lab/speech", "german", "dev", None, "dataset.dev")) == 10
    with pytest.raises(UserError, match="lab/speech could not be read: .*num_examples=11"):
        load_table("lab/speech", "german", "test", None, "dataset.test")


@pytest.mark.parametrize("both", [False, True])
def test_a_revision_is_kept_to(hub, tmp_path, monkeypatch, both):
    for revision in ("main", "v1"):
        files = {"default": shards("data", ["train", "test"])}
        make_repository(tmp_path / revision, files, lambda i, of=revision: {"text": f"{of} {i}"}, 3)
        commit = hub.add_dataset("lab/speech", tmp_path / revision, revision=revision)

    def texts(revision):
        return load_table("lab/speech", None, "train", revision, "dataset.train")["text"][:]

    expected = {revision: [f"{revision} {i}" for i in range(3)] for revision in ("main", "v1")}
    assert texts("v1") == expected["v1"]
    if both:
        assert texts(None) == expected["main"]
    hub_server.go_offline(monkeypatch)
    assert texts("v1") == texts(commit) == expected["v1"]
    with pytest.raises(
        UserError,
        match="lab/speech cannot be loaded: it is not in the local cache, and HF_HUB_OFFLINE is set",
    ):
        texts("v2")
    if both:
        assert texts(None) == expected["main"]


WAIT = {"status": 429, "headers": {"Retry-After": "7"}}
TRAIN = "clean/train.100/0000.parquet"
REFUSALS = {
    "gated": (
        {"status": 403, "code": "GatedRepo"},
        "its authors give it to those who accept its terms; open its page.*hf auth login",
    ),
    "gated, nobody logged in": (
        {"status": 401, "code": "GatedRepo"},
        "its authors give it to those who accept its terms",
    ),
    "gated, but for its card": (
        {"status": 403, "code": "GatedRepo", "file": TRAIN},
        "its authors give it to those who accept its terms",
    ),
    "private": (
        {"status": 401, "code": "RepoNotFound"},
        "it is not on the hub, or it is private; check the id, or type `hf auth login`",
    ),
    "no revision": ({"status": 404, "code": "RevisionNotFound"}, "it has no such revision"),
    "no file": ({"status": 404, "code": "EntryNotFound", "file": TRAIN}, f"it has no file {TRAIN}"),
    "token": (
        {"status": 403},
        r"the hub refuses \(403\): it is private, or given to those alone who accept its terms",
    ),
    "bad token": ({"status": 401}, r"the hub refuses \(401\)"),
    "too often": (WAIT, r"the hub asks to wait \(429\); try again in 7 s, or type `hf auth login`"),
    "too often, of a file": ({**WAIT, "file": TRAIN}, r"the hub asks to wait \(429\); try again in 7 s"),
    "down": ({"status": 503}, "the hub answers 503, which is its own trouble; try again later"),
    "down, of a file": ({"status": 502, "file": TRAIN}, "the hub answers 502"),
}


def refused(message):
    return pytest.raises(
        UserError, match=f"^lab/speech cannot be loaded: {message}.*dataset.root=FOLDER reads a local copy.$"
    )


@pytest.mark.parametrize("how", REFUSALS)
def test_why_the_hub_does_not_give_it(speech, hurried, how):
    answer, message = REFUSALS[how]
    speech.fail("lab/speech", **answer)
    with refused(message):
        load_table("lab/speech", "clean", "train.100", None, "dataset.train")
    speech.heal("lab/speech")
    # nothing of the refusal is kept
    assert len(load_table("lab/speech", "clean", "train.100", None, "dataset.train")) == 10


def test_what_is_in_the_cache_is_read_though_the_hub_is_down(speech, hurried):
    table = load_table("lab/speech", "clean", "train.100", None, "dataset.train")
    speech.fail("lab/speech", status=503)
    again = load_table("lab/speech", "clean", "train.100", None, "dataset.train")
    assert (again._fingerprint, again["id"][:]) == (table._fingerprint, table["id"][:])
    with refused("it is not in the local cache|the hub answers 503"):
        load_table("lab/speech", "clean", "train.360", None, "dataset.train")


@pytest.mark.parametrize("how", ["stall", "break_off", "truncate"])
def test_a_download_that_does_not_come_to_its_end(speech, hurried, how):
    getattr(speech, how)("lab/speech", TRAIN)
    with refused(
        "the transfer broke off, or nothing more came; give the same command again: files that came whole are"
        " kept"
    ):
        load_table("lab/speech", "clean", "train.100", None, "dataset.train")
    speech.heal("lab/speech")
    speech.requests.clear()
    assert len(load_table("lab/speech", "clean", "train.100", None, "dataset.train")) == 10
    assert parquet(speech) == {TRAIN}


@pytest.mark.parametrize("file", [None, TRAIN, "clean/train.100"])
def test_a_hub_that_takes_connections_and_keeps_silent(speech, hurried, file):
    """At once, where a file is asked for, or where the files are listed: that would wait for ever."""
    speech.hang("lab/speech", file)
    with refused("it is not in the local cache, and http://127.0.0.1:.* does not answer; try again later"):
        load_table("lab/speech", "clean", "train.100", None, "dataset.train")


def test_a_repository_that_is_not_there(hub):
    with refused("it is not on the hub, or it is private"):
        load_table("lab/speech", None, "train", None, "dataset.train")


def test_a_run_from_the_hub_and_once_more_without_it(hub, cache, tmp_path, monkeypatch):
    """What a run was trained and scored on with the hub, it can be scored on without."""
    rng = np.random.default_rng(0)

    def clip(i):
        file = io.BytesIO()
        words = [list(harness.WORDS)[(i + j) % 5] for j in range(3)]
        soundfile.write(file, harness.spoken(words, rng), 16000, format="FLAC")
        return file.getvalue()

    def row(i):
        return {
            "text": " ".join(list(harness.WORDS)[(i + j) % 5] for j in range(3)),
            "speaker_id": i % 2,
            "id": f"7-1-{i:04d}",
        }

    make_repository(tmp_path / "speech", {"clean": LIBRISPEECH["clean"]}, row, count=6, audio=clip)
    hub.add_dataset("lab/speech", tmp_path / "speech")
    folder = harness.run(
        "dataset=librispeech-100h", "dataset.hub.id=lab/speech", *harness.TWO_STEPS, cwd=tmp_path
    )
    assert harness.result(folder)["splits"]["test"][
        "utterances"
    ] == 6 and "clean/train.360/0000.parquet" not in parquet(hub)
    hub_server.go_offline(monkeypatch)
    hub.requests.clear()
    harness.call("evaluate", f"run={folder}", "split=dev", cwd=tmp_path)
    assert harness.result(folder)["splits"]["dev"]["utterances"] == 6 and hub.requests == []


def test_the_command_line_says_it_in_one_sentence(hub, tmp_path):
    hub.add_dataset("lab/speech", tmp_path)
    hub.fail("lab/speech", status=403, code="GatedRepo")
    done = harness.cli("dataset=hub", "dataset.hub.id=lab/speech", *harness.TWO_STEPS, cwd=tmp_path, status=2)
    assert harness.one_sentence(done).startswith(
        "error: lab/speech cannot be loaded: its authors give it to those who accept its terms"
    )


def test_a_section_of_the_hub_needs_no_more_than_the_split_that_is_scored(speech, tmp_path):
    dataset = section("librispeech-100h", hub__id="lab/speech", only="test")
    assert len(read_corpus(dataset, tmp_path).splits["test"]) == 10 and parquet(speech) == {
        "clean/test/0000.parquet"
    }
