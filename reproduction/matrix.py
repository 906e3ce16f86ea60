"""The claims of the paper against the settings in which they were looked at: how often each holds."""

from collections.abc import Callable

import pandas as pd

from reproduction.common import Frames, last_probe, markdown, rate, where
from reproduction.tables import NEAR_ONE, SPREADS, highest, leads, share_over_training

SETTINGS = {
    "`he`, 0.001": ("he", "standard", 0.001, 0.0),
    "`he`, 0.001, momentum": ("he", "standard", 0.001, 0.9),
    "`he`, 0.01, momentum": ("he", "standard", 0.01, 0.9),
    "`replaced_conv1`, 0.001": ("replaced_conv1", "raw", 0.001, 0.0),
    "`replaced_conv1`, 0.01": ("replaced_conv1", "raw", 0.01, 0.0),
}  # initialiser, scaling, learning rate and momentum
TRAINED = ("first_batches", "replaced_conv1", "epoch_one", "small_rate", "favoured_class", "favoured_conv1", "long_run")
SETTLED = 0.09  # mean distance of the p̄_k from 0.1: half of what it is where one class has everything
NEARLY_ALL = 0.9  # of the gradient

Setting = tuple[str, str, float, float]


def mark(held: "pd.Series[bool]") -> str:
    """A cell of the matrix."""
    if held.empty:
        return ""
    if len(held) == 1:
        return "✓ seen once (n = 1)" if held.iloc[0] else "✗ not seen (n = 1)"
    return f"{'✓' if held.all() else '~' if held.any() else '✗'} {rate(held)}"


def matrix(frames: Frames) -> str:
    """The table: a row a claim, a column a setting; empty where it was not looked at."""
    rows = [
        [f"**{claim}.**", *(mark(of(frames, setting)) for setting in SETTINGS.values())] for claim, of in CLAIMS.items()
    ]
    return markdown(["", *SETTINGS], rows)


def runs(frames: Frames, setting: Setting, loss: str, batch_norm: str = "running") -> pd.DataFrame:
    """The probes of the runs of a setting under a loss; of seeds that several stages have, those of the longest run."""
    init, scaling, lr, momentum = setting
    parts = [
        where(frames[stage], init=init, scaling=scaling, lr=lr, momentum=momentum, loss=loss, batch_norm=batch_norm)
        for stage in TRAINED
    ]
    found = pd.concat(parts, keys=TRAINED, names=["stage"]).reset_index("stage")
    if found.empty:
        return found
    longest = found.groupby(["seed", "stage"])["step"].max().groupby("seed").idxmax()
    return found[[(seed, stage) in set(longest) for seed, stage in zip(found["seed"], found["stage"], strict=True)]]


def _a(frames: Frames, setting: Setting) -> "pd.Series[bool]":
    networks = where(frames["initialisation"], init=setting[0], scaling=setting[1], batch_norm="running")
    return networks.set_index("seed")["largest_p"] > NEAR_ONE


def _b(frames: Frames, setting: Setting) -> "pd.Series[bool]":
    """That the p̄_k stay within SETTLED of 0.1, on average over the classes, from batch 10 to 100."""
    found = runs(frames, setting, "ce")
    found = found[found["step"].between(10, 100)]
    return found.groupby("seed")[next(iter(SPREADS))].max() <= SETTLED


def _c(frames: Frames, setting: Setting) -> "pd.Series[bool]":
    """That mean p̄_k and accuracy are higher after the last epoch than after the first."""
    found = runs(frames, setting, "ce")
    held = {}
    for seed, run in found.groupby("seed"):
        first, last = run[run["epoch"] == 1], run.iloc[-1]
        if len(first) and last["epoch"] >= 2:
            held[seed] = bool((last[["mean_p", "accuracy"]] > first.iloc[0][["mean_p", "accuracy"]]).all())
    return pd.Series(held, dtype=bool)


def _d(frames: Frames, setting: Setting) -> "pd.Series[bool]":
    """That the accuracy under Blurry loss, its factor held constant, is lower than under CE after epoch one."""
    ends = [
        found[found["epoch"] == 1].set_index("seed")["accuracy"]
        for found in (runs(frames, setting, loss) for loss in ("bl_detached", "ce"))
        if len(found)
    ]
    if len(ends) < 2:
        return pd.Series(dtype=bool)
    both = pd.concat(ends, axis=1, join="inner", keys=["bl", "ce"])
    return both["bl"] < both["ce"]


def _e(frames: Frames, setting: Setting) -> "pd.Series[bool]":
    found = runs(frames, setting, "pz")
    return highest(found).groupby(found["seed"]).all() if len(found) else pd.Series(dtype=bool)


def _f(frames: Frames, setting: Setting) -> "pd.Series[bool]":
    found = runs(frames, setting, "pz")
    return leads(last_probe(found)) if len(found) else pd.Series(dtype=bool)


def _g(frames: Frames, setting: Setting) -> "pd.Series[bool]":
    """That the favoured class has a p̄ near 1 under PZ after two epochs or more."""
    found = runs(frames, setting, "pz")
    end = found[found["epoch"] >= 2].groupby("seed").tail(1) if len(found) else found
    return end.set_index("seed")["favoured_p"] > NEAR_ONE if len(end) else pd.Series(dtype=bool)


def _h(frames: Frames, setting: Setting) -> "pd.Series[bool]":
    found = runs(frames, setting, "pz", "batch")
    return share_over_training(found, "favoured_share") >= NEARLY_ALL if len(found) else pd.Series(dtype=bool)


CLAIMS: dict[str, Callable[[Frames, Setting], "pd.Series[bool]"]] = {
    "A": _a, "B": _b, "C": _c, "D": _d, "E": _e, "F": _f, "G": _g, "H": _h,
}  # fmt: skip
TABLES = {"matrix": (("initialisation", *TRAINED), matrix)}
