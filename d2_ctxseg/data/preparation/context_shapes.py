"""ContextShapes, a small synthetic dataset, in its folder or elsewhere."""

import argparse

from ..context_shapes import ContextShapesOptions, generate_context_shapes


def prepare(arguments: argparse.Namespace) -> None:
    """Create it atomically.

    Args:
        arguments: ``root``, ``output`` (None: below it), ``size`` (width, height), ``seed``,
            ``num_train``, ``num_val``, ``dry_run``, ``overwrite``.

    Raises:
        UserError: the folder contains something else, or cannot be written.
    """
    width, height = arguments.size
    options = ContextShapesOptions(
        arguments.seed, arguments.num_train, arguments.num_val, height, width
    )
    output = arguments.output or arguments.root / "context_shapes"
    what = f"{options.num_train} train and {options.num_val} val images of {width}x{height}"
    if arguments.dry_run:
        megabytes = (options.num_train + options.num_val) * width * height * 4 / 1e6
        print(f"Would create {what} in {output} ({megabytes:.1f} MB).")
        return
    is_new = generate_context_shapes(output, options, overwrite=arguments.overwrite)
    print(f"{'Created' if is_new else 'Already exists:'} {what} in {output}.")
