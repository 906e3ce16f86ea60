"""The numbers in the text of the pages on the paper."""

from reproduction.common import Frames, least_to_most, where
from reproduction.tables import MODES, drifts


def numbers(frames: Frames) -> dict[str, str]:
    """The numbers in the text of docs/reproduction.md."""
    if not {"features", "initialisation"} <= set(frames):
        return {}
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
