"""What models take and give."""

from .image_list import ImageList

__all__ = ["ImageList"]
