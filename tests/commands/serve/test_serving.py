"""The server's application in this process: the forms of an answer, refusals, limits, batches, streams, the
page.
"""

import asyncio
import base64
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra `serve`")

import uvicorn  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402
from serving import encoded, recording, save_recogniser  # noqa: E402
from starlette.testclient import WebSocketDenialResponse  # noqa: E402
from uvicorn.protocols.http.h11_impl import H11Protocol  # noqa: E402

from asr_exp.builders.transcriber import load_transcriber
from asr_exp.commands.serve import exchange, stream, uploads
from asr_exp.commands.serve.app import WEB_FOLDER, make_app
from asr_exp.commands.serve.batcher import Batcher, Batching
from asr_exp.commands.serve.limits import HTTPError, ServeLimits
from asr_exp.commands.serve.metrics import Metrics
from asr_exp.commands.serve.server import bind, has_request_in_flight, unanswered_requests, url
from asr_exp.commands.serve.service import ServedModel, Service
from asr_exp.config import compose as configs
from asr_exp.core.errors import UserError
from asr_exp.decoding.alignment import Word
from asr_exp.inference.transcriber import Transcript
from asr_exp.runtime.distributed import started

LIMITS = ServeLimits(max_bytes=2**20, max_seconds=60, queue=100, queue_seconds=600, streams=2, timeout=20)
SAID = Transcript(
    "so it is", [Word("so", 0.1, 0.3, 0.9), Word("it", 0.4, 0.5, 0.8), Word("is", 3.0, 3.25, 0.5)], 4.0
)


@pytest.fixture(scope="module")
def transcriber(tmp_path_factory):
    """A real recogniser, of a family whose answers would depend on the batch if it were padded."""
    folder = save_recogniser(tmp_path_factory.mktemp("ctc"))
    with started("cpu", "fp32") as runtime:
        yield load_transcriber(configs.compose([f"run={folder}"]), runtime)


@pytest.fixture
def client():
    """client(transcribe, limits..., token=...) -> a client of an application that uses this to transcribe."""
    services = []

    def make(
        transcribe=lambda clips: [SAID] * len(clips),
        rate=16000,
        token=None,
        window=0.01,
        local=False,
        **limits,
    ) -> TestClient:
        model = ServedModel(transcribe, rate, "mine")
        services.append(Service(model, replace(LIMITS, **limits), Batching(window=window)))
        made = TestClient(make_app(services[-1], token, local), raise_server_exceptions=False)
        made.service = services[-1]
        return made

    yield make
    for service in services:
        service.__exit__()


def post(client, audio, path="/v1/audio/transcriptions", **fields):
    return client.post(path, files={"file": ("a.wav", audio)}, data={"model": "any", **fields})


def refused(answer, status, *words):
    """That an answer is this refusal, in OpenAI's form and in a sentence."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (
        set(error) == {"message", "type", "param", "code"}
        and error["message"][0].isupper()
        and error["message"].endswith(".")
    )
    assert [word for word in words if word not in error["message"]] == [], error["message"]
    return answer


# ------------------------------------------------------------------------------------------------------------
# answers


def test_the_forms_of_an_answer(client):
    here, audio = client(), encoded(recording(1))
    assert post(here, audio).json() == {"text": "so it is"}
    assert post(here, audio, response_format="text").text == "so it is\n"
    srt, vtt = (post(here, audio, response_format=name) for name in ("srt", "vtt"))
    assert srt.text.startswith("1\n00:00:00,100 --> 00:00:") and "\n\n2\n00:00:03,000 --> " in srt.text
    assert vtt.text.startswith("WEBVTT\n\n00:00:00.100 --> ") and vtt.headers["content-type"].startswith(
        "text/vtt"
    )
    whole = post(here, audio, response_format="verbose_json", language="en").json()
    assert (whole["text"], whole["language"], whole["duration"], "words" in whole) == (
        "so it is",
        "en",
        4.0,
        False,
    )
    assert [(s["id"], s["start"], s["text"]) for s in whole["segments"]] == [
        (0, 0.1, "so it"),
        (1, 3.0, "is"),
    ]
    words = post(here, audio, response_format="verbose_json", **{"timestamp_granularities[]": "word"}).json()
    assert [(w["word"], w["start"], w["end"]) for w in words["words"]] == [
        ("so", 0.1, 0.3),
        ("it", 0.4, 0.5),
        ("is", 3.0, 3.25),
    ]
    assert "segments" not in words
    both = post(
        here, audio, response_format="verbose_json", **{"timestamp_granularities[]": ["word", "segment"]}
    ).json()
    assert {"words", "segments"} <= set(both)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "MP3", "OGG"])
def test_every_way_to_send_a_recording_gives_what_transcribe_gives(client, transcriber, tmp_path, format):
    from asr_exp.data.audio import decode
    from asr_exp.data.corpora import FileAudio

    audio = encoded(recording(2, rate=22050), 22050, format, None)
    (tmp_path / "a").write_bytes(audio)
    (expected,) = transcriber([decode(FileAudio(str(tmp_path / "a")), transcriber.rate).samples])
    assert len(expected.text) > 5 and expected.words
    here = client(transcriber)
    form = post(here, audio, "/predict").json()
    plain = here.post("/predict", json={"file": base64.b64encode(audio).decode()})
    inline = here.post("/predict", json={"file": "data:audio/wav;base64," + base64.b64encode(audio).decode()})
    in_lines = here.post("/predict", json={"file": base64.encodebytes(audio).decode()})
    assert form == plain.json() == inline.json() == in_lines.json()
    assert form["text"] == expected.text == post(here, audio).json()["text"] and form[
        "seconds"
    ] == pytest.approx(2, abs=0.1)
    assert [(w["word"], w["start"], w["end"]) for w in form["words"]] == [
        (w.text, w.start, w.end) for w in expected.words
    ]


def test_what_is_recognised_together_is_what_is_said_alone(client, transcriber):
    clips = [recording(0.3 + 0.17 * i, seed=i) for i in range(24)]
    alone = [transcriber([clip])[0] for clip in clips]
    assert len({one.text for one in alone}) > 20
    here = client(transcriber, window=0.3)
    with ThreadPoolExecutor(len(clips)) as threads:
        found = list(threads.map(lambda clip: post(here, encoded(clip), "/predict").json(), clips))
    assert [one["text"] for one in found] == [one.text for one in alone]
    assert [[w["start"] for w in one["words"]] for one in found] == [
        [w.start for w in one.words] for one in alone
    ]
    assert here.service.metrics.registry.get_sample_value("asr_exp_batch_clips_count") < len(clips) / 3


# ------------------------------------------------------------------------------------------------------------
# refusals


def test_what_is_no_recording(client):
    here, audio = client(), encoded(recording(1))
    refused(post(here, b""), 400, "empty")
    refused(post(here, b"<html>" * 100), 400, "cannot be read as audio")
    refused(post(here, audio[: len(audio) // 2]), 400, "truncated")
    refused(post(here, encoded(recording(1), format="FLAC", subtype=None)[:3000]), 400)
    refused(post(here, encoded(recording(0))), 400, "no audio")
    refused(here.post("/v1/audio/transcriptions", data={"model": "x"}, files={"other": b"1"}), 400, "file")
    refused(
        here.post("/v1/audio/transcriptions", json={"file": "x"}),
        415,
        "multipart/form-data",
        "application/json",
    )
    refused(here.post("/v1/audio/transcriptions", content=b"x"), 415)
    refused(
        here.post("/v1/audio/transcriptions", content=b"x", headers={"content-type": "multipart/form-data"}),
        400,
    )
    refused(
        here.post(
            "/v1/audio/transcriptions",
            content=b"junk",
            headers={"content-type": "multipart/form-data; boundary=a"},
        ),
        400,
    )
    refused(post(here, audio, response_format="xml"), 400, "response_format", "verbose_json")
    refused(post(here, audio, stream="true"), 400, "/v1/stream")
    for body in (b"", b"{", b"[]", b"3", b"{}", b'{"file": 3}', b'{"file": null}', b"[" * 100_000):
        refused(
            here.post("/predict", content=body, headers={"content-type": "application/json"}),
            400,
            '{"file": "BASE64',
        )
    refused(here.post("/predict", json={"file": "%%"}), 400, "base64")
    refused(here.post("/predict", files={"other": b"1"}), 400, "'file'")
    refused(here.post("/predict", content=b'{"file": ""}'), 415, "application/json")
    refused(here.get("/predict/", follow_redirects=False), 404)
    refused(here.post("/predict", content=audio, headers={"content-type": "audio/wav"}), 415, "audio/wav")
    refused(here.get("/nowhere"), 404, "/nowhere")
    refused(here.get("/predict"), 405, "GET /predict")
    assert post(here, audio).status_code == 200  # and goes on


def test_what_is_too_large(client):
    here, large = client(), b"0" * (2**20 + 2**17)

    def parts():
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(1000):
            yield b"0" * 10_000

    refused(post(here, large), 413, "1 MB")
    chunked = here.post(
        "/v1/audio/transcriptions",
        content=parts(),
        headers={"content-type": "multipart/form-data; boundary=b"},
    )
    refused(chunked, 413, "1 MB")
    refused(here.post("/predict", json={"file": base64.b64encode(large).decode()}), 413)
    just = b"0" * (2**20 - 100)  # is let in, and found to be no audio
    refused(here.post("/predict", json={"file": base64.b64encode(just).decode()}), 400)
    refused(post(here, just), 400)
    refused(post(here, b"0" * (2**20 + 10)), 413)  # the form is within its bounds, the file is not


def test_what_is_too_long(client, monkeypatch):
    here = client(max_seconds=5)
    refused(post(here, encoded(recording(5.5))), 413, "6 s", "5 s")
    quiet = encoded(np.zeros(16000 * 600, dtype=np.int16), format="FLAC", subtype=None)
    assert len(quiet) < 2**20
    refused(post(here, quiet), 413, "600 s")  # by its header; it is not decoded
    monkeypatch.setattr(uploads, "MAX_SAMPLES", 4 * 44100)
    refused(post(here, encoded(np.zeros((44100, 6), dtype=np.int16), 44100)), 413, "264,600 samples")
    assert post(here, encoded(recording(4.9))).status_code == 200


def test_a_token(client):
    here, audio = client(token="sesame"), encoded(recording(1))
    for headers in (
        {},
        {"Authorization": "Bearer open"},
        {"Authorization": "sesame"},
        {"Authorization": "Bearer "},
    ):
        refused(here.post("/predict", files={"file": audio}, headers=headers), 401, "Authorization: Bearer")
        assert (
            here.get("/metrics", headers=headers).status_code
            == here.get("/v1/models", headers=headers).status_code
            == 401
        )
    assert (
        here.get("/healthz").status_code
        == here.get("/").status_code
        == here.get("/page/page.js").status_code
        == 200
    )
    assert (
        here.post("/predict", files={"file": audio}, headers={"Authorization": "Bearer sesame"}).status_code
        == 200
    )


def test_a_full_queue(client):
    gate, audio = threading.Event(), encoded(recording(1))

    def transcribe(clips):
        gate.wait(10)
        return [SAID] * len(clips)

    here = client(transcribe, queue=2)
    with ThreadPoolExecutor(2) as threads:
        first = [threads.submit(post, here, audio) for _ in range(2)]
        wait_until(lambda: here.service.batcher._reserved)
        wait_until(lambda: len(here.service.batcher._reserved) == 2)
        full = refused(post(here, audio), 503, "try again")
        assert int(full.headers["Retry-After"]) >= 1
        assert here.get("/healthz").status_code == 200
        gate.set()
        assert [one.result().status_code for one in first] == [200, 200]
    assert post(here, audio).status_code == 200


def test_more_audio_than_it_may_hold(client):
    gate = threading.Event()

    def transcribe(clips):
        gate.wait(10)
        return [SAID] * len(clips)

    here = client(transcribe, queue_seconds=10)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(post, here, encoded(recording(8)))
        wait_until(lambda: here.service.batcher._reserved)
        assert int(refused(post(here, encoded(recording(3))), 503).headers["Retry-After"]) >= 1
        second = threads.submit(post, here, encoded(recording(1.5)))
        gate.set()
        assert first.result().status_code == second.result().status_code == 200


def test_what_takes_too_long(client):
    gate = threading.Event()
    here = client(lambda clips: [SAID] * len(clips) if gate.wait(10) else [], timeout=0.3)
    assert refused(post(here, encoded(recording(1))), 503, "0.3 s").headers["Retry-After"] == "5"
    gate.set()
    wait_until(lambda: not here.service.batcher._reserved)
    assert post(here, encoded(recording(1))).status_code == 200


def test_a_slow_sender(client, monkeypatch):
    monkeypatch.setattr(exchange, "IDLE_TIMEOUT", 0.2)
    here, sent = client(), []

    async def hanging():
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/predict",
            "query_string": b"",
            "http_version": "1.1",
            "scheme": "http",
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"100")],
            "server": ("x", 1),
        }
        first = [{"type": "http.request", "body": b"{", "more_body": True}]

        async def receive():
            return first.pop() if first else await asyncio.sleep(30)

        async def send(message):
            sent.append(message)

        monkeypatch.setattr(exchange, "DRAIN_TIMEOUT", 0.1)
        await here.app(scope, receive, send)

    asyncio.run(hanging())
    assert sent[0]["status"] == 408 and (b"connection", b"close") in sent[0]["headers"]
    assert here.service.metrics.registry.get_sample_value("asr_exp_requests_under_way") == 0


def test_a_model_that_fails(client):
    def transcribe(clips):
        if any(len(clip) > 16000 for clip in clips):
            raise RuntimeError("no")
        return [SAID] * len(clips)

    here = client(transcribe, window=0.3)
    with ThreadPoolExecutor(4) as threads:
        found = list(
            threads.map(
                lambda seconds: post(here, encoded(recording(seconds))).status_code, [0.5, 1.5, 0.7, 0.9]
            )
        )
    assert found == [200, 500, 200, 200]  # one clip that it cannot take is no one else's harm
    refused(post(here, encoded(recording(2))), 500)


def wait_until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


# ------------------------------------------------------------------------------------------------------------
# the batcher


def test_who_has_gone_is_not_recognised():
    gate, seen = threading.Event(), []

    def transcribe(clips):
        seen.append([len(clip) for clip in clips])
        gate.wait(10)
        return [SAID] * len(clips)

    async def run():
        batcher = Batcher(transcribe, 1000, Batching(100, 0.0), 1000, metrics := Metrics())
        first = asyncio.create_task(batcher.recognise(np.zeros(1, np.int16)))
        await asyncio.sleep(0.1)
        waiting = [asyncio.create_task(batcher.recognise(np.zeros(n, np.int16))) for n in (10, 20, 30)]
        await asyncio.sleep(0.05)
        assert metrics.registry.get_sample_value("asr_exp_waiting_seconds") == pytest.approx(0.06)
        waiting[1].cancel()
        await asyncio.sleep(0.05)
        gate.set()
        await asyncio.gather(first, waiting[0], waiting[2])
        assert metrics.registry.get_sample_value("asr_exp_waiting_seconds") == pytest.approx(0)
        batcher.close()
        with pytest.raises(HTTPError, match="stopping"):
            await batcher.recognise(np.zeros(1, np.int16))
        assert not any(thread.is_alive() for thread in batcher._threads)

    asyncio.run(run())
    assert seen == [[1], [10, 30]]


def test_batches_keep_to_their_budget_and_order():
    seen, gate = [], threading.Event()

    def transcribe(clips):
        seen.append([len(clip) for clip in clips])
        gate.wait(10)
        return [SAID] * len(clips)

    async def run():
        batcher = Batcher(transcribe, 1, Batching(10, 0.05), 1000, Metrics())
        tasks = [asyncio.create_task(batcher.recognise(np.zeros(n, np.int16))) for n in (4, 5, 3, 50, 6, 4)]
        await asyncio.sleep(0.3)
        gate.set()
        await asyncio.gather(*tasks)
        batcher.close()

    asyncio.run(run())
    assert seen == [[4, 5], [3], [50], [6, 4]]


def test_short_recordings_do_not_wait_for_long_ones():
    gate, metrics = threading.Event(), Metrics()

    def transcribe(clips):
        if len(clips[0]) > 60:
            gate.wait(10)
        return [SAID] * len(clips)

    async def run():
        batcher = Batcher(transcribe, 1, Batching(10, 0.0, long_seconds=60), 1000, metrics)
        long = [asyncio.create_task(batcher.recognise(np.zeros(61, np.int16))) for _ in range(2)]
        await asyncio.sleep(0.1)
        for _ in range(3):
            assert await asyncio.wait_for(batcher.recognise(np.zeros(60, np.int16)), 5) == SAID
        assert not any(task.done() for task in long)
        # one is at work, one waits for it
        assert metrics.registry.get_sample_value("asr_exp_waiting_seconds") == 61
        gate.set()
        assert await asyncio.gather(*long) == [SAID, SAID]
        batcher.close()

    began = time.monotonic()
    asyncio.run(run())
    # counted once
    assert metrics.registry.get_sample_value("asr_exp_busy_seconds_total") <= time.monotonic() - began
    assert metrics.registry.get_sample_value("asr_exp_audio_seconds_total") == 3 * 60 + 2 * 61


def test_a_server_that_stops_tells_those_who_wait():
    gate, entered = threading.Event(), threading.Event()

    def transcribe(clips):
        entered.set()
        gate.wait(10)
        return [SAID] * len(clips)

    async def run():
        batcher = Batcher(transcribe, 1, Batching(1, 0.0), 1000, Metrics())
        tasks = [asyncio.create_task(batcher.recognise(np.zeros(5, np.int16))) for _ in range(3)]
        await asyncio.to_thread(entered.wait, 5)
        threading.Timer(0.2, gate.set).start()
        await asyncio.to_thread(batcher.close)
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, *rest = asyncio.run(run())
    assert first == SAID and [one.status_code for one in rest] == [503, 503]


# ------------------------------------------------------------------------------------------------------------
# streams


def speak(socket, samples, size=3200):
    for i in range(0, len(samples), size):
        socket.send_bytes(samples[i : i + size].astype("<i2").tobytes())


def finish(socket):
    """What is told until the end."""
    socket.send_json({"end": True})
    told = [socket.receive_json()]
    while not told[-1].get("final") and "error" not in told[-1]:
        told.append(socket.receive_json())
    return told


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_stream_ends_in_what_its_file_would_give(client, transcriber, rate):
    samples = recording(6, rate=rate)
    here = client(transcriber)
    with here.websocket_connect("/v1/stream") as socket:
        socket.send_json({"rate": rate})
        speak(socket, samples[: 4 * rate])
        partial = socket.receive_json()
        speak(socket, samples[4 * rate :])
        told = finish(socket)
    assert not partial["final"] and partial["text"] and partial["words"]
    expected = post(here, encoded(samples, rate), "/predict").json()
    last = told[-1]
    assert (last["text"], last["words"], last["seconds"]) == (expected["text"], expected["words"], 6.0)


def test_a_long_stream_keeps_little_and_loses_nothing(client, monkeypatch):
    """Each clip's transcript says which samples it was made of, so that nothing may be lost or said twice."""
    monkeypatch.setattr(stream, "WINDOW", 3.0)
    heard = []

    def transcribe(clips):
        heard.extend(len(clip) / 100 for clip in clips)
        return [numbered(clip[::10], len(clip) / 100) for clip in clips]

    def numbered(some, seconds):
        return Transcript(
            " ".join(map(str, some)),
            [Word(str(n), 0.1 * i, 0.1 * i + 0.05, 1.0) for i, n in enumerate(some)],
            seconds,
        )

    here = client(transcribe, rate=100)
    monkeypatch.setattr(stream, "RATES", (10, 1000))
    samples = np.arange(4000, dtype=np.int16)
    with here.websocket_connect("/v1/stream") as socket:
        socket.send_json({"rate": 100})
        speak(socket, samples, 7)
        last = finish(socket)[-1]
    assert max(heard) < 2.5 * stream.WINDOW
    said = [int(word) for word in last["text"].split()]
    assert said == sorted(said) and len(said) == len(set(said)) and said[0] == 0 and said[-1] >= 3990
    assert [int(word["word"]) for word in last["words"]] == said
    assert np.abs(np.array([word["start"] for word in last["words"]]) - np.array(said) / 100).max() < 0.02
    assert np.diff(said).max() <= 20


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        ("no", None, "rate"),
        ("{}", None, "rate"),
        ("[]", None, "rate"),
        ('{"rate": 3}', None, "4000"),
        (b"\0\0", None, "rate"),
        ('{"rate": 1e999}', None, "rate"),
        ("[" * 100_000, None, "rate"),
        ('{"rate": 16000}', "[" * 100_000, '{"end": true}'),
        ('{"rate": 16000}', b"\0", "odd"),
        ('{"rate": 16000}', "what", '{"end": true}'),
        ('{"rate": 16000}', "[1]", '{"end": true}'),
        ('{"rate": 16000}', '"bend"', '{"end": true}'),
    ],
)
def test_a_stream_of_something_else(client, first, then, words):
    here = client()
    with here.websocket_connect("/v1/stream") as socket:
        for message in (first, then):
            if message is not None:
                (socket.send_bytes if isinstance(message, bytes) else socket.send_text)(message)
        assert words in socket.receive_json()["error"]["message"]
        assert socket.receive()["code"] == 1008
    assert here.service.open_streams == 0


def test_the_limits_of_streams(client):
    here = client(max_seconds=2, token="sesame")
    wrong = {"Authorization": "Bearer open"}
    with pytest.raises(WebSocketDenialResponse) as told, here.websocket_connect("/v1/stream", headers=wrong):
        pass
    refused(told.value, 401, "token")
    for first, code in (({"rate": 16000}, 1008), ({"rate": 16000, "token": "x"}, 1008)):
        with here.websocket_connect("/v1/stream") as socket:
            socket.send_json(first)
            assert "token" in socket.receive_json()["error"]["message"] and socket.receive()["code"] == code
    with here.websocket_connect("/v1/stream", headers={"Authorization": "Bearer sesame"}) as socket:
        socket.send_json({"rate": 16000})
        speak(socket, recording(2.5))
        told = [socket.receive_json()]
        while "error" not in told[-1]:
            told.append(socket.receive_json())
        assert told[-2]["final"] and "2 s" in told[-1]["error"]["message"]
    with here.websocket_connect("/v1/stream") as one, here.websocket_connect("/v1/stream") as two:
        for socket in (one, two):
            socket.send_json({"rate": 16000, "token": "sesame"})
        wait_until(lambda: here.service.open_streams == 2)
        with here.websocket_connect("/v1/stream") as third:
            third.send_json({"rate": 16000, "token": "sesame"})
            assert (
                "2 sessions" in third.receive_json()["error"]["message"] and third.receive()["code"] == 1013
            )
    wait_until(lambda: here.service.open_streams == 0)


def test_who_shows_no_token_takes_no_session(client, monkeypatch):
    monkeypatch.setattr(stream, "MAX_UNAUTHENTICATED", 2)
    here = client(token="sesame")
    begin = lambda **headers: here.websocket_connect("/v1/stream", headers=headers)  # noqa: E731
    with begin() as one, begin():
        wait_until(lambda: here.service.unauthenticated_streams == 2)
        assert here.service.open_streams == 0
        with pytest.raises(WebSocketDenialResponse) as told, begin():
            pass
        assert refused(told.value, 503).headers["Retry-After"] == "5"
        with begin(Authorization="Bearer sesame") as known:
            known.send_json({"rate": 16000})
            assert finish(known)[-1]["final"]
        one.send_json({"rate": 16000, "token": "\ud800"})
        assert "token" in one.receive_json()["error"]["message"]
    wait_until(lambda: here.service.unauthenticated_streams == 0)
    monkeypatch.setattr(stream, "FIRST_MESSAGE_TIMEOUT", 0.2)
    with begin() as silent:
        assert "0.2 s" in silent.receive_json()["error"]["message"] and silent.receive()["code"] == 1008


def test_a_session_is_not_held_by_saying_nothing(client, monkeypatch):
    monkeypatch.setattr(stream, "IDLE_TIMEOUT", 0.2)
    here = client(max_seconds=0.2)

    def as_message(part):
        """What comes of parts sent for up to two seconds."""
        with here.websocket_connect("/v1/stream") as socket:
            socket.send_json({"rate": 16000})
            for _ in range(40):
                socket.send_bytes(part)
                time.sleep(0.05)
                if not here.service.open_streams:
                    break
            return socket.receive_json()["error"]["message"]

    assert "0.2 s" in as_message(b"") and "0.6 s" in as_message(b"\0\0")


def test_pages_of_other_sites_are_not_served(client):
    here, audio = client(), encoded(recording(1))
    foreign = [
        {"Origin": "http://elsewhere"},
        {"Origin": "null"},
        {"Origin": "http://[::1"},
        {"Sec-Fetch-Site": "cross-site"},
    ]
    for headers in foreign:
        with (
            pytest.raises(WebSocketDenialResponse) as told,
            here.websocket_connect("/v1/stream", headers=headers),
        ):
            pass
        refused(told.value, 403, "another site")
        refused(here.post("/predict", files={"file": audio}, headers=headers), 403, "another site")
    assert here.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # a link
    own = {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}
    assert here.post("/predict", files={"file": audio}, headers=own).status_code == 200
    with here.websocket_connect("/v1/stream", headers=own) as socket:
        socket.send_json({"rate": 16000})
        assert finish(socket)[-1]["final"]


def test_another_name_that_leads_to_this_machine(client):
    here = client(local=True)
    for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", ""):
        refused(here.get("/healthz", headers={"Host": host}), 421, "localhost")
        with (
            pytest.raises(WebSocketDenialResponse),
            here.websocket_connect("/v1/stream", headers={"Host": host}),
        ):
            pass
    for host in ("127.0.0.1", "127.0.0.1:8000", "localhost:80", "LocalHost", "[::1]", "[::1]:8000"):
        assert here.get("/healthz", headers={"Host": host}).status_code == 200


# ------------------------------------------------------------------------------------------------------------
# the rest


def test_health_models_and_metrics(client):
    here = client()
    assert here.get("/healthz").json() == {
        "status": "ok",
        "model": "mine",
        "token": False,
        "limits": {"megabytes": 1.0, "seconds": 60},
    }
    assert here.get("/v1/models").json()["data"][0]["id"] == "mine"
    assert here.get("/v1/models/mine").json()["id"] == "mine" and refused(
        here.get("/v1/models/o/ther"), 404, "o/ther"
    )
    post(here, encoded(recording(2)))
    post(here, b"x")
    post(here, b"0" * (2**20 + 2**17), "/predict")
    here.get("/nowhere/else")
    here.get("/")
    counted = {
        (s.name, *sorted(s.labels.values())): s.value
        for family in text_string_to_metric_families(here.get("/metrics").text)
        for s in family.samples
    }
    assert counted["asr_exp_requests_total", "/v1/audio/transcriptions", "200"] == 1
    assert counted["asr_exp_requests_total", "/v1/audio/transcriptions", "400"] == 1
    # refused before it is known where it leads
    assert counted["asr_exp_requests_total", "/predict", "413"] == 1
    assert counted["asr_exp_requests_total", "404", "other"] == 1  # one name for all that is not there
    assert (
        counted["asr_exp_requests_total", "/", "200"] == 1 and counted["asr_exp_clients_vanished_total",] == 0
    )
    assert counted["asr_exp_audio_seconds_total",] == 2 and counted["asr_exp_waiting_seconds",] == 0
    assert here.head("/").status_code == here.head("/healthz").status_code == 200


def test_the_page_needs_no_other_address(client):
    here = client()
    page = here.get("/")
    assert (
        page.headers["content-type"].startswith("text/html")
        and "default-src 'none'" in page.headers["content-security-policy"]
    )
    named = set(re.findall(r'(?:src|href)="([^"]+)"', page.text))
    assert {"page/page.js", "page/page.css"} <= named
    for path in [*named, *(f"page/{file.name}" for file in WEB_FOLDER.iterdir())]:
        answer = here.get(f"/{path}")
        assert answer.status_code == 200 and answer.headers["x-content-type-options"] == "nosniff"
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", answer.text), path
    assert here.get("/page/__init__.py").status_code == here.get("/page/..%2fapp.py").status_code == 404
    assert here.get("/docs").status_code == 404 and "/predict" in json.dumps(here.get("/openapi.json").json())


def test_an_address_that_is_taken():
    with bind("127.0.0.1", 0) as held:
        held.listen()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url(held))
        with pytest.raises(UserError, match="serve.port=0"):
            bind("127.0.0.1", held.getsockname()[1])
    with pytest.raises(UserError, match="serve.host=nowhere.invalid"):
        bind("nowhere.invalid", 0)


def test_a_uvicorn_without_its_private_attributes():
    """No request is cut off for the lack of them, and none is counted as unanswered."""
    config = uvicorn.Config(lambda scope, receive, send: None)
    connection = H11Protocol(config, uvicorn.server.ServerState(), {}, asyncio.new_event_loop())
    assert not has_request_in_flight(connection)
    del connection.cycle
    assert has_request_in_flight(connection)
    connection.loop.close()
    server = uvicorn.Server(config)
    server.server_state.tasks.update({"a", "b"})
    assert unanswered_requests(server) == 2
    del server.server_state.tasks
    assert unanswered_requests(server) == 0


def test_the_page_is_packed():
    import tomllib

    data = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]
    assert data["asr_exp.commands.serve"] == ["web/*"]
