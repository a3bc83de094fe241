"""`report`: what the page and the pictures say, against jiwer and values worked out by hand; escaping;
suspected label errors.
"""

import csv
import itertools
import json
import math
import random
import re
import struct
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
from harness import QUIET, SMALL, lines, make_corpus, run
from reporting import data_of, write_run

from asr_exp.builders.data import build_data
from asr_exp.cli.main import main
from asr_exp.commands.report.breakdown import Confusions, binned, grouped, operations
from asr_exp.commands.report.canvas import file_names, save
from asr_exp.commands.report.contents import UtteranceTable
from asr_exp.commands.report.detail import Aligned, UtteranceAnalysis, flac, peaks, spectrogram
from asr_exp.commands.report.figures import draw_errors
from asr_exp.commands.report.page import HERE
from asr_exp.commands.report.record import TrainingLosses, read_record, thinned
from asr_exp.commands.report.suspects import above_usual, suspects
from asr_exp.commands.report.utterance_figures import draw_utterance
from asr_exp.data.corpora.synthetic import demo
from asr_exp.decoding.alignment import Word
from asr_exp.runs.folder import load_run, signature
from asr_exp.scoring.error_rates import count_errors

EVIL = "</script><img src=x onerror=alert(1)> <!--<script> \u2028 & \"'"


def sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """References, and hypotheses with some words replaced, left out and put in."""
    draw = random.Random(seed)
    words = ["ba", "di", "go", "lu", "me", "no"]
    pairs = []
    for _ in range(count):
        reference = draw.choices(words, k=draw.randint(1, 9))
        hypothesis = [
            draw.choice(words) if draw.random() < 0.1 else word for word in reference if draw.random() > 0.05
        ]
        hypothesis += [draw.choice(words)] * (draw.random() < 0.1)
        pairs.append((" ".join(reference), " ".join(hypothesis)))
    return pairs


def asked(capsys, *arguments, status=0):
    assert main(["report", *map(str, arguments)]) == status
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return err if status else out


# ------------------------------------------------------------------------------------------------------------
# the data


def test_the_confusions_are_those_that_jiwer_aligns():
    pairs = sentences(300)
    found = Confusions()
    theirs = [Counter(), Counter(), Counter()]
    for reference, hypothesis in pairs:
        r, h = reference.split(), hypothesis.split()
        steps = operations(r, h)
        found.add(r, h, steps)
        counts = count_errors(r, h)
        assert (steps.count("S"), steps.count("D"), steps.count("I")) == (
            counts.substitutions,
            counts.deletions,
            counts.insertions,
        )
        assert steps.count("=") + steps.count("S") + steps.count("D") == len(r) and len(steps) - steps.count(
            "D"
        ) == len(h)
        for chunk in jiwer.process_words(reference, hypothesis).alignments[0]:
            said, heard = (
                r[chunk.ref_start_idx : chunk.ref_end_idx],
                h[chunk.hyp_start_idx : chunk.hyp_end_idx],
            )
            if chunk.type == "substitute":
                theirs[0].update(zip(said, heard, strict=True))
            theirs[1].update(said if chunk.type == "delete" else [])
            theirs[2].update(heard if chunk.type == "insert" else [])
    assert [found.substitutions, found.deletions, found.insertions] == theirs and min(
        one.total() for one in theirs
    ) > 10


def test_groups_by_hand():
    errors, lengths = np.array([[1, 0, 2, 1]]), np.array([4, 4, 4, 8])
    one, two = grouped(["x", "x", "y", "y"], errors, lengths, ["a", "b", "a", "b"], ["x", "y"])
    assert (one.name, one.utterances, one.units, one.rates) == ("x", 2, 8, [1 / 8]) and two.rates == [
        pytest.approx(3 / 12)
    ]
    low, high = one.intervals[0]
    assert low == 0 and high > 1  # two clusters say next to nothing
    names, order = binned(np.array([1, 2, 2, 3, 10]), 0)
    assert [order.index(name) for name in names] == sorted(order.index(name) for name in names) and names[
        -1
    ].endswith("10")
    assert binned(np.full(9, 2.0), 1) == (["2.0"] * 9, ["2.0"])


def test_curves_are_thinned_to_means():
    curve = [(step, float(step % 2)) for step in range(10_000)]
    thin = thinned(curve)
    assert len(thin) == 1000 and thin[0] == (4.5, 0.5) and thinned(curve[:7]) == curve[:7]


def test_the_page_of_a_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = sentences(60)
    write_run(
        tmp_path / "r", pairs, steps=2500, losses=[0.1 + 0.01 * (i % 7) + 5 * (i == 9) for i in range(60)]
    )
    out = asked(capsys, "r")
    page = tmp_path / "r/report.html"
    assert "Not every utterance can be heard" in out and str(Path("r/report.html")) in out
    data = data_of(page)
    total = jiwer.process_words(*map(list, zip(*pairs, strict=True)))
    assert data["runs"][0]["summary"]["wer"] == pytest.approx(total.wer)
    assert [data["confusions"][key]["totals"] for key in ("substitutions", "deletions", "insertions")] == [
        [total.substitutions], [total.deletions], [total.insertions]]  # fmt: skip
    steps = "".join(data["utterances"]["steps"][0])
    assert [steps.count(letter) for letter in "SDI"] == [
        total.substitutions,
        total.deletions,
        total.insertions,
    ]
    assert len(data["runs"][0]["curves"]["train/loss"]) == 1000 and data["runs"][0]["curves"]["dev/wer"] == [
        [2500, 0.2]
    ]
    assert "train/grad_norm" not in data["runs"][0]["curves"]
    assert sum(row["utterances"] for row in data["groups"]["length"]) == 60
    assert {row["name"] for row in data["groups"]["speaker"]} == {"s0", "s1", "s2"}
    (listed,) = data["suspects"]
    assert listed["rows"][0]["id"] == "utt-00009"


def test_a_page_of_two_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = sentences(60)
    write_run(tmp_path / "r", pairs)
    write_run(tmp_path / "s", [(reference, reference) for reference, _ in pairs], seed=7)
    asked(capsys, "r", "s", "report.audio=0", "out=both.html")
    data = data_of(tmp_path / "both.html")
    assert [run["summary"]["wer"] > 0 for run in data["runs"]] == [True, False] and "p " in data["comparison"]
    assert all(len(row) == 4 for row in data["confusions"]["substitutions"]["rows"])
    assert asked(capsys, "a=s", "b=r", "report.audio=0") and (tmp_path / "s/report-against-r.html").is_file()
    write_run(tmp_path / "other", sentences(60, seed=1))
    assert "not scored on the same references" in asked(capsys, "r", "other", status=2)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes = Counter(), Counter()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes.update(name for name, _ in attrs)


def test_what_is_said_cannot_become_markup(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "r", [(EVIL, "fine"), ("fine", EVIL)], speakers=(EVIL,))
    asked(capsys, "r", "report.audio=0")
    text = (tmp_path / "r/report.html").read_text(encoding="utf-8")
    page = Tags()
    page.feed(text)
    assert not page.tags["img"] and not page.attributes["onerror"] and page.tags["script"] == 2
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert data_of(tmp_path / "r/report.html")["utterances"]["reference"][0] == EVIL


@pytest.mark.parametrize(("arguments", "words"), [
    (["nowhere"], "not the folder of a run"),
    (["r", "format=pdf"], "report writes html"),
    (["r", "report.utterances=[utt-0001]"], "report.utterances"),
    (["empty"], "nothing to show yet"),
    (["r", "files=[a.wav]"], "format=png"),
    (["torn"], "Line 2 of torn/metrics.jsonl"),
])  # fmt: skip
def test_mistakes_are_told_in_a_sentence(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "r", sentences(5))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/config.yaml").write_text((tmp_path / "r/config.yaml").read_text())
    write_run(tmp_path / "torn", sentences(5))
    (tmp_path / "torn/metrics.jsonl").write_text(
        '{"step": 1, "train/loss": 1}\n{"step": 2, "trai\n{"step": 3}\n'
    )
    assert words in asked(capsys, *arguments, status=2)


def test_odd_numbers_and_letters_are_no_hindrance(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "r", [("ba", "ba"), ("di", "go")], steps=3, losses=[math.nan, 1.0])
    said = tmp_path / "r/hypotheses.test.jsonl"
    said.write_text(said.read_text().replace('"go"', '"\\ud800"'))
    with (tmp_path / "r/metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "train/loss": NaN}\n{"step": 5, "train/loss": Infinity}\n')
    asked(capsys, "r", "report.audio=0", "report.suspects=0")
    data = data_of(tmp_path / "r/report.html")
    assert data["utterances"]["hypothesis"] == [["ba", "?"]] and data["utterances"]["loss"] == [[None, 1.0]]
    assert [step for step, _ in data["runs"][0]["curves"]["train/loss"]] == [1, 2, 3]


@pytest.mark.parametrize(
    "odd",
    [{"counts": {}}, {"reference": None}, {"hypothesis": 3}, {"seconds": "1"}, {"loss": "low"}, {"id": []}],
)
def test_a_line_of_another_kind_is_told(tmp_path, capsys, monkeypatch, odd):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "r", sentences(3))
    first, *others = (tmp_path / "r/hypotheses.test.jsonl").read_text().splitlines()
    changed = json.dumps({**json.loads(first), **odd})
    (tmp_path / "r/hypotheses.test.jsonl").write_text("\n".join([changed, *others, ""]))
    assert "Line 1 of r/hypotheses.test.jsonl is no line of hypotheses" in asked(
        capsys, "r", "report.audio=0", status=2
    )


def test_a_run_without_a_score_says_nothing_of_utterances(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "r", sentences(3), steps=4)
    (tmp_path / "r/hypotheses.test.jsonl").unlink()
    assert "Not every utterance" not in asked(capsys, "r")


def test_the_page_parts_words_as_python_does():
    said = re.search(r'const SPACE = "(.+?)"', (HERE / "page.js").read_text())[1].replace("\\\\", "\\")
    assert [chr(n) for n in range(0x10000) if re.fullmatch(said, chr(n))] == [
        chr(n) for n in range(0x10000) if not chr(n).split()
    ]


def test_a_run_at_work_shows_what_it_has(tmp_path, capsys, monkeypatch):
    """Its curves to the last whole line, and what it said of dev; no result yet."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "r", pairs := sentences(9), steps=4, split="dev")
    (tmp_path / "r/result.json").unlink()
    with (tmp_path / "r/metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "train/lo')
    assert "test has not been scored yet" in asked(capsys, "r", "report.audio=0", "report.suspects=0")
    data = data_of(tmp_path / "r/report.html")
    assert len(data["runs"][0]["curves"]["train/loss"]) == 4 and data["split"] == "dev"
    assert data["runs"][0]["summary"]["wer"] == pytest.approx(jiwer.wer(*map(list, zip(*pairs, strict=True))))


# ------------------------------------------------------------------------------------------------------------
# sound


def test_spectrogram_peaks_and_flac_of_a_tone(tone, tmp_path):
    clip = (tone(1.0, hertz=1000.0) * 32767).astype(np.int16)
    picture, step = spectrogram(clip, 16000)
    assert picture.shape == (64, 101) and step == 0.01 and picture.max() == 0 and picture.min() >= -70
    # the band with 1 kHz in its middle
    mel = 2595 * np.log10(1 + 1000 / 700) / (2595 * np.log10(1 + 8000 / 700)) * 65 - 1
    assert abs(picture[:, 50].argmax() - mel) < 1
    low, high = peaks(clip)
    assert high.max() == round(clip.max() / 32768 * 127) and low.min() == round(clip.min() / 32768 * 127)
    (tmp_path / "a.flac").write_bytes(flac(clip, 16000))
    assert np.array_equal(soundfile.read(tmp_path / "a.flac", dtype="int16")[0], clip)


# ------------------------------------------------------------------------------------------------------------
# suspected label errors


def synthetic(
    epochs: int, memorised: float, utterances: int = 1000, wrong: int = 50, seed: int = 0
) -> tuple[TrainingLosses, set[int]]:
    """Losses that fall epoch by epoch, those of wrong transcripts slower, down to `memorised` times the
    others'.
    """
    rng = np.random.default_rng(seed)
    bad = set(rng.choice(utterances, wrong, replace=False).tolist())
    hard = np.exp(0.2 * rng.standard_normal(utterances))
    rows = []
    for epoch in range(epochs):
        for place, number in enumerate(rng.permutation(utterances)):
            fallen = 4 * np.exp(-0.8 * (epoch + place / utterances))
            factor = max(memorised, 8.0 * np.exp(-0.3 * epoch)) if int(number) in bad and epoch else 1.0
            rows.append(
                (int(number), len(rows), fallen * hard[number] * factor * np.exp(0.2 * rng.standard_normal()))
            )
    return TrainingLosses(*map(np.array, zip(*rows, strict=True))), bad


@pytest.mark.parametrize("memorised", [3.0, 1.0])
def test_planted_errors_rank_on_top_of_synthetic_losses(memorised):
    """Also where the last epochs' losses of wrong transcripts have come down to those of the others."""
    found, bad = synthetic(8, memorised)
    ranked = [one.number for one in suspects(found, 50)]
    assert set(ranked[:20]) <= bad and len(bad & set(ranked)) >= 45
    assert len(suspects(found, 3)) == 3 and all(
        len(one.losses) == 8 == len(one.usual) for one in suspects(found, 3)
    )


@pytest.mark.parametrize("seed", range(3))
def test_losses_of_before_anything_was_learned_do_not_rank_first(seed):
    """One epoch: losses fall within it, those of wrong transcripts 0.6 times as fast; a tenth of those of its
    beginning are high by chance. By height alone, 4 of the first 20 are wrong ones at the most.
    """
    rng = np.random.default_rng(seed)
    order, time = rng.permutation(1500), np.arange(1500) / 1500
    wrong = order % 20 == 0
    chance = 1.5 * ((time < 0.3) & (rng.random(1500) < 0.1)) + 0.2 * rng.standard_normal(1500)
    losses = 3 * np.exp(-3 * time * np.where(wrong, 0.6, 1.0) + chance)
    listed = suspects(TrainingLosses(order, np.arange(1500), losses), 20)
    assert sum(one.number % 20 == 0 for one in listed) >= 15
    by_height = order[np.argsort(-above_usual(losses)[0])[:20]]
    assert sum(by_height % 20 == 0) <= 4


@pytest.mark.slow
def test_the_loss_of_every_utterance_is_kept(tmp_path, cache):
    overrides = [
        "trainer.max_epochs=2",
        "trainer.max_steps=null",
        "trainer.batch_seconds=8",
        "trainer.log_every=3",
    ]
    folder = run(*make_corpus(tmp_path / "corpus"), *SMALL, *QUIET, *overrides, cwd=tmp_path)
    kept = lines(folder / "losses.train.jsonl")
    curve = {line["step"]: line for line in lines(folder / "metrics.jsonl") if "train/loss" in line}
    assert [line["step"] for line in kept] == sorted(curve)
    for line in kept:
        assert np.mean([loss or 0.0 for loss in line["losses"]]) == pytest.approx(
            curve[line["step"]]["train/loss"], rel=1e-3
        )
    assert Counter(number for line in kept for number in line["utterances"]) == Counter(
        {number: 2 for number in range(20)}
    )


@pytest.mark.slow
def test_planted_wrong_transcripts_rank_on_top_of_a_trained_run(tmp_path, cache, capsys):
    """Transcripts swapped between 16 of 240 utterances: the report of five epochs names them, without having
    been told of them.
    """
    pytest.importorskip("espeakng_loader", reason="the demo extra is not installed")
    place = demo.spoken(demo.splits({"train": 240, "dev": 10, "test": 10}, 0), tmp_path / "spoken", 0)
    with (place / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    planted = set()
    for one, two in itertools.pairwise(rows[::15]):
        if len(planted) < 16 and one["text"] != two["text"] and not planted & {one["file"], two["file"]}:
            one["text"], two["text"] = two["text"], one["text"]
            planted |= {one["file"], two["file"]}
    with (place / "train.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    data = [
        "dataset=csv",
        "dataset.language=en",
        *(f"dataset.{split}={place / split}.csv" for split in ("train", "dev", "test")),
    ]
    folder = run(
        *data,
        "model=tiny",
        *QUIET,
        "trainer.max_epochs=5",
        "trainer.max_steps=null",
        "trainer.eval_every=250",
        cwd=tmp_path,
    )
    asked(capsys, folder, f"report.suspects={len(planted)}", "report.audio=0")
    listed = [row["id"] for row in data_of(folder / "report.html")["suspects"][0]["rows"]]
    # "on" for "off" is not much of an error
    assert len(planted) == 16 and set(listed[:8]) <= planted and len(planted & set(listed)) >= 13


# ------------------------------------------------------------------------------------------------------------
# of a trained run


def size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG, by its header."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and content[12:16] == b"IHDR"
    return struct.unpack(">II", content[16:24])


def test_pictures_of_a_run_have_the_size_asked_for(tmp_path, capsys, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib.image", reason="the extra report is not installed")
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "r", sentences(40), steps=30)
    out = asked(capsys, "r", "format=png", "out=pictures", "report.width=900")
    names = {Path(line).name for line in out.splitlines()}
    assert names == {"curves.png", "errors.png", "groups.png"}
    for name in names:
        assert size(tmp_path / "pictures" / name)[0] == 900
        assert matplotlib.imread(tmp_path / "pictures" / name)[..., :3].std() > 0.05  # something is drawn


def test_dollars_in_words_are_no_mathematics(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "r", [("$\\frac$ ba", "$_$ ba"), ("ba $_$", "ba")], speakers=("$\\left$", "$_$"))
    asked(capsys, "r", "format=png", "out=pictures")
    spoken = Aligned([Word("$_$", 0.0, 0.1, 1.0)], [Word("$\\frac$", 0.0, 0.1, 1.0)])
    heard = UtteranceAnalysis(
        np.full((10, 3), 1 / 3, np.float32), 0.02, ["$_$", "$\\left$", "∅"], 2, [0] * 10, None, spoken
    )
    assert (
        size(save(draw_utterance(np.ones(3200, np.int16), 16000, heard), tmp_path / "a.png", 400))[0] == 400
    )


@pytest.mark.parametrize("damage", [b'{"step": 3, "train/lo\xff\xfe', b"\xff\xfe\x00\n", b"[]\n"])
def test_damaged_metrics_are_a_sentence(tmp_path, capsys, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    folder = write_run(tmp_path / "r", sentences(5), steps=3)
    whole = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(whole + damage)
    refused = damage.endswith(b"\n")  # a last line that is not whole is left out
    out = asked(capsys, "r", "report.audio=0", "report.suspects=0", status=2 if refused else 0)
    assert not refused or f"Line {whole.count(bytes([10])) + 1} of r/metrics.jsonl is no line of a run" in out


def test_a_result_without_some_of_its_entries_is_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_run(tmp_path / "r", sentences(5), steps=3)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "train": {"steps": 3}, "best": None}))
    asked(capsys, "r", "report.audio=0", "report.suspects=0")
    assert (folder / "report.html").is_file()


def test_counts_are_drawn_as_counts(tmp_path):
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    config = load_run(str(write_run(tmp_path / "r", [("ba di", "ba go")])))
    config.run = str(tmp_path / "r")
    substitutions, deletions, _ = draw_errors(UtteranceTable([read_record(config, "test")], "word")).axes
    ticks = substitutions.get_xticks()
    assert len(ticks) > 1 and np.array_equal(ticks, ticks.round())
    assert deletions.texts[0].get_text() == "none" and not len(deletions.get_xticks())


def test_no_two_pictures_have_one_name():
    assert file_names(["a/b", "a_b", "a_b-2", "x"]) == ["a_b", "a_b-2", "a_b-2-2", "x"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run on a corpus of tones, not much trained."""
    place = tmp_path_factory.mktemp("trained")
    corpus = make_corpus(place / "corpus")
    with (place / "corpus/test.csv").open() as file:
        first = next(csv.DictReader(file))
    return (
        run(
            *corpus,
            *SMALL,
            *QUIET,
            "trainer.max_steps=6",
            "trainer.eval_every=3",
            "trainer.batch_seconds=12",
            cwd=place,
        ),
        first,
    )


@pytest.mark.slow
def test_a_trained_run_can_be_heard(trained, tmp_path, capsys):
    folder, first = trained
    out = asked(capsys, folder, f"out={tmp_path / 'page.html'}", "report.audio=4", "report.suspects=6")
    assert "10 utterances with sound" in out
    data, text = data_of(tmp_path / "page.html"), (tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(data["details"]) == 4 and [len(group["rows"]) for group in data["suspects"]] == [6]
    start = text.index('id="detail-0">') + len('id="detail-0">')
    one = json.loads(text[start : text.index("</script>", start)])
    analysis = one["analyses"][0]
    assert analysis["reference"]["words"] and analysis["frames"] == pytest.approx(
        one["seconds"] / analysis["frame"], abs=3
    )
    asked(
        capsys,
        folder,
        f"out={tmp_path / 'page.html'}",
        f"report.utterances=[{first['file']}]",
        "report.suspects=0",
    )
    assert list(data_of(tmp_path / "page.html")["details"]) == ["0"]


@pytest.mark.slow
def test_suspects_are_mended_in_their_table_and_read_back(trained, tmp_path, capsys):
    folder, _ = trained
    page = [f"out={tmp_path / 'page.html'}", "report.audio=0", "report.suspects=3"]
    out = asked(capsys, folder, *page)
    assert f"{tmp_path / 'suspects.csv'}  (suspected label errors" in out
    with (folder.parents[3] / "corpus/train.csv").open() as file:
        originals = {row["file"]: row["text"] for row in csv.DictReader(file)}
    with (tmp_path / "suspects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    listed = data_of(tmp_path / "page.html")["suspects"][0]["rows"]
    assert [row["id"] for row in rows] == [row["id"] for row in listed] and len(rows) == 3
    for row, shown in zip(rows, listed, strict=True):
        assert row["transcript"] == originals[row["id"]] and Path(row["file"]).is_file()
        assert row["recognised"] == shown["hypothesis"] and float(row["score"]) == shown["score"]
    asked(capsys, folder, *page)
    assert not (tmp_path / "suspects-2.csv").exists()  # nobody has touched the first
    mended = (
        (tmp_path / "suspects.csv").read_text().replace(f",{rows[0]['transcript']},", ",mended by hand,", 1)
    )
    (tmp_path / "suspects.csv").write_text(mended)
    assert "suspects-2.csv" in asked(capsys, folder, *page)
    assert (tmp_path / "suspects.csv").read_text() == mended
    own = load_run(folder)
    before = signature(own)
    own.dataset.corrections = str(tmp_path / "suspects.csv")
    assert signature(own) != before
    texts = {one.id: one.text for one in build_data(own).corpus.splits["train"]}
    assert texts[rows[0]["id"]] == "mended by hand" and texts[rows[1]["id"]] == originals[rows[1]["id"]]


@pytest.mark.slow
def test_pictures_of_an_utterance_and_of_a_file(trained, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    folder, first = trained
    asked(capsys, folder, "format=png", f"out={tmp_path}", f"report.utterances=[{first['file']}]")
    assert size(tmp_path / first["file"].replace(".wav", ".wav.png"))[0] == 1600
    wave = folder.parents[3] / "corpus" / first["file"]
    asked(
        capsys,
        f"run={folder}/checkpoints/best",
        f"files=[{wave}]",
        "format=png",
        f"out={tmp_path}",
        "report.width=700",
    )
    assert size(tmp_path / f"{wave.stem}.png")[0] == size(tmp_path / f"{wave.stem}-layers.png")[0] == 700
    (tmp_path / "twin").mkdir()
    for name, content in ((wave.name, wave.read_bytes()), ("bad.wav", b"no sound")):
        (tmp_path / "twin" / name).write_bytes(content)
    files = f"files=[{tmp_path}/twin/bad.wav,{tmp_path}/gone.wav,{wave},{tmp_path}/twin/{wave.name}]"
    told = asked(
        capsys, f"run={folder}/checkpoints/best", files, "format=png", f"out={tmp_path / 'both'}", status=1
    )
    assert "bad.wav" in told and "gone.wav" in told and "2 recordings could not be drawn" in told
    assert {path.name for path in (tmp_path / "both").iterdir()} == {
        f"{wave.stem}{end}.png" for end in ("", "-layers", "-2", "-2-layers")
    }
