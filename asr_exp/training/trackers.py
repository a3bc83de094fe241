"""Where figures are written: `metrics.jsonl` always; beside it Weights & Biases, TensorBoard or nothing. Only
rank 0 writes them.
"""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from asr_exp.core.errors import UserError
from asr_exp.core.files import short_reason
from asr_exp.core.registry import Registry
from asr_exp.training.wandb_server import wandb_answers, wandb_key

log = logging.getLogger(__name__)

INIT_SECONDS = 15.0  # for W&B's server to answer at the start of a run
GRACE_SECONDS = 15.0  # at its end for what is left to be sent, or longer where the server answers
FINISH_SECONDS = 600.0  # but no longer than this


class Tracker(Protocol):
    """What receives figures and hypotheses beside metrics.jsonl."""

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """The figures of a step by name, and now and then a text."""

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Hypotheses. Each row has id, reference, hypothesis and rate (the error rate); audio is the samples,
        (samples,) int16, or None, and sample_rate is theirs in Hz.
        """

    def finish(self, summary: Mapping[str, Any], failed: bool) -> None:
        """The run has ended; summary: its scores on test by name, empty where it failed before."""


TRACKERS: Registry[Callable[..., Tracker]] = Registry("tracking.name")


def register_tracker(name: str) -> Callable[[Callable[..., Tracker]], Callable[..., Tracker]]:
    """Register `factory(folder, run_id, run_name, config, **settings) -> tracker` as `tracking.name=name`.

    settings: the other keys of the config's section.
    """
    return TRACKERS.register(name)


def make_tracker(name: str, **settings: Any) -> Tracker:
    """Build the tracker of that name. Raises UserError for an unknown one."""
    tracker = TRACKERS.make(name, **settings)
    fits = all(callable(getattr(tracker, method, None)) for method in ("log", "table", "finish"))
    TRACKERS.expect(name, fits, tracker, "a tracker with the methods log, table and finish")
    return tracker


@register_tracker("none")
class NoTracker:
    """Drops everything."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        pass

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        pass

    def finish(self, summary: Mapping[str, Any], failed: bool) -> None:
        pass


@register_tracker("wandb")
class WandbTracker:
    """Records a run with Weights & Biases: online where there is a key, otherwise offline. A run that is
    resumed continues the same W&B run.
    """

    def __init__(
        self,
        folder: Path,
        run_id: str,
        run_name: str,
        config: Mapping[str, Any],
        project: str,
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        **_: Any,
    ):
        import wandb

        self._wandb = wandb
        self._logged = False
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb_key() else "offline")
        # W&B keeps what it has not sent yet in the run folder, not in the home directory.
        for name in ("WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
            os.environ[name] = str(folder.absolute() / "wandb")
        if mode == "offline" and "WANDB_MODE" not in os.environ:
            log.info("W&B: no key, so offline (`wandb login` to go online, tracking=none for none).")
        (folder / "wandb").mkdir(parents=True, exist_ok=True)
        settings = {
            "dir": str(folder),
            "project": project,
            "entity": entity,
            "group": group,
            "tags": list(tags),
            "id": run_id,
            "name": run_name,
            "config": dict(config),
            "reinit": "finish_previous",
        }
        # a machine without a network is not to wait for W&B's own telemetry either
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        quiet = wandb.Settings(silent=True, console="off", init_timeout=INIT_SECONDS)
        self._run: Any = None
        try:
            self._run = wandb.init(
                mode=mode,  # type: ignore[arg-type]
                resume="allow" if mode == "online" else None,
                settings=quiet,
                **settings,  # type: ignore[arg-type]
            )
        except Exception as why:  # besides wandb.Error, those of the libraries that it sends with
            self._begin_offline(short_reason(why), {**settings, "settings": quiet})

    def _begin_offline(self, reason: str, settings: Mapping[str, Any]) -> None:
        """Record the run on this machine. reason: why the server cannot be reached."""
        # W&B's own process goes on with its attempt, under this run's id; a new one knows nothing of it
        parting = threading.Thread(target=_without_errors, args=(self._wandb.teardown,), daemon=True)
        parting.start()
        parting.join(GRACE_SECONDS)
        try:
            self._run = self._wandb.init(mode="offline", **settings)
        except Exception as why:
            self._give_up(why)
            return
        log.warning(
            "W&B cannot be reached (%s), so this run is recorded offline; to send it later: wandb sync %s",
            reason,
            self._records(),
        )

    def _records(self) -> str:
        """Where W&B keeps what it records of the run on this machine."""
        return os.path.relpath(Path(self._run.dir).parent)

    def _give_up(self, why: Exception) -> None:
        """Go on without W&B, and say so."""
        self._run = None
        log.warning(
            "W&B has failed (%s); the run goes on without it, metrics.jsonl has all.", short_reason(why)
        )

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        if self._run is None:
            return
        try:
            self._run.log(dict(metrics), step=step)
            self._logged = True
        except Exception as why:
            self._give_up(why)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        if self._run is None:
            return
        try:
            self._run.log({name: self._as_table(rows)}, step=step)
        except Exception as why:
            self._give_up(why)

    def _as_table(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        table = self._wandb.Table(columns=["id", "reference", "hypothesis", "rate", "audio"])
        for row in rows:
            audio = row.get("audio")
            sound = (
                None
                if audio is None
                else self._wandb.Audio(audio.astype(np.float32) / 32768.0, sample_rate=row["sample_rate"])
            )
            table.add_data(row["id"], row["reference"], row["hypothesis"], row["rate"], sound)
        return table

    def finish(self, summary: Mapping[str, Any], failed: bool) -> None:
        if self._run is None:
            return
        offline, records = bool(self._run.offline), self._records()
        failure: list[Exception] = []

        def finish() -> None:
            try:
                self._run.summary.update(dict(summary))
                self._run.finish(exit_code=int(failed))
            except Exception as why:
                failure.append(why)

        # in a thread that can be left behind: it waits as long as the server does not answer
        thread = threading.Thread(target=finish, daemon=True)
        thread.start()
        deadline = time.monotonic() + FINISH_SECONDS
        thread.join(GRACE_SECONDS)
        while thread.is_alive() and time.monotonic() < deadline and (offline or wandb_answers()):
            thread.join(1.0)
        if thread.is_alive() or failure:
            reason = short_reason(failure[0]) if failure else "it does not answer"
            log.warning("W&B lacks the end of this run (%s); to send it: wandb sync %s", reason, records)
        elif offline and self._logged:
            log.info("W&B has recorded this run offline; to send it: wandb sync %s", records)


def _without_errors(call: Callable[[], None]) -> None:
    with contextlib.suppress(Exception):
        call()


@register_tracker("tensorboard")
class TensorBoardTracker:
    """Writes a run for TensorBoard, into the folder `tensorboard` of the run. Raises UserError where
    TensorBoard is not installed.
    """

    def __init__(self, folder: Path, run_id: str, run_name: str, config: Mapping[str, Any], **_: Any):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                'tracking=tensorboard needs the extra: pip install "asr_exp[tensorboard]".'
            ) from None
        self._config = f"```\n{json.dumps(config, indent=2)}\n```"
        self._open = lambda step: SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        self._writer: Any = None

    def _from(self, step: int) -> Any:
        """The writer. step: with the first call, the first step that this process writes; TensorBoard drops
        what an earlier process of the run wrote from that step on.
        """
        if self._writer is None:
            self._writer = self._open(step)
            self._writer.add_text("config", self._config)
        return self._writer

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        writer = self._from(step)
        for name, value in metrics.items():
            if isinstance(value, str):
                writer.add_text(name, value, step)
            elif isinstance(value, int | float):
                writer.add_scalar(name, value, step)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        lines = [f"| {r['id']} | {r['reference']} | {r['hypothesis']} |" for r in rows]
        # Where this is the first call, no step was left to make, and what was logged at this one stays.
        writer = self._from(step + 1)
        writer.add_text(name, "\n".join(["| id | reference | hypothesis |", "|---|---|---|", *lines]), step)
        for row in rows:
            if row.get("audio") is not None:
                writer.add_audio(
                    f"{name}/{row['id']}",
                    row["audio"][None].astype(np.float32) / 32768.0,
                    step,
                    row["sample_rate"],
                )

    def finish(self, summary: Mapping[str, Any], failed: bool) -> None:
        if self._writer:
            for name, value in summary.items():
                self._writer.add_text(name, f"{value:.4f}")
            self._writer.close()
