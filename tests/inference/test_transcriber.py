"""A Transcriber whose passes run side by side on a CPU says what one does that runs them one by one."""

import threading

import numpy as np
import pytest
import torch
from harness import save_backbone

from asr_exp.data.tokenizer import Tokenizer
from asr_exp.decoding.decoders import make_decoder
from asr_exp.inference import transcriber as module
from asr_exp.inference.chunking import Chunking
from asr_exp.inference.transcriber import Transcriber
from asr_exp.model.loading import load_backbone
from asr_exp.model.model_config import ModelSettings
from asr_exp.model.recogniser import Recogniser

TOKENIZER = Tokenizer.build(["the quick brown fox jumps over the lazy dog"])


@pytest.fixture(scope="module")
def transcriber(tmp_path_factory):
    """Passes of 2 s; a recording of more than 6 s goes through the network in chunks of 4 s."""
    folder = save_backbone("wav2vec2", "layer", tmp_path_factory.mktemp("model"))
    torch.manual_seed(7)
    network, extractor = load_backbone(ModelSettings(str(folder)), len(TOKENIZER), TOKENIZER.blank)
    with torch.no_grad():
        network.lm_head.weight.mul_(20)
    greedy = make_decoder("greedy", TOKENIZER, {})
    return Transcriber(
        Recogniser(network, extractor), TOKENIZER, greedy, torch.device("cpu"), 2.0, Chunking(6.0, 4.0, 1.0)
    )


@pytest.fixture
def clips():
    rng = np.random.default_rng(0)
    seconds = [1.0, 1.5, 0.4, 30.0, 1.7, 0.01, 2.5, 9.0]
    return [(rng.standard_normal(round(16000 * s)) * 3000).astype(np.int16) for s in seconds]


@pytest.fixture
def running(transcriber, monkeypatch):
    """(most passes at a time, the threads that each had)."""
    forward, lock = transcriber.model.forward, threading.Lock()
    seen = {"now": 0, "most": 0, "threads": set()}

    def counted(*arguments):
        with lock:
            seen["now"] += 1
            seen["most"] = max(seen["most"], seen["now"])
            seen["threads"].add(torch.get_num_threads())
        try:
            return forward(*arguments)
        finally:
            with lock:
                seen["now"] -= 1

    monkeypatch.setattr(transcriber.model, "forward", counted)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield seen
    torch.set_num_threads(before)


def test_two_side_by_side_say_what_one_by_one_say(transcriber, clips, running, monkeypatch):
    two = transcriber(clips)
    assert running["most"] == 2 and running["threads"] == {2}
    monkeypatch.setattr(module, "CPU_PASSES", 1)
    monkeypatch.setattr(transcriber, "chunks_at_once", 1)
    running.update(most=0, threads=set())
    one = transcriber(clips)
    assert running["most"] == 1 and running["threads"] == {4}
    assert repr(one) == repr(two) and any(transcript.text for transcript in two)


def test_a_pass_that_is_alone_has_all_threads(transcriber, clips, running):
    """A stream's newest seconds, say: it must not take longer than it did."""
    transcriber(clips[:1])
    assert running["threads"] == {4}


def test_passes_of_several_threads_take_turns(transcriber, clips, running, monkeypatch):
    """As in `serve`, where a long recording goes chunk by chunk."""
    monkeypatch.setattr(transcriber, "chunks_at_once", 1)
    texts: dict[int, list] = {}
    threads = [
        threading.Thread(target=lambda i=i: texts.update({i: transcriber([clips[i]])}))
        for i in (0, 1, 3, 4, 7)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert running["most"] == 1 and running["threads"] == {4}
    assert {i: repr(found) for i, found in texts.items()} == {
        i: repr(transcriber([clips[i]])) for i in (0, 1, 3, 4, 7)
    }
