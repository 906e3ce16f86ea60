"""What became of the claims of the paper, and the numbers that decide."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from reproduction.common import OPEN, Finding, Frames, last_probe, listed, markdown, median_and_range, where
from reproduction.tables import (
    CLASSES,
    LAST,
    LOSSES,
    NEAR_ONE,
    PZ_NEEDS,
    SPREADS,
    held,
    highest,
    leads,
    pz_cells,
    share_over_training,
    starts,
)

FIGURE = "{folder}"  # stands for the folder of the figures until a page is filled in


@dataclass(frozen=True)
class Verdict(Finding):
    """What became of a claim: `number` gives what decides it from the CSV files `needs`, None if runs are missing."""

    needs: tuple[str, ...]
    number: Callable[[Frames], str | None]
    figure: str


def verdicts(frames: Frames) -> str:
    """The table of claims and what became of them; open are those whose runs are not there."""
    rows = []
    for one, number in decided(frames):
        rows.append([one.claim, *([one.verdict, f"[figure]({FIGURE}/{one.figure}.png)"] if number else [OPEN, ""])])
    return markdown(["claim", "verdict", ""], rows)


def deciding(frames: Frames) -> str:
    """The table of the numbers that decide them."""
    return markdown(["claim", "decided by"], [[one.claim[:6], number or OPEN] for one, number in decided(frames)])


def decided(frames: Frames) -> list[tuple[Verdict, str | None]]:
    """The verdicts with the numbers that decide them; None where runs are missing."""
    return [(one, one.number(frames) if set(one.needs) <= set(frames) else None) for one in VERDICTS]


def _a(frames: Frames) -> str:
    def above(mode: str, **values: object) -> str:
        largest = where(frames["initialisation"], batch_norm=mode, **values)["largest_p"]
        return f"{(largest > NEAR_ONE).sum()} of {len(largest)}"

    return (
        f"networks with a p̄_k above {NEAR_ONE:g}: `he` {above('running', init='he', scaling='standard')}, "
        f"`torchvision` and `replaced_conv1` on raw pixels {above('running', init='torchvision', scaling='raw')} and "
        f"{above('running', init='replaced_conv1', scaling='raw')}; with batch statistics {above('batch')}"
    )


def _b(frames: Frames) -> str:
    texts = []
    for start, runs in starts(frames).items():
        at = where(runs, batch_norm="running", lr=runs["lr"].max()).groupby("step")[list(SPREADS)].mean()
        values = (f"{p:.2f} ({accuracy:.2f})" for p, accuracy in at[at.index.isin((0, 10))].itertuples(index=False))
        texts.append(f"{start} {listed(values)}")
    return f"mean distance of p̄_k (Acc_k) from 0.1 after 0 and 10 batches: {'; '.join(texts)}"


def _least_seed(classes: pd.DataFrame) -> pd.DataFrame:
    """The runs of one seed, the least, as in the figure."""
    return where(classes, seed=classes["seed"].min())


def _c(frames: Frames) -> str | None:
    run = where(_least_seed(frames["long_run_classes"]), loss="ce")
    if run.empty:
        return None
    last = run["epoch"].max()
    first, end = (
        where(run, epoch=epoch).set_index("class")[["probability", "accuracy"]] for epoch in (min(1, last), last)
    )
    higher = (end > first).sum()
    means = [f"{one[0]:.2f} and {one[1]:.2f}" for one in zip(first.mean(), end.mean(), strict=True)]
    return (
        f"mean over the classes after {min(1, last):g} and {last:g} epochs: p̄_k {means[0]}, Acc_k {means[1]}; higher "
        f"at the end: p̄_k of {higher['probability']}, Acc_k of {higher['accuracy']} of {len(end)} classes"
    )


def _d(frames: Frames) -> str | None:
    classes = _least_seed(frames["long_run_classes"])
    epoch = classes["epoch"].max() // 2
    later = where(classes, epoch=epoch).groupby("loss")[["accuracy", "probability"]].mean()
    if not {"ce", "bl_detached"} <= set(later.index):
        return None

    def compared(means: pd.DataFrame) -> str:
        accuracy, p = (f"{means.loc['bl_detached', one]:.2f} (CE {means.loc['ce', one]:.2f})" for one in means.columns)
        return f"mean Acc_k {accuracy}, p̄_k {p}"

    end = where(last_probe(frames["epoch_one"]), batch_norm="running")
    lr, momentum = end["lr"].min(), end["momentum"].iloc[0]
    first = where(end, lr=lr).groupby("loss")[["accuracy", "mean_p"]].mean().reindex(LOSSES)
    return (
        f"p_y^γ held constant, after epoch one at {lr:g} with momentum {momentum:g}: {compared(first)}; after "
        f"{epoch:g} epochs in the run of C: {compared(later)}; as written, least dominance after epoch one at any "
        f"rate: {where(end, loss='bl')['dominance'].min():.2f}"
    )


def _g(frames: Frames) -> str | None:
    parts = []
    classes = _least_seed(frames["long_run_classes"])
    last = classes["epoch"].max()
    for loss in ("ce", "pz"):
        end = where(classes, loss=loss, epoch=last)
        if end.empty:
            return None
        favoured = end["rank"] == 1
        parts.append(
            f"{loss.upper()}: p̄ of the favoured class {end.loc[favoured, 'probability'].item():.2f}, of the others "
            f"{median_and_range(end.loc[~favoured, 'probability'])}; mean Acc_k {end['accuracy'].mean():.2f}"
        )
    return f"after {last:g} epochs, " + ". ".join(parts)


def _e(frames: Frames) -> str:
    def seeds(runs: pd.DataFrame) -> "pd.Series[int]":
        running = where(runs, batch_norm="running")
        above = highest(running).groupby(running["seed"])
        return pd.Series([above.all().sum(), above.apply(lambda one: one.tail(LAST).all()).sum()])

    cells = pz_cells(frames)
    throughout, at_the_end = (listed(map(str, counts)) for counts in zip(*map(seeds, cells.values()), strict=True))
    return (
        f"seeds whose favoured class has the highest p̄ at every probe, in the settings of section E: {throughout} of "
        f"{_seeds(cells)}; at each of the last {LAST} probes: {at_the_end}"
    )


def _f(frames: Frames) -> str:
    cells = pz_cells(frames)
    leading = listed(f"{held(runs, leads):.1f}" for runs in cells.values())
    return (
        f"seeds whose favoured class is the most guessed, on average over the last {LAST} probes, in the settings of "
        f"section E: {leading} of {_seeds(cells)}; by chance {_seeds(cells) / CLASSES:g}"
    )


def _h(frames: Frames) -> str:
    shares = [
        share_over_training(where(runs, batch_norm="batch"), "favoured_share") for runs in pz_cells(frames).values()
    ]
    return (
        "share of the class favoured by batch statistics in the gradients of all batches, in the settings of section E"
        f": medians {listed(f'{share.median():.2f}' for share in shares)}, at most {max(map(max, shares)):.2f}"
    )


def _seeds(cells: Mapping[str, pd.DataFrame]) -> int:
    return max(runs["seed"].nunique() for runs in cells.values())


VERDICTS = (
    Verdict(
        "**A.** At initialisation one class has p̄ near 1, the others near 0",
        "In part",
        "in evaluation mode, where logits are large (`he`; torchvision's rule on raw pixels); never by the batch "
        "statistics that training uses",
        "in evaluation mode, if logits are large; never as training sees it",
        ("initialisation",),
        _a,
        "initialisation",
    ),
    Verdict(
        "**B.** In the first batches all p̄_k move together and settle near 0.1; accuracies lag",
        "In part",
        "at small rates; running statistics do most of it, without learning; accuracies lag from `replaced_conv1`, "
        "little from `he`",
        "at small rates; batch norm's running statistics do most of it",
        ("first_batches", "replaced_conv1"),
        _b,
        "first_batches",
    ),
    Verdict(
        "**C.** CE: after epoch one the p̄_k rise together, accuracies with them",
        "Seen once",
        "for the mean over classes; single classes rise and fall apart, each with its accuracy",
        "for the mean over classes, not for single ones",
        ("long_run_classes",),
        _c,
        "long_run",
    ),
    Verdict(
        "**D.** BL (γ = 0.7): as CE but slower, accuracies lagging",
        "In part",
        "with p_y^γ held constant, at small rates; as equation (2) is written it collapses onto one class",
        "at small rates, weight held constant, few seeds; as written it collapses",
        ("epoch_one", "long_run_classes"),
        _d,
        "epoch_one",
    ),
    Verdict(
        "**E.** PZ: the favoured class stays above all others and rises again, the others fall; its accuracy stays "
        "perfect, the others' poor",
        "In part",
        "in single runs, from `replaced_conv1` at 0.01; else a few classes share, or one stands alone, seldom the "
        "favoured one",
        "in single runs; else a few classes share, or another stands alone",
        PZ_NEEDS,
        _e,
        "favoured_conv1",
    ),
    Verdict(
        "**F.** The initially favoured class is the one that dominates under PZ",
        "No",
        "it does not always lead, and ten seeds cannot tell how often from chance; at a small rate it survives more "
        "often",
        "ten seeds cannot tell it from chance; mostly another class",
        PZ_NEEDS,
        _f,
        "favoured_conv1",
    ),
    Verdict(
        "**G.** Impacts can persist to the end of training",
        "Seen once",
        "under PZ, in the run in which E holds, and there under BL as written; not under CE",
        "under PZ, in the run in which E holds; not under CE",
        ("long_run_classes",),
        _g,
        "long_run",
    ),
    Verdict(
        "**H.** Under PZ training is almost entirely driven by the favoured class",
        "No",
        "while the network changes several classes share the gradient; a class that stands alone has what little is "
        "left",
        "several classes share the gradient while the network changes",
        PZ_NEEDS,
        _h,
        "piecewise_zero",
    ),
)
TABLES = {"verdicts": (("runs",), verdicts), "deciding": (("runs",), deciding)}
