"""What a person sees: counts in words, and a log file without the terminal's empty lines."""

import logging

import pytest

from asr_exp.core import console
from asr_exp.core.log import log, log_to_file, logging_to_terminal
from asr_exp.evaluation.evaluate import _spread


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 clips"), (1, "1 clip"), (2, "2 clips"), (1204, "1,204 clips")]
)
def test_one_is_no_plural(number, said):
    assert console.counted(number, "clip") == said


def test_the_log_file_has_no_empty_entries(tmp_path, capsys):
    with logging_to_terminal(True, 0):
        log_to_file(tmp_path / "train.log")
        console.page("Title", [("name", "100 %")])
        log.info("")
        logging.getLogger("asr_exp.data").warning("%d of %s", 3, "five")
    assert capsys.readouterr().out == "\nTitle\n  name         100 %\n\n3 of five\n"
    entries = [line.split(" ", 3)[2:] for line in (tmp_path / "train.log").read_text().splitlines()]
    assert entries == [["INFO", "Title"], ["INFO", "  name         100 %"], ["WARNING", "3 of five"]]


@pytest.mark.parametrize("total", [1, 2, 3, 5, 8, 100])
@pytest.mark.parametrize("wanted", [0, 1, 3, 8])
def test_as_many_examples_as_there_are(total, wanted):
    found = _spread(total, wanted)
    assert len(found) == min(total, wanted) and all(0 <= i < total for i in found)
