"""What the hypotheses share: the names of their networks, and their runs."""

import numpy as np
import pandas as pd

MODELS = {
    "mlp": "MLP",
    "cnn": "`cnn`",
    "resnet18": "ResNet-18",
    "none": "ResNet-18 without norm",
    "group": "ResNet-18 with group norm",
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


def median_step(rows: pd.DataFrame) -> str:
    """The median of the escape steps; `>300` where it depends on runs that have not escaped by step 300."""
    found = rows["escape_step"].fillna(np.inf).median()
    return f"{found:g}" if np.isfinite(found) else f">{rows['steps'].max():g}"
