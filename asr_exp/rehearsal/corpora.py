"""Synthetic corpora for rehearsals: a few made-up utterances, written in each corpus's own official layout.

The sentences hold what text rules stumble over (capitals, dots, apostrophes, digits, the dotless i); the
audio is tones.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator
from itertools import count, cycle, islice
from pathlib import Path

import numpy as np
import soundfile

VERSION = "1"  # of the synthetic corpora, part of the name of their folder in the cache
SENTENCES = {
    "en": (
        "She had your dark suit in greasy wash water all year.",
        "Don't ask me to carry an oily rag like that!",
        "The quick brown fox jumps over 13 lazy dogs, twice.",
    ),
    "tr": (
        "Yarın sabah İstanbul'a gideceğiz.",
        "Bu çok güzel bir şey, değil mi?",
        "Işık söndü; kapıyı kapat.",
    ),
    "it": ("Perché non vieni con noi?", "L'acqua è già fredda.", "Ci vediamo domani, alle otto."),
    "sv": ("Jag förstår inte vad du säger.", "Är det här din väska?", "Vi ses på måndag, klockan åtta!"),
    "de": (
        "Wir gehen heute in den großen Garten.",
        "Übermorgen ist schönes Wetter.",
        "Mach's gut, und grüß Jürgen!",
    ),
}
NAMES = {"german": "de", "italian": "it", "turkish": "tr", "swedish": "sv"}
# TIMIT: speakers of TRAIN, and speakers of TEST that the reader counts to the core test or to dev.
TIMIT = {
    "TRAIN": ("DR1/FCJF0", "DR2/MARC0", "DR3/FALK0", "DR4/MAEB0"),
    "TEST": ("DR1/FELC0", "DR1/MDAB0", "DR1/FAKS0", "DR2/FAEM0"),
}
SPOKEN = (
    "h# sh iy hv ae dcl d y er axr kcl k s ux tcl t q en gcl g r iy s iy w aa sh epi w ao dx er ao l y ih eng"
    " pau b ix z el h#"
)
LIBRISPEECH = (
    "train-clean-100",
    "train-clean-360",
    "train-other-500",
    "dev-clean",
    "dev-other",
    "test-clean",
    "test-other",
    # Libri-Light's limited supervision
    "9h/clean",
    "9h/other",
    *(f"1h/{i}/{half}" for i in range(6) for half in ("clean", "other")),
)
COMMON_VOICE = ("train", "dev", "test", "validated", "other", "invalidated")
COLUMNS = ("client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accent")


def sound(text: str, rate: int = 16000, voice: int = 0) -> np.ndarray:
    """Audio of a text: noise, and over it 80 ms of a tone for each character; float32, shape (samples,)."""
    time = np.arange(int(0.08 * rate)) / rate
    bursts = [
        np.hanning(len(time)) * np.sin(2 * np.pi * (200 + 20 * voice + 37 * (ord(c) % 60)) * time)
        for c in text
    ]
    noise = np.random.default_rng(len(text) + voice).standard_normal(len(time) * len(text))
    return (0.4 * np.concatenate(bursts) + 0.01 * noise).astype(np.float32)


def write(reader: str, language: str | None, root: Path) -> None:
    """Write a synthetic corpus under `root`, in the layout of a reader (a key of LAYOUTS).

    language: in the corpus's own code (turkish of MLS, tr of Common Voice).
    """
    LAYOUTS[reader](root, language)


def _sentences(language: str | None) -> Iterator[str]:
    """The sentences of a language over and over; the English ones for a language without any."""
    name = (language or "en").lower()
    return cycle(SENTENCES.get(NAMES.get(name, re.split("[-_]", name)[0]), SENTENCES["en"]))


def _bare(text: str) -> str:
    """A text with nothing but letters, apostrophes and spaces, as corpora of read books have it."""
    return " ".join(re.sub(r"[^\w\s']|\d", " ", text).split())


def _timit(root: Path, language: str | None) -> None:
    sentences = _sentences("en")
    for half, speakers in TIMIT.items():
        for number, speaker in enumerate(speakers):
            (root / half / speaker).mkdir(parents=True)
            for name, text in zip(("SA1", f"SI{600 + number}", f"SX{100 + number}"), sentences, strict=False):
                stem, samples = root / half / speaker / name, sound(text, voice=number)
                soundfile.write(stem.with_suffix(".WAV"), samples, 16000, format="NIST", subtype="PCM_16")
                stem.with_suffix(".TXT").write_text(f"0 {len(samples)} {text}\n")
                for ending, units in ((".PHN", SPOKEN.split()), (".WRD", _bare(text).lower().split())):
                    edges = np.linspace(0, len(samples), len(units) + 1).astype(int)
                    lines = [
                        f"{start} {end} {unit}\n"
                        for start, end, unit in zip(edges[:-1], edges[1:], units, strict=True)
                    ]
                    stem.with_suffix(ending).write_text("".join(lines))


def _librispeech(root: Path, language: str | None) -> None:
    sentences = _sentences("en")
    for number, subset in enumerate(LIBRISPEECH):
        for speaker in (1000 + number, 2000 + number):
            folder = root / subset / f"{speaker}" / "1"
            folder.mkdir(parents=True)
            lines = []
            for utterance, text in enumerate(islice(sentences, 3)):
                name = f"{speaker}-1-{utterance:04d}"
                soundfile.write(folder / f"{name}.flac", sound(text, voice=number), 16000)
                lines.append(f"{name} {_bare(text).upper()}\n")
            (folder / f"{speaker}-1.trans.txt").write_text("".join(lines))


def _common_voice(root: Path, language: str | None) -> None:
    folder = root / (language or "en")
    sentences = _sentences(language)
    numbers = count(17000000)
    (folder / "clips").mkdir(parents=True)
    for split in COMMON_VOICE:
        with (folder / f"{split}.tsv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(
                file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n"
            )
            rows.writerow((*COLUMNS, "locale", "segment"))
            for voice, text in enumerate(islice(sentences, 6)):
                clip = f"common_voice_{language}_{next(numbers)}.mp3"
                soundfile.write(folder / "clips" / clip, sound(text, 48000, voice), 48000, format="MP3")
                rows.writerow((f"{split}{voice % 3}", clip, text, 2, 0, "", "", "", language, ""))


def _mls(root: Path, language: str | None) -> None:
    folder, sentences = root / f"mls_{language}", _sentences(language)
    names: list[str] = []
    for number, split in enumerate(("train", "dev", "test")):
        lines = []
        for speaker in (100 + number, 200 + number, 300 + number):
            (folder / split / "audio" / f"{speaker}" / "7").mkdir(parents=True)
            for utterance, text in enumerate(islice(sentences, 4)):
                name = f"{speaker}_7_{utterance:06d}"
                soundfile.write(
                    folder / split / "audio" / f"{speaker}" / "7" / f"{name}.flac",
                    sound(text, voice=speaker % 20),
                    16000,
                )
                lines.append(f"{name}\t{_bare(text).lower()}\n")
                names += [name] if split == "train" else []
        (folder / split / "transcripts.txt").write_text("".join(lines), encoding="utf-8")
    for part, handles in (("9hr", names[:6]), *((f"1hr/{i}", names[6 + i : 7 + i]) for i in range(6))):
        place = folder / "train" / "limited_supervision" / part
        place.mkdir(parents=True)
        (place / "handles.txt").write_text("".join(f"{name}\n" for name in handles))


def _minds14(root: Path, language: str | None) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = []
    for number, text in enumerate(islice(_sentences(language), 24)):
        wav = io.BytesIO()
        soundfile.write(wav, sound(text, 8000, number % 7), 8000, format="WAV", subtype="PCM_16")
        path = f"{language}~JOINT_ACCOUNT/{number:03d}.wav"
        rows.append(
            {
                "path": path,
                "audio": {"bytes": wav.getvalue(), "path": path},
                "transcription": text.rstrip(".!?"),
                "english_transcription": text,
                "intent_class": number % 14,
                "lang_id": 4,
            }
        )
    (root / str(language)).mkdir(parents=True)
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), root / str(language) / "train-00000-of-00001.parquet"
    )


LAYOUTS: dict[str, Callable[[Path, str | None], None]] = {
    "timit": _timit,
    "timit-phones": _timit,
    "librispeech": _librispeech,
    "common-voice": _common_voice,
    "mls": _mls,
    "minds14": _minds14,
}
