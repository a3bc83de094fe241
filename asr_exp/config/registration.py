"""Let Hydra know the schema as soon as Hydra is imported, so that `hydra.compose` over conf/ finds it.

`import asr_exp` imports neither Hydra nor torch; a notebook that composes imports Hydra before or after it.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

STORE = "hydra.core.config_store"


def register_schema() -> None:
    """Store the schema where Hydra is loaded, else when it will be."""
    if STORE in sys.modules:
        _store()
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


class _AfterImport(MetaPathFinder):
    """Finds nothing itself: it has the schema stored once Hydra's store is imported, and is gone then."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != STORE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        loader: Any = spec and spec.loader
        if loader is None:
            return spec
        execute = loader.exec_module

        def execute_and_store(module: ModuleType) -> None:
            execute(module)
            _store()

        loader.exec_module = execute_and_store
        return spec


def _store() -> None:
    from asr_exp.config.hydra_internals import store_schema

    store_schema()
