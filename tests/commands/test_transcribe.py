"""`transcribe`: what a run says of its own test files, whatever else is asked for; formats, folders, broken
files, checkpoints.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
import torch
import transformers
from harness import NAMES, QUIET, call, cli, environment, lines, make_corpus, run, spoken

from asr_exp.builders.transcriber import load_transcriber
from asr_exp.cli.arguments import parse
from asr_exp.commands.transcribe import _replacing
from asr_exp.config.compose import compose
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.runtime.distributed import started

TOKENS = ["[PAD]", "[UNK]", "|", *"abdegilmou"]
CPU = "trainer.device=cpu"
QUICK = ("wav2vec2-group", "sew-group")  # one that is fed packed, one that is not


@pytest.fixture(scope="module")
def tuned(backbone, tmp_path_factory):
    """tuned("wavlm-layer") -> the folder of a fine-tuned recogniser of that family, with a head of random
    weights that says a lot.
    """
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("tuned") / name
            torch.manual_seed(3)
            head = {"vocab_size": len(TOKENS), "pad_token_id": 0, "ignore_mismatched_sizes": True}
            network = transformers.AutoModelForCTC.from_pretrained(backbone(name), **head)
            with torch.no_grad():
                network.lm_head.weight.mul_(50)
                network.lm_head.bias[1] = -1e4  # what is written [UNK] cannot be aligned
            network.save_pretrained(made[name])
            Tokenizer(TOKENS).save(made[name])
            transformers.AutoFeatureExtractor.from_pretrained(backbone(name)).save_pretrained(made[name])
        return made[name]

    return make


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of five recordings, at 8 kHz: 0.wav to 4.wav."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(1)
    for number in range(5):
        soundfile.write(
            folder / f"{number}.wav", spoken(rng.choice(["ba", "di", "go"], 1 + number), rng, 8000), 8000
        )
    return folder


def said(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_a_runs_own_test_files(tuned, tmp_path, cache, capsys, name):
    """Every family: the hypotheses of the run, and those of transformers' pipeline from the checkpoint
    itself.
    """
    corpus = make_corpus(tmp_path / "data")
    keep = ["model=hf", f"model.checkpoint={tuned(name)}", "model.head=keep", "trainer.max_steps=0", *QUIET]
    folder = run(*corpus, *keep, cwd=tmp_path)
    hypotheses = lines(folder / "hypotheses.test.jsonl")
    want = {f"data/{one['id']}": one["hypothesis"] for one in hypotheses}
    assert len(set(want.values())) == 5 and all(len(text) > 1 for text in want.values())
    capsys.readouterr()
    pipe = transformers.pipeline("automatic-speech-recognition", model=str(tuned(name)), device="cpu")
    for asked in (folder, tuned(name)):
        call("transcribe", "data/test*.wav", f"run={asked}", "format=jsonl", CPU, cwd=tmp_path)
        found = said(capsys)
        assert {one["file"]: one["text"] for one in found} == want
        for one in found:
            assert one["text"] == pipe(soundfile.read(tmp_path / one["file"])[0])["text"].strip()
            assert " ".join(word["text"] for word in one["words"]).split() == one["text"].split()
            check_words(one)


def test_another_decoder_says_what_evaluate_scores_with_it(tuned, tmp_path, cache, capsys):
    pytest.importorskip("flashlight.lib.text")
    corpus = make_corpus(tmp_path / "data")
    keep = [
        "model=hf",
        f"model.checkpoint={tuned('wav2vec2-layer')}",
        "model.head=keep",
        "trainer.max_steps=0",
        *QUIET,
    ]
    folder = run(*corpus, *keep, cwd=tmp_path)
    beam = ["decode=beam", "decode.word_score=-2", "decode.nbest=3"]
    call("evaluate", folder, *beam, CPU, cwd=tmp_path)
    (scored,) = folder.glob("evaluations/*/hypotheses.test.jsonl")
    want = {f"data/{one['id']}": one["hypothesis"] for one in lines(scored)}
    several = {f"data/{one['id']}": [other["text"] for other in one["nbest"]] for one in lines(scored)}
    assert list(want.values()) != [one["hypothesis"] for one in lines(folder / "hypotheses.test.jsonl")]
    capsys.readouterr()
    call("transcribe", "data/test*.wav", f"run={folder}", *beam, "format=jsonl", CPU, cwd=tmp_path)
    found = said(capsys)
    assert {one["file"]: one["text"] for one in found} == want and all(one["words"] for one in found)
    assert {one["file"]: [other["text"] for other in one["nbest"]] for one in found} == several


def check_words(one: dict) -> None:
    times = [time for word in one["words"] for time in (word["start"], word["end"])]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= one["seconds"]
    assert all(0 < word["confidence"] <= 1 and word["start"] < word["end"] for word in one["words"])


def test_words_of_the_best_path_are_those_of_the_aligner(tuned, clips):
    """torchaudio's forced alignment of the text to the same emissions finds the same places."""
    config = compose([f"run={tuned('hubert-layer')}", CPU])
    with started("cpu", "fp32") as runtime:
        one = load_transcriber(config, runtime)
        samples = [spoken(["ba", "di", "go", "lu"], np.random.default_rng(n)) for n in range(4)]
        for clip in ((samples * 32767).astype(np.int16) for samples in samples):
            (transcript,), (emissions,) = one([clip]), one.emissions([clip])
            aligned = one.words(emissions, transcript.text)
            assert [w.text for w in aligned] == [w.text for w in transcript.words]
            for ours, theirs in zip(transcript.words, aligned, strict=True):
                assert abs(ours.start - theirs.start) <= 0.021 and abs(ours.end - theirs.end) <= 0.021
                assert ours.confidence == pytest.approx(theirs.confidence, abs=0.2)


def test_bad_files_among_good_ones(tuned, clips, tmp_path, capsys):
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    (tmp_path / "short.wav").parent.mkdir(exist_ok=True)
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16000)
    asked = [
        clips / "3.wav",
        tmp_path / "bad.wav",
        "gone.flac",
        clips / "0.wav",
        "none*",
        tmp_path / "short.wav",
    ]
    call("transcribe", *asked, f"run={tuned('wav2vec2-group')}", "format=jsonl", CPU, cwd=tmp_path, status=1)
    out, err = capsys.readouterr()
    assert [Path(json.loads(line)["file"]).name for line in out.splitlines()] == [
        "3.wav",
        "0.wav",
        "short.wav",
    ]
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(told) == 3 and all(
        any(name in line for line in told) for name in ("bad.wav", "gone.flac", "none*")
    )
    assert "3 recordings could not be transcribed." in err and "Traceback" not in err


def test_text_a_line_a_recording_in_the_order_asked(tuned, clips, tmp_path, capsys):
    """Whatever is batched together, and in batches however small."""
    asked = [clips / f"{n}.wav" for n in (4, 0, 3, 1, 2)]
    call("transcribe", *asked, f"run={tuned('sew-group')}", CPU, cwd=tmp_path)
    together = capsys.readouterr().out.splitlines()
    call("transcribe", *asked, f"run={tuned('sew-group')}", "trainer.device_seconds=0.1", CPU, cwd=tmp_path)
    assert capsys.readouterr().out.splitlines() == together
    for file, text in zip(asked, together, strict=True):
        call("transcribe", file, f"run={tuned('sew-group')}", CPU, cwd=tmp_path)
        assert capsys.readouterr().out == f"{text}\n"
    assert len(set(together)) == 5


def test_words_after_the_command_are_recordings():
    options, command = parse(["transcribe", "a b.wav", "run=x", "it's 1.wav", "-", "007"])
    assert command == "transcribe" and options.overrides == [
        r"files=['a b.wav','it\'s 1.wav','-','007']",
        "run=x",
    ]
    assert list(compose(options.overrides).files) == ["a b.wav", "it's 1.wav", "-", "007"]


def test_a_recordings_name_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x=1.wav").touch()
    names = [
        "in/a b [1]=x,y.wav",
        "x=1.wav",
        "~/a.wav",
        "nm/a${b}.flac",
        "a\\${b.flac",
        "nm\\",
        "a\\'b\\\\",
        "it's",
        "\\\\x\\y",
        "$a,{b}",
    ]
    settings = ["run=x=1", "dataset.root=a/b", "hydra/launcher=joblib", "dataset=csv"]
    options, _ = parse(["transcribe", *names, *settings])
    assert options.overrides[1:] == settings and list(compose([options.overrides[0]]).files) == names


def test_a_recording_that_cannot_be_transcribed_has_an_empty_line(tuned, clips, tmp_path, capsys):
    asked = [clips / "0.wav", "gone.wav", clips / "1.wav"]
    call("transcribe", *asked, f"run={tuned('wavlm-layer')}", CPU, cwd=tmp_path, status=1)
    first, lost, last = capsys.readouterr().out.splitlines()
    assert first and last and not lost


def test_recordings_of_one_name_in_a_ctm(tuned, clips, tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.wav").write_bytes((clips / "1.wav").read_bytes())
    call("transcribe", "a/1.wav", "b/1.wav", "format=ctm", f"run={tuned('wavlm-layer')}", CPU, cwd=tmp_path)
    assert list(dict.fromkeys(line.split()[0] for line in capsys.readouterr().out.splitlines())) == [
        "1",
        "1_2",
    ]


def test_where_it_goes(tuned, clips, tmp_path, capsys):
    one = [f"run={tuned('wavlm-layer')}", CPU]
    call("transcribe", clips / "1.wav", *one, cwd=tmp_path)
    text = capsys.readouterr().out.strip()
    call("transcribe", f"files=[{clips}/1.wav,{clips}/2.wav]", "out=new/all.jsonl", *one, cwd=tmp_path)
    assert [row["text"] for row in lines(tmp_path / "new/all.jsonl")][0] == text
    call("transcribe", clips, "out=subs/", "format=vtt", *one, cwd=tmp_path)
    assert sorted(path.name for path in (tmp_path / "subs").iterdir()) == [f"{n}.vtt" for n in range(5)]
    assert text.split()[0] in (tmp_path / "subs/1.vtt").read_text()
    call("transcribe", clips / "1.wav", "out=1.srt", *one, cwd=tmp_path)
    assert (tmp_path / "1.srt").read_text().startswith("1\n00:00:0")
    assert not capsys.readouterr().out and not list(tmp_path.rglob("*.new"))


def test_what_was_there_stays_where_nothing_comes_in_its_place(tuned, tmp_path):
    (tmp_path / "good.txt").write_text("before")
    call(
        "transcribe",
        "gone.wav",
        "lost.wav",
        "out=good.txt",
        f"run={tuned('wavlm-layer')}",
        CPU,
        cwd=tmp_path,
        status=1,
    )
    # no model for no recordings
    call("transcribe", "none*", "out=good.txt", "run=./nothing", CPU, cwd=tmp_path, status=1)
    with pytest.raises(KeyboardInterrupt), _replacing(tmp_path / "good.txt") as file:
        file.write("half")
        raise KeyboardInterrupt
    assert (tmp_path / "good.txt").read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_a_reference_transcript_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.txt").write_text("by hand")
    call("transcribe", "a/1.wav", "a/2.wav", "out=a/", "run=./nothing", CPU, cwd=tmp_path, status=2)
    assert "would overwrite a/1.txt, which may be the reference transcript" in capsys.readouterr().err
    assert (tmp_path / "a/1.txt").read_text() == "by hand"


def test_a_file_that_cannot_be_written_is_that_recordings_failure(tuned, clips, tmp_path, capsys):
    (tmp_path / "texts/1.txt").mkdir(parents=True)
    call(
        "transcribe",
        clips / "1.wav",
        clips / "2.wav",
        "out=texts/",
        f"run={tuned('wavlm-layer')}",
        CPU,
        cwd=tmp_path,
        status=1,
    )
    assert "out=texts/1.txt cannot be written: Is a directory." in capsys.readouterr().err
    assert (
        sorted(path.name for path in (tmp_path / "texts").iterdir()) == ["1.txt", "2.txt"]
        and (tmp_path / "texts/2.txt").read_text()
    )


def test_two_that_write_one_file(tmp_path, monkeypatch):
    with _replacing(tmp_path / "a.txt") as first:
        first.write("first")
        monkeypatch.setattr("os.getpid", lambda: 1)
        with _replacing(tmp_path / "a.txt") as second:
            second.write("second")
        assert (tmp_path / "a.txt").read_text() == "second"
    assert (tmp_path / "a.txt").read_text() == "first" and len(list(tmp_path.iterdir())) == 1


def test_files_of_the_same_name(tuned, clips, tmp_path):
    for name in ("a/1.wav", "b/1.wav", "b/1.flac"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, soundfile.read(clips / "1.wav")[0], 8000)
    call("transcribe", "a", "b", "out=texts/", f"run={tuned('wavlm-layer')}", CPU, cwd=tmp_path)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.txt"))
    assert found == ["texts/a/1.txt", "texts/b/1.flac.txt", "texts/b/1.wav.txt"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ([], "transcribe needs recordings"),
        (["a.wav", "b.wav", "format=srt"], "format=srt of 2 recordings needs a folder"),
        (["a.wav", "format=jsonlines"], "format=jsonlines is not one of .* Did you mean 'jsonl'"),
        (
            ["a.wav", "format=jsonl", "out=x.srt"],
            r"format=jsonl and the ending of out=x.srt contradict each other; .* give \*.jsonl",
        ),
        (["a.wav", "run=no/such/run"], "run=no/such/run"),
        (["a.wav", "run=./nothing"], "run=./nothing is not a folder"),
        (["a.wav", "run=."], "run=."),
        (
            ["a.wav", "b.wav", "out=./b.wav"],
            "out=./b.wav would overwrite b.wav, which is one of the recordings",
        ),
        (["a.txt", "out=./"], "would overwrite a.txt, which is one of the recordings"),
        (["a.wav", "out=/dev/null/x.txt"], "out=/dev/null/x.txt cannot be written"),
        (["a.wav", "transcribe.overlap_seconds=20"], "transcribe.overlap_seconds=20 is more than half"),
        (["a.wav", "decode.name=nobodys"], "nobodys"),
    ],
)
def test_what_cannot_be(tuned, tmp_path, capsys, asked, told):
    model = [] if any(word.startswith("run=") for word in asked) else [f"run={tuned('wavlm-layer')}"]
    call("transcribe", *asked, *model, CPU, cwd=tmp_path, status=2)
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "Traceback" not in err and "model.checkpoint" not in err
    assert re.search(told, err)


def test_an_encoder_that_was_never_fine_tuned(backbone, tmp_path, capsys):
    call("transcribe", "a.wav", f"run={backbone('wavlm-layer')}", CPU, cwd=tmp_path, status=2)
    assert "is no fine-tuned recogniser: it has no vocabulary" in capsys.readouterr().err


@pytest.mark.slow
def test_in_a_process_of_its_own(tuned, clips, tmp_path):
    """Standard input in, text alone on standard output; as it is typed, with a model it takes no training
    for.
    """
    command = [sys.executable, "-m", "asr_exp", "transcribe", "-", f"run={tuned('hubert-group')}", CPU]
    wav = (clips / "2.wav").read_bytes()
    piped = subprocess.run(command, input=wav, capture_output=True, cwd=tmp_path, env=environment())
    named = cli("transcribe", f"files={clips}/2.wav", f"run={tuned('hubert-group')}", CPU, cwd=tmp_path)
    assert piped.returncode == 0 and piped.stdout.decode() == named.stdout and len(named.stdout) > 3
    assert piped.stderr == b"" and named.stderr == ""


LONG_RUN = """
import resource, sys
from asr_exp.cli.main import main
status = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_recording(tuned, tmp_path):
    """Forty minutes more of audio are 77 MB of samples, and the network's own would be gigabytes."""
    peaks = []
    for minutes in (5, 45):
        path = tmp_path / f"{minutes}.wav"
        minute = (np.random.default_rng(0).standard_normal(60 * 16000) * 2000).astype(np.int16)
        with soundfile.SoundFile(path, "w", 16000, 1) as file:
            for _ in range(minutes):
                file.write(minute)
        command = [
            sys.executable,
            "-c",
            LONG_RUN,
            "transcribe",
            path,
            f"run={tuned('wav2vec2-layer')}",
            CPU,
            "out=long.jsonl",
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment())
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stderr.split()[-1]) / 1024)
        (row,) = lines(tmp_path / "long.jsonl")
        assert row["seconds"] == minutes * 60 and row["words"][-1]["end"] > minutes * 60 - 5
    assert peaks[1] < peaks[0] + 60, peaks


@pytest.mark.slow
def test_a_trained_recogniser_says_the_same_in_chunks(tmp_path, cache, capsys):
    """A run that has learned its words: what is said in a minute of speech, in one piece and in chunks, is
    the same, where and what.
    """
    corpus = make_corpus(tmp_path / "data", train=300, rest=20)
    learn = [
        "model=tiny",
        "trainer.max_steps=150",
        "trainer.batch_seconds=20",
        "optimizer.lr=1e-3",
        "trainer.eval_every=150",
        *QUIET,
    ]
    folder = run(*corpus, *learn, cwd=tmp_path)
    assert json.loads((folder / "result.json").read_text())["splits"]["test"]["wer"] < 0.2
    rng, parts = np.random.default_rng(9), []
    for _ in range(30):
        parts += [
            spoken(rng.choice(["ba", "di", "go", "lu", "me"], 5), rng),
            0.01 * rng.standard_normal(8000),
        ]
    soundfile.write(tmp_path / "long.wav", np.concatenate(parts), 16000)
    capsys.readouterr()
    call("transcribe", "long.wav", f"run={folder}", "format=jsonl", CPU, cwd=tmp_path)
    (whole,) = said(capsys)
    chunks = ["transcribe.whole_seconds=5", "transcribe.chunk_seconds=16", "transcribe.overlap_seconds=8"]
    call("transcribe", "long.wav", f"run={folder}", "format=jsonl", *chunks, CPU, cwd=tmp_path)
    (cut,) = said(capsys)
    # attention hears less of the rest: now and then a word changes
    found = jiwer.process_words(whole["text"], cut["text"])
    assert found.hits > 100 and found.substitutions + found.deletions + found.insertions <= 3
    starts = [{word["start"]: word["text"] for word in one["words"]} for one in (whole, cut)]
    assert len(starts[0].items() & starts[1].items()) > 0.9 * len(starts[0])
