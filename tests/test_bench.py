import pytest
import torch

from benchmarks import bench
from igb.compute import mode

pytestmark = pytest.mark.skipif(not mode.has_bfloat16(torch.device("cpu")), reason="this CPU has no bfloat16")
QUICK = ["model=resnet18", "data=digits", "--images", "320", "100", "--repeats", "1", "--steps", "2"]


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


def test_the_table_shows_values_spreads_and_ratios():
    rows = [
        {
            "name": "work, s",
            "values": {"eager": 4.0, "exact": 2.0, "fast": 1.0},
            "spreads": {"eager": 0.1, "exact": 0.02, "fast": 0.0},
            "ratios": {"eager": 1.0, "exact": 2.0, "fast": 4.0},
        },
        bench.derived("overhead, %", {"exact": 2.5, "fast": 3.5}),
    ]
    assert bench.table(rows).splitlines()[2:] == [
        "| work, s | 4 ± 10 % | 2 ± 2 %, **2 x** | 1 ± 0 %, **4 x** |",
        "| overhead, % |  | 2.5 | 3.5 |",
    ]


def test_times_are_medians_with_half_their_spread():
    times = bench.Times()
    for seconds in (1.0, 2.0, 4.0):
        times.add("work", seconds)
    assert (times.median("work"), times.spread("work")) == (2.0, 0.75)
