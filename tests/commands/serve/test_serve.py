"""`serve` as its users meet it: a process, the openai client, curl, a crowd, a browser, a signal."""

import base64
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from harness import cli, one_sentence, wait_for

pytest.importorskip("fastapi", reason="needs the extra `serve`")

from serving import encoded, recording, save_recogniser, server  # noqa: E402

from asr_exp.builders.transcriber import load_transcriber
from asr_exp.config import compose as configs
from asr_exp.runtime.distributed import started

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_recogniser(tmp_path_factory.mktemp("ctc"))


@pytest.fixture(scope="module")
def clips(model):
    """Recordings as WAV files, with what the recogniser makes of each."""
    with started("cpu", "fp32") as runtime:
        transcriber = load_transcriber(configs.compose([f"run={model}"]), runtime)
        found = [recording(random.Random(i).uniform(0.5, 4), seed=i) for i in range(60)]
        return [(encoded(clip), transcriber([clip])[0]) for clip in found]


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    with server(f"run={model}", "serve.max_megabytes=2", cwd=tmp_path_factory.mktemp("server")) as (
        address,
        _,
    ):
        yield address


def test_the_openai_client(address, clips):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    audio, said = clips[0]
    create = client.audio.transcriptions.create
    assert create(model="any", file=("a.wav", audio)).text == said.text
    assert create(model="any", file=("a.wav", audio), response_format="text").strip() == said.text
    assert "-->" in create(model="any", file=("a.wav", audio), response_format="srt")
    whole = create(
        model="any",
        file=("a.wav", audio),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert [(w.word, w.start, w.end) for w in whole.words] == [(w.text, w.start, w.end) for w in said.words]
    assert whole.segments[0].start == said.words[0].start and whole.duration == pytest.approx(said.seconds)
    with pytest.raises(openai.BadRequestError, match="cannot be read as audio"):
        create(model="any", file=("a.wav", b"garbage" * 100))
    with pytest.raises(openai.APIStatusError, match="2 MB") as large:
        create(model="any", file=("a.wav", b"0" * 30_000_000))
    assert large.value.status_code == 413
    assert [one.id for one in client.models.list()] == [Path(client.models.list().data[0].id).name]


def test_curl(address, clips, tmp_path):
    audio, said = clips[1]
    (tmp_path / "a.wav").write_bytes(audio)
    (tmp_path / "large").write_bytes(os.urandom(40_000_000))
    (tmp_path / "a.json").write_text(json.dumps({"file": base64.b64encode(audio).decode()}))

    def curl(*words):
        done = subprocess.run(
            ["curl", "-sS", "-w", "\n%{http_code}", *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    assert curl("-F", "file=@a.wav", "-F", "response_format=text", f"{address}/v1/audio/transcriptions") == (
        200,
        said.text + "\n",
    )
    for words in (["-F", "file=@a.wav"], ["--json", "@a.json"]):
        status, body = curl(*words, f"{address}/predict")
        assert (status, json.loads(body)["text"]) == (200, said.text)
    for words in (
        [],
        ["-H", "Expect:"],
        ["-H", "Transfer-Encoding: chunked"],
        ["-H", "Transfer-Encoding: chunked", "-H", "Expect:"],
    ):
        status, body = curl("-F", "file=@large", *words, f"{address}/v1/audio/transcriptions")
        assert status == 413 and "2 MB" in body, words
    assert curl("--data-binary", "@a.wav", f"{address}/v1/audio/transcriptions")[0] == 415
    assert curl(f"{address}/healthz")[0] == 200


# ------------------------------------------------------------------------------------------------------------
# a crowd


def raw(address, data, hold=0.0):
    """Send bytes and leave, at once or after a while."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection((urlsplit(address).hostname, urlsplit(address).port), 10) as held,
    ):
        held.sendall(data)
        if hold:
            held.settimeout(hold)
            while held.recv(4096):
                pass


def vanishing(address, pcm, seconds):
    """Speak into a stream, and leave in the middle."""
    from websockets.sync.client import connect

    with contextlib.suppress(OSError), connect(address.replace("http", "ws") + "/v1/stream") as socket:
        socket.send(json.dumps({"rate": 16000}))
        socket.send(pcm)
        time.sleep(seconds)
        socket.socket.close()


def posted(address, audio):
    import httpx2

    for _ in range(20):
        answer = httpx2.post(f"{address}/predict", files={"file": ("a.wav", audio)}, timeout=60)
        if answer.status_code != 503:
            return answer
        time.sleep(min(2, int(answer.headers["retry-after"])))
    raise AssertionError("never let in")


def crowd(address, clips):
    """200 clients at once: 130 that ask properly, the rest hang, send garbage or vanish -> the answers of the
    proper ones.
    """
    random.seed(0)
    garbage = [
        b"\x16\x03\x01\x02\0" + os.urandom(300),
        b"GET /\r\n\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        (
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length:"
            b" 4\r\n\r\n{{{{"
        ),
    ]
    head = (
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data;"
        b" boundary=b\r\nContent-Length: %d\r\n\r\n"
    )
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    tail = b"\r\n--b--\r\n"

    def whole(audio):
        body = part + audio + tail
        return head % len(body) + body

    bad = [lambda i=i: raw(address, garbage[i % 4], 5) for i in range(20)]
    bad += [lambda i=i: raw(address, whole(clips[i][0])) for i in range(20)]  # vanishes when all is sent
    # in the middle; or hangs there
    bad += [lambda i=i: raw(address, whole(clips[i][0])[: 300 + 999 * i], (i % 2) * 15) for i in range(10)]
    # never come to the point
    bad += [lambda i=i: raw(address, [b"", b"POST /pre"][i % 2], 15) for i in range(10)]
    bad += [lambda i=i: vanishing(address, clips[i][0][44:], i % 3) for i in range(10)]
    good = [lambda i=i: posted(address, clips[i % len(clips)][0]) for i in range(130)]
    with ThreadPoolExecutor(200) as threads:
        futures = [(work, threads.submit(work)) for work in random.sample(good + bad, 200)]
        answers = {work: future.result() for work, future in futures}
    return [answers[work] for work in good]


def resident(process):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text()).group(1)) / 1024


def test_a_crowd(model, clips, tmp_path):
    with server(f"run={model}", "serve.queue=64", cwd=tmp_path) as (address, process):
        import httpx2

        def metric(name):
            return float(re.search(rf"^{name} (\S+)", httpx2.get(f"{address}/metrics").text, re.M).group(1))

        with ThreadPoolExecutor(40) as threads:  # until what torch keeps for the shapes it has met is full
            list(threads.map(lambda i: posted(address, clips[i % len(clips)][0]), range(400)))
        time.sleep(2)
        memory = [resident(process)]
        for _ in range(2):
            answers = crowd(address, clips)
            assert [one.status_code for one in answers] == [200] * 130
            assert [one.json()["text"] for one in answers] == [
                clips[i % len(clips)][1].text for i in range(130)
            ]
            wait_for(lambda: metric("asr_exp_requests_under_way") == 0, 20)
            time.sleep(2)  # idle, it gives back what it does not need
            memory.append(resident(process))
        wait_for(lambda: len(os.listdir(f"/proc/{process.pid}/fd")) < 40, 20)
        assert (
            metric("asr_exp_waiting_seconds") == pytest.approx(0, abs=1e-6)
            and metric("asr_exp_clients_vanished_total") > 0
        )
        assert max(memory) - memory[0] < 60, memory
        assert metric("asr_exp_batch_clips_sum") / metric("asr_exp_batch_clips_count") > 1.5
    assert "Traceback" not in (tmp_path / "server.txt").read_text()


# ------------------------------------------------------------------------------------------------------------
# the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_what_is_under_way(model, clips, tmp_path, number):
    with server(f"run={model}", "serve.window=1.5", cwd=tmp_path) as (address, process):
        answers = []
        asking = threading.Thread(target=lambda: answers.append(posted(address, clips[2][0])))
        asking.start()
        time.sleep(0.7)  # it waits for company
        process.send_signal(number)
        asking.join(20)
        assert answers[0].json()["text"] == clips[2][1].text
        assert process.wait(20) == 128 + number
        with pytest.raises(OSError):
            socket.create_connection((urlsplit(address).hostname, urlsplit(address).port), 1)
    told = (tmp_path / "server.txt").read_text()
    assert told.startswith("stopped: The server has answered") and "Traceback" not in told


def test_a_hanging_client_does_not_keep_it(model, tmp_path):
    with server(f"run={model}", cwd=tmp_path) as (address, process):
        head = (
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length:"
            b" 1000\r\n\r\n{"
        )
        hanging = threading.Thread(target=raw, args=(address, head, 60))
        hanging.start()
        time.sleep(0.5)
        process.terminate()
        assert process.wait(40) == 128 + signal.SIGTERM  # while the client would still wait
        hanging.join(40)
    told = (tmp_path / "server.txt").read_text()
    assert "cut 1 request short" in told and "Traceback" not in told


def test_mistakes_of_whoever_starts_it(model, address, tmp_path):
    taken = one_sentence(
        cli("serve", f"run={model}", f"serve.port={urlsplit(address).port}", cwd=tmp_path, status=2)
    )
    assert "serve.port" in taken and "in use" in taken
    assert "nowhere" in one_sentence(cli("serve", "run=./nowhere", "serve.port=0", cwd=tmp_path, status=2))
    assert "serve.token" in one_sentence(
        cli("serve", f"run={model}", "serve.token=''", cwd=tmp_path, status=2)
    )
    assert "serve.token" in one_sentence(
        cli("serve", f"run={model}", "serve.token='café'", cwd=tmp_path, status=2)
    )
    unset = one_sentence(
        cli("serve", f"run={model}", "serve.token=${oc.env:NO_SUCH_WORD}", cwd=tmp_path, status=2)
    )
    assert "NO_SUCH_WORD" in unset
    assert "serve.queue" in one_sentence(
        cli("serve", f"run={model}", "serve.queue=0", cwd=tmp_path, status=2)
    )


# ------------------------------------------------------------------------------------------------------------
# a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium whose microphone plays a file."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("there is no Chromium on the PATH")
    voice = tmp_path_factory.mktemp("voice") / "x.wav"
    voice.write_bytes(encoded(recording(8, seed=5, rate=48000), 48000))
    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={voice}",
        "--autoplay-policy=no-user-gesture-required",
    ]
    with playwright.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield found
        found.close()


@contextlib.contextmanager
def opened(browser, address, **options):
    """A page of the server; at the end it is certain that it complained of nothing and asked no one else."""
    context = browser.new_context(**options)
    page = context.new_page()
    complaints = []
    asked = []
    page.on(
        "console",
        lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    yield page
    context.close()
    assert [one for one in asked if not one.startswith((address, "blob:", "data:"))] == []
    assert complaints == []


KEPT = """async () => { const answer = await fetch(document.querySelector('#audio').src);
    const bytes = new Uint8Array(await answer.arrayBuffer());
    const letters = Array.from(bytes, (byte) => String.fromCharCode(byte));
    return btoa(letters.join('')); }"""
SHADES = """() => { const canvas = document.querySelector('#wave'), pen = canvas.getContext('2d');
    const shades = pen.getImageData(0, 0, canvas.width, canvas.height).data.buffer;
    return new Set(new Uint32Array(shades)).size; }"""


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_file_in_the_page(browser, address, clips, tmp_path, width, scheme):
    audio, said = clips[3]
    (tmp_path / "a.wav").write_bytes(audio)
    with opened(browser, address, viewport={"width": width, "height": 800}, color_scheme=scheme) as page:
        page.set_input_files("#file", tmp_path / "a.wav")
        page.wait_for_selector("#text[data-final=true]")
        assert page.inner_text("#text").split() == said.text.split()
        page.wait_for_selector("#play:not([disabled])")
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        assert page.evaluate(SHADES) > 20  # waveform, words, bands
        word = said.words[len(said.words) // 2]
        page.click(f"#text button:nth-of-type({len(said.words) // 2 + 1})")
        wait_for(
            lambda: page.evaluate("document.querySelector('#audio').currentTime") >= word.start - 0.05, 10
        )
    (tmp_path / "b.txt").write_text("no audio " * 100)
    with browser.new_context().new_page() as page:
        page.goto(address)
        page.set_input_files("#file", tmp_path / "b.txt")
        page.wait_for_selector("#status.bad")
        assert "cannot be read as audio" in page.inner_text("#status")


def test_the_microphone_in_the_page(browser, address):
    """What is seen at the end is what the server says of the recording that the page has kept."""
    with opened(browser, address, bypass_csp=True) as page:  # so that the test may read the recording
        page.click("#record")
        page.wait_for_function(
            "document.querySelector('#text').innerText.length > 3 && wave_seconds() > 2".replace(
                "wave_seconds()", "parseInt(document.querySelector('#clock').innerText.split(':')[1])"
            )
        )
        assert page.get_attribute("#text", "data-final") == "false"  # while it is spoken
        page.click("#record")
        page.wait_for_selector("#text[data-final=true]")
        kept = page.evaluate(KEPT)
        found = posted(address, base64.b64decode(kept)).json()
        assert found["seconds"] > 2 and page.inner_text("#text").split() == found["text"].split()


def test_the_page_asks_for_the_token(browser, model, clips, tmp_path):
    (tmp_path / "a.wav").write_bytes(clips[4][0])
    with (
        server(f"run={model}", "serve.token=sesame", cwd=tmp_path) as (address, _),
        browser.new_context() as context,
    ):
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("#token:not([hidden])")
        page.click("#record")
        page.wait_for_selector("#status.bad")
        assert "token" in page.inner_text("#status")
        page.set_input_files("#file", tmp_path / "a.wav")
        page.wait_for_selector("#status.bad")
        page.fill("#word", "sesame")
        page.click("#token button")
        page.wait_for_selector("#text[data-final=true]")
        assert page.inner_text("#text").split() == clips[4][1].text.split()
