"""Runs that are killed with SIGKILL and started again end equal to an undisturbed one; see tests/faults.py."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("count", [2, pytest.param(50, marks=pytest.mark.faults)])
def test_killed_runs_go_on_to_the_same_end(tmp_path, count):
    command = [sys.executable, "-m", "tests.helpers.faults", str(tmp_path), str(count)]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="")
            lines.append(line)
    assert process.returncode == 0
    assert lines[-1].endswith(f"kills in {count} runs; {count} ended equal to the undisturbed run\n")
