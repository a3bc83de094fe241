"""The vocabularies of other people's fine-tuned checkpoints: our text is that of a bare transformers
pipeline, character for character.
"""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import transformers
from harness import call, settings
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2PhonemeCTCTokenizer, pipeline

from asr_exp.core.errors import UserError
from asr_exp.model.pretrained.vocabulary import _word_delimiter, read_tokenizer

LETTERS = list("abcehlnost'.")
UPPER = [letter.upper() for letter in LETTERS]
FIRST = ["<pad>", "<s>", "</s>", "<unk>", "|"]
PHONES = ["a", "aɪ", "tʃ", "n", "ɹ̩", "s", "t", "oː"]


def checkpoint(folder: Path, tokens, outputs=None, kind="wav2vec2", files=None, **config) -> Path:
    """A fine-tuned network of tiny size with a vocab.json; tokenizer_config.json and so on as `files` has
    them.
    """
    torch.manual_seed(1)
    head = outputs or len(tokens)
    built = transformers.AutoConfig.for_model(kind, **settings(kind, "group", vocab_size=head, **config))
    network = transformers.AutoModelForCTC.from_config(built)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        network.lm_head.weight.mul_(20)
    network.save_pretrained(folder)
    ids = tokens if isinstance(tokens, dict) else {token: i for i, token in enumerate(tokens)}
    for name, content in {"vocab.json": ids, **(files or {})}.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii="\ud800" in content), encoding="utf-8")
    return folder


def named(**settings):
    return {"tokenizer_config.json": settings}


# tokens, outputs of the head beyond them, files
SHAPES = {
    "fairseq's order": (FIRST + UPPER, 0, named(tokenizer_class="Wav2Vec2CTCTokenizer", do_lower_case=False)),
    "no tokenizer_class": (
        FIRST + UPPER,
        0,
        named(unk_token="<unk>", pad_token="<pad>", word_delimiter_token="|"),
    ),
    "no tokenizer_config": (FIRST + UPPER, 0, {}),
    "the blog's": (
        [*LETTERS, "|", "[UNK]", "[PAD]"],
        0,
        named(unk_token="[UNK]", pad_token="[PAD]", word_delimiter_token="|"),
    ),
    "special tokens apart": (
        [*LETTERS, "|", "[UNK]", "[PAD]"],
        0,
        {
            "special_tokens_map.json": {
                "bos_token": "<s>",
                "eos_token": "</s>",
                "unk_token": "[UNK]",
                "pad_token": "[PAD]",
            }
        },
    ),
    "added tokens": (
        [*LETTERS, "|", "[UNK]", "[PAD]"],
        2,
        {
            **named(unk_token="[UNK]", pad_token="[PAD]"),
            "added_tokens.json": {"<s>": len(LETTERS) + 3, "</s>": len(LETTERS) + 4},
        },
    ),
    "added tokens over letters": (
        [*LETTERS, "|", "[UNK]", "[PAD]"],
        0,
        {**named(unk_token="[UNK]", pad_token="[PAD]"), "added_tokens.json": {"<s>": 3, "</s>": 4}},
    ),
    "a delimiter that is none": (
        [*LETTERS, "|", "[UNK]", "[PAD]"],
        0,
        named(unk_token="[UNK]", pad_token="[PAD]", word_delimiter_token=None),
    ),
    "no delimiter": (["[PAD]", "[UNK]", *"今天气很好"], 0, named(unk_token="[UNK]", pad_token="[PAD]")),
    "a space as delimiter": (
        ["[PAD]", "[UNK]", " ", *LETTERS],
        0,
        named(unk_token="[UNK]", pad_token="[PAD]", word_delimiter_token=" "),
    ),
    "a space that is not said to be one": (["<pad>", "<unk>", " ", *LETTERS], 0, {}),
    "lower case": (FIRST + UPPER, 0, named(do_lower_case=True)),
    "lower-case Greek": (["<pad>", "<unk>", "|", *"ΑΒΓΣΟ"], 0, named(do_lower_case=True)),
    "another delimiter": (["<pad>", "<unk>", "_", *LETTERS], 0, named(word_delimiter_token="_")),
    "another space": (FIRST + LETTERS, 0, named(replace_word_delimiter_char="-")),
    "cleaned up": (FIRST + LETTERS, 0, named(clean_up_tokenization_spaces=True)),
    "more outputs than tokens": (FIRST + LETTERS, 4, {}),
    "more outputs, no unknown": (["<pad>", "|", *LETTERS], 3, {}),
    "a hole in the middle": ({"<pad>": 0, "<unk>": 2, "|": 3, "a": 4, "b": 7}, 3, {}),
    "long tokens": (["<pad>", "<unk>", "|", "th", "e", "ing", "s"], 0, {}),
    "a language of several": (
        {
            "eng": dict(zip(["<pad>", "<unk>", "|", *"abc"], range(6), strict=True)),
            "tur": {"<pad>": 0, "ç": 1},
        },
        4,
        named(target_lang="eng"),
    ),
    "with a language model": (
        FIRST + UPPER,
        0,
        {
            **named(tokenizer_class="Wav2Vec2CTCTokenizer", processor_class="Wav2Vec2ProcessorWithLM"),
            "preprocessor_config.json": {
                "processor_class": "Wav2Vec2ProcessorWithLM",
                "feature_extractor_type": "Wav2Vec2FeatureExtractor",
                "return_attention_mask": False,
                "sampling_rate": 16000,
                "do_normalize": True,
            },
            "alphabet.json": {"labels": ["", "<s>", "</s>", "⁇", " ", *UPPER], "is_bpe": False},
        },
    ),
    "phonemes": (
        ["<s>", "<pad>", "</s>", "<unk>", *PHONES],
        0,
        named(tokenizer_class="Wav2Vec2PhonemeCTCTokenizer", do_phonemize=True),
    ),
    "phonemes with spaces": (
        ["<pad>", "<unk>", "a ", "tʃ ", "oː"],
        0,
        named(tokenizer_class="Wav2Vec2PhonemeCTCTokenizer"),
    ),
    "phonemes and a space": (
        ["<pad>", "<unk>", " ", *PHONES],
        0,
        named(tokenizer_class="Wav2Vec2PhonemeCTCTokenizer", word_delimiter_token=" "),
    ),
    "phonemes and words": (
        ["<pad>", "<unk>", "|", *PHONES],
        2,
        named(tokenizer_class="Wav2Vec2PhonemeCTCTokenizer", word_delimiter_token="|"),
    ),
}


def made(folder, name, **more):
    tokens, beyond, files = SHAPES[name]
    return checkpoint(folder, tokens, len(tokens) + beyond, files=files, **more)


def bare(folder, name):
    if "phonemes" in name:
        return Wav2Vec2PhonemeCTCTokenizer.from_pretrained(folder, do_phonemize=False)
    return Wav2Vec2CTCTokenizer.from_pretrained(folder)


def paths(tokenizer, count=300):
    """Labels of frames, with repeats, and many of the blank, the space and the outputs that the vocabulary
    does not name.
    """
    rng = np.random.default_rng(0)
    often = [tokenizer.blank, tokenizer.ids.get(tokenizer.space, 0), *tokenizer._unnamed]
    for _ in range(count):
        ids = rng.integers(len(tokenizer), size=rng.integers(1, 30))
        ids = np.where(rng.random(len(ids)) < 0.4, rng.choice(often, len(ids)), ids)
        yield np.repeat(ids, rng.integers(1, 3, len(ids))).tolist()


@pytest.mark.parametrize("name", SHAPES)
def test_the_text_of_any_path_is_that_of_transformers(tmp_path, name):
    folder = made(tmp_path / "theirs", name)
    tokenizer, theirs = read_tokenizer(str(folder)), bare(folder, name)
    tokenizer.save(tmp_path / "ours")  # what a run of ours leaves says the same
    transformers.Wav2Vec2ForCTC.from_pretrained(folder).save_pretrained(tmp_path / "ours")
    again = read_tokenizer(str(tmp_path / "ours"), unit=tokenizer.unit)
    ours = bare(tmp_path / "ours", name)
    assert (
        again.tokens == tokenizer.tokens
        and again.conventions == tokenizer.conventions
        and again.blank == tokenizer.blank
    )
    seen = set()
    for ids in paths(tokenizer):
        collapsed = [i for i, _ in itertools.groupby(ids)]
        text = tokenizer.decode(collapsed)
        assert text == theirs.decode(ids) == again.decode(collapsed) == ours.decode(ids)
        seen.add(text)
    assert len(seen) > 200 and len(tokenizer) == len(SHAPES[name][0]) + SHAPES[name][1]


@pytest.mark.parametrize(
    "name", ["the blog's", "lower case", "more outputs than tokens", "phonemes", "with a language model"]
)
def test_transcribe_says_what_a_pipeline_says(tmp_path, capsys, name):
    folder = made(tmp_path / "model", name)
    rng = np.random.default_rng(3)
    for number in range(3):
        samples = rng.standard_normal(16000 + 4000 * number) * np.hanning(16000 + 4000 * number) * 0.1
        soundfile.write(tmp_path / f"{number}.wav", samples, 16000, subtype="PCM_16")
    call(
        "transcribe",
        *(f"{number}.wav" for number in range(3)),
        f"run={folder}",
        "trainer.device=cpu",
        cwd=tmp_path,
    )
    network = transformers.AutoModelForCTC.from_pretrained(folder)
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False)
    recognise = pipeline(
        "automatic-speech-recognition",
        model=network,
        tokenizer=bare(folder, name),
        feature_extractor=extractor,
    )
    wanted = [recognise(soundfile.read(tmp_path / f"{number}.wav")[0])["text"] for number in range(3)]
    assert [line.rpartition("\t")[2] for line in capsys.readouterr().out.splitlines()] == wanted and len(
        set(wanted)
    ) == 3


def test_the_language_model_that_comes_with_a_checkpoint(tmp_path, capfd):
    """decode.lm=checkpoint is the file itself with the words and weights beside it, and is offered where it
    is not used.
    """
    pytest.importorskip("flashlight", reason="the beam extra is not installed")
    folder = made(tmp_path / "model", "with a language model")
    (folder / "language_model").mkdir()
    unigrams = {
        "<unk>": -3.0,
        "<s>": -99.0,
        "</s>": -1.0,
        "HELLO": -1.0,
        "CAN": -0.5,
        "LOT": -2.0,
        "SO": -0.1,
    }
    ones = "".join(f"{score}\t{word}\t0\n" for word, score in unigrams.items())
    (folder / "language_model" / "5gram.arpa").write_text(
        f"\\data\\\nngram 1={len(unigrams)}\nngram 2=1\n\n\\1-grams:\n{ones}\n\\2-grams:\n-0.2\tHELLO"
        " SO\n\n\\end\\\n"
    )
    (folder / "language_model" / "unigrams.txt").write_text("HELLO\nCAN\nSO\n")
    (folder / "language_model" / "attrs.json").write_text(
        '{"alpha": 0.7, "beta": 1.25, "unk_score_offset": -10.0, "score_boundary": true}'
    )
    soundfile.write(
        tmp_path / "a.wav", np.random.default_rng(1).standard_normal(32000) * 0.1, 16000, subtype="PCM_16"
    )
    (tmp_path / "words.txt").write_text("HELLO\nCAN\nSO\n")

    def said(*keys):
        call(
            "transcribe", "a.wav", f"run={folder}", "trainer.device=cpu", "format=jsonl", *keys, cwd=tmp_path
        )
        out, err = capfd.readouterr()
        return json.loads(out), err

    offer = (
        "comes with a language model, which is not used: decode=beam decode.lm=checkpoint decodes with it."
    )
    assert offer in said()[1]
    beam = ["decode=beam", "decode.nbest=3"]
    found, err = said(*beam, "decode.lm=checkpoint")
    by_hand = [
        *beam,
        f"decode.lm={folder}/language_model/5gram.arpa",
        "decode.lexicon=words.txt",
        "text=none",
    ]
    assert found == said(*by_hand, "decode.lm_weight=0.7", "decode.word_score=1.25")[0] != said(*by_hand)[0]
    assert found["text"] and set(found["text"].split()) <= {"HELLO", "CAN", "SO"} and offer not in err
    bare = made(tmp_path / "bare", "lower case")
    call("transcribe", "a.wav", f"run={bare}", "decode=beam", "decode.lm=checkpoint", cwd=tmp_path, status=2)
    assert "comes without a language model (language_model/" in capfd.readouterr().err


def test_a_blank_with_another_name_is_found_where_no_file_says_which(tmp_path):
    """transformers would take a <pad> that the vocabulary lacks for the blank, and print the real one."""
    tokenizer = read_tokenizer(str(checkpoint(tmp_path, [*LETTERS, "|", "[UNK]", "[PAD]"])))
    assert (tokenizer.blank, tokenizer.unknown) == (len(LETTERS) + 2, len(LETTERS) + 1)
    assert tokenizer.decode([2, 3, len(LETTERS) + 2, 3]) == "cee"


def test_sew_for_which_transformers_has_no_tokenizer(tmp_path):
    folder = checkpoint(tmp_path, FIRST + LETTERS, kind="sew", files=named(unk_token="<unk>"))
    with pytest.raises((ValueError, KeyError)):
        transformers.AutoTokenizer.from_pretrained(folder)
    assert read_tokenizer(str(folder)).tokens == FIRST + LETTERS


def test_double_letters_stay(tmp_path):
    """transformers' batch_decode(skip_special_tokens=True) takes the blanks away first, and says "helo"."""
    folder = made(tmp_path, "fairseq's order")
    tokenizer = read_tokenizer(str(folder))
    ids = [tokenizer.ids[token] for token in ["H", "E", "E", "L", "<pad>", "L", "O"]]
    assert bare(folder, "").batch_decode([ids], skip_special_tokens=True) == ["HELO"]
    assert tokenizer.decode([i for i, _ in itertools.groupby(ids)]) == "HELLO"


def test_text_of_the_other_case_is_labelled(tmp_path):
    tokenizer = read_tokenizer(str(made(tmp_path, "lower case")))
    labels, counts = tokenizer.encode_many(["hello", "Cat's ß"])
    assert [tokenizer.tokens[i] for i in labels] == [
        *"HELLO",
        *"CAT'S",
        "|",
        "S",
        "S",
    ] and counts.tolist() == [5, 8]
    assert tokenizer.decode(tokenizer.encode("he lot")) == "he lot"


def test_a_lower_case_vocabulary_that_is_said_to_be_upper_case(tmp_path):
    """do_lower_case over lower-case letters: transformers prints them as they are, and they can be scored."""
    tokenizer = read_tokenizer(str(checkpoint(tmp_path, FIRST + LETTERS, files=named(do_lower_case=True))))
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello" and tokenizer.spell("so") == ["s", "o"]


def test_phonemes_are_phones(tmp_path):
    tokenizer = read_tokenizer(str(made(tmp_path, "phonemes")))
    assert tokenizer.unit == "phone" and tokenizer.decode(tokenizer.encode("tʃ aɪ oː n")) == "tʃ aɪ oː n"


# ------------------------------------------------------------------------------------------------------------
# what must be refused

REFUSED = {
    "no vocabulary": (FIRST, None, None, "it has no vocabulary (vocab.json)"),
    "a blank outside the head": (
        ["a", "b", "c", "[PAD]"],
        3,
        named(pad_token="[PAD]"),
        "blank ([PAD]) is not among the 3 outputs",
    ),
    "a blank that is nowhere": (
        ["a", "b", "c"],
        3,
        {},
        "blank (<pad>) is not among the 3 outputs of its head",
    ),
    "another language": (
        FIRST + UPPER,
        9,
        {},
        "its vocab.json has 17 tokens and its head 9 outputs ('H' would be number 9)",
    ),
    "languages, none named": (
        {"eng": {"<pad>": 0, "a": 1}, "tur": {"<pad>": 0, "ç": 1}},
        2,
        {},
        "for each of 2 languages, and",
    ),
    "a number twice": (
        {"<pad>": 0, "a": 1, "ö": 0},
        2,
        {},
        "its vocab.json gives the number 0 to the blank (<pad>) and to 'ö'",
    ),
    "half a character": (["<pad>", "\ud800"], None, {}, "half of a character"),
    "a broken file beside it": (
        FIRST + LETTERS,
        None,
        {"special_tokens_map.json": []},
        "special_tokens_map.json is not a JSON object",
    ),
    "words for numbers": (
        {"<pad>": "0", "a": "1"},
        2,
        {},
        "its vocab.json does not give each token a number",
    ),
    "a language that is not there": (
        {"eng": {"<pad>": 0, "a": 1}},
        2,
        named(target_lang="deu"),
        "names deu (target_lang)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_is_named(tmp_path, name):
    tokens, outputs, files, sentence = REFUSED[name]
    folder = checkpoint(tmp_path, tokens, outputs or len(tokens), files=files)
    if files is None:
        (folder / "vocab.json").unlink()
    with pytest.raises(UserError) as caught:
        read_tokenizer(str(folder))
    assert sentence in str(caught.value) and str(caught.value).startswith(
        f"model.checkpoint={folder} cannot "
    )


def test_a_checkpoint_without_a_head_has_none_to_keep(tmp_path, backbone):
    with pytest.raises(UserError, match="cannot keep its head: it has no vocabulary"):
        read_tokenizer(str(backbone("wav2vec2-group")))


def test_the_delimiter_without_transformers_private_attribute():
    """A tokenizer that has one, and one whose public property makes a word of None."""
    for public, delimiter in (("|", "|"), ("None", None)):
        assert _word_delimiter(SimpleNamespace(word_delimiter_token=public)) == delimiter
        private = SimpleNamespace(word_delimiter_token=public, _word_delimiter_token=delimiter)
        assert _word_delimiter(private) == delimiter
