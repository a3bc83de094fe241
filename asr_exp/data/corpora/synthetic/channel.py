"""Simulate the recording of clean speech: speakers of other sizes, rooms, noises, microphones, telephones."""

import numpy as np
import soxr

_KNOTS = np.geomspace(60, 8000, 7)  # Hz, where a microphone's gain is drawn


def recorded(speech: np.ndarray, rate: int, rng: np.random.Generator, to_rate: int = 16000) -> np.ndarray:
    """Turn clean speech (int16, (samples,), at `rate`) into a recording (int16, (samples,), at `to_rate`).

    Drawn from `rng` are the size of the vocal tract (played up to 15 % slower or faster), silence before and
    after, a room of up to 0.5 s reverberation in two clips of five, a telephone's band in one of three, a
    microphone's colour, noise from 3 to 40 dB below the speech, and the level.
    """
    scaled = speech.astype(np.float32) / 32768
    x = soxr.resample(scaled, rate * rng.uniform(0.85, 1.15), to_rate, quality="MQ")
    x = np.pad(x, [int(seconds * to_rate) for seconds in rng.uniform(0, 0.3, 2)])
    size = 1 << (len(x) + to_rate // 2).bit_length()
    hz = np.fft.rfftfreq(size, 1 / to_rate).astype(np.float32)
    spectrum = np.fft.rfft(x, size)
    if rng.random() < 0.4:
        spectrum *= np.fft.rfft(_room(rng, to_rate), size)
    level = float(np.sqrt(np.mean(np.square(x)))) + 1e-6
    noise = np.fft.rfft(rng.standard_normal(len(x), dtype=np.float32), size) * (hz + 50) ** -rng.uniform(0, 1)
    noise *= (
        level * 10 ** (-rng.uniform(3, 40) / 20) * np.sqrt(len(x) * size / 2 / np.sum(np.abs(noise) ** 2))
    )
    y = np.fft.irfft((spectrum + noise) * _microphone(rng, hz), size)[: len(x)]
    return (y * (32767 * 10 ** (-rng.uniform(1, 25) / 20) / (np.abs(y).max() + 1e-6))).astype(np.int16)


def _room(rng: np.random.Generator, rate: int) -> np.ndarray:
    """Draw the impulse response of a room, float32, (samples,): the direct sound, then decaying noise (Polack
    1988) that is 0 to 15 dB weaker in all.
    """
    seconds = rng.uniform(0.1, 0.5)
    time = np.arange(int(seconds * rate)) / rate
    tail = rng.standard_normal(len(time)) * np.exp(-6.9 * time / seconds)
    tail *= 10 ** (-rng.uniform(0, 15) / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return tail.astype(np.float32)


def _microphone(rng: np.random.Generator, hz: np.ndarray) -> np.ndarray:
    """Draw the gains of a microphone at `hz`: a smooth curve within 10 dB, in one draw of three with the band
    of a telephone.
    """
    gain = 10 ** (np.interp(np.log(hz + 1), np.log(_KNOTS), rng.uniform(-10, 10, len(_KNOTS))) / 20)
    if rng.random() < 1 / 3:
        gain /= np.sqrt(1 + (rng.uniform(100, 350) / (hz + 1)) ** 6) * np.sqrt(
            1 + (hz / rng.uniform(3000, 4000)) ** 24
        )
    return gain
