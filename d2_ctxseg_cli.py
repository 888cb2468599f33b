"""The command ``d2-ctxseg``; the scripts in tools/ and demo/ and train_net.py start it, too.

It lies beside the package, because importing the package registers everything in Detectron2, for
which PyTorch is imported. Here the arguments are read first: see ``d2_ctxseg/__init__.py``.
"""

import signal

# True from the start of a command until its arguments are read.
reading_arguments = False


def main(command: str | None = None, *first: str) -> None:
    """Run the command line of this process.

    Args:
        command: the one that a script stands for; None if the first argument names it.
        first: arguments that the script puts before those of the command line.
    """
    global reading_arguments
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        # Ctrl-C during the imports, which take seconds, ends without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    reading_arguments = True
    try:
        from d2_ctxseg.commands.command_line import read_command_line
        from d2_ctxseg.utils.errors import run_command

        program, arguments = read_command_line(command, *first)
    finally:
        reading_arguments = False

    def load_and_run() -> None:
        run = program.load()
        signal.signal(signal.SIGINT, before)
        run(arguments)

    run_command(load_and_run)


if __name__ == "__main__":
    # The package looks this module up by its name.
    from d2_ctxseg_cli import main as run

    run()
