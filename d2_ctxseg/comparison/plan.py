"""The runs of a study, and the command of each run."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY

from ..classifiers import CLASSIFIER_REGISTRY
from ..config import add_ctxseg_config
from ..engine import setup_config
from ..evaluation.image_counts import FILE_NAME
from ..report.run import flattened
from ..utils.errors import UserError, suggest
from .results import ARCHITECTURES, NEUTRAL_KEYS, TASK

# What the tool sets itself in each run.
_OWN_KEYS = ("MODEL.META_ARCHITECTURE", "MODEL.CLASSIFIER.NAME", "OUTPUT_DIR", "SEED")
# Heads that are a classifier themselves.
_WHOLE_HEADS = ("ECEHead", "SegViTHead")
TRAIN = ("-m", "d2_ctxseg_cli", "train")


@dataclass(frozen=True)
class Variant:
    """A classifier with options.

    Attributes:
        label: its name in folders, tables and plots.
        overrides: config keys and values that make it, alternating.
    """

    label: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class PlannedRun:
    """One training with its evaluation.

    Attributes:
        variant: variant of the classifier.
        seed: SEED.
        folder: OUTPUT_DIR.
        config_file: the base config.
        opts: all overrides, alternating keys and values.
    """

    variant: Variant
    seed: int
    folder: Path
    config_file: str
    opts: tuple[str, ...]

    def command(self, *options: str) -> list[str]:
        """The words that start or continue the run, with more options."""
        arguments = ["--config-file", self.config_file, "--resume", *options, *self.opts]
        return [sys.executable, *TRAIN, *arguments]

    def shell_command(self) -> str:
        """The command as a line for a shell."""
        return shlex.join(["d2-ctxseg", "train", *self.command()[len(TRAIN) + 1 :]])

    def config(self) -> CfgNode:
        """The frozen config that the run will have."""
        return setup_config(self.config_file, list(self.opts))


def parse_variant(text: str) -> Variant:
    """``linear``, ``MyClassifier``, or ``LABEL=CLASSIFIER,KEY=VALUE,KEY=VALUE``.

    A key without a dot is an option of the classifier: ``LOSS_WEIGHT_KL`` of ``context_aware`` is
    ``MODEL.CLASSIFIER.CONTEXT_AWARE.LOSS_WEIGHT_KL``.

    Raises:
        UserError: there is no such classifier (the message names the nearest), or the text is of
            another form.
    """
    head, *options = _split(text)
    label, _, name = head.rpartition("=")
    overrides = _overrides_of(name, text)
    node = _config_node(name)
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise UserError(
                f"--classifiers: '{option}' in '{text}' is not KEY=VALUE. Write a variant as "
                "LABEL=CLASSIFIER,KEY=VALUE,KEY=VALUE."
            )
        if "." not in key:
            if not node:
                raise UserError(
                    f"--classifiers: '{name}' in '{text}' has no options of its own; write '{key}' "
                    "with its whole path, such as SOLVER.BASE_LR."
                )
            key = f"MODEL.CLASSIFIER.{node}.{key}"
        overrides += [key, value]
    label = label or (name if not options else text.replace("/", "_"))
    if label in (".", "..") or "/" in label:
        raise UserError(f"--classifiers: '{label}' cannot be the name of a folder.")
    return Variant(label, tuple(overrides))


def _split(text: str) -> list[str]:
    """At commas outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _config_node(name: str) -> str:
    """Where the options of a classifier stand below MODEL.CLASSIFIER; "" if it has none there."""
    if name in ARCHITECTURES:
        return META_ARCH_REGISTRY.get(ARCHITECTURES[name]).classifier_class.config_node
    return CLASSIFIER_REGISTRY.get(name).config_node


def _overrides_of(name: str, text: str) -> list[str]:
    if name in ARCHITECTURES:
        return ["MODEL.META_ARCHITECTURE", ARCHITECTURES[name]]
    if name in CLASSIFIER_REGISTRY:
        return [
            *("MODEL.META_ARCHITECTURE", "PixelClassifierSegmentor"),
            *("MODEL.CLASSIFIER.NAME", name),
        ]
    known = [*ARCHITECTURES, *(registered for registered, _ in CLASSIFIER_REGISTRY)]
    raise UserError(
        f"--classifiers: there is no classifier '{name}' ('{text}'); there are "
        f"{', '.join(known)}.{suggest(name, known)}"
    )


def plan_runs(
    config_file: str,
    variants: Sequence[Variant],
    seeds: Sequence[int],
    output: str | Path,
    opts: Sequence[str] = (),
) -> list[PlannedRun]:
    """All runs, the first seed of every classifier first.

    Raises:
        UserError: a label or a seed twice, a negative seed, a base config or override that fixes
            the classifier, or a config that is wrong in itself.
    """
    for what, values in (("label", [v.label for v in variants]), ("seed", list(seeds))):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise UserError(f"The {what} '{twice}' was given more than once.")
    negative = next((seed for seed in seeds if seed < 0), None)
    if negative is not None:
        raise UserError(
            f"--seeds: {negative} would be a new seed at each start, expected 0 or more."
        )
    _check_base(config_file, opts)
    runs = []
    for seed in seeds:
        for variant in variants:
            folder = Path(output) / variant.label / f"seed_{seed}"
            own = ("OUTPUT_DIR", str(folder), "SEED", str(seed))
            overrides = (*opts, *variant.overrides, *own)
            runs.append(PlannedRun(variant, seed, folder, config_file, overrides))
    for run in runs[: len(variants)]:
        run.config()  # a wrong value is answered before anything is trained
    return runs


def _check_base(config_file: str, opts: Sequence[str]) -> None:
    fixed = [key for key in opts[::2] if key in _OWN_KEYS]
    if fixed:
        raise UserError(
            f"{fixed[0]} is among the overrides, but differs between runs. Set classifiers "
            "with --classifiers, seeds with --seeds and the folder with --output."
        )
    cfg = setup_config(config_file, list(opts))
    if _default_classifier_name() != cfg.MODEL.CLASSIFIER.NAME:
        raise UserError(
            f"{config_file} fixes the classifier: its MODEL.CLASSIFIER.NAME is "
            f"'{cfg.MODEL.CLASSIFIER.NAME}'. Take it out of the base config and name it with "
            "--classifiers."
        )
    if cfg.MODEL.SEM_SEG_HEAD.NAME in _WHOLE_HEADS:
        raise UserError(
            f"{config_file} fixes the classifier: {cfg.MODEL.SEM_SEG_HEAD.NAME} classifies by "
            "itself. Choose a base config whose head ends in a 1x1 convolution, such as "
            "SMPDecoderHead or UPerHead."
        )


def _default_classifier_name() -> str:
    cfg = get_cfg()
    add_ctxseg_config(cfg)
    return cfg.MODEL.CLASSIFIER.NAME


@dataclass(frozen=True)
class RunState:
    """The progress of a run.

    Attributes:
        finished: trained and evaluated.
        iteration: iterations that are done; 0 where nothing is.
    """

    finished: bool
    iteration: int


def run_state(run: PlannedRun) -> RunState:
    """Look into the run's folder.

    Raises:
        UserError: the folder is of another study: its config differs from the plan's.
    """
    path = run.folder / "config.yaml"
    if not path.is_file():
        return RunState(False, 0)
    cfg = run.config()
    # Read as a config, so that keys which an earlier version did not have get their defaults.
    _check_same(run, setup_config(str(path), []), cfg)
    final = (run.folder / "evaluation.json").is_file()
    evaluated = all(
        (run.folder / "inference" / TASK / name / FILE_NAME).is_file() for name in cfg.DATASETS.TEST
    )
    return RunState(final and evaluated, iterations_done(run.folder))


def _check_same(run: PlannedRun, found: CfgNode, cfg: CfgNode) -> None:
    planned, there = (flattened(yaml.safe_load(one.dump())) for one in (cfg, found))
    if planned["MODEL.META_ARCHITECTURE"] in ARCHITECTURES.values():
        # They fix the classifier, whether it is named once more or not.
        planned.pop("MODEL.CLASSIFIER.NAME")
        there.pop("MODEL.CLASSIFIER.NAME")
    keys = [
        key
        for key in dict.fromkeys([*planned, *there])
        if key not in NEUTRAL_KEYS - {"SEED"} and planned.get(key) != there.get(key)
    ]
    if keys:
        key = keys[0]
        raise UserError(
            f"'{run.folder}' is of another study: {key} is {there.get(key)!r} there and "
            f"{planned.get(key)!r} in this plan"
            f"{f' ({len(keys) - 1} more keys differ)' if keys[1:] else ''}. Choose another "
            "--output, or the settings of that study."
        )


def iterations_done(folder: Path) -> int:
    """The last iteration in metrics.json; 0 without one."""
    path = folder / "metrics.json"
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 20_000, 0))
        lines = file.read().decode("utf-8", "replace").splitlines()
    for line in reversed(lines):
        try:
            return int(json.loads(line)["iteration"]) + 1
        except (KeyError, TypeError, ValueError):
            continue
    return 0
