"""Fixtures that any test may use."""

import logging
import os
import threading
from pathlib import Path

# before torch is imported: tiny networks gain nothing from threads that wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")

import harness
import hub_server
import numpy as np
import pytest
import slurm as one_node

from asr_exp.model.pretrained import source as checkpoint_source
from asr_exp.runtime.cores import usable_cores
from asr_exp.runtime.hub import offline_where_unreachable


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """The whole suite takes all cores, four at the most (each grows to 2 GB), where pytest-xdist is there and
    nothing else is asked.
    """
    # what xdist gives its workers
    whole = config.args_source is config.ArgsSource.TESTPATHS and not hasattr(config, "workerinput")
    if whole and getattr(config.option, "numprocesses", 0) is None and not config.option.usepdb:
        config.option.numprocesses = min(4, usable_cores())


@pytest.fixture(autouse=True)
def no_handler_left():
    """What a library adds to the root logger would write to this test's captured terminal in the tests to
    come, when it is closed.
    """
    yield
    for handler in [one for one in logging.root.handlers if type(one) is logging.StreamHandler]:
        logging.root.removeHandler(handler)


@pytest.fixture
def no_network(monkeypatch):
    """no_network() -> from here on, whoever builds a network fails."""

    def from_here() -> None:
        def built(*args, **kwargs):
            raise AssertionError("a network was built")

        monkeypatch.setattr("asr_exp.builders.fine_tuned.build_recogniser", built)

    return from_here


@pytest.fixture
def shared_data():
    """shared_data("TIMIT", ...) -> that path in ../shared/data; skips, saying so, where it is not there."""

    def find(*parts: str) -> Path:
        path = Path(__file__).parents[2].joinpath("shared", "data", *parts)
        if not path.exists():
            pytest.skip(f"the recordings are not there: {path}")
        return path

    return find


@pytest.fixture
def shared_cases():
    """shared_cases("pipe.mp3") -> that file of ../shared/cases; skips, saying so, where it is not there."""

    def find(name: str) -> Path:
        path = Path(__file__).parents[2] / "shared" / "cases" / name
        if not path.exists():
            pytest.skip(f"the file is not there: {path}")
        return path

    return find


@pytest.fixture(scope="session")
def tone():
    """tone(seconds, rate, hertz) -> float32 samples of a quiet tone, over a little noise that is always the
    same.
    """

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


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in of the Hugging Face hub, without repositories, that the hub's libraries ask: see
    hub_server.py. Their cache is empty.
    """
    with hub_server.HubServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        hub_server.point_to(server, tmp_path / "hf", monkeypatch)
        checkpoint_source._commit.cache_clear()
        yield server
        checkpoint_source._commit.cache_clear()
        offline_where_unreachable.cache_clear()
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def slurm():
    """A SLURM of one node on this machine: see slurm.py. Skips, saying so, where there can be none."""
    if reason := one_node.missing():
        pytest.skip(reason)
    with one_node.started() as at_work:
        yield at_work
        at_work.clear()


@pytest.fixture
def hurried(monkeypatch):
    """The hub's client waits for a fifth of a second, and does not sleep before it tries again."""
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", 0.2)
    monkeypatch.setattr("asr_exp.runtime.hub._ANSWERED_IN", 0.2)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    """backbone("wavlm-group") -> the folder of a tiny encoder of that family, as `save_pretrained`
    leaves it.
    """
    made = {}

    def make(name: str, **settings) -> Path:
        key = (name, repr(settings))
        if key not in made:
            made[key] = harness.save_backbone(*name.rsplit("-", 1), tmp_path_factory.mktemp(name), **settings)
        return made[key]

    return make


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """The overrides for a corpus of tones: 20 utterances to train on, 5 each to choose by and to score."""
    return harness.make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """alone(overrides) -> the folder of a run of one process, made once."""
    made = {}

    def make(overrides: list[str]) -> Path:
        name = " ".join(overrides)
        if name not in made:
            made[name] = harness.run(*overrides, cwd=tmp_path_factory.mktemp("alone"))
        return made[name]

    return make


@pytest.fixture
def trained(alone, corpus):
    """The folder of a run of two steps on the tones."""
    return alone([*corpus, *harness.TWO_STEPS])


@pytest.fixture(scope="session")
def tones(corpus):
    """The folder of those tones, with train.csv, dev.csv and test.csv."""
    return Path(corpus[1].partition("=")[2]).parent


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """No test reads or fills the cache of whoever runs it, or reaches for the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASR_EXP_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("WANDB_MODE", "offline")
        yield
