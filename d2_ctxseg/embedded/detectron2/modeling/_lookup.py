"""Finds the class that a config names, or says what could have been named."""

from fvcore.common.registry import Registry

from .._coverage import INSTALL_GUIDE


def find_registered(registry: Registry, name: str, config_key: str):
    """The object registered as ``name``, the value of ``config_key`` in the config.

    Raises:
        KeyError: nothing is registered under that name.
    """
    if name not in registry:
        known = ", ".join(sorted(key for key, _ in registry)) or "none"
        raise KeyError(
            f"{config_key} is {name!r}, which is not registered. Registered are: {known}. "
            "To add your own, import the module that registers it. The models that come with "
            f"Detectron2 need Detectron2 itself: {INSTALL_GUIDE}"
        )
    return registry.get(name)
