"""What a run remembers of its data: in every corpus, each kind of edit is noticed and named."""

import shutil
import time
from pathlib import Path

import pytest
from corpus_section import section
from harness import make_corpus

from asr_exp.data.corpora.base import read_corpus
from asr_exp.data.fingerprint import DataFingerprint, in_words

CORPORA = {
    "timit": ("timit", "TIMIT", {}, "TEST/*/*/SX*.TXT"),
    "timit-phones": ("timit-phones", "TIMIT", {"test": ["test"]}, "TEST/*/*/SX*.PHN"),
    "librispeech": (
        "librispeech-100h",
        "LibriSpeech",
        {"train": ["train-clean-100"], "dev": ["test-clean"], "test": ["test-clean"]},
        "test-clean/*/*/*.trans.txt",
    ),
    "common-voice": ("common-voice", "cv-corpus-6.1-2020-12-11", {"language": "tr"}, "tr/test.tsv"),
    "mls": ("mls", "mls_german", {"language": "german"}, "test/transcripts.txt"),
}


@pytest.fixture(params=CORPORA)
def corpus(request, shared_data, tmp_path):
    """(dataset section of a copy of a real corpus, the index file that holds a transcript of test)."""
    name, folder, settings, index = CORPORA[request.param]
    source = shared_data(folder)
    copy = shutil.copytree(source, tmp_path / "moved" / folder, copy_function=shutil.copy2)
    return section(name, root=str(copy), **settings), sorted(copy.glob(index))


def fingerprint(dataset, cache: Path) -> DataFingerprint:
    return DataFingerprint.of(dataset, read_corpus(dataset, cache))


def test_a_correction_of_a_real_corpus_is_noticed(corpus, tmp_path):
    dataset, indices = corpus
    before = fingerprint(dataset, tmp_path)
    assert before.source == "local" and before.untouched() and fingerprint(dataset, tmp_path) == before
    before.save(tmp_path)
    time.sleep(0.01)  # the clock of the file system
    used = next(path for path in indices if str(path) in before.files)
    content = used.read_text(encoding="utf-8")
    tsv = used.suffix == ".tsv"
    last = "reddetti." if tsv else max(content.split("\n"), key=len).split()[-1]
    used.write_text(
        content.replace(last, last[::-1] + "x" if "PHN" not in used.name else "iy"), encoding="utf-8"
    )
    kept = DataFingerprint.load(tmp_path)
    assert kept is not None and not kept.untouched()
    changes = kept.changes(fingerprint(dataset, tmp_path))
    assert "test" in changes and "transcript" in changes["test"] and "differ" in changes["test"]
    assert "train" not in changes, changes


def test_a_corpus_may_be_moved(corpus, tmp_path):
    dataset, _ = corpus
    before = fingerprint(dataset, tmp_path)
    root = Path(dataset.root)
    dataset.root = str(root.rename(root.parent / "elsewhere"))
    after = fingerprint(dataset, tmp_path)
    assert before.splits == after.splits and not before.changes(after)


@pytest.fixture
def manifests(tmp_path):
    words = make_corpus(tmp_path / "corpus", train=6, rest=3)
    files = dict(word.removeprefix("dataset.").split("=") for word in words)
    files.pop("dataset")
    return section("csv", **files), tmp_path / "corpus"


@pytest.mark.parametrize(
    "edit, told",
    [
        (
            lambda rows: [rows[0], [rows[1][0], "ba ba ba", rows[1][2]], *rows[2:]],
            "1 of 3 transcripts differs",
        ),
        (
            lambda rows: [*rows[:2], [rows[2][0], rows[2][1], "someone"], rows[3]],
            "speaker of 1 utterance differs",
        ),
        (lambda rows: rows[:-1], "1 utterance is gone"),
        (lambda rows: [*rows, ["train0.wav", "go", "s9"]], "1 utterance is new"),
        (lambda rows: [*rows, ["", "go", "s9"]], "other rows are rejected"),
    ],
)
def test_each_kind_of_edit_is_named(manifests, tmp_path, edit, told):
    dataset, folder = manifests
    before = fingerprint(dataset, tmp_path)
    path = folder / "test.csv"
    rows = edit([line.split(",") for line in path.read_text().splitlines()])
    path.write_text("\n".join(",".join(row) for row in rows) + "\n")
    changes = before.changes(fingerprint(dataset, tmp_path))
    assert list(changes) == ["test"] and told in changes["test"], changes
    assert in_words(changes).startswith("test: ")


def test_the_order_counts_in_training_alone(manifests, tmp_path):
    dataset, folder = manifests
    before = fingerprint(dataset, tmp_path)
    for split in ("train", "test"):
        header, *rows = (folder / f"{split}.csv").read_text().splitlines()
        (folder / f"{split}.csv").write_text("\n".join([header, *rows[::-1]]) + "\n")
    assert before.changes(fingerprint(dataset, tmp_path)) == {
        "train": "its rows are in another order, or other rows are rejected"
    }


def test_another_recording_is_noticed_by_its_size(manifests, tmp_path):
    dataset, folder = manifests
    before = fingerprint(dataset, tmp_path)
    shutil.copy(folder / "train0.wav", folder / "dev1.wav")
    changes = before.changes(fingerprint(dataset, tmp_path))
    assert changes == {"dev": "the recording, segment or speaker of 1 utterance differs"}


def test_what_is_not_used_does_not_count(manifests, tmp_path):
    dataset, folder = manifests
    dataset.max_utterances = 2
    before = fingerprint(dataset, tmp_path)
    path = folder / "test.csv"
    path.write_text(path.read_text() + "train0.wav,go,s9\n")
    assert not before.untouched() and not before.changes(fingerprint(dataset, tmp_path))


def test_torn_records_are_no_error(manifests, tmp_path):
    dataset, folder = manifests
    before = fingerprint(dataset, tmp_path)
    before.save(tmp_path)
    path = folder / "test.csv"
    path.write_text(path.read_text().replace("test1.wav,", "test1.wav,ba "))
    after = fingerprint(dataset, tmp_path)
    rows = (tmp_path / "data.npz").read_bytes()
    (tmp_path / "data.npz").write_bytes(rows[: len(rows) // 2])
    kept = DataFingerprint.load(tmp_path)
    assert kept is not None and "its transcripts differ (3 utterances before" in kept.changes(after)["test"]
    (tmp_path / "data.json").write_text((tmp_path / "data.json").read_text()[:40])
    assert DataFingerprint.load(tmp_path) is None
