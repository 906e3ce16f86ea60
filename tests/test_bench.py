import json

import pytest
import torch

from benchmarks import bench
from igb.compute import mode

pytestmark = pytest.mark.skipif(not mode.has_bfloat16(torch.device("cpu")), reason="this CPU has no bfloat16")
QUICK = ["model=resnet18", "data=digits", "--images", "320", "40", "--repeats", "1", "--steps", "2"]


def test_the_benchmark_measures_every_side(tmp_path, capsys):
    bench.main([*QUICK, "--output", str(tmp_path / "bench.json")])
    output = capsys.readouterr().out
    results = json.loads((tmp_path / "bench.json").read_text())
    rows = {row["name"]: row["values"] for row in results["rows"]}
    assert rows["batch + full probe, s"].keys() == {"baseline", "exact", "fast"}
    assert rows["training step, ms"].keys() == rows["probe, images/s"].keys() == {"eager", "exact", "fast"}
    for name, values in rows.items():
        assert f"| {name} |" in output
        assert all(value > 0 for value in values.values()) or "overhead" in name
    assert 100e6 < rows["peak memory, MB"]["exact"] * 1e6 < 2e9
    assert "10 batches of 32 images, 40 images a probe" in results["workload"]


@pytest.mark.parametrize("side", ["exact", "fast"])
def test_the_benchmark_fails_if_the_sides_disagree(tmp_path, monkeypatch, side):
    original = mode.fold

    def wrong(network, dtype):
        twin = original(network, dtype)
        if dtype == mode.PRECISIONS["float32" if side == "exact" else "bfloat16"]:
            twin.fc = torch.nn.Linear(512, 10)
        return twin

    monkeypatch.setattr(mode, "fold", wrong)
    with pytest.raises(SystemExit, match=f"bench: {side} and the baseline differ by .* in p̄"):
        bench.main([*QUICK, "--output", str(tmp_path / "bench.json")])
    assert not (tmp_path / "bench.json").exists()


def test_times_are_medians_with_half_their_spread():
    times = bench.Times()
    for seconds in (1.0, 2.0, 4.0):
        times.add("work", seconds)
    assert (times.median("work"), times.spread("work")) == (2.0, 0.75)
