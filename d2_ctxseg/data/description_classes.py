"""Read the keys of a dataset's description that concern classes and label values."""

from collections import Counter
from pathlib import Path

from ..utils.errors import UserError, counted, shown
from ..utils.yaml_files import read_yaml
from .description_checks import MAX_LABEL_VALUE, InvalidDescription, check_keys, is_integer
from .folder_dataset import AnomalyIds
from .palette import generate_palette

# mmsegmentation's name for labels from 1 to K, with 0 for pixels without a class.
_REDUCE_ZERO = "reduce_zero_label"


def read_classes(classes, folder: Path) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """The class names, and their original ids if they are in a file that maps ids to names.

    Args:
        classes: the value of the key: a list of names, or the path of a YAML file with a list or
            with a mapping from the publisher's ids to names.
        folder: the folder that the path is relative to.

    Raises:
        InvalidDescription: the value or the file is not valid.
    """
    ids = None
    if isinstance(classes, str):
        classes, ids = _read_class_file(folder / Path(classes).expanduser())
    if not isinstance(classes, list) or not classes:
        raise InvalidDescription(
            "'classes' must be a list of at least one class name, or the path of a YAML file with "
            "such a list."
        )
    for name in classes:
        if not isinstance(name, str) or not name.strip():
            raise InvalidDescription(
                f"'classes' must be a list of names, but contains {shown(name)}. "
                "(Put no, yes, on, off and numbers in quotes: YAML does not read them as text.)"
            )
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise InvalidDescription(f"'classes' contains '{twice[0]}' more than once.")
    return tuple(classes), ids


def _read_class_file(path: Path):
    """The names in a file and their ids, which are None for a list."""
    content = _read_yaml(path, "classes")
    if not isinstance(content, dict):
        return content, None
    for key in content:
        if not is_integer(key, 0, MAX_LABEL_VALUE):
            raise InvalidDescription(
                f"'classes' names the file {path}, which maps {shown(key)} to a class. Its keys "
                f"must be the publisher's ids, integers in 0..{MAX_LABEL_VALUE}. Otherwise make it "
                "a list of names."
            )
    return list(content.values()), tuple(content)


def _read_yaml(path: Path, key: str):
    try:
        return read_yaml(path)
    except UserError as error:
        raise InvalidDescription(f"'{key}' names the file {error}") from error


def read_original_ids(ids, num_classes: int) -> tuple[int, ...]:
    """The original id of each class.

    Args:
        ids: the value of the key: a list of ids, or the first of consecutive ids.
        num_classes: number of classes.

    Raises:
        InvalidDescription: the value is not valid.
    """
    if is_integer(ids, 0, MAX_LABEL_VALUE + 1 - num_classes):
        return tuple(range(ids, ids + num_classes))
    is_list = isinstance(ids, list) and len(ids) == num_classes
    if not is_list or not all(is_integer(value, 0, MAX_LABEL_VALUE) for value in ids):
        raise InvalidDescription(
            "'original_ids', the values of the classes in the publisher's files, must be a list of "
            f"{counted(num_classes, 'integer')} in 0..{MAX_LABEL_VALUE}, one per class, or the "
            f"first of consecutive integers, but is {shown(ids)}."
        )
    twice = [value for value, count in Counter(ids).items() if count > 1]
    if twice:
        raise InvalidDescription(f"'original_ids' has {twice[0]} for more than one class.")
    return tuple(ids)


def read_num_classes(count, num_classes: int) -> int:
    """The number of classes to use; InvalidDescription if it is not an integer in range."""
    if not is_integer(count, 1, num_classes):
        raise InvalidDescription(
            f"'num_classes', the number of classes to use, must be an integer in "
            f"1..{num_classes}, but is {shown(count)}."
        )
    return count


def ignore_classes_from(count: int, id_map, num_classes: int, ignore_label: int) -> dict[int, int]:
    """The id map in which classes with an index of at least ``count`` are ignored.

    Args:
        count: number of classes that are used.
        id_map: the id map of all classes; None: the labels are class indices.
        num_classes: number of all classes.
        ignore_label: label of ignored pixels.
    """
    if id_map is None:
        id_map = {index: index for index in [*range(num_classes), ignore_label]}
    return {raw: index if index < count else ignore_label for raw, index in id_map.items()}


def read_ignore_label(ignore_label, num_classes: int) -> int:
    """The ignore label; InvalidDescription if it is no label value or is a class index."""
    if not is_integer(ignore_label, 0, MAX_LABEL_VALUE):
        raise InvalidDescription(
            f"'ignore_label' must be an integer in 0..{MAX_LABEL_VALUE}, but is "
            f"{shown(ignore_label)}."
        )
    if ignore_label < num_classes:
        raise InvalidDescription(
            f"'ignore_label' (default: 255) must not be a class index, but is {ignore_label} with "
            f"{counted(num_classes, 'class', 'classes')}. Set a value above {num_classes - 1}."
        )
    return ignore_label


def read_palette(palette, num_classes: int, folder: Path) -> tuple[tuple[int, int, int], ...]:
    """The colour (r, g, b) of each class, 0-255.

    Args:
        palette: the value of the key: a list of colours, the path of a YAML file with one, or None
            for generated colours.
        num_classes: number of classes.
        folder: the folder that the path is relative to.

    Raises:
        InvalidDescription: the value or the file is not valid.
    """
    if palette is None:
        return generate_palette(num_classes)
    if isinstance(palette, str):
        palette = _read_yaml(folder / Path(palette).expanduser(), "palette")
    if not isinstance(palette, list) or len(palette) != num_classes:
        found = shown(palette)
        if isinstance(palette, list):
            found = f"a list of {counted(len(palette), 'colour')}"
        raise InvalidDescription(
            f"'palette' must be a list of {counted(num_classes, 'colour')}, one per class, but is "
            f"{found}."
        )
    for color in palette:
        is_color = isinstance(color, list) and len(color) == 3
        if not is_color or not all(is_integer(value, 0, 255) for value in color):
            raise InvalidDescription(
                "a colour in 'palette' must be [red, green, blue] in 0..255, but is "
                f"{shown(color)}."
            )
    return tuple(tuple(color) for color in palette)


def read_id_map(id_map, num_classes: int, ignore_label: int) -> dict[int, int] | None:
    """Value in the label files -> class index or ``ignore_label``; None: they are class indices.

    Args:
        id_map: the value of the key: a mapping, "reduce_zero_label" or None.
        num_classes: number of classes.
        ignore_label: label of ignored pixels.

    Raises:
        InvalidDescription: the value is not valid.
    """
    if id_map is None:
        return None
    if id_map == _REDUCE_ZERO:
        id_map = {0: "ignore", **{index + 1: index for index in range(num_classes)}}
    if not isinstance(id_map, dict) or not id_map:
        raise InvalidDescription(
            "'id_map' must map values in the label files to class indices or to 'ignore', or be "
            f"'{_REDUCE_ZERO}'."
        )
    # The ignore label maps to itself unless the description maps it.
    result = {ignore_label: ignore_label}
    for raw, index in id_map.items():
        if not is_integer(raw, 0, MAX_LABEL_VALUE):
            raise InvalidDescription(
                f"a key of 'id_map' must be an integer in 0..{MAX_LABEL_VALUE}, but is "
                f"{shown(raw)}."
            )
        if index != "ignore" and not is_integer(index, 0, num_classes - 1):
            raise InvalidDescription(
                f"'id_map' maps {raw} to {shown(index)}, but must map it to a class index in "
                f"0..{num_classes - 1} or to 'ignore'."
            )
        result[raw] = ignore_label if index == "ignore" else index
    return result


def read_anomaly(anomaly, id_map: dict[int, int] | None, num_classes: int) -> AnomalyIds | None:
    """The values of known and of anomalous pixels.

    Args:
        anomaly: the value of the key; its ``known`` defaults to the values of all classes.
        id_map: the dataset's id map; None: the labels are class indices.
        num_classes: number of classes.

    Raises:
        InvalidDescription: the value is not valid, or a value of ``unknown`` belongs to a class.
    """
    if anomaly is None:
        return None
    check_keys(anomaly, AnomalyIds._fields, ("unknown",), "'anomaly'")
    if id_map is None:
        id_map = {index: index for index in range(num_classes)}
    of_classes = [raw for raw, index in id_map.items() if index < num_classes]
    ids = {"known": of_classes} | anomaly
    for key, values in ids.items():
        is_list = isinstance(values, list) and bool(values)
        if not is_list or not all(is_integer(value, 0, MAX_LABEL_VALUE) for value in values):
            raise InvalidDescription(
                f"'{key}' in 'anomaly' must be a list of values in the label files, integers in "
                f"0..{MAX_LABEL_VALUE}, but is {shown(values)}."
            )
    wrong = sorted(set(ids["unknown"]) & {*of_classes, *ids["known"]})
    if wrong:
        raise InvalidDescription(
            f"'unknown' in 'anomaly' contains {wrong[0]}, which is in 'known' or belongs to a "
            "class. Map it to 'ignore' in 'id_map', so that models are not trained on it."
        )
    return AnomalyIds(tuple(ids["unknown"]), tuple(ids["known"]))
