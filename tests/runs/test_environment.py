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


def test_the_driver_is_that_of_the_kernel_module(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "version")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine._driver() is None
    for line in (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.07  Sat Feb 17 22:55:48 UTC 2024\n",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder)\n",
    ):
        machine.DRIVER.write_text(line + "GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n")
        assert machine._driver() in ("535.161.07", "570.86.15") and machine._driver() in line
    machine.DRIVER.unlink()
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 550.54.15\necho 550.54.15\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert machine._driver() == "550.54.15"
