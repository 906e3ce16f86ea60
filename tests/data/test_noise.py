"""Wrong labels of training images."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from igb import experiment
from igb._checks import InputError
from igb.data import ImageData, Images, noise
from igb.data.noise import Asymmetric, Human, Instance, Pairflip, Symmetric
from igb.data.sources import CIFAR10, Digits
from tests.conftest import tiny_config, tiny_run

KINDS = [Symmetric, Pairflip, Asymmetric, Instance]
PUBLISHED = {2: 7, 3: 8, 5: 6, 6: 5, 7: 1}


@pytest.fixture(scope="module")
def digits():
    data = Digits()
    data.setup()
    return data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0.0, 0.25, 0.4, 1.0])
def test_the_part_of_each_class_is_exact_and_never_its_own(digits, kind, rate):
    given = kind(rate).labels(digits, 0)
    wrong = given != digits.train_labels
    for k in range(10):
        members = digits.train_labels == k
        expected = round(rate * int(members.sum()))
        if kind is Asymmetric and k not in PUBLISHED:
            expected = 0
        assert int(wrong[members].sum()) == expected
        others = given[members & wrong]
        if kind is Pairflip:
            assert (others == (k + 1) % 10).all()
        if kind is Asymmetric and expected:
            assert (others == PUBLISHED[k]).all()
        assert ((others >= 0) & (others < 10)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_labels_depend_on_the_seed_alone(digits, kind):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (kind(0.4).labels(digits, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert not hasattr(digits, "true_labels")


def test_symmetric_noise_takes_every_other_class_alike(digits):
    counts = torch.zeros(10, 10)
    for seed in range(40):
        given = Symmetric(0.5).labels(digits, seed)
        counts.index_put_((digits.train_labels, given), torch.ones(len(given)), accumulate=True)
    counts.fill_diagonal_(0)
    shares = counts / counts.sum(1, keepdim=True)
    assert (shares + torch.eye(10) / 9 - 1 / 9).abs().max() < 5 * (1 / 9 / (40 * 72)) ** 0.5


def test_noise_of_an_instance_depends_on_its_image():
    """Of two kinds of images in a class, the one is taken for another class than the other."""

    class Halves(ImageData):
        class_names = ("a", "b", "c", "d")

        def decode(self):
            generator = np.random.default_rng(0)
            images = generator.integers(0, 40, (800, 8, 8), dtype=np.uint8)
            images[::2, :4] += 200
            images[1::2, 4:] += 200
            labels = np.arange(800) // 2 % 4
            return Images(images, labels, images, labels)

    data = Halves(image_size=8)
    data.setup()
    given = Instance(0.5).labels(data, 0)
    tables = []
    for half in (0, 1):
        part = torch.arange(800) % 2 == half
        table = torch.zeros(4, 4)
        table.index_put_((data.train_labels[part], given[part]), torch.ones(400), accumulate=True)
        tables.append(table.fill_diagonal_(0).argmax(1))
    assert (tables[0] != tables[1]).sum() >= 2


def test_the_pairs_of_cifar_are_those_of_the_paper():
    pairs = Asymmetric()._pairs(CIFAR10.class_names)
    assert pairs == {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}


@pytest.fixture
def human_file(tmp_path, digits):
    """As the authors' file: arrays by their names."""
    true = digits.train_labels.numpy()
    given = np.where(np.arange(len(true)) % 3 == 0, (true + 1) % 10, true)
    path = tmp_path / "CIFAR-10_human.pt"
    others = dict.fromkeys(("aggre_label", "random_label1", "random_label2", "random_label3"), true)
    torch.save({"clean_label": true, "worse_label": given, **others}, path)
    return path


def test_labels_of_people_are_read_from_their_file(digits, human_file):
    given = Human(human_file).labels(digits, 0)
    assert int((given != digits.train_labels).sum()) == len(range(0, len(given), 3))
    assert torch.equal(Human(human_file, "aggre_label").labels(digits, 1), digits.train_labels)


def test_labels_of_people_are_downloaded_once(digits, human_file, tmp_path, monkeypatch):
    monkeypatch.setattr(noise, "HUMAN_URL", human_file.as_uri())
    monkeypatch.setattr(digits, "cache_dir", tmp_path / "cache")
    given = Human().labels(digits, 0)
    human_file.unlink()
    assert torch.equal(Human().labels(digits, 0), given)
    assert [file.name for file in (tmp_path / "cache" / "cifar10n").iterdir()] == ["CIFAR-10_human.pt"]


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.float64])
def test_labels_of_people_may_be_numbers_of_any_kind(digits, human_file, kind):
    entries = {"clean_label": digits.train_labels.numpy().astype(kind)}
    torch.save(entries | {"worse_label": entries["clean_label"]}, human_file)
    assert torch.equal(Human(human_file).labels(digits, 0), digits.train_labels)


def test_a_download_of_something_else_is_not_kept(digits, tmp_path, monkeypatch):
    (tmp_path / "page.html").write_text("<html>log in</html>")
    monkeypatch.setattr(noise, "HUMAN_URL", (tmp_path / "page.html").as_uri())
    monkeypatch.setattr(digits, "cache_dir", tmp_path)
    with pytest.raises(
        InputError, match=r"could not be downloaded \(path=.* cannot be read as arrays of numbers named"
    ):
        Human().labels(digits, 0)
    assert list((tmp_path / "cifar10n").iterdir()) == []


def test_a_download_that_fails_is_one_line_before_images_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(noise, "HUMAN_URL", (tmp_path / "nowhere.pt").as_uri())
    message = r"^noise.path=null, and .* could not be downloaded .*; set it to where you have CIFAR-10_human.pt from"
    with pytest.raises(InputError, match=message):
        experiment.build(tiny_config("noise=human", f"data.cache_dir={tmp_path}"))
    assert list((tmp_path / "cifar10n").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda entries: {name: value[:-1] for name, value in entries.items()},
            "has 1436 labels, but there are 1437 images",
        ),
        (
            lambda entries: entries | {"clean_label": entries["clean_label"][::-1].copy()},
            "in another order than the images",
        ),
        (lambda entries: entries | {"worse_label": entries["worse_label"] + 5}, "has labels that are no classes"),
        (lambda entries: {"clean_label": entries["clean_label"]}, "cannot be read .*it should be CIFAR-10_human.pt"),
        (lambda entries: {"clean_label": print}, "cannot be read"),
    ],
)
def test_another_file_is_refused(digits, human_file, change, message):
    with torch.serialization.safe_globals([]):
        entries = torch.load(human_file, weights_only=False)
    torch.save(change(entries), human_file)
    with pytest.raises(InputError, match=f"path=.*{message}"):
        Human(human_file).labels(digits, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["noise=symmetric", "noise.rate=1.1"], "noise.rate=1.1 must be a finite number from 0 to 1"),
        (["noise=instance", "noise.rate=-0.1"], "noise.rate=-0.1 must be"),
        (
            ["noise=human", "noise.path=nowhere.pt"],
            "noise.path=nowhere.pt is not a file; it should be CIFAR-10_human.pt",
        ),
        (["noise=human", "noise.path=nowhere.pt", "noise.labels=best"], "noise.labels=best must be one of aggre_label"),
        (["noise=asymmetric", "data=svhn_like"], "^noise=asymmetric has pairs for .* use noise=pairflip"),
        (["noise=symmetric", "noise.images=9"], "noise.images=9 must be a whole number of at least 10"),
        (["noise_seed=-1"], "noise_seed=-1 must be a whole number"),
    ],
)
def test_noise_that_cannot_be_is_refused_before_images_are_read(image_folder, options, message):
    own = [f"data.root={image_folder}", "data=image_folder"] if "data=svhn_like" in options else []
    with pytest.raises(InputError, match=message):
        experiment.build(tiny_config(*[item for item in options if item != "data=svhn_like"], *own))


def test_a_run_trains_with_the_given_labels_and_is_measured_with_the_true_ones(tmp_path):
    options = ("probe=log", "probe.points=12", "trainer.max_steps=45", "optimizer.lr=0.1")
    clean = tiny_run(tmp_path / "clean", *options)
    noisy = tiny_run(tmp_path / "noisy", *options, "noise=symmetric", "noise.rate=0.5")
    entries = json.loads((noisy / "run.json").read_text())
    assert entries["wrong_labels"] == sum(round(0.5 * n) for n in np.bincount(digits_labels()))
    assert entries["seeds"]["noise_seed"] == 0
    assert entries["images"] == json.loads((clean / "run.json").read_text())["images"]
    tables = [pd.read_csv(folder / "metrics.csv") for folder in (clean, noisy)]
    first, last = ([table[table["step"] == step] for table in tables] for step in (0, 45))
    assert first[0].equals(first[1])
    assert last[0]["accuracy"].mean() > last[1]["accuracy"].mean()


def digits_labels():
    data = Digits()
    data.setup()
    return data.train_labels.numpy()


def test_a_noisy_run_resumes_with_the_same_labels(tmp_path):
    options = ("probe=log", "probe.points=12", "probe.images=20", "noise=instance", "noise_seed=3")
    whole = tiny_run(tmp_path / "whole", *options, "trainer.max_steps=60")
    for steps in (20, 60):
        parts = tiny_run(tmp_path / "parts", *options, f"trainer.max_steps={steps}")
    losses = [pd.read_csv(folder / "train.csv")["loss"] for folder in (whole, parts)]
    assert losses[0].equals(losses[1])
    with pytest.raises(InputError, match=r"noise\.rate=0\.1 differs from noise\.rate=0\.4"):
        tiny_run(parts, *options, "noise.rate=0.1", "trainer.max_steps=60")
