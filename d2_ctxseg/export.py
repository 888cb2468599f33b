"""Whole segmentors as files for other programs: TorchScript, ONNX, torch.export.

What is exported takes pixel values and gives logits or label maps; normalisation, padding and
resizing are inside. Each file is loaded again and compared with the model before it gets its name.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import UserError

FORMATS = {"torchscript": ".pt", "onnx": ".onnx", "torch_export": ".pt2"}
OUTPUTS = ("labels", "logits")
INPUT_NAME = "image"
METADATA_FILE = "metadata.json"
# Of the range of the logits: single precision, summed in another order.
TOLERANCE = 1e-3
_ONNX_OPSET = 18
# A protocol buffer, which an ONNX file is, holds no more; larger weights lie in a second file.
_MOST_BYTES_IN_ONNX = 1 << 31


class ExportableSegmentor(nn.Module):
    """From pixel values to logits or label maps, whole images, tensors in and out.

    Args:
        model: one of this project's segmentors, in evaluation mode.
        output: "labels" or "logits".
        dynamic: whether the images' sizes are known only when it runs.
    """

    def __init__(self, model: nn.Module, output: str = "labels", dynamic: bool = False):
        super().__init__()
        self.model, self.output, self.dynamic = model, output, dynamic

    def forward(self, image: Tensor) -> Tensor:
        """Images to predictions.

        Args:
            image: (B, 3, H, W) float32, values 0 to 255 in the channel order of INPUT.FORMAT.

        Returns:
            Label maps (B, H, W) int64, or logits (B, K, H, W) float32.
        """
        logits = self.logits(image)
        return logits.argmax(dim=1) if self.output == "labels" else logits

    def logits(self, image: Tensor) -> Tensor:
        """Such images to logits (B, K, H, W)."""
        height, width = image.shape[-2:]
        normalized = (image - self.model.pixel_mean) / self.model.pixel_std
        return self.model.logits(self._padded(normalized))[:, :, :height, :width]

    def _padded(self, images: Tensor) -> Tensor:
        """Padded with zeros to the size that the backbone divides, as at test time."""
        step = self.model.backbone.size_divisibility
        height, width = images.shape[-2:]
        if step <= 1:
            return images
        if not self.dynamic:
            return F.pad(images, (0, -width % step, 0, -height % step))
        # torch.export knows of the selected rows that their number is a multiple of the step.
        images = F.pad(images, (0, step, 0, step))
        for dim, length in ((2, height), (3, width)):
            count = (length + step - 1) // step * step
            images = images.index_select(dim, torch.arange(count, device=images.device))
        return images


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: the file.
        num_bytes: its size, with the file of an ONNX model's weights if there is one.
        difference: largest difference of a logit to the model's, as a part of the logits' range; of
            label maps the largest such margin of a pixel that has another label.
    """

    path: Path
    num_bytes: int
    difference: float


def export_segmentor(
    model: nn.Module,
    path: str | os.PathLike,
    format: str,
    *,
    size: Sequence[int],
    output: str = "labels",
    batch_size: int = 1,
    dynamic: bool = False,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Write a segmentor to a file, and check what was written.

    Args:
        model: one of this project's segmentors, on the CPU, in evaluation mode.
        path: the file to write.
        format: one of ``FORMATS``.
        size: height and width of the images.
        output: "labels" or "logits".
        batch_size: images at once.
        dynamic: let batch, height and width be any; not with "torchscript".
        metadata: texts that are kept in the file.
        overwrite: replace a file that is there.

    Raises:
        UserError: the file exists, the model cannot be exported that way, or the exported one gives
            other results than the model. Then nothing is written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists. Name another file, or add --overwrite to replace it.")
    if dynamic and format == "torchscript":
        raise UserError(
            "A traced TorchScript model works for the size it was traced with only. Leave out "
            "--dynamic, or use --format onnx or torch_export."
        )
    exportable = ExportableSegmentor(model, output, dynamic).eval()
    example = _images(max(batch_size, 2) if dynamic else batch_size, size)
    metadata = {key: str(value) for key, value in (metadata or {}).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export") as folder, torch.no_grad():
        part = Path(folder) / path.name
        _write(exportable, example, part, format, metadata)
        run = load_exported(part, format)
        difference = _check(exportable, run, _check_images(batch_size, size, dynamic))
        files = list(Path(folder).iterdir())
        num_bytes = sum(file.stat().st_size for file in files)
        for file in sorted(files, key=lambda file: file == part):  # the weights first
            os.replace(file, path.parent / file.name)
    return ExportReport(path, num_bytes, difference)


def load_exported(path: str | os.PathLike, format: str) -> Callable[[Tensor], Tensor]:
    """What an exported file computes, as a function from images to predictions, on the CPU."""
    if format == "torchscript":
        return torch.jit.load(str(path), map_location="cpu")
    if format == "torch_export":
        return torch.export.load(str(path)).module()
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            "Exported ONNX files are checked with onnxruntime: pip install onnxruntime"
        ) from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {INPUT_NAME: image.numpy()})[0])


def _write(module: ExportableSegmentor, example: Tensor, path: Path, format: str, metadata) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecations inside PyTorch
            if format == "torchscript":
                traced = torch.jit.freeze(torch.jit.trace(module, example, check_trace=False))
                traced.save(str(path), _extra_files={METADATA_FILE: json.dumps(metadata)})
                return
            program = _exported_program(module, example)
            if format == "torch_export":
                files = {METADATA_FILE: json.dumps(metadata)}
                torch.export.save(program, str(path), extra_files=files)
            else:
                _write_onnx(program, path, metadata, module.output)
    except ImportError as error:
        raise UserError(f"The export to {format} needs a package: {error}") from error
    except Exception as error:  # PyTorch has no common class for what cannot be exported
        sizes = "any size (--dynamic)" if module.dynamic else f"images of {_text(example)}"
        hint = " Try a fixed size: leave --dynamic out." if module.dynamic else ""
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"This model cannot be exported to {format} for {sizes}.{hint} {reason}"
        ) from error


def _exported_program(module: ExportableSegmentor, example: Tensor):
    if not module.dynamic:
        return torch.export.export(module, (example,))
    least = 2 * max(module.model.backbone.size_divisibility, 1)
    dims = {
        0: torch.export.Dim("batch", min=1),
        2: torch.export.Dim("height", min=least),
        3: torch.export.Dim("width", min=least),
    }
    return torch.export.export(
        module,
        (example,),
        dynamic_shapes={INPUT_NAME: dims},
        prefer_deferred_runtime_asserts_over_guards=True,
    )


def _write_onnx(program, path: Path, metadata: Mapping[str, str], output: str) -> None:
    onnx_program = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        opset_version=_ONNX_OPSET,
        input_names=[INPUT_NAME],
        output_names=[output],
    )
    onnx_program.model.metadata_props.update(metadata)
    weights = sum(value.nbytes for value in program.state_dict.values())
    onnx_program.save(str(path), external_data=weights >= _MOST_BYTES_IN_ONNX)


def _check_images(batch_size: int, size: Sequence[int], dynamic: bool) -> list[Tensor]:
    images = [_images(batch_size, size, seed=1), _smooth_images(batch_size, size)]
    if dynamic:
        images.append(_smooth_images(batch_size + 2, [length + 37 for length in size]))
    return images


def _check(module: ExportableSegmentor, run: Callable, images: list[Tensor]) -> float:
    """The largest difference; UserError if it is more than rounding."""
    largest = 0.0
    for image in images:
        logits, result = module.logits(image), run(image)
        if module.output == "labels":
            best = logits.amax(dim=1)
            chosen = logits.gather(1, result.unsqueeze(1)).squeeze(1)
            error = (best - chosen).abs().max()
        else:
            error = (result - logits).abs().max()
        largest = max(largest, (error / (logits.max() - logits.min()).clamp(min=1e-12)).item())
    if not largest <= TOLERANCE:
        raise UserError(
            f"The exported model gives other results than the model: they differ by {largest:.1e} "
            f"of the logits' range, at most {TOLERANCE:.0e} is rounding. Nothing was written."
        )
    return largest


def _images(batch_size: int, size: Sequence[int], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 255 * torch.rand(batch_size, 3, *size, generator=generator)


def _smooth_images(batch_size: int, size: Sequence[int]) -> Tensor:
    """Blots of colour, as photographs show them."""
    return F.interpolate(_images(batch_size, (5, 7), seed=2), size=tuple(size), mode="bicubic")


def _text(example: Tensor) -> str:
    return " x ".join(str(length) for length in example.shape[-2:])
