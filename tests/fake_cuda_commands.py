"""Commands of the program on the stand-in of fake_cuda.py, and what each of their processes did there."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from fake_cuda import ROOT, on_fake_cuda

# Run by Python as it starts: the counts are written by a handler of atexit, since ranks end by `os._exit`.
REPORT = """
import atexit, ctypes, os

def report():
    place = f"{os.environ['COUNTS']}/rank{os.environ.get('RANK', '')}.{os.getpid()}"
    ctypes.CDLL("libfakecuda.so").fake_cuda_report(place.encode())

atexit.register(report)
"""
# main() of each list of words in turn, in one process -> for each its exit status and its counts
SEVERAL = """
import ctypes, json, sys
from asr_exp.cli.main import main

library, place = ctypes.CDLL("libfakecuda.so"), sys.argv[2]
done = []
for words in json.loads(sys.argv[1]):
    library.fake_cuda_reset()
    status = main(words)
    library.fake_cuda_report(place.encode())
    done.append([status, open(place).read()])
sys.stdout.flush()
print("\\n" + json.dumps(done))
"""

# name: (how often, bytes)
Counted = dict[str, tuple[int, int]]


def counted(text: str) -> Counted:
    """The counts of the stand-in: kernels, products, copies, waits, collectives."""
    rows = (line.split("\t") for line in text.splitlines())
    return {name: (int(count), int(size)) for count, size, _, name in rows}


def command(*words: Any, cwd: Path, **options: Any) -> tuple[str, dict[str, Counted]]:
    """`python -m asr_exp WORDS` -> what it printed, and the counts of its ranks by their numbers, that of a
    process that is none by ''. options: of `on_fake_cuda`.
    """
    site, counts = cwd / "site", cwd / "counts"
    for folder in (site, counts):
        folder.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(REPORT)
    path = f"{site}:{ROOT}:{ROOT / 'tests'}"
    done = on_fake_cuda("-m", "asr_exp", *words, cwd=cwd, PYTHONPATH=path, COUNTS=counts, **options)
    by_rank: dict[str, Counted] = defaultdict(dict)
    for file in counts.iterdir():
        by_rank[file.name.partition(".")[0].removeprefix("rank")] |= counted(file.read_text())
    return done.stdout + done.stderr, dict(by_rank)


def commands(*each: list[str], cwd: Path, **options: Any) -> list[tuple[int, Counted]]:
    """The exit status and the counts of commands that run one after another in one process."""
    words = json.dumps([[str(word) for word in one] for one in each])
    done = on_fake_cuda("-c", SEVERAL, words, cwd / "counts.txt", cwd=cwd, **options)
    return [(status, counted(text)) for status, text in json.loads(done.stdout.splitlines()[-1])]
