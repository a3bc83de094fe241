"""The training monitor: silent on curves as they are published, heard once on those that go nowhere."""

import json
import random

import pytest
from harness import QUIET, lines, run

from asr_exp.training import monitor as plateau
from asr_exp.training.monitor import WINDOW, Recipe, TrainingMonitor, Window, diagnose

TOKENS = ["a", "b", "|", "[UNK]", "[PAD]"]
SMALL = [
    "model=tiny-random",
    "model.config.hidden_size=32",
    "model.config.intermediate_size=64",
    "model.config.num_conv_pos_embedding_groups=2",
]


def recipe(total=5000, settled=500, **more) -> Recipe:
    return Recipe(total, settled, 1e-4, TOKENS, TOKENS.index("[PAD]"), **more)


def window(step, loss=3.0, blank=0.7, label=0, share=0.2) -> Window:
    return Window(step, loss, blank, label, share)


def curve(of, to, start=WINDOW) -> list[Window]:
    """One window after another, each made by `of(step)`."""
    return [of(step) for step in range(start, to + 1, WINDOW)]


def heard(recipe, windows, dev=1.0) -> list[tuple[int, str]]:
    """What is diagnosed, and when, as a run goes on."""
    found = ((w.step, diagnose(recipe, windows[: i + 1], dev)) for i, w in enumerate(windows))
    return [(step, trouble[0]) for step, trouble in found if trouble]


# ------------------------------------------------------------------------------------------------------------
# all blanks


@pytest.mark.parametrize("leaves", [300, 700, 1000])
def test_the_plateaus_of_published_runs_are_normal(leaves):
    """WER 1.0 for the first 300 to 1000 steps, with a warm-up of 500; then it falls."""
    shown = curve(
        lambda s: window(s, blank=1.0 if s <= leaves else 0.75, loss=2.9 if s <= leaves else 1.0), 5000
    )
    for i, one in enumerate(shown):
        assert diagnose(recipe(), shown[: i + 1], 1.0 if one.step <= leaves + 100 else 0.6) is None


STUCK = [(5000, 500, 1500, 1600), (1500, 150, 450, 550), (1500, 60, 360, 460), (90, 9, None, None)]


@pytest.mark.parametrize("total, settled, earliest, latest", STUCK)
def test_a_run_that_stays_there_is_told_so(total, settled, earliest, latest):
    found = heard(recipe(total, settled), curve(lambda s: window(s, blank=1.0, share=0.0), total))
    if earliest is None:
        assert found == []  # too short to tell
    else:
        assert earliest < found[0][0] <= latest and {kind for _, kind in found} == {"plateau"}


def test_frozen_steps_are_no_plateau():
    """The recipes of fairseq train the head alone for 10,000 steps: `settled` is past them."""
    shown = curve(lambda s: window(s, blank=0.99), 10_900)
    assert heard(recipe(20_000, 10_000), shown) == []


def test_what_has_learned_is_left_alone():
    """Slow speech, or a threshold on blanks, says nothing against a dev score."""
    assert heard(recipe(), curve(lambda s: window(s, blank=0.985), 5000), dev=0.4) == []
    assert heard(recipe(), curve(lambda s: window(s, blank=0.95), 5000), dev=None) == []


def test_the_warning_says_what_was_seen_and_what_to_try():
    kind, text = diagnose(recipe(), curve(lambda s: window(s, blank=0.997, share=0.0), 1600), 1.0)
    assert kind == "plateau"
    for part in (
        "Step 1600 of 5000",
        "99.7 %",
        "dev error rate still 100 %",
        "optimizer.lr=3e-05",
        "0.0003",
        "schedule.warmup_steps",
        "trainer.batch_seconds",
        "`check`",
    ):
        assert part in text
    assert "freeze_front_end" not in text
    assert (
        "model.freeze_front_end=true"
        in diagnose(recipe(front_end_trained=True), curve(lambda s: window(s, blank=1.0), 1600), 1.0)[1]
    )


# ------------------------------------------------------------------------------------------------------------
# one label, and a loss that goes up


def test_one_label_and_nothing_else():
    stuck = curve(lambda s: window(s, blank=0.6, label=2, share=0.97), 5000)
    found = heard(recipe(), stuck)
    assert found[0][1] == "one label" and 1500 < found[0][0] <= 1600
    assert "97 % of all labels emitted are the space" in diagnose(recipe(), stuck, 1.0)[1]
    assert (
        "'a'" in diagnose(recipe(), curve(lambda s: window(s, blank=0.6, label=0, share=0.97), 5000), 1.0)[1]
    )
    assert heard(recipe(), curve(lambda s: window(s, blank=0.6, label=2, share=0.3), 5000)) == []


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        ({"share": 0.9}, {"share": 0.9}, "one label"),
        ({"share": 0.97}, {"share": 0.89}, None),
        ({"share": 0.97, "label": 2}, {"share": 0.97, "label": 1}, None),
        ({"blank": 0.98}, {"blank": 0.98}, "plateau"),
        ({"blank": 1.0}, {"blank": 0.97}, None),
    ],
)
def test_one_window_of_two_is_no_trouble(first, second, kind):
    """Two windows in a row have to show it, whichever of them is the later one."""
    for one, two in ((first, second), (second, first)):
        trouble = diagnose(recipe(), [window(1550, **one), window(1600, **two)], 1.0)
        assert (trouble and trouble[0]) == kind


def test_a_loss_that_goes_up_is_seen_at_any_step():
    up = curve(lambda s: window(s, loss=3.0 if s < 200 else 0.6), 400) + curve(
        lambda s: window(s, loss=2.8), 600, start=450
    )
    found = heard(recipe(), up, dev=0.4)
    assert found[0] == (500, "diverging")
    text = diagnose(recipe(), up, 0.4)[1]
    assert "from 0.6 at step 200 to 2.8 at step 600" in text and "optimizer.lr=3e-05 (it is 0.0001)" in text


def test_losses_that_wander_do_not_diverge():
    rng = random.Random(0)
    assert (
        heard(
            recipe(),
            curve(lambda s: window(s, loss=3 * 0.9 ** (s / 100) + rng.uniform(0, 0.02)), 5000),
            dev=0.1,
        )
        == []
    )
    spike = curve(lambda s: window(s, loss=3.0 if s in (50, 800) else 0.5), 1500)
    assert heard(recipe(), spike, dev=0.3) == []  # one bad window is not a trend


@pytest.mark.parametrize(("rises_to", "diverges"), [(0.3, False), (0.99, False), (1.0, True)])
def test_a_loss_near_zero_may_double(rises_to, diverges):
    """Of a loss that began at 3: what is less than a third of that is noise, however far it rises."""
    fallen = curve(lambda s: window(s, loss=3.0 if s == 50 else 0.1), 500)
    risen = curve(lambda s: window(s, loss=rises_to), 1000, start=550)
    assert bool(heard(recipe(), fallen + risen, dev=0.1)) == diverges


def test_longer_utterances_cost_more():
    """SortaGrad's first epoch runs from short to long: summed losses rise with the length."""
    rising = curve(lambda s: window(s, loss=0.01 * s), 1000)
    assert heard(recipe(comparable_from=1000), rising, dev=0.9) == []
    assert heard(recipe(), rising, dev=0.9)


# ------------------------------------------------------------------------------------------------------------
# following a run


def steps(first, last, blank=1.0):
    counts = [0.0, 1.0 - blank, 0.0, 0.0, blank]
    made = range(first, last + 1)
    return [{"step": s, "train/loss": 3.0, "train/blank_ratio": blank} for s in made], [
        [100 * c for c in counts] for _ in made
    ]


def test_a_window_by_hand(monkeypatch):
    """Medians, which a spike does not move; the label most often emitted, and its share, the blank aside."""
    windows = []
    monkeypatch.setattr(plateau, "diagnose", lambda recipe, so_far, dev: windows.append(so_far[-1]))
    rows = [{"step": s, "train/loss": 2.0 + s, "train/blank_ratio": s / 100} for s in range(1, WINDOW + 1)]
    rows[-1] |= {"train/loss": 1e6, "train/blank_ratio": 1.0}
    counts = [[1.0, 3.0, 0.0, 0.0, 90.0]] * (WINDOW - 10) + [[20.0, 3.0, 0.0, 0.0, 90.0]] * 10
    TrainingMonitor(recipe(), []).observe(rows, counts, None)  # 240 times `a` and 150 times `b`
    assert windows == [Window(WINDOW, 27.5, pytest.approx(0.255), 0, pytest.approx(240 / 390))]


@pytest.mark.parametrize("flush", [1, 7, 10, 130])
def test_one_warning_however_often_it_is_asked(flush, caplog):
    monitor, said = TrainingMonitor(recipe(), []), []
    for first in range(1, 2501, flush):
        said.append(monitor.observe(*steps(first, first + flush - 1), dev=1.0))
    assert len([text for text in said if text]) == 1 and len(caplog.records) == 1


def test_a_resumed_run_does_not_say_it_again():
    kept: list[str] = []
    assert TrainingMonitor(recipe(), kept).observe(*steps(1, 2000), dev=1.0)
    assert json.loads(json.dumps(kept)) == ["plateau"]
    assert TrainingMonitor(recipe(), kept).observe(*steps(2001, 4000), dev=1.0) is None


def test_steps_without_a_loss_do_no_harm():
    rows, counts = steps(1, 600)
    for row in rows:
        row["train/loss"] = row["train/blank_ratio"] = None
    assert TrainingMonitor(recipe(), []).observe(rows, counts, None) is None


def test_a_run_that_cannot_learn_is_told_so_once(corpus, tmp_path, monkeypatch):
    """The label counts of real steps: with a learning rate of next to nothing, what the first weights emit
    stays.
    """
    monkeypatch.setattr(plateau, "WINDOW", 5)
    monkeypatch.setattr(plateau, "QUIET", (5, 5))
    monkeypatch.setattr(plateau, "ONE_LABEL", 0.0)
    monkeypatch.setattr(plateau, "ALL_BLANK", 0.0)
    folder = run(
        *corpus,
        *SMALL,
        *QUIET,
        "trainer.max_steps=40",
        "trainer.eval_every=20",
        "trainer.batch_seconds=6",
        "optimizer.lr=1e-9",
        "schedule.warmup_steps=0",
        cwd=tmp_path,
    )
    told = [line for line in (folder / "train.log").read_text().splitlines() if "WARNING Step" in line]
    assert len(told) == 1 and "Step 10 of 40" in told[0] and "optimizer.lr=" in told[0]
    assert all("warning" not in key for line in lines(folder / "metrics.jsonl") for key in line)
    assert all(
        0 <= line["train/blank_ratio"] <= 1
        for line in lines(folder / "metrics.jsonl")
        if "train/blank_ratio" in line
    )
