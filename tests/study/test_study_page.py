"""The figures, tables and numbers of the study's pages, from made-up runs."""

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from igb._paths import config_folder
from reproduction import verdicts
from reproduction.common import rate, read
from study import data, dial, networks, noise, one_number, page, remedies, runs
from study.collect import STAGES, column

CLASSES = ("airplane", "bird", "truck")


def made(stage):
    """A file of a stage: every option that it sweeps, four seeds, and outcomes that follow from the weight."""
    params = dict(
        OmegaConf.select(
            OmegaConf.load(config_folder() / "experiment" / "study" / f"{stage}.yaml"), "hydra.sweeper.params"
        )
    )
    values = {
        column(key): range(4) if key == "seed" else [_typed(one) for one in str(text).split(",")]
        for key, text in params.items()
    }
    table = pd.MultiIndex.from_product(values.values(), names=values.keys()).to_frame(index=False)
    modes = ("running",) if stage.startswith("noise") else ("running", "batch")
    table = pd.concat([table.assign(batch_norm=mode) for mode in modes], ignore_index=True)
    draw = np.random.default_rng(0).uniform(0.1, 0.9, len(table))
    classes = np.resize(CLASSES, len(table))
    return table.assign(
        status="completed", steps=300, favoured_class=classes, dominant_class=np.roll(classes, 1),
        dominance_start=draw, dominance_early=draw, dominance_end=draw, favoured_early=draw, favoured_end=draw,
        weight_start=draw, active_start=draw, drift_ratio_start=draw, mean_accuracy=draw, accuracy_early=draw,
        escape_step=np.where(draw < 0.5, 100, np.nan), memorised=draw, recovered=draw, seconds=36.0,
    )  # fmt: skip


def _typed(text):
    return OmegaConf.create({"value": text}).value if not text.replace(".", "").isdigit() else float(text)


@pytest.fixture(scope="module")
def frames():
    found = {stage: made(stage) for stage in STAGES}
    seeds = pd.MultiIndex.from_product([runs.MODELS, range(4)], names=["network", "seed"]).to_frame(index=False)
    found["features"] = seeds.assign(common=100.0)
    for stage in ("noise", "noise_warmup"):
        of_runs = found[stage][["seed", "loss", "batch_norm"]]
        classes = of_runs.merge(pd.DataFrame({"epoch": range(4)}), how="cross")
        classes = classes.merge(pd.DataFrame({"class": range(3)}), how="cross")
        share = classes["class"] / 10 + classes["epoch"] / 100
        found[f"{stage}_classes"] = classes.assign(guess_fraction=share, accuracy=share, memorised=share)
    return found


@pytest.mark.slow
def test_every_marker_of_the_pages_has_a_table_or_a_number(frames):
    tables, numbers = page.parts(frames)
    for name in ("docs/study.md", "docs/study-tables.md", "docs/advice.md", "README.md"):
        page.fill((config_folder().parent / name).read_text(encoding="utf-8"), tables, numbers)


@pytest.mark.slow
def test_the_pages_are_those_of_the_csv_files():
    root = config_folder().parent
    for name in ("docs/study.md", "docs/study-tables.md", "docs/advice.md", "README.md"):
        assert page.filled(root / name, read(root / "docs" / "study")) == (root / name).read_text(encoding="utf-8"), (
            name
        )


@pytest.mark.slow
def test_a_hypothesis_without_runs_is_open(frames):
    few = {name: frame for name, frame in frames.items() if name != "rates"}
    tables, numbers = page.parts(few)
    assert "open" in tables["trapped"]
    assert "step_cnn" not in numbers
    rows = tables["verdicts"].splitlines()[2:]
    assert [page.OPEN in row for row in rows] == [verdict.module is page.networks for verdict in page.VERDICTS]
    text = page.fill("<!--=step_cnn--><!--/-->", tables, numbers)
    assert text == "<!--=step_cnn-->(open)<!--/-->"


@pytest.mark.slow
def test_figures_are_drawn(frames, tmp_path):
    page.draw(tmp_path, frames)
    assert {file.stem for file in tmp_path.iterdir()} == {
        module.__name__.rpartition(".")[2] for module in page.TABLES
    }  # fmt: skip


def test_verdicts_are_short_and_say_yes_no_or_how_far():
    for one in (*verdicts.VERDICTS, *page.VERDICTS):
        assert len(one.verdict.split()) <= 25
        assert len(one.short.split()) <= 12
        assert one.answer in ("Yes", "In part", "Seen once", "No")


def test_a_stage_of_too_few_seeds_leaves_its_hypothesis_open(frames, tmp_path):
    few = {"losses": frames["losses"].query("seed == 0")}
    tables, _ = page.parts(few)
    assert "open" in tables["prediction"]
    page.draw(tmp_path, few)
    assert list(tmp_path.iterdir()) == []


def test_rates_have_exact_intervals():
    assert rate([True] * 10) == "10 of 10 (69 to 100 %)"  # 1 - 0.025^(1/10) and above
    assert rate([False] * 5) == "0 of 5 (0 to 52 %)"


def test_runs_are_taken_by_batch_statistics_where_they_are_measured():
    table = pd.DataFrame({"seed": [0, 0, 1], "batch_norm": ["running", "batch", "running"], "steps": [1, 2, 3]})
    assert runs.by_batch(table)["steps"].tolist() == [2, 3]


def test_medians_of_escape_steps_know_of_runs_that_have_not_escaped():
    table = pd.DataFrame({"escape_step": [10.0, 20.0, np.nan], "steps": 300})
    assert runs.median_step(table) == "20"
    assert runs.median_step(table.iloc[1:]) == ">300"


@pytest.mark.slow
def test_the_weight_predicts_what_follows_from_it_and_the_name_cannot(frames):
    """Accuracy is the weight, which is another in each seed."""
    found = one_number.errors(frames)
    accuracy = found[found["measure"] == "mean_accuracy"]
    assert accuracy["weight"].mean() < accuracy["loss"].mean() / 2


def test_what_lies_below_other_losses_of_its_weight_is_found(frames):
    losses = frames["losses"]
    lower = losses.assign(mean_accuracy=losses["mean_accuracy"] - 0.05 * (losses["loss"] == "pz"))
    found = one_number.below({**frames, "losses": lower}).groupby("loss")["below"].mean()
    assert found["pz"] == pytest.approx(-0.05, abs=0.02)
    assert found["phuber"] == pytest.approx(0, abs=0.02)


def test_a_predictor_that_orders_trapped_runs_above_the_others_tells_them():
    rows = pd.DataFrame({"escape_step": [1.0, 2.0, np.nan, np.nan], "of": [1, 2, 3, 4], "no": [1, 4, 2, 3]})
    assert networks.told(rows, "of") == 1
    assert networks.told(rows, "no") == 0.5


def test_the_common_step_is_that_of_the_learning_rate(frames):
    rows = networks.runs(frames)
    assert (rows["common_step"] == 100 * rows["lr"]).all()
    assert len(rows[rows["network"] == "cnn"]) == 4 * (2 + 4)  # seeds, cutoffs and other rates


def test_chance_is_how_often_winner_and_favoured_class_meet_if_drawn_apart():
    rows = {
        "seed": range(4), "batch_norm": "running", "escape_step": np.nan,
        "favoured_class": ["cat", "cat", "dog", "dog"], "dominant_class": ["cat", "dog", "dog", "dog"],
    }  # fmt: skip
    table = pd.DataFrame(rows)
    none = table.iloc[:0].assign(model="", loss="", cutoff=0.1)
    found = dial.winners({"dial": table, "drift": none, "architectures": none, "cutoffs": none})
    assert found["chance"].tolist() == [0.5 * 0.25 + 0.5 * 0.75]
    assert found["won"].iloc[0].tolist() == [True, False, True, True]


def test_a_long_tail_is_split_by_whether_its_rarest_class_is_favoured(frames):
    lines = data.long_tail(frames).splitlines()[2:]
    counts = [int(line.split("|")[3]) for line in lines]
    assert sum(counts) == len(frames["long_tail"])
    rarest = frames["long_tail"].query("loss == 'ce' and favoured_class == 'truck'")
    assert counts[0] == len(rarest)


def test_classes_that_were_guessed_most_are_memorised_first(frames):
    assert noise.ranks(frames)["rank"].tolist() == pytest.approx([1.0] * len(noise.ranks(frames)))


def test_remedies_are_ranked_by_accuracy(frames):
    rows = [line.split("|") for line in remedies.ranked(frames).splitlines()[2:]]
    of_both = [sum(float(row[at].split()[0]) for at in (4, 7)) for row in rows if row[4].strip()]
    assert of_both == pytest.approx(sorted(of_both), abs=0.03)  # they are rounded
    assert {row[1].strip() for row in rows} >= {"nothing", "cutoff 0.1", "cutoff 0.05"}
    assert ["calibrated" in row[1] for row in rows if not row[4].strip()] == [True]  # without batch norm there is none
