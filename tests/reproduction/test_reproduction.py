import shutil

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch

import igb
from igb._checks import InputError
from igb._paths import config_folder
from igb.report.prediction import dominance_of
from igb.report.runs import find_runs
from reproduction import claims, common, figures, matrix, numbers, pages, tables, verdicts
from reproduction.collect import KEYS, STAGES, collect, of_classes, over_probes
from reproduction.features import alike, features
from tests.conftest import TINY, tiny_run

ROOT = config_folder().parent
FOLDER = ROOT / "docs" / "reproduction"
SHORT = ["trainer.max_steps=4", "probe.images=50", "seed=0"]
OF_THEORY = ["data=digits", "model.depth=2", "init.weight_variance=1.0,3.0", "optimizer.lr=0.01"]
OWN = {
    "epoch_one": ["loss=ce,pz", "optimizer.lr=0.001"],
    "exact": ["loss=pz"],
    "favoured_class": ["optimizer.lr=0.001"],
    "long_run": ["loss=ce,pz"],
    "remedy": ["loss.warmup_epochs=1,2"],
    "small_rate": ["seed=0,1"],
    "uniform_start": ["optimizer.lr=0.001"],
    "initialisation": ["data.scaling=standard,raw"],
    "favoured_conv1": ["optimizer.lr=0.01", "optimizer.momentum=0.0", "seed=0,1"],
    "piecewise_zero": ["optimizer.lr=0.001"],
    "open_choices": ["loss=ce,pz", "optimizer.lr=0.001", "optimizer.momentum=0.0,0.9"],
}


@pytest.fixture(scope="module")
def pz(tmp_path_factory):
    """A run under PZ, whose matrices say independently what its tables should."""
    folder = tiny_run(tmp_path_factory.mktemp("pz") / "run", "loss=pz", "trainer.max_steps=30", "optimizer.lr=0.1")
    ((run,), _) = find_runs([folder])
    return run


def test_images_are_alike_where_features_have_one_direction():
    class Network(torch.nn.Module):
        def __init__(self, common):
            super().__init__()
            self.common, self.fc = common, torch.nn.Linear(64, 10)

        def forward(self, images):
            return self.fc(images.flatten(1) + self.common)

    images = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 10
    apart, together = (alike(Network(common), images, labels, "running") for common in (0.0, 5.0))
    assert abs(apart["cosine"]) < 0.01
    assert together["cosine"] == pytest.approx(25 / 26, abs=0.01)  # the common part's share of the squared norm
    assert together["class_spread"] > together["image_spread"]


def test_losses_push_where_their_equations_say():
    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Identity()

        def forward(self, logits):
            return self.fc(logits)

    # Three images of classes 0, 1, 1; p_y is 0.6, 0.3 and 0.05 of ten classes, class 0 having 0.6 throughout.
    p = torch.full((3, 10), 0.0125)
    p[:, 0], p[1, 1], p[2, 1] = 0.6, 0.3, 0.05
    found = alike(Logits(), p.log(), torch.tensor([0, 1, 1]), "running")
    assert found["favoured"] == 0
    assert found["pz_active"] == pytest.approx(2 / 3)
    assert found["bl_wrong_way"] == pytest.approx(1 / 3)  # p_y < e^(-1/0.7) = 0.24
    assert found["pz_pushed"] == 1  # 1 - 0.3 less the little of the first image, over 1 - 0.6 less 0.6


def test_every_stage_is_a_sweep_and_every_sweep_a_stage():
    files = (ROOT / "conf" / "experiment" / "reproduction").glob("*.yaml")
    assert {file.stem for file in files} == set(STAGES)
    listed = [stage for stage in STAGES if stage not in claims.STAGES]
    makefile = (ROOT / "Makefile").read_text()
    assert f"\nSTAGES := {' '.join(listed)}\n" in makefile
    assert all(f"experiment=reproduction/{stage} " in makefile for stage in claims.STAGES)


def test_rows_of_probes_are_views_of_the_matrices(pz):
    table = over_probes(pz, "running").set_index("step")
    saved = igb.load_matrices(pz.folder)
    favoured = int(np.argmax(saved.prediction[0].mean(axis=0)))
    assert set(table["favoured"]) == {favoured}
    for step, probability, prediction in zip(saved.step, saved.probability[:], saved.prediction[:], strict=True):
        row = table.loc[step]
        count = pz.table("count", "running").loc[step].to_numpy()
        guesses = (prediction * count[:, None]).sum(axis=0).round(3) / count.sum()  # thirds at most, in float32
        p, accuracy = np.diag(probability), np.diag(prediction)
        others = np.arange(len(p)) != favoured
        assert row["largest_p"] == pytest.approx(p.max())
        assert row["favoured_p"] == pytest.approx(p[favoured])
        assert row["others_p"] == pytest.approx(p[others].max())
        assert row["dominance"] == pytest.approx(guesses.max())
        assert row["dominant"] == guesses.argmax()
        assert row["guessed"] == (guesses >= 0.05).sum()
        assert row["accuracy_spread"] == pytest.approx(abs(accuracy - 0.1).mean())
        assert row["p_spread"] == pytest.approx(abs(p - 0.1).mean())
        assert row["mean_p"] == pytest.approx(p.mean())
        assert row["accuracy"] == pytest.approx(accuracy.mean())
        assert row["favoured_accuracy"] == pytest.approx(accuracy[favoured])
        for name, quantity in {"mean_loss": "loss", "active": "active_fraction"}.items():
            each = pz.table(quantity, "running").loc[step].to_numpy()
            assert row[name] == pytest.approx((each * count).sum() / count.sum())
        norms = pz.table("gradient_norm", "running").loc[step].to_numpy() * count
        assert row["gradient"] == pytest.approx(norms.sum() / count.sum())
        assert row["favoured_share"] == pytest.approx(norms[favoured] / norms.sum())
        assert row["dominant_share"] == pytest.approx(norms[guesses.argmax()] / norms.sum())


def test_rows_of_a_diverged_run_are_empty_where_it_is_not_finite(tmp_path):
    folder = tiny_run(tmp_path / "run", "trainer.max_steps=2")
    ((run,), _) = find_runs([folder])
    run.metrics.loc[run.metrics["step"] == 2, ["probability", "accuracy", "guess_fraction"]] = np.nan
    table = over_probes(run, "running")
    assert table.iloc[0].notna().all()
    assert list(table.columns[table.iloc[-1].notna()]) == ["step", "epoch", "favoured"]


def test_rows_of_classes_have_the_favoured_class_first(pz):
    table = of_classes(pz, "running")
    first = table[table["rank"] == 1]
    assert first["class"].nunique() == 1
    merged = first.merge(over_probes(pz, "running"), on="step")
    assert (merged["class"] == merged["favoured"]).all()
    assert merged["probability"].to_numpy() == pytest.approx(merged["favoured_p"].to_numpy())
    saved, count = igb.load_matrices(pz.folder), pz.table("count", "running").loc[0].to_numpy()
    guesses, p = count @ saved.prediction[0], count @ saved.probability[0]
    by_rank = table[table["step"] == 0].sort_values("rank")
    assert list(by_rank["class"]) == list(np.lexsort((-p, -guesses)))
    assert (table.groupby("class")["rank"].nunique() == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_and_is_collected_and_drawn(stage, command, tmp_path):
    folder = f"hydra.sweep.dir={tmp_path}/sweeps/{stage}"
    own = OF_THEORY if stage in claims.STAGES else [*TINY, "init=he", *OWN.get(stage, [])]
    status, output = command("--multirun", f"experiment=reproduction/{stage}", folder, *SHORT, *own)
    assert status == 0, output
    collect(tmp_path / "sweeps", tmp_path / "page")
    table = pd.read_csv(tmp_path / "page" / f"{stage}.csv")
    runs = common.where(pd.read_csv(tmp_path / "page" / "runs.csv"), stage=stage)
    finished = (runs["status"] == "completed").sum()
    assert set(runs["status"][finished:]) <= {"not begun"}
    assert finished == len(table.groupby([name for name in KEYS.values() if name in table]))
    wanted = [name for name, (needs, _) in pages.TABLES.items() if needs == (stage,)]
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- table: {name} -->\n<!-- end -->\n" for name in [*wanted, "stages"]))
    figures.draw(tmp_path / "page")
    assert next(pages.filled([page], tmp_path / "page")).count("\n| --- |") == len(wanted) + 1
    for name, (needs, _) in figures.FIGURES.items():
        assert (tmp_path / "page" / f"{name}.png").exists() == (set(needs) <= {stage, f"{stage}_classes"})


def rows_of(runs):
    """A table of probes, of the steps 0 and the last, from what runs do not have in common."""
    common = {"loss": "pz", "init": "he", "scaling": "standard", "lr": 0.01, "momentum": 0.9, "warmup_epochs": 0,
              "compute": "fast", "seed": 0, "favoured": 3.0, "dominance": 1.0, "guessed": 1.0, "accuracy": 0.1,
              "favoured_accuracy": 1.0, "favoured_p": 1.0, "others_p": 0.0, "active": 0.1, "favoured_share": 1.0,
              "dominant_share": 1.0, "mean_p": 0.1, "gradient": 0.2}  # fmt: skip
    return pd.DataFrame([common | run for run in runs])


def decided(frames):
    """The numbers of the verdicts that these frames suffice for, by the letters of their claims."""
    decided, numbers = (
        [line.strip("| ").split(" | ") for line in table(frames).splitlines()[2:]]
        for table in (verdicts.verdicts, verdicts.deciding)
    )
    for (claim, verdict, *_), (letter, number) in zip(decided, numbers, strict=True):
        assert claim.startswith(letter)
        assert (verdict == common.OPEN) == (number == common.OPEN)
    return {letter[2]: number for letter, number in numbers if number != common.OPEN}


def of_pz(lr, momentum, *leading, **other):
    """Runs of a cell under PZ: for each seed, the class that leads at the probes 0, 100, 200, ..."""
    return rows_of(
        {"lr": lr, "momentum": momentum, "seed": seed, "batch_norm": mode, "step": 100 * i, "dominant": dominant,
         "favoured": 3.0 if mode == "running" else 7.0, "favoured_p": 0.9 if dominant == 3 else 0.05, "others_p": 0.5,
         "dominance": 1.0 if dominant == 7 else 0.5, "gradient": 1.0 if i < 2 else 0.25, "active": 0.1 * (i + 1),
         "favoured_share": 0.2 if i < 2 else 0.6, "dominant_share": 0.5} | other
        for seed, classes in enumerate(leading) for i, dominant in enumerate(classes) for mode in ("running", "batch")
    )  # fmt: skip


def of_cells(*leading):
    """The files that the verdicts on PZ need, the last cell with these leading classes, the others with one seed."""
    one = (3.0, 5.0)
    return {
        "small_rate": of_pz(0.001, 0.0, one),
        "favoured_class": pd.concat([of_pz(0.001, 0.9, one), of_pz(0.01, 0.9, one)]),
        "favoured_conv1": pd.concat(
            [of_pz(0.01, 0.0, *leading, init="replaced_conv1"), of_pz(0.001, 0.0, (5.0,), init="replaced_conv1")]
        ),
    }


def test_leading_classes_are_counted_over_the_last_six_probes():
    frames = of_cells((3.0, 5.0, 7.0, 7.0, 7.0, 3.0, 3.0), (3.0,) * 7)
    lines = [line.split(" | ") for line in tables.piecewise_zero(frames).splitlines()]
    assert lines[0][1:] == ["he, 0.001, 0, 100", "he, 0.001, 0.9, 100", "he, 0.01, 0.9, 100",
                            "replaced_conv1, 0.01, 0, 600 |"]  # fmt: skip
    assert [line[-1] for line in lines[2:]] == [
        "0.5 of 2 |", "1.3 of 2 |", "0.5 of 2 |", "1.3 of 2 |", "1.3 of 2 |", "1.0 (1.0 to 1.0) |"
    ]  # fmt: skip
    numbers = decided(frames)
    assert numbers["E"] == (
        "seeds whose favoured class has the highest p̄ at every probe, in the settings of section E: 0, 0, 0 and 1 of 2"
        "; at each of the last 6 probes: 0, 0, 0 and 1"
    )
    assert numbers["F"].endswith("in the settings of section E: 0.5, 0.5, 0.5 and 1.3 of 2; by chance 0.2")


def test_a_class_drives_what_it_has_of_the_gradients_of_all_batches():
    frames = of_cells((3.0, 3.0, 3.0))  # norms 1, 1, 0.25 at 0, 100, 200; shares 0.2, 0.2, 0.6
    part = (20 + 50 * (0.2 + 0.15)) / (100 + 50 * 1.25)
    runs = frames["favoured_conv1"]
    share = tables.share_over_training(common.where(runs, batch_norm="batch", lr=0.01), "favoured_share")
    assert share[0] == pytest.approx(part)
    lines = [line.split(" | ")[-1] for line in tables.driving(frames).splitlines()[2:]]
    assert lines[:2] == [f"{part:.2g} ({part:.2g} to {part:.2g}) |", "0.5 (0.5 to 0.5) |"]
    assert lines[2:] == ["0.1 (0.1 to 0.1) |", "0.3 (0.3 to 0.3) |", "0.25 (0.25 to 0.25) |"]
    assert decided(frames)["H"].endswith(f"medians 0.20, 0.20, 0.20 and {part:.2f}, at most {part:.2f}")
    runs.loc[runs["step"] == 200, ["gradient", "favoured_share"]] = [0.0, np.nan]  # no gradient, no shares
    share = tables.share_over_training(common.where(runs, batch_norm="batch", lr=0.01), "favoured_share")
    assert share[0] == pytest.approx(0.2)


def test_cells_without_runs_are_left_out():
    frames = of_cells((3.0, 5.0))
    frames["small_rate"] = frames["small_rate"].iloc[:0]
    assert next(iter(tables.pz_cells(frames))).startswith("he, 0.001, 0.9")
    with pytest.raises(InputError, match="no run of small_rate, favoured_class, favoured_conv1 has a rate"):
        tables.pz_cells({name: table.iloc[:0] for name, table in frames.items()})


def test_verdicts_on_the_start_count_networks_and_measure_what_moves():
    start = [
        {"init": init, "scaling": scaling, "seed": seed, "batch_norm": mode,
         "largest_p": p if mode == "running" else 0.2}
        for init, scaling, ps in (("he", "standard", (1.0, 0.8)), ("torchvision", "raw", (0.95, 0.91)),
                                  ("replaced_conv1", "raw", (0.1, 0.2)))
        for seed, p in enumerate(ps) for mode in ("running", "batch")
    ]  # fmt: skip
    batches = [
        {"loss": "ce", "lr": lr, "batch_norm": "running", "step": step, "p_spread": p, "accuracy_spread": 2 * p}
        for lr, ps in ((0.0, (0.2, 0.1)), (0.001, (0.2, 0.05)))
        for step, p in zip((0, 10), ps, strict=True)
    ]
    others = rows_of(row | {"init": "replaced_conv1", "p_spread": 0.01} for row in batches)
    verdicts = decided({"initialisation": rows_of(start), "first_batches": rows_of(batches), "replaced_conv1": others})
    assert verdicts == {
        "A": "networks with a p̄_k above 0.9: `he` 1 of 2, `torchvision` and `replaced_conv1` on raw pixels 2 of 2 and "
        "0 of 2; with batch statistics 0 of 6",
        "B": "mean distance of p̄_k (Acc_k) from 0.1 after 0 and 10 batches: he, standard 0.20 (0.40) and 0.05 (0.10); "
        "replaced_conv1, standard 0.01 (0.40) and 0.01 (0.10)",
    }


def test_untrained_networks_are_tabulated_by_mode():
    def cell(init, scaling, *largest):
        return [
            {"init": init, "scaling": scaling, "seed": seed, "batch_norm": mode, "largest_p": p if running else p / 4,
             "dominance": 1.0 if running else 0.3}
            for seed, p in enumerate(largest) for mode, running in (("running", True), ("batch", False))
        ]  # fmt: skip

    runs = [*cell("he", "standard", 0.8, 0.92, 1.0), *cell("he", "unit", 0.1), *cell("torch_default", "raw", 0.4)]
    assert tables.initialisation({"initialisation": rows_of(runs)}).splitlines()[2:] == [
        "| `he` | standard | 0.92 (0.80 to 1.00) | 2 of 3 | 1.00 (1.00 to 1.00) | 0.23 (0.20 to 0.25) "
        "| 0.30 (0.30 to 0.30) |",
        "| `torch_default` | raw | 0.40 (0.40 to 0.40) | 0 of 1 | 1.00 (1.00 to 1.00) | 0.10 (0.10 to 0.10) "
        "| 0.30 (0.30 to 0.30) |",
    ]


def test_intervals_over_seeds_are_students():
    batches = [
        {"loss": "ce", "lr": lr, "seed": seed, "batch_norm": mode, "step": 5, "p_spread": p, "accuracy_spread": 0.2}
        for lr in (0.0, 0.001) for seed, p in enumerate((0.1, 0.2, 0.6)) for mode in ("running", "batch")
    ]  # fmt: skip
    one = rows_of([batches[0] | {"init": "replaced_conv1"}])
    lines = tables.first_batches({"first_batches": rows_of(batches), "replaced_conv1": one})
    rows = [line.strip("| ").split(" | ") for line in lines.splitlines()[2:]]
    # 0.3 and t(0.975, 2) sd / sqrt(3) = 4.3027 * 0.26458 / 1.73205
    assert rows[0] == ["he, standard", "0", "running", "p̄_k", "-", "0.30 ± 0.66", "-", "-", "-"]
    assert [row[:4] for row in rows[:6]] == [
        ["he, standard", lr, mode, quantity]
        for lr, mode in (("0", "running"), ("0.001", "batch"), ("0.001", "running"))
        for quantity in ("p̄_k", "Acc_k")
    ]
    assert rows[6][5] == "0.10"  # one seed has no interval


def test_features_are_means_over_the_seeds():
    networks = [
        {"init": init, "seed": seed, "batch_norm": mode, "cosine": 0.9 - seed / 10, "class_spread": 3.0,
         "image_spread": 1.0 if mode == "running" else 2.0, "bl_active": 0.5, "bl_wrong_way": 0.8, "pz_active": 0.25}
        for init in tables.INITS for seed in (0, 1) for mode in ("running", "batch")
    ]  # fmt: skip
    lines = tables.features({"features": pd.DataFrame(networks)}).splitlines()[2:]
    assert lines[:2] == [
        f"| `he` | running statistics | 0.85 | 3 | 1 | 9 | {dominance_of(9.0, 10):.3g} | 0.4 | 0.25 |",
        f"| `he` | batch statistics | 0.85 | 3 | 2 | 2.25 | {dominance_of(2.25, 10):.3g} | 0.4 | 0.25 |",
    ]


def test_the_favoured_class_is_compared_between_chunks_of_images():
    large = [{"seed": seed, "batch_norm": "batch", "largest_p": 0.3} for seed in range(4)]
    small = [
        {"seed": seed, "batch_norm": "batch", "favoured": 3.0 - (seed == 1), "largest_p": 0.2} for seed in range(3)
    ]
    frames = {"initialisation": rows_of(large), "training_batches": rows_of(small)}
    assert tables.training_batches(frames).splitlines()[2:] == [
        "| 500 images | 0.30 (0.30 to 0.30) | 1.00 (1.00 to 1.00) |  |",
        "| 32 images | 0.20 (0.20 to 0.20) | 1.00 (1.00 to 1.00) | 2 of 3 |",
    ]


def test_float32_is_compared_in_its_cell_alone():
    def run(compute, dominant, **other):
        both = [{"compute": compute, "batch_norm": mode, "step": 300, "dominant": dominant} | other
                for mode in ("running", "batch")]  # fmt: skip
        return rows_of(both)

    frames = {
        "exact": pd.concat([run("exact", 1.0), run("exact", 2.0, loss="ce")]),
        "open_choices": pd.concat([run("fast", 3.0, loss="ce"), run("fast", 4.0, loss="ce", lr=0.1)]),
        "piecewise_zero": pd.concat([run("fast", 5.0), run("fast", 6.0, init="replaced_conv1")]),
    }
    assert [line.split(" | ")[:5] for line in tables.exact(frames).splitlines()[2:]] == [
        ["| `ce`", "`exact`", "3", "never", "2 (1.00)"],
        ["| `ce`", "`fast`", "3", "never", "3 (1.00)"],
        ["| `pz`", "`exact`", "3", "never", "1 (1.00)"],
        ["| `pz`", "`fast`", "3", "never", "5 (1.00)"],
    ]


def test_a_run_escapes_when_the_last_majority_is_over():
    dominance = {0: 1.0, 100: 0.4, 200: 0.6, 300: 0.3}
    runs = rows_of(
        {"seed": seed, "batch_norm": "running", "step": step, "dominant": 2.0, "accuracy": step / 1000,
         "dominance": share if seed else 1.0}
        for seed in (0, 1) for step, share in dominance.items()
    )  # fmt: skip
    head, _, stuck, escaped = (line.split(" | ") for line in tables.uniform_start({"uniform_start": runs}).splitlines())
    assert dict(zip(head, stuck, strict=True))["escape step"] == "never"
    end = dict(zip(head, escaped, strict=True))
    assert (end["rate"], end["seed"]) == ("0.01", "1")
    assert (end["escape step"], end["most guessed (dominance)"], end["accuracy"]) == ("300", "2 (0.30)", "0.30")


def classes_of(runs, steps=(0, 1, 100)):
    """A table of two classes, from what runs do not have in common; class 1 is favoured, p̄_k is k + seed / 10 + lr."""
    rows = [
        {"loss": "pz", "seed": 0, "lr": 0.01, "step": step, "epoch": step / 100, "class": k, "rank": 2 - k,
         "accuracy": 0.2} | run
        for run in runs for step in steps for k in (0, 1)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(probability=table["class"] + table["seed"] / 10 + table["lr"])


def test_a_panel_shows_the_classes_of_what_its_title_says():
    frames = {
        "small_rate_classes": classes_of([{"seed": seed} for seed in range(3)]),
        "epoch_one_classes": classes_of(
            {"loss": loss, "lr": lr, "seed": seed} for loss in ("pz", "ce") for lr in (0.1, 0.2) for seed in (4, 8)
        ),
    }
    seeds = figures.small_rate(frames).axes
    assert [axes.get_title() for axes in seeds] == ["seed 0", "seed 1", "seed 2", ""]
    assert [[line.get_ydata()[-1] for line in axes.lines[:2]] for axes in seeds[:3]] == [
        pytest.approx([0.01 + seed / 10, 1.01 + seed / 10]) for seed in range(3)
    ]
    assert [line.get_linewidth() for line in seeds[0].lines[:2]] == [1.1, 2.2]
    cells = figures.epoch_one(frames).axes
    titles = [rf"${{}}$, rate {lr}" for lr in (0.1, 0.2)]
    p, accuracy = r"\bar{p}_k", r"\mathrm{Acc}_k"
    assert [axes.get_title() for axes in cells[:4]] == [
        title.format(quantity) for title in titles for quantity in (p, accuracy)
    ]
    assert [axes.get_ylabel() for axes in cells[::4]] == ["ce", "pz"]
    assert [axes.lines[0].get_ydata()[-1] for axes in cells] == pytest.approx([0.5, 0.2, 0.6, 0.2] * 2)


def test_a_square_of_the_map_is_the_end_of_its_run():
    cells = [("ce", 0.01, 0.9, 0.2), ("ce", 0.02, 0.0, 0.3), ("pz", 0.01, 0.9, 0.7), ("pz", 0.02, 0.0, 0.4)]
    runs = rows_of(
        {"loss": loss, "lr": lr, "momentum": momentum, "batch_norm": mode, "step": step, "dominant": 2.0,
         "accuracy": dominance / 2 if mode == "running" else 0.9, "guessed": 5.0, "dominance": dominance if step else 1}
        for loss, lr, momentum, dominance in cells for step in (0, 300) for mode in ("running", "batch")
    )  # fmt: skip
    frames = {"open_choices": common.where(runs, loss="ce"), "piecewise_zero": common.where(runs, loss="pz")}
    maps = figures.open_choices(frames).axes
    texts = {axes.get_title(): {text.get_position(): text.get_text() for text in axes.texts} for axes in maps}
    assert texts == {
        "escape step": {(1, 0): "300", (0, 0): "300", (1, 1): "never", (0, 1): "300"},
        "dominance": {(1, 0): "0.20", (0, 0): "0.30", (1, 1): "0.70", (0, 1): "0.40"},
        "classes guessed": {(1, 0): "5", (0, 0): "5", (1, 1): "5", (0, 1): "5"},
        "mean accuracy": {(1, 0): "0.10", (0, 0): "0.15", (1, 1): "0.35", (0, 1): "0.20"},
    }
    assert [text.get_text() for text in maps[0].get_yticklabels()] == ["he, ce", "he, pz"]
    assert [text.get_text() for text in maps[2].get_xticklabels()] == ["0.02, 0", "0.01, 0.9"]  # by lr / (1 - momentum)


def test_the_seeds_are_those_of_one_cell():
    def drawn(*cells):
        runs = [{"lr": lr, "momentum": momentum, "seed": seed} for lr, momentum in cells for seed in range(2)]
        return figures.favoured_conv1({"favoured_conv1_classes": classes_of(runs)}).axes

    other = [(0.001, 0.0), (0.01, 0.9)]
    panels = drawn(other[0], (0.01, 0.0))
    assert [axes.lines[0].get_ydata()[-1] for axes in panels] == pytest.approx([0.01, 0.11])
    with pytest.raises(InputError, match="no run of favoured_conv1 has"):
        drawn(*other)


def test_what_drives_pz_is_drawn_by_batch_statistics():
    frames = of_cells((3.0, 3.0), (5.0, 5.0))
    frames["favoured_conv1"].loc[lambda runs: runs["batch_norm"] == "running", "favoured_share"] = 0.9
    grid = figures.piecewise_zero(frames).axes
    assert [axes.get_title() for axes in grid[:4]] == [
        "he\n0.001, 0", "he\n0.001, 0.9", "he\n0.01, 0.9", "replaced_conv1\n0.01, 0"
    ]  # fmt: skip
    assert [list(line.get_ydata()) for line in grid[3].lines] == [[0.2, 0.2]] * 2
    assert [axes.get_ylabel() for axes in grid[::4]] == list(figures.DRIVING.values())


def test_batches_are_on_a_log_axis_with_initialisation_before_them():
    axes = figures.small_rate({"small_rate_classes": classes_of([{"seed": 0}], (0, 1, 20))}).axes[0]
    assert list(axes.lines[0].get_xdata()) == [figures.INIT, 1, 20]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["Init.", "1", "10"]
    axes = figures.small_rate({"small_rate_classes": classes_of([{"seed": 0}], (0, 1, 200))}).axes[0]  # two epochs
    assert list(axes.lines[0].get_xdata())[1:] == [0.01, 2]


def test_verdicts_of_long_runs_compare_their_ends():
    parts = [
        classes_of([{"loss": loss}], (100 * epoch,)).assign(
            probability=[left, right], accuracy=[left / 2, right / 20]
        )
        for loss, ends in {"ce": [(0.0, 1.0), (0.1, 0.2), (0.3, 0.4), (0.5, 0.6)],
                           "pz": [(0.0, 1.0), (0.4, 0.3), (0.6, 0.2), (0.9, 0.1)]}.items()
        for epoch, (left, right) in zip((0, 1, 5, 20), ends, strict=True)
    ]  # fmt: skip
    verdicts = decided({"long_run_classes": pd.concat(parts)})
    more = [part.assign(seed=1, probability=0.5, accuracy=0.5) for part in parts]
    assert decided({"long_run_classes": pd.concat([*parts, *more])}) == verdicts  # of the least seed
    assert list(verdicts) == ["C", "G"]
    assert verdicts["C"] == (
        "mean over the classes after 1 and 20 epochs: p̄_k 0.15 and 0.55, Acc_k 0.03 and 0.14; higher at the end: p̄_k "
        "of 2, Acc_k of 2 of 2 classes"
    )
    assert verdicts["G"] == (
        "after 20 epochs, CE: p̄ of the favoured class 0.60, of the others 0.50 (0.50 to 0.50); mean Acc_k 0.14. "
        "PZ: p̄ of the favoured class 0.10, of the others 0.90 (0.90 to 0.90); mean Acc_k 0.23"
    )
    assert decided({"long_run_classes": common.where(pd.concat(parts), loss="pz")}) == {}
    assert list(decided({"long_run_classes": common.where(pd.concat(parts), loss="ce")})) == ["C"]


def test_blurry_loss_is_compared_with_cross_entropy_at_each_rate():
    ends = [
        {"loss": loss, "lr": lr, "seed": seed, "batch_norm": "running", "step": 300, "dominant": 0.0,
         "accuracy": accuracy + seed / 5, "mean_p": accuracy / 2, "dominance": 1 - accuracy}
        for loss, accuracies in {"ce": (0.2, 0.4), "bl_detached": (0.1, 0.5), "bl": (0.1, 0.1)}.items()
        for lr, accuracy in zip((0.01, 0.1), accuracies, strict=True)
        for seed in (0, 1)
    ]  # fmt: skip
    later = {
        loss: classes_of([{"loss": loss}], (0, 100, 1000, 2000)).assign(probability=p, accuracy=p / 2)
        for loss, p in {"ce": 0.4, "bl_detached": 0.6}.items()
    }
    frames = {"epoch_one": rows_of(ends), "long_run_classes": pd.concat(later.values())}
    assert decided(frames)["D"] == (
        "p_y^γ held constant, after epoch one at 0.01 with momentum 0.9: mean Acc_k 0.20 (CE 0.30), p̄_k 0.05 (CE 0.10)"
        "; after 10 epochs in the run of C: mean Acc_k 0.30 (CE 0.20), p̄_k 0.60 (CE 0.40); as written, least dominance "
        "after epoch one at any rate: 0.90"
    )
    assert "D" not in decided({**frames, "long_run_classes": later["ce"]})


def test_the_remedy_is_beside_what_it_mends_after_as_many_epochs():
    def run(loss, warmup_epochs, *steps):
        return [
            {"loss": loss, "warmup_epochs": warmup_epochs, "batch_norm": "running", "step": step, "epoch": step / 100,
             "dominant": float(step // 100)}
            for step in steps
        ]  # fmt: skip

    alone = rows_of([*run("ce", 0, 0, 1, 200, 900), *run("pz", 0, 0, 1, 200, 900), *run("bl", 0, 0, 1, 200, 900)])
    frames = {"long_run": alone, "remedy": rows_of([*run("pz", 1, 0, 1, 200), *run("pz", 2, 0, 1, 200)])}
    lines = [line.split(" | ") for line in tables.remedy(frames).splitlines()[2:]]
    assert [line[:3] for line in lines] == [
        ["| `ce`", "0", "3"], ["| `pz`", "0", "3"], ["| `pz`", "1", "3"], ["| `pz`", "2", "3"],
    ]  # fmt: skip
    assert {line[4] for line in lines} == {"2 (1.00)"}
    handles = figures.remedy(frames).legends[0].get_texts()
    assert [text.get_text() for text in handles] == ["ce", "pz", "pz after 1 epoch of ce", "pz after 2 epochs of ce"]


def test_long_runs_tell_the_place_of_the_favoured_class():
    def probe(epoch, probability):
        return [
            {"loss": "pz", "seed": 0, "step": 100 * epoch, "epoch": epoch, "class": k, "rank": 4 - k, "probability": p,
             "accuracy": p / 10}
            for k, p in enumerate(probability)
        ]  # fmt: skip

    classes = pd.DataFrame(probe(0, [0.0, 0.1, 0.2, 0.7]) + probe(5, [0.9, 0.4, 0.2, 0.1]) + probe(7, [0.0] * 4))
    lines = tables.long_run({"long_run_classes": classes}).splitlines()[2:]
    assert lines == [
        "| `pz` | 0 | 0 | 0.15 (0.00 to 0.70) | 0.01 (0.00 to 0.07) | 0.70 | 0.07 | 1 |",
        "| `pz` | 0 | 5 | 0.30 (0.10 to 0.90) | 0.03 (0.01 to 0.09) | 0.10 | 0.01 | 4 |",
    ]


def test_drift_ratios_are_those_of_the_logits_and_the_theory_is_beside_them():
    networks = [
        {"init": init, "batch_norm": mode, "class_spread": spread, "image_spread": 2.0, "cosine": 0.5, "pz_active": 0.1,
         "bl_wrong_way": 0.5, "bl_active": 1.0}
        for init in tables.INITS for mode, spread in (("running", 6.0), ("batch", 1.0))
    ]  # fmt: skip
    frames = {
        "features": pd.DataFrame(networks),
        "initialisation": rows_of(
            {"init": init, "batch_norm": mode, "dominance": 0.5 if init == "he" else 0.75, "largest_p": 0.5}
            for init in tables.INITS for mode in tables.MODES
        ),
    }  # fmt: skip
    found = numbers.numbers(frames)
    assert (found["drift_running"], found["drift_batch"]) == ("9", "0.25")
    assert found["dominance_theory_running"] == f"{dominance_of(9.0, 10):.2f}"
    assert found["dominance_running"] == "0.50 to 0.75"
    assert numbers.numbers({}) == {}


def test_numbers_of_first_batches_are_means_over_seeds_and_what_ten_batches_take():
    rows = [
        {"loss": "ce", "lr": lr, "seed": seed, "batch_norm": "running", "step": step, "p_spread": p + seed / 100,
         "accuracy_spread": 0.1, "dominance": 0.5}
        for lr, (start, end) in ((0.0, (0.19, 0.09)), (0.001, (0.19, 0.04)))
        for seed in (0, 2) for step, p in ((0, start), (10, end))
    ]  # fmt: skip
    still = rows_of({"batch_norm": "running", "step": step, "p_spread": step / 100} for step in (0, 20, 30))
    frames = {"first_batches": rows_of(rows), "small_rate": still}
    frames["replaced_conv1"] = rows_of(row | {"init": "replaced_conv1"} for row in rows)
    found = numbers.numbers(frames)
    assert (found["b_he_rest_p_0"], found["b_he_rest_p_10"], found["b_he_motion_p_10"]) == ("0.200", "0.100", "0.050")
    assert (found["b_he_motion_lost_p"], found["b_replaced_conv1_rest_lost_acc"]) == ("75 %", "0 %")
    assert {key: value for key, value in found.items() if key.startswith("b_pz")} == {
        "b_pz_20": "0.200",
        "b_pz_30": "0.300",
    }


def test_cells_in_which_blurry_loss_is_behind_are_counted_at_small_steps():
    cells = [(0.001, 0.0, 0.3, 0.2), (0.001, 0.9, 0.3, 0.4), (0.1, 0.0, 0.3, 0.1)]
    rows = [
        {"loss": loss, "lr": lr, "momentum": momentum, "batch_norm": "running", "step": 300, "mean_p": p}
        for lr, momentum, ce, bl in cells for loss, p in (("ce", ce), ("bl_detached", bl))
    ]  # fmt: skip
    found = numbers.numbers({"open_choices": rows_of(rows), "piecewise_zero": rows_of(rows).iloc[:0]})
    assert (found["d_behind_mean_p"], found["d_behind_accuracy"]) == ("1 of 2", "0 of 2")


def test_classes_of_long_runs_move_with_their_accuracies_and_not_with_each_other():
    parts = [
        classes_of([{"loss": "ce"}], (100 * epoch,)).assign(probability=[left, right], accuracy=[left / 2, right / 2])
        for epoch, (left, right) in zip((0, 1, 2, 3, 20), [(1.0, 0.0), (0.2, 0.4), (0.3, 0.3), (0.2, 0.5), (0.4, 0.3)],
                                        strict=True)
    ]  # fmt: skip
    found = numbers.numbers({"long_run_classes": pd.concat(parts)})
    assert found["c_within_ce"] == "1.00"
    assert float(found["c_between_ce"]) < -0.9
    assert float(found["d_p_ce"]) == pytest.approx(np.mean([0.3, 0.3, 0.35]), abs=0.005)
    assert {"g_ce_1", "g_ce_20"} < set(found)


def test_winners_that_stand_alone_and_survivors_are_counted():
    frames = of_cells((3.0, 5.0), (7.0, 7.0), (7.0, 3.0))  # a class alone has 7 only, which batch statistics favour
    ranks = [{"seed": 0, "rank": 1, "probability": 0.5}, {"seed": 0, "rank": 2, "probability": 0.05},
             {"seed": 1, "rank": 1, "probability": 0.2}, {"seed": 1, "rank": 2, "probability": 0.3}]  # fmt: skip
    frames["small_rate_classes"] = pd.DataFrame([row | {"step": 300} for row in ranks])
    found = numbers.numbers(frames)
    assert found["f_alone_replaced_conv1_001_0"] == "0 of 1"
    assert (found["f_surviving"], found["f_seeds"]) == ("2 and 1", "2")


def test_losses_are_counted_over_the_cells_of_the_grid():
    rows = [
        {"loss": loss, "lr": lr, "batch_norm": "running", "step": step, "dominance": dominance, "guessed": 2.0}
        for loss, ends in {"ce": (0.2, 0.4), "pz": (1.0, 0.4)}.items()
        for lr, end in zip((0.01, 0.1), ends, strict=True)
        for step, dominance in ((0, 1.0), (300, end))
    ]  # fmt: skip
    frames = {"open_choices": where_ce(rows), "piecewise_zero": where_ce(rows, "pz")}
    lines = tables.choices(frames).splitlines()[2:]
    assert lines[0].startswith("| `ce` | 2 of 2 | 0 of 2 | 2 (2 to 2) |")
    assert lines[1].startswith("| `pz` | 1 of 2 | 1 of 2 | ")


def where_ce(rows, loss="ce"):
    return common.where(rows_of(rows), loss=loss)


def test_a_claim_is_counted_over_the_seeds_of_each_setting():
    def run(stage_loss, seed, steps, init="he", scaling="standard", lr=0.001, momentum=0.0, mode="running", **values):
        return [
            {"loss": stage_loss, "seed": seed, "init": init, "scaling": scaling, "lr": lr, "momentum": momentum,
             "batch_norm": mode, "step": step, "epoch": step / 100, "dominant": 3.0,
             **{name: value[i] for name, value in values.items()}}
            for i, step in enumerate(steps)
        ]  # fmt: skip

    empty = rows_of(
        [{"seed": 0, "batch_norm": "running", "step": 0, "epoch": 0.0, "p_spread": 0.0, "dominant": 0.0}]
    ).iloc[:0]
    frames = dict.fromkeys(matrix.TRAINED, empty)
    frames["initialisation"] = rows_of(
        {"seed": seed, "batch_norm": "running", "largest_p": p} for seed, p in enumerate((0.95, 0.5))
    )
    frames["first_batches"] = rows_of(
        run("ce", 0, (0, 10, 100), p_spread=(0.18, 0.05, 0.02)) + run("ce", 1, (0, 10, 100), p_spread=(0.18, 0.05, 0.1))
    )
    favoured, others = (0.9, 0.4, 0.9), (0.1, 0.3, 0.1)
    frames["small_rate"] = rows_of(
        run("pz", 0, (0, 10, 100), favoured_p=favoured, others_p=others)
        + run("pz", 1, (0, 10, 100), favoured_p=favoured, others_p=(0.1, 0.5, 0.1))
        + run("pz", 0, (0, 100), mode="batch", gradient=(1, 1), favoured_share=(0.95, 0.95))
    )
    at = {"init": "replaced_conv1", "scaling": "raw", "lr": 0.01}
    frames["long_run"] = rows_of(
        run("ce", 5, (0, 100, 2000), mean_p=(0.1, 0.2, 0.5), accuracy=(0.1, 0.3, 0.6), p_spread=(0.18,) * 3, **at)
        + run("bl_detached", 5, (0, 100, 2000), accuracy=(0.1, 0.4, 0.6), **at)
        + run("pz", 5, (0, 100, 2000), favoured_p=(0.9, 0.9, 0.95), others_p=(0.1, 0.1, 0.1), **at)
    )
    frames["favoured_conv1"] = rows_of(run("pz", 5, (0, 10), favoured_p=(0.9, 0.1), others_p=(0.1, 0.9), **at))
    cells = {line.split(" | ")[0]: line.split(" | ")[1:] for line in matrix.matrix(frames).splitlines()[2:]}
    one_of_two, seen, not_seen = "~ 1 of 2 (1 to 99 %)", "✓ seen once (n = 1)", "✗ not seen (n = 1)"
    assert [cells[f"| **{claim}.**"][0] for claim in "ABCDE"] == [one_of_two, one_of_two, "", "", one_of_two]
    assert cells["| **F.**"][0] == "✓ 2 of 2 (16 to 100 %)"
    assert cells["| **H.**"][0] == seen
    last = {claim: cells[f"| **{claim}.**"][-1].removesuffix(" |") for claim in "CDEG"}
    assert last == {"C": seen, "D": not_seen, "E": seen, "G": seen}  # of the longest run of a seed


def test_numbers_in_a_text_stand_between_their_markers():
    page = "it is <!--=one-->old<!--/-->, or <!--=two--><!--/-->.\n<!-- table: all -->\n<!-- end -->\n"
    filled = common.fill(page, {"all": "| 1 |"}, {"one": "1", "two": "2"})
    assert filled == "it is <!--=one-->1<!--/-->, or <!--=two-->2<!--/-->.\n<!-- table: all -->\n| 1 |\n<!-- end -->\n"
    with pytest.raises(InputError, match="marker two, for which there are no runs"):
        common.fill(page, {"all": ""}, {"one": "1"})
    with pytest.raises(InputError, match="marker all, for which"):
        common.fill(page, {}, {"one": "1", "two": "2"})


def test_a_folder_without_csv_files_is_refused_and_no_page_is_written(tmp_path):
    with pytest.raises(InputError, match="has no CSV files; name the folder"):
        common.read(tmp_path)


def test_the_pages_have_the_tables_and_numbers_of_the_csv_files():
    files = [ROOT / "docs" / "reproduction.md", *sorted(FOLDER.glob("*.md"))]
    for page, text in zip(files, pages.filled(files, FOLDER), strict=True):
        assert text == page.read_text(), page.name
    for name, (needs, _) in figures.FIGURES.items():
        assert (FOLDER / f"{name}.png").exists() == all((FOLDER / f"{file}.csv").exists() for file in needs)


@pytest.mark.slow
def test_the_figures_are_those_of_the_csv_files(tmp_path):
    for file in FOLDER.glob("*.csv"):
        shutil.copy(file, tmp_path)
    figures.draw(tmp_path)
    for name in figures.FIGURES:
        if (FOLDER / f"{name}.png").exists():
            there, drawn = (matplotlib.image.imread(folder / f"{name}.png") for folder in (FOLDER, tmp_path))
            assert there.shape == drawn.shape
            assert (abs(there - drawn) > 0.2).sum() < 20, name  # a dot elsewhere is more


@pytest.mark.slow
def test_features_of_every_initialiser_are_tabulated(monkeypatch):
    monkeypatch.setattr("reproduction.features.SEEDS", range(1))
    table = features([*TINY, "model._target_=igb.models.resnet18"])
    assert len(table) == 8
    assert (table[["class_spread", "image_spread"]] > 0).all(axis=None)
    assert set(table) == set(common.read(FOLDER)["features"])


def test_stages_not_begun_are_listed_with_the_runs_of_their_descriptions(tmp_path):
    tiny_run(tmp_path / "sweeps" / "initialisation" / "run", "trainer.max_epochs=0")
    for _ in range(2):  # the second time they are there already
        collect(tmp_path / "sweeps", tmp_path / "page")
    lines = tables.stages(common.read(tmp_path / "page")).splitlines()
    assert lines[2].startswith("| `initialisation` | 1 of 320 | 0 | ")
    assert lines[3] == "| `training_batches` | 0 of 20 |  |  |  |  | 0.0 |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [*(f"| `{stage}`" for stage in STAGES), "| all"]


def test_rows_of_runs_of_another_machine_stay(tmp_path):
    for seed in (0, 1, 10):
        tiny_run(tmp_path / "sweeps" / "favoured_conv1" / str(seed), "trainer.max_steps=1", f"seed={seed}")
    collect(tmp_path / "sweeps", tmp_path / "whole")
    for part, seeds in (("here", (10,)), ("there", (1, 0))):
        for seed in seeds:
            here = tmp_path / part / "favoured_conv1" / str(seed)
            here.parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "sweeps" / "favoured_conv1" / str(seed)).rename(here)
        for _ in range(2):
            collect(tmp_path / part, tmp_path / "parts")
    for name in ("favoured_conv1.csv", "favoured_conv1_classes.csv"):
        assert (tmp_path / "parts" / name).read_text() == (tmp_path / "whole" / name).read_text()
    whole, parts = (set((tmp_path / name / "runs.csv").read_text().splitlines()) for name in ("whole", "parts"))
    assert whole == parts


def test_a_stage_that_was_not_run_again_keeps_its_tables(tmp_path):
    for stage in ("initialisation", "first_batches"):
        tiny_run(tmp_path / "sweeps" / stage / "run", "trainer.max_epochs=0")
        collect(tmp_path / "sweeps", tmp_path / "page")
        (tmp_path / "sweeps" / stage).rename(tmp_path / stage)
    runs = pd.read_csv(tmp_path / "page" / "runs.csv")
    assert list(runs.loc[runs["status"] == "completed", "stage"]) == ["initialisation", "first_batches"]
    assert (tmp_path / "page" / "initialisation.csv").exists()
