"""Folders of images as people have them."""

import csv
import logging
import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import igb
from igb import report
from igb._checks import InputError
from igb.data import grayscale
from igb.data.sources import ImageFolder
from igb.report.runs import read_metrics
from tests.conftest import tiny_run


@pytest.fixture
def littered(image_folder):
    for split in ("train", "test"):
        (image_folder / split / "__MACOSX" / "ant").mkdir(parents=True)
        (image_folder / split / "__MACOSX" / "ant" / "._0.png").write_bytes(b"litter")
        for folder in (".ipynb_checkpoints", "ant/.ipynb_checkpoints", ".Trash"):
            (image_folder / split / folder).mkdir(parents=True)
            (image_folder / split / folder / "0-checkpoint.png").write_bytes(b"litter")
        for name in ("._0.png", ".DS_Store", "Thumbs.db", ".hidden.jpg", "notes.txt"):
            (image_folder / split / "bee" / name).write_bytes(b"litter")
    return image_folder


def test_what_programs_leave_in_folders_is_passed_over(littered):
    data = ImageFolder(littered)
    data.setup()
    assert data.class_names == ["ant", "bee"]
    assert (len(data.train_labels), len(data.test_labels)) == (6, 4)


def test_pictures_of_other_formats_are_counted_in_one_line(image_folder, caplog):
    for name in ("a.gif", "b.GIF", "c.avif", "d.jfif", "e.heic", "readme.md"):
        (image_folder / "train" / "ant" / name).write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        ImageFolder(image_folder).setup()
    (line,) = [record.message for record in caplog.records]
    assert line.startswith(f"{image_folder / 'train'}: skipped pictures in unsupported formats: 2 .gif, ")
    assert {part.strip() for part in line.rpartition("formats: ")[2].split(",")} == {
        "2 .gif",
        "1 .avif",
        "1 .jfif",
        "1 .heic",
    }


def test_a_class_of_other_formats_alone_is_named(image_folder):
    for file in (image_folder / "test" / "bee").iterdir():
        file.rename(file.with_suffix(".gif"))
    with pytest.raises(
        InputError, match=r"root=.*: test/bee has no image \(skipped: 2 \.gif\); supported formats are \.bmp, \.jpeg"
    ):
        ImageFolder(image_folder).setup()


def test_a_photograph_is_turned_as_it_was_taken():
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[0] = 200
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # turn it clockwise
    image.info["exif"] = exif.tobytes()
    image.getexif()[0x0112] = 6
    turned = grayscale(image, 8)
    assert (turned[:, -1] == 200).all()
    assert (turned[:, :-1] == 0).all()


def test_a_photograph_with_damaged_exif_is_read():
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    exif = image.getexif()
    exif[0x0112], exif[0x0128] = 3, "inch"  # a unit that must be a number; PIL could not write it again
    image.info["exif"] = b"Exif\x00\x00damaged"
    assert (grayscale(image, 8) == np.asarray(image)[::-1, ::-1]).all()
    fresh = Image.fromarray(np.asarray(image))
    fresh.info["exif"] = b"Exif\x00\x00damaged"
    assert (grayscale(fresh, 8) == np.asarray(fresh)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_black(mode):
    colours = np.zeros((4, 4, 4), dtype=np.uint8)
    colours[..., :3], colours[:2, :, 3] = 200, 255  # light all over; the lower half is not seen
    image = Image.fromarray(colours)
    if mode == "P":
        image = Image.fromarray(np.repeat([[1], [1], [0], [0]], 4, axis=1).astype(np.uint8), mode="P")
        image.putpalette([200, 200, 200] * 2)
        image.info["transparency"] = 0
    else:
        image = image.convert(mode)
    gray = grayscale(image, 4)
    assert (gray[:2] == 200).all()
    assert (gray[2:] == 0).all()


def test_an_image_that_is_not_square_is_stretched_or_cropped():
    pixels = np.zeros((10, 30), dtype=np.uint8)
    pixels[:, 10:20] = 90
    image = Image.fromarray(pixels)
    assert (grayscale(image, 10, "crop") == 90).all()
    stretched = grayscale(image, 10)
    assert stretched[5, 0] == 0
    assert stretched[5, 5] == 90


def test_fit_is_part_of_what_is_decoded(image_folder):
    arrays = []
    for fit in ("stretch", "crop"):
        data = ImageFolder(image_folder, fit=fit)
        data.setup()
        arrays.append(data.train_images)
    assert (arrays[0] != arrays[1]).any()
    with pytest.raises(InputError, match="fit=squash must be one of stretch, crop"):
        ImageFolder(image_folder, fit="squash")


def test_a_class_whose_name_is_no_utf8_is_refused_before_anything_is_written(image_folder, tmp_path):
    for split in ("train", "test"):
        (image_folder / split / "bee").rename(image_folder / split / os.fsdecode(b"b\xe9e"))
    with pytest.raises(InputError, match=r"data\.class_names: 'b\\udce9e' is not valid UTF-8; rename it"):
        tiny_run(tmp_path / "run", "data=image_folder", f"data.root={image_folder}")
    assert not (tmp_path / "run").exists()


NAMES = [
    "line\nbreak",
    "carriage\rreturn",
    "both\r\nof them",
    "tab\there",
    " leading",
    "nan",
    "1e3",
    "a,b",
    'q"uote',
    "True",
    "ünï ✓",
    "-",
]


@pytest.mark.usefixtures("undrawn")
def test_class_names_come_back_from_every_table_as_they_were(image_folder, tmp_path):
    for split in ("train", "test"):
        for name in NAMES:
            (image_folder / split / name).mkdir()
            for index in range(2):
                Image.new("L", (8, 8), 10 * index).save(image_folder / split / name / f"{index}.png")
    options = ["data=image_folder", f"data.root={image_folder}", "data.batch_size=8", "trainer.max_steps=2"]
    folder = tiny_run(tmp_path / "run", *options)
    expected = sorted([*NAMES, "ant", "bee"])
    table = read_metrics(folder / "metrics.csv", len(expected))
    assert table["class_name"].tolist() == expected * 3
    torn = (folder / "metrics.csv").read_bytes().rpartition(b"break")[0]  # within the last probe, at a line break
    (folder / "metrics.csv").write_bytes(torn)
    assert len(read_metrics(folder / "metrics.csv", len(expected))) == 2 * len(expected)
    tiny_run(folder, *options[:-1], "trainer.max_steps=3")
    assert read_metrics(folder / "metrics.csv", len(expected))["class_name"].tolist() == expected * 4
    report.write([folder], csv=True, parquet=True)
    as_text = {"keep_default_na": False, "dtype": str}
    for name in ("classes", "runs"):
        with open(folder / "report" / f"{name}.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["class_name"] for row in rows] == expected * (len(rows) // len(expected)), name
    assert pd.read_csv(folder / "report" / "classes.csv", **as_text)["class_name"].tolist() == expected
    table = pd.read_parquet(folder / "report" / "runs.parquet")
    assert table["class_name"].tolist() == expected * 4
    assert igb.load_runs(folder)["class_name"].tolist() == expected * 4
