"""Where a segment lies in its file."""

from typing import Any


def samples_of(audio: Any, frames: int, rate: int) -> tuple[int, int]:
    """The samples of a file that a segment takes: the first, and the one after the last.

    An end up to a tenth of a second beyond the file's is the file's. Without a start, so is one as little
    before it: `end` is then the length of a whole file, rounded by whoever wrote it down.

    Args:
        audio: its `start` and `end` in seconds, either of them None.
        frames: samples of the file.
        rate: samples a second.

    Raises:
        ValueError: the segment lies outside the file; the message says in which unit it would not.
    """
    start = round((audio.start or 0.0) * rate)
    end = frames if audio.end is None else round(audio.end * rate)
    tolerance = rate // 10
    if not 0 <= start < min(end, frames) or end > frames + tolerance:
        last = max(time for time in (audio.start, audio.end) if time is not None)
        lengths = {"milliseconds": last / 1000, "samples": last / rate}
        fitting = [name for name, length in lengths.items() if 0.05 <= length <= frames / rate + 0.1]
        whole_file = [name for name in fitting if abs(lengths[name] - frames / rate) <= 0.1]
        guess = f"; are these {' or '.join(whole_file or fitting)}, not seconds?" if fitting else ""
        span = f"{audio.start or 0:g}-{'' if audio.end is None else f'{audio.end:g}'}"
        raise ValueError(f"the segment {span} s lies outside the file of {frames / rate:.2f} s{guess}")
    whole = audio.start is None and end > frames - tolerance
    return start, frames if whole else min(end, frames)
