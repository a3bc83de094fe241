"""Everything of Hydra that this package uses and that Hydra does not document.

Hydra documents how to compose a config (`hydra.compose`, see compose.py) and how to start a program whose
command line is Hydra's alone (`hydra.main`). Our command line has commands and messages of its own, so a run
or a sweep is started by the object behind `hydra.main`. It was seen in hydra-core 1.3.7 and 1.3.8, and
pyproject.toml admits 1.3 alone; tests/config/test_hydra_internals.py says what breaks when Hydra changes it.
"""

from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_exp.config.schema import Config

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from hydra.core.override_parser.types import Override
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig

JOB_NAME = "asr_exp"
VERSION_BASE = "1.3"  # whose defaults Hydra follows


def store_schema() -> None:
    """Let Hydra know the dataclasses that say every key. It takes 70 ms, so once is enough."""
    from hydra.core.config_store import ConfigStore

    if "schema.yaml" not in ConfigStore.instance().list(""):
        ConfigStore.instance().store(name="schema", node=Config)


def hydra_at(folders: Sequence[Path]) -> "Hydra":
    """Hydra's own object for a program whose YAML files are in these folders, the first of which is ours.

    Its methods `run`, `multirun`, `get_mode`, `show_cfg`, `show_info`, `hydra_help` and `shell_completion` do
    what the flags of a Hydra program ask for. Hydra's global instance is left alone, so that a config can be
    composed while a run goes on.
    """
    from hydra import version
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery

    version.setbase(VERSION_BASE)
    store_schema()
    search_path = create_config_search_path(str(folders[0]))
    for folder in folders[1:]:
        # the schema stays last
        search_path.prepend("user", f"file://{folder}", anchor=SearchPathQuery(provider="schema"))
    return Hydra(JOB_NAME, ConfigLoaderImpl(config_search_path=search_path))


def argument_parser() -> ArgumentParser:
    """The flags of a Hydra program, and its overrides as positional arguments."""
    from hydra._internal.utils import get_args_parser

    return get_args_parser()


def parse_override(text: str) -> "Override":
    """An override such as `seed=0,1`, as Hydra's grammar reads it. Raises HydraException for bad grammar."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(text)


def is_sweep(value: Any) -> bool:
    """Whether a value in an override stands for several, such as choice(1,2), range(3) or glob(*)."""
    from hydra.core.override_parser.types import Glob, Sweep

    return isinstance(value, Sweep | Glob)


def launch(
    hydra: "Hydra", task: Callable[["DictConfig"], Any], overrides: Sequence[str], jobs: Sequence[list[str]]
) -> list[Any]:
    """Run a task several times at once by the launcher that the overrides choose, and return what it returns.

    Hydra's sweepers do this too, but they decide what each job is called with. Raises what a job has raised.

    Args:
        hydra: from `hydra_at`.
        task: what a job calls with its config; it can be pickled.
        overrides: those that all jobs share, `hydra/launcher=...` among them.
        jobs: the overrides of each job.
    """
    from hydra._internal.callbacks import Callbacks
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext, RunMode

    config = hydra.compose_config(
        "config", [*overrides, "hydra.mode=MULTIRUN"], run_mode=RunMode.MULTIRUN, with_log_configuration=False
    )
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
    launcher = Plugins.instance().instantiate_launcher(
        config=config, hydra_context=context, task_function=task
    )
    return [done.return_value for done in launcher.launch(list(jobs), initial_job_idx=0)]


@contextmanager
def launching_by(target: str, launch: Callable[..., "Sequence[JobReturn]"]) -> Iterator[None]:
    """While it lasts, Hydra's launcher of this class launches by a function of ours, which is given the
    launcher and the arguments of its method `launch`. Hydra takes launchers from the package `hydra_plugins`
    alone.

    target: the class, as `hydra.launcher._target_` names it.
    """
    module, _, name = target.rpartition(".")
    launcher = getattr(import_module(module), name)
    before = launcher.launch
    launcher.launch = launch
    try:
        yield
    finally:
        launcher.launch = before


def returned(value: Any) -> "JobReturn":
    """What a launcher returns of a job that has returned a value."""
    from hydra.core.utils import JobReturn, JobStatus

    done = JobReturn(status=JobStatus.COMPLETED)
    done.return_value = value
    return done
