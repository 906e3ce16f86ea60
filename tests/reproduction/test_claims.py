"""The claims of arXiv 2505.12096: what is measured of untrained networks, and what the tables make of it."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from igb._checks import InputError
from reproduction import claims


@pytest.fixture(scope="module")
def noise():
    """Images as independent as the theory's inputs, in three classes."""
    images = torch.randn(120, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    return claims.ImagesOf(images, torch.arange(120) % 3, 3, 1.0, 0.0)


def test_drift_ratios_of_networks_and_correlations_of_pairs_agree(noise, monkeypatch):
    monkeypatch.setattr(claims, "POINTS", {"tanh": [(2.0, 0.1)], "relu": [(2.0, 0.1)]})
    monkeypatch.setattr(claims, "DEPTHS", (5,))
    tanh, relu = claims.correlations("noise", noise, range(20))
    for row in (tanh, relu):
        assert row["of_directions"] == pytest.approx(1 / row["apart_of_directions"] - 1, rel=0.08)
        assert row["drift_ratio"] == pytest.approx(1 / row["apart"] - 1, rel=0.08)
        expected = noise.expected(row["activation"], 2.0, 0.1, 4)  # the last of five hidden layers
        assert row["expected"] == pytest.approx(expected, rel=1e-4)
        assert row["of_directions"] == pytest.approx(expected, rel=0.15)
    assert tanh["drift_ratio"] == pytest.approx(tanh["of_directions"], rel=0.05)
    lengths = torch.linspace(0.2, 2.0, 120)[:, None, None, None]
    _, relu = claims.correlations("noise", dataclasses.replace(noise, images=noise.images * lengths), range(20))
    assert relu["drift_ratio"] < 0.7 * relu["of_directions"]  # V has the lengths of images too
    assert relu["of_directions"] == pytest.approx(1 / relu["apart_of_directions"] - 1, rel=0.08)


def test_networks_have_the_share_of_the_favoured_class(noise, monkeypatch):
    monkeypatch.setattr(claims, "POINTS", {"relu": [(2.0, 0.1)]})
    monkeypatch.setattr(claims, "DEPTHS", (2,))
    rows = list(claims.networks("noise", noise, range(3)))
    assert [row["seed"] for row in rows] == [0, 1, 2]
    network = noise.network(1, "relu", 2.0, 0.1, 2)
    logits = network(noise.images)
    p = logits.softmax(dim=1)
    favoured = int(p.argmax(dim=1).bincount(minlength=3).argmax())
    off = (p - torch.eye(3)[noise.labels]).detach().double()
    norms = torch.stack([off[noise.labels == k].norm(dim=1).sum() for k in range(3)])
    assert rows[1]["share"] == pytest.approx(float(norms[favoured] / norms.sum()), rel=1e-4)
    assert rows[1]["dominance"] == pytest.approx(float((p.argmax(dim=1) == favoured).double().mean()))
    whole = []
    for k in range(3):
        network.zero_grad()
        torch.nn.functional.cross_entropy(network(noise.images[k::3]), noise.labels[k::3]).backward()
        whole.append(torch.cat([one.grad.flatten() for one in network.parameters()]).norm())
    assert rows[1]["parameter_share"] == pytest.approx(float(whole[favoured] / sum(whole)), rel=1e-4)


@pytest.mark.parametrize(
    ("shallow", "deep", "seen"),
    [(0.4, 0.5, "neutral"), (1.5, 1.9, "prejudiced"), (5.0, 3.0, "prejudiced"), (5.0, 60.0, "deep prejudice")],
)
def test_phases_are_seen_in_two_depths(shallow, deep, seen):
    assert claims.phase_seen(shallow, deep) == seen


def test_the_best_rate_is_that_of_most_accuracy_over_seeds():
    runs = [
        {"weight_variance": weight, "lr": lr, "seed": seed, "step": step, "accuracy": 0.1 * step * lr * weight + noise}
        for weight in (1.0, 4.0) for lr in (0.1, 1.0) for seed, noise in enumerate((0.0, 0.02)) for step in (0, 1, 2, 3)
    ]  # fmt: skip
    networks = [
        {"data": stage, "activation": "tanh", "weight_variance": weight, "bias_variance": 0.1, "depth": depth,
         "seed": seed, "expected": 4 / weight, "drift_ratio": 4 / weight * (1 + seed), "dominance": 0.6 + 0.1 * seed,
         "share": 0.3, "parameter_share": 0.4}
        for stage in claims.STAGES for weight in (1.0, 4.0) for depth in claims.DEPTHS for seed in (0, 1)
    ]  # fmt: skip
    frames = {**dict.fromkeys(claims.STAGES, pd.DataFrame(runs)), "networks": pd.DataFrame(networks)}
    table = claims.trained(frames)
    assert set(table["step"]) == {1, 3}
    assert set(table["lr"]) == {1.0}
    last = table[(table["data"] == "trainability") & (table["step"] == 3)].set_index("weight_variance")
    assert last["accuracy"].tolist() == pytest.approx([0.31, 1.21])
    assert last["half"].tolist() == pytest.approx([0.01 * 12.7062] * 2, rel=1e-4)  # t with one degree of freedom
    assert last["drift_ratio"].tolist() == pytest.approx([4 * np.sqrt(2), np.sqrt(2)])
    assert last["phase"].tolist() == ["deep prejudice, ordered", "neutral"]
    assert claims.training(frames).count("\n") == 3


def test_a_run_that_diverged_counts_as_chance_and_a_seed_does_not_choose_its_rate():
    runs = pd.DataFrame(
        {"weight_variance": 1.0, "lr": lr, "seed": seed, "step": step, "accuracy": accuracy}
        for lr, accuracies in ((0.1, (0.6, 0.6, 0.95)), (1.0, (0.9, 0.7, None)))
        for seed, accuracy in enumerate(accuracies) for step in (0, 1, 2)
        if accuracy is not None or step < 2
    )  # fmt: skip
    networks = pd.DataFrame(
        {"data": stage, "activation": "tanh", "weight_variance": 1.0, "bias_variance": 0.1, "depth": depth,
         "seed": seed, "expected": 1.0, "drift_ratio": 1.0, "dominance": 0.5, "share": 0.3, "parameter_share": 0.4}
        for stage in claims.STAGES for depth in claims.DEPTHS for seed in (0, 1)
    )  # fmt: skip
    table = claims.trained({**dict.fromkeys(claims.STAGES, runs), "networks": networks})
    last = table[(table["data"] == "trainability") & (table["step"] == 2)].iloc[0]
    # Of the two others, 0.1 has 0.6 and 0.95, 1.0 has 0.7 and chance; then 0.9 and chance; then 0.9 and 0.7.
    assert last["values"] == [0.6, 0.6, 0.5]
    assert last["lr"] == 0.1
    alone = runs[runs["seed"] == 0]
    with pytest.raises(InputError, match="trainability lacks runs at weight variance 1: finish and collect it first"):
        claims.trained(
            {**dict.fromkeys(claims.STAGES, runs[(runs["lr"] < 1) | (runs["seed"] > 0)]), "networks": networks}
        )
    with pytest.raises(InputError, match="trainability needs runs of two seeds or more"):
        claims.trained({**dict.fromkeys(claims.STAGES, alone), "networks": networks})
