"""What an augmentation is, what it works on, and how several are combined.

An augmentation looks at its input and chooses, often at random, a transform; the transform is
deterministic and can then be applied to everything that belongs to the image.
"""

import inspect
import pprint

import numpy as np
from fvcore.transforms.transform import Transform, TransformList

__all__ = ["AugInput", "Augmentation", "AugmentationList"]


class Augmentation:
    """Base class of augmentations.

    A subclass writes ``get_transform``. Its parameters say what it needs: a single one is the image
    whatever its name; several are attributes of the input with these names ("image", "sem_seg").
    """

    input_args: tuple[str, ...] | None = None
    """The input's attributes that ``get_transform`` takes; found from its signature if None."""

    def get_transform(self, *args) -> Transform:
        """Choose a transform for this input. Subclasses must implement it.

        Args:
            args: for the usual names: ``image`` is (H, W) or (H, W, C), uint8 in 0..255 or floating
                point; ``sem_seg`` is (H, W) with integer labels.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement get_transform")

    def __call__(self, aug_input) -> Transform:
        """Choose a transform, apply it to ``aug_input`` in place, and return it.

        Args:
            aug_input: an :class:`AugInput`, or anything with the attributes that are needed and a
                method ``transform(transform)``. AttributeError says which attribute is missing.
        """
        if self.input_args is None:
            self.input_args = self._find_input_args()
        transform = self.get_transform(*(self._read(aug_input, name) for name in self.input_args))
        assert isinstance(transform, Transform), (
            f"{type(self)}.get_transform must return an instance of Transform! "
            f"Got {type(transform)} instead."
        )
        aug_input.transform(transform)
        return transform

    def _find_input_args(self) -> tuple[str, ...]:
        parameters = inspect.signature(self.get_transform).parameters
        if len(parameters) == 1:
            return ("image",)
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
            raise TypeError(
                f"{type(self)}.get_transform must name its arguments instead of taking *args or "
                "**kwargs. If they are not known beforehand, implement __call__ instead."
            )
        return tuple(parameters)

    def _read(self, aug_input, name: str):
        try:
            return getattr(aug_input, name)
        except AttributeError as error:
            raise AttributeError(
                f"{type(self)}.get_transform needs input attribute '{name}', "
                f"but it is not an attribute of {type(aug_input)}!"
            ) from error

    def _init(self, params: dict | None = None) -> None:
        """For constructors: ``self._init(locals())`` stores all arguments as attributes."""
        for name, value in (params or {}).items():
            if name != "self" and not name.startswith("_"):
                setattr(self, name, value)

    def __repr__(self) -> str:
        """The call that makes this augmentation, without arguments that have their default."""
        arguments = []
        for name, parameter in inspect.signature(self.__init__).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or not hasattr(
                self, name
            ):
                return super().__repr__()
            value = getattr(self, name)
            if value is not parameter.default:
                text = pprint.pformat(value)
                arguments.append(f"{name}={'...' if chr(10) in text else text}")
        return f"{type(self).__name__}({', '.join(arguments)})"

    __str__ = __repr__


class _FixedTransform(Augmentation):
    """A transform as an augmentation that always chooses it."""

    def __init__(self, transform: Transform):
        self.transform = transform
        self.input_args = ()

    def get_transform(self, *args) -> Transform:
        return self.transform

    def __repr__(self) -> str:
        return repr(self.transform)

    __str__ = __repr__


def _as_augmentation(transform_or_augmentation) -> Augmentation:
    if isinstance(transform_or_augmentation, Augmentation):
        return transform_or_augmentation
    assert isinstance(transform_or_augmentation, Transform), (
        f"Neither an Augmentation nor a Transform: {transform_or_augmentation}"
    )
    return _FixedTransform(transform_or_augmentation)


class AugmentationList(Augmentation):
    """Augmentations one after the other; each sees what the ones before it made.

    Args:
        augs: augmentations and transforms.
    """

    def __init__(self, augs):
        self.augs = [_as_augmentation(aug) for aug in augs]

    def __call__(self, aug_input) -> TransformList:
        """Apply all to ``aug_input`` in place; return the list of transforms."""
        return TransformList([aug(aug_input) for aug in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(map(str, self.augs))}]"

    __str__ = __repr__


class AugInput:
    """What augmentations work on: an image, with its label map if there is one.

    Args:
        image: (H, W) or (H, W, C), uint8 in 0..255 or floating point.
        sem_seg: (H, W) with integer labels, uint8 as a rule.
    """

    def __init__(self, image: np.ndarray, *, sem_seg: np.ndarray | None = None):
        assert isinstance(image, np.ndarray) and image.ndim in (2, 3), (
            "AugInput needs an image that is a numpy array of shape (H, W) or (H, W, C), got "
            f"{getattr(image, 'shape', type(image))}"
        )
        self.image = image
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Replace image and label map by the transformed ones."""
        self.image = tfm.apply_image(self.image)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)
