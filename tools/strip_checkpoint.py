#!/usr/bin/env python
"""The program is d2_ctxseg/commands/strip_checkpoint.py."""

from d2_ctxseg.commands.strip_checkpoint import main
from d2_ctxseg.utils.errors import run_command

if __name__ == "__main__":
    run_command(main)
