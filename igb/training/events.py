"""TensorBoard's event file, written without the thread and the queue of torch's SummaryWriter."""

import os
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path

import google_crc32c
import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

SUMMARY = b"\x2a"  # how an event says that its summary follows: field 5, of bytes


class EventFile:
    """An event file of TensorBoard; an event is one write, which a reader sees at once.

    An event is a record of TensorFlow: its length, a checksum of that, its bytes, a checksum of them.

    Args:
        folder: where to make the file.
        suffix: of its name.
    """

    def __init__(self, folder: Path, suffix: str) -> None:
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.0{suffix}"
        self._file = open(folder / name, "wb")  # noqa: SIM115  (closed by `close`)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, summary: Summary | bytes, step: int = 0) -> None:
        """Append an event with a summary, which may be serialized already."""
        if isinstance(summary, bytes):
            self._write(Event(wall_time=time.time(), step=step), b"".join((SUMMARY, _varint(len(summary)), summary)))
        else:
            self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def _write(self, event: Event, more: bytes = b"") -> None:
        data = event.SerializeToString() + more
        length = struct.pack("<Q", len(data))
        self._file.write(b"".join((length, _checksum(length), data, _checksum(data))))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Scalars:
    """Scalars that are written again and again with other values.

    A summary, serialized, is its values one after another, and each ends with the four bytes of its number.

    Args:
        tags: of the scalars.
    """

    def __init__(self, tags: Sequence[str]) -> None:
        parts = [Summary(value=[Summary.Value(tag=tag, simple_value=0)]).SerializeToString() for tag in tags]
        self._data = np.frombuffer(bytearray(b"".join(parts)), np.uint8)
        self._places = np.cumsum([len(part) for part in parts])[:, None] + np.arange(-4, 0)

    def serialized(self, values: Sequence[float]) -> bytes:
        """The summary with these values, in the order of the tags."""
        with np.errstate(over="ignore"):  # TensorBoard has float32
            numbers = np.asarray(values, dtype="<f4")
        self._data[self._places] = numbers[:, None].view(np.uint8)
        return self._data.tobytes()


def _varint(number: int) -> bytes:
    """A length as protocol buffers write it: seven bits a byte, the lowest first."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def _checksum(data: bytes) -> bytes:
    """The masked CRC-32C of TensorFlow's records."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
