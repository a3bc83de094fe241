"""Is asr_exp faster than what one would run otherwise? One command answers, on your machine.

python -m benchmarks [rows=NAME,NAME] [rounds=5] [keep=true] [lengths=mixed] [speech=FOLDER] [drift=0.15]
                     [out=FOLDER] [device=auto] [quick=true]

rows     which rows (below); all of this machine's kind of device unless told
rounds   of each row; a round runs hf, hf-tuned and ours in turn, each in a fresh process
keep     true: the other rows of results.json stay, if they were measured on this machine with these
         versions, clips and speech
lengths  of the clips: librispeech, common-voice, timit, or mixed (a third each)
speech   a folder of WAV or FLAC recordings to cut and join clips from; without it the demo's synthetic
         speech
drift    a round is repeated when the machine's speed, measured before and after each arm, moved by more
         than this
scratch  where clips and runs are kept until the end: about 3 GB; the system's temporary folder unless told
out      where RESULTS.md and results.json go: benchmarks/, or for quick=true nowhere
quick    a smoke test of a minute: two tiny rows, one round, and their gates

hf is the Trainer of transformers run as its CTC fine-tuning example is; hf-tuned is the same with care
(benchmarks/hf.py says what that is); ours is `python -m asr_exp`. All train from the same weights on the
same files, with the same audio an optimiser step, masks, learning rate, clipping and precision. Before
anything is timed, gates compare loss, gradients and learning: a row whose gate fails is void.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

from benchmarks.rows import QUICK, ROWS, Row, rows_of

DEFAULTS = {
    "rows": "",
    "rounds": "5",
    "keep": "false",
    "lengths": "mixed",
    "speech": "",
    "drift": "0.15",
    "out": "",
    "scratch": "",
    "device": "auto",
    "quick": "false",
}


def main(arguments: Sequence[str]) -> int:
    if any(word in ("-h", "--help") for word in arguments):
        listed = "\n".join(
            f"  {row.name:18} {row.kind}, {row.model} model, {row.precision}, {row.device}" for row in ROWS
        )
        print(f"{(__doc__ or '').strip()}\n\nrows:\n{listed}")
        return 0
    try:
        asked = parse(arguments)
        rows = chosen(asked)
        from benchmarks import probe, report

        probe.versions()
    except ValueError as why:
        print(f"error: {why}", file=sys.stderr)
        return 2
    except PackageNotFoundError as missing:
        print(
            f"error: {missing.name} is not installed, which the comparison needs; type pip install -e"
            " '.[benchmark]'.",
            file=sys.stderr,
        )
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves no process and no folder behind
    with tempfile.TemporaryDirectory(prefix="asr-exp-benchmarks-", dir=asked["scratch"] or None) as scratch:
        try:
            return bench(rows, asked, arguments, Path(scratch))
        except report.Unlike as why:
            print(f"error: {why}", file=sys.stderr)
            return 2


def parse(arguments: Sequence[str]) -> dict[str, str]:
    """key=value words. Raises ValueError for any other."""
    asked = dict(DEFAULTS)
    for word in arguments:
        key, equals, value = word.partition("=")
        if not equals or key not in DEFAULTS:
            raise ValueError(
                f"{word} is not a setting; the settings are {', '.join(name + '=' for name in DEFAULTS)}."
            )
        asked[key] = value
    for key, wanted in (("rounds", int), ("drift", float)):
        try:
            wanted(asked[key])
        except ValueError:
            raise ValueError(f"{key}={asked[key]} is not a number; type {key}={DEFAULTS[key]}.") from None
    if int(asked["rounds"]) < 1:
        raise ValueError(f"rounds={asked['rounds']} measures nothing; type rounds=5.")
    if asked["lengths"] not in ("mixed", "librispeech", "common-voice", "timit"):
        raise ValueError(f"lengths={asked['lengths']} is none of mixed, librispeech, common-voice, timit.")
    return asked


def chosen(asked: dict[str, str]) -> list[Row]:
    """The rows asked for. Raises ValueError for a name that is none."""
    if asked["rows"]:
        known = {row.name: row for row in [*ROWS, *QUICK]}
        names = asked["rows"].split(",")
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"rows={unknown[0]} is not a row; there are {', '.join(known)}.")
        return [known[name] for name in names]
    if asked["quick"] == "true":
        return QUICK
    device = asked["device"]
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return rows_of(device)


def bench(rows: list[Row], asked: dict[str, str], arguments: Sequence[str], scratch: Path) -> int:
    """Gates, then rows, one at a time; the page is written again after each, so that what is measured is
    kept.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from benchmarks import gates, measure, probe, report

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    quick = asked["quick"] == "true"
    speech = Path(asked["speech"]).expanduser() if asked["speech"] else None
    shared = measure.Bench(
        scratch, 1 if quick else int(asked["rounds"]), float(asked["drift"]), asked["lengths"], speech, say
    )
    out = Path(asked["out"]) if asked["out"] else None if quick else Path(__file__).parent
    device = rows[0].device
    made: dict[str, Any] = {
        "machine": probe.machine(device),
        "versions": probe.versions(),
        "lengths": asked["lengths"],
        "speech": "recordings" if speech else "the demo's synthetic speech",
        "gates": {},
        "rows": [],
    }
    if asked["keep"] == "true" and out:
        made = report.kept(out, made, rows)
    for name in gates.gates_of(rows):
        made["gates"][name] = gates.check(name, shared, device)
        say(
            f"{name}: {'passed' if made['gates'][name]['passed'] else 'FAILED'}:"
            f" {made['gates'][name]['says']}"
        )
    for row in rows:
        found = report.row_report(row, measure.measure(row, shared), made["gates"], shared)
        made["rows"].append({**found, "command": report.command(arguments), "date": report.today()})
        if out:
            out.mkdir(parents=True, exist_ok=True)
            report.write(out, made)
    print(report.page(made))
    return int(any(row["void"] for row in made["rows"] if row["row"] in {one.name for one in rows}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
