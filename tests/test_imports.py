import subprocess
import sys

import pytest

import igb

USES = {
    "nothing": "pass",
    "all": "from scipy.signal import convolve; import scipy.signal.windows",
}


@pytest.mark.parametrize("use", USES)
def test_a_module_that_comes_late_is_whole_when_it_is_used(use):
    code = f"""
import gc, sys
from igb._imports import quick_imports
with quick_imports():
    import scipy.signal
    assert hasattr(scipy.signal, "hamming")
    assert not gc.isenabled() and "scipy.signal._signaltools" not in sys.modules
    {USES[use]}
assert gc.isenabled() and gc.get_freeze_count() > 1000
assert ("scipy.signal" in sys.modules) == {use != "nothing"}
import scipy.signal
assert scipy.signal.convolve([1, 2], [3]).tolist() == [3, 6]
sys.modules["torch"] = sys  # as in the jobs of a sweep after the first
frozen = gc.get_freeze_count()
with quick_imports():
    assert gc.isenabled()
assert gc.get_freeze_count() == frozen
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stderr
    assert said == f"igb {igb.__version__}: loading torch\n"  # once, and before anything else


@pytest.mark.slow
def test_building_a_run_imports_neither_the_theory_nor_the_report():
    code = """
import sys
from igb import experiment
experiment.build(experiment.compose("data=digits", "model=mlp"))
assert not [name for name in sys.modules if name.startswith(("igb.theory", "igb.report"))]
"""
    subprocess.run([sys.executable, "-c", code], check=True)
