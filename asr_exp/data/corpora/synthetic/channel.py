"""What happens to speech between a mouth and a file: speakers of other sizes, rooms, noises, microphones,
telephones.
"""

import numpy as np
import soxr

_KNOTS = np.geomspace(60, 8000, 7)  # Hz, where a microphone's gain is drawn


def recorded(speech: np.ndarray, rate: int, rng: np.random.Generator, to_rate: int = 16000) -> np.ndarray:
    """Clean speech (int16, shape (samples,)) at `rate` as somebody might have recorded it: int16 at
    `to_rate`.

    Drawn from `rng`: the size of the vocal tract (played up to 15 % slower or faster), silence before and
    after, a room of up to 0.5 s reverberation in two clips of five, a telephone's band in one of three, a
    microphone's colour, noise from 3 to 40 dB below the speech, and the level.
    """
    x = soxr.resample(
        speech.astype(np.float32) / 32768, rate * rng.uniform(0.85, 1.15), to_rate, quality="MQ"
    )
    x = np.pad(x, [int(seconds * to_rate) for seconds in rng.uniform(0, 0.3, 2)])
    size = 1 << (len(x) + to_rate // 2).bit_length()
    hz = np.fft.rfftfreq(size, 1 / to_rate).astype(np.float32)
    heard = np.fft.rfft(x, size)
    if rng.random() < 0.4:
        heard *= np.fft.rfft(_room(rng, to_rate), size)
    level = float(np.sqrt(np.mean(np.square(x)))) + 1e-6
    noise = np.fft.rfft(rng.standard_normal(len(x), dtype=np.float32), size) * (hz + 50) ** -rng.uniform(0, 1)
    noise *= (
        level * 10 ** (-rng.uniform(3, 40) / 20) * np.sqrt(len(x) * size / 2 / np.sum(np.abs(noise) ** 2))
    )
    y = np.fft.irfft((heard + noise) * _microphone(rng, hz), size)[: len(x)]
    return (y * (32767 * 10 ** (-rng.uniform(1, 25) / 20) / (np.abs(y).max() + 1e-6))).astype(np.int16)


def _room(rng: np.random.Generator, rate: int) -> np.ndarray:
    """An impulse response: the direct sound, then noise that dies away (Polack 1988), 0 to 15 dB weaker in
    all.
    """
    seconds = rng.uniform(0.1, 0.5)
    time = np.arange(int(seconds * rate)) / rate
    tail = rng.standard_normal(len(time)) * np.exp(-6.9 * time / seconds)
    tail *= 10 ** (-rng.uniform(0, 15) / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return tail.astype(np.float32)


def _microphone(rng: np.random.Generator, hz: np.ndarray) -> np.ndarray:
    """Gains at `hz`: a smooth curve within 10 dB, and in one of three draws the band of a telephone."""
    gain = 10 ** (np.interp(np.log(hz + 1), np.log(_KNOTS), rng.uniform(-10, 10, len(_KNOTS))) / 20)
    if rng.random() < 1 / 3:
        gain /= np.sqrt(1 + (rng.uniform(100, 350) / (hz + 1)) ** 6) * np.sqrt(
            1 + (hz / rng.uniform(3000, 4000)) ** 24
        )
    return gain
