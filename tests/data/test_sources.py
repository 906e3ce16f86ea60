"""CIFAR-10 from a tiny archive in the official layout: pickled batches of rows of 3,072 bytes, channel by channel."""

import hashlib
import io
import pickle
import tarfile
import urllib.error

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from igb._checks import InputError
from igb.data.sources import CIFAR10

ROWS = 20


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """The folder of an archive with 20 images per batch; torchvision is told its checksums."""
    generator = np.random.default_rng(0)
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    contents = {
        name: {
            "data": generator.integers(0, 256, (ROWS, 3072), dtype=np.uint8),
            "labels": [(index + shift) % 10 for index in range(ROWS)],
        }
        for shift, name in enumerate(names)
    }
    contents["batches.meta"] = {"label_names": list(CIFAR10.class_names)}
    root = tmp_path / "root"
    root.mkdir()
    checksums = {}
    with tarfile.open(root / datasets.CIFAR10.filename, "w:gz") as tar:
        for name, content in contents.items():
            stream = pickle.dumps(content)
            checksums[name] = hashlib.md5(stream).hexdigest()
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(stream)
            tar.addfile(info, io.BytesIO(stream))
    digest = hashlib.md5((root / datasets.CIFAR10.filename).read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", digest)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, checksums[name]] for name in names[:5]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", checksums["test_batch"]]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": checksums["batches.meta"]})
    return root, contents


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
