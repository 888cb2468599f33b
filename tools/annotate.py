#!/usr/bin/env python
"""The same as ``d2-ctxseg annotate``."""

from d2_ctxseg_cli import main

if __name__ == "__main__":
    main("annotate")
