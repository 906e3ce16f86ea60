import subprocess
import sys

import pytest

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
    subprocess.run([sys.executable, "-c", code], check=True)
