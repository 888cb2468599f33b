"""Publish the model of a finished training in the model zoo."""

import argparse
from pathlib import Path

from ..model_zoo.publish import publish_run
from ..utils.errors import UsageError


def main(args: argparse.Namespace) -> None:
    if len(args.runs) > 1:
        raise UsageError(f"{len(args.runs)} runs were named: publish one at a time.")
    publication = publish_run(
        Path(args.runs[0]),
        args.name,
        args.output,
        weights=args.weights,
        commit=args.commit,
        data_terms=args.data_terms,
        max_megabytes=args.max_megabytes,
    )
    model, agreement = publication.model, publication.agreement
    print(
        f"Removed {', '.join(publication.removed) or 'no part of the model'}. Logits differ by "
        f"{100 * agreement.difference:.2f} % of their standard deviation, "
        f"{100 * agreement.equal_labels:.1f} % of the pixels have the same class."
    )
    print(
        f"Wrote '{args.output / model.file}' ({model.size / 1e6:.1f} MB) and '{publication.card}'."
    )
