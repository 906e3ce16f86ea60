"""The claims of arXiv 2505.12096 on images: what untrained networks are, and what comes of it in training.

`networks` and `correlations` measure what the claims need of untrained networks; `TABLES` and `FIGURES` show it beside
the training runs of the stages `trainability` and `trainability_cifar10`, of which `reproduction.collect` makes CSV
files. `reproduction.theory` calls them.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from statistics import mode
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import igb
from igb import experiment, initialization, models
from igb._checks import InputError
from igb._plots import COLOURS, log_axis
from igb.report.prediction import dominance_of
from igb.statistics import measure as measured
from igb.theory import edge_of_chaos, fixed_point, neutral_edge, propagate
from igb.training.probe import probe_order
from reproduction.common import Frames, markdown, mean_and_half, where

STAGES = {"trainability": "Fashion-MNIST", "trainability_cifar10": "CIFAR-10"}
CLASSES = {"trainability": 2, "trainability_cifar10": 10}
DEPTHS = (10, 50)  # hidden layers; the runs that train have the latter
WIDTH, SEEDS, IMAGES = 300, range(20), 500
TRAINED = ("tanh", 0.1)  # activation and bias variance of the runs that train
POINTS = {
    "tanh": [(weight, 0.1) for weight in (1.0, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0)]
    + [(weight, 0.5) for weight in (1.5, 2.5, 3.5, 4.5)],
    "relu": [(1.5, 0.1), (2.0, 0.1), (2.5, 0.1), (2.0, 0.0)],
}  # weight and bias variances
POINT = ["activation", "weight_variance", "bias_variance", "depth"]
SHOWN = [("tanh", 1.0, 0.1), ("tanh", 2.0, 0.1), ("tanh", 4.0, 0.1), ("tanh", 2.5, 0.5), ("relu", 1.5, 0.1),
         ("relu", 2.5, 0.1), ("relu", 2.0, 0.0)]  # fmt: skip
WAYS = (("drift_ratio", "apart"), ("of_directions", "apart_of_directions"))  # of `correlations.csv`
SHARES = ("share", "parameter_share")  # of the favoured class in the gradients by logits and by parameters
HEAD = ["activation", "σ_w²", "σ_b²"]
RANGE = (0.25, 5000)  # of drift ratios that are drawn; beyond it nothing trains
GROWING = 2.0  # times the drift ratio at the smaller depth: more is a drift ratio that still grows


@dataclasses.dataclass(frozen=True)
class ImagesOf:
    """The images and labels that untrained networks are measured on, and the moments that the theory starts from."""

    images: Tensor
    labels: Tensor
    classes: int
    variance: float
    correlation: float

    @classmethod
    def stage(cls, stage: str, overrides: Sequence[str]) -> "ImagesOf":
        """Those of a stage: test images, with as many of every class."""
        data = experiment.build(experiment.compose(f"experiment=reproduction/{stage}", *overrides)).data
        data.setup()
        order = probe_order(data.test_labels, min(IMAGES, len(data.test_labels)))
        images = data.scale(data.test_images[order])
        return cls(images, data.test_labels[order], len(data.classes), *initialization.input_moments(images))

    def expected(self, activation: str, weight: float, bias: float, depth: int) -> float:
        """The drift ratio that the theory gives the logits of a network with so many hidden layers."""
        found = propagate(activation, weight, bias, depth + 1, self.correlation, self.variance)
        return float(found.drift_ratio[-1])

    def network(self, seed: int, activation: str, weight: float, bias: float, depth: int) -> nn.Module:
        """An untrained network for these images."""
        _, channels, size, _ = self.images.shape
        make = functools.partial(models.MLP, self.classes, size, channels, depth, WIDTH, activation)
        draw = functools.partial(initialization.mean_field, weight_variance=weight, bias_variance=bias)
        return initialization.build(make, draw, seed)


def points() -> Iterator[tuple[str, float, float, int]]:
    """Each activation, weight variance, bias variance and depth."""
    for activation, pairs in POINTS.items():
        for weight, bias in pairs:
            for depth in DEPTHS:
                yield activation, weight, bias, depth


def networks(stage: str, of: ImagesOf, seeds: range) -> Iterator[dict[str, Any]]:
    """A row for each untrained network: claims (ii) and (iv)."""
    for point in points():
        expected = of.expected(*point)
        for seed in seeds:
            network = of.network(seed, *point)
            found = measured(network, of.images, of.labels)
            favoured = int(found.guess_fraction.argmax())
            norms = found.gradient_norm * found.count
            yield {
                "data": stage, **dict(zip(POINT, point, strict=True)), "seed": seed, "expected": _short(expected),
                "drift_ratio": _short(igb.drift_ratio(network, of.images)), "dominance": found.dominance,
                "share": _short(float(norms[favoured] / norms.sum())),
                "parameter_share": _short(_parameter_share(network, of, favoured)),
            }  # fmt: skip


def _parameter_share(network: nn.Module, of: ImagesOf, favoured: int) -> float:
    """The norm of the gradient by all parameters that the images of the favoured class give, over the sum of classes.

    Of the mean cross-entropy of each class's images; an estimate of what the class contributes to a step.
    """
    parameters, norms = list(network.parameters()), []
    for k in range(of.classes):
        members = of.labels == k
        loss = nn.functional.cross_entropy(network(of.images[members]), of.labels[members])
        gradients = torch.autograd.grad(loss, parameters)
        norms.append(sum(float(one.double().square().sum()) for one in gradients) ** 0.5)
    return norms[favoured] / sum(norms)


def correlations(stage: str, of: ImagesOf, seeds: range) -> Iterator[dict[str, Any]]:
    """A row for each point, of the last hidden layer before its activation: claim (i).

    The first half of the seeds gives the drift ratio, from mean and variance over the images in fixed networks; the
    second half `apart`, the mean over pairs of images of 1 - c, from their correlation c over networks and units. So
    neither knows of the other. `of_directions` and `apart_of_directions` are the same with the values of every image
    divided by their length over the units of a network, which no argmax sees.
    """
    half = len(seeds) // 2
    for point in points():
        moments = np.zeros((2, 2))  # as they are, and of directions; between, within
        products = torch.zeros(2, len(of.images), len(of.images), dtype=torch.float64)
        for seed in seeds:
            network: Any = of.network(seed, *point)
            with torch.no_grad():
                units = _last_hidden(network, of.images)
            both = torch.stack([units, units / units.norm(dim=1, keepdim=True)])
            if seed in seeds[:half]:
                moments += [_moments(one) for one in both]
            else:
                products += both @ both.mT
        ratios, apart = moments[:, 0] / moments[:, 1], [_apart(one) for one in products]
        yield {
            "data": stage, **dict(zip(POINT, point, strict=True)),
            "expected": _short(of.expected(*point[:3], point[3] - 1)),
            "drift_ratio": _short(ratios[0]), "apart": _short(apart[0]),
            "of_directions": _short(ratios[1]), "apart_of_directions": _short(apart[1]),
        }  # fmt: skip


def _apart(products: Tensor) -> float:
    """The mean of 1 - cosine over the pairs, from products [N, N]."""
    lengths = products.diagonal().sqrt()
    apart = 1 - products / lengths[:, None] / lengths
    return float(apart[~torch.eye(len(lengths), dtype=torch.bool)].mean())


def _moments(units: Tensor) -> tuple[float, float]:
    """T and V of values [N, units], means over the units; of T what the mean over N images adds to it is taken off."""
    variance = units.var(dim=0, correction=1)
    return float((units.mean(dim=0).square() - variance / len(units)).mean()), float(variance.mean())


def _last_hidden(network: Any, images: Tensor) -> Tensor:
    """The values [N, width] before the last activation, float64."""
    units = images.flatten(1)
    for layer in network.layers[:-1]:
        units = layer(units)
    values: Tensor = network.layers[-1][0](units)
    return values.double()


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def of_points(frames: Frames) -> pd.DataFrame:
    """A row for each point of `networks.csv`: means and 95 % intervals over the networks, and what the theory says.

    Drift ratios are averaged by their logarithms.
    """
    rows = []
    for (stage, *point), some in frames["networks"].groupby(["data", *POINT], sort=False):
        expected = float(some["expected"].iloc[0])
        ratio, ratio_half = mean_and_half(np.log(some["drift_ratio"]))
        dominance, half = mean_and_half(some["dominance"])
        rows.append(
            {
                "data": stage, **dict(zip(POINT, point, strict=True)), "phase": _phase(*point[:3]),
                "expected": expected, "drift_ratio": np.exp(ratio), "least": np.exp(ratio - ratio_half),
                "most": np.exp(ratio + ratio_half),
                "expected_dominance": dominance_of(expected, CLASSES[stage]), "dominance": dominance,
                "half": half, **{name: some[name].mean() for name in SHARES},
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


@functools.cache
def _phase(activation: str, weight_variance: float, bias_variance: float) -> str:
    return fixed_point(activation, weight_variance, bias_variance).phase


def phase_seen(shallow: float, deep: float) -> str:
    """The phase that drift ratios at the smaller and the larger depth look like; they do not tell order from chaos."""
    if deep < 1:
        return "neutral"
    return "deep prejudice" if deep > GROWING * shallow else "prejudiced"


def phases_seen(frames: Frames) -> pd.DataFrame:
    """A row for each data, activation and variances: what they look like at these depths.

    `seen` in the networks, `expected` by the theory of these depths, `deep` by that of endless depth, where the edge of
    chaos has no end of its drift ratio either.
    """
    rows = []
    for known, some in of_points(frames).groupby(["data", *POINT[:3]], sort=False):
        shallow, deep = (some.set_index("depth").loc[depth] for depth in DEPTHS)
        looks = [phase_seen(shallow[name], deep[name]) for name in ("drift_ratio", "expected")]
        endless = deep["phase"].replace("edge of chaos", "deep prejudice").split(",")[0]
        rows.append([*known, *looks, endless])
    return pd.DataFrame(rows, columns=["data", *POINT[:3], "seen", "expected", "deep"])


def trained(frames: Frames) -> pd.DataFrame:
    """A row for each stage, weight variance and step: accuracy, its 95 % interval and its values over the seeds.

    Each seed has the rate that is best at this step for the other seeds; `lr` is the rate of most. A run that diverged
    counts as chance. Raises InputError for a stage of fewer than two seeds, or without some of its runs.
    """
    rows = []
    for stage in STAGES:
        runs = frames[stage]
        steps = _steps(runs)
        if runs["seed"].nunique() < 2:
            raise InputError(f"{stage} needs runs of two seeds or more, so that one can say which rate another takes")
        for weight, some in runs.groupby("weight_variance"):
            accuracies = some.set_index(["lr", "seed", "step"])["accuracy"].unstack("step").fillna(1 / CLASSES[stage])
            for step in steps:
                by_seed = accuracies[step].unstack("seed")
                if by_seed.isna().any(axis=None):
                    raise InputError(f"{stage} lacks runs at weight variance {weight:g}: finish and collect it first")
                rates = [by_seed.drop(columns=seed).mean(axis=1).idxmax() for seed in by_seed]
                values = accuracies.loc[list(zip(rates, by_seed, strict=True)), step]
                rows.append([stage, weight, step, mode(rates), *mean_and_half(values), values.tolist()])
    columns = ["data", "weight_variance", "step", "lr", "accuracy", "half", "values"]
    points = where(of_points(frames), activation=TRAINED[0], bias_variance=TRAINED[1], depth=DEPTHS[-1])
    points = points.rename(columns={"half": "half_of_dominance"})
    return pd.DataFrame(rows, columns=columns).merge(points, on=["data", "weight_variance"])


def _steps(runs: pd.DataFrame) -> list[int]:
    """The steps that are shown: the third last that is probed, and the last."""
    steps = sorted(runs["step"].unique())
    return [steps[-3], steps[-1]]


def claims(frames: Frames) -> str:
    """The claims, what became of them, and the numbers that say so."""
    numbers = (_of_ratios(frames), _of_phases(frames), _of_training(frames), _of_gradients(frames))
    return markdown(["claim", "verdict", "number"], [[*one, n] for one, n in zip(CLAIMS, numbers, strict=True)])


CLAIMS = (
    ("**(i)** γ from fixed weights is c / (1 - c) from fixed inputs", "holds; for ReLU once images have one length"),
    (
        "**(ii)** Networks fall into the phases of the theory",
        "holds at these depths; next to the edge of chaos 50 layers look like deep prejudice",
    ),
    (
        "**(iii)** The initialisation that trains best is biased, not neutral",
        "holds on both, at each step: best next to the edge of chaos, at a dominance far above chance",
    ),
    (
        "**(iv)** The favoured class and the gradient at initialisation",
        "it has less than its share at every point",
    ),
)


def _of_ratios(frames: Frames) -> str:
    parts = []
    for activation, some in frames["correlations"].groupby("activation", sort=False):
        direct, directions = (some[name] / (1 / some[apart] - 1) for name, apart in WAYS)
        to_theory = some["of_directions"] / some["expected"]
        parts.append(
            f"{activation} {_span(direct)}; of directions {_span(directions)}, and {_span(to_theory)} of the theory"
        )
    return f"γ over c / (1 - c), {len(frames['correlations'])} points, ten networks for each side: {'; '.join(parts)}"


def _of_phases(frames: Frames) -> str:
    seen, points = phases_seen(frames), of_points(frames)
    inside = (points["dominance"] - points["expected_dominance"]).abs() <= points["half"].clip(lower=0.01)
    near = (points["drift_ratio"] / points["expected"]).groupby(points["activation"], sort=False)
    return (
        f"of {len(seen)} points {(seen['seen'] == seen['expected']).sum()} look as the theory says for these depths, "
        f"{(seen['seen'] == seen['deep']).sum()} as for endless depth; γ over theory "
        f"{', '.join(f'{name} {_span(one)}' for name, one in near)}; mean dominance within its 95 % interval, or 0.01, "
        f"in {inside.sum()} of {len(points)}"
    )


def _of_training(frames: Frames) -> str:
    table, parts = trained(frames), []
    for stage, title in STAGES.items():
        for step in _steps(frames[stage]):
            end = where(table, data=stage, step=step).set_index("weight_variance")
            at_edge = (end.index.to_series() - edge_of_chaos(*TRAINED)).abs().idxmin()
            best, neutral = end["accuracy"].idxmax(), end["accuracy"][end["expected"] < 1].idxmax()
            gain, half = mean_and_half(pd.Series(end["values"][at_edge]) - pd.Series(end["values"][neutral]))
            parts.append(
                f"{title}, {step} steps: best {best:g} (γ {end['expected'][best]:.3g}), {at_edge:g} over the best "
                f"neutral one, {neutral:g}: {gain:+.3f} ± {half:.3f}"
            )
    return f"σ_w² and accuracy; {at_edge:g} is next to the edge of chaos; {'; '.join(parts)}"


def _of_gradients(frames: Frames) -> str:
    parts = [
        f"{_span(some[list(SHARES)].stack())} ({title}; an equal share is {1 / CLASSES[stage]:g})"
        for stage, title in STAGES.items()
        for some in [where(of_points(frames), data=stage)]
    ]
    return f"share of the favoured class, by logits or parameters, means of the points: {', '.join(parts)}"


def ratios(frames: Frames) -> str:
    """The drift ratio of the last hidden layer in each way: claim (i)."""
    rows = []
    for known, some in frames["correlations"].groupby(POINT, sort=False):
        if known[:3] in SHOWN:
            row = _known(known)
            for stage in STAGES:
                one = where(some, data=stage).iloc[0]
                values = [
                    one["expected"],
                    *(value for name, apart in WAYS for value in (one[name], 1 / one[apart] - 1)),
                ]
                row += [
                    f"{values[0]:.3g}",
                    *(f"{a:.3g}, {b:.3g}" for a, b in zip(values[1::2], values[2::2], strict=True)),
                ]
            rows.append(row)
    head = [f"{title}: {name}" for title in STAGES.values() for name in ("theory", "γ, c / (1 - c)", "of directions")]
    return markdown([*HEAD, "hidden layers", *head], rows)


def phases(frames: Frames) -> str:
    """Phases by the theory and as seen, drift ratios and dominance: claim (ii)."""
    seen, points, rows = phases_seen(frames), of_points(frames), []
    for known, some in points.groupby(POINT[:3], sort=False):
        key = dict(zip(POINT, known, strict=False))
        cells = []
        for stage in STAGES:
            shallow, deep = (where(some, data=stage, depth=depth).iloc[0] for depth in DEPTHS)
            cells += [
                where(seen, data=stage, **key)["seen"].iloc[0],
                *(f"{one['expected']:.3g}, {one['drift_ratio']:.3g}" for one in (shallow, deep)),
                f"{deep['expected_dominance']:.2f}, {deep['dominance']:.2f} ± {deep['half']:.2f}",
            ]
        rows.append([*_known(known), some["phase"].iloc[0], *cells])
    head = [
        f"{title}: {name}"
        for title in STAGES.values()
        for name in ("seen", f"γ at {DEPTHS[0]}", f"at {DEPTHS[1]}", f"dominance at {DEPTHS[1]}")
    ]
    return markdown([*HEAD, "phase", *head], rows)


def training(frames: Frames) -> str:
    """Accuracy after some steps beside bias at initialisation: claim (iii)."""
    rows = []
    for weight, some in trained(frames).groupby("weight_variance"):
        row = [f"{weight:g}", some["phase"].iloc[0]]
        for stage in STAGES:
            probes = where(some, data=stage)
            last = probes.iloc[-1]
            row += [f"{last['expected']:.3g}, {last['drift_ratio']:.3g}"]
            row += [f"{last['expected_dominance']:.2f}, {last['dominance']:.2f}", f"{last['lr']:g}"]
            row += [_accuracy(probe) for _, probe in probes.iterrows()]
        rows.append(row)
    head = [f"{title}: {name}" for stage, title in STAGES.items()
            for name in ("γ", "dominance", "rate", *(f"after {step}" for step in _steps(frames[stage])))]  # fmt: skip
    return markdown(["σ_w²", "phase", *head], rows)


def gradients(frames: Frames) -> str:
    """The favoured class's share of the gradient at initialisation: claim (iv)."""
    points, rows = where(of_points(frames), depth=DEPTHS[-1]), []
    for known, some in points.groupby(POINT[:3], sort=False):
        cells = [
            f"{value:.2f}" if name == "dominance" else f"{value:.3f}"
            for stage in STAGES
            for name, value in where(some, data=stage).iloc[0][["dominance", *SHARES]].items()
        ]
        if known in SHOWN:
            rows.append([*_known(known), *cells])
    head = [
        f"{title}: {name}" for title in STAGES.values() for name in ("dominance", "share by logits", "by parameters")
    ]
    return markdown([*HEAD, *head], rows)


def phases_figure(frames: Frames) -> Figure:
    """Drift ratio and dominance over weight variances, by the theory and measured."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    grid, points = figure.subplots(2, 2, sharex=True, sharey="row"), of_points(frames)
    points = where(points, activation=TRAINED[0], bias_variance=TRAINED[1])
    for column, (stage, title) in zip(grid.T, STAGES.items(), strict=True):
        for depth, colour in zip(DEPTHS, (COLOURS[2], COLOURS[0]), strict=True):
            some = where(points, data=stage, depth=depth)
            x, label = some["weight_variance"], f"{depth} hidden layers"
            spread = _spread(some)
            column[0].plot(x, some["expected"], color=colour, label=f"{label}, theory")
            column[0].errorbar(
                x, some["drift_ratio"], spread, fmt="o", color=colour, markersize=3, label=f"{label}, measured"
            )
            column[1].plot(x, some["expected_dominance"], color=colour)
            column[1].errorbar(x, some["dominance"], some["half"], fmt="o", color=colour, markersize=3)
        column[0].axhline(1, color="0.6", linewidth=0.8)
        column[0].set_title(title)
        column[1].set_xlabel(r"weight variance $\sigma_w^2$", parse_math=True)
        for axes in column:
            _edges(axes)
    log_axis(grid[0, 0])
    grid[0, 0].set_ylabel("drift ratio")
    grid[1, 0].set_ylabel("dominance")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def training_figure(frames: Frames) -> Figure:
    """Accuracy after some steps against the drift ratio at initialisation, by the theory and measured."""
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    table = trained(frames)
    for axes, (stage, title) in zip(figure.subplots(1, 2), STAGES.items(), strict=True):
        steps = _steps(frames[stage])
        for step, colour in zip(steps, (COLOURS[1], COLOURS[0]), strict=True):
            some = where(table, data=stage, step=step)
            accuracy, spread = some["accuracy"], _spread(some)
            line = {"color": colour, "linewidth": 1, "label": f"after {step} steps"}
            axes.errorbar(some["expected"], accuracy, some["half"], **line)
            axes.errorbar(some["drift_ratio"], accuracy, xerr=spread, fmt="o", color=colour, markersize=3)
        for row in where(table, data=stage, step=steps[-1]).itertuples():
            place: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 6, "rotation": 90}
            top = axes.get_xaxis_transform()
            if RANGE[0] < row.expected < RANGE[1]:
                axes.annotate(f"{row.weight_variance:g}", (row.expected, 1), (0, 2), xycoords=top, **place)
        axes.axvline(1, color="0.6", linewidth=0.8)
        log_axis(axes, "x")
        axes.set(xlim=RANGE, xlabel="drift ratio at initialisation", ylabel="accuracy at the best rate")
        axes.set_ylim(top=min(1.0, axes.get_ylim()[1]))
        axes.set_title(title, pad=22)
        axes.legend(frameon=False, fontsize=7)
    return figure


def _spread(points: pd.DataFrame) -> Any:
    return [points["drift_ratio"] - points["least"], points["most"] - points["drift_ratio"]]


def _edges(axes: Axes) -> None:
    for edge, dash in ((edge_of_chaos, "-"), (neutral_edge, "--")):
        axes.axvline(edge(*TRAINED), color="black", linestyle=dash, linewidth=0.8)


def _known(known: Any) -> list[str]:
    return [f"{one:g}" if isinstance(one, float | int) else str(one) for one in known]


def _accuracy(row: Any) -> str:
    return f"{row['accuracy']:.3f} ± {row['half']:.3f}"


def _span(values: "pd.Series[float]") -> str:
    return f"{values.min():.2g} to {values.max():.2g}"


def numbers(frames: Frames) -> dict[str, str]:
    """What the text of the page says of claims (iii) and (iv)."""
    table, points, found = trained(frames), where(of_points(frames), depth=DEPTHS[-1]), {}
    for stage, title in STAGES.items():
        key, steps = title.split("-")[0].lower(), _steps(frames[stage])
        at_steps = [where(table, data=stage, step=step).set_index("weight_variance") for step in steps]
        best = pd.concat([end.loc[end["accuracy"].idxmax(), ["expected_dominance", "dominance"]] for end in at_steps])
        found[f"{key}_best"] = f"{best.min():.2f} to {best.max():.2f}"
        accuracy = at_steps[-1]["accuracy"]
        found |= {f"{key}_behind_{weight}": f"{accuracy[2.0] - accuracy[weight]:.2f}" for weight in (3, 4)}
        found[f"{key}_ordered"] = f"{at_steps[-1]['dominance'][1.0]:.2f}"
        for activation, weight in (("tanh", 1.0), ("relu", 2.5)):
            (row,) = where(
                points, data=stage, activation=activation, weight_variance=weight, bias_variance=TRAINED[1]
            ).itertuples()
            found[f"{key}_share_{activation}"] = f"{row.share:.2f}"
    return found


TABLES: dict[str, Callable[[Frames], str]] = {
    "claims": claims, "ratios": ratios, "phases": phases, "training": training, "gradients": gradients,
}  # fmt: skip
FIGURES: dict[str, Callable[[Frames], Figure]] = {"phases_images": phases_figure, "trainability": training_figure}
