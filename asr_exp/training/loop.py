"""The training loop: fit -> train_step -> backward.

Everything random at a step is drawn from (seed, step), so a run resumes to the same curve without a record of
what came before, and any number of ranks walks the same one. Numbers stay on the device until they are
written.
"""

import logging
import math
import time
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import torch

from asr_exp.core.errors import Pruned, Stopped
from asr_exp.data.batch import Batch, collate, prefetch
from asr_exp.model.loss import ctc_losses
from asr_exp.runtime.distributed import seed_everything
from asr_exp.runtime.signals import Signals
from asr_exp.training.gradients import clip_gradients, step_if_finite
from asr_exp.training.progress import Progress
from asr_exp.training.setup import TrainingSetup
from asr_exp.training.state import Hooks, State, save
from asr_exp.training.step_metrics import StepFigures, StepMetrics

log = logging.getLogger(__name__)

SAVE_SECONDS = 600.0  # a checkpoint at least this often, besides the one at each evaluation


def fit(setup: TrainingSetup, state: State, hooks: Hooks) -> State:
    """Train from `state.step` to `setup.total`, evaluating and saving on the way.

    Raises Stopped after a signal and Pruned where the pruner gives a reason, both with the state saved;
    UserError when training has diverged beyond hope.
    """
    progress = Progress(state.step, setup.total, setup.runtime.main)
    pending = StepMetrics(setup, state, hooks, progress)
    wall_before, saved = state.wall_seconds, time.monotonic()
    steps = range(0) if out_of_patience(setup, state) else range(state.step + 1, setup.total + 1)
    with Signals() as signals, closing(progress):
        for step, batches in prefetch(steps, lambda s: (s, _batches(setup, s)), ahead=2):
            pending.add(train_step(setup, step, batches))
            hooks.profile.step()
            heard = float(setup.plan.seconds[setup.plan.step(step)].sum())
            progress.advance(step, heard)
            state.step = step
            state.audio_seconds = state.audio_seconds + heard
            state.wall_seconds = wall_before + progress.seconds
            due = step % setup.eval_every == 0 or step == setup.total
            wanted = setup.runtime.all_reduce_max(
                2 * signals.received + (time.monotonic() - saved > SAVE_SECONDS)
            )
            if due or wanted or step % setup.log_every == 0:
                pending.flush()
            if due:
                began = time.monotonic()
                rate = score(setup, state, hooks)
                progress.paused(time.monotonic() - began)
            if due or wanted:
                save(state, hooks)
                saved = time.monotonic()
            if wanted > 1:
                setup.runtime.broadcast(None)  # none leaves before the checkpoint is written
                raise Stopped(
                    f"Stopped at step {step} of {setup.total} and saved; the same command goes on from"
                    " there.",
                    wanted // 2,
                )
            if (
                due
                and (why := setup.runtime.broadcast(setup.runtime.main and hooks.pruner(step, rate)))
                and step < setup.total
            ):
                raise Pruned(why)
            if out_of_patience(setup, state):
                log.info(
                    "No better dev score in %d evaluations: stopping early at step %d.", state.stale, step
                )
                break
        if signals.received:  # while the last step was scored and saved
            raise Stopped(
                f"Stopped after step {state.step}; the same command goes on from there.", signals.received
            )
    return state


def out_of_patience(setup: TrainingSetup, state: State) -> bool:
    return setup.patience is not None and state.stale >= setup.patience


def score(setup: TrainingSetup, state: State, hooks: Hooks) -> float:
    """Evaluate on dev at `state.step` (with averaged weights where there are any), save them if they are to
    be kept -> the rate.
    """
    if setup.ema:
        setup.ema.swap()
    result = hooks.evaluate(state.step)
    metric = "per" if result.summary["wer"] is None else "wer"
    # Early on every rate is 1.0 (all blanks); the loss then says which of two is ahead.
    mark = (result.rate, math.inf if result.loss is None else result.loss)
    better = not state.best or setup.select == "last" or mark < (state.best["value"], state.best["loss"])
    if better:
        state.best = {
            "step": state.step,
            "metric": metric,
            "value": mark[0],
            "loss": mark[1],
            "summary": result.summary,
        }
        hooks.save(state, True)
    if setup.ema:
        setup.ema.swap()
    state.stale = 0 if better else state.stale + 1
    rates = {
        f"dev/{name}": result.summary[name]
        for name in ("wer", "cer", "per")
        if result.summary[name] is not None
    }
    if hooks.metrics:
        hooks.metrics.write([{"step": state.step, "dev/loss": result.loss, **rates}])
    hooks.tracker.log(rates if result.loss is None else {"dev/loss": result.loss, **rates}, state.step)
    return result.rate


def train_step(setup: TrainingSetup, step: int, batches: Sequence[Batch]) -> StepFigures:
    """Make one optimizer step over this rank's micro-batches and return its figures, left on the device.

    The gradient is that of the mean loss over all utterances of the step, on all ranks together.
    """
    model, device = setup.model, setup.runtime.device
    model.train()
    frozen = step <= setup.freeze_encoder_steps
    for parameter in setup.encoder:
        parameter.requires_grad_(not frozen)
    model.drop_layers(setup.seed, step)
    utterances = setup.plan.step(step)
    count = len(utterances)
    sums = torch.zeros(1 + model.network.lm_head.out_features, device=device)
    losses_of = []
    for number, batch in enumerate(batches, 1):
        if number == len(batches):
            setup.gradients.last_pass(model.dropped_parameters())
        seed_everything(setup.seed, step, number - 1, setup.runtime.rank)
        losses, labels = backward(setup, batch.to(device), count)
        sums += torch.cat([losses.sum()[None] / count, labels])
        losses_of.append((batch.indices, losses))
    if setup.sharded:
        run_dummy_passes(setup, step, len(losses_of))
    trained = [p for p in setup.trained if p.requires_grad]
    setup.gradients.finish()
    if setup.scaler.is_enabled():
        setup.scaler.unscale_(setup.optimizer)
    norm = clip_gradients(trained, setup.clip_norm)
    for group in setup.optimizer.param_groups:
        group["lr"] = group["peak_lr"] * setup.factor(step)
    if setup.scaler.is_enabled():
        setup.scaler.step(setup.optimizer)
        setup.scaler.update()
    else:
        step_if_finite(setup.optimizer, norm)
    setup.optimizer.zero_grad(set_to_none=True)
    if setup.ema:
        setup.ema.update(step)
    return StepFigures(step, sums, norm, utterances, losses_of)


def backward(setup: TrainingSetup, batch: Batch, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward and backward of one pass -> (loss of each utterance, number of frames by their likeliest
    label).
    """
    with setup.runtime.autocast():
        emissions = setup.model(batch)
    losses = ctc_losses(emissions, batch.labels, batch.label_lengths, setup.blank, setup.reduction)
    setup.scaler.scale(losses.sum() / count).backward()
    with torch.no_grad():
        frames = torch.tensor(emissions.frames).to(losses.device, non_blocking=True)
        valid = torch.arange(emissions.logits.shape[1], device=losses.device)[None, :] < frames[:, None]
        labels = valid.new_zeros(emissions.logits.shape[-1], dtype=torch.float32)
        labels.index_add_(0, emissions.logits.argmax(-1).flatten(), valid.flatten().float())
    return losses.detach(), labels


def run_dummy_passes(setup: TrainingSetup, step: int, made: int) -> None:
    """Passes without weight, to the number of the rank with the most: ranks gather weights, and sum
    gradients, together.
    """
    # a second of silence, masked as speech is so that the same weights have a part
    samples = setup.model.extractor.sampling_rate
    masks = setup.masks.draw(step, np.zeros(1, dtype=np.int64), [samples]) if setup.masks else (None, None)
    silence = Batch(
        np.zeros(0), torch.zeros(1, samples, dtype=torch.int16), [samples], torch.zeros(0), [0], *masks
    )
    for _ in range(made, setup.plan.max_micro_batches(step, setup.runtime.world)):
        with setup.runtime.autocast():
            emissions = setup.model(silence.to(setup.runtime.device))
        (0.0 * emissions.logits.sum()).backward()


def _batches(setup: TrainingSetup, step: int) -> list[Batch]:
    """This rank's forward passes of a step."""
    passes = setup.plan.micro_batches(step, setup.runtime.rank, setup.runtime.world)
    made = [
        batch
        for indices in passes
        if (batch := collate(setup.split, indices, setup.masks, step, setup.speed))
    ]
    if cache := setup.model.front_end.cache:
        made = [cache.attach(batch) for batch in made]
    return [batch.pinned() if setup.runtime.device.type == "cuda" else batch for batch in made]
