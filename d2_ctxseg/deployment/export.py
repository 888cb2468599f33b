"""Export segmentors as TorchScript, ONNX or torch.export files, which run without this project.

An exported file is read again and compared with the model before it gets its final name.
"""

import contextlib
import io
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.errors import UserError, suggest
from .export_check import OUTPUTS, Agreement, Run, check_file
from .same_padding import same_padding_of_multiples

#: Format -> suffix of its files.
SUFFIXES = {"torchscript": ".pt", "onnx": ".onnx", "torch_export": ".pt2"}
INPUT_NAME = "image"
METADATA_FILE = "metadata.json"
ONNX_OPSET = 18

logger = logging.getLogger(__name__)

# The limit of protocol buffers is 2 GiB, less some space for the graph.
_LARGEST_SINGLE_FILE = 2**31 - 2**26


@dataclass(frozen=True)
class ImageShape:
    """The shape (B, C, H, W) of the input of an exported file.

    Attributes:
        batch_size: number of images B.
        height: height H in pixels.
        width: width W in pixels.
        dynamic: whether B, H and W are dynamic; the numbers above are then an example.

    Raises:
        UserError: a number is less than 1.
    """

    batch_size: int
    height: int
    width: int
    dynamic: bool = False

    def __post_init__(self):
        for name in ("batch_size", "height", "width"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"{name} of the images is {getattr(self, name)}, expected 1 or more."
                )


class ExportableSegmentor(nn.Module):
    """The module that is exported: it maps pixel values to labels, confidences or logits.

    It includes normalisation, padding to the backbone's size divisibility, and removal of the
    padding. Inputs and outputs are plain tensors.

    Args:
        model: a segmentor of this project in eval mode.
        output: ``"labels"``, ``"logits"`` or ``"labels+confidence"``.
        dynamic: compute sizes in the graph, for images of any size.
        temperature: the number that logits are divided by for the confidences.

    Raises:
        UserError: the model is not a segmentor of this project, is in training mode, or pads images
            to a square; or ``output`` is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        output: str = "labels",
        *,
        dynamic: bool = False,
        temperature: float = 1.0,
    ):
        super().__init__()
        _check_model(model)
        if output not in OUTPUTS:
            raise UserError(
                f"output '{output}' is not one of {', '.join(OUTPUTS)}.{suggest(output, OUTPUTS)}"
            )
        self.model = model
        self.output = output
        self.temperature = temperature
        self.dynamic = dynamic
        backbone = model.backbone
        divisor = backbone.padding_constraints.get("size_divisibility", backbone.size_divisibility)
        self.divisor = max(divisor, 1)

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs."""
        return self.output.split("+")

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Predict a batch of images.

        Args:
            image: (B, C, H, W) floating-point, pixel values 0 to 255, the channels in the order of
                INPUT.FORMAT.

        Returns:
            Labels (B, H, W) int64, or logits (B, K, H, W); with ``"labels+confidence"``, the labels
            and their probabilities (B, H, W) float32.
        """
        normalized = (image - self.model.pixel_mean) / self.model.pixel_std
        height, width = image.shape[-2:]
        # Not -(-side // divisor), because division of negative numbers rounds up in ONNX.
        last = self.divisor - 1
        size = [(side + last) // self.divisor * self.divisor for side in (height, width)]
        is_padded = self.dynamic or (int(height), int(width)) != tuple(map(int, size))
        image_sizes = [(height, width)] if is_padded else None
        logits = self._cut(
            self.model.logits(self._pad(normalized, size), image_sizes), (height, width)
        )
        if self.output == "logits":
            return logits
        labels = logits.argmax(dim=1)
        if self.output == "labels":
            return labels
        return labels, (logits.float() / self.temperature).softmax(dim=1).amax(dim=1)

    def _pad(self, image: Tensor, size: list[int]) -> Tensor:
        if self.dynamic:
            # Padding by 0 is a special case that would become fixed in the graph. Therefore the
            # image is always padded, and then cropped.
            return self._cut(F.pad(image, (0, self.divisor, 0, self.divisor)), size)
        bottom, right = (
            int(target) - int(side) for target, side in zip(size, image.shape[-2:], strict=True)
        )
        return F.pad(image, (0, right, 0, bottom)) if bottom or right else image

    def _cut(self, maps: Tensor, size) -> Tensor:
        if not self.dynamic:
            return maps[..., : int(size[0]), : int(size[1])]
        # A slice that removes nothing is a special case as well; a selection of indices is not.
        for axis, length in zip((-2, -1), size, strict=True):
            maps = maps.index_select(axis, torch.arange(length, device=maps.device))
        return maps


def _check_model(model: nn.Module) -> None:
    if not hasattr(model, "low_resolution_logits"):
        raise UserError(
            f"MODEL.META_ARCHITECTURE: {type(model).__name__} cannot be exported, only this "
            "project's segmentors. Use LinearSegmentor instead of Detectron2's SemanticSegmentor: "
            "it takes the same configs, and d2-ctxseg convert converts checkpoints."
        )
    if model.training:
        raise UserError("The model is in training mode: call eval() before exporting it.")
    if model.backbone.padding_constraints.get("square_size", 0) > 0:
        raise UserError(
            f"The backbone {type(model.backbone).__name__} pads images to a square, which an "
            "exported file does not. Set its square_pad to 0."
        )


def export_segmentor(
    model: nn.Module,
    path: str | os.PathLike,
    export_format: str,
    shape: ImageShape,
    *,
    output: str = "labels",
    temperature: float = 1.0,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Agreement:
    """Write the model to a file, read the file again, and compare its outputs with the model's.

    Args:
        model: a segmentor of this project in eval mode that pads test images and has no sliding
            window. Modules that only training needs should be removed
            (``checkpoint.strip_training_only``). TorchScript and torch.export files run on the type
            of device that the model is on.
        path: the file to write, with the suffix of its format. The weights of an ONNX file of more
            than 2 GiB are written to ``{path}.data``.
        export_format: a key of SUFFIXES.
        shape: the shape of the input images.
        output: one of OUTPUTS.
        temperature: the number that logits are divided by for the confidences.
        metadata: name -> text, stored as metadata_props in ONNX, and as a JSON file inside the
            other formats.
        overwrite: replace an existing file.

    Returns:
        The differences between the file's outputs and the model's.

    Raises:
        UserError: an argument is invalid, the file exists, the model cannot be exported in the
            format (or not with dynamic sizes), or the file's outputs differ from the model's.
            Nothing is written in these cases, and an existing file is kept.
    """
    path = Path(path)
    check_arguments(path, export_format, shape, overwrite)
    if getattr(model, "sliding_window", None) is not None:
        raise UserError("The model predicts in sliding windows: set its sliding_window to None.")
    if not getattr(model, "pad_test_images", True):
        raise UserError("Exported files pad images: set the model's pad_test_images to True.")
    if shape.dynamic:
        _check_windows(model)
    module = ExportableSegmentor(
        model, output, dynamic=shape.dynamic, temperature=temperature
    ).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file is written in the same folder, so that renaming is atomic, and under its final name,
    # because an ONNX file refers to its external weights by name.
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        part = folder / path.name
        takes = " This may take minutes for images of any size." if shape.dynamic else ""
        logger.info("Tracing the model ...%s", takes)
        _write(module, part, export_format, shape, dict(metadata or {}))
        logger.info("Comparing the file with the model ...")
        run = _read_again(part, export_format)
        agreement = check_file(model, run, _check_shapes(module, shape), output, temperature)
        written = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
        for file in written:
            os.replace(file, path.parent / file.name)
        if len(written) == 1:  # the replaced file may have had external weights
            data_file(path).unlink(missing_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return agreement


def check_arguments(path: Path, export_format: str, shape: ImageShape, overwrite: bool) -> None:
    """Raise UserError for arguments of ``export_segmentor`` that are invalid for any model."""
    if export_format not in SUFFIXES:
        raise UserError(
            f"format '{export_format}' is not one of {', '.join(SUFFIXES)}."
            f"{suggest(export_format, SUFFIXES)}"
        )
    suffix = SUFFIXES[export_format]
    if path.suffix != suffix:
        raise UserError(f"'{path}': the name of a {export_format} file must end in {suffix}.")
    for file in (path, data_file(path)):
        if file.exists() and not overwrite:
            raise UserError(f"'{file}' already exists. Choose another file, or set --overwrite.")
    if shape.dynamic and export_format == "torchscript":
        raise UserError(
            "TorchScript files accept images of one size only, because a trace stores the size. "
            "For images of any size choose the format torch_export or onnx."
        )
    if export_format == "onnx":
        _import_onnxruntime()


def _check_windows(model: nn.Module) -> None:
    # The exporter accepts them, but did not finish for the smallest Swin within ten minutes.
    windowed = (module for module in model.modules() if getattr(module, "window_size", None))
    if (module := next(windowed, None)) is not None:
        raise UserError(
            "This model cannot be exported for images of any size, because it has window attention "
            f"({type(module).__name__}). Remove --dynamic and set --size HEIGHT WIDTH."
        )


def data_file(path: Path) -> Path:
    """The path of the external weights of an ONNX file of more than 2 GiB."""
    return path.with_name(f"{path.name}.data")


def _import_onnxruntime():
    try:
        import onnx  # noqa: F401  (the exporter needs these two)
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"The format onnx needs a package that is not installed ({error}): "
            "pip install onnx onnxscript onnxruntime"
        ) from error
    return onnxruntime


def _write(
    module: ExportableSegmentor,
    path: Path,
    export_format: str,
    shape: ImageShape,
    metadata: dict[str, str],
) -> None:
    """Export in a format. Errors of the exporters become UserError."""
    writer = {"torchscript": _write_torchscript, "onnx": _write_onnx}.get(
        export_format, _write_torch_export
    )
    try:
        with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            writer(module, path, shape, metadata)
    except OSError:
        raise
    except Exception as error:  # the exporters raise errors of many kinds
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        if shape.dynamic:
            raise UserError(
                f"This model cannot be exported as {export_format} for images of any size "
                f"({reason}). Remove --dynamic and set --size HEIGHT WIDTH."
            ) from error
        raise UserError(
            f"This model cannot be exported as {export_format} ({reason}). Try another format."
        ) from error


def _write_torchscript(module, path: Path, shape: ImageShape, metadata: dict[str, str]) -> None:
    example = _example(module, shape)
    traced = torch.jit.trace(module, example, check_trace=False)
    scripted = torch.jit.script(_OneShape(traced, list(example.shape)).eval())
    files = {METADATA_FILE: json.dumps(metadata)}
    torch.jit.save(torch.jit.freeze(scripted), str(path), _extra_files=files)


class _OneShape(nn.Module):
    """A traced module that raises an error for images of another shape than the traced one."""

    def __init__(self, traced: nn.Module, shape: list[int]):
        super().__init__()
        self.traced = traced
        self.shape: list[int] = shape

    def forward(self, image: Tensor):  # TorchScript infers whether it returns one tensor or two
        if image.shape != self.shape:
            raise RuntimeError(f"images of shape {self.shape} expected, got {image.shape}")
        return self.traced(image)


def _write_torch_export(module, path: Path, shape: ImageShape, metadata: dict[str, str]) -> None:
    program = _export(module, shape)
    torch.export.save(program, str(path), extra_files={METADATA_FILE: json.dumps(metadata)})


def _write_onnx(module, path: Path, shape: ImageShape, metadata: dict[str, str]) -> None:
    names = {INPUT_NAME: {0: "batch", 2: "height", 3: "width"}} if shape.dynamic else None
    program = _export(module, shape)
    logger.info("Converting to ONNX ...")
    onnx_program = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=ONNX_OPSET,
        input_names=[INPUT_NAME],
        output_names=module.output_names,
        dynamic_shapes=names,
        verbose=False,
    )
    onnx_program.model.metadata_props.update(metadata)
    weights = [*module.parameters(), *module.buffers()]
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in weights)
    onnx_program.save(str(path), external_data=num_bytes > _LARGEST_SINGLE_FILE)


def _export(module: ExportableSegmentor, shape: ImageShape) -> torch.export.ExportedProgram:
    example = _example(module, shape)
    if not shape.dynamic:
        return torch.export.export(module, (example,), strict=False)
    # Some operators take a different code path for feature maps of one pixel.
    least = module.divisor + 1
    axes = {
        0: torch.export.Dim("batch", min=1),
        2: torch.export.Dim("height", min=least),
        3: torch.export.Dim("width", min=least),
    }
    with same_padding_of_multiples():
        return torch.export.export(
            module,
            (example,),
            dynamic_shapes={INPUT_NAME: axes},
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def _example(module: ExportableSegmentor, shape: ImageShape) -> Tensor:
    """An input to trace with. Dynamic sizes are not 1 and not equal, which are special cases."""
    batch, height, width = shape.batch_size, shape.height, shape.width
    if shape.dynamic:
        batch = max(batch, 2)
        height, width = max(height, 2 * module.divisor), max(width, 2 * module.divisor)
        width += module.divisor * (width == height)
    mean = module.model.pixel_mean
    return torch.full((batch, mean.shape[0], height, width), 127.0, device=mean.device)


def load_exported(path: str | os.PathLike, export_format: str) -> Run:
    """Load an exported file as a function from images (B, C, H, W) float32 to its outputs.

    Args:
        path: the file.
        export_format: a key of SUFFIXES. ONNX files run on the CPU.

    Raises:
        UserError: ONNX Runtime is not installed.
    """
    if export_format == "onnx":
        session = _import_onnxruntime().InferenceSession(
            str(path), providers=["CPUExecutionProvider"]
        )
        return partial(_run_onnx, session)
    if export_format == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.load(str(path))
    return torch.export.load(str(path)).module()


def _run_onnx(session, image: Tensor) -> Tensor | list[Tensor]:
    found = session.run(None, {INPUT_NAME: image.cpu().numpy()})
    tensors = [torch.from_numpy(array) for array in found]
    return tensors[0] if len(tensors) == 1 else tensors


def _read_again(path: Path, export_format: str) -> Run:
    try:
        return load_exported(path, export_format)
    except Exception as error:  # the runtimes raise errors of many kinds
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"The exported {export_format} file cannot be read ({type(error).__name__}: {reason}). "
            "Try another format."
        ) from error


def _check_shapes(module: ExportableSegmentor, shape: ImageShape) -> list[tuple[int, int, int]]:
    """Batch size, height and width of the images that a file is checked with."""
    shapes = [(shape.batch_size, shape.height, shape.width)]
    if shape.dynamic:
        # One size needs padding, the other does not.
        step = max(module.divisor, 2)
        shapes += [(1, 2 * step, 3 * step), (3, 2 * step + step // 2, 3 * step + 1)]
    return shapes
