import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from igb import report
from tests.helpers.runs import made_run, sweep

pytestmark = pytest.mark.usefixtures("undrawn")


def events(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0})
    accumulator.Reload()
    return accumulator


def hparams(folder, tag):
    content = events(folder).SummaryMetadata(tag).plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(content)


@pytest.fixture
def board(tmp_path):
    sweep(tmp_path)
    report.write([tmp_path], threshold=0.7)
    return tmp_path / "report" / "tensorboard"


def test_hparams_has_the_swept_keys_and_the_metrics(board):
    experiment = hparams(board, metadata.EXPERIMENT_TAG).experiment
    assert [info.name for info in experiment.hparam_infos] == ["seed"]
    assert [info.display_name for info in experiment.metric_infos] == [
        "escaped", "escape_step", "half_life", "dominance_end", "mean_accuracy", "worst_accuracy",
    ]  # fmt: skip
    assert sorted(folder.name for folder in board.iterdir() if folder.is_dir()) == ["seed=0", "seed=1", "seed=2"]


def test_a_session_has_the_values_of_its_run(board):
    session = hparams(board / "seed=2", metadata.SESSION_START_INFO_TAG).session_start_info
    assert {name: value.number_value for name, value in session.hparams.items()} == {"seed": 2}
    scalars = events(board / "seed=2")
    assert scalars.Scalars("summary/running/escape_step")[0].value == 4
    assert scalars.Scalars("summary/running/dominance_end")[0].value == pytest.approx(0.6)


def test_what_is_censored_is_no_number(board):
    scalars = events(board / "seed=1")
    assert "summary/running/escape_step" not in scalars.Tags()["scalars"]
    assert scalars.Scalars("summary/running/escaped")[0].value == 0


def test_the_figures_are_images(board):
    shown = events(board)
    for title in ("figure1", "figure2"):
        picture = (board.parent / f"{title}.png").read_bytes()
        assert [image.encoded_image_string for image in shown.Images(title)] == [picture]


def test_a_second_report_takes_the_place_of_the_first(board):
    report.write([board.parent.parent])
    assert len(list(board.rglob("events.out.tfevents.*"))) == 4


def test_names_are_those_of_folders(tmp_path):
    for index, value in enumerate(("a/b", "a_b", "x" * 300)):
        made_run(tmp_path / str(index), [(0, 0.9, 0.1, 0.8)], overrides=[f"key='{value}'"], started=str(index))
    report.write([tmp_path])
    names = sorted(folder.name for folder in (tmp_path / "report" / "tensorboard").iterdir() if folder.is_dir())
    assert names == ["key=a_b", "key=a_b_2", "key=" + "x" * 146]


@pytest.mark.slow
def test_the_whole_report_imports_no_torch(tmp_path):
    sweep(tmp_path)
    code = "import sys; from igb import cli; cli.report(); print('torch' in sys.modules, 'tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "--parquet"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False False"
