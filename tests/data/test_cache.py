"""Images in the cache, in memory and mapped from there."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from igb._checks import InputError
from igb.data import ImageData, Images, LazyImages, cache
from igb.data.sources import Digits, ImageFolder
from tests.conftest import tiny_run

FIELDS = ("train_images", "train_labels", "test_images", "test_labels")


def load(root, **options):
    data = ImageFolder(root, image_size=16, **options)
    data.setup()
    return data


def entry(data):
    (folder,) = (path for path in data.cache_dir.iterdir() if path.is_dir())
    return folder


@pytest.fixture
def reads(monkeypatch):
    """The images that were read by an ImageFolder."""
    found = []
    read = ImageFolder._read
    monkeypatch.setattr(ImageFolder, "_read", lambda self, path: found.append(path) or read(self, path))
    return found


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def rewrite(**values):
    return lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("memory", ["host", "map"])
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("train_images.npy", cut), ("test_images.npy", Path.unlink), ("train_images.npy", flip),
        ("test_labels.npy", lambda file: file.write_bytes(b"no array")), ("cache.json", cut),
        ("cache.json", Path.unlink),
        ("cache.json", rewrite(version=0)), ("cache.json", rewrite(fingerprint="")),
    ],
)  # fmt: skip
def test_a_damaged_or_old_cache_is_decoded_again(image_folder, reads, name, damage, memory):
    first = load(image_folder)
    expected = {field: getattr(first, field) for field in FIELDS}
    damage(entry(first) / name)
    reads.clear()
    data = load(image_folder, memory=memory)
    if damage is flip and memory == "map":  # to see it would take as long as to read all
        assert not reads
        return
    assert reads
    for field in FIELDS:
        assert torch.equal(getattr(data, field), expected[field])
    reads.clear()
    load(image_folder, memory=memory)
    assert not reads
    assert sorted(path.name for path in entry(data).iterdir()) == [
        "cache.json",
        *(f"{name}.npy" for name in sorted(FIELDS)),
    ]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("survived", [1, 4, 5, 8])
def test_a_killed_decoding_goes_on_where_it_stopped(image_folder, monkeypatch, reads, survived):
    """Six training and four test images, in twos."""
    monkeypatch.setattr(cache, "DECODED", 2)
    expected = load(image_folder, cache_dir=image_folder / "whole")
    files = ImageFolder(image_folder).files()
    read = ImageFolder._read

    def killed(self, path):
        if path == files[survived]:
            raise Killed
        return read(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(ImageFolder, "_read", killed)
        with pytest.raises(Killed):
            load(image_folder)
    reads.clear()
    data = load(image_folder)
    written = min(survived // 2 * 2, 6), max(0, survived // 2 * 2 - 6)
    train, test = (max(0, count - 1) // 2 * 2 for count in written)  # the last ones may be lost with a node
    firsts = {files[0], files[6]}  # which tell the shapes
    assert set(reads) == {*files[train:6], *files[6 + test :], *firsts}
    for field in FIELDS:
        assert torch.equal(getattr(data, field), getattr(expected, field))
    assert data.entries() == expected.entries()


def test_a_file_that_was_killed_within_an_image_goes_on_from_the_one_before(image_folder, monkeypatch, reads):
    monkeypatch.setattr(cache, "DECODED", 1)
    expected = load(image_folder)
    info = entry(expected) / "cache.json"
    values = json.loads(info.read_text())
    info.write_text(json.dumps({name: values[name] for name in ("version", "fingerprint")}))
    file = entry(expected) / "train_images.npy"
    file.write_bytes(file.read_bytes()[: -(2 * 256 + 100)])  # of images of 256 bytes
    for other in ("train_labels", "test_images", "test_labels"):
        (entry(expected) / f"{other}.npy").unlink()
    reads.clear()
    data = load(image_folder)
    assert len(set(reads)) == 1 + 4 + 4  # the first; of training the last whole one and three; all of test
    for field in FIELDS:
        assert torch.equal(getattr(data, field), getattr(expected, field))


def test_what_a_killed_decoding_left_of_other_files_is_dropped(image_folder, monkeypatch, reads):
    monkeypatch.setattr(cache, "DECODED", 2)
    files = [str(path) for path in sorted((image_folder / "train").rglob("*.png"))]
    Image.new("L", (5, 5)).save(image_folder / "test" / "bee" / "0.png")
    file = Path(files[5])
    content = file.read_bytes()
    file.write_bytes(b"damaged")
    with pytest.raises(InputError, match=f"{file} cannot be read as an image"):
        load(image_folder)
    file.write_bytes(content)
    reads.clear()
    load(image_folder)
    assert len(set(reads)) == 10


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_mapped_batches_are_those_in_memory(image_folder, workers, world_size):
    kinds = {"device": {}, "host": {"memory": "host"}, "map": {"memory": "map", "workers": workers}}
    served = {}
    for kind, options in kinds.items():
        data = load(image_folder, batch_size=4, color=True, **options)
        assert (data._mapped is not None) is (kind == "map")
        data.shard(world_size - 1, world_size, 1)
        loader = data.train_dataloader()
        served[kind] = []
        for epoch in (3, 4):
            loader.sampler.set_epoch(epoch)
            served[kind] += list(loader)
        assert torch.equal(data.scale(data.train_images), load(image_folder, color=True).scale(data.train_images))
    for kind in ("host", "map"):
        for mine, theirs in zip(served[kind], served["device"], strict=True):
            assert torch.equal(mine.images, theirs.images)
            assert torch.equal(mine.labels, theirs.labels)
            assert mine.size == theirs.size


def test_large_images_are_mapped_unless_told_otherwise(image_folder, monkeypatch):
    assert load(image_folder)._mapped is None
    monkeypatch.setattr(cache, "MEMORY_BYTES", 100)
    assert load(image_folder)._mapped is not None
    assert load(image_folder, memory="host")._mapped is None


def test_what_is_not_cached_cannot_be_mapped():
    with pytest.raises(InputError, match="memory=map needs a source that is cached; Digits is not"):
        Digits(memory="map")
    with pytest.raises(InputError, match="memory=disk must be one of auto, device, host, map"):
        Digits(memory="disk")
    with pytest.raises(InputError, match="workers=-1 must be a whole number of at least 0"):
        Digits(workers=-1)


def test_a_disk_without_room_is_named_before_anything_is_decoded(image_folder, monkeypatch, reads):
    usage = shutil.disk_usage(image_folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2000))
    with pytest.raises(InputError, match=r"cache_dir=.* has 0\.00 GB left, but the decoded images take 0\.00 GB"):
        load(image_folder)
    assert len(set(reads)) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_disk_that_fills_up_is_one_line_and_keeps_what_is_decoded(image_folder, tmp_path, monkeypatch, reads):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        monkeypatch.setattr(cache, "DECODED", 2)
        usage = shutil.disk_usage(image_folder)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)  # which others use up meanwhile
        for _ in range(2):
            with pytest.raises(InputError, match=r"cache_dir=.*disk cannot be written \(.*No space left"):
                ImageFolder(image_folder, image_size=200, cache_dir=disk).setup()
        (kept,) = disk.glob("*/train_images.npy")
        assert kept.stat().st_size > 4 * 200 * 200
        subprocess.run(["mount", "-o", "remount,size=4M", disk], check=True)
        reads.clear()
        ImageFolder(image_folder, image_size=200, cache_dir=disk).setup()
        assert len(set(reads)) < 10
    finally:
        subprocess.run(["umount", disk], check=True)


def many_images(root, train, test, classes=10, size=64):
    """A folder of many images, links to a few hundred files."""
    generator = np.random.default_rng(0)
    originals = root / "originals"
    originals.mkdir(parents=True)
    count = max(200, (train + test) // 2000)
    for index in range(count):
        noise = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((size, size)).save(originals / f"{index}.jpg")
    for split, total in (("train", train), ("test", test)):
        for label in range(classes):
            folder = root / split / f"{label:04d}"
            folder.mkdir(parents=True)
            for index in range(label, total, classes):
                os.link(originals / f"{(index * 7) % count}.jpg", folder / f"{index}.jpg")
    return root


RUN = (
    sys.executable, "-m", "igb", "data=image_folder", "data.image_size=64", "data.color=true",
    "model._target_=tests.helpers.networks.Tiny", "trainer.accelerator=cpu", "probe.images=100", "probe=log",
)  # fmt: skip


@pytest.mark.slow
def test_a_large_folder_takes_little_memory(tmp_path):
    """200,000 files in colour are 2.5 GB; decoding and training on them take less than 1 GB above a small run."""
    peaks = {}
    for name, train in (("small", 1000), ("large", 200_000)):
        root = many_images(tmp_path / name, train, 1000)
        folder = tmp_path / f"run-{name}"
        command = [*RUN, f"data.root={root}", f"hydra.run.dir={folder}", "trainer.max_steps=200", "data.batch_size=128"]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
        peaks[name] = json.loads((folder / "run.json").read_text())["peak_memory_bytes"]
    assert peaks["large"] - peaks["small"] < 1e9


@pytest.mark.slow
def test_a_signal_to_all_processes_stops_a_run_with_workers_between_two_steps(tmp_path):
    root = many_images(tmp_path / "images", 2000, 100)
    folder, whole = tmp_path / "run", tmp_path / "whole"
    command = [*RUN, f"data.root={root}", "data.memory=map", "trainer.max_epochs=3", "data.batch_size=2"]
    process = subprocess.Popen(
        [*command, f"hydra.run.dir={folder}"], start_new_session=True, cwd=Path(__file__).parents[2]
    )
    while not (folder / "train.csv").exists() or len((folder / "train.csv").read_text().splitlines()) < 100:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    entries = json.loads((folder / "run.json").read_text())
    assert (entries["status"], entries["reason"]) == ("interrupted", "stopped by SIGTERM")
    for path in (folder, whole):
        subprocess.run([*command, f"hydra.run.dir={path}"], check=True, cwd=Path(__file__).parents[2])
    assert (folder / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_runs_are_the_same_wherever_the_images_are(image_folder, tmp_path):
    folders = []
    for memory in ("device", "host", "map"):
        options = ("data=image_folder", f"data.root={image_folder}", "data.batch_size=4", f"data.memory={memory}")
        folder = tmp_path / memory
        tiny_run(folder, *options, "trainer.max_epochs=1")
        tiny_run(folder, *options, "trainer.max_epochs=3")
        folders.append(folder)
    assert len({(folder / "metrics.csv").read_bytes() for folder in folders}) == 1
    tiny_run(folders[0], *options, "trainer.max_epochs=4")  # on from the device's memory with a map


def test_processes_that_cannot_lock_the_cache_each_decode_for_themselves(image_folder, monkeypatch, reads):
    """As if on a file system without locks, one at the end of another's decoding."""
    expected = load(image_folder, cache_dir=image_folder / "locked")
    monkeypatch.setattr(cache, "_lock", lambda path, stack: False)
    original, others = cache._write, []

    def write(entry, origin, decoded):
        original(entry, origin, decoded)
        if not others:
            others.append(entry)
            monkeypatch.setattr(cache.os, "getpid", lambda: 12345)
            load(image_folder)

    monkeypatch.setattr(cache, "_write", write)
    data = load(image_folder)
    assert len(reads) >= 30
    for field in FIELDS:
        assert torch.equal(getattr(data, field), getattr(expected, field))
    assert not [path for path in data.cache_dir.iterdir() if "." in path.name]  # each folder is whole, or gone
    assert data.entries() == expected.entries()


def test_the_progress_shows_images_per_second(image_folder, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    load(image_folder)
    assert re.search(r"decoding: .*/10 .*images/s", capsys.readouterr().err)


def test_what_a_class_derives_from_is_part_of_the_cache(image_folder, reads, monkeypatch):
    class Derived(ImageFolder):
        pass

    Derived(image_folder).setup()
    reads.clear()
    Derived(image_folder).setup()
    assert not reads
    original = cache.inspect.getsource
    monkeypatch.setattr(
        cache.inspect, "getsource", lambda of: original(of) + ("# changed" if of is ImageFolder else "")
    )
    Derived(image_folder).setup()
    assert reads


class Missing(ImageData):
    """A source whose files have gone when they are read."""

    class_names = ("a", "b")

    def files(self):
        return [__file__]

    def decode(self):
        raise FileNotFoundError(2, "No such file or directory", "nowhere.dat")


def test_an_error_of_a_source_is_not_one_of_the_cache(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.dat"):
        Missing(cache_dir=tmp_path).setup()


class Plain(ImageData):
    """Gray images as `grayscale` makes them, one by one."""

    class_names = ("a", "b")

    def decode(self):
        lazy = LazyImages(range(4), lambda index: np.full((self.image_size, self.image_size), 50 * index, np.uint8))
        labels = np.arange(4) % 2
        return Images(lazy, labels, lazy, labels)


def test_a_reader_may_leave_the_channel_out():
    data = Plain()
    data.setup()
    assert data.train_images.shape == (4, 1, 32, 32)


def test_a_pass_over_mapped_images_gives_their_memory_back(image_folder, monkeypatch):
    data = load(image_folder, memory="map")
    released = []
    monkeypatch.setattr("igb.data.module.release", lambda array: released.append(len(array)))
    assert sum(len(chunk) for chunk in data.shuffled(4, torch.device("cpu"))) == 6
    assert released == [6, 4] * 2
