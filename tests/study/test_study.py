"""The stages of the study: that they run, and that their files say what the runs did."""

import pandas as pd
import pytest

from igb import experiment
from igb._checks import InputError
from igb._paths import config_folder
from igb.report.runs import find_runs
from study.collect import STAGES, collect, column, keys
from tests.conftest import TINY, tiny_run
from tests.helpers.runs import ROWS, made_run

OWN = {
    "cutoffs": [*TINY, "loss=pz_smooth", "loss.cutoff=0.1,0.2"],
    "dial": ["data=digits", "init.target_dominance=0.3,0.5", "init.tolerance=1"],
    "noise_warmup": ["data=digits", "loss=pz", "noise.images=50", "trainer.max_steps=60"],
}  # stages of which each needs something else of the collector


def test_every_stage_is_a_sweep_and_every_sweep_a_stage():
    assert {file.stem for file in (config_folder() / "experiment" / "study").glob("*.yaml")} == {*STAGES, "common"}
    assert f"\nSTUDY := {' '.join(STAGES)}\n" in (config_folder().parent / "Makefile").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_a_valid_config(stage):
    parts = experiment.build(experiment.compose(f"experiment=study/{stage}", "data=digits"))
    assert parts.probe.images == 500
    assert {"seed"} < set(keys(stage))


@pytest.mark.slow
@pytest.mark.parametrize("stage", OWN)
def test_a_stage_runs_and_is_collected(stage, command, tmp_path):
    folder = f"hydra.sweep.dir={tmp_path}/sweeps/{stage}"
    short = ["trainer.max_steps=4", "probe.images=50", "seed=0,1"]
    status, output = command("--multirun", f"experiment=study/{stage}", folder, *short, *OWN[stage])
    assert status == 0, output
    collect(tmp_path / "sweeps", tmp_path / "files")
    table = pd.read_csv(tmp_path / "files" / f"{stage}.csv")
    assert len(table) == {"cutoffs": 8, "dial": 4, "noise_warmup": 2}[stage]  # runs, and for Tiny batch-norm modes
    assert set(map(column, keys(stage))) <= set(table)


@pytest.mark.slow
def test_classes_of_wrong_labels_have_a_row_an_epoch(tmp_path):
    options = ("noise=symmetric", "noise.images=100", "trainer.max_epochs=2", "probe=log", "probe.points=11")
    folder = tiny_run(tmp_path / "sweeps" / "noise" / "run", *options, "probe.images=100", "trainer.max_steps=null")
    collect(tmp_path / "sweeps", tmp_path / "files")
    table = pd.read_csv(tmp_path / "files" / "noise_classes.csv")
    assert table.groupby("epoch")["class"].apply(list).to_dict() == {epoch: list(range(10)) for epoch in range(3)}
    ((run,), _) = find_runs([folder])
    for name in ("guess_fraction", "accuracy", "memorised"):
        last = run.table(name, "running").iloc[-1].tolist()
        assert table[table["epoch"] == 2][name].tolist() == pytest.approx(last, rel=1e-4)


def test_a_row_is_what_the_probes_say(tmp_path):
    folder = tmp_path / "sweeps" / "losses" / "run"
    tiny_run(folder, "loss=pz", "trainer.max_steps=30", "optimizer.lr=0.1")
    collect(tmp_path / "sweeps", tmp_path / "files")
    (row,) = pd.read_csv(tmp_path / "files" / "losses.csv").to_dict("records")
    ((run,), _) = find_runs([folder])
    guesses, accuracy = run.table("guess_fraction", "running"), run.table("accuracy", "running")
    active, count = run.table("active_fraction", "running").loc[0], run.table("count", "running").loc[0]
    assert (row["seed"], row["steps"]) == (0, 30)
    assert str(row["favoured_class"]) == run.class_names[guesses.loc[0].idxmax()]
    assert row["dominance_start"] == pytest.approx(guesses.loc[0].max(), rel=1e-4)
    assert row["dominance_end"] == row["dominance_early"] == pytest.approx(guesses.loc[30].max(), rel=1e-4)
    assert row["mean_accuracy"] == row["accuracy_early"] == pytest.approx(accuracy.loc[30].mean(), rel=1e-4)
    assert row["active_start"] == pytest.approx((active * count).sum() / count.sum(), rel=1e-4)


def test_a_run_of_two_classes_has_left_its_guess_below_three_quarters(tmp_path):
    made_run(tmp_path / "sweeps" / "losses" / "run", [(0, 1.0, 0.0, 1.0), (4, 0.6, 0.5, 0.7), (8, 0.5, 0.6, 0.6)])
    collect(tmp_path / "sweeps", tmp_path / "files")
    assert pd.read_csv(tmp_path / "files" / "losses.csv")["escape_step"].tolist() == [4]


def test_a_folder_without_stages_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds none of the stages: losses, "):
        collect(tmp_path, tmp_path / "files")


def test_runs_are_put_in_the_place_of_the_same_and_beside_others(tmp_path):
    for seed in (0, 1):
        made_run(
            tmp_path / f"first/losses/{seed}", ROWS[0], overrides=[f"seed={seed}", "loss=pz"], seeds={"seed": seed}
        )
    for seed in (1, 2):
        made_run(tmp_path / f"more/losses/{seed}", ROWS[1], overrides=[f"seed={seed}", "loss=pz"], seeds={"seed": seed})
    for sweeps in ("first", "more", "more"):
        collect(tmp_path / sweeps, tmp_path / "files")
    table = pd.read_csv(tmp_path / "files" / "losses.csv")
    assert table["seed"].tolist() == [0, 1, 2]
    assert table["favoured_class"].tolist() == ["cat", "dog", "dog"]
