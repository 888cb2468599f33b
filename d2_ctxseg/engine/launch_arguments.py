"""Whether the processes that a command line asks for can be started and can meet."""

from urllib.parse import urlsplit

from ..utils.errors import UsageError

_MEETING_PLACES = "tcp://HOST:PORT, file:///PATH, env:// or, on one machine, auto"
_SCHEMES = ("tcp", "file", "env")


def check_launch_arguments(args) -> None:
    """Refuse numbers of processes and machines that cannot be, which would hang or do nothing.

    Args:
        args: ``num_gpus``, ``num_machines``, ``machine_rank`` and ``dist_url``, as Detectron2's
            ``default_argument_parser`` gives them.

    Raises:
        UsageError: one of them is wrong; the message says what was expected.
    """
    for option, value, low in (
        ("--num-gpus", args.num_gpus, 1),
        ("--num-machines", args.num_machines, 1),
        ("--machine-rank", args.machine_rank, 0),
    ):
        if value < low:
            raise UsageError(f"{option} is {value}, expected an integer from {low}.")
    if args.machine_rank >= args.num_machines:
        raise UsageError(
            f"--machine-rank {args.machine_rank} with --num-machines {args.num_machines}: expected "
            f"0 to {args.num_machines - 1}. The others would wait for a machine that never comes."
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        raise UsageError(
            "--num-machines needs --dist-url: tcp://HOST:PORT of the machine with "
            "--machine-rank 0, the same on all machines."
        )
    if args.num_gpus * args.num_machines > 1 and args.dist_url != "auto":
        _check_address(args.dist_url)


def _check_address(url: str) -> None:
    scheme, place, *_ = urlsplit(url)
    try:
        port = urlsplit(url).port
    except ValueError as error:  # of another kind, or above 65535
        raise UsageError(f"--dist-url '{url}': {error}. Expected {_MEETING_PLACES}.") from error
    if scheme not in _SCHEMES or (scheme == "tcp" and (not place or port is None)):
        raise UsageError(f"--dist-url '{url}': expected {_MEETING_PLACES}.")
