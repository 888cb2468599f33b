"""What happens in training: a storage that modules put data in, and writers that take it out."""

from .._coverage import module_getattr
from .event_storage import EventStorage, get_event_storage, has_event_storage
from .event_writers import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "JSONWriter",
    "TensorboardXWriter",
    "get_event_storage",
    "has_event_storage",
]

__getattr__ = module_getattr(__name__)
