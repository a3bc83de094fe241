"""Whether all ranks see the run folder. Two hosts with folders of their own: test_two_hosts.py."""

import threading
import time

from asr_exp.runtime import shared_folder


def test_a_file_that_another_machine_sees_late(tmp_path):
    path = tmp_path / "a/b/probe"

    def write():
        time.sleep(0.5)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    writer = threading.Thread(target=write)
    writer.start()
    assert shared_folder._sees(path, 20)
    writer.join()


def test_what_was_made_while_looking_is_deleted_again(tmp_path):
    (tmp_path / "a").mkdir()
    assert not shared_folder._sees(tmp_path / "a/b/c/probe", 0.2)
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]
