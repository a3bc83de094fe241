"""How joblib's worker processes are launched: cells of one that is killed are lost, without a traceback."""

from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra_plugins.hydra_joblib_launcher._core import launch as launch_processes
from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher

from asr_exp.config.hydra_internals import returned
from asr_exp.sweeps.record import lost, note_lost
from asr_exp.sweeps.search import Worker


def launch(
    launcher: JoblibLauncher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> Sequence[JobReturn]:
    """Run a job for each list of overrides, and return what they return. When the process of one is killed
    (the kernel does it where memory runs out), joblib ends the others: all that have not finished are lost.
    """
    try:
        return launch_processes(launcher, job_overrides, initial_job_idx)
    except BrokenProcessPool:
        print("A worker process was killed, and joblib has ended the others.", flush=True)
        reason = "a worker process was killed"
        cells = (lost(n, words, reason) for n, words in enumerate(job_overrides, initial_job_idx + 1))
        if isinstance(launcher.task_function, Worker):
            return [returned(cell) for cell in cells]
        assert launcher.config is not None
        folder = Path(str(launcher.config.hydra.sweep.dir))
        return [returned(note_lost(folder, cell)) for cell in cells]
