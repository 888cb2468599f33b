#!/usr/bin/env python3
"""The same as ``d2-ctxseg prepare coco_stuff_164k``."""

from d2_ctxseg_cli import main

if __name__ == "__main__":
    main("prepare", "coco_stuff_164k")
