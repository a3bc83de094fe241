"""The oldest releases that pyproject.toml admits, as constraints for pip: pip install -c oldest.txt ..."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
for requirement in [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]:
    if floor := re.match(r"([\w.-]+)>=([\w.]+)", requirement):
        print(f"{floor[1]}=={floor[2]}")
