"""What a network makes of wrong labels."""

from itertools import product

import pandas as pd
import pytest
import torch
from torch import nn

from igb.data.noise import Symmetric
from igb.data.sources import Digits
from igb.report import summarize_classes
from igb.report.runs import read_run
from igb.training.memorisation import COLUMNS, Labelled, memorisation
from igb.training.records import Records
from tests.conftest import tiny_run

OPTIONS = ("probe=log", "probe.points=12", "probe.images=20", "noise=symmetric", "noise.images=100")


class Fixed(nn.Module):
    """Gives its input as the logits."""

    def forward(self, logits):
        return logits


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_shares_and_means_are_those_of_a_plain_loop(chunk):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 4, generator=generator) * 3
    given, true = (torch.randint(4, (50,), generator=generator) for _ in range(2))
    table = memorisation(Fixed(), Labelled(logits, given, true), 5, lambda images: images, chunk, "running")
    assert table.shape == (2, 6, 7)
    assert table[:, 5, 0].tolist() == [0, 0]  # no image is labelled as the last class
    assert table[:, 5, 1:].isnan().all()
    for (group, place), row in zip(product(range(2), range(5)), table[:, :5].flatten(0, 1), strict=True):
        members = [
            n for n in range(50) if (given[n] != true[n]) == bool(group) and (place == 0 or given[n] == place - 1)
        ]
        p = logits.double().softmax(1)
        best = p.argmax(1)
        expected = [
            len(members),
            *(sum(float(best[n] == labels[n]) for n in members) / len(members) for labels in (given, true)),
            sum(float(best[n] not in (given[n], true[n])) for n in members) / len(members),
            *(sum(float(p[n, labels[n]]) for n in members) / len(members) for labels in (given, true)),
            sum(float(p[n].max() > 0.95) for n in members) / len(members),
        ]
        assert row.tolist() == pytest.approx(expected)


def test_ties_are_shared():
    subset = Labelled(torch.zeros(2, 4), torch.tensor([0, 1]), torch.tensor([0, 2]))
    table = memorisation(Fixed(), subset, 4, lambda images: images, 10, "running")
    assert table[:, 0, 1:5].tolist() == [[0.25, 0.25, 0.75, 0.25], [0.25, 0.25, 0.5, 0.25]]


def test_a_run_with_noise_records_them_at_every_probe(tmp_path):
    folder = tiny_run(tmp_path / "run", *OPTIONS, "probe.batch_norm=both", "trainer.max_epochs=1", "optimizer.lr=0.05")
    table = pd.read_csv(folder / "memorisation.csv")
    assert list(table.columns) == ["step", "epoch", "batch_norm", "labels", *COLUMNS]
    metrics = pd.read_csv(folder / "metrics.csv")
    assert table["step"].unique().tolist() == metrics["step"].unique().tolist()
    assert table.groupby(["step", "batch_norm"])["labels"].apply(list).tolist() == [["clean", "wrong"]] * (
        len(table) // 2
    )
    data = Digits()
    data.setup()
    wrong = int((Symmetric(0.4).labels(data, 0) != data.train_labels).sum())
    counts = table.groupby("labels")["count"].unique()
    assert counts["clean"][0] + counts["wrong"][0] == 100
    assert counts["wrong"][0] == pytest.approx(100 * wrong / 1437, abs=15)
    assert (
        table.query("labels == 'clean'")["predicted_given"] == table.query("labels == 'clean'")["predicted_true"]
    ).all()
    sums = table[["predicted_given", "predicted_true", "predicted_other"]].sum(axis=1)[table["labels"] == "wrong"]
    assert sums.tolist() == pytest.approx([1] * len(sums))
    last = table[table["step"] == table["step"].max()].query("batch_norm == 'running'").set_index("labels")
    assert last.loc["wrong", "predicted_true"] > last.loc["wrong", "predicted_given"]  # learned, not memorised
    classes = pd.read_csv(folder / "memorisation_classes.csv")
    assert list(classes.columns) == ["step", "epoch", "batch_norm", "labels", "class", *COLUMNS]
    keys = ["step", "epoch", "batch_norm", "labels"]
    weighted = classes.assign(**{name: classes[name] * classes["count"] for name in COLUMNS[1:]})
    sums = weighted.groupby(keys)[list(COLUMNS)].sum().reset_index().sort_values(keys)
    assert sums["count"].tolist() == table.sort_values(keys)["count"].tolist()
    for name in COLUMNS[1:]:
        assert (sums[name] / sums["count"]).tolist() == pytest.approx(table.sort_values(keys)[name].tolist())
    last = classes[classes["step"] == classes["step"].max()].query("batch_norm == 'running' and labels == 'wrong'")
    run = read_run(folder)
    assert run.table("memorised", "running").iloc[-1].tolist() == last["predicted_given"].tolist()
    assert summarize_classes([run])["memorised"].iloc[:10].tolist() == last["predicted_given"].tolist()
    file = folder / "memorisation_classes.csv"
    file.write_text(file.read_text()[:-20])  # cut off within the last probe
    assert read_run(folder).table("memorised", "batch").index.tolist() == table["step"].unique().tolist()[:-1]
    assert not (tiny_run(tmp_path / "clean", *OPTIONS[:3], "trainer.max_steps=1") / "memorisation.csv").exists()


def test_a_run_that_had_no_file_of_classes_has_one_from_where_it_resumes(tmp_path, monkeypatch):
    """As an earlier version left it."""
    whole = tiny_run(tmp_path / "whole", *OPTIONS, "trainer.max_epochs=2")
    state = Records.records_state
    with monkeypatch.context() as before:
        before.setattr(
            Records, "records_state",
            lambda self: {name: size for name, size in state(self).items() if name != "memorisation_classes"},
        )  # fmt: skip
        parts = tiny_run(tmp_path / "parts", *OPTIONS, "trainer.max_epochs=1")
    (parts / "memorisation_classes.csv").unlink()
    tiny_run(tmp_path / "parts", *OPTIONS, "trainer.max_epochs=2")
    for name in ("memorisation", "metrics"):
        assert (whole / f"{name}.csv").read_bytes() == (parts / f"{name}.csv").read_bytes()
    table, all_steps = (pd.read_csv(run / "memorisation_classes.csv") for run in (parts, whole))
    later = all_steps[all_steps["step"] >= table["step"].min()].reset_index(drop=True)
    pd.testing.assert_frame_equal(table, later)


def test_they_resume_to_the_same_numbers_and_change_none_of_the_training(tmp_path):
    whole = tiny_run(tmp_path / "whole", *OPTIONS, "trainer.max_epochs=2")
    for epochs in (1, 2):
        parts = tiny_run(tmp_path / "parts", *OPTIONS, f"trainer.max_epochs={epochs}")
    for name in ("memorisation", "memorisation_classes", "metrics"):
        assert (whole / f"{name}.csv").read_bytes() == (parts / f"{name}.csv").read_bytes()
    few = tiny_run(tmp_path / "few", *OPTIONS[:-1], "noise.images=10", "trainer.max_epochs=2")
    assert (few / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
