#!/usr/bin/env python
"""Train or evaluate a segmentor. The program is d2_ctxseg/commands/train_net.py."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Ctrl-C during the imports, which take seconds, ends without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from d2_ctxseg.commands.train_net import main
from d2_ctxseg.utils.errors import run_command

if __name__ == "__main__":
    run_command(main)
