import re

import pytest
import torch

from benchmarks import bench, precision
from igb import models
from igb._settings import restored_settings
from igb.compute import mode
from tests.conftest import needs_bfloat16

QUICK = ["model=resnet18", "data=digits", "--images", "320", "100", "--repeats", "1", "--steps", "2"]


@pytest.mark.parametrize("side", ["exact", pytest.param("fast", marks=needs_bfloat16)])
def test_the_benchmark_fails_if_the_sides_disagree(tmp_path, monkeypatch, side):
    original = mode.fold

    def wrong(network, dtype, images):
        twin = original(network, dtype, images)
        if dtype == mode.PRECISIONS["float32" if side == "exact" else "bfloat16"]:
            twin.fc = torch.nn.Linear(512, 10)
        return twin

    monkeypatch.setattr(mode, "fold", wrong)
    with pytest.raises(SystemExit, match=f"bench: {side} and the baseline differ by .* in p̄"):
        bench.main([*QUICK, "--output", str(tmp_path / "bench.json")])
    assert (tmp_path / "bench.json").read_text() == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "must be at least 1"),
        (["--output", "no/such/bench.json"], "bench: .*No such file or directory: 'no/such/bench.json'"),
        (["probe.images=500"], "bench: probe.images would change one side alone; what changes both is data, model, "),
        (["data.batch_sise=3"], "bench: Could not override 'data.batch_sise'"),
        (["data.batch_size=0"], "bench: data.batch_size=0 must be a whole number of at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line_at_once(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        bench.run([*QUICK, "--output", str(tmp_path / "bench.json"), *arguments])
    assert end.value.code != 0
    assert re.search(message, f"{end.value.code} {capsys.readouterr().err}")


@needs_bfloat16
def test_the_table_of_precision_has_a_row_for_each_network(monkeypatch, capsys):
    monkeypatch.setattr(models, "resnet50", models.resnet18)
    for name, value in {"SEEDS": range(2), "INITIALISERS": ("he",), "STEPS": 1}.items():
        monkeypatch.setattr(precision, name, value)
    precision.main(["probe.images=20", "compute.threads=1"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert [row[:3] for row in rows[2:]] == [["he", seed, steps] for seed in "01" for steps in "01"]
    assert all(0 <= float(cell) <= 1 for row in rows[2:] for cell in row[3:])


def test_there_is_no_table_of_precision_without_bfloat16(monkeypatch):
    monkeypatch.setattr(mode, "has_bfloat16", lambda device: False)
    with pytest.raises(SystemExit, match="precision: there is nothing to compare where fast is exact"):
        precision.main(["compute.threads=1"])


def test_blocks_of_steps_through_igb_alternate_with_bare_ones(tmp_path):
    measured = bench.Bench([*QUICK[:2], "compute.threads=1"], 64, 20)
    measured.measure_overhead(2, tmp_path)
    assert {name: len(seconds) for name, seconds in measured.times.seconds.items()} == {
        f"{mode} {side}": 2 for mode in measured.modes for side in ("igb", "bare")
    }
    assert all(seconds > 0 for each in measured.times.seconds.values() for seconds in each)


def test_fast_is_not_measured_where_it_is_exact(monkeypatch):
    monkeypatch.setattr(bench, "has_bfloat16", lambda device: False)
    assert bench.Bench(QUICK[:2], 64, 20).modes == ("exact",)


def test_threads_are_given_to_every_side():
    with restored_settings():
        measured = bench.Bench([*QUICK[:2], "compute.threads=3"], 64, 20)
        for side in ("eager", "exact"):
            with measured.settings(side):
                assert torch.get_num_threads() == 3


def test_eager_passes_are_timed_without_gradients():
    layer = torch.nn.Linear(2, 2)
    seen = []
    layer.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    bench.in_parts(layer, torch.zeros(3, 2), 2)
    assert seen == [False, False]


def test_what_intervals_cover_is_counted_once():
    assert bench.covered([(5, 7), (0, 2), (1, 3), (1, 2), (7, 8)]) == 3 + 3
    assert bench.covered([]) == 0


def test_a_card_that_is_not_there_is_named(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SystemExit) as end:
        bench.run([*QUICK, "--device", "cuda"])
    assert end.value.code == 2
    assert "--device cuda: this machine has no CUDA card" in capsys.readouterr().err


def test_the_table_shows_values_spreads_and_ratios():
    rows = [
        {
            "name": "work, s",
            "values": {"eager": 4.0, "exact": 2.0, "fast": 1.0},
            "spreads": {"eager": 0.1, "exact": 0.02, "fast": 0.0},
            "ratios": {"eager": 1.0, "exact": 2.0, "fast": 4.0},
        },
        bench.derived("overhead, %", {"exact": 2.5, "fast": 3.5}),
        bench.derived("work without bfloat16, s", {"baseline": 6.0, "exact": 3.0}, 6.0),
    ]
    assert bench.table(rows).splitlines()[2:] == [
        "| work, s | 4 ± 10 % | 2 ± 2 %, **2 x** | 1 ± 0 %, **4 x** |",
        "| overhead, % |  | 2.5 | 3.5 |",
        "| work without bfloat16, s | 6 | 3, **2 x** |  |",
    ]


def test_times_are_medians_with_half_their_spread():
    times = bench.Times()
    for seconds in (1.0, 2.0, 4.0):
        times.add("work", seconds)
    assert (times.median("work"), times.spread("work")) == (2.0, 0.75)
