"""TextGrids read the way Praat reads them."""

import re


def intervals(text: str, tier: str) -> list[tuple[float, float, str]]:
    """The intervals of a tier of a TextGrid, read the way Praat reads it: the numbers and quoted texts, in
    their order.
    """
    (body,) = re.findall(rf'name = "{tier}"(.*?)(?=item \[|\Z)', text, flags=re.DOTALL)
    tokens = re.findall(r'=\s*("(?:[^"]|"")*"|[-\d.]+)', body)
    start, end, count, *rest = tokens
    found = [
        (float(a), float(b), c[1:-1].replace('""', '"')) for a, b, c in zip(*[iter(rest)] * 3, strict=True)
    ]
    assert len(found) == int(count) and float(start) == found[0][0] and float(end) == found[-1][1]
    return found
