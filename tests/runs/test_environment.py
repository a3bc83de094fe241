"""The record of the machine."""

import platform

from asr_exp.runs import environment as machine


def test_a_processor_is_called_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    assert machine.processor() == (platform.processor() or platform.machine())
    each = (
        "processor\t: {}\nvendor_id\t: Maker\nmodel name\t: Maker Nine 16-Core: 3.0 GHz\nflags\t\t: avx2\n\n"
    )
    machine.CPUINFO.write_text(each.format(0) + each.format(1))
    assert machine.processor() == "Maker Nine 16-Core: 3.0 GHz"
    machine.CPUINFO.write_text("processor\t: 0\nBogoMIPS\t: 48.00\n")  # some ARM kernels name no model
    assert machine.processor() == (platform.processor() or platform.machine())
