"""Recognisers of torchaudio.pipelines: the network of transformers that their weights are put in computes
what torchaudio's own does.
"""

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from harness import QUIET, call, lines, run
from safetensors.torch import load_file
from torchaudio.models import wav2vec2_model
from torchaudio.pipelines import Wav2Vec2ASRBundle

from asr_exp.core.errors import UserError
from asr_exp.data.batch import Batch
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.data.transformers_tokenizer import SpecialTokens
from asr_exp.model.loading import load_backbone
from asr_exp.model.model_config import ModelSettings
from asr_exp.model.pretrained import torchaudio_bundles as bundles
from asr_exp.model.pretrained.torchaudio_bundles import bundle_labels
from asr_exp.model.recogniser import Recogniser

LABELS = ("|", "E", "T", "A", "O", "N", "'", "Z")
SIZES = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [(32, 10, 5)] + [(32, 3, 2)] * 4 + [(32, 2, 2)] * 2,
    "extractor_conv_bias": False,
    "encoder_embed_dim": 32,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 2,
    "encoder_num_layers": 2,
    "encoder_num_heads": 2,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 64,
    "encoder_ff_interm_dropout": 0.1,
    "encoder_dropout": 0.1,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.1,
    "aux_num_out": 1 + len(LABELS),
}
LARGE = {"extractor_mode": "layer_norm", "extractor_conv_bias": True, "encoder_layer_norm_first": True}


@pytest.fixture(params=["base", "large"])
def bundle(request, tmp_path, monkeypatch):
    """A bundle of small sizes, its weights where torch.hub keeps them: with the three outputs more that
    fairseq's have.
    """
    large = request.param == "large"
    sizes = SIZES | (LARGE if large else {})
    torch.manual_seed(0)
    network = wav2vec2_model(**{**sizes, "aux_num_out": 4 + len(LABELS)})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        network.aux.weight.mul_(20)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "torch/hub/checkpoints").mkdir(parents=True)
    torch.save(network.state_dict(), tmp_path / "torch/hub/checkpoints/small.pth")
    made = Wav2Vec2ASRBundle("small.pth", sizes, 16000, large, _labels=LABELS, _model_type="Wav2Vec2")
    monkeypatch.setattr(torchaudio.pipelines, "SMALL", made, raising=False)
    return made


def noise(seconds: float) -> np.ndarray:
    samples = round(seconds * 16000)
    return (np.random.default_rng(5).standard_normal(samples) * 2000 * np.hanning(samples)).astype(np.int16)


@torch.inference_mode()
def test_the_same_logits(bundle):
    assert bundle_labels("SMALL") == ["-", *LABELS]
    network, extractor = load_backbone(ModelSettings("torchaudio:SMALL", keep_head=True), 9, 0)
    model = Recogniser(network, extractor).eval()
    theirs = bundle.get_model()
    clip = noise(1.7)
    want, _ = theirs(torch.from_numpy(clip / np.float32(32768))[None])
    got = model(
        Batch(np.zeros(1, int), torch.from_numpy(clip)[None], [len(clip)], torch.empty(0), [0])
    ).logits
    assert (
        got.shape == want.shape
        and (got - want).abs().max() < 1e-4 * want.abs().max()
        and want.std(1).max() > 0.1
    )


def test_a_hyphen_is_no_blank():
    """The blank of torchaudio's labels is called "-": what is written so is left out of the labels."""
    tokenizer = Tokenizer(["-", *LABELS], special=SpecialTokens("-", "<none>"))
    assert tokenizer.encode("TEA-TEN").tolist() == [3, 2, 4, 3, 2, 6]


@torch.inference_mode()
def test_transcribe_a_bundle(bundle, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", noise(3), 16000)
    call("transcribe", "a.wav", "run=torchaudio:SMALL", "trainer.device=cpu", cwd=tmp_path)
    emission, _ = bundle.get_model()(torch.from_numpy(noise(3) / np.float32(32768))[None])
    path = torch.unique_consecutive(emission[0].argmax(-1)).tolist()
    want = "".join(bundle.get_labels()[i] for i in path if i).replace("|", " ").strip()
    assert capsys.readouterr().out == f"{want}\n" and len(want) > 3


@pytest.mark.parametrize("bundle", ["base"], indirect=True)
def test_train_from_a_bundle(bundle, tmp_path, corpus):
    """With a new head, and with its own; the front end, which is frozen, stays the bundle's."""
    few = ["trainer.max_steps=2", "trainer.eval_every=2", "trainer.batch_seconds=4", *QUIET]
    few += ["model=hf", "model.checkpoint=torchaudio:SMALL"]
    theirs = bundle.get_model().state_dict()["feature_extractor.conv_layers.0.conv.weight"]
    upper = ["text.rules=[{replace: {ba: EA, di: TO, go: NE, lu: ET, me: ZA}}]"]
    for head, keys, outputs in (("new", [], 13), ("keep", upper, 9)):
        (tmp_path / head).mkdir()
        folder = run(*corpus, *few, f"model.head={head}", *keys, cwd=tmp_path / head)
        weights = load_file(folder / "checkpoints/best/model.safetensors")
        assert torch.equal(weights["wav2vec2.feature_extractor.conv_layers.0.conv.weight"], theirs)
        assert len(weights["lm_head.weight"]) == outputs


def test_what_cannot_be_had(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no recogniser of that name. Did you mean 'WAV2VEC2_ASR_BASE_960H'"):
        bundle_labels("WAV2VEC2_ASR_BASE_96OH")
    with pytest.raises(UserError, match="no recogniser"):
        bundle_labels("WAV2VEC2_BASE")  # not fine-tuned
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(bundles, "SERVER", "http://127.0.0.1:9")
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(
        UserError,
        match="cannot be reached from here. Put its file at .*wav2vec2_fairseq_base_ls960_asr_ls960.pth",
    ):
        load_backbone(ModelSettings("torchaudio:WAV2VEC2_ASR_BASE_960H", keep_head=True), 29, 0)


@pytest.mark.parametrize("bundle", ["base"], indirect=True)
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", "other"])
def test_a_file_that_holds_other_weights(bundle, tmp_path, content):
    file = tmp_path / "torch/hub/checkpoints/small.pth"
    if content == "other":
        torch.save({"aux.weight": torch.zeros(12, 3), "aux.bias": torch.zeros(12)}, file)
    else:
        file.write_bytes(content)
    with pytest.raises(UserError, match="small.pth does not hold its weights"):
        load_backbone(ModelSettings("torchaudio:SMALL", keep_head=True), 9, 0)


@pytest.mark.parametrize("bundle", ["base"], indirect=True)
@torch.inference_mode()
def test_evaluate_a_bundle(bundle, tmp_path):
    """Its run folder transcribes as it does; a hyphen, which is the name of its blank, is no character that
    it can emit.
    """
    soundfile.write(tmp_path / "a.wav", noise(3), 16000)
    (tmp_path / "test.csv").write_text("file,text\na.wav,TEA-TEN\n")
    call(
        "evaluate",
        "run=torchaudio:SMALL",
        "dataset=csv",
        "dataset.test=test.csv",
        "text=none",
        "trainer.device=cpu",
        cwd=tmp_path,
    )
    (folder,) = {path.parent for path in tmp_path.glob("outputs/csv/hf/*/config.yaml")}
    emission, _ = bundle.get_model()(torch.from_numpy(noise(3) / np.float32(32768))[None])
    path = torch.unique_consecutive(emission[0].argmax(-1)).tolist()
    want = "".join(bundle.get_labels()[i] for i in path if i).replace("|", " ").strip()
    (line,) = lines(folder / "hypotheses.test.jsonl")
    assert (line["reference"], line["hypothesis"]) == ("TEA-TEN", want) and len(want) > 3
    call("transcribe", "a.wav", f"run={folder}", "out=said.txt", "trainer.device=cpu", cwd=tmp_path)
    assert (tmp_path / "said.txt").read_text() == f"{want}\n"


def test_a_release_that_keeps_no_sizes(bundle, monkeypatch):
    """What bundles keep in private attributes: a torchaudio without them is named, not a line of ours."""
    unlike = type(
        "Bundle", (), {"_path": "a.pth", "_model_type": "Wav2Vec2", "get_labels": lambda _: ("-",)}
    )()
    monkeypatch.setattr(bundles, "_bundle", lambda *_, **__: unlike)
    with pytest.raises(UserError, match="this release of torchaudio keeps no _params of its bundles"):
        bundles.bundle_config("SMALL", keep_head=False)
