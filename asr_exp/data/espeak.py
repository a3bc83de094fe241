"""espeak-ng, from the wheels of the `demo` extra: text to phones, and text to speech. Its licence is GPL-3,
so the base install does not have it.
"""

import ctypes
import functools
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np

from asr_exp.core.errors import UserError, nearest

# espeak-ng's codes: for the names that corpora give languages, and for codes whose first part espeak-ng does
# not have, or has as a less common accent.
_NAMES = {
    "english": "en-us",
    "german": "de",
    "dutch": "nl",
    "french": "fr-fr",
    "spanish": "es",
    "italian": "it",
    "portuguese": "pt",
    "polish": "pl",
    "turkish": "tr",
    "swedish": "sv",
    "en": "en-us",
    "fr": "fr-fr",
    "zh": "cmn",
    "no": "nb",
    "ckb": "ku",
    "iw": "he",
}


class Phonemiser:
    """Turns text into IPA phones, separated by single spaces. `many` is much faster than one text at a time.

    `language` is a corpus's code or name of the language (tr, sv-SE, german). Raises UserError where
    espeak-ng does not have it, and where the `demo` extra is not installed.
    """

    def __init__(self, language: str | None):
        self.language = espeak_language(language)

    def __call__(self, text: str) -> str:
        return self.many([text])[0]

    def many(self, texts: list[str]) -> list[str]:
        """The phones of each text; "" for a text without a letter or digit."""
        from phonemizer.separator import Separator

        lines = {text: " ".join(text.split()) for text in texts}
        # phonemizer leaves lines without any letter or digit out of its result
        spoken = sorted({line for line in lines.values() if re.search(r"\w", line)})
        phones = _backend(self.language).phonemize(
            spoken, separator=Separator(phone=" ", word="\t", syllable=""), strip=True
        )
        phones_of = {line: " ".join(ipa.split()) for line, ipa in zip(spoken, phones, strict=True)}
        return [phones_of.get(lines[text], "") for text in texts]


def espeak_language(language: str | None) -> str:
    """espeak-ng's code for the language of a corpus. Raises UserError where espeak-ng does not have the
    language.
    """
    if not language:
        raise UserError("the text rule espeak needs to know the language: dataset.language=tr.")
    known = _library().supported_languages()
    code = language.lower().replace("_", "-")
    first = code.partition("-")[0]
    for candidate in (_NAMES.get(code, code), code, _NAMES.get(first, first), first):
        if candidate in known:
            return candidate
    raise UserError(
        f"dataset.language={language} is not a language of espeak-ng.{nearest(code, known)} "
        f"It has: {', '.join(sorted(known))}."
    )


def version() -> str:
    """espeak-ng's version. The phones of a text depend on it."""
    return ".".join(map(str, _library().version()))


@functools.cache
def _library() -> Any:
    try:
        import espeakng_loader
        from phonemizer.backend import EspeakBackend
        from phonemizer.backend.espeak.wrapper import EspeakWrapper
    except ImportError as error:
        raise UserError(
            f'espeak-ng is not installed ({error.name}); type: pip install "asr_exp[demo]".'
        ) from error
    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    return EspeakBackend


@functools.cache
def _backend(language: str) -> Any:
    log = logging.getLogger(__name__)
    # phonemizer logs when it starts, and each line with a foreign word in it
    log.setLevel(logging.ERROR)
    # Foreign words are spoken in their own language's phones, without the (en) flags about them.
    return _library()(language, with_stress=False, language_switch="remove-flags", logger=log)


# ------------------------------------------------------------------------------------------------------------
# speech

_SYNCHRONOUS, _DONT_EXIT = 0x02, 0x8000  # espeak_AUDIO_OUTPUT, espeakINITIALIZE_*
_UTF8, _POS_CHARACTER = 1, 1  # espeakCHARS_*, espeak_POSITION_TYPE
_RATE, _PITCH = 1, 3  # espeak_PARAMETER
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Synthesiser:
    """Speaks text with espeak-ng, through ctypes.

    The library keeps global state: use one instance in a process, from one thread. Its noises come from the C
    library's random numbers, so the same `seed` and the same calls in the same order give the same samples. A
    voice is a language and, after a plus sign, a variant: `en-us`, `en-us+m3`. Raises UserError where the
    `demo` extra is missing, and where espeak-ng does not start or refuses a voice or a text.
    """

    def __init__(self, seed: int = 0) -> None:
        _library()  # says what to install
        import espeakng_loader

        self._data = Path(espeakng_loader.get_data_path())
        self._lib = ctypes.CDLL(str(espeakng_loader.get_library_path()))
        self._lib.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        self._lib.espeak_SetSynthCallback.argtypes = [_CALLBACK]
        self._lib.espeak_SetSynthCallback.restype = None
        self._lib.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
        self._lib.espeak_SetParameter.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]
        self._lib.espeak_Synth.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        # espeak-ng takes the folder that holds espeak-ng-data, or that folder itself.
        self.sample_rate: int = self._lib.espeak_Initialize(
            _SYNCHRONOUS, 0, str(self._data).encode(), _DONT_EXIT
        )
        if self.sample_rate <= 0:
            raise UserError(
                f"espeak-ng did not start with its data in {self._data}; type: pip install --force-reinstall"
                ' "asr_exp[demo]".'
            )
        self._chunks: list[np.ndarray] = []
        self._callback = _CALLBACK(self._collect)  # kept, or it would be collected while the library holds it
        self._lib.espeak_SetSynthCallback(self._callback)
        self._voice: str | None = None
        ctypes.CDLL(None).srand(seed)

    def _collect(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0  # go on

    def _set_voice(self, voice: str) -> None:
        if voice == self._voice:
            return
        self._voice = None
        _, plus, variant = voice.partition("+")
        # espeak-ng ignores unknown variants
        if plus and not (variant and (self._data / "voices" / "!v" / variant).is_file()):
            raise UserError(f"espeak-ng has no voice variant {variant!r} (asked for as {voice!r}).")
        if (code := self._lib.espeak_SetVoiceByName(voice.encode())) != 0:
            raise UserError(f"espeak-ng has no voice {voice!r} (code {code:#x}).")
        self._voice = voice

    def say(
        self, text: str, voice: str = "en-us", rate: int = 175, pitch: int = 50
    ) -> tuple[np.ndarray, int]:
        """Speak a text -> samples (int16, mono, shape (samples,)) and their rate.

        rate: words a minute, 80 to 450; pitch: 0 to 100, 50 being that of the voice. Raises ValueError for
        values outside these, UserError where espeak-ng refuses the voice or the text.
        """
        if not 80 <= rate <= 450 or not 0 <= pitch <= 100:
            raise ValueError(f"rate {rate} is not in 80..450, or pitch {pitch} not in 0..100")
        self._set_voice(voice)
        for name, value in ((_RATE, rate), (_PITCH, pitch)):
            if (code := self._lib.espeak_SetParameter(name, value, 0)) != 0:
                raise UserError(f"espeak-ng refused rate {rate} or pitch {pitch} (code {code:#x}).")
        self._chunks.clear()
        data = text.encode() + b"\0"
        if (code := self._lib.espeak_Synth(data, len(data), 0, _POS_CHARACTER, 0, _UTF8, None, None)) != 0:
            raise UserError(f"espeak-ng could not say {text!r} (code {code:#x}).")
        if not self._chunks:
            raise UserError(f"espeak-ng said nothing for {text!r}.")
        return np.concatenate(self._chunks), self.sample_rate
