"""The folders of YAML files, and the choices of each group: `model=` has one for each file in model/."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from asr_exp.core.errors import UserError


def conf_folder() -> Path:
    """The folder conf/ of asr_exp: inside the package if a wheel was installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def conf_folders(config_dir: str | None = None) -> list[Path]:
    """The folders with YAML files: ours, conf/ in the working directory, and --config-dir, where they exist.

    Raises UserError where `config_dir` is not a folder.
    """
    if config_dir and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir {config_dir}: there is no such folder.")
    users = [Path.cwd() / "conf", *([Path(config_dir).absolute()] if config_dir else [])]
    ours = conf_folder()
    return [ours, *(folder for folder in users if folder.is_dir() and folder.resolve() != ours)]


def choices(folders: Sequence[Path]) -> dict[str, list[str]]:
    """The choices of every group: its YAML files in any of the folders.

    Files with a leading `_` hold what others have in common, and are no choices.
    """
    groups = sorted({*OPTIONAL_GROUPS, *(path.name for path in folders[0].iterdir() if path.is_dir())})
    names: dict[str, set[str]] = {group: set() for group in groups}
    for group in groups:
        for home in (folder / group for folder in folders):
            files = (path for path in home.rglob("*.yaml") if not path.name.startswith("_"))
            names[group] |= {path.relative_to(home).with_suffix("").as_posix() for path in files}
    return {group: sorted(names[group]) for group in groups}


Choices = Mapping[str, Sequence[str]]  # of each group

# Groups of which none or several may be chosen; they set keys of any section and have none of their own.
OPTIONAL_GROUPS = ("experiment", "debug")


def tables(experiments: Sequence[str]) -> dict[str, list[str]]:
    """The tables of experiments, each with its rows: a table is a folder, and each file in it a row."""
    rows: dict[str, list[str]] = {}
    for name in experiments:
        if "/" in name:
            rows.setdefault(name.rpartition("/")[0], []).append(name)
    return dict(sorted(rows.items()))
