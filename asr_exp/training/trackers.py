"""Where figures are written: `metrics.jsonl` always; beside it Weights & Biases, TensorBoard or nothing. Only
rank 0 writes them.
"""

import contextlib
import json
import logging
import netrc
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from asr_exp.core.errors import UserError
from asr_exp.core.registry import Registry

log = logging.getLogger(__name__)


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
        mode = os.environ.get("WANDB_MODE") or ("online" if _wandb_key() else "offline")
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
        quiet = wandb.Settings(silent=True, console="off", init_timeout=60)
        try:
            self._run = wandb.init(
                mode=mode,  # type: ignore[arg-type]
                resume="allow" if mode == "online" else None,
                settings=quiet,
                **settings,  # type: ignore[arg-type]
            )
        except wandb.Error as error:
            log.warning(
                "W&B cannot be reached (%s), so this run is recorded offline; `wandb sync` it later.",
                str(error).splitlines()[0],
            )
            self._run = wandb.init(mode="offline", settings=quiet, **settings)  # type: ignore[arg-type]

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        self._logged = True
        self._run.log(dict(metrics), step=step)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        table = self._wandb.Table(columns=["id", "reference", "hypothesis", "rate", "audio"])
        for row in rows:
            audio = row.get("audio")
            sound = (
                None
                if audio is None
                else self._wandb.Audio(audio.astype(np.float32) / 32768.0, sample_rate=row["sample_rate"])
            )
            table.add_data(row["id"], row["reference"], row["hypothesis"], row["rate"], sound)
        self._run.log({name: table}, step=step)

    def finish(self, summary: Mapping[str, Any], failed: bool) -> None:
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=int(failed))
        if self._run.offline and self._logged:
            log.info(
                "W&B has recorded this run offline; to send it: wandb sync %s",
                os.path.relpath(Path(self._run.dir).parent),
            )


def _wandb_key() -> bool:
    """Whether W&B would find a key: in the environment, or in a netrc file under its server's name.

    wandb has no public function that tells in every release from 0.20 on: `wandb.login` there asks at the
    terminal, and its `prompt=False` is of later releases (0.31 has it).
    """
    if os.environ.get("WANDB_API_KEY"):
        return True
    server = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for name in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if name and netrc.netrc(os.path.expanduser(name)).authenticators(server):
                return True
    return False


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


# ------------------------------------------------------------------------------------------------------------
# metrics.jsonl


class MetricsFile:
    """A file of JSON lines, each with its step, such as `metrics.jsonl`. It holds only what another run of
    the same steps would repeat, so no times.
    """

    def __init__(self, path: Path, lines: int):
        """Open a file for appending, cut back to its first `lines`: those that a checkpoint counts. The steps
        after the checkpoint are made again, and so are their lines.
        """
        kept = path.read_text(encoding="utf-8").splitlines()[:lines] if path.exists() and lines else []
        self.lines = len(kept)
        beside = path.with_name(path.name + ".new")
        beside.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(beside, path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append lines and hand them to the operating system: a killed process loses none."""
        texts = [json.dumps(line) + "\n" for line in lines]
        self._file.writelines(texts)
        self._file.flush()
        self.lines += len(texts)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk, which `write` has raised already
            self._file.close()


# ------------------------------------------------------------------------------------------------------------
# where the time goes


class Profile:
    """Profiles a few steps after the first three, and writes `profile.json` for chrome://tracing and
    `profile.txt` with the costliest operations. With steps=0 it does nothing.
    """

    WARM_UP = 3

    def __init__(self, folder: Path, steps: int):
        self.folder = folder
        self._profiler: Any = None
        if steps:
            import torch

            schedule = torch.profiler.schedule(wait=self.WARM_UP - 1, warmup=1, active=steps, repeat=1)
            self._profiler = torch.profiler.profile(schedule=schedule, on_trace_ready=self._write)
            self._profiler.start()

    def step(self) -> None:
        """A training step is over."""
        if self._profiler:
            self._profiler.step()

    def _write(self, profiler: Any) -> None:
        profiler.export_chrome_trace(str(self.folder / "profile.json"))
        table = profiler.key_averages().table(
            sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=40
        )
        (self.folder / "profile.txt").write_text(table, encoding="utf-8")
        log.info("Profiled: see %s and profile.json (chrome://tracing).", self.folder / "profile.txt")

    def close(self) -> None:
        if self._profiler:
            self._profiler.stop()
