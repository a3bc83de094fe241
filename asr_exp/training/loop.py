"""The training loop: fit -> train_step -> backward.

Everything random in a step is drawn from (seed, step), so a resumed run walks the same curve without a record
of what came before (on a CPU to the bit, on CUDA with deterministic algorithms), and so does any number of
ranks up to rounding. Figures stay on the device until they are written.
"""

import logging
import math
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
from asr_exp.training.pass_size import PassSizes
from asr_exp.training.passes import StepPasses
from asr_exp.training.progress import Progress
from asr_exp.training.save_schedule import SaveSchedule
from asr_exp.training.setup import TrainingSetup
from asr_exp.training.state import Hooks, State, save
from asr_exp.training.step_metrics import StepFigures, StepMetrics

log = logging.getLogger(__name__)


def fit(setup: TrainingSetup, state: State, hooks: Hooks) -> State:
    """Train from `state.step` to `setup.total`; score dev and save checkpoints on the way; return the state.

    Raises Stopped after a signal and Pruned where the pruner gives a reason, both with the state saved;
    UserError when training has diverged beyond hope.
    """
    progress = Progress(state.step, setup.total, setup.runtime.main)
    step_metrics = StepMetrics(setup, state, hooks, progress)
    sizes = PassSizes(setup, state)
    wall_before, saves = state.wall_seconds, SaveSchedule(setup.save_every)
    steps = range(0) if out_of_patience(setup, state) else range(state.step + 1, setup.total + 1)
    with Signals() as signals, closing(progress):
        for step, batches in prefetch(steps, lambda s: (s, _batches(setup, s)), ahead=2):
            with sizes.measured(step):
                step_metrics.add(train_step(setup, step, batches))
            hooks.profile.step()
            audio_seconds = float(setup.plan.seconds[setup.plan.step(step)].sum())
            progress.advance(step, audio_seconds)
            state.step = step
            state.audio_seconds += audio_seconds
            state.wall_seconds = wall_before + progress.seconds
            due = is_scored(setup, step)
            saves.stepped()
            # What any rank asks for, in one number: twice the signal it has received, and 1 for a checkpoint.
            request = setup.runtime.all_reduce_max(
                2 * signals.received + saves.is_due(step, is_scored(setup, step + 1))
            )
            if due or request or step % setup.log_every == 0:
                sizes.agree()
                step_metrics.flush()
            if due:
                with progress.paused(), saves.scoring():
                    value = score(setup, state, hooks)
            if due or request:
                with saves.saving():
                    save(state, hooks)
            if request > 1:
                setup.runtime.broadcast(None)  # no rank leaves before the checkpoint is written
                raise Stopped(
                    f"Stopped at step {step} of {setup.total} and saved; the same command goes on from"
                    " there.",
                    request // 2,
                )
            if (
                due
                and (reason := setup.runtime.broadcast(setup.runtime.main and hooks.pruner(step, value)))
                and step < setup.total
            ):
                raise Pruned(reason)
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


def is_scored(setup: TrainingSetup, step: int) -> bool:
    """Whether a step ends with an evaluation on dev."""
    return step % setup.eval_every == 0 or step == setup.total


def out_of_patience(setup: TrainingSetup, state: State) -> bool:
    """Whether training ends early: dev has not improved in `patience` evaluations."""
    return setup.patience is not None and state.stale >= setup.patience


def score(setup: TrainingSetup, state: State, hooks: Hooks) -> float:
    """Score dev at `state.step`, with the averaged weights where the run averages them, and save the weights
    if they are the best so far (or the last, with trainer.select=last). Returns the metric that tells: an
    error rate as a fraction, or the loss.
    """
    if setup.ema:
        setup.ema.swap()
    result = hooks.evaluate(state.step)
    # Early on every rate is 1.0 (all blanks); the loss then tells which of two checkpoints is better.
    loss = math.inf if result.loss is None else result.loss
    best = state.best
    rate = result.summary.get(setup.metric)
    value = loss if setup.metric == "loss" else math.inf if rate is None else rate
    better = not best or setup.select == "last" or (value, loss) < (best["value"], best["loss"])
    if better:
        state.best = {
            "step": state.step,
            "metric": setup.metric,
            "value": value,
            "loss": loss,
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
    return value


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
    passes = StepPasses(setup, step, batches)
    for attempt in passes.attempts():
        sums = torch.zeros(1 + model.network.lm_head.out_features, device=device)
        losses_of = []
        with passes.halved_where_they_do_not_fit():
            for one in attempt:
                if one.last:
                    setup.gradients.last_pass(model.dropped_parameters())
                # Parts of a pass draw what the whole would.
                seed_everything(setup.seed, step, one.number, setup.runtime.rank)
                losses, labels = backward(setup, one.batch.to(device), count)
                sums += torch.cat([losses.sum()[None] / count, labels])
                losses_of.append((one.batch.indices, losses))
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
    """Run one micro-batch forward and backward; gradients are added to those of the passes before.

    count: the utterances of the whole step, on all ranks, by which the loss is divided. Returns the CTC loss
    of each utterance, (utterances,), and the number of frames by their likeliest label, (labels,).
    """
    with setup.runtime.autocast():
        emissions = setup.model(batch)
    losses = ctc_losses(emissions, batch.labels, batch.label_lengths, setup.blank, setup.reduction)
    setup.scaler.scale(losses.sum() / count).backward()
    with torch.no_grad():
        frames = torch.tensor(emissions.frames, pin_memory=losses.is_cuda).to(
            losses.device, non_blocking=True
        )
        valid = torch.arange(emissions.logits.shape[1], device=losses.device)[None, :] < frames[:, None]
        labels = valid.new_zeros(emissions.logits.shape[-1], dtype=torch.float32)
        labels.index_add_(0, emissions.logits.argmax(-1).flatten(), valid.flatten().float())
    return losses.detach(), labels


def run_dummy_passes(setup: TrainingSetup, step: int, passes: int) -> None:
    """Run passes whose loss is multiplied by 0 until this rank has made as many as the rank with the most.

    With FSDP every pass gathers weights and sums gradients over all ranks, so that a rank with fewer passes
    would leave the others waiting. passes: how many this rank has made.
    """
    # A second of silence, masked as speech is, so that the same weights take part.
    samples = setup.model.extractor.sampling_rate
    masks = setup.masks.draw(step, np.zeros(1, dtype=np.int64), [samples]) if setup.masks else (None, None)
    silence = Batch(
        np.zeros(0), torch.zeros(1, samples, dtype=torch.int16), [samples], torch.zeros(0), [0], *masks
    )
    for _ in range(passes, setup.plan.max_micro_batches(step, setup.runtime.world, setup.pass_limit.seconds)):
        with setup.runtime.autocast():
            emissions = setup.model(silence.to(setup.runtime.device))
        (0.0 * emissions.logits.sum()).backward()


def _batches(setup: TrainingSetup, step: int) -> list[Batch]:
    """This rank's micro-batches of a step, pinned where they go to a GPU."""
    rows = setup.plan.micro_batches(step, setup.runtime.rank, setup.runtime.world)
    batches = [
        batch for indices in rows if (batch := collate(setup.split, indices, setup.masks, step, setup.speed))
    ]
    if cache := setup.model.front_end.cache:
        batches = [cache.attach(batch) for batch in batches]
    return [batch.pinned() if setup.runtime.device.type == "cuda" else batch for batch in batches]
