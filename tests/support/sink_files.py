"""What sinks wrote, read with TensorBoard's own reader, a directory without those below it."""

from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader


def files_in(logdir: Path) -> list[Path]:
    """The event files of a directory in the order in which TensorBoard reads them."""
    return sorted(logdir.glob("events.out.tfevents.*"))


def events_in(path: Path) -> list[Any]:
    """All events of a file, the one that starts it included. Fails where a record is broken."""
    return list(LegacyEventFileLoader(str(path)).Load())


def scalars_in(path: Path, tag: str = "x") -> list[tuple[int, float]]:
    """(step, value) of one tag in a file."""
    return [
        (event.step, value.simple_value)
        for event in events_in(path)
        for value in event.summary.value
        if value.tag == tag
    ]


def steps_in(logdir: Path, tag: str = "x") -> list[int]:
    """The steps of one tag in all files of a directory."""
    return [step for path in files_in(logdir) for step, _ in scalars_in(path, tag)]


def event_size(event: Any) -> int:
    """Bytes of an event's record in a file."""
    return int(event.ByteSize()) + 16
