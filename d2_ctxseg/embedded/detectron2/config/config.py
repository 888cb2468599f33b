"""``CfgNode``, and the config of default values."""

import copy
import logging

import yaml
from fvcore.common.config import CfgNode as FvcoreCfgNode

from ..utils.file_io import PathManager
from .defaults import DEFAULTS, NOT_COVERED

logger = logging.getLogger(__name__)


class CfgNode(FvcoreCfgNode):
    """A tree of config keys: fvcore's ``CfgNode``, reading files that Detectron2 wrote.

    Files are YAML, read safely. ``_BASE_`` names a file (or a list of files) to start from,
    relative to the file that says it.
    """

    @classmethod
    def _open_cfg(cls, filename):
        return PathManager.open(filename, "r")

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict:
        """Read a YAML file, with the keys of its ``_BASE_`` below its own.

        Args:
            filename: path or URL.
            allow_unsafe: accepted because Detectron2 has it; reading is always safe.

        Raises:
            ValueError: the file has a tag that would run code when it is read.
        """
        try:
            return super().load_yaml_with_base(filename, allow_unsafe=False)
        except yaml.constructor.ConstructorError as error:
            raise ValueError(
                f"Config file '{filename}' cannot be read safely: {error.problem} "
                f"({error.problem_mark}). Tags such as !!python/tuple can run code and are never "
                "followed here: write the value in plain YAML (a list is read as a tuple where "
                "the default is one)."
            ) from error

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        """Merge a YAML file into this config.

        Sections of Detectron2 that the embedded runtime does not cover (boxes, instances,
        keypoints ...) are left out, with one warning that lists them.

        Args:
            cfg_filename: path or URL.
            allow_unsafe: accepted because Detectron2 has it; reading is always safe.

        Raises:
            AssertionError: there is no such file, or it has another ``VERSION``.
            KeyError: a key is unknown.
            ValueError: a value has the wrong type, or a YAML tag would run code.
        """
        assert PathManager.isfile(cfg_filename), f"Config file '{cfg_filename}' does not exist!"
        loaded = self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe)
        version = loaded.get("VERSION", self.VERSION)
        assert version == self.VERSION, (
            f"Config file '{cfg_filename}' has VERSION {version}, but only {self.VERSION} can be "
            "read. Detectron2's detectron2.config.upgrade_config converts old ones."
        )
        left_out = self._remove_not_covered(loaded)
        if left_out:
            logger.warning(
                f"Left out of '{cfg_filename}', because the embedded Detectron2 runtime does not "
                f"cover them: {', '.join(left_out)}"
            )
        self.merge_from_other_cfg(type(self)(loaded))

    def _remove_not_covered(self, loaded: dict) -> list[str]:
        """Delete from ``loaded`` what Detectron2 has and this config has not; returns the keys."""
        left_out = []
        for full_key in NOT_COVERED:
            section, key = full_key.split(".")
            values = loaded.get(section)
            if isinstance(values, dict) and key in values and key not in self.get(section, {}):
                del values[key]
                left_out.append(full_key)
        return left_out


def get_cfg() -> CfgNode:
    """A new config with all default values."""
    return CfgNode(copy.deepcopy(DEFAULTS))
