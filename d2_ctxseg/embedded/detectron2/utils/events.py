"""What happens in training: a storage that modules put data in, and writers that take it out."""

from .event_storage import EventStorage, get_event_storage
from .event_writers import CommonMetricPrinter, EventWriter, TensorboardXWriter

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "TensorboardXWriter",
    "get_event_storage",
]
