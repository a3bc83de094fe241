"""Which score of dev tells which checkpoint is the best."""

import math
from types import SimpleNamespace

import pytest

from asr_exp.builders.selection import selection_metric
from asr_exp.config.compose import compose, validate
from asr_exp.core.errors import UserError
from asr_exp.evaluation.evaluate import Evaluation
from asr_exp.training.loop import score
from asr_exp.training.state import Hooks, State
from asr_exp.training.trackers import NoTracker

SPACED = SimpleNamespace(references=lambda first: ["the cat sat"])
UNSPACED = SimpleNamespace(references=lambda first: ["今日は天気がいいですね"])


def metric(*overrides: str, dev: SimpleNamespace = SPACED, best: dict | None = None) -> str:
    return selection_metric(compose([*overrides]), dev, best or {})


def test_by_what_a_run_goes():
    assert metric() == "wer" and metric("tokenizer=phone", "text=espeak") == "per"
    assert metric(dev=UNSPACED) == "cer" and metric("trainer.metric=dev.wer", dev=UNSPACED) == "wer"
    assert metric("trainer.metric=dev.loss") == "loss"
    assert metric(dev=UNSPACED, best={"metric": "wer"}) == "wer"  # begun by a version that knew no other


@pytest.mark.parametrize(
    "overrides", [["trainer.metric=dev.per"], ["tokenizer=phone", "text=espeak", "trainer.metric=dev.cer"]]
)
def test_a_metric_that_is_not_measured_is_refused(overrides):
    with pytest.raises(UserError, match="is not measured where the model emits"):
        validate(compose(overrides))


@pytest.mark.parametrize(("name", "best", "stale"), [("wer", 1, 2), ("cer", 2, 1), ("loss", 3, 0)])
def test_best_and_patience_go_by_the_metric(name, best, stale):
    """Three scores of dev, each the best by another metric."""
    scores = {1: (0.5, 0.9, 3.0), 2: (0.6, 0.1, 2.0), 3: (0.7, 0.8, 1.0)}
    saved, state = [], State()
    setup = SimpleNamespace(ema=None, select="best", metric=name)

    def evaluate(step: int) -> Evaluation:
        wer, cer, loss = scores[step]
        return Evaluation({"wer": wer, "cer": cer, "per": None}, loss, [])

    hooks = Hooks(evaluate, lambda state, best: saved.append(state.step), None, NoTracker(), None)
    values = []
    for state.step in scores:
        values.append(score(setup, state, hooks))
    column = ("wer", "cer", "loss").index(name)
    assert values == [one[column] for one in scores.values()]
    assert (state.best["step"], state.best["metric"], state.stale) == (best, name, stale)
    assert state.best["value"] == min(values) and saved[-1] == best


def test_a_score_without_a_rate_is_never_the_best():
    setup, state = SimpleNamespace(ema=None, select="best", metric="wer"), State(step=1)
    summary = {"wer": None, "cer": None, "per": None}
    hooks = Hooks(lambda step: Evaluation(summary, None, []), lambda *_: None, None, NoTracker(), None)
    assert score(setup, state, hooks) == math.inf and state.best["value"] == math.inf
