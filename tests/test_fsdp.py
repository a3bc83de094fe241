"""Weights cut across two processes walk the curve of one; checkpoints pass from one strategy to the other."""

import json
from pathlib import Path

import pytest
from harness import run_folder, two_forks
from test_ddp import alone, overrides_of, same_curve  # noqa: F401

pytestmark = pytest.mark.slow


@pytest.fixture
def asked(corpus, backbone):
    return lambda name, *more: [*overrides_of(corpus, backbone, name), *more]


def cut(*overrides, cwd, **more):
    return [rank.wait() for rank in two_forks(*overrides, "trainer.strategy=fsdp", cwd=cwd, **more)]


@pytest.mark.parametrize("name", ["wav2vec2-group", "wavlm-layer"])
def test_two_ranks(alone, asked, tmp_path, name):
    cut(*asked(name), cwd=tmp_path)
    same_curve(alone(asked(name)), run_folder(tmp_path))
