"""Upload a trained model to the Hugging Face Hub, with a model card."""

import argparse

from .. import model_zoo


def main(arguments: argparse.Namespace) -> None:
    source = arguments.run or arguments.model
    card = {name: getattr(arguments, name) for name in ("license", "commit", "data_terms")}
    if arguments.folder:
        model_zoo.save_pretrained(source, arguments.folder, weights=arguments.weights, **card)
        print(f"The model and its card are in '{arguments.folder}'.")
    else:
        address = model_zoo.push_to_hub(
            source, arguments.repo, weights=arguments.weights, private=arguments.private, **card
        )
        print(f"The model is at {address}")
