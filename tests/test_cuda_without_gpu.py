"""Classifiers, heads and segmentors on a GPU that computes no values (``fake_cuda.py``).

All results are on the GPU, no operation mixes devices, and the host never waits for a value: each
of these would raise. What this cannot show is in docs/PERFORMANCE.md.
"""

import pytest
import torch
from fake_cuda import FakeCuda, to_fake_cuda
from torch._subclasses.fake_tensor import DataDependentOutputException

import detectron2
from d2_ctxseg.classifiers import CLASSIFIER_REGISTRY
from d2_ctxseg.losses import PixelLoss
from d2_ctxseg.modeling import ECEHead, LabelMapPredictor, SegViTHead
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, build_model

CLASSIFIERS = [cls for _, cls in CLASSIFIER_REGISTRY if cls.__module__.startswith("d2_ctxseg.")]
SEGMENTORS = [
    name
    for name, cls in META_ARCH_REGISTRY
    if cls.__module__.startswith("d2_ctxseg.") and getattr(cls, "classifier_class", None)
]


def assert_on_gpu(*tensors):
    assert {tensor.device.type for tensor in tensors} == {"cuda"}


@pytest.mark.parametrize("classifier_class", CLASSIFIERS)
@pytest.mark.parametrize("label_size", [6, 24])
def test_classifiers(classifier_class, label_size):
    classifier = classifier_class(16, 5)
    with FakeCuda():
        to_fake_cuda(classifier)
        features = torch.randn(2, 16, 6, 6, device="cuda", requires_grad=True)
        labels = torch.randint(0, 5, (2, label_size, label_size), device="cuda")
        if classifier.is_trained:
            assert_on_gpu(*classifier.losses(features, labels).values())
        assert_on_gpu(classifier.eval()(features))


def test_pixel_loss_with_every_option():
    loss = PixelLoss(
        class_weights=[1.0, 2.0, 0.0, 1.0, 3.0],
        label_smoothing=0.1,
        hard_pixel_share=0.2,
        hard_pixel_threshold=0.7,
    )
    with FakeCuda():
        to_fake_cuda(loss)
        logits = torch.randn(2, 5, 6, 6, device="cuda")
        assert_on_gpu(loss(logits, torch.randint(0, 5, (2, 24, 24), device="cuda")))


@pytest.mark.parametrize("name", ["ece", "learned", "explicit"])
def test_heads_that_classify_by_themselves(name):
    shapes = {f"res{i + 2}": ShapeSpec(channels=8, stride=4 << i) for i in range(4)}
    if name == "ece":
        head = ECEHead((8, 8, 8, 8), 5, channels=16)
    else:
        head = SegViTHead(shapes, num_classes=5, channels=24, num_heads=2, class_embeddings=name)
    with FakeCuda():
        to_fake_cuda(head)
        features = {
            name: torch.randn(2, 8, 64 // shape.stride, 64 // shape.stride, device="cuda")
            for name, shape in shapes.items()
        }
        labels = torch.randint(0, 5, (2, 64, 64), device="cuda")
        assert_on_gpu(*head.all_losses(features, labels).values())
        assert_on_gpu(head.eval()(features)[0])


@pytest.mark.skipif(
    "embedded" not in detectron2.__file__,
    reason="Detectron2's ImageList reads the images' sizes from tensors",
)
class TestSegmentors:
    def inputs(self, *sizes):
        return [
            {
                "image": torch.zeros(3, *size, dtype=torch.uint8),
                "sem_seg": torch.zeros(size, dtype=torch.long),
                "height": 50,
                "width": 70,
            }
            for size in sizes
        ]

    @pytest.mark.parametrize("name", SEGMENTORS)
    def test_training_and_prediction(self, tiny_config, name):
        tiny_config.MODEL.META_ARCHITECTURE = name
        tiny_config.MODEL.AUXILIARY_HEAD.ENABLED = True
        model = build_model(tiny_config)
        with FakeCuda():
            to_fake_cuda(model)
            inputs = self.inputs((64, 96), (32, 64))
            if model.classifier.is_trained:
                assert_on_gpu(*model(inputs).values())
            model.eval()
            assert_on_gpu(*[output["sem_seg"] for output in model(inputs)])

    @pytest.mark.parametrize("window", [0, 48])
    def test_label_maps(self, tiny_config, window):
        if window:
            tiny_config.TEST.SLIDING_WINDOW.ENABLED = True
            tiny_config.TEST.SLIDING_WINDOW.SIZE = [window, window]
            tiny_config.TEST.SLIDING_WINDOW.STRIDE = [32, 32]
        model = build_model(tiny_config).eval()
        predict = LabelMapPredictor(model)
        with FakeCuda():
            to_fake_cuda(model)
            (output,) = predict(self.inputs((64, 96)))
            assert_on_gpu(output["label_map"])


def test_a_value_that_is_waited_for_and_mixed_devices_are_found():
    with FakeCuda():
        tensor = torch.ones(3, device="cuda")
        with pytest.raises(DataDependentOutputException):
            tensor.sum().item()
        with pytest.raises(RuntimeError, match="device"):
            tensor + torch.ones(3)
