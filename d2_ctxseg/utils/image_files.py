"""The input images and the output files of a command line."""

import glob
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from .errors import MissingFileError, UserError
from .outputs import check_output_file

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def find_images(inputs: Iterable[str]) -> list[Path]:
    """The files that ``--input`` names, in their order and without duplicates.

    Args:
        inputs: files, folders (all images directly inside) and patterns like ``folder/*.png``.

    Raises:
        MissingFileError: an input matches no file.
    """
    found = []
    for name in inputs:
        path = Path(name).expanduser()
        if path.is_file():
            found.append(path)
            continue
        if path.is_dir():
            files = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
            missing = f"this folder contains no image ({', '.join(IMAGE_SUFFIXES)})"
        else:
            files = [file for file in map(Path, glob.glob(str(path))) if file.is_file()]
            is_pattern = glob.has_magic(name)
            missing = "no file matches this pattern" if is_pattern else "there is no such file"
        if not files:
            raise MissingFileError(f"--input {name}: {missing}")
        found += sorted(files)
    return list(dict.fromkeys(found))


def plan_outputs(inputs: list[Path], output: str) -> list[Path]:
    """The output file of each input.

    Args:
        inputs: image files.
        output: the name of a file (for a single input) or of a folder. In a folder an output has
            the name of its input; .png is appended if the input's format cannot be written.

    Raises:
        UserError: ``output`` is one file for several inputs, inputs have the same name, or an
            input would be overwritten.
    """
    if names_a_file(output, IMAGE_SUFFIXES):
        if len(inputs) > 1:
            raise UserError(
                f"--output {output} is one file, but there are {len(inputs)} inputs: name a folder"
            )
        outputs = [Path(output)]
    else:
        outputs = [Path(output, _output_name(path)) for path in inputs]
    for name, count in Counter(path.name for path in outputs).items():
        if count > 1:
            raise UserError(
                f"{count} inputs are called {name}: their outputs would overwrite one another in "
                f"{output}; process them separately with different --output folders"
            )
    for path in outputs:
        refuse_to_overwrite(path, inputs)
    check_output_file(outputs[0], "--output")  # the others have the same folder
    return outputs


def _output_name(path: Path) -> str:
    return path.name if path.suffix.lower() in IMAGE_SUFFIXES else f"{path.name}.png"


def names_a_file(output: str, suffixes: Iterable[str]) -> bool:
    """Whether ``--output`` names a file (with one of the suffixes) rather than a folder.

    Raises:
        UserError: it names a file with another suffix.
    """
    path = Path(output)
    if path.is_dir() or output.endswith("/") or not path.suffix:
        return False
    if path.suffix.lower() not in suffixes:
        raise UserError(
            f"--output {output}: files of this kind cannot be written; use one of "
            f"{', '.join(suffixes)}, or end the name with / if it is a folder"
        )
    return True


def refuse_to_overwrite(output: Path, inputs: Iterable[Path]) -> None:
    """Raise UserError if ``output`` is one of the inputs."""
    if output.resolve() in {path.resolve() for path in inputs}:
        raise UserError(f"the output would overwrite the input {output}: choose another --output")
