"""The house: who may import whom, how long a file and a function may be, and what must not be loaded
early.
"""

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "asr_exp").rglob("*.py"))

# A folder imports only from the rows above its own. Folders of one row do not import each other.
ROWS = [
    ["core", "scoring"],
    ["config", "runtime"],
    ["runs", "data"],
    ["model", "decoding", "sweeps"],
    ["training", "evaluation", "inference"],
    ["builders"],
    ["rehearsal"],
    ["commands", "cli"],
    ["__main__"],
]
OPEN = ("asr_exp", "plugins")  # what stands at the top for users: it hands on what other folders have


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts and parts[-1] == "__init__" else parts) or "asr_exp"


NAMES = {name_of(path): path for path in FILES}


def row_of(name: str) -> int:
    (row,) = [n for n, row in enumerate(ROWS) if name.partition(".")[0] in row]
    return row


def imports(path: Path) -> set[str]:
    """The files of asr_exp that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module or ""]
        else:
            continue
        inside = {
            module.removeprefix("asr_exp.")
            for module in modules
            if module == "asr_exp" or module.startswith("asr_exp.")
        }
        found |= inside & NAMES.keys()
    return found - {"asr_exp"}


def test_imports_are_seen():
    assert {"config.compose", "config.groups", "core.exit_status", "cli.help"} <= imports(
        ROOT / "asr_exp/cli/main.py"
    )
    assert len(set().union(*map(imports, FILES))) > 100


def test_every_folder_has_its_place():
    tops = {name.partition(".")[0] for name in NAMES} - set(OPEN)
    assert tops == {folder for row in ROWS for folder in row}
    assert not any(name.rpartition(".")[2] in ("utils", "misc", "common") for name in NAMES)


@pytest.mark.parametrize("path", [path for path in FILES if name_of(path) not in OPEN], ids=name_of)
def test_a_file_imports_from_its_own_folder_or_lower_rows(path):
    own = name_of(path).partition(".")[0]
    others = {name for name in imports(path) if name.partition(".")[0] not in (own, *OPEN)}
    assert {name for name in others if row_of(name) >= row_of(own)} == set()
    assert not {"plugins"} & imports(path)


def test_no_circle_of_files():
    """Of whole files, wherever in them the import stands."""
    left = {name: imports(path) - {name} for name, path in NAMES.items() if name != "asr_exp"}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        left = {name: needs for name, needs in left.items() if name not in free}
    assert left == {}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_command_is_imported_by_its_own_files_alone(path):
    name = name_of(path)
    others = {other for other in imports(path) if other.startswith("commands.")}
    assert {other for other in others if other.split(".")[:2] != name.split(".")[:2]} == set()


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in FILES} - {ROOT / "asr_exp"}), ids=lambda path: path.name
)
def test_a_folder_says_in_a_line_what_it_holds(folder):
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert text and "\n" not in text
    if folder.parent == ROOT / "asr_exp":
        assert "may import" in text or "imports nothing else of asr_exp" in text


def test_the_tests_mirror_the_folders():
    ours = {path.relative_to(ROOT / "asr_exp") for path in (ROOT / "asr_exp").rglob("*") if path.is_dir()}
    # what runs on the stand-in of fake_cuda.py is in a folder `cuda` of each
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    theirs = {(one.parent if one.name == "cuda" else one).relative_to(ROOT / "tests") for one in folders}
    assert theirs <= ours | {Path(".")}
    assert {folder for row in ROWS for folder in row} - {path.parts[0] for path in theirs if path.parts} == {
        "__main__"
    }


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    functions = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert {node.name: n for node in functions if (n := (node.end_lineno or 0) - node.lineno + 1) > 60} == {}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_line_assigns_three_things(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            assert not any(isinstance(target, ast.Tuple) and len(target.elts) > 2 for target in node.targets)


@pytest.mark.slow
def test_the_wheel_holds_every_file(tmp_path):
    shutil.copytree(
        ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns(".git", "outputs", "*.egg-info", "build")
    )
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, "."]
    subprocess.run(build, cwd=tmp_path / "copy", check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("asr_exp/")}
    ours = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "asr_exp").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == ours | {f"asr_exp/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}


def test_every_dependency_has_a_floor_that_ci_tries():
    """.ci/oldest.py reads them with a pattern; packaging, which is pip's own reader, says what they are."""
    requirements = [
        Requirement(line)
        for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    ]
    oldest = subprocess.run(
        [sys.executable, ROOT / ".ci/oldest.py"], capture_output=True, text=True, check=True
    ).stdout.split()
    for one in requirements:
        (floor,) = [part.version for part in one.specifier if part.operator == ">="]
        assert f"{one.name}=={floor}" in oldest and one.specifier.contains(floor)


@pytest.mark.parametrize("module", ["__main__", "config.schema", "config.compose", "cli.main", "cli.help"])
def test_what_comes_first_loads_nothing_heavy(module):
    heavy = "torch", "transformers", "datasets", "wandb", "numpy", "hydra"
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys, asr_exp.{module}; print([m for m in {heavy} if m in sys.modules])",
        ],
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == "[]", found.stderr
