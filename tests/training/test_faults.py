"""Runs that are killed with SIGKILL and started again end equal to an undisturbed one; see tests/helpers/faults.py."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.slow), pytest.param(50, marks=pytest.mark.faults)])
def test_killed_runs_resume_to_the_same_end(tmp_path, count):
    command = [sys.executable, "-m", "tests.helpers.faults", str(tmp_path), str(count)]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="")
            lines.append(line)
    assert process.returncode == 0
    assert lines[-1].endswith(f"kills in {count} runs; {count} ended equal to the undisturbed run\n")
