"""The house: who may import whom, how long a file and a function may be, and what must not be loaded early."""

import ast
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "asr_exp").rglob("*.py"))

# A file imports only from the rows above its own. Files of one row are parts: they do not import each other.
ROWS = [
    ["asr_exp"],
    ["errors"],  # band 0
    ["libraries", "registry"],
    ["endings"],
    ["keys"],
    ["schema"],
    ["hints", "matmul", "rules"],
    ["config", "console", "hub", "runtime", "sharding"],  # band 1
    ["checkpoint_source", "help", "machine", "untrained"],
    ["checkpoint_weights"],
    ["data"],  # band 2, one way
    ["data.checkpoint_vocabulary", "data.espeak", "data.phones"],
    ["data.text"],
    ["data.corpora.utterances"],
    ["data.corpora.base"],
    ["data.corpora.splits"],
    ["data.corpora.channel", "data.corpora.hub", "data.corpora.speaking"],
    ["data.corpora.demo"],
    ["data.corpora.*"],
    ["data.corpora"],
    ["data.tokenizer"],
    ["data.vocabulary"],
    ["data.clips"],
    ["data.recordings", "data.store"],
    ["data.batching"],
    ["data.prepare"],
    ["dropout", "features", "frontend", "posconv", "threads"],
    ["bundles", "packed"],
    [
        "alignment", "backbone", "checkpoint", "chunking", "decoding", "intervals", "model", "ngram", "optim", "plateau",
    ],  # band 3
    [
        "card", "emissions", "hot_words", "onnx_file", "results", "scoring", "script", "significance", "standins", "tiers", "timit_times",
        "tracking",
    ],
    ["beam"],
    ["language", "tuning"],
    ["tables"],
    ["tables.scores"],
    ["tables.rows"],
    ["tables.cells", "tables.text"],
    ["tables.asked", "tables.page"],
    ["sweeps"],
    ["sweeps.ranges", "sweeps.record"],
    ["sweeps.pictures", "sweeps.study", "sweeps.wandb_file"],
    ["job"],  # band 4
    ["assembly", "evaluation", "pairing", "training"],
    ["fine_tuned", "plan"],
    ["rescoring", "transcriber"],
    ["formats"],
    ["report"],
    ["report.breakdown", "report.closeup", "report.page", "report.record"],
    ["report.contents", "report.suspects"],
    ["report.pictures", "report.sound"],
    ["serving"],
    ["serving.limits", "serving.metrics"],
    ["serving.answers", "serving.batcher", "serving.intake", "serving.uploads"],
    ["serving.service"],
    ["serving.stream"],
    ["serving.app"],
    ["serving.server"],
    ["inspection"],
    ["inspection.findings"],
    ["inspection.headers"],
    ["inspection.recordings", "inspection.transcripts", "inspection.trial", "inspection.wording"],
    ["inspection.forecast"],
    ["rehearsal"],
    ["commands"],
    ["commands.*"],  # band 5
    ["sweeps.driver"],
    ["__main__"],  # band 6
]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts and parts[-1] == "__init__" else parts) or "asr_exp"


NAMES = {name_of(path) for path in FILES}


def row_of(name: str) -> int:
    exact = [n for n, row in enumerate(ROWS) if name in row]
    fitting = exact or [n for n, row in enumerate(ROWS) if any(fnmatch(name, pattern) for pattern in row)]
    assert len(fitting) == 1, f"asr_exp/{name.replace('.', '/')}.py has no place in the house; give it a row in {Path(__file__).name}"
    return fitting[0]


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
        inside = {module.removeprefix("asr_exp.") for module in modules if module == "asr_exp" or module.startswith("asr_exp.")}
        found |= inside & NAMES
    return found


def test_imports_are_seen():
    assert {"config", "errors", "help"} <= imports(ROOT / "asr_exp/__main__.py")
    assert len(set().union(*map(imports, FILES))) > 20


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_from_lower_rows(path):
    row = row_of(name_of(path))
    assert {name for name in imports(path) if row_of(name) >= row} == set()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nobody_imports_a_command(path):
    if name_of(path) != "__main__":
        assert not any(name.startswith("commands") for name in imports(path))
        assert "import_module(f\"asr_exp.commands" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {node.name: n for node in functions if (n := (node.end_lineno or 0) - node.lineno + 1) > 60} == {}


def test_the_house_is_found_and_has_no_lumber_room():
    assert {"errors", "schema", "config", "hints", "help", "__main__"} <= NAMES
    assert not any(name.rpartition(".")[2] in ("utils", "misc", "common") for name in NAMES)
    assert {name for row in ROWS for name in row if "*" not in name} <= NAMES  # a row's file that is gone leaves the map too


def test_the_wheel_packs_every_package():
    packages = {f"asr_exp.{name_of(path)}".removesuffix(".asr_exp") for path in FILES if path.name == "__init__.py"}
    packages |= {f"asr_exp.conf.{path.parent.name}".removesuffix(".conf") for path in (ROOT / "conf").glob("*/*.yaml")} | {"asr_exp.conf"}
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    assert listed == packages


def test_every_dependency_has_a_floor_that_ci_tries():
    """.ci/oldest.py reads them with a pattern; packaging, which is pip's own reader, says what they are."""
    requirements = [Requirement(line) for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]]
    oldest = subprocess.run([sys.executable, ROOT / ".ci/oldest.py"], capture_output=True, text=True, check=True).stdout.split()
    for one in requirements:
        (floor,) = [part.version for part in one.specifier if part.operator == ">="]
        assert f"{one.name}=={floor}" in oldest and one.specifier.contains(floor)


@pytest.mark.parametrize("module", ["asr_exp.__main__", "asr_exp.schema", "asr_exp.config", "asr_exp.help"])
def test_what_comes_first_loads_nothing_heavy(module):
    heavy = "torch", "transformers", "datasets", "wandb", "numpy", "hydra"
    found = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"], capture_output=True, text=True
    )
    assert found.stdout.strip() == "[]", found.stderr
