"""Why the hub does not give what was asked for: each of its refusals, as the hub's libraries pass it on, in
one true clause.
"""

import errno
import os
import threading
import time
from pathlib import Path

import hub_server
import huggingface_hub
import pytest
import torch
import transformers
from harness import free_port

from asr_exp.cli.main import main
from asr_exp.commands.export.upload import push
from asr_exp.core.errors import UserError
from asr_exp.runtime.hub import XET, failure, offline_where_unreachable, refusal

WEIGHTS = "model.safetensors"
BROKE_OFF = (
    "the transfer broke off, or nothing more came; give the same command again: files that came whole are"
    " kept"
)
TERMS = (
    "it is private, or given to those alone who accept its terms; open its page on the hub, accept them where"
    " it asks for that, and type `hf auth login`"
)
GATED = (
    "its authors give it to those who accept its terms; open its page on the hub, accept them, and type `hf"
    " auth login`"
)


@pytest.fixture
def tones(hub, backbone):
    hub.add_model("lab/tones", backbone("wav2vec2-group"))
    return hub


def load(repository="lab/tones", **how):
    return transformers.AutoModel.from_pretrained(repository, **how)


def why(repository="lab/tones", **how):
    """What is told of a model that cannot be loaded."""
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011
        load(repository, **how)
    return failure(caught.value)


@pytest.mark.parametrize(
    ("answer", "clause"),
    [
        ({"status": 403, "code": "GatedRepo"}, GATED),
        ({"status": 401, "code": "GatedRepo"}, GATED),
        (
            {"status": 401, "code": "RepoNotFound"},
            (
                "it is not on the hub, or it is private; check the id, or type `hf auth login` to show that"
                " you may read it"
            ),
        ),
        ({"status": 401}, "the hub refuses (401): " + TERMS),
        ({"status": 403}, "the hub refuses (403): " + TERMS),
        (
            {"status": 429, "headers": {"Retry-After": "50"}},
            (
                "the hub asks to wait (429); try again in 50 s, or type `hf auth login`: it lets those who"
                " are logged in ask more often"
            ),
        ),
        (
            {"status": 429, "headers": {"RateLimit": '"api";r=0;t=55'}},
            (
                "the hub asks to wait (429); try again in 55 s, or type `hf auth login`: it lets those who"
                " are logged in ask more often"
            ),
        ),
        (
            {"status": 429},
            (
                "the hub asks to wait (429); try again in some minutes, "
                "or type `hf auth login`: it lets those who are logged in ask more often"
            ),
        ),
        ({"status": 503}, "the hub answers 503, which is its own trouble; try again later"),
        ({"status": 500}, "the hub answers 500, which is its own trouble; try again later"),
        ({"status": 418}, "the hub answers 418"),
    ],
)
def test_what_the_hub_answers(tones, hurried, answer, clause):
    tones.fail("lab/tones", **answer)
    assert why() == clause == refusal("lab/tones", "model")
    tones.heal("lab/tones")
    assert load() and refusal("lab/tones", "model") is None


def test_what_is_not_there(tones):
    assert why("lab/none") == refusal(
        "lab/none", "model"
    ) and "it is not on the hub, or it is private" in why("lab/none")
    assert (
        why(revision="v9")
        == "it has no such revision; give a branch, a tag or a commit that its page on the hub shows"
    )
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011
        huggingface_hub.hf_hub_download("lab/tones", "tokenizer/vocab.json")
    assert (
        failure(caught.value)
        == "it has no file tokenizer/vocab.json"
        == refusal("lab/tones", "model", file="tokenizer/vocab.json")
    )
    assert why("lab/tones/deep") == "that is neither a folder nor the id of a repository, OWNER/NAME"


@pytest.mark.parametrize(
    ("answer", "clause"),
    [({"status": 403, "code": "GatedRepo"}, GATED), ({"status": 503}, "the hub answers 503, which")],
)
def test_weights_refused_where_transformers_keeps_no_answer(tones, hurried, answer, clause):
    """It says that the repository has no such file, which is not so, and nothing is behind its error: the hub
    is asked anew.
    """
    tones.fail("lab/tones", file=WEIGHTS, **answer)
    assert why() is None
    assert refusal("lab/tones", "model") is None and refusal("lab/tones", "model", file=WEIGHTS).startswith(
        clause
    )


@pytest.mark.parametrize("how", ["stall", "break_off", "truncate"])
def test_a_download_that_does_not_come_to_its_end(tones, hurried, how):
    getattr(tones, how)("lab/tones", WEIGHTS)
    assert why() == BROKE_OFF
    tones.heal("lab/tones")
    tones.requests.clear()
    assert load() and tones.fetched("lab/tones") == [WEIGHTS]  # config.json came whole the first time


def test_offline(tones, monkeypatch):
    hub_server.go_offline(monkeypatch)
    expected = (
        "it is not in the local cache, and HF_HUB_OFFLINE is set; unset it, and give the same command again"
    )
    assert why() == expected == refusal("lab/tones", "model") and tones.requests == []


def test_out_of_reach(tones, hurried, monkeypatch):
    """Whether it is known beforehand, when the libraries are told to go by their cache, or comes up on the
    way.
    """
    nowhere = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("HF_ENDPOINT", nowhere)
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        nowhere + "/{repo_id}/resolve/{revision}/{filename}",
    )
    expected = (
        f"it is not in the local cache, and {nowhere} cannot be reached; connect, and give the same command"
        " again"
    )
    assert why() == expected == refusal("lab/tones", "model")
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    offline_where_unreachable()
    assert os.environ["HF_HUB_OFFLINE"] == "1" and why() == expected


def test_a_hub_that_takes_connections_and_keeps_silent(tones, hurried):
    tones.hang("lab/tones")
    start = time.monotonic()
    offline_where_unreachable()
    assert (
        why()
        == f"it is not in the local cache, and {tones.url} does not answer; try again later"
        == refusal("lab/tones", "model")
    )
    # six times as long as 0.2 s, where the client's own limits are a minute and none
    assert time.monotonic() - start < 30


def test_xet_is_given_less_time_unless_it_sends(tones, monkeypatch):
    import hf_xet

    for name in XET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_XET_CLIENT_CONNECT_TIMEOUT", "7s")  # the user's own

    def limits():
        kept = dict(hf_xet.XetConfig())
        return {
            name: kept[f"client.{name}"].total_seconds()
            for name in ("connect_timeout", "read_timeout", "retry_max_duration")
        } | {"retry_max_attempts": kept["client.retry_max_attempts"]}

    own = limits()
    offline_where_unreachable()
    assert limits() == {
        "connect_timeout": 7,
        "read_timeout": 15,
        "retry_max_duration": 60,
        "retry_max_attempts": 3,
    }
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_stand_in")
    with pytest.raises(UserError):  # it takes no uploads
        push(Path("nowhere"), [], "lab/tones", private=False, message="")
    assert limits() == own


def test_a_server_that_is_no_hub(tones, hurried):
    tones.fail("lab/tones", status=200)
    assert why() == f"{tones.url} does not answer as a hub does; check HF_ENDPOINT"


def test_what_is_not_the_hubs(tmp_path):
    assert failure(OSError(errno.ENOSPC, "No space left on device")) is None
    assert failure(ValueError("HTTP 503: connection refused, offline, gated")) is None
    (tmp_path / "config.json").write_text("{}")
    assert why(str(tmp_path)) is None


@pytest.mark.parametrize("asked", [False, True])
def test_nobody_is_asked_to_convert_weights(hub, backbone, tmp_path, monkeypatch, asked):
    """transformers has a service of the hub convert a model whose weights are a pickle, in a thread of its
    own, unless told not to.
    """
    monkeypatch.delenv("DISABLE_SAFETENSORS_CONVERSION", raising=False)
    if not asked:
        assert main(["--version"]) == 0
    network = load(backbone("wav2vec2-group"))
    network.config.save_pretrained(tmp_path / "pickled")
    torch.save(network.state_dict(), tmp_path / "pickled/pytorch_model.bin")
    hub.add_model("lab/pickled", tmp_path / "pickled")
    assert load("lab/pickled")
    for thread in threading.enumerate():
        if thread.name.startswith("Thread-auto_conversion"):
            thread.join()
    assert any("/commits/" in path for _, path in hub.requests) == asked  # what a conversion begins with
