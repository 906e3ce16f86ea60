import pytest

from benchmarks import ablation
from igb import models
from igb.compute import mode
from tests.conftest import needs_bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("has_bfloat16", [False, pytest.param(True, marks=needs_bfloat16)])
def test_every_rung_is_timed_beside_the_first(monkeypatch, capsys, has_bfloat16):
    monkeypatch.setattr(models, "resnet50", models.resnet18)
    monkeypatch.setattr(mode, "has_bfloat16", lambda device: has_bfloat16)
    monkeypatch.setattr(ablation, "TURNS", 1)
    monkeypatch.setattr(ablation, "IMAGES", 33)
    ablation.main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    names = [row[0] for row in rows]
    assert names.count("eager float32") == 2
    assert ("bfloat16, products: fast" in names, "+ ReLU inside: fast" in names) == (has_bfloat16, has_bfloat16)
    assert {"+ accurate batch norm: exact", "+ shortcut inside: exact"} < set(names)
    assert all(float(time) > 0 and float(ratio) > 0 for name, time, ratio in rows if name[0] in "+b")
