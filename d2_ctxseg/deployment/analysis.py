"""Measure the cost of a model without its weights: parameters, multiply-adds, time and memory."""

import copy
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from fvcore.nn import parameter_count
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from ..checkpoint import strip_training_only
from ..engine import setup_config
from ..engine.optimizer import build_optimizer
from ..modeling.heads import classifies_by_itself
from ..utils.device import peak_memory, wait_for
from ..utils.errors import UserError


class InputSize(NamedTuple):
    """Height and width of an image in pixels, and the config key that they come from."""

    height: int
    width: int
    source: str


class MultiplyAdds(NamedTuple):
    """The arithmetic of one forward pass.

    Attributes:
        total: multiply-adds of convolutions, linear layers, matrix products and attention.
        not_counted: operator -> number of calls, for other operators that compute: norms,
            activations, interpolation, sums, ...
    """

    total: int
    not_counted: dict[str, int]


def input_size(cfg: CfgNode) -> InputSize:
    """The image size at which the cost of a config is measured.

    It is the size of the training crop if that is absolute; otherwise the size that test images are
    resized to, if any; otherwise the size that training images are resized to.
    """
    crop = cfg.INPUT.CROP
    if crop.ENABLED and crop.TYPE == "absolute":
        return InputSize(*(int(side) for side in crop.SIZE), "INPUT.CROP.SIZE")
    if cfg.INPUT.MIN_SIZE_TEST:
        sides, source = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST), "INPUT.*_SIZE_TEST"
    else:
        sides = (max(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN)
        source = "INPUT.*_SIZE_TRAIN"
    return InputSize(*sides, source)


# Functions that initialise parameters, including timm's truncated normal distribution.
_FILLS = {"fill_", "zero_", "copy_", "normal_", "uniform_", "erfinv_", "mul_", "add_", "clamp_"}


class _WithoutValues(TorchFunctionMode):
    """Skips the initialisation of parameters, which takes most of the time on the meta device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _FILLS:
            tensor = args[0] if args else kwargs["tensor"]  # torch.nn.init's name of the argument
            if isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **kwargs)


def build_for_analysis(cfg: CfgNode, device: str = "meta") -> nn.Module:
    """Build a config's model in eval mode, with random weights and without sliding windows.

    Args:
        cfg: a config from ``setup_config(..., for_inference=True)``, so that no weights are
            downloaded.
        device: the device of the model. On ``"meta"`` its parameters have shapes, but no memory and
            no values.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device
    cfg.TEST.SLIDING_WINDOW.ENABLED = False
    # Parameters are created on the meta device, not moved there.
    if device == "meta":
        with torch.device("meta"), _WithoutValues():
            return build_model(cfg).eval()
    return build_model(cfg).eval()


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Count the parameters of a model, both trainable and frozen.

    Prototypes and running statistics are buffers and are not counted.

    Args:
        model: a segmentor of this project or Detectron2's SemanticSegmentor. It is copied, so it
            should be on the meta device.

    Returns:
        Name -> number of parameters. ``total`` is the sum of ``backbone``, ``head`` (without its
        predictor), ``classifier`` (0 if the head classifies by itself), ``auxiliary`` and
        ``other``. ``frozen`` is a part of the total. ``training_only`` (auxiliary heads, the oracle
        of the context-aware classifier) and ``test_time`` add up to the total as well.

    Raises:
        UserError: the model has no ``backbone`` or no ``sem_seg_head``.
    """
    missing = [name for name in ("backbone", "sem_seg_head") if not hasattr(model, name)]
    if missing:
        raise UserError(
            f"MODEL.META_ARCHITECTURE: {type(model).__name__} has no {' and no '.join(missing)}. "
            "Only semantic segmentors can be analyzed: this project's, and SemanticSegmentor."
        )
    head = model.sem_seg_head
    counts = {
        "total": _size(model),
        "backbone": _size(model.backbone),
        "head": _size(head),
        "classifier": _size(getattr(model, "classifier", None)),
        "auxiliary": _size(getattr(model, "auxiliary_head", None)),
    }
    # In Detectron2's own models, the head contains the classifier.
    if not classifies_by_itself(head):
        predictor = _size(getattr(head, "predictor", None))
        counts["head"] -= predictor
        counts["classifier"] += predictor
    counts["other"] = counts["total"] - sum(
        count for name, count in counts.items() if name != "total"
    )
    counts["frozen"] = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    stripped = copy.deepcopy(model)
    strip_training_only(stripped)
    counts["test_time"] = _size(stripped)
    counts["training_only"] = counts["total"] - counts["test_time"]
    return counts


def _size(module: nn.Module | None) -> int:
    return sum(p.numel() for p in module.parameters()) if module is not None else 0


# Operators that create or move data without arithmetic.
_MOVES = {"empty", "empty_like", "_unsafe_view", "as_strided_", "stack", "cat", "clone", "copy_"}
_MOVES |= {"_to_copy", "constant_pad_nd", "fill_", "zeros", "zeros_like", "ones", "arange", "roll"}


class _OperatorCounter(TorchDispatchMode):
    """Counts the calls of operators with arithmetic that are not among ``known``."""

    def __init__(self, known):
        super().__init__()
        self.known = known
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        operator = func.overloadpacket
        moves = func.is_view or func.namespace == "prim" or operator.__name__ in _MOVES
        if not moves and operator not in self.known:
            self.calls[str(operator)] += 1
        return func(*args, **(kwargs or {}))


def count_multiply_adds(model: nn.Module, size: tuple[int, int]) -> MultiplyAdds:
    """Count the multiply-adds of the prediction for one image, from the pixels to the logits.

    A multiplication followed by an addition counts as one, as in fvcore, mmsegmentation and the
    papers. (PyTorch's counter, which is used here, counts two.) The pass runs on the meta device,
    where tensors have no values. It takes seconds and no memory even for the largest model.

    Args:
        model: the model in eval mode, on any device including the meta device. It is called with a
            list of one dict, as Detectron2 calls a model.
        size: height and width of the image, which the model pads as usual.

    Raises:
        UserError: the forward pass depends on the values of tensors, or the image is too small.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    channels = getattr(model, "pixel_mean", torch.empty(3)).shape[0]
    image = torch.empty(channels, *size, device="meta")
    flops = FlopCounterMode(display=False)
    others = _OperatorCounter(flops.flop_registry)
    with torch.no_grad(), flops, others:
        try:
            functional_call(model, state, ([{"image": image}],))
        except UserError:
            raise
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"The multiply-adds of {type(model).__name__} for an image of {size[0]}x{size[1]} "
                f"pixels cannot be counted ({type(error).__name__}: {error}). The image may be too "
                "small, or the forward pass may use values of tensors (.item(), nonzero). Choose "
                "another size, or omit the multiply-adds."
            ) from error
    return MultiplyAdds(flops.get_total_flops() // 2, dict(others.calls.most_common()))


def config_costs(config_file: str, opts: Sequence[str] = ()) -> dict[str, object]:
    """Count the parameters and multiply-adds of a config's model without allocating it.

    Args:
        config_file: path of a YAML file.
        opts: alternating keys and values that override the file.

    Returns:
        ``parameters`` (see :func:`count_parameters`), ``flops`` (multiply-adds for one image),
        ``input_size`` [height, width], ``num_classes``, and ``prototypes`` (number of elements of
        the prototypes, which are not parameters).

    Raises:
        UserError: the config is invalid or its model cannot be analysed; the message begins with
            the file.
    """
    # Nothing runs on a device, so the config's device need not exist.
    opts = [*opts, "MODEL.DEVICE", "cpu", "SOLVER.AMP.ENABLED", "False"]
    try:
        cfg = setup_config(config_file, opts, for_inference=True)
        model, size = build_for_analysis(cfg), input_size(cfg)
        flops = count_multiply_adds(model, size[:2]).total
        parameters = count_parameters(model)
    except UserError as error:
        raise UserError(f"{config_file}: {error}") from error
    prototypes = getattr(getattr(model, "classifier", None), "prototypes", None)
    return {
        "parameters": parameters,
        "flops": flops,
        "input_size": list(size[:2]),
        "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        "prototypes": 0 if prototypes is None else prototypes.numel(),
    }


def structure(model: nn.Module, depth: int = 3) -> dict[str, int]:
    """Submodule -> number of parameters, down to ``depth`` levels; ``""`` is the whole model."""
    return {
        name: count
        for name, count in parameter_count(model).items()
        if len(name.split(".")) <= depth and count
    }


def measure_speed(
    model: nn.Module, size: tuple[int, int], *, repeats: int = 20, warm_up: int = 3
) -> dict[str, float]:
    """Measure the time of the prediction for one image, in single precision.

    Args:
        model: the model in eval mode, on the device to measure.
        size: height and width of the image.
        repeats: number of timed calls.
        warm_up: number of calls before them.

    Returns:
        ``milliseconds`` (the median), ``images_per_second`` (from the median), ``fastest`` and
        ``slowest`` (in milliseconds).
    """
    inputs = random_inputs(model, size, 1)
    seconds = []
    with torch.inference_mode():
        for call in range(warm_up + repeats):
            wait_for(model.device)
            start = time.perf_counter()
            model(inputs)
            wait_for(model.device)
            if call >= warm_up:
                seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    return {
        "milliseconds": 1000 * median,
        "images_per_second": 1 / median,
        "fastest": 1000 * min(seconds),
        "slowest": 1000 * max(seconds),
    }


def measure_memory(
    cfg: CfgNode, model: nn.Module, size: tuple[int, int], *, batch_size: int = 2
) -> dict[str, int]:
    """Measure the peak memory of tensors in bytes, weights included.

    The figures come from CUDA's allocator on a GPU and from PyTorch's profiler on a CPU. Memory of
    libraries and of the interpreter, and reserved memory of an allocator, are not included.

    Args:
        cfg: the config, whose SOLVER defines the optimizer and mixed precision.
        model: the model on the device to measure; it is trained for one step on random images.
        size: height and width of the images.
        batch_size: number of images of the training step.

    Returns:
        ``weights`` (parameters and buffers), ``inference`` (one image) and ``training_step``
        (forward, backward and optimizer, from the second step on).
    """
    weights = _bytes([*model.parameters(), *model.buffers()])
    inputs = random_inputs(model, size, 1)
    with torch.inference_mode():
        inference = weights + peak_memory(lambda: model(inputs), model.device)

    step, optimizer = _training_step(cfg, model, size, batch_size)
    step()
    state = [
        value
        for values in optimizer.state.values()
        for value in values.values()
        if isinstance(value, Tensor)
    ]
    training = weights + _bytes(state) + peak_memory(step, model.device)
    model.eval()
    return {"weights": weights, "inference": inference, "training_step": training}


def measure_training_step(cfg: CfgNode, *, threads: int | None = None, repeats: int = 2) -> float:
    """Measure the time of a training step of a config on random images of its training size.

    Args:
        cfg: the config of a training; its pretrained weights are not loaded.
        threads: number of CPU threads; None: PyTorch's current number.
        repeats: number of timed steps after the first one.

    Returns:
        The median of the times in seconds.
    """
    cfg, before = cfg.clone(), torch.get_num_threads()
    cfg.defrost()
    cfg.MODEL.ENCODER.WEIGHTS = ""
    torch.set_num_threads(threads or before)
    try:
        model = build_model(cfg)
        step, _ = _training_step(cfg, model, input_size(cfg)[:2], cfg.SOLVER.IMS_PER_BATCH)
        seconds = []
        for _ in range(1 + repeats):
            start = time.perf_counter()
            step()
            wait_for(model.device)
            seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return statistics.median(seconds[1:])


def _training_step(cfg: CfgNode, model: nn.Module, size: tuple[int, int], batch_size: int):
    """A function that does one training step on random images, and its optimizer."""
    optimizer = build_optimizer(cfg, model.train())
    batch = random_inputs(model, size, batch_size, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    amp = cfg.SOLVER.AMP

    def step() -> None:
        precision = getattr(torch, amp.PRECISION)
        with torch.autocast(model.device.type, dtype=precision, enabled=amp.ENABLED):
            loss = sum(model(batch).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, optimizer


def random_inputs(
    model: nn.Module, size: tuple[int, int], number: int, num_classes: int = 1
) -> list[dict[str, Tensor]]:
    """Random images and labels on the model's device, in the input format of Detectron2's models.

    Args:
        model: a segmentor.
        size: height and width of the images.
        number: number of images.
        num_classes: labels are 0 to ``num_classes - 1``.

    Returns:
        For each image "image" (C, height, width) float, 0 to 255, and "sem_seg" (height, width)
        int64.
    """
    device, channels = model.device, model.pixel_mean.shape[0]
    return [
        {
            "image": torch.randint(0, 256, (channels, *size), device=device).float(),
            "sem_seg": torch.randint(0, num_classes, size, device=device),
        }
        for _ in range(number)
    ]


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
