#!/usr/bin/env python3
"""The same as ``d2-ctxseg prepare clothing_co_parsing``."""

from d2_ctxseg_cli import main

if __name__ == "__main__":
    main("prepare", "clothing_co_parsing")
