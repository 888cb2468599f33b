"""Two global tables: how to load a dataset, and what is known about it."""

from collections import UserDict
from types import SimpleNamespace

__all__ = ["DatasetCatalog", "Metadata", "MetadataCatalog"]


class _Catalog(UserDict):
    """A dict with the methods that both catalogs share."""

    def list(self) -> list[str]:
        """The registered names, in the order of registration."""
        return [*self.keys()]

    def remove(self, name: str) -> None:
        """Forget ``name``. Raises KeyError if it is not registered."""
        self.pop(name)

    def __repr__(self) -> str:
        return f"{type(self).__name__.lstrip('_')}({', '.join(self)})"

    __str__ = __repr__


class _DatasetCatalog(_Catalog):
    """Maps the name of a dataset to the function that loads it."""

    def register(self, name: str, func) -> None:
        """Let ``func`` load the dataset ``name``.

        Args:
            name: a name that is not registered yet; AssertionError otherwise.
            func: takes no argument and returns a list of dicts, one an image, the same ones each
                time (or a ``torch.utils.data.Dataset`` of such dicts).
        """
        assert callable(func), (
            f"DatasetCatalog.register('{name}', ...) needs a function, got {func}"
        )
        assert name not in self, (
            f"Dataset '{name}' is already registered! Choose another name, or call "
            f"DatasetCatalog.remove('{name}') first."
        )
        self[name] = func

    def get(self, name: str):
        """Load the dataset ``name``. Raises KeyError that lists the known names otherwise."""
        if name not in self:
            raise KeyError(
                f"Dataset '{name}' is not registered! Available datasets are: {', '.join(self)}"
            )
        return self[name]()


class Metadata(SimpleNamespace):
    """What is known about one dataset (``name``, ``stuff_classes``, ``ignore_label`` ...).

    Attributes are write-once: assigning an equal value again is fine, a different one raises
    AssertionError. Reading one that was never set raises AttributeError that lists those there are.
    """

    name: str = "N/A"

    def __getattr__(self, key: str):
        known = [name for name in vars(self) if name != "name"]
        there_is = f"Available keys are {known}." if known else "Its metadata is empty."
        raise AttributeError(
            f"Attribute '{key}' does not exist in the metadata of dataset '{self.name}'. {there_is}"
        )

    def __setattr__(self, key: str, value) -> None:
        if key not in vars(self):
            super().__setattr__(key, value)
            return
        old_value = vars(self)[key]
        assert old_value == value, (
            f"Attribute '{key}' in the metadata of '{self.name}' cannot be set to a different "
            f"value!\n{old_value} != {value}"
        )

    def as_dict(self) -> dict:
        """A new dict of all attributes; changing it does not change the metadata."""
        return dict(vars(self))

    def set(self, **attributes) -> "Metadata":
        """Set several attributes. Returns itself, so that calls can be chained."""
        for key, value in attributes.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default=None):
        """The attribute ``key``, or ``default`` if it was never set."""
        return getattr(self, key, default)


class _MetadataCatalog(_Catalog):
    """Maps the name of a dataset to its one :class:`Metadata` object."""

    def get(self, name: str) -> Metadata:
        """The metadata of ``name``: always the same object, an empty one at the first call."""
        assert name, "MetadataCatalog.get needs the name of a dataset, got an empty one"
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
