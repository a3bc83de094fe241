"""Beam search against all paths there are, against torchaudio's decoder, hot words, what it takes to be
given.
"""

import importlib.util
import json
import math
from collections import defaultdict
from dataclasses import replace
from itertools import groupby, product

import numpy as np
import pytest
import torch
from arpa import score, table

from asr_exp.core.errors import UserError
from asr_exp.data.text import build_rules
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.data.transformers_tokenizer import SpecialTokens
from asr_exp.decoding.beam import Beam, BeamSettings, Weights, spelled, token_names
from asr_exp.decoding.decoders import candidates, make_decoder
from asr_exp.decoding.hot_words import boost, occurrences
from asr_exp.decoding.language_model import arpa_of, check_tokens, lexicon_of, read_lexicon
from asr_exp.decoding.ngram import estimate, read_arpa, vocabulary, write_arpa
from asr_exp.evaluation.decoder_tuning import _key, tune, use_tuned
from asr_exp.model.recogniser import Emissions
from asr_exp.runtime.distributed import Runtime
from asr_exp.scoring.error_rates import word_errors

pytest.importorskip("flashlight.lib.text")

LETTERS = Tokenizer.build(["ab ba"])  # a b | [UNK] [PAD]
PHONES = Tokenizer.build(["sh iy"], "phone")
TEXTS = ["ab", "ba ab", "a b", "ab ab ba", "b", "a"]


def emissions(frames=5, tokens=5, seed=0, sharp=2.0):
    generator = torch.Generator().manual_seed(seed)
    return sharp * torch.randn(1, frames, tokens, generator=generator)


def every_text(logits, tokenizer) -> dict[str, float]:
    """log P of every text, by adding up all the paths that lead to it."""
    log_probs = logits[0].log_softmax(-1).numpy().astype(float)
    total = defaultdict(float)
    for path in product(range(log_probs.shape[1]), repeat=len(log_probs)):
        collapsed = [token for token, _ in groupby(path) if token != tokenizer.blank]
        text = " ".join(tokenizer.decode(collapsed).split())
        total[text] += math.exp(sum(log_probs[i, token] for i, token in enumerate(path)))
    return {text: math.log(p) for text, p in total.items()}


def model_of(path, texts, order=2):
    model = estimate([text.split() for text in texts], order)
    write_arpa(path, [len(one) for one in model.grams], model)
    return path


def agrees(found, expected, count):
    best = sorted(expected.items(), key=lambda item: -item[1])[:count]
    assert [one.text for one in found] == [text for text, _ in best]
    assert [one.score for one in found] == pytest.approx([value for _, value in best], abs=2e-3)


@pytest.mark.parametrize("seed", range(4))
def test_without_a_model_it_adds_up_all_paths(seed):
    logits = emissions(seed=seed)
    agrees(
        Beam(LETTERS, settings=BeamSettings(2000, nbest=8)).candidates(logits, [5])[0],
        every_text(logits, LETTERS),
        8,
    )
    longer = torch.cat([logits, emissions(seed=9)], dim=1)  # frames that are not valid
    wide = Beam(LETTERS, settings=BeamSettings(2000))
    assert wide(longer, [5]) == wide(logits, [5])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weights", [Weights(1.0, 0.0), Weights(0.5, 1.5)])
def test_with_a_lexicon_it_finds_the_best_of_all_texts_of_its_words(tmp_path, seed, weights):
    logits, lm = emissions(seed=seed), model_of(tmp_path / "lm.arpa", TEXTS)
    lexicon = lexicon_of(vocabulary(lm), LETTERS, "it")
    assert sorted(lexicon) == ["a", "ab", "b", "ba"] and lexicon["ab"] == ["a", "b", "|"]
    known, expected = table(lm), {}
    for text, log_prob in every_text(logits, LETTERS).items():
        words = text.split()
        if set(words) <= set(lexicon):
            expected[text] = (
                log_prob + weights.lm * math.log(10) * score(known, words, 2) + weights.word * len(words)
            )
    agrees(
        Beam(LETTERS, lm, lexicon, BeamSettings(2000, 6, weights)).candidates(logits, [5])[0],
        expected,
        6,
    )


@pytest.mark.parametrize(("tokenizer", "texts"), [(LETTERS, TEXTS), (PHONES, ["sh iy", "iy", "iy sh iy"])])
def test_without_a_lexicon_the_model_is_one_of_tokens(tmp_path, tokenizer, texts):
    lm = tmp_path / "lm.arpa"
    arpa_of(texts, tokenizer, False, 3, lm, "it")
    known, names = table(lm), token_names(tokenizer)
    weights, expected = Weights(0.7, -0.5), {}
    logits = emissions(5, len(tokenizer), seed=2)
    for text, log_prob in every_text(logits, tokenizer).items():
        tokens = [
            names[tokenizer.ids.get(c, tokenizer.unknown)]
            for c in (
                text.replace(" ", "|") if tokenizer is LETTERS else [f"{phone} " for phone in text.split()]
            )
        ]
        if "[" not in text and "||" not in "".join(tokens):
            lm_score = weights.lm * math.log(10) * score(known, tokens, 3)
            expected[text] = log_prob + lm_score + weights.word * len(text.split())
    found = Beam(tokenizer, lm, settings=BeamSettings(2000, 3, weights)).candidates(logits, [5])[0]
    assert [one.text for one in found] == sorted(expected, key=lambda text: -expected[text])[:3]


def test_torchaudio_says_the_same(tmp_path):
    """Its ctc_decoder, with the lexicon in a file, and a last frame of silence that ends the last word."""
    from torchaudio.models.decoder import ctc_decoder

    lm = model_of(tmp_path / "lm.arpa", TEXTS)
    lexicon, _ = spelled(vocabulary(lm), LETTERS)
    (tmp_path / "lexicon.txt").write_text(
        "".join(f"{word} {' '.join(spelling)}\n" for word, spelling in lexicon.items())
    )
    theirs = ctc_decoder(
        str(tmp_path / "lexicon.txt"),
        list(LETTERS.tokens),
        str(lm),
        nbest=5,
        beam_size=50,
        lm_weight=0.6 * math.log(10),
        word_score=0.3,
        log_add=True,
        blank_token="[PAD]",
        sil_token="|",
    )
    ours = Beam(LETTERS, lm, lexicon, BeamSettings(50, 5, Weights(0.6, 0.3)))
    for seed in range(5):
        logits = emissions(12, seed=seed)
        last = torch.full((1, 1, 5), -1e4)
        last[0, 0, 2] = 0.0
        expected = theirs(torch.cat([logits.log_softmax(-1), last], dim=1))[0]
        found = ours.candidates(logits, [12])[0]
        assert [one.text for one in found] == [" ".join(one.words) for one in expected]
        assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-4)


def test_a_batch_is_its_rows_and_an_empty_row_is_an_empty_text():
    decoder = Beam(LETTERS, settings=BeamSettings(nbest=3))
    logits = torch.cat([emissions(6, seed=seed) for seed in range(3)])
    found = candidates(decoder, logits, [6, 0, 4])
    assert (
        found[0] == decoder.candidates(logits[:1], [6])[0]
        and found[2] == decoder.candidates(logits[2:], [4])[0]
    )
    assert [one.text for one in found[1]] == [""] and decoder(logits, [6, 0, 4]) == [
        several[0].text for several in found
    ]
    assert all(list(several) == sorted(several, key=lambda one: -one.score) for several in found)
    assert len(found[0]) == len({one.text for one in found[0]}) == 3


def test_greedy_has_one_candidate():
    logits = emissions(6)
    greedy = make_decoder("greedy", LETTERS, {})
    assert [[one.text] for one in candidates(greedy, logits, [6])[0]] == [greedy(logits, [6])]


# ------------------------------------------------------------------------------------------------------------
# hot words


def said(text: str, tokenizer: Tokenizer, noise=0.5, seed=0) -> torch.Tensor:
    """Emissions of a text, a frame a character and a blank after each."""
    labels = [label for one in tokenizer.encode(text).tolist() for label in (one, tokenizer.blank)]
    generator = torch.Generator().manual_seed(seed)
    return (
        6 * torch.nn.functional.one_hot(torch.tensor(labels), len(tokenizer))
        + noise * torch.randn(len(labels), len(tokenizer), generator=generator)
    )[None].float()


COMMANDS = Tokenizer.build(["abcdefghijklmnopqrstuvwxyz '"])
KNOWN = ["find my red cup", "find my red book", "open the door", "open the window", "close the door"]


def blurred() -> torch.Tensor:
    """`find my red pup`, which the model takes for `find my red cup`."""
    logits = said("find my red cup", COMMANDS)
    logits[0, 24, COMMANDS.ids["p"]] = logits[0, 24, COMMANDS.ids["c"]] - 2
    return logits


@pytest.mark.parametrize("with_model", [True, False])
@pytest.mark.parametrize("by_words", [True, False])
def test_a_hot_word_is_found_that_is_missed_without(tmp_path, with_model, by_words):
    lm = None
    if with_model:
        lm = tmp_path / "lm.arpa"
        arpa_of(KNOWN, COMMANDS, by_words, 3, lm, "it")
    lexicon = spelled([*" ".join(KNOWN).split(), "pup"], COMMANDS)[0] if by_words else None
    logits = blurred()
    frames = [logits.shape[1]]

    def decoded(*hot_words):
        settings = BeamSettings(weights=Weights(0.5), hot_words=hot_words, hot_weight=8.0)
        return Beam(COMMANDS, lm, lexicon, settings)(logits, frames)

    assert decoded() == ["find my red cup"]
    assert decoded("pup") == ["find my red pup"]
    assert decoded("red pup") == ["find my red pup"]
    assert decoded("blue pup") == ["find my red cup"]


@pytest.mark.parametrize("hot", [["ba"], ["ab ba"], ["ab ab ba", "b"], ["a b a b"]])
@pytest.mark.parametrize("with_model", [True, False])
def test_a_hot_word_adds_its_weight_and_nothing_else(tmp_path, hot, with_model):
    lm = model_of(tmp_path / "lm.arpa", TEXTS) if with_model else None
    lexicon = spelled(["a", "ab", "b", "ba"], LETTERS)[0]
    logits, frames = emissions(8, seed=3), [8]
    settings = BeamSettings(3000, 500, Weights(0.5, 0.2))
    plain = Beam(LETTERS, lm, lexicon, settings).candidates(logits, frames)[0]
    settings = replace(settings, hot_words=hot, hot_weight=3.0)
    found = Beam(LETTERS, lm, lexicon, settings).candidates(logits, frames)[0]
    before = {one.text: one.score for one in plain}
    phrases = {tuple(one.split()) for one in hot}
    shared = [one for one in found if one.text in before]
    assert len(shared) > 50 and len({occurrences(one.text.split(), phrases) for one in shared}) > 1
    for one in shared:
        assert one.score - before[one.text] == pytest.approx(
            3.0 * occurrences(one.text.split(), phrases), abs=2e-3
        )


def test_a_hot_word_in_a_model_that_knows_no_other_words(tmp_path):
    lm = model_of(tmp_path / "lm.arpa", KNOWN)
    sizes = next(iter(read_arpa(lm)))
    lines = [line for line in lm.read_text().splitlines() if "<unk>" not in line]
    lm.write_text("\n".join(lines).replace(f"ngram 1={sizes[0]}", f"ngram 1={sizes[0] - 1}") + "\n")
    logits = blurred()
    lexicon = spelled([*" ".join(KNOWN).split(), "pup"], COMMANDS)[0]
    plain = Beam(COMMANDS, lm, lexicon)
    boosted = Beam(COMMANDS, lm, lexicon, BeamSettings(hot_words=["pup"], hot_weight=8.0))
    assert plain(logits, [logits.shape[1]]) == ["find my red cup"]
    assert boosted(logits, [logits.shape[1]]) == ["find my red pup"]


def test_a_new_word_is_as_likely_as_the_rarest_of_a_model_that_knows_no_others(tmp_path):
    lm, hot = tmp_path / "lm.arpa", tmp_path / "hot.arpa"
    lm.write_text("\\data\\\nngram 1=4\n\n\\1-grams:\n-99 <s>\n-0.3 </s>\n-0.4 cup\n-1.5 door\n\n\\end\\\n")
    boost(lm, hot, {("pup",)}, 2.0)
    found = {words: log10 for words, (log10, _) in table(hot).items() if len(words) == 1}
    assert found[("pup",)] == pytest.approx(-1.5)  # and no less, for it is a hot word
    assert (found[("cup",)], found[("door",)]) == pytest.approx((-2.4, -3.5))


def test_where_phrases_are_complete():
    phrases = {("red", "cup"), ("cup",), ("door",)}
    assert occurrences(["red", "cup"], phrases) == 1  # at one place, whichever of them it is
    assert (
        occurrences(["the", "door", "red", "door", "cup"], phrases) == 3
        and occurrences(["red", "cupboard"], phrases) == 0
    )


def test_the_boosted_file_moves_hot_words_alone(tmp_path):
    lm, hot = model_of(tmp_path / "lm.arpa", KNOWN, 2), tmp_path / "hot.arpa"
    boost(lm, hot, {("red", "cup", "now"), ("door",)}, 2.0)
    before, after = table(lm), table(hot)
    assert next(iter(read_arpa(hot))) == [len([g for g in after if len(g) == n]) for n in (1, 2, 3)]
    for words, (log10, backoff) in before.items():
        shift = 0.0 if words[-1] in ("<s>", "</s>", "door") else 2.0
        assert after[words] == pytest.approx((log10 - shift, backoff), abs=1e-5)
    assert set(after) - set(before) == {("now",), ("cup", "now"), ("red", "cup", "now"), ("<s>", "</s>")}
    assert after[("red", "cup", "now")][0] == pytest.approx(
        before[("cup",)][1] + before[("<unk>",)][0], abs=1e-5
    )


# ------------------------------------------------------------------------------------------------------------
# what it is given


def test_without_flashlight_it_says_what_to_install(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "flashlight" else real(name, *rest)
    )
    with pytest.raises(UserError, match=r"pip install 'asr_exp\[beam\]'"):
        make_decoder("beam", LETTERS, {})


def test_names_of_tokens():
    assert token_names(LETTERS) == ["a", "b", "|", "<3>", "<4>"] and token_names(PHONES) == [
        "iy",
        "sh",
        "<2>",
        "<3>",
    ]
    names = token_names(
        Tokenizer(["<pad>", "<s>", "</s>", "<unk>", "|", "E", "'"], special=SpecialTokens("<pad>", "<unk>"))
    )
    assert names == ["<0>", "<1>", "<2>", "<3>", "|", "E", "'"]


def test_a_broken_model_names_the_line(tmp_path):
    lm = model_of(tmp_path / "lm.arpa", TEXTS)
    lm.write_text(lm.read_text().replace("\\2-grams:", "\\two-grams:"))
    with pytest.raises(UserError, match=r"Line 14 of .*lm.arpa.*2-grams: is due"):
        Beam(LETTERS, lm, spelled(["ab"], LETTERS)[0])


def test_lexicons(tmp_path, caplog):
    path = tmp_path / "words.txt"
    path.write_text("ab\nba\tb a |\n\nab\n")
    assert list(read_lexicon(str(path), LETTERS, list)) == ["ab", "ba"]
    # through the text rules, as the text of a language model
    path.write_text("AB\nBa'b\nba\n", encoding="utf-8-sig")
    rules = build_rules(["lower", {"replace": {"'": " "}}], None).apply_many
    assert list(read_lexicon(str(path), LETTERS, rules)) == ["ab", "ba", "b"]
    # it can spell these as they stand
    assert list(read_lexicon(str(path), Tokenizer.build(["AB Ba'b"]), rules)) == ["AB", "Ba'b", "ba"]
    path.write_text("ab\nabc\n")
    with pytest.raises(
        UserError, match=r"Line 2 of decode.lexicon=.*cannot emit the 'c' of 'abc'; its characters are a b"
    ):
        read_lexicon(str(path), LETTERS, list)
    for content, words in (("", "no words"), (None, "cannot be read")):
        path.unlink()
        if content is not None:
            path.write_text(content)
        with pytest.raises(UserError, match=words):
            read_lexicon(str(path), LETTERS, list)
        path.touch()
    assert (
        list(lexicon_of(["ab", "xyz", "a|b"], LETTERS, "lm")) == ["ab"]
        and "2 of 3 words of lm" in caplog.text
    )
    with pytest.raises(UserError, match="none of its words, such as 'AB'"):
        lexicon_of(["AB"], LETTERS, "lm")


def test_a_model_of_words_is_none_of_tokens(tmp_path):
    with pytest.raises(UserError, match="is a model of words"):
        check_tokens(model_of(tmp_path / "lm.arpa", ["abba baba"]), LETTERS)
    check_tokens(model_of(tmp_path / "lm.arpa", ["a b | a"]), LETTERS)


def test_the_description_tells_models_and_lexicons_apart(tmp_path):
    lm, other = model_of(tmp_path / "lm.arpa", TEXTS), model_of(tmp_path / "other.arpa", TEXTS[:4])
    lexicon = spelled(["ab", "ba"], LETTERS)[0]
    said = [
        Beam(LETTERS),
        Beam(LETTERS, settings=BeamSettings(5)),
        Beam(LETTERS, lm, lexicon),
        Beam(LETTERS, other, lexicon),
        Beam(LETTERS, lm),
        Beam(LETTERS, lm, spelled(["ab"], LETTERS)[0]),
        Beam(LETTERS, lm, lexicon, BeamSettings(weights=Weights(1.0))),
        Beam(LETTERS, lm, lexicon, BeamSettings(weights=Weights(word=1.0))),
        Beam(LETTERS, lm, lexicon, BeamSettings(hot_words=["ab"])),
    ]
    descriptions = [one.description for one in said]
    assert len(set(descriptions)) == len(said) and descriptions[0] == "beam(beam=100)"
    moved = lm.rename(tmp_path / "moved.arpa")
    assert Beam(LETTERS, moved, lexicon, BeamSettings(nbest=7)).description == descriptions[2]
    assert np.isfinite(Beam(LETTERS, moved, lexicon).candidates(emissions(), [5])[0][0].score)


# ------------------------------------------------------------------------------------------------------------
# tuning


class Pieces:
    """A dev split, and what is kept of it, of one utterance a pass."""

    name, tokenizer = "dev", COMMANDS

    def __init__(self, texts):
        self.texts, self.passes = texts, [np.array([i]) for i in range(len(texts))]

    def reference(self, index):
        return self.texts[index]

    def has(self, number):
        return True

    def read(self, number):
        logits = said(self.texts[number], COMMANDS, noise=3.0, seed=number)
        return self.passes[number], Emissions(logits, [logits.shape[1]])


def test_tuning_ends_at_weights_as_good_as_any_of_the_grid(tmp_path):
    """Checked by decoding with each point of the grid anew; the weights found make no more errors
    than any.
    """
    lm = tmp_path / "lm.arpa"
    arpa_of(KNOWN, COMMANDS, False, 3, lm, "it")
    dev = Pieces(KNOWN)
    decoder = Beam(COMMANDS, lm, settings=BeamSettings(20, hot_words=["door"]))
    table = tune(decoder, dev, dev, Runtime(0, 0, 1, torch.device("cpu"), "fp32"))

    def rate(weights: Weights) -> float:
        fresh = Beam(COMMANDS, lm, settings=BeamSettings(20, weights=weights))
        errors = [
            word_errors(text, *fresh(dev.read(i)[1].logits, dev.read(i)[1].frames))
            for i, text in enumerate(KNOWN)
        ]
        return sum(one.errors for one in errors) / sum(one.reference_length for one in errors)

    points = [Weights(lm, word) for lm in (0.0, 0.5, 2.0) for word in (-1.0, 2.0)]
    assert [table[point] for point in points] == pytest.approx([rate(point) for point in points])
    assert len({table[point] for point in points}) > 2
    assert table[decoder.weights] == min(table.values()) == pytest.approx(rate(decoder.weights))
    assert (
        decoder.hot_words == {("door",)}
        and decoder.tuned_on == "dev"
        and "tuned_on=dev" in decoder.description
    )


def test_weights_are_found_again_whatever_else_is_asked_for(tmp_path):
    """Hot words, and weights given, are not what they depend on; the lexicon is."""
    lm, lexicon = model_of(tmp_path / "lm.arpa", TEXTS), spelled(["ab", "ba"], LETTERS)[0]
    key = _key(Beam(LETTERS, lm, lexicon), "checkpoint", "fp32")
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm/tuned.json").write_text(json.dumps({key: {"lm_weight": 1.5, "word_score": -1.0}}))
    decoder = Beam(LETTERS, lm, lexicon, BeamSettings(weights=Weights(3.0, 2.0), hot_words=["ab bab"]))
    use_tuned(decoder, tmp_path, "checkpoint")
    assert (
        decoder.weights == Weights(1.5, -1.0)
        and decoder.hot_words == {("ab", "bab")}
        and "bab" in decoder.lexicon
    )
    with pytest.raises(UserError, match="no weights have been found"):
        use_tuned(Beam(LETTERS, lm, spelled(["ab"], LETTERS)[0]), tmp_path, "checkpoint")
