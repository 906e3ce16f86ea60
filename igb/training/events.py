"""TensorBoard's event file, written without the thread and the queue of torch's SummaryWriter."""

import os
import socket
import struct
import time
from pathlib import Path

import google_crc32c
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary


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

    def write(self, summary: Summary, step: int = 0) -> None:
        """Append an event."""
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def _write(self, event: Event) -> None:
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        self._file.write(b"".join((length, _checksum(length), data, _checksum(data))))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _checksum(data: bytes) -> bytes:
    """The masked CRC-32C of TensorFlow's records."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
