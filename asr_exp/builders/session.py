"""What a run holds while it works: the lock of its folder, its ranks, its log."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from omegaconf import DictConfig

from asr_exp.core.errors import UserError
from asr_exp.core.files import locked
from asr_exp.core.log import logging_to_terminal
from asr_exp.runtime.determinism import deterministic
from asr_exp.runtime.distributed import Runtime, is_main, started
from asr_exp.runtime.precision import check_scoring_precision
from asr_exp.runtime.shared_folder import check_shared


def cache_folder(config: DictConfig) -> Path:
    """The folder where decoded audio is kept, which is made. Raises UserError where it cannot be written."""
    chosen = config.cache_root or os.environ.get("ASR_EXP_CACHE")
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    folder = Path(chosen or Path(base) / "asr_exp").expanduser().absolute()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UserError(
            f"Decoded audio cannot be kept in {folder}: nothing can be written there. Give another"
            " cache_root=FOLDER."
        )
    return folder


@contextmanager
def run_session(
    config: DictConfig, folder: Path | None = None, shared: Path | None = None, trains: bool = True
) -> Iterator[Runtime]:
    """Lock a run folder (rank 0, where there is a folder), join the ranks, and send the log to the terminal.

    Args:
        config: the whole config.
        folder: the folder that is locked.
        shared: a folder that is not locked here, but that every rank reads.
        trains: whether trainer.precision and trainer.tf32 matter, which the device may not have.

    Yields:
        This process among its ranks.

    Raises:
        UserError: another process holds the lock, a rank on another machine does not see the folder, the
            device does not have the precision; or, with trainer.deterministic, an operator has no
            deterministic algorithm on CUDA.
    """
    trainer = config.trainer
    precision = (trainer.precision, trainer.tf32) if trains else ("fp32",)
    with (
        locked(folder) if folder and is_main() else nullcontext(),
        started(trainer.device, *precision) as runtime,
        deterministic(trainer.deterministic and runtime.device.type == "cuda"),
        logging_to_terminal(runtime.main, runtime.rank),
    ):
        check_scoring_precision(config.evaluate.precision, runtime.device)
        if read := folder or shared:
            check_shared(read, runtime)
        yield runtime
