import json
import re

import numpy as np
import pytest

from igb import report
from igb.report.landscape import LossCurve, weight_range
from igb.report.page import _losses, thinned, write_page
from igb.report.runs import find_runs
from igb.report.settings import panels
from igb.report.verdict import answer, overview, share, when
from tests.helpers.runs import HEADER, made_run, sweep

pytestmark = pytest.mark.usefixtures("undrawn")


def page(folder):
    return (folder / "index.html").read_text()


def data(folder, name="data"):
    return json.loads(re.search(rf'id="{name}">(.*?)</script>', page(folder), re.DOTALL)[1])


def sentences(folder, threshold=0.6):
    return [text for _, text in answer(panels(find_runs([folder])[0]), threshold)]


def test_the_charts_have_the_numbers_of_the_runs(finished, tmp_path):
    report.write([finished], tmp_path)
    drawn = data(tmp_path)
    runs = find_runs([finished])[0]
    assert [one["title"] for one in drawn["panels"]] == [
        f"{run.label} ({mode} statistics)" for run in runs for mode in run.modes
    ]
    one = drawn["panels"][2]  # bl, running
    for quantity in ("probability", "guess_fraction", "gradient_share"):
        table = runs[1].table(quantity, "running")
        assert one["steps"] == table.index.tolist()
        np.testing.assert_allclose(one["curves"][quantity]["mean"], table.to_numpy().T, rtol=6e-3, atol=1e-9)
    losses = data(tmp_path, "losses")
    assert [curve["name"].partition("(")[0] for curve in losses["curves"]] == [
        "CrossEntropy", "BlurryLoss", "PiecewiseZeroLoss",
    ]  # fmt: skip
    at = losses["p"].index(0.01)
    assert losses["curves"][0]["loss"][at] == pytest.approx(-np.log(0.01), rel=6e-3)


def test_seeds_are_a_mean_with_bounds_and_each_run_can_be_explored(tmp_path):
    sweep(tmp_path)
    report.write([tmp_path])
    mean, *single = data(tmp_path / "report")["panels"]
    assert (mean["title"], mean["count"], mean["of_setting"]) == ("loss=pz", "n = 2 to 3", True)
    assert set(mean["curves"]["accuracy"]) == {"mean", "each"}
    assert [(one["of_setting"], one["of"], one["run"]) for one in single] == [(False, 0, run) for run in range(3)]
    assert mean["curves"]["probability"]["each"][1] == [[1.0, 0.7, 0.9], [0.0, 0.4, 0.3]]  # the favoured one first
    assert mean["orders"] == [[0, 1], [1, 0], [0, 1]]
    assert mean["by_class"]["probability"]["mean"][0] == [0.633, 0.5, 0.4]
    assert "loss=pz favour different classes" in page(tmp_path / "report")
    assert 'id="by-class"' in page(tmp_path / "report")
    report.write([tmp_path], align="class")
    mean, *_ = data(tmp_path / "report")["panels"]
    assert mean["curves"]["probability"]["each"][1] == [[0.0, 0.4, 0.3], [1.0, 0.7, 0.9]]
    assert 'id="by-class"' not in page(tmp_path / "report")


def test_five_seeds_are_a_mean_with_bounds_and_each_run_can_be_explored(tmp_path):
    for seed in range(5):
        made_run(
            tmp_path / str(seed), [(0, 0.9 + seed / 50, 0.1, 1.0), (4, 0.5, 0.5, 0.6)], overrides=[f"seed={seed}"],
            started=str(seed), config={"seed": seed},
        )  # fmt: skip
    report.write([tmp_path])
    mean, *single = data(tmp_path / "report")["panels"]
    curves = mean["curves"]["probability"]
    assert set(curves) == {"mean", "low", "high"}
    assert curves["mean"][0] == [0.94, 0.5]
    assert 0.9 < curves["low"][0][0] < 0.94 < curves["high"][0][0] <= 1
    assert [one["curves"]["probability"]["mean"][0][0] for one in single] == [0.9, 0.92, 0.94, 0.96, 0.98]
    assert re.search(r"<td[^>]*>0\.6 \(0\.6 to 0\.6\)</td>", page(tmp_path / "report"))  # of dominance at the end


def test_equal_outputs_are_said_to_favour_no_class(tmp_path, capsys):
    made_run(tmp_path / "a", [(0, 0.5, 0.5, 0.5), (8, 0.6, 0.7, 0.45)])
    report.write([tmp_path])
    text = page(tmp_path / "report")
    assert "No class is favoured: the outputs at initialisation are equal. After 2 epochs one class, dog, takes" in text
    assert "none: equal outputs" in capsys.readouterr().out
    assert ",none: equal outputs," in (tmp_path / "report" / "summary.csv").read_text()


def test_runs_of_equal_outputs_are_said_to_end_in_one_class(tmp_path):
    for seed in range(3):
        rows = [(0, 0.5, 0.5, 0.5), (8, 0.6, 0.7, 0.9)]
        overrides, config = [f"seed={seed}"], {"seed": seed}
        made_run(tmp_path / str(seed), rows, overrides=overrides, config=config, started=str(seed))
    report.write([tmp_path])
    expected = (
        "No class is favoured: the outputs at initialisation are equal. At the end one class takes 90\u00a0% of all "
    )
    assert f"{expected}guesses in 3 of 3 runs." in page(tmp_path / "report")


def test_a_heading_says_a_number_once(finished, tmp_path):
    report.write([finished], tmp_path)
    assert ">0 0<" not in page(tmp_path)
    assert re.search(r'<th scope="col">7</th>', page(tmp_path))


def test_a_page_needs_nothing_from_outside(finished, tmp_path):
    report.write([finished], tmp_path)
    text = page(tmp_path)
    assert not re.findall(r'(?:src|href)="(?!#|data:)', text)
    assert "url(" not in text
    assert "default-src 'none'" in text


def test_texts_from_a_disk_are_no_markup(tmp_path):
    evil = "</script><script>alert('1')</script><img src=x onerror=alert(2)>"
    for index in range(2):
        made_run(
            tmp_path / str(index), [(0, 0.9, 0.1, 0.8), (4, 0.9, 0.1, 0.8)], class_names=[evil, "{{ 7 * 7 }}"],
            overrides=[f"loss.name='<b>{index}</b>'"], config={"loss": evil}, reason=evil, status="failed",
            started=str(index), versions={evil: evil},
        )  # fmt: skip
        lines = ["from_epoch,name,p_y,loss,gradient", f'0,"{evil}",0.1,1,1', f'0,"{evil}",1,0,0']
        (tmp_path / str(index) / "loss_curve.csv").write_text("\n".join(lines) + "\n")
    report.write([tmp_path])
    text = page(tmp_path / "report")
    scripts = re.findall(r"<script[^>]*>", text)
    assert scripts == [
        '<script type="application/json" id="data">', '<script type="application/json" id="losses">', *["<script>"] * 2,
    ]  # fmt: skip
    assert not re.search("<img|<b>", text)
    assert "{{ 7 * 7 }}" in text
    assert data(tmp_path / "report")["names"][0] == evil


def test_what_is_left_out_or_unfinished_is_on_the_page(tmp_path):
    made_run(tmp_path / "a", [(0, 0.9, 0.1, 0.8)], status="failed", reason="out of memory")
    made_run(tmp_path / "b", [])
    report.write([tmp_path])
    text = page(tmp_path / "report")
    assert "failed (out of memory), measured up to step 0 of 8" in text
    assert "b: no probe yet (completed)" in text


def test_censored_moments_show_as_such(tmp_path):
    rows = [(0, 0.9, 0.1, 0.8), (31260, 0.9, 0.1, 0.8)]
    made_run(tmp_path / "a", rows)
    report.write([tmp_path], threshold=0.6)
    assert '<td class="number">&gt;31,260</td>' in page(tmp_path / "report")
    assert ",>31260," in (tmp_path / "report" / "summary.csv").read_text()
    assert "&gt;31,260" in page(tmp_path / "report")


def test_every_column_of_the_tables_is_explained(tmp_path):
    sweep(tmp_path)
    report.write([tmp_path])
    headings = re.findall(r"<th scope=\"col\"( title=\"[^\"]+\")?>([^<]+)</th>", page(tmp_path / "report"))
    assert len(headings) > 15
    assert all(title or name in ("0 cat", "1 dog") for title, name in headings)


def test_thinning_keeps_the_first_ten_batches_the_last_and_even_steps_on_a_log_axis():
    steps = [*range(1564), *(1563 * epoch for epoch in range(2, 21))]
    kept = [steps[place] for place in thinned(steps, 400)]
    assert kept[:11] == list(range(11))
    assert kept[-1] == 31260
    assert 360 <= len(kept) <= 400
    ratios = np.diff(np.log(kept[11:]))
    assert ratios.max() < np.log(2) * 1.01  # epochs one and two are next to each other
    assert kept == sorted(set(kept))
    assert thinned(range(100), 400) == list(range(100))
    assert thinned([0], 400) == [0]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
def test_nine_runs_of_the_protocol_make_a_page_under_five_megabytes(tmp_path, seeds):
    """Of nine settings, and of three with three seeds; of networks stuck on one class, whose numbers are longest."""
    steps = np.array([*range(1564), *(1563 * epoch for epoch in range(2, 21))]).repeat(10)
    generator, names = np.random.default_rng(0), [f"class {k}" for k in range(10)]
    for index in range(9):
        folder = made_run(
            tmp_path / str(index), [], overrides=[f"optimizer.lr={index // seeds}", f"seed={index % seeds}"],
            class_names=names, steps_per_epoch=1563, total_steps=31260, started=str(index),
        )  # fmt: skip
        values = generator.random((len(steps), 7)) * 1e-30
        lines = [
            f"{step},{step / 1563},running,{k % 10},class {k % 10},1000," + ",".join(map(str, row))
            for k, (step, row) in enumerate(zip(steps, values.tolist(), strict=True))
        ]
        (folder / "metrics.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    runs = find_runs([tmp_path])[0]
    write_page(tmp_path / "index.html", panels(runs), [("Runs", report.summarize(runs))], [], {}, [], 0.5)
    assert 2e6 < (tmp_path / "index.html").stat().st_size < 5e6
    assert min(len(one["steps"]) for one in data(tmp_path)["panels"] if "steps" in one) > 250


START = (0, 0.9, 0.1, 0.8)


NAN = float("nan")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([START], "At initialisation its most guessed class, cat, takes 80 % of all guesses."),
        (
            [START, (3, 0.5, 0.5, 0.5), (8, 0.6, 0.7, 0.45)],
            "It left its initial class, cat (80 % of all guesses at initialisation), after 3 batches. Of the images of "
            "other classes, 100 % had a gradient at initialisation. Mean accuracy after 2 epochs: 65 %.",
        ),
        (
            [START, (1, 0.5, 0.5, 0.5), (2, 0.1, 0.9, 0.1), (3, 0.5, 0.5, 0.5), (8, 0.6, 0.7, 0.45)],
            "It left its initial class, cat (80 % of all guesses at initialisation), after 1 batch; until 3 batches "
            "were done, dog took 60 % or more at times.",
        ),
        (
            [START, (1, 0.5, 0.5, 0.5), (8, 0.9, 0.1, 0.7)],
            "after 1 batch; it came back to it: cat takes 70 % of all guesses after 2 epochs.",
        ),
        ([START, (8, 0.8, 0.1, 0.7)], "One class, cat, still takes 70 % of all guesses after 2 epochs. Of the images"),
        (
            [START, (4, 0.1, 0.8, 0.3)],
            "after 1 epoch; one class dominates: dog takes 70 % of all guesses after 1",
        ),
        ([(0, 0.5, 0.4, 0.5), (8, 0.6, 0.7, 0.5)], "It had no dominant class at initialisation (the most guessed, cat"),
        (
            [(0, 0.5, 0.4, 0.5), (2, 1, 0, 1), (8, 0.6, 0.7, 0.5)],
            "later cat had 60 % or more for a while, until 2",
        ),
        ([(0, 0.5, 0.4, 0.5), (2, NAN, NAN, NAN), (8, 0.6, 0.7, 0.5)], "took 50 %). Of the images"),
        ([(0, 0.5, 0.4, 0.5), (8, 1, 0, 1)], "took 50 %); one class dominates: cat takes 100 % of all guesses after 2"),
        ([(0, NAN, NAN, NAN)], "Its outputs at initialisation are not finite."),
        (
            [START, (8, NAN, NAN, NAN)],
            "did not leave its initial class, cat (80 % of all guesses at",
        ),
    ],
)
def test_the_answer_is_made_from_the_data(tmp_path, rows, expected):
    made_run(tmp_path / "a", rows)
    (text,) = sentences(tmp_path)
    assert expected in text
    assert text.count(". ") < 3  # three sentences at most


def test_the_answer_says_where_the_loss_does_not_pull(tmp_path):
    folder = made_run(tmp_path / "a", [START, (8, 0.9, 0.1, 0.8)])
    lines = ["from_epoch,name,p_y,loss,gradient", *(f"0,Mine(),{p},0,{g}" for p, g in ((0.01, 1), (0.24, 1), (1, -1)))]
    (folder / "loss_curve.csv").write_text("\n".join(lines) + "\n")
    (text,) = sentences(tmp_path)
    assert "a gradient; where p_y is at most 0.24 the loss pushes the true class further down." in text


def test_the_class_that_stays_need_not_be_the_one_that_leads(tmp_path):
    made_run(tmp_path / "a", [START, (8, 0.4, 0.6, 0.45)])
    (text,) = sentences(tmp_path, threshold=0.4)
    assert "One class, cat, still takes 45 % of all guesses after 2 epochs, and dog takes 55 %. Of" in text


@pytest.mark.parametrize(
    ("last", "expected"), [(2, "from 0.5 to 0.7 the"), (4, "at most 0.24 the"), (8, "at most 0.24 the")]
)
def test_the_answer_is_about_the_loss_of_the_last_probe(tmp_path, last, expected):
    folder = made_run(tmp_path / "a", [START, (last, 0.9, 0.1, 0.8)])
    first, second = ((0.01, -1), (0.5, 0), (0.7, 0), (1, -1)), ((0.01, 0), (0.24, 0), (1, -1))
    rows = [f"{epoch},Mine{epoch}(),{p},0,{g}" for epoch, curve in enumerate((first, second)) for p, g in curve]
    (folder / "loss_curve.csv").write_text("\n".join(["from_epoch,name,p_y,loss,gradient", *rows]) + "\n")
    (text,) = sentences(tmp_path)
    assert f"where p_y is {expected} loss has no gradient." in text


def test_the_answer_over_seeds_counts_runs(tmp_path):
    sweep(tmp_path)
    (text,) = sentences(tmp_path, threshold=0.7)
    assert text.startswith("At initialisation the most guessed class takes 97 % (range 90 to 100 %) of all guesses.")
    assert "2 of 3 runs left that class, after 1 epoch; at the end" in text
    end = "at the end one class takes 90 % of all guesses in 1 of 3 runs, in 1 of them the one favoured at the start."
    assert end in text
    (text,) = sentences(tmp_path, threshold=0.1)
    assert "None of 3 runs left that class; at the end one class takes" in text
    (text,) = sentences(tmp_path, threshold=0.95)
    assert "of all guesses, 95 % or more in 2 of 3 runs." in text
    assert "2 of 2 of these runs left that class, after 1 epoch. Of" in text


def test_the_answer_over_seeds_tells_leaving_one_class_from_leaving_all(tmp_path):
    for seed in range(2):
        rows = [START, (1 + seed, 0.5, 0.5, 0.3), (3, 0.5, 0.5, 0.5), (8, 0.6, 0.7, 0.5)]
        made_run(tmp_path / str(seed), rows, overrides=[f"seed={seed}"], started=str(seed))
    (text,) = sentences(tmp_path)
    assert "2 of 2 runs left that class, after a median of 1.5 batches (1 batch to 2 batches); 2 of 2" in text
    assert "2 of 2 stay under 60 % in every class after 3 batches." in text


def test_the_answer_over_seeds_counts_what_diverged(tmp_path):
    for seed in range(2):
        made_run(tmp_path / str(seed), [START, (8, NAN, NAN, NAN)], overrides=[f"seed={seed}"], started=str(seed))
    (text,) = sentences(tmp_path)
    assert "None of 2 runs left that class; in 2 of 2 runs the outputs at the end are not finite." in text
    assert "takes  of" not in text
    assert "one class" not in text


def test_the_first_line_counts_who_left_and_names_who_did_not(tmp_path):
    for loss, end in (("ce", 0.5), ("pz", 0.9), ("bl", 0.5)):
        for seed in range(2):
            overrides = [f"loss={loss}", f"seed={seed}"]
            made_run(
                tmp_path / loss / str(seed), [START, (8, 0.5, 0.5, end)], overrides=overrides, started=f"{loss}{seed}"
            )
    found = panels(find_runs([tmp_path])[0])
    which = "4 of 6 runs escaped (to the end no class takes 60 % or more of the guesses)."
    assert overview(found, 0.6) == f"{which} Those that did not: loss=pz (2 of 2)."
    assert overview([one for one in found if one.title != "loss=pz"], 0.6) == which.replace("6 runs", "4 runs")
    assert overview(found[:1], 0.6) == ""  # its own sentences say it


def test_a_class_that_is_left_for_another_is_not_the_end(tmp_path):
    for seed in range(2):
        made_run(
            tmp_path / str(seed), [START, (1, 0.5, 0.5, 0.2), (8, 0.5, 0.5, 0.1)], overrides=[f"seed={seed}"],
            started=str(seed),
        )  # fmt: skip
    (text,) = sentences(tmp_path)
    assert "2 of 2 runs left that class, after 1 batch; none stays under 60 % in every class; at the end" in text


def test_numbers_read_as_one_says_them():
    assert [when(step, 100) for step in (1, 99, 100, 150, 200, 250, 3126000)] == [
        "1 batch", "99 batches", "1 epoch", "150 batches", "2 epochs", "2.5 epochs", "31,260 epochs",
    ]  # fmt: skip
    assert [share(x) for x in (0, 0.001, 0.5, 0.996, 1)] == ["0 %", "under 1 %", "50 %", "over 99 %", "100 %"]


def test_weights_without_bound_do_not_hide_the_others():
    """A loss of all classes may have any weight at p_y near 1."""
    p = np.array([0.01, 0.5, 0.8, 0.9999, 1])
    tame = LossCurve("tame", p, p, -p, np.array([0, 0.5, 1, 1, 1]))
    wild = LossCurve("wild", p, p, -p, np.array([1, 0.9, 0.5, -1e4, -1e15]))
    drawn = _losses([tame, wild])
    assert drawn["curves"][0]["weight"] == [0, 0.5, 1, 1, 1]
    assert drawn["curves"][1]["weight"] == [1, 0.9, 0.5, None, None]
    low, high = weight_range([tame, wild])
    assert -0.1 < low < 0 < 1 < high < 1.1
