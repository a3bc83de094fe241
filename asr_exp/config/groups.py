"""Where the YAML files are, and the choices of each group."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from asr_exp.core.errors import UserError


def conf_folder() -> Path:
    """Our own conf/: inside the package in a wheel, beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def conf_folders(config_dir: str | None = None) -> list[Path]:
    """Every folder that YAML files are found in: ours, ./conf where the user stands, and --config-dir.

    Raises UserError where `config_dir` is no folder.
    """
    if config_dir and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir {config_dir}: there is no such folder.")
    users = [Path.cwd() / "conf", *([Path(config_dir).absolute()] if config_dir else [])]
    ours = conf_folder()
    return [ours, *(folder for folder in users if folder.is_dir() and folder.resolve() != ours)]


def choices(folders: Sequence[Path]) -> dict[str, list[str]]:
    """The choices of every group: the YAML files of a group's folder, in whichever of the folders; not those
    with a leading `_`, which hold what others have in common."""
    groups = sorted({*OPTIONAL_GROUPS, *(path.name for path in folders[0].iterdir() if path.is_dir())})
    found: dict[str, set[str]] = {group: set() for group in groups}
    for group in groups:
        for home in (folder / group for folder in folders):
            files = (path for path in home.rglob("*.yaml") if not path.name.startswith("_"))
            found[group] |= {path.relative_to(home).with_suffix("").as_posix() for path in files}
    return {group: sorted(names) for group, names in found.items()}


def expanded(overrides: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The overrides of a sweep with each table of experiments (`experiment=hf-timit`) as the rows that its
    folder holds.
    """
    known = tables(choices(folders)["experiment"])

    def rows(text: str) -> str:
        name, _, value = text.partition("=")
        return (
            f"{name}={','.join(row for one in value.split(',') for row in known.get(one, [one]))}"
            if name == "experiment"
            else text
        )

    return [rows(text) for text in overrides]


Choices = Mapping[str, Sequence[str]]  # of each group

# Groups that may be left out, and of which several may be chosen: they are no sections of their own.
OPTIONAL_GROUPS = ("experiment", "debug")


def tables(experiments: Sequence[str]) -> dict[str, list[str]]:
    """The tables of experiments, which are folders, with their rows: hf-timit -> hf-timit/distilhubert ..."""
    found: dict[str, list[str]] = {}
    for name in experiments:
        if "/" in name:
            found.setdefault(name.rpartition("/")[0], []).append(name)
    return dict(sorted(found.items()))
