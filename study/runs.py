"""What the hypotheses share: their runs, and how sure a number is."""

import numpy as np
import pandas as pd

from igb.report.settings import mean_and_half_width

MODELS = {
    "mlp": "MLP",
    "cnn": "`cnn`",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "convnext": "ConvNeXt",
    "vit": "ViT",
}


def by_batch(frame: pd.DataFrame) -> pd.DataFrame:
    """The row of each run that is by batch statistics, or its only one, where the network has no batch norm."""
    known = list(frame.columns[: frame.columns.get_loc("batch_norm")])
    return frame[(frame["batch_norm"] == "batch") | ~frame.duplicated(known, keep=False)]


def escaped(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Whether each run has left its guess: dominance stays under a half by its last probe."""
    return rows["escape_step"].notna()


def mean(values: "pd.Series[float]", digits: str = ".3f") -> str:
    """The mean ± half the width of its 95 % interval (Student's t)."""
    average, half = mean_and_half(values)
    return f"{average:{digits}} ± {half:{digits}}" if np.isfinite(half) else f"{average:{digits}}"


def mean_and_half(values: "pd.Series[float]") -> tuple[float, float]:
    """The mean over runs and half the width of its 95 % interval; NaN for fewer than two."""
    average, half = mean_and_half_width(values.to_numpy(dtype=float)[:, None], np.ones((len(values), 1), dtype=bool))
    return average.item(), half.item()


def median_step(rows: pd.DataFrame) -> str:
    """The median of the escape steps; `>300` where it depends on runs that have not escaped by step 300."""
    found = rows["escape_step"].fillna(np.inf).median()
    return f"{found:g}" if np.isfinite(found) else f">{rows['steps'].max():g}"
