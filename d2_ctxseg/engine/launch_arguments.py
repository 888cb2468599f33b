"""Checks of the command-line options for distributed training."""

from urllib.parse import urlsplit

from ..utils.errors import UsageError

_ADDRESSES = "tcp://HOST:PORT, file:///PATH, env:// or, on one machine, auto"
_SCHEMES = ("tcp", "file", "env")


def check_launch_arguments(args) -> None:
    """Raise UsageError for options with which a run would hang or do nothing.

    Args:
        args: ``num_gpus``, ``num_machines``, ``machine_rank`` and ``dist_url``, as Detectron2's
            ``default_argument_parser`` gives them.

    Raises:
        UsageError: an option is invalid; the message says what was expected.
    """
    for option, value, low in (
        ("--num-gpus", args.num_gpus, 1),
        ("--num-machines", args.num_machines, 1),
        ("--machine-rank", args.machine_rank, 0),
    ):
        if value < low:
            raise UsageError(f"{option} is {value}, expected an integer of at least {low}.")
    if args.machine_rank >= args.num_machines:
        raise UsageError(
            f"--machine-rank {args.machine_rank} with --num-machines {args.num_machines}: expected "
            f"0 to {args.num_machines - 1}. The other machines would wait for ever."
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        raise UsageError(
            "--num-machines needs --dist-url tcp://HOST:PORT: the address of the machine with "
            "--machine-rank 0, the same on all machines."
        )
    if args.num_gpus * args.num_machines > 1 and args.dist_url != "auto":
        _check_address(args.dist_url)


def _check_address(url: str) -> None:
    scheme, place, *_ = urlsplit(url)
    try:
        port = urlsplit(url).port
    except ValueError as error:  # the port is not a number, or is above 65535
        raise UsageError(f"--dist-url '{url}': {error}. Expected {_ADDRESSES}.") from error
    if scheme not in _SCHEMES or (scheme == "tcp" and (not place or port is None)):
        raise UsageError(f"--dist-url '{url}': expected {_ADDRESSES}.")
