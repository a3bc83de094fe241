"""Commands on a GPU, by the command line: they end well, work on the device that they were told, and copy
nothing within the training loop that the device would have to be waited for.
"""

import json

import pytest
import serving
from fake_cuda import ROOT, figures, needs_fake_cuda
from fake_cuda_commands import commands
from harness import SMALL, latest, run_folder

pytestmark = needs_fake_cuda

NETWORK = [*SMALL, "model.config.num_attention_heads=2"]
TRAIN = [
    *("trainer.batch_seconds=4", "trainer.eval_every=500", "trainer.device=cuda", "tracking=none"),
    *("model.freeze_front_end=false", "optimizer.lr=1e-3"),
]


def count(counted, name):
    return counted.get(name, (0, 0))[0]


@pytest.mark.slow
def test_training_copies_from_pinned_memory(corpus, tmp_path):
    """Batches come from pinned memory; what else nine more steps copy are lengths and the like, which are
    bounded.
    """
    asked = [*corpus, *NETWORK, *TRAIN, f"output_root={tmp_path}"]
    (first, few), (second, many) = commands(
        [*asked, "trainer.max_steps=3"], [*asked, "trainer.max_steps=12"], cwd=tmp_path
    )
    assert first == second == 0

    def of_a_step(name):
        return (count(many, name) - count(few, name)) / 9, (many[name][1] - few[name][1]) / 9

    copies, size = of_a_step("COPY H2D pinned")
    assert copies >= 2 and size > 32_000  # a second of audio at least
    copies, size = of_a_step("COPY H2D pageable")
    assert copies <= 10 and size < 4096
    copies, size = of_a_step("COPY D2H pageable")
    assert copies <= 3 and size < 4096
    for counted in (few, many):
        assert any("flash" in name for name in counted) and "GEMM bf16" in counted


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """A run that was trained on the second of two devices, and what it did there."""
    place = tmp_path_factory.mktemp("trained")
    second = ["trainer.max_steps=2", "trainer.device=cuda:1", "trainer.precision=fp16"]
    ((status, counts),) = commands(
        latest([*corpus, *NETWORK, *TRAIN, *second]),
        cwd=place,
        devices=2,
    )
    assert status == 0
    return run_folder(place), counts


def test_a_run_on_the_second_device(trained):
    folder, counts = trained
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["gpu"]["devices"] == ["cuda:1"] and environment["gpu"]["memory_gib"] == [80.0]
    assert environment["precision"] == "fp16" and environment["gpu"]["cudnn"] and environment["cuda"]
    assert "GEMM fp16" in counts and not any("NCCL" in name for name in counts)
    assert "1 x cuda, fp16" in (folder / "train.log").read_text()


@pytest.mark.slow
def test_what_comes_after_training(trained, tmp_path):
    folder, _ = trained
    wav = tmp_path / "a.wav"
    wav.write_bytes(serving.encoded(serving.recording(3.0)))
    wav.with_suffix(".txt").write_text("ba di")
    asked = {
        "evaluate": [f"run={folder}", "split=dev"],
        "transcribe": [f"run={folder}", wav, f"out={tmp_path / 'words.srt'}"],
        "align": [f"run={folder}", wav, f"out={tmp_path / 'grids'}"],
        "report": [f"run={folder}"],
        "export": [f"run={folder}", f"out={tmp_path / 'exported'}"],
    }
    second = ["trainer.device=cuda:1"]
    done = commands(
        *([name, *words, *second * (name != "export")] for name, words in asked.items()),
        cwd=tmp_path,
        devices=2,
    )
    assert [status for status, _ in done] == [0] * 5
    for name, (_, counted) in zip(asked, done, strict=True):
        if name != "export":
            assert "GEMM fp32 lt" in counted and not {"GEMM bf16", "GEMM fp16"} & counted.keys(), name
    assert (tmp_path / "words.srt").exists() and list((tmp_path / "grids").rglob("*.TextGrid"))
    assert (folder / "report.html").exists() and (tmp_path / "exported" / "model.safetensors").exists()


@pytest.mark.slow
def test_looking_before_training(corpus, tmp_path):
    asked = [*corpus, *NETWORK, *TRAIN, f"output_root={tmp_path}"]
    done = commands(
        ["check", *latest([*asked, "trainer.max_steps=9", "trainer.device=cuda:1"])],
        [*asked, "trainer.max_steps=8", "trainer.profile=2"],
        [word for word in [*asked, "debug=profile", "seed=5"] if "eval_every" not in word],
        cwd=tmp_path,
        devices=2,
    )
    assert [status for status, _ in done] == [0] * 3
    assert all(any("flash" in name for name in counted) for _, counted in done)
    assert len(list(tmp_path.rglob("profile.txt"))) == len(list(tmp_path.rglob("profile.json"))) == 2


@pytest.mark.slow
def test_a_server_answers(tmp_path):
    import httpx

    names = "LD_PRELOAD", "LD_LIBRARY_PATH", "TORCH_CUDNN_V8_API_DISABLED"
    stand_in = figures(f"import os\nresult = {{name: os.environ[name] for name in {names}}}")
    checkpoint = serving.save_recogniser(tmp_path / "model")
    options = {"FAKE_CUDA_DEVICES": "2", "PYTHONPATH": str(ROOT)}
    with serving.server(
        f"run={checkpoint}", "trainer.device=cuda:1", cwd=tmp_path, **stand_in, **options
    ) as (
        address,
        _,
    ):
        sound = {"file": ("a.wav", serving.encoded(serving.recording(2.0)))}
        answer = httpx.post(f"{address}/v1/audio/transcriptions", files=sound, timeout=60)
        assert answer.status_code == 200 and "text" in answer.json()
    assert "Traceback" not in (tmp_path / "server.txt").read_text()
