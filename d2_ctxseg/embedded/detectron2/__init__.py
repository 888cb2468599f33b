"""A small implementation of the part of Detectron2's public API that d2_ctxseg uses.

It is found only where Detectron2 itself is not installed: d2_ctxseg appends this folder to the
end of ``sys.path``. Whatever it does not cover raises ImportError with a pointer to Detectron2's
install guide.
"""

from ._coverage import install_import_guard

__version__ = "0.6+embedded"

install_import_guard()
