"""The figures, tables and numbers of docs/study.md and docs/advice.md, and the findings of the README.

They are made of the CSV files of the study's stages, whose folder the figures go to:
`python -m study.page docs/study docs/study.md docs/study-tables.md docs/advice.md README.md`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import matplotlib as mpl

from igb._plots import STYLE
from reproduction import verdicts
from reproduction.common import OPEN, Finding, Frames, fill, in_short, markdown, one_line_exit, read
from study import data, dial, networks, noise, one_number, optimizer, remedies
from study.collect import STAGES

TABLES: dict[ModuleType, tuple[Callable[[Frames], str], ...]] = {
    one_number: (one_number.prediction, one_number.dead_zones),
    networks: (networks.trapped, networks.rates, networks.predictors, networks.bands),
    dial: (dial.dials, dial.favoured),
    data: (data.kinds, data.long_tail),
    optimizer: (optimizer.optimizers,),
    noise: (noise.memorised, noise.first),
    remedies: (remedies.ranked,),
}


@dataclass(frozen=True)
class Verdict(Finding):
    """What became of a hypothesis; `number` names numbers of its module in braces."""

    module: ModuleType
    number: str


VERDICTS: tuple[Verdict, ...] = (
    Verdict(
        "**1.** Does the mean weight of a loss at initialisation predict what comes of it?",
        "In part",
        "on the MLP nearly as well as the loss's name; on `cnn`, whose steps are large, hardly: zones without gradient "
        "decide there",
        "where steps are small; else zones without gradient decide",
        one_number,
        "error in accuracy knowing the network alone, the weight, or the name: MLP {error_mlp_nothing}, "
        "{error_mlp_weight}, {error_mlp_loss}; `cnn` {error_cnn_nothing}, {error_cnn_weight}, {error_cnn_loss}",
    ),
    Verdict(
        "**2.** Is the trap of Piecewise-zero loss one of ResNet-50, depth, batch norm or the drift ratio?",
        "No",
        "three layers without batch norm or drift are trapped too; at a cutoff of 0.1 a small learning rate frees them",
        "`cnn`, without any of them, is trapped; at small rates it leaves",
        networks,
        "escaped at the rates 0.001 and 0.01: `cnn` {rate_cnn_0001}, {rate_cnn_001}, at 0.01 with a drift ratio of "
        "{centred_cnn_10_ratio} {centred_cnn_10}; MLP {rate_mlp_0001}, {rate_mlp_001}, at 0.1 {rate_mlp_01}",
    ),
    Verdict(
        "**3.** Does less bias at the start mean an earlier escape under Piecewise-zero loss?",
        "In part",
        "`cnn` is trapped from every dominance, even centred; for an MLP larger weights delay. The favoured class wins "
        "oftener than by chance",
        "for an MLP; `cnn` is trapped from every dominance",
        dial,
        "`cnn` escaped from dominance 0.3 and 0.9 in {dial_escaped_3}, {dial_escaped_9}, with a centred head in "
        "{centred_cnn_10}; winner is the favoured class in {won_dial}, by chance {chance_dial}",
    ),
    Verdict(
        "**4.** Is the trap one of gray CIFAR-10 in ten classes?",
        "No",
        "`cnn` is trapped in colour, on Fashion-MNIST and in five classes; in a long tail a favoured class wins if it "
        "is the commonest",
        "also in colour, on other images, in a long tail",
        data,
        "escaped: colour {data_color_pz}, Fashion-MNIST {data_fashion_pz}, five classes {data_five_pz}, two "
        "{data_two_pz}; the favoured class wins if it is the commonest in {tail_pz_commonest_won}, if it is the "
        "rarest in {tail_pz_rarest_won}",
    ),
    Verdict(
        "**5.** Does Adam rescue losses with small weights, and not those with none?",
        "No",
        "on `cnn` `mae` and `pz` both stay trapped at 0.001, and both leave at 0.0001; `gce` needed no rescue",
        "`mae` and `pz` alike: trapped at 0.001, free at 0.0001",
        optimizer,
        "escaped on `cnn` at 0.001 and 0.0001: `mae` {adam_001_cnn_mae_escaped}, {adam_0001_cnn_mae_escaped}; `pz` "
        "{adam_001_cnn_pz_escaped}, {adam_0001_cnn_pz_escaped}",
    ),
    Verdict(
        "**6.** Which losses memorise wrong labels, and are the favoured classes memorised first?",
        "In part",
        "cross-entropy does, `gce` less where it leaves; trapped runs memorise nothing and learn nothing. Favoured "
        "first: not under cross-entropy",
        "cross-entropy most; trapped runs learn nothing; favoured first: not seen",
        noise,
        "wrong labels memorised after 15 epochs: `ce` {noise_ce_memorised}, `gce` {noise_gce_memorised} where it left "
        "({noise_gce_left}), `pz` after an epoch of ce {noise_pz_memorised}; left: `phuber` {noise_phuber_left}, "
        "`pz_smooth` {noise_pz_smooth_left}; rank correlation at the end, ce {noise_ce_rank_end}",
    ),
    Verdict(
        "**7.** Is there a remedy for a network that Piecewise-zero loss traps?",
        "Yes",
        "beginning with cross-entropy, for an epoch or fading out; a smooth cutoff or a tenth of the rate hardly frees "
        "it, cutoff 0.05 perhaps",
        "a beginning with cross-entropy; with a large cutoff little else helps",
        remedies,
        "escaped: nothing {remedy_none_cnn_escaped}; warm-up {remedy_warmup_cnn_escaped}; ramp "
        "{remedy_ramp_cnn_escaped}; cutoff 0.05 {remedy_cutoff_05_cnn_escaped}; smooth {remedy_smooth_cnn_escaped}",
    ),
)


def parts(frames: Frames) -> tuple[dict[str, str], dict[str, str]]:
    """Tables and numbers by their names, of the hypotheses whose CSV files are there; of the others tables say so."""
    tables = {"runs": costs(frames)}
    numbers: dict[str, str] = {}
    for module, functions in TABLES.items():
        has_runs = _has_runs(module, frames)
        tables |= {one.__name__: one(frames) if has_runs else f"*({OPEN})*" for one in functions}
        numbers |= module.numbers(frames) if has_runs else {}
    rows = []
    for one in VERDICTS:
        known = [one.verdict, one.number.format(**numbers)] if _has_runs(one.module, frames) else [OPEN, ""]
        rows.append([one.claim, *known])
    of_front_page = {"findings": in_short(verdicts.VERDICTS), "study_findings": in_short(VERDICTS)}
    if not all(_has_runs(module, frames) for module in TABLES):
        numbers = _Open(numbers)
    return {**tables, **of_front_page, "verdicts": markdown(["question", "answer", "numbers"], rows)}, numbers


def _has_runs(module: ModuleType, frames: Frames) -> bool:
    """Whether the runs of a hypothesis are there, and of the first one seeds enough to predict some from others."""
    return set(module.NEEDS) <= set(frames) and (module is not one_number or len(one_number.runs(frames)) > 0)


class _Open(dict[str, str]):
    """Numbers of which some cannot be known yet."""

    def __missing__(self, name: str) -> str:
        return "(open)"


def costs(frames: Frames) -> str:
    """How many runs of each stage there are, and what they took."""
    rows, total, hours = [], 0, 0.0
    for stage in STAGES:
        if stage in frames:
            frame = frames[stage]
            first = frame.drop_duplicates(list(frame.columns[: frame.columns.get_loc("batch_norm")]))
            rows.append([f"`{stage}`", f"{len(first):,}", f"{first['seconds'].sum() / 3600:.1f}"])
            total, hours = total + len(first), hours + first["seconds"].sum() / 3600
    return markdown(["stage", "runs", "hours"], [*rows, ["all", f"{total:,}", f"{hours:.1f}"]])


def draw(folder: Path, frames: Frames) -> None:
    """Draw the figure of each hypothesis whose CSV files are there."""
    with mpl.rc_context(STYLE):
        for module in TABLES:
            if _has_runs(module, frames):
                module.figure(frames).savefig(folder / f"{module.__name__.rpartition('.')[2]}.png", dpi=150)


def filled(page: Path, frames: Frames) -> str:
    """The text of a page with its tables and numbers filled in."""
    return fill(page.read_text(encoding="utf-8"), *parts(frames))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m study.page FOLDER [PAGE ...]")
    with one_line_exit():
        found = read(Path(sys.argv[1]))
        draw(Path(sys.argv[1]), found)
        for page in map(Path, sys.argv[2:]):
            page.write_text(filled(page, found), encoding="utf-8")
