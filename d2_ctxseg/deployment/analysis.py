"""What a model costs, before it is trained: parameters, multiply-adds, time and memory."""

import copy
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from fvcore.nn import parameter_count
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from ..checkpoint import strip_training_only
from ..engine import setup_config
from ..engine.optimizer import build_optimizer
from ..modeling.heads import classifies_by_itself
from ..utils.device import peak_memory, wait_for
from ..utils.errors import UserError


class InputSize(NamedTuple):
    """Height and width of an image in pixels, and where in the config they come from."""

    height: int
    width: int
    source: str


class MultiplyAdds(NamedTuple):
    """The arithmetic of one forward pass."""

    total: int
    """Multiply-adds of convolutions, linear layers, matrix products and attention."""
    not_counted: dict[str, int]
    """Calls by operator of all else that computes: norms, activations, interpolation, sums, ..."""


def input_size(cfg: CfgNode) -> InputSize:
    """The size of image that a config's figures are for.

    The training crop where it is a fixed one, otherwise the size that test images are brought to,
    otherwise that of training images.
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


# What initialises parameters, down to timm's truncated normal distribution.
_FILLS = {"fill_", "zero_", "copy_", "normal_", "uniform_", "erfinv_", "mul_", "add_", "clamp_"}


class _WithoutValues(TorchFunctionMode):
    """Leaves out what gives parameters on the meta device values: most of the time of building."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _FILLS:
            tensor = args[0] if args else kwargs["tensor"]  # so torch.nn.init calls it
            if isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **kwargs)


def build_for_analysis(cfg: CfgNode, device: str = "meta") -> nn.Module:
    """The model of a config in eval mode, with random weights, which predicts whole images.

    Args:
        cfg: as ``setup_config(..., for_inference=True)`` gives it: no weights are fetched.
        device: ``"meta"`` for a model whose parameters have shapes but neither memory nor values.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device
    cfg.TEST.SLIDING_WINDOW.ENABLED = False
    # Parameters are made on the meta device from the start, not moved there.
    if device == "meta":
        with torch.device("meta"), _WithoutValues():
            return build_model(cfg).eval()
    return build_model(cfg).eval()


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Numbers of parameters, trained and frozen ones alike.

    Prototypes and running statistics are buffers and do not count.

    Args:
        model: a segmentor of this project or Detectron2's SemanticSegmentor; best on the meta
            device, as it is copied.

    Returns:
        ``total``, the model as it is trained, which is the sum of ``backbone``, ``head`` (without
        its predictor), ``classifier`` (0 where a head classifies by itself), ``auxiliary`` and
        ``other``; and, of the total, ``frozen``, ``training_only`` (auxiliary heads, the oracle of
        the context-aware classifier) and ``test_time``, all but the latter.

    Raises:
        UserError: the model has no ``backbone`` and ``sem_seg_head``.
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
    # Detectron2's heads hold their classifier themselves; it has not been taken out in its models.
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


def _attention_flops(query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop_count(query, key, value)


# PyTorch's table has the kernels for GPUs only.
_FORMULAS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
# They make and move numbers and compute none.
_MOVES = {"empty", "empty_like", "_unsafe_view", "as_strided_", "stack", "cat", "clone", "copy_"}
_MOVES |= {"_to_copy", "constant_pad_nd", "fill_", "zeros", "zeros_like", "ones", "arange", "roll"}


class _OperatorCounter(TorchDispatchMode):
    """Counts the calls of operators that compute and are not among ``known``."""

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
    """The multiply-adds of predicting one image, from the pixels to the logits.

    A multiplication and the addition after it count as one, as in fvcore, mmsegmentation and the
    papers; PyTorch's own counter, which is used, counts two. Nothing is computed: the
    tensors have shapes only, so that the largest model takes a second or two and no memory.

    Args:
        model: on any device, the meta device included, in eval mode; it is called as Detectron2
            calls a model, on a list with one dict.
        size: height and width of the image; the model pads it as it always does.

    Raises:
        UserError: the forward pass depends on values that are not there.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    channels = getattr(model, "pixel_mean", torch.empty(3, device="meta")).shape[0]
    flops = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    others = _OperatorCounter(flops.flop_registry)
    # Fake tensors of the CPU, not of the meta device, which autocast does not know. Outside of
    # their mode, what is not made of them (sizes, in ImageList) is computed as always.
    with FakeTensorMode(allow_non_fake_inputs=True):
        state = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors}
        image = torch.empty(channels, *size)
    with torch.no_grad(), flops, others:
        try:
            functional_call(model, state, ([{"image": image}],))
        except UserError:
            raise
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"The multiply-adds of {type(model).__name__} for an image of {size[0]}x{size[1]} "
                f"pixels cannot be counted ({type(error).__name__}: {error}). Is the image too "
                "small, or does the forward pass ask for values of tensors (.item(), nonzero)? "
                "Choose another size, or leave the multiply-adds out."
            ) from error
    return MultiplyAdds(flops.get_total_flops() // 2, dict(others.calls.most_common()))


def config_costs(config_file: str, opts: Sequence[str] = ()) -> dict[str, object]:
    """Parameters and multiply-adds of a config's model, within seconds and without memory for it.

    Args:
        config_file: path of a YAML file.
        opts: alternating keys and values that override it.

    Returns:
        ``parameters`` (see count_parameters), ``flops`` (multiply-adds of one image), its
        ``input_size`` [height, width], ``num_classes``, and ``prototypes``, the numbers that
        prototypes consist of, which are no parameters.

    Raises:
        UserError: the config or its model is wrong; the message begins with the file.
    """
    # Nothing runs on a device, so that none need be looked for.
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
    """Parameters of each submodule down to ``depth`` names, the whole model being ``""``."""
    return {
        name: count
        for name, count in parameter_count(model).items()
        if len(name.split(".")) <= depth and count
    }


def measure_speed(
    model: nn.Module, size: tuple[int, int], *, repeats: int = 20, warm_up: int = 3
) -> dict[str, float]:
    """How long the prediction of one image takes, in single precision.

    Args:
        model: in eval mode, on the device to measure.
        size: height and width of the image.
        repeats: calls that are timed.
        warm_up: calls before them.

    Returns:
        ``milliseconds``, the median; ``images_per_second``, of the median; ``fastest`` and
        ``slowest``, in milliseconds.
    """
    inputs = _random_inputs(model, size, 1)
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
    """Bytes that tensors take at most, weights included.

    On a GPU as CUDA's allocator counts them, on a CPU as PyTorch's profiler records allocations;
    libraries, the interpreter and what an allocator keeps in reserve come on top.

    Args:
        cfg: its SOLVER makes the optimizer, and says whether training is in mixed precision.
        model: on the device to measure; one step of random training is done to it.
        size: height and width of the images.
        batch_size: images of the training step.

    Returns:
        ``weights`` (parameters and buffers), ``inference`` (of one image) and ``training_step``
        (forward, backward and optimizer, from the second step on).
    """
    weights = _bytes([*model.parameters(), *model.buffers()])
    inputs = _random_inputs(model, size, 1)
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
    """Seconds that a training step of a config takes, on random images of its training size.

    Args:
        cfg: of a training; its pretrained weights are not read.
        threads: of the CPU; None for as many as PyTorch has.
        repeats: steps that are timed after a first one; their median counts.
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
    """A function that does one step on random images, and its optimizer."""
    optimizer = build_optimizer(cfg, model.train())
    batch = _random_inputs(model, size, batch_size, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    amp = cfg.SOLVER.AMP

    def step() -> None:
        precision = getattr(torch, amp.PRECISION)
        with torch.autocast(model.device.type, dtype=precision, enabled=amp.ENABLED):
            loss = sum(model(batch).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, optimizer


def _random_inputs(
    model: nn.Module, size: tuple[int, int], number: int, num_classes: int = 1
) -> list[dict[str, Tensor]]:
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
