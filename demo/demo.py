#!/usr/bin/env python
"""The program is d2_ctxseg/commands/demo.py."""

from d2_ctxseg.commands.demo import main
from d2_ctxseg.utils.errors import run_command

if __name__ == "__main__":
    run_command(main)
