"""The stages of the study: that they run, and that their files say what the runs did."""

import numpy as np
import pandas as pd
import pytest

from igb._checks import InputError
from igb._paths import config_folder
from igb.report.runs import find_runs
from study.collect import STAGES, collect, column, keys
from tests.conftest import TINY, tiny_run

SHORT = ["trainer.max_steps=4", "probe.images=50", "seed=0,1"]
OWN = {
    "losses": [*TINY, "model=resnet18", "loss=ce,pz"],
    "cutoffs": [*TINY, "loss=pz_smooth", "loss.cutoff=0.1,0.2"],
    "architectures": [*TINY, "model=resnet18", "loss.cutoff=0.1,0.2"],
    "norms": ["data=digits", "model.norm=none,group", "loss.cutoff=0.1"],
    "adam": [*TINY, "loss=ce,pz"],
}


def test_every_stage_is_a_sweep_and_every_sweep_a_stage():
    assert {file.stem for file in (config_folder() / "experiment" / "study").glob("*.yaml")} == set(STAGES)
    assert f"\nSTUDY := {' '.join(STAGES)}\n" in (config_folder().parent / "Makefile").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_and_is_collected(stage, command, tmp_path):
    folder = f"hydra.sweep.dir={tmp_path}/sweeps/{stage}"
    status, output = command("--multirun", f"experiment=study/{stage}", folder, *SHORT, *OWN[stage])
    assert status == 0, output
    collect(tmp_path / "sweeps", tmp_path / "files")
    table = pd.read_csv(tmp_path / "files" / f"{stage}.csv")
    modes = 1 if stage == "norms" else 2
    assert len(table) == 2 * 2 * modes  # options, seeds and batch-norm modes
    assert set(map(column, keys(stage))) <= set(table)


def test_a_row_is_what_the_probes_say(tmp_path):
    folder = tmp_path / "sweeps" / "losses" / "run"
    tiny_run(folder, "loss=pz", "trainer.max_steps=30", "optimizer.lr=0.1")
    collect(tmp_path / "sweeps", tmp_path / "files")
    (row,) = pd.read_csv(tmp_path / "files" / "losses.csv").to_dict("records")
    ((run,), _) = find_runs([folder])
    guesses, accuracy = run.table("guess_fraction", "running"), run.table("accuracy", "running")
    assert (row["seed"], row["steps"]) == (0, 30)
    assert row["favoured"] == guesses.loc[0].idxmax()
    assert row["dominance_start"] == pytest.approx(guesses.loc[0].max(), rel=1e-4)
    assert row["dominance_end"] == pytest.approx(guesses.loc[30].max(), rel=1e-4)
    assert row["accuracy_early"] == row["accuracy_end"] == pytest.approx(accuracy.loc[30].mean(), rel=1e-4)
    before = guesses.max(axis=1).loc[: row["escape_step"] - 1] if row["escape_step"] > 0 else []
    assert np.isnan(row["escape_step"]) or len(before) == 0 or before.iloc[-1] >= 0.5
    weights, count = run.table("weight", "running").loc[0], run.table("count", "running").loc[0]
    assert row["weight_start"] == pytest.approx((weights * count).sum() / count.sum(), rel=1e-4)


def test_a_folder_without_stages_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds none of the stages: losses, "):
        collect(tmp_path, tmp_path / "files")


def test_files_of_more_finished_runs_are_not_lost_to_fewer(tmp_path):
    tiny_run(tmp_path / "sweeps" / "losses" / "run", "trainer.max_steps=2")
    collect(tmp_path / "sweeps", tmp_path / "files")
    file = tmp_path / "files" / "losses.csv"
    table = pd.read_csv(file)
    pd.concat([table, table]).to_csv(file, index=False)
    with pytest.raises(InputError, match=r"losses has fewer finished runs than .*losses\.csv: collect all of them"):
        collect(tmp_path / "sweeps", tmp_path / "files")
