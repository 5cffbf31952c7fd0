"""The core compiled for aarch64 and run under qemu."""

from __future__ import annotations

import shutil

import pytest
from native import arm_check, build


@pytest.fixture(scope="module")
def arm_program() -> str:
    if reason := arm_check.why_not():
        pytest.skip(reason)
    return str(build.program(arm_check.SOURCE, "aarch64"))


@pytest.mark.soak  # a minute under qemu; make arm-check does the same
def test_aarch64_makes_the_bytes_of_this_machine(arm_program):
    _, expected = arm_check.cases([str(build.program(arm_check.SOURCE, "host"))])
    cpu, found = arm_check.cases([*arm_check.QEMU, arm_program])
    assert len(expected) > 1500
    assert arm_check.differences(expected, found) == []
    assert cpu == "baseline, crc32c: armv8"


def test_a_case_with_other_bytes_or_in_one_place_alone_is_a_difference():
    expected = {"a": "00", "b": "01", "c": "02"}
    assert arm_check.differences(expected, {"a": "00", "b": "11", "d": "02"}) == ["b", "c", "d"]


def test_what_is_missing_is_named(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda command: None if command == "qemu-aarch64" else command)
    assert arm_check.main() == 2
    assert capsys.readouterr().err == (
        "make arm-check cannot run here: not installed (Debian's packages): qemu-user\n"
    )
