import errno
import fcntl
import re
import struct
import threading
import tracemalloc
import zlib

import filelock
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from igb._checks import InputError
from igb.data import EpochSampler, ImageData, Images, LazyImages, grayscale
from igb.data.noise import Symmetric
from igb.data.sources import Digits, ImageFolder
from tests.conftest import touch_later


@pytest.fixture(scope="module")
def digits():
    data = Digits()
    data.setup()
    return data


class Given(ImageData):
    """Images made by a test."""

    class_names = ("a", "b")

    def __init__(self, images, labels=None, **options):
        super().__init__(**options)
        labels = np.arange(len(images)) % 2 if labels is None else labels
        self.images = Images(images, labels, images, labels)

    def decode(self):
        return self.images


def random_images(count=9):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)


def test_grayscale_is_pils_and_the_itu_luma():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    gray = grayscale(Image.fromarray(pixels), 32)
    assert np.array_equal(gray, np.asarray(Image.fromarray(pixels).convert("L")))
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(gray - luma).max() <= 0.5 + 1e-3  # PIL computes in 16 bits


@pytest.mark.parametrize("scaling", ["standard", "unit", "symmetric", "raw"])
def test_scaling_is_torchvisions(scaling, digits):
    data = Digits(scaling=scaling)
    data.setup()
    images = data.train_images
    as_unit = torch.stack([transforms.ToTensor()(Image.fromarray(image[0].numpy())) for image in images])
    mean, std = as_unit.double().mean().item(), as_unit.double().std(unbiased=False).item()
    expected = {
        "standard": transforms.Normalize(mean, std)(as_unit),
        "unit": as_unit,
        "symmetric": transforms.Normalize(0.5, 0.5)(as_unit),
        "raw": as_unit * 255,
    }[scaling]
    scaled = data.scale(images)
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled, expected, rtol=1e-6, atol=1e-6)
    if scaling == "standard":
        assert scaled.double().mean().item() == pytest.approx(0, abs=1e-6)
        assert scaled.double().std(unbiased=False).item() == pytest.approx(1, abs=1e-6)


def batches(data, epoch):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_an_epoch_serves_every_image_once_with_its_label():
    images = random_images(10)
    data = Given(images, batch_size=4)
    data.setup()
    served = batches(data, 0)
    assert [(len(part.labels), part.size) for part in served] == [(4, 4), (4, 4), (2, 2)]
    seen = {image.numpy().tobytes(): int(label) for part in served for image, label in zip(*part[:2], strict=True)}
    assert seen == {image.tobytes(): index % 2 for index, image in enumerate(images)}


def test_a_last_batch_of_one_joins_the_one_before():
    data = Given(random_images(9), batch_size=4)
    data.setup()
    assert [len(part.labels) for part in batches(data, 0)] == [4, 5]
    assert data.steps_per_epoch == 2


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        torch.manual_seed(epoch + 17)
        sampler = EpochSampler(50, 8, seed)
        sampler.set_epoch(epoch)
        return torch.cat(list(sampler)).tolist()

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1, 2) for epoch in (0, 1, 2)}) == 9


def test_serving_batches_leaves_the_random_state_alone(digits):
    state = torch.random.get_rng_state()
    next(iter(digits.train_dataloader()))
    assert torch.equal(state, torch.random.get_rng_state())


def test_digits_are_split_by_class(digits):
    assert len(digits.train_labels) == 1437
    assert digits.test_labels.bincount().tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    assert digits.train_images.shape == (1437, 1, 32, 32)
    assert digits.train_images.dtype == torch.uint8
    again = Digits()
    again.setup()
    assert torch.equal(again.test_images, digits.test_images)


def test_an_image_folder_is_read_in_colour(image_folder):
    data = ImageFolder(image_folder, image_size=16, color=True)
    data.setup()
    assert data.train_images.shape == (6, 3, 16, 16)
    for index, name in ((3, "0.png"), (4, "1.png")):  # a gray file, and one in colour
        with Image.open(image_folder / "train" / "bee" / name) as image:
            expected = np.asarray(image.convert("RGB").resize((16, 16), Image.Resampling.BILINEAR))
        assert np.array_equal(data.train_images[index].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("scaling", ["standard", "symmetric"])
def test_colours_are_scaled_channel_by_channel(image_folder, scaling):
    data = ImageFolder(image_folder, image_size=16, color=True, scaling=scaling)
    data.setup()
    unit = data.train_images.double() / 255
    mean, deviation = unit.mean((0, 2, 3)), unit.std((0, 2, 3), unbiased=False)
    if scaling == "symmetric":
        mean = deviation = torch.full((3,), 0.5)
    expected = transforms.Normalize(mean.tolist(), deviation.tolist())(unit)
    torch.testing.assert_close(data.scale(data.train_images).double(), expected, rtol=1e-5, atol=1e-5)


def test_a_channel_without_variation_cannot_be_standardised(image_folder):
    for file in image_folder.rglob("*.png"):
        Image.fromarray(
            np.dstack([np.arange(64, dtype=np.uint8).reshape(8, 8)] * 2 + [np.zeros((8, 8), np.uint8)])
        ).save(file)
    with pytest.raises(InputError, match="scaling=standard needs varying pixels"):
        ImageFolder(image_folder, color=True).setup()


def test_digits_in_colour_have_three_equal_channels(digits):
    data = Digits(color=True)
    data.setup()
    assert torch.equal(data.test_images, digits.test_images.expand(-1, 3, -1, -1))
    assert data.entries()["images"] != digits.entries()["images"]


def test_an_image_folder_is_read_in_gray_and_resized(image_folder):
    data = ImageFolder(image_folder, image_size=16)
    data.setup()
    assert data.class_names == ["ant", "bee"]
    assert data.train_images.shape == (6, 1, 16, 16)
    assert data.test_labels.tolist() == [0, 0, 1, 1]
    with Image.open(image_folder / "train" / "bee" / "1.png") as image:
        expected = np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BILINEAR))
    assert np.array_equal(data.train_images[4, 0].numpy(), expected)


@pytest.fixture
def decodings(monkeypatch):
    """How often an ImageFolder decoded."""
    calls = []
    decode = ImageFolder.decode
    monkeypatch.setattr(ImageFolder, "decode", lambda self: calls.append(threading.get_ident()) or decode(self))
    return calls


def load(root, **options):
    data = ImageFolder(root, **options)
    data.setup()
    return data


def test_images_are_decoded_once(image_folder, decodings):
    first, second = load(image_folder), load(image_folder)
    assert len(decodings) == 1
    assert torch.equal(first.train_images, second.train_images)
    load(image_folder, image_size=8)
    assert len(decodings) == 2


@pytest.mark.parametrize("change", ["time", "size", "new", "gone"])
def test_a_changed_file_is_decoded_again(image_folder, decodings, change):
    load(image_folder)
    file = image_folder / "train" / "ant" / "0.png"
    if change == "time":
        touch_later(file)
    elif change == "size":
        Image.new("L", (5, 5)).save(file)
    elif change == "new":
        Image.new("L", (5, 5)).save(file.with_name("9.png"))
    else:
        file.unlink()
    load(image_folder)
    assert len(decodings) == 2
    load(image_folder)
    assert len(decodings) == 2


def test_several_that_start_at_once_decode_once(image_folder, decodings):
    threads = [threading.Thread(target=load, args=(image_folder,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decodings) == 1


def test_a_class_folder_missing_from_test_is_named(image_folder):
    for file in (image_folder / "test" / "bee").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="bee"):
        load(image_folder)
    (image_folder / "test" / "bee").rmdir()
    (image_folder / "test" / "wasp").mkdir()
    with pytest.raises(InputError, match="test/ has no folder 'bee'"):
        ImageFolder(image_folder)


def test_val_is_read_where_there_is_no_test(image_folder):
    expected = load(image_folder)
    (image_folder / "test").rename(image_folder / "val")
    data = load(image_folder)
    assert data.entries() == expected.entries()
    for file in (image_folder / "val" / "bee").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="val/bee has no image"):
        load(image_folder)


def test_a_broken_link_is_named(image_folder):
    (image_folder / "train" / "bee" / "7.png").symlink_to("nowhere.png")
    with pytest.raises(InputError, match=r"root: .*train/bee/7\.png cannot be read \(No such file or directory\)"):
        load(image_folder)


def test_a_corrupt_image_is_named(image_folder):
    file = image_folder / "train" / "bee" / "1.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(InputError, match=f"root: {file} cannot be read as an image"):
        load(image_folder)


@pytest.mark.parametrize("root", [None, "missing", "empty", "file"])
def test_a_root_without_images_is_refused(tmp_path, root):
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "empty" / "test").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"root(=.*| is required: .*)train/"):
        ImageFolder(root and tmp_path / root)


def test_a_cache_folder_that_cannot_be_written_is_named(image_folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cache_dir=.*file cannot be written"):
        load(image_folder, cache_dir=tmp_path / "file")


@pytest.mark.parametrize("error", [NotImplementedError("no locks here"), OSError(37, "No locks available")])
def test_a_cache_that_cannot_be_locked_is_used_all_the_same(image_folder, monkeypatch, caplog, error):
    def acquire(*args, **kwargs):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    data = load(image_folder)
    assert re.search(rf"imagefolder-\w+\.lock cannot be locked \({re.escape(str(error))}\)", caplog.text)
    assert len(list(data.cache_dir.glob("*/cache.json"))) == 1


def test_a_file_system_without_locks_does_not_keep_anyone_waiting(image_folder, monkeypatch):
    def flock(*args):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    for _ in range(2):
        with pytest.warns(UserWarning, match="flock not supported"):  # of filelock, which then takes a file for a lock
            data = load(image_folder)
    assert len(list(data.cache_dir.glob("*/cache.json"))) == 1


def test_standardising_takes_less_memory_than_the_images():
    images = np.random.default_rng(0).integers(0, 256, (2000, 64, 64), dtype=np.uint8)
    data = Given(images)
    tracemalloc.start()
    data.setup()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < images.nbytes
    scaled = data.scale(data.train_images).double()
    assert (scaled.mean().item(), scaled.std().item()) == pytest.approx((0, 1), abs=1e-4)


def test_constant_images_cannot_be_standardised():
    data = Given(np.full((4, 8, 8), 7, dtype=np.uint8))
    with pytest.raises(InputError, match="scaling=standard needs varying pixels; all training pixels are equal"):
        data.setup()


def test_a_class_without_images_is_named():
    with pytest.raises(InputError, match="no image of class 'b'"):
        Given(random_images(), labels=np.zeros(9, dtype=np.int64)).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be a whole number of at least 1"),
        ({"image_size": 0}, "image_size=0 must be"),
        ({"scaling": "log"}, "scaling=log must be one of standard, unit, symmetric, raw"),
        ({"seed": -1}, "seed=-1 must be"),
        ({"batch_size": 3.5}, "batch_size=3.5 must be"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Digits(**options)


def test_what_a_source_is_made_with_has_images_of_its_own(image_folder, decodings):
    class Inverted(ImageFolder):
        def __init__(self, root, inverted, **options):
            super().__init__(root, **options)
            self.inverted = inverted

        def decode(self):
            images = super().decode()
            if self.inverted:
                read = images.train_images.read
                images.train_images = LazyImages(images.train_images.items, lambda path: 255 - read(path))
            return images

    plain, inverted = (Inverted(image_folder, inverted=value, batch_size=value + 2) for value in (False, True))
    plain.setup()
    inverted.setup()
    assert torch.equal(inverted.train_images, 255 - plain.train_images)
    Inverted(image_folder, inverted=True, batch_size=5, scaling="unit", seed=3).setup()
    assert len(decodings) == 2


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_of_more_than_8_bits_are_refused_not_clipped(image_folder, channels):
    file = image_folder / "train" / "ant" / "0.png"
    if channels == 1:
        Image.fromarray(np.full((8, 8), 1000, dtype=np.uint16)).save(file)
    else:  # which PIL reads but does not write
        rows = (b"\0" + np.full(8 * channels, 1000, dtype=">u2").tobytes()) * 8
        kind = {3: 2, 4: 6}[channels]
        parts = [
            (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, kind, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        ]
        file.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + b"".join(
                struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
                for name, data in parts
            )
        )
    with pytest.raises(InputError, match=f"root: {file} cannot be read as an image .*more than 8 bits"):
        load(image_folder)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            np.zeros((4, 8, 8, 3), dtype=np.uint8),
            None,
            r"train images must be uint8 \[N, H, W\] or \[N, 1, H, W\] with color=false; they are uint8 \(4, 8",
        ),
        (np.zeros((4, 8, 8)), None, r"train images must be uint8 .*; they are float64"),
        (random_images(4), np.arange(4) % 3, "train labels must be between 0 and 1"),
        (random_images(4), np.arange(3) % 2, r"train labels must be int64 \[4\]"),
        (random_images(4), np.arange(4, dtype=np.int32) % 2, r"train labels must be int64 \[4\]; they are int32"),
    ],
)
def test_what_a_source_decodes_is_checked(images, labels, message):
    with pytest.raises(InputError, match=f"decode: {message}"):
        Given(images, labels).setup()


def test_a_tail_of_classes_is_exponential_and_the_same_for_every_seed(digits):
    data, other = (Digits(imbalance=20, seed=seed) for seed in (0, 1))
    for each in (data, other):
        each.setup()
    counts = data.train_labels[data.kept].bincount().tolist()
    whole = digits.train_labels.bincount().tolist()
    assert counts == [round(n * 20 ** (-k / 9)) for k, n in enumerate(whole)]
    assert torch.equal(data.kept, other.kept)
    served = torch.cat([batch.labels for batch in batches(data, 0)])
    assert served.bincount().tolist() == counts
    assert data.steps_per_epoch == -(-sum(counts) // 32)
    assert torch.equal(data.scale(data.train_images), digits.scale(digits.train_images))
    assert sum(len(chunk) for chunk in data.shuffled(100, torch.device("cpu"))) == sum(counts)


def test_a_fraction_of_every_class_is_served_the_same_for_every_seed(digits):
    fifth, half = Digits(fraction=0.2, seed=1), Digits(fraction=0.5)
    for each in (fifth, half):
        each.setup()
    whole = digits.train_labels.bincount().tolist()
    assert fifth.train_labels[fifth.kept].bincount().tolist() == [round(0.2 * n) for n in whole]
    assert set(fifth.kept.tolist()) < set(half.kept.tolist())
    tail = Digits(fraction=0.5, imbalance=20)
    tail.setup()
    assert tail.train_labels[tail.kept].bincount().tolist() == [
        round(0.5 * n * 20 ** (-k / 9)) for k, n in enumerate(whole)
    ]
    with pytest.raises(InputError, match=r"fraction=1\.5 must be a finite number from 0 to 1"):
        Digits(fraction=1.5)


def test_without_a_tail_all_images_are_served(digits):
    assert torch.equal(digits.kept, torch.arange(1437))
    with pytest.raises(InputError, match=r"imbalance=0\.5 must be a finite number of at least 1"):
        Digits(imbalance=0.5)


def test_noise_is_exact_in_a_tail(digits):
    data = Digits(imbalance=20)
    data.setup()
    given = Symmetric(0.4).labels(data, 0)
    wrong = (given != data.train_labels)[data.kept]
    labels = data.train_labels[data.kept]
    assert [int(wrong[labels == k].sum()) for k in range(10)] == [round(0.4 * n) for n in labels.bincount().tolist()]


def test_classes_of_one_remainder_are_joined(digits):
    data = Digits(modulo=2)
    assert data.classes == ["0 mod 2", "1 mod 2"]
    data.setup()
    assert torch.equal(data.train_labels, digits.train_labels % 2)
    assert torch.equal(data.test_labels, digits.test_labels % 2)
    assert torch.equal(data.train_images, digits.train_images)
    assert data.entries()["class_names"] == data.classes
    tail = Digits(modulo=5, imbalance=20)
    tail.setup()
    assert tail.train_labels[tail.kept].bincount().argsort(descending=True).tolist() == [0, 1, 2, 3, 4]
    for wrong in (1, 10, 2.5):
        with pytest.raises(InputError, match=f"modulo={wrong} must be a whole number from 2 to 9"):
            Digits(modulo=wrong).classes  # noqa: B018
