#!/usr/bin/env python3
"""The same as ``d2-ctxseg prepare pascal_context``."""

from d2_ctxseg_cli import main

if __name__ == "__main__":
    main("prepare", "pascal_context")
