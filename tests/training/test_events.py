import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from igb.training.events import EventFile, Scalars, _checksum


def test_tensorboard_reads_every_scalar_of_an_event(tmp_path):
    file = EventFile(tmp_path, ".mine")
    for step in (0, 7):
        file.write(Summary(value=[Summary.Value(tag=tag, simple_value=step / 4) for tag in ("a/b", "Tür")]), step)
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("events.out.tfevents.")
    assert path.name.endswith(".mine")
    accumulator = EventAccumulator(str(path))
    accumulator.Reload()  # before the file is closed
    for tag in ("a/b", "Tür"):
        assert [(event.step, event.value) for event in accumulator.Scalars(tag)] == [(0, 0.0), (7, 1.75)]
    file.close()


@pytest.mark.parametrize("count", [1, 3, 40, 3000])
def test_scalars_are_serialized_as_protobuf_does(tmp_path, count):
    tags = ["Tür", *(f"a/{'b' * k}" for k in range(count - 1))]
    scalars = Scalars(tags)
    for values in ([0.0] * count, [1e39] + [k / 7 for k in range(count - 1)]):
        expected = Summary(value=[Summary.Value(tag=tag, simple_value=v) for tag, v in zip(tags, values, strict=True)])
        assert Summary.FromString(scalars.serialized(values)) == expected
    event = Event(step=7, summary=expected)
    file = EventFile(tmp_path, "")
    file.write(scalars.serialized(values), 7)
    file.close()
    (path,) = tmp_path.iterdir()
    _, found = LegacyEventFileLoader(str(path)).Load()
    found.wall_time = 0
    assert found == event


@pytest.mark.parametrize("data", [b"", b"a", bytes(range(256)) * 9])
def test_checksums_are_those_of_tensorboard(data):
    assert int.from_bytes(_checksum(data), "little") == masked_crc32c(data)
