import contextlib

import numpy as np
import pytest
import zarr

import igb
from igb._checks import InputError
from igb.training import matrices as store_module
from igb.training.matrices import CHUNK_PROBES, MatrixStore
from tests.conftest import tiny_run


def made(probes, classes):
    """Matrices of probability and of prediction [P, C, C], the latter shares of seven images."""
    random = np.random.default_rng(0)
    probability = random.dirichlet(np.full(classes, 0.3), size=(probes, classes))
    return probability, random.multinomial(7, np.full(classes, 1 / classes), size=(probes, classes)) / 7


def written(folder, matrices, *, first=0, last=None, **options):
    """Write the matrices of the probes from `first` to `last`; return how many are on disk."""
    with MatrixStore(folder, matrices[0].shape[-1], first, **options) as store:
        for place in range(first, len(matrices[0]) if last is None else last):
            store.write(place, matrices[0][place], matrices[1][place])
        return store.sync()


def read(folder):
    group = zarr.open_group(folder / "matrices.zarr", mode="r")
    return [group[name][:] for name in ("probability", "prediction")]


@pytest.mark.parametrize("probes", [1, CHUNK_PROBES, 2 * CHUNK_PROBES + 1])
def test_zarr_reads_what_was_written_in_float32(tmp_path, probes):
    matrices = made(probes, 3)
    assert written(tmp_path, matrices) == probes
    for array, expected in zip(read(tmp_path), matrices, strict=True):
        assert np.array_equal(array, expected.astype(np.float32))


@pytest.mark.parametrize("kept", [0, 1, CHUNK_PROBES, CHUNK_PROBES + 5, 2 * CHUNK_PROBES])
def test_what_came_after_a_checkpoint_is_dropped(tmp_path, kept):
    matrices, others = made(2 * CHUNK_PROBES + 7, 3), made(kept + 1, 3)
    written(tmp_path, matrices)
    assert written(tmp_path, [-array for array in others], first=kept, written=kept) == kept + 1
    for array, before, after in zip(read(tmp_path), matrices, others, strict=True):
        assert np.array_equal(array[:kept], before[:kept].astype(np.float32))
        assert np.array_equal(array[kept:], -after[kept:].astype(np.float32))


def test_with_many_classes_the_last_bits_are_rounded_away(tmp_path):
    matrices = made(2, 256)
    matrices[0][0, 0, :3] = 0, 1, np.nan
    written(tmp_path, matrices)
    probability, prediction = read(tmp_path)
    np.testing.assert_allclose(probability, matrices[0], rtol=2**-15, atol=1e-38)
    assert np.array_equal(probability[0, 0, :2], [0, 1])
    assert np.array_equal(np.rint(7 * prediction), np.rint(7 * matrices[1]))  # the counts are still exact
    assert sum(file.stat().st_size for file in tmp_path.rglob("*")) < 0.4 * (probability.nbytes + prediction.nbytes)


def test_probes_before_matrices_were_kept_are_nan(tmp_path):
    options = ("probe=log", "probe.points=11", "probe.images=20", "trainer.max_steps=2", "probe.matrices=false")
    folder = tiny_run(tmp_path / "run", *options)
    assert not (folder / "matrices.zarr").exists()
    with pytest.raises(InputError, match=r"matrices.zarr cannot be read: it is missing; .*probe.matrices=false"):
        igb.load_matrices(folder)
    tiny_run(folder, *options[:-2], "trainer.max_steps=4")  # the probe after step 2 comes again
    found = igb.load_matrices(folder)
    assert found.step.tolist() == [0, 1, 2, 3, 4]
    assert np.isnan(found.probability[:]).all((1, 2)).tolist() == [True] * 2 + [False] * 3


def test_a_run_that_no_longer_keeps_matrices_leaves_those_it_has(tmp_path):
    options = ("probe=log", "probe.points=11", "probe.images=20")
    folder = tiny_run(tmp_path / "run", *options, "trainer.max_steps=2")
    tiny_run(folder, *options, "trainer.max_steps=4", "probe.matrices=false")
    assert igb.load_matrices(folder).step.tolist() == [0, 1]
    tiny_run(folder, *options, "trainer.max_steps=6")
    missing = np.isnan(igb.load_matrices(folder).probability[:]).all((1, 2))
    assert np.flatnonzero(missing).tolist() == [2, 3]


@pytest.fixture
def killed(tmp_path):
    """A run with a probe after each of 44 steps, and its matrices; tests write them again."""
    folder = tiny_run(tmp_path / "run", "probe.points=null", "probe.images=20", "trainer.max_steps=44")
    matrices = igb.load_matrices(folder)
    return folder, matrices.probability[:], matrices.prediction[:]


@pytest.mark.parametrize("kept", [0, 1, 40])
def test_a_killed_run_loses_no_more_than_its_last_probe(killed, kept):
    folder, *matrices = killed
    with MatrixStore(folder, 10, kept, kept) as store:
        for place in range(kept, 44):
            store.write(place, matrices[0][place], matrices[1][place])
            if place in (kept, 43):
                found = igb.load_matrices(folder)
                assert found.step.tolist() == list(range(place + 1))
                assert np.array_equal(found.probability[:], matrices[0][: place + 1])
                assert np.array_equal(found.prediction[:], matrices[1][: place + 1])
        tail = folder / "matrices.tail"
        tail.write_bytes(tail.read_bytes()[:-3])  # in the middle of a write
        assert igb.load_matrices(folder).step.tolist() == list(range(43))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("writes", range(4))
@pytest.mark.parametrize("last", [16, 20, 32])
def test_a_run_killed_while_it_replaces_files_loses_no_more_than_its_last_probe(monkeypatch, killed, writes, last):
    """After none to three of the four files of a chunk, two of values and two of metadata; a chunk is 16 probes."""
    folder, *matrices = killed
    original, done = store_module.replace, 0

    def replace(path, data):
        nonlocal done
        if done == writes:
            raise Killed
        done += 1
        original(path, data)

    monkeypatch.setattr(store_module, "CHUNK_PROBES", 16)
    with contextlib.suppress(Killed), MatrixStore(folder, 10) as store:
        for place in range(last):
            if place == last - 1:
                monkeypatch.setattr(store_module, "replace", replace)
            store.write(place, matrices[0][place], matrices[1][place])
        store.sync()
    assert done == writes
    found = igb.load_matrices(folder)
    assert last - 1 <= len(found) <= last
    for array, whole in zip((found.probability, found.prediction), matrices, strict=True):
        assert np.array_equal(array[: last - 1], whole[: last - 1])


def test_a_probe_without_a_row_in_the_metrics_is_left_out(killed):
    folder, *matrices = killed
    with MatrixStore(folder, 10, 45, 45) as store:
        store.write(45, matrices[0][0], matrices[1][0])
    found = igb.load_matrices(folder)
    assert found.step.tolist() == list(range(45))
    assert len(found.probability) == len(found.prediction) == 45


@pytest.mark.parametrize(("name", "text"), [(".zarray", b"{}"), ("0.0.0", b"not compressed")])
def test_damaged_matrices_are_named(tmp_path, name, text):
    written(tmp_path, made(3, 3))
    (tmp_path / "matrices.zarr" / "prediction" / name).write_bytes(text)
    with pytest.raises(InputError, match=r"matrices.zarr does not have what it had when its checkpoint was written"):
        MatrixStore(tmp_path, 3, 3, 3)


def test_a_folder_without_a_run_has_no_matrices(tmp_path):
    with pytest.raises(InputError, match=r"there is no run\.json"):
        igb.load_matrices(tmp_path)
