"""Data sets that are downloaded, from small files in their official formats."""

import gzip
import hashlib
import io
import pickle
import shutil
import subprocess
import tarfile
import urllib.error

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision import datasets

from igb._checks import InputError
from igb.data.sources import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST

ROWS = 20


def made_archive(root, monkeypatch, source, names, labels_key):
    """An archive with a few images per batch, and its contents; torchvision is told its checksums."""
    generator = np.random.default_rng(0)
    classes = len(source.class_names)
    rows = max(ROWS, classes)
    contents = {
        name: {
            "data": generator.integers(0, 256, (rows, 3072), dtype=np.uint8),
            labels_key: [(index + shift) % classes for index in range(rows)],
        }
        for shift, name in enumerate(names)
    }
    theirs = getattr(datasets, source.__name__)
    contents[theirs.meta["filename"]] = {theirs.meta["key"]: list(source.class_names)}
    root.mkdir()
    checksums = {}
    with tarfile.open(root / theirs.filename, "w:gz") as tar:
        for name, content in contents.items():
            stream = pickle.dumps(content)
            checksums[name] = hashlib.md5(stream).hexdigest()
            info = tarfile.TarInfo(f"{theirs.base_folder}/{name}")
            info.size = len(stream)
            tar.addfile(info, io.BytesIO(stream))
    digest = hashlib.md5((root / theirs.filename).read_bytes()).hexdigest()
    monkeypatch.setattr(theirs, "tgz_md5", digest)
    monkeypatch.setattr(theirs, "train_list", [[name, checksums[name]] for name in names[:-1]])
    monkeypatch.setattr(theirs, "test_list", [[names[-1], checksums[names[-1]]]])
    monkeypatch.setattr(theirs, "meta", {**theirs.meta, "md5": checksums[theirs.meta["filename"]]})
    return root, contents


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """The folder of a small CIFAR-10, and its contents."""
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    return made_archive(tmp_path / "root", monkeypatch, CIFAR10, names, "labels")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def test_the_archive_is_unpacked_and_read_in_gray(archive, no_network):
    root, contents = archive
    data = CIFAR10(root)
    data.setup()
    assert data.train_images.shape == (5 * ROWS, 1, 32, 32)
    assert data.test_labels.tolist() == contents["test_batch"]["labels"]
    row = contents["data_batch_2"]["data"][3]
    image = Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0))
    assert np.array_equal(data.train_images[ROWS + 3, 0].numpy(), np.asarray(image.convert("L")))
    colours = CIFAR10(root, color=True)
    colours.setup()
    assert np.array_equal(colours.train_images[ROWS + 3].numpy(), row.reshape(3, 32, 32))


def test_unpacked_batches_need_no_archive_and_are_cached(archive, no_network, monkeypatch):
    root, _ = archive
    CIFAR10(root).setup()
    (root / datasets.CIFAR10.filename).unlink()
    monkeypatch.setattr(CIFAR10, "decode", lambda self: pytest.fail("decoded again"))
    data = CIFAR10(root)
    data.setup()
    assert len(data.train_labels) == 5 * ROWS


def test_without_network_one_line_says_which_file_to_put_where(tmp_path, no_network):
    with pytest.raises(InputError) as caught:
        CIFAR10(tmp_path / "nothing").setup()
    message = str(caught.value)
    assert message.startswith(f"root={tmp_path / 'nothing'} does not hold CIFAR-10")
    assert "no network here" in message
    assert "put cifar-10-python.tar.gz" in message
    assert "\n" not in message


def test_a_damaged_batch_is_not_read(archive, no_network):
    root, _ = archive
    CIFAR10(root).setup()
    (root / datasets.CIFAR10.filename).unlink()
    (root / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"damaged")
    with pytest.raises(InputError, match="does not hold CIFAR-10"):
        CIFAR10(root).setup()


def test_cifar_100_has_its_fine_labels(tmp_path, monkeypatch, no_network):
    root, contents = made_archive(tmp_path / "root", monkeypatch, CIFAR100, ["train", "test"], "fine_labels")
    data = CIFAR100(root, color=True)
    data.setup()
    assert list(data.class_names) == datasets.CIFAR100(root).classes
    assert data.test_labels.tolist() == contents["test"]["fine_labels"]
    assert np.array_equal(data.train_images[7].numpy(), contents["train"]["data"][7].reshape(3, 32, 32))


def idx(array):
    """An array in the format of MNIST's files: a magic number, the sizes, the bytes."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return head + array.tobytes()


def made_mnist(folder, packed):
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    found = {}
    for split, count in (("train", 30), ("t10k", 20)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        found[split] = images, (np.arange(count) % 10).astype(np.uint8)
        for name, array in zip(("images-idx3", "labels-idx1"), found[split], strict=True):
            file = folder / f"{split}-{name}-ubyte{'.gz' if packed else ''}"
            file.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    return found


@pytest.mark.parametrize("source", [MNIST, FashionMNIST])
@pytest.mark.parametrize("packed", [False, True])
def test_the_files_of_mnist_are_read_as_torchvision_and_as_debian_keep_them(tmp_path, no_network, source, packed):
    expected = made_mnist(tmp_path / "root" if packed else tmp_path / "root" / source.__name__ / "raw", packed)
    data = source(tmp_path / "root", image_size=28)
    data.setup()
    assert np.array_equal(data.train_images[:, 0].numpy(), expected["train"][0])
    assert np.array_equal(data.test_images[:, 0].numpy(), expected["t10k"][0])
    assert np.array_equal(data.test_labels.numpy(), expected["t10k"][1])
    if not packed:
        ours, theirs = list(data.class_names), getattr(datasets, source.__name__).classes
        assert [name.partition(" - ")[0] for name in theirs] == ours


def test_a_raw_file_that_is_damaged_is_named(tmp_path, no_network):
    made_mnist(tmp_path / "root" / "MNIST" / "raw", packed=False)
    (tmp_path / "root" / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"garbage")
    with pytest.raises(InputError, match=r"does not hold MNIST and it could not be downloaded \(AssertionError\)"):
        MNIST(tmp_path / "root").setup()


def test_a_packed_file_that_is_cut_short_is_named(tmp_path, no_network):
    made_mnist(tmp_path / "root", packed=True)
    file = tmp_path / "root" / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"does not hold MNIST and it could not be downloaded .*end-of-stream"):
        MNIST(tmp_path / "root").setup()


def test_svhn_is_read_in_colour(tmp_path, monkeypatch, no_network):
    generator = np.random.default_rng(0)
    files, expected = {}, {}
    for split, count in (("train", 30), ("test", 20)):
        images = generator.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = np.arange(count) % 10 + 1  # 10 stands for the digit 0
        expected[split] = images.transpose(3, 2, 0, 1), labels % 10
        file = tmp_path / f"{split}_32x32.mat"
        scipy.io.savemat(file, {"X": images, "y": labels[:, None].astype(np.uint8)})
        files[split] = ["nowhere", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", files)
    data = SVHN(tmp_path, color=True)
    data.setup()
    for split in ("train", "test"):
        assert np.array_equal(getattr(data, f"{split}_images").numpy(), expected[split][0])
        assert np.array_equal(getattr(data, f"{split}_labels").numpy(), expected[split][1])


@pytest.mark.parametrize("source", [CIFAR100, MNIST, FashionMNIST, SVHN])
def test_without_network_it_is_said_what_to_put_where(tmp_path, no_network, source):
    with pytest.raises(InputError, match=rf"does not hold {source.title} and it .*; put .+ \(from http.+\) into that"):
        source(tmp_path / "nothing").setup()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs Debian's apt-get")
def test_fashion_mnist_is_debians(tmp_path):
    """The real 70,000 images; their mean and deviation are those that everyone normalises by, 0.2860 and 0.3530."""
    command = ["apt-get", "download", "dataset-fashion-mnist"]
    if subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode:
        subprocess.run(["apt-get", "update"], check=True, capture_output=True)
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (package,) = tmp_path.glob("*.deb")
    subprocess.run(["dpkg", "-x", str(package), str(tmp_path / "unpacked")], check=True)
    data = FashionMNIST(tmp_path / "unpacked" / "usr" / "share" / "datasets" / "fashion-mnist", image_size=28)
    data.setup()
    assert data.train_labels.bincount().tolist() == [6000] * 10
    assert data.test_labels.bincount().tolist() == [1000] * 10
    unit = data.train_images.double() / 255
    assert (round(float(unit.mean()), 4), round(float(unit.std()), 4)) == (0.2860, 0.3530)
