"""What models take and give."""

from .._coverage import module_getattr
from .image_list import ImageList

__all__ = ["ImageList"]

__getattr__ = module_getattr(__name__)
