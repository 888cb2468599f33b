"""Intermediate maps of a classifier, resized to the image."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...modeling.heads.layers import resize

#: From what the classifier or the head was given, and its logits (B, K, h, w), to maps by name,
#: each (B, any number, any height, any width).
ReadMaps = Callable[[object, Tensor], Mapping[str, Tensor]]


def classifying_module(model: nn.Module) -> nn.Module | None:
    """The part of a model that makes the logits: its classifier, or else its whole head."""
    classifier = getattr(model, "classifier", None)
    return getattr(model, "sem_seg_head", None) if classifier is None else classifier


@torch.no_grad()
def maps_of_image(
    model: nn.Module, inputs: list[dict], read: ReadMaps | None = None
) -> dict[str, Tensor]:
    """Logits and other maps, each brought to the image as the model brings its logits.

    That includes cutting off the padding, and averaging over the windows of a sliding-window
    prediction: each map is aligned with the prediction. For that, they go
    through the model as further channels of its logits, by a hook that changes nothing for other
    threads that use the model meanwhile.

    Args:
        model: takes and returns what Detectron2's SemanticSegmentor does; in evaluation mode.
        inputs: a batch of one.
        read: makes the other maps, once for each batch of windows. None: logits only.

    Returns:
        "logits" (K, H, W) and, under the names that ``read`` gave them, the other maps.
    """
    module, thread, channels = classifying_module(model), threading.get_ident(), {}
    align_corners = getattr(module, "align_corners", False)

    def widen(_, arguments, output):
        if threading.get_ident() != thread:
            return None
        # Heads return logits and losses, classifiers logits alone.
        logits, *rest = output if isinstance(output, tuple) else (output,)
        maps = {"logits": logits}
        for name, values in read(arguments[0], logits).items():
            maps[name] = resize(values.to(logits.dtype), logits.shape[-2:], align_corners)
        channels.update({name: values.shape[1] for name, values in maps.items()})
        widened = torch.cat(list(maps.values()), dim=1)
        return (widened, *rest) if rest else widened

    if read is None or module is None:
        return {"logits": model(inputs)[0]["sem_seg"]}
    handle = module.register_forward_hook(widen)
    try:
        scores = model(inputs)[0]["sem_seg"]
    finally:
        handle.remove()
    return dict(zip(channels, scores.split(list(channels.values()))))


@contextmanager
def recorded_outputs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, object]]:
    """Inside the block: the latest output of each module, by its name, in this thread."""
    outputs, thread = {}, threading.get_ident()

    def recorder(name):
        def record(_, arguments, output):
            if threading.get_ident() == thread:
                outputs[name] = output

        return record

    handles = [m.register_forward_hook(recorder(name)) for name, m in modules.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
