"""Every command and every example of the README and of docs/ runs, shortened by overrides and on embedded data."""

import re
import shlex
from pathlib import Path

import pytest

import igb
from igb._paths import config_folder
from igb.folder.schema import FILES
from igb.folder.state import OVERWRITTEN
from igb.report.summary import COLUMN_HELP
from reference import tables as reference
from reproduction.common import fill
from tests.conftest import TINY, tiny_run
from tests.helpers.pages import PAGES, ROOT, STAMP, blocks, commands, write_files


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # by SQLAlchemy, used by MLflow
@pytest.mark.parametrize(
    ("line", "page"),
    [
        pytest.param(line, page, id=line)
        for line, page in {line: page for page in PAGES for line in commands(page)}.items()
    ],
)
def test_a_command_runs(page, line, command, tmp_path, image_folder, undrawn):
    program, *arguments = shlex.split(line)
    if program == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert f"\n{arguments[0]}:" in makefile
        called = [line.split() for line in (ROOT / ".ci" / "run").read_text().splitlines() if "make " in line]
        assert any(arguments[0] in words for words in called)
        return
    if program == "torchrun":
        return  # test_devices.py runs it
    on_slurm = "hydra/launcher=slurm" in arguments
    if any(item.startswith("trainer.devices=") for item in arguments) and not on_slurm:
        return  # test_devices.py runs it, as a process can be one device only
    write_files(page, tmp_path)
    if program == "igb-theory":
        few = ["--weight-variance", "1,2", "--bias-variance", "0.1"] if "--phase-diagram" in arguments else []
        arguments += few
    elif program == "igb-report":
        tiny_run(tmp_path / arguments[0] / "a", "trainer.max_steps=2")
    else:
        assert program == "igb"
        if any(item.startswith("hydra/launcher=") for item in arguments):  # see test_launchers.py and test_slurm.py
            launched = ("hydra/launcher", "hydra.launcher", "trainer.devices", "trainer.strategy")
            arguments = [item for item in arguments if not item.startswith(launched)]
        own = {item.partition("=")[0] for item in arguments}
        if "experiment=imagenet" in arguments:
            own |= {"data"}
            arguments = [item for item in arguments if not item.startswith(("data.root=", "data.cache_dir="))]
            arguments += ["data.root=images", "data.cache_dir=scratch", "probe.images=4"]
        arguments += [
            item for item in [*TINY, "trainer.max_steps=2"] if item.partition("=")[0].split(".")[0] not in own
        ]
        few = {"probe.images=2000": "probe.images=20"}
        arguments = [few.get(item, item) for item in arguments]
        swept = [item for item in arguments if "," in item]
        for item in swept:  # two values of the first swept key, one of the others
            arguments[arguments.index(item)] = ",".join(item.split(",")[: 2 if item == swept[0] else 1])
    status, output = command(*arguments, program=program)
    assert status == 0, output
    if "--config-dir" in arguments:
        runs = igb.load_runs("multirun")
        assert set(runs["config.loss"]) == {"ce", "poly"}
        assert set(runs["class_name"]) == {"horizontal", "vertical"}
        assert runs.loc[:, "probability":].notna().all(axis=None)


def test_the_python_of_the_readme_runs(capsys):
    ((_, text),) = blocks(ROOT / "README.md", "python")
    exec(text, {})
    assert 0.1 <= float(capsys.readouterr().out.split()[0]) <= 1


def test_the_python_of_the_page_on_run_folders_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_run(Path("multirun/cutoffs/a"), "trainer.max_epochs=0")
    tiny_run(Path("outputs") / STAMP, "model._target_=igb.models.resnet18", "trainer.max_steps=1", "probe.images=10")
    ((_, text),) = blocks(ROOT / "docs" / "run-folder.md", "python")
    names = {}
    exec(text, names)
    assert len(names["runs"]) == 10
    assert names["stats"].probability.shape == (10,)


@pytest.mark.slow
def test_the_python_of_the_page_on_any_network_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (_, first), (_, second) = blocks(ROOT / "docs" / "measure.md", "python")
    for text in (first, second):
        assert len([line for line in text.splitlines() if line.strip()]) <= 11
    names = {}
    exec(first, names)
    for name, stats in names["measured"].items():
        assert (tmp_path / f"{name}.png").exists()
        assert stats.probability.shape == (10,)
        assert 0.1 <= stats.dominance <= 1
    exec(second, names)
    assert (tmp_path / "trace-batch.png").exists()
    assert names["ratio"] > 0


def test_the_python_of_the_page_on_the_theory_runs():
    ((_, text),) = blocks(ROOT / "docs" / "theory.md", "python")
    lines = [line.partition("  #")[0] for line in text.strip().splitlines()]
    names = {}
    exec("\n".join(line for line in lines if line.startswith(("import", "logits"))), names)
    dominance, phase, edges = (eval(line, names) for line in lines if line.startswith("igb."))
    assert 0.5 < dominance < 1
    assert phase == "prejudiced"
    assert edges[0] < 2.0 < edges[1]


def test_the_python_of_the_page_of_advice_runs(capsys):
    ((_, text),) = blocks(ROOT / "docs" / "advice.md", "python")
    exec(text, {})
    assert re.fullmatch(
        r"dominance [\d.]+, drift ratio [\d.]+\nweight [\d.]+, .*\ncommon step [\d.]+\n", capsys.readouterr().out
    )


def test_the_python_of_the_page_on_losses_runs():
    ((_, text),) = blocks(ROOT / "docs" / "losses.md", "python")
    *before, last = text.strip().splitlines()
    names = {}
    exec("\n".join(before), names)
    assert 0 < eval(last, names).mean() < 1


def test_the_page_on_the_report_explains_every_column():
    text = (ROOT / "docs" / "report.md").read_text()
    for column in COLUMN_HELP:
        assert f"`{column}`" in text, column


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_can_be_finished(page):
    assert len(page.read_text().splitlines()) <= (130 if page.parent == ROOT else 250)


@pytest.mark.parametrize("name", ["config.md", "config-runs.md", "run-folder.md"])
def test_a_page_of_reference_is_that_of_the_code(name):
    text = (ROOT / "docs" / name).read_text()
    assert fill(text, dict(reference.tables())) == text


def test_every_group_and_file_is_in_the_reference():
    groups = {folder.name for folder in config_folder().iterdir() if folder.is_dir()} - {"hydra", "experiment"}
    assert groups == set(reference.GROUPS) - {"hydra/launcher"}
    assert set(OVERWRITTEN) - {"matrices.npz", "checkpoints/*"} <= set(FILES)


def test_the_pages_name_what_is_there():
    for page in PAGES:
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
    for name in igb.__all__:
        assert hasattr(igb, name)
