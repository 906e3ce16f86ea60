"""The numbers in the text of the pages on the paper."""

import numpy as np
import pandas as pd

from reproduction.common import Frames, last_probe, least_to_most, listed, where
from reproduction.tables import ALIVE, ALONE, CLASSES, MODES, PZ_NEEDS, SPREADS, drifts, leads, pz_cells, starts
from reproduction.verdicts import decided

SMALL = 0.01  # lr / (1 - momentum) up to which steps are called small
LAGGING = 11  # epochs in which the accuracies of Blurry loss lag


def numbers(frames: Frames) -> dict[str, str]:
    """The numbers, and the words of the verdicts, whose CSV files are there."""
    found: dict[str, str] = {}
    for verdict, number in decided(frames):
        letter = verdict.claim[2].lower()
        found |= {f"verdict_{letter}": verdict.verdict, f"decided_{letter}": number} if number else {}
    for needs, numbers_of in (
        (("features", "initialisation"), _of_the_start),
        (("first_batches", "replaced_conv1", "small_rate"), _of_first_batches),
        (("open_choices", "piecewise_zero"), _of_choices),
        (("long_run_classes",), _of_long_runs),
        ((*PZ_NEEDS, "small_rate_classes"), _of_piecewise_zero),
    ):
        found |= numbers_of(frames) if set(needs) <= set(frames) else {}
    return found


def _of_the_start(frames: Frames) -> dict[str, str]:
    """Drift ratio and dominance at initialisation: the least and the most of the initialisers' means."""
    start, networks = where(frames["initialisation"], scaling="standard"), drifts(frames["features"])
    found: dict[str, str] = {}
    for mode in MODES:
        of_mode = where(networks, batch_norm=mode).groupby("init")[["ratio", "dominance"]].mean()
        dominance = where(start, batch_norm=mode).groupby("init")["dominance"].mean()
        found |= {
            f"drift_{mode}": least_to_most(of_mode["ratio"], ".2g"),
            f"dominance_theory_{mode}": least_to_most(of_mode["dominance"]),
            f"dominance_{mode}": least_to_most(dominance),
        }
    return found


def _of_first_batches(frames: Frames) -> dict[str, str]:
    """Mean distances from 0.1 in evaluation mode, at rest (rate 0) and in motion, and what ten batches take of them."""
    found: dict[str, str] = {}
    for start, runs in starts(frames).items():
        for motion, lr in (("rest", 0.0), ("motion", runs["lr"].max())):
            means = where(runs, batch_norm="running", lr=lr).groupby("step")[[*SPREADS, "dominance"]].mean()
            key = f"b_{start.split(',')[0]}_{motion}"
            for step in {0, 10, 100} & set(means.index):
                found |= {f"{key}_p_{step}": f"{means.loc[step, 'p_spread']:.3f}"}
                found |= {f"{key}_acc_{step}": f"{means.loc[step, 'accuracy_spread']:.3f}"}
                found |= {f"{key}_dominance_{step}": f"{means.loc[step, 'dominance']:.2f}"}
            if {0, 10} <= set(means.index):
                lost = 1 - means.loc[10] / means.loc[0]
                found |= {f"{key}_lost_{short}": f"{100 * lost[name]:.0f} %" for short, name in _SHORT.items()}
    pz = where(frames["small_rate"], batch_norm="running").groupby("step")["p_spread"].mean()
    return found | {f"b_pz_{step}": f"{value:.3f}" for step, value in pz.items() if step in (20, 106, pz.index.max())}


_SHORT = {"p": "p_spread", "acc": "accuracy_spread"}


def _of_choices(frames: Frames) -> dict[str, str]:
    """In how many cells with small steps Blurry loss, its factor held constant, is behind cross-entropy."""
    end = last_probe(where(pd.concat([frames["open_choices"], frames["piecewise_zero"]]), batch_norm="running"))
    small = end[end["lr"] / (1 - end["momentum"]) <= SMALL * (1 + 1e-9)]
    key = ["init", "scaling", "lr", "momentum"]
    both = where(small, loss="bl_detached").merge(where(small, loss="ce"), on=key, suffixes=("", "_ce"))
    behind = {name: (both[name] < both[f"{name}_ce"]).sum() for name in ("mean_p", "accuracy")}
    return {f"d_behind_{name}": f"{count} of {len(both)}" for name, count in behind.items()}


def _of_long_runs(frames: Frames) -> dict[str, str]:
    """How the classes move from epoch to epoch, and with each other; what is left of the favoured class under PZ."""
    classes = where(frames["long_run_classes"], seed=frames["long_run_classes"]["seed"].min())
    found: dict[str, str] = {}
    at_epochs = classes[(classes["epoch"] >= 1) & (classes["epoch"] == classes["epoch"].round())]
    for loss, run in at_epochs.groupby("loss"):
        p, accuracy = (run.pivot(index="epoch", columns="class", values=one) for one in ("probability", "accuracy"))
        if loss in ("ce", "bl_detached"):
            changes = p.diff().dropna().corr().to_numpy()
            found |= {
                f"c_within_{loss}": least_to_most(p.corrwith(accuracy)),
                f"c_between_{loss}": f"{changes[np.triu_indices(len(changes), 1)].mean():.2f}",
                f"d_accuracy_{loss}": f"{accuracy.loc[:LAGGING].to_numpy().mean():.2f}",
                f"d_p_{loss}": f"{p.loc[:LAGGING].to_numpy().mean():.2f}",
            }
        favoured = run[run["rank"] == 1].set_index("epoch")["probability"]
        found |= {f"g_{loss}_{epoch}": f"{favoured[epoch]:.5g}" for epoch in {1, 20} & set(favoured.index)}
    first = where(classes, loss="ce")
    first = first[first["epoch"] < 1].groupby("step")["probability"].apply(lambda p: (p - 1 / CLASSES).abs().mean())
    return found | ({"c_nearest": f"{first.min():.3f}"} if len(first) else {})


def _of_piecewise_zero(frames: Frames) -> dict[str, str]:
    """How often a class that stands alone at the last probe is the favoured one, and which classes survive."""
    found: dict[str, str] = {}
    for title, runs in pz_cells(frames).items():
        end = where(last_probe(runs), batch_norm="running")
        alone = end[end["dominance"] >= ALONE]
        key = "_".join(title.replace(".", "").split(", ")[:3])
        found |= {f"f_alone_{key}": f"{leads(alone).sum()} of {len(alone)}"}
    classes = frames["small_rate_classes"]
    end = classes[classes["step"] == classes["step"].max()]
    surviving = (end["probability"] > ALIVE).groupby(end["rank"]).sum()
    return found | {"f_surviving": listed(map(str, surviving)), "f_seeds": str(end["seed"].nunique())}
