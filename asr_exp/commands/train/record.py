"""The record that a run leaves in its folder: its log, its config, its environment, its tracker's files, and
a result.json that says how it ended.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from asr_exp.builders.changed_data import check_resumable
from asr_exp.builders.data import Data
from asr_exp.config.plugin_sources import plugin_sources
from asr_exp.core import console
from asr_exp.core.errors import Pruned, SmallerPasses, Stopped, UserError
from asr_exp.core.files import write_text
from asr_exp.core.log import log_to_file
from asr_exp.data.fingerprint import in_words
from asr_exp.data.prepare import Split
from asr_exp.runs.environment import environment, versions
from asr_exp.runs.folder import resolve, signature, write_config
from asr_exp.runs.results import DEV_CANDIDATE, write_quarantine, write_result
from asr_exp.runtime.distributed import Runtime, peer_lost
from asr_exp.runtime.out_of_memory import is_out_of_memory
from asr_exp.training.checkpoint import drop_previous
from asr_exp.training.setup import TrainingSetup
from asr_exp.training.state import State
from asr_exp.training.trackers import NoTracker, Tracker, make_tracker

log = logging.getLogger(__name__)


@dataclass
class RunRecord:
    """What a run reports to. tracker: for its figures as they come; result: what result.json says of it, set
    when all is done; folder: of the run, None on other ranks than 0.
    """

    tracker: Tracker
    result: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    data: dict[str, Any] = field(default_factory=dict)

    def keep(self, data: Data) -> Data:
        """Keep in the run folder what the run is made of -> the same data. Raises UserError where a run that
        goes on began with other data.
        """
        if self.folder and data.fingerprint:
            if changes := check_resumable(self.folder, data.fingerprint):
                log.warning("The data has changed since the run began: %s.", in_words(changes))
            data.fingerprint.save(self.folder)
            self.data = {"data": data.fingerprint.summary}
        return data


@contextmanager
def run_record(config: DictConfig, folder: Path, runtime: Runtime) -> Iterator[RunRecord]:
    """Keep the record of a run while it is at work; at the end write its result.json and print its summary.

    Whatever ends the run, result.json has its status: finished, stopped or failed. Rank 0 keeps the record;
    what other ranks report is dropped.
    """
    if not runtime.main:
        yield RunRecord(NoTracker())
        return
    settings = resolve(config)
    log_to_file(folder / "train.log")
    write_config(folder, config)
    write_text(folder / "environment.json", console.pretty_json(environment(runtime)))
    base = {
        "signature": signature(config),
        "rehearsal": config.rehearsal,
        "seed": config.seed,
        "versions": versions(),
    }
    if sources := plugin_sources(settings):
        base["plugins"] = sources
    title = f"{config.dataset.name}/{config.model.name}"
    tracker = make_tracker(
        **config.tracking, folder=folder, run_id=base["signature"], run_name=title, config=settings
    )
    record, failed = RunRecord(tracker, folder=folder), True
    try:
        yield record
        write_result(folder, {"status": "finished", **base, **record.result, **record.data})
        failed = False
        drop_previous(folder)
        _print_summary(folder, record.result)
    except BaseException as error:
        status = "stopped" if isinstance(error, Stopped | Pruned | KeyboardInterrupt) else "failed"
        with suppress(OSError):  # a full disk must not hide the error
            reason = f"{type(error).__name__}: {error}"
            write_result(folder, {"status": status, "reason": reason, **base, **record.data})
        expected = UserError | Stopped | Pruned | SmallerPasses | KeyboardInterrupt
        if not isinstance(error, expected) and not is_out_of_memory(error) and not peer_lost(error):
            log.exception("The run failed")
        raise
    finally:
        scores = record.result.get("splits", {}).get("test", {})
        tracker.finish({f"test/{k}": v for k, v in scores.items() if isinstance(v, float)}, failed)


def write_rejected(folder: Path, splits: Mapping[str, Split]) -> None:
    """Write to quarantine.jsonl which utterances are left out, and why: those that were refused when the
    splits were prepared, and those that failed since, when they were decoded.
    """
    write_quarantine(
        folder, {name: [*split.rejected, *split.decode_failures()] for name, split in splits.items()}
    )


def training_summary(setup: TrainingSetup, state: State) -> dict[str, Any]:
    """What result.json says of the training: `best`, the checkpoint that was kept, and `train`, the effort.

    audio_seconds are of the utterances trained on, each as often as it was used; wall_seconds are of all
    processes that this run took, without the scoring of test. On a GPU device_seconds is the size of passes,
    and pass_seconds what they were made in parts of, where one did not fit (else null).
    """
    best = {key: state.best[key] for key in ("step", "metric", "value")}
    train: dict[str, Any] = {
        "steps": state.step,
        "skipped_steps": state.skipped_steps,
        "epochs": round(state.step / setup.plan.steps_per_epoch, 3),
        "audio_seconds": round(state.audio_seconds, 2),
        "wall_seconds": round(state.wall_seconds, 2),
        "audio_seconds_per_second": round(state.audio_seconds / max(1e-9, state.wall_seconds), 2),
    }
    if setup.runtime.device.type == "cuda":
        train |= {"device_seconds": setup.plan.device_seconds(state.step), "pass_seconds": state.pass_seconds}
    return {"best": best, "train": train}


def _print_summary(folder: Path, result: Mapping[str, Any]) -> None:
    """Print the block that closes a run: its score, its training, and what to type next."""
    (folder / DEV_CANDIDATE).unlink(missing_ok=True)
    rows = [("score", console.headline("test", result["splits"]["test"]))]
    if best := result["best"]:
        train = result["train"]
        rate = f"{train['audio_seconds_per_second']:.0f} audio-s/s"
        rows += [
            ("best", f"step {best['step']}: dev {console.measured(best['metric'], best['value'])}"),
            ("training", f"{train['steps']:,} steps in {console.clock(train['wall_seconds'])}, {rate}"),
        ]
    rows += [
        ("folder", str(folder)),
        ("", "result.json  hypotheses.test.jsonl  checkpoints/best"),
        ("next", "python -m asr_exp evaluate split=dev \\"),
        ("", f"    {folder}"),
    ]
    console.page("Done", rows)
