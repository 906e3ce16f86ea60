"""Style, colours and bar charts that igb's figures share; the only plotting library is matplotlib."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

if TYPE_CHECKING:
    import pandas as pd

    from igb.theory import Propagation

Array = npt.NDArray[np.float64]

# Paul Tol's "muted" scheme and black: ten colours that colour-blind readers can tell apart. Every second line is
# dashed, so that neighbours differ in print too.
COLOURS = (
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#000000",
)  # fmt: skip
# The same, lightened where they would be hard to see on a dark page.
DARK_COLOURS = (
    "#8F86E8", "#88CCEE", "#44AA99", "#4DB868", "#B9B94A", "#DDCC77", "#E58A97", "#D4609A", "#C67BC6", "#E8E8E8",
)  # fmt: skip
STYLE: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "hatch.linewidth": 0.8,
    "pdf.fonttype": 42,  # embed text as text
    "text.parse_math": False,  # a $ in a class name is not a formula
}
LONGEST_NAME, MOST_NAMES = 20, 20  # characters of a class name; classes that are labelled


def initial(names: Sequence[str], own: Array, over_all: Array) -> Figure:
    """Mean predicted probability of each class, over its own images and over all, both [C]."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(1.2 + 0.28 * len(names), 3.5), 2.4), layout="constrained")
        axes = figure.subplots()
        bars(axes, names, own, over_all)
        axes.set_ylabel("mean probability")
        bar_legend(figure)
    return figure


def trace(table: "pd.DataFrame", theory: "Propagation | None") -> Figure:
    """Variance, correlation and drift ratio of a `Trace` against depth, and the lines of a theory."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.5), layout="constrained")
        for axes, name in zip(figure.subplots(1, 3), ("variance", "correlation", "drift_ratio"), strict=True):
            axes.plot(table["depth"], table[name], "o-", color=COLOURS[0], markersize=3, linewidth=1, label="measured")
            if theory is not None:
                values = getattr(theory, name)
                axes.plot(np.arange(len(values)) + 1, values, "--", color=COLOURS[6], linewidth=1, label="theory")
            axes.set(xlabel="layer", title=name.replace("_", " "))
            if name == "correlation":
                axes.set_ylim(-0.02, 1.02)
            else:
                log_axis(axes)
        if theory is not None:
            axes.legend(frameon=False)
    return figure


def log_axis(axes: Axes, name: Literal["x", "y"] = "y") -> None:
    """Make an axis logarithmic, with plain numbers at its ticks."""
    axes.set(**{f"{name}scale": "log"})
    axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: "")


def class_colours(classes: int) -> list[str]:
    """A colour for each class."""
    return _some(COLOURS, classes, darkest=0.0)


def dark_colours(classes: int) -> list[str]:
    """The same for a dark page."""
    return _some(DARK_COLOURS, classes, darkest=0.3)


def setting_colours(settings: int, *, dark: bool = False) -> list[str]:
    """A colour for each setting; from the eleventh on they return, with other dashes and markers."""
    scheme = DARK_COLOURS if dark else COLOURS
    return [scheme[number % len(scheme)] for number in range(settings)]


def _some(scheme: Sequence[str], classes: int, darkest: float) -> list[str]:
    if classes <= len(scheme):
        return list(scheme[:classes])
    shades = np.linspace(darkest, 1, classes)
    return [mpl.colors.to_hex(colour) for colour in mpl.colormaps["viridis"](shades)]


def short_name(name: str) -> str:
    """A class's name, truncated to leave room for the plot, without the byte order mark that matplotlib cannot draw."""
    name = name.replace("\ufeff", "")
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def bars(axes: Axes, names: Sequence[str], own: Array, over_all: Array) -> None:
    """Draw two bars for each class: the mean probability over its own images, and over all, both [C]."""
    at, colours = np.arange(len(names)), class_colours(len(names))
    axes.bar(at - 0.2, own, 0.4, color=colours)
    axes.bar(at + 0.2, over_all, 0.4, facecolor="none", edgecolor=colours, hatch="/////", linewidth=0.8)
    axes.set(ylim=(0, 1))
    every = -(-len(names) // MOST_NAMES)
    shown = list(map(short_name, names))[::every]
    axes.set_xticks(at[::every], shown, rotation=45, ha="right", rotation_mode="anchor")


def bar_legend(figure: Figure) -> None:
    """Add a legend that explains the two bars."""
    handles = [
        Patch(facecolor="0.35", label="over the images of the class"),
        Patch(facecolor="none", edgecolor="0.35", hatch="/////", label="over all images"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
