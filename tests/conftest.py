"""Fixtures that any test may use."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def shared_data():
    """shared_data("TIMIT", ...) -> that path in ../shared/data; skips, saying so, where it is not there."""

    def find(*parts: str) -> Path:
        path = Path(__file__).parents[2].joinpath("shared", "data", *parts)
        if not path.exists():
            pytest.skip(f"the recordings are not there: {path}")
        return path

    return find


@pytest.fixture(scope="session")
def tone():
    """tone(seconds, rate, hertz) -> float32 samples of a quiet tone, over a little noise that is always the same."""

    def make(seconds: float, rate: int = 16000, hertz: float = 300.0) -> np.ndarray:
        time = np.arange(round(seconds * rate)) / rate
        noise = np.random.default_rng(0).standard_normal(len(time))
        return (0.3 * np.sin(2 * np.pi * hertz * time) + 0.05 * noise).astype(np.float32)

    return make


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, which runs started by the test use too."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ASR_EXP_CACHE", str(folder))
    return folder
