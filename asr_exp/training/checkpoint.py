"""Checkpoints of a training run: saved whole, kept for averaging, and read again when a run is resumed."""

import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from asr_exp.core.checksums import checksum, damage, file_damage, read_checksums, write_checksums
from asr_exp.core.errors import UserError
from asr_exp.core.files import read_json, recover, short_reason, write_error, write_folder
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.model.saving import save_pretrained
from asr_exp.runs.results import DEV_CANDIDATE, LOSSES
from asr_exp.runtime.fsdp import gathered, shard_like, shard_optimizer_state
from asr_exp.training.setup import TrainingSetup
from asr_exp.training.state import State

log = logging.getLogger(__name__)

STATE = "training_state.pt"
SMALLER = "pass_limit.json"  # how large a pass may be, for ranks that start again
RECENT = "checkpoints/recent"  # the weights of the last evaluations, for trainer.average
# Kept in a checkpoint too, so that a damaged one can be restored.
PAST = ("metrics.jsonl", LOSSES)
COPY = ".copy"  # ends their names there: a run has one metrics.jsonl for whoever looks for it


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write training_state.pt into the folder of a checkpoint."""
    torch.save(state, folder / STATE)


def load_state(folder: Path, device: torch.device, mapped: bool = False) -> dict[str, Any]:
    """Read the training state of a checkpoint onto a device; mapped: leave it in the file, and read a tensor
    (on the CPU) when it is used.

    Raises UserError where the file cannot be read as one.
    """
    try:
        return torch.load(
            folder / STATE, map_location="cpu" if mapped else device, weights_only=True, mmap=mapped
        )
    except Exception as why:
        reason = short_reason(why)
        raise UserError(
            f"{folder / STATE} cannot be read ({reason}); delete {folder} to start this run afresh."
        ) from None


def load_weights(folder: Path, network: torch.nn.Module, checked: bool = False) -> None:
    """Read a checkpoint folder's weights into a network. checked: see first that its files are what was
    written. Raises UserError where they are not, where the file is missing, or a tensor has another shape.
    """
    if checked and (found := damage(folder)):
        raise UserError(_lost_best(folder, found))
    try:
        _load(folder / "model.safetensors", network)
    except Exception as why:
        reason = short_reason(why)
        raise UserError(
            f"{folder}/model.safetensors cannot be loaded ({reason}); the folder is not this run's"
            " checkpoint."
        ) from None


def _load(path: Path, network: torch.nn.Module) -> None:
    """Set a network's weights to those of a file; where they are cut across ranks, this rank's part."""
    own = network.state_dict()
    with safe_open(path, framework="pt") as file:
        network.load_state_dict(
            {name: shard_like(file.get_tensor(name), own.get(name)) for name in file.keys()}  # noqa: SIM118
        )


def keep_recent(folder: Path, weights: dict[str, torch.Tensor], step: int, count: int) -> None:
    """Keep the weights of the evaluation at `step` for `average_recent`, and no more than the last `count`.

    Raises UserError on a full disk.
    """
    from safetensors.torch import save_file

    beside = folder / "new"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, beside)
    except Exception as why:  # safetensors has its own for a full disk
        beside.unlink(missing_ok=True)
        raise write_error(folder, why) from why
    kept = folder / f"{step:09d}.safetensors"
    others = [path for path in sorted(folder.glob("*.safetensors")) if path != kept]
    sums = read_checksums(folder)
    recent = {path.name: sums[path.name] for path in others if path.name in sums}
    write_checksums(folder, {**recent, kept.name: checksum(beside)})
    beside.rename(kept)
    for old in sorted([*others, kept])[:-count]:
        old.unlink()


@torch.no_grad()
def average_recent(folder: Path, network: torch.nn.Module) -> None:
    """Set a network's weights to the mean of those that `keep_recent` has kept (checkpoint averaging, as in
    Vaswani et al. 2017, section 6.1). Raises UserError where a file of them is damaged.
    """
    paths = sorted(folder.glob("*.safetensors"))
    expected = read_checksums(folder)
    for path in paths:
        if path.name in expected and (found := file_damage(path, expected[path.name])):
            raise UserError(
                f"{folder} is damaged: {found}. Delete that file to average the others, and give the same"
                " command again."
            )
    sums = [torch.zeros_like(p) for p in network.parameters()]
    for path in paths:
        _load(path, network)
        for total, parameter in zip(sums, network.parameters(), strict=True):
            total += parameter
    for parameter, total in zip(network.parameters(), sums, strict=True):
        parameter.copy_(total / len(paths))


def save_checkpoint(
    folder: Path, setup: TrainingSetup, tokenizer: Tokenizer, state: State, best: bool
) -> None:
    """Write checkpoints/best (weights) or checkpoints/last (weights and all that it takes to resume).

    Every rank takes part: rank 0 writes, with the shards of the others.

    Args:
        folder: of the run.
        setup: whose weights, optimizer, average and gradient scale are saved.
        tokenizer: saved beside the weights, so that transformers can load the checkpoint.
        state: where the run stands.
        best: write `best` instead of `last`.

    Raises:
        UserError: where it cannot be written (a full disk); the checkpoint before it is whole.
    """
    parts: dict[str, Any] = {"weights": setup.model.network.state_dict()}
    if not best:
        parts |= {"optimizer": setup.optimizer.state_dict(), "ema": setup.ema.average if setup.ema else None}
    parts = gathered(parts, setup.runtime.main)
    if not setup.runtime.main:
        return

    def fill(place: Path) -> None:
        save_pretrained(setup.model, place, parts.pop("weights"))
        tokenizer.save(place)
        if not best:
            save_state(place, {"state": asdict(state), "scaler": setup.scaler.state_dict(), **parts})
            for name in PAST:
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, place / f"{name}{COPY}")

    where = folder / "checkpoints" / ("best" if best else "last")
    write_folder(where, fill, checked=True, keep_old=not best)
    if best:
        (folder / DEV_CANDIDATE).replace(folder / "hypotheses.dev.jsonl")


def keep_weights(folder: Path, setup: TrainingSetup, step: int, count: int) -> None:
    """Keep the weights of the evaluation at `step` to be averaged at the end, and no more than the last
    `count`. Every rank takes part.
    """
    weights = gathered(setup.model.network.state_dict(), setup.runtime.main)
    if setup.runtime.main:
        keep_recent(folder / RECENT, weights, step, count)


def drop_previous(folder: Path) -> None:
    """Delete the checkpoint before the last one of a run that is finished."""
    shutil.rmtree(folder / "checkpoints" / "last.old", ignore_errors=True)


def _lost_best(best: Path, found: str) -> str:
    return (
        f"{best} is damaged: {found}. Delete that folder and give the same command again to go on without it"
        " (the best is then chosen among the evaluations still to come), or delete"
        f" {best.parent} to start this run afresh."
    )


def _undamaged(folder: Path) -> str | None:
    """See that the last checkpoint of a run is one without damage: the one before it, where the last is
    damaged, which is then deleted. Returns what to tell the user where there is none, or the best is damaged.
    """
    places = folder / "checkpoints"
    best = places / "best"
    last, before = places / "last", places / "last.old"
    recover(best)
    if not recover(last, keep_old=True):
        return None
    if found := damage(last):
        if not before.exists():
            return f"{last} is damaged: {found}. Delete {places} to start this run afresh."
        if worse := damage(before):
            return (
                f"{last} is damaged ({found}), and {before} too ({worse}). Delete {places} to start this run"
                " afresh."
            )
        log.warning("%s is damaged: %s. Taking the checkpoint before it.", last, found)
        shutil.rmtree(last)
        before.rename(last)
    found = damage(best) if best.exists() else None
    return _lost_best(best, found) if found else None


def resume(folder: Path, setup: TrainingSetup) -> State:
    """Set weights, optimizer and averages to those of the last checkpoint, and return its state; a new state
    where there is no checkpoint. A damaged one is passed over for the one before it.

    Raises UserError where the training data is not what the checkpoint was trained on, or a file of it cannot
    be read and there is no other.
    """
    data = setup.split.fingerprint()
    if problem := setup.runtime.broadcast(_undamaged(folder) if setup.runtime.main else None):
        raise UserError(problem)
    setup.pass_limit.file = folder / SMALLER
    setup.pass_limit.lower(setup.runtime.broadcast((read_json(folder / SMALLER) or {}).get("seconds")))
    last = folder / "checkpoints" / "last"
    if not setup.runtime.broadcast(last.exists()):
        return State(data=data)
    saved = load_state(last, setup.runtime.device, mapped=setup.sharded)
    state = State(**saved["state"])
    if state.data != data:
        raise UserError(
            f"The training data has changed since {folder} was begun; bring it back, or delete that folder to"
            " start afresh."
        )
    setup.pass_limit.lower(state.pass_seconds)
    load_weights(last, setup.model.network)
    setup.optimizer.load_state_dict(shard_optimizer_state(saved["optimizer"], setup.optimizer))
    setup.scaler.load_state_dict(saved["scaler"])
    if setup.ema:
        setup.ema.average = [
            shard_like(full, part) for full, part in zip(saved["ema"], setup.ema.average, strict=True)
        ]
    if state.best and not setup.runtime.broadcast((folder / "checkpoints" / "best").exists()):
        log.warning("checkpoints/best, of step %d, is gone; the best is chosen anew.", state.best["step"])
        state.best = {}
    log.info("Going on from step %d of %d.", state.step, setup.total)
    return state
