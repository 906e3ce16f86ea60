"""The command `igb-theory`: its table, its diagrams, and what it refuses."""

import subprocess
import sys

import pandas as pd
import pytest

from igb.theory import edge_of_chaos, guesses, propagate
from igb.theory.tables import EDGES, phase_figure, table


@pytest.fixture
def typed(command):
    """The command as typed, in an empty folder; its status and what it prints."""
    return lambda line: command(*line.split(), program="igb-theory")


def test_a_row_has_what_its_network_comes_to(typed, tmp_path):
    _, output = typed("tanh --weight-variance 1.5,2,2.5 --bias-variance 0.1 --depth 10,50 --classes 10 --output here")
    found = pd.read_csv(tmp_path / "here" / "theory.csv")
    assert list(zip(found["weight_variance"], found["depth"], strict=True)) == [
        (1.5, 10), (1.5, 50), (2, 10), (2, 50), (2.5, 10), (2.5, 50),
    ]  # fmt: skip
    assert found["phase"].tolist() == ["deep prejudice, ordered"] * 2 + ["prejudiced"] * 4
    for row in found.itertuples():
        logits = propagate("tanh", row.weight_variance, 0.1, row.depth)
        assert row.drift_ratio == pytest.approx(logits.drift_ratio[-1])
        assert row.mean_dominance == pytest.approx(guesses(logits.drift_ratio[-1], 10).mean_dominance)
    assert len(output.splitlines()) == 7
    assert "deep prejudice, ordered" in output


def test_a_norm_or_a_residual_has_no_phase_and_each_depth_its_own_last_layer():
    found = table(["relu"], [2.0], [0.1], [3, 6], 10, residual=True)
    assert "phase" not in found
    for depth, ratio in zip((3, 6), found["drift_ratio"], strict=True):
        assert ratio == pytest.approx(propagate("relu", 2.0, 0.1, depth, residual=True).drift_ratio[-1])
    assert "phase" not in table(["relu"], [2.0], [0.1], [3], 10, norm="batch_before")


@pytest.mark.slow
def test_several_activations_are_drawn_with_their_edges(typed, tmp_path):
    _, output = typed("--phase-diagram relu tanh --weight-variance 0.5,1.5,2.5,3.5 --bias-variance 0.05,0.5,1")
    assert "theory/phase_diagram.png" in output
    assert {file.name for file in (tmp_path / "theory").iterdir()} == {
        "phase_diagram.csv", "phase_diagram.pdf", "phase_diagram.png",
    }  # fmt: skip
    found = pd.read_csv(tmp_path / "theory" / "phase_diagram.csv")
    assert found.groupby("activation").size().to_dict() == {"relu": 12, "tanh": 12}
    figure = phase_figure(dict(list(found.groupby("activation"))))
    for axes, name in zip(figure.axes, ("relu", "tanh"), strict=False):
        assert axes.get_title() == name
        assert len(axes.lines) == len(EDGES)
    weights, biases = figure.axes[1].lines[0].get_data()
    assert weights[-1] == pytest.approx(edge_of_chaos("tanh", biases[-1]))
    phases = {text.get_text() for text in figure.axes[1].texts}
    assert phases == {"deep prejudice,\nordered", "prejudiced", "neutral"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("swish", "activation=swish must be one of relu"),
        ("tanh --weight-variance one", "weight_variance=one must be numbers with commas between them"),
        ("tanh --depth 2.5", "depth=2.5 must be whole numbers with commas between them"),
        ("tanh --depth 0", "depth=0 must be a whole number of at least 1"),
        ("tanh --bias-variance -1", "bias_variance=-1.0 must be a finite number of at least 0"),
        ("tanh --classes 1", "classes=1 must be a whole number of at least 2"),
        ("tanh --norm group", "norm=group must be one of none"),
        ("swish --phase-diagram", "activation=swish must be one of relu"),
        ("tanh --phase-diagram --norm batch_before", "phase-diagram is of networks without norm"),
        ("relu --output /dev/null/here", "the output folder /dev/null/here cannot be written"),
    ],
)
def test_bad_input_is_one_line(typed, line, message):
    status, output = typed(line)
    assert status == 1
    assert output.startswith(f"igb-theory: {message}")
    assert len(output.splitlines()) == 1


def test_the_theory_imports_no_torch():
    code = (
        "import sys; sys.argv = ['igb-theory', 'relu']; from igb import cli; cli.theory(); "
        "print([name for name in ('torch', 'pytorch_lightning', 'torchvision') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
