"""Common uses of Detectron2: DefaultPredictor, DefaultTrainer, stock loaders, LazyConfig.

Each works, or says what to use in its place.
"""

import numpy as np
import pytest
import torch
from data_folders import CLASSES, unique_name, write_image, write_yaml
from train_net_runs import ROOT

from d2_ctxseg import add_ctxseg_config
from d2_ctxseg.classifiers import LinearClassifier
from d2_ctxseg.data import SemanticSegmentorMapper
from d2_ctxseg.data.registration import NEEDS_MAPPER
from d2_ctxseg.modeling.backbones import EncoderBackbone
from d2_ctxseg.modeling.compose import compose_segmentor
from d2_ctxseg.modeling.heads import SMPDecoderHead
from d2_ctxseg.utils.errors import UserError
from d2_ctxseg.utils.runtime import is_embedded
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, build_detection_train_loader
from detectron2.modeling import build_model

with_detectron2 = pytest.mark.skipif(is_embedded(), reason="needs Detectron2 itself")
with_embedded = pytest.mark.skipif(not is_embedded(), reason="needs the embedded runtime")


@pytest.fixture
def config(tmp_path):
    """Makes a config as a Detectron2 program does, without setup_config, and nothing registered.

    Its dataset has four labels of a mode of Pillow.
    """

    def make(mode="L", **description):
        rng = np.random.default_rng(0)
        for name in "abcd":
            write_image(
                tmp_path / f"images/{name}.png", rng.integers(0, 256, (96, 96, 3), np.uint8)
            )
            label = rng.integers(0, 3, (96, 96)).astype(np.uint8)
            write_image(tmp_path / f"labels/{name}.png", label, mode if mode == "P" else None)
        name = unique_name()
        path = write_yaml(tmp_path, name=name, **description)
        cfg = get_cfg()
        add_ctxseg_config(cfg)
        cfg.merge_from_file(str(ROOT / "configs/Base-Segmentor.yaml"))
        names = (f"{name}_sem_seg_train",)
        cfg.merge_from_list(
            ["MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "LinearSegmentor"]
            + ["DATASETS.FOLDERS", [str(path)], "DATASETS.TRAIN", names, "DATASETS.TEST", names]
            + ["MODEL.ENCODER.NAME", "tu-test_resnet", "MODEL.ENCODER.WEIGHTS", ""]
            + ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3, "MODEL.SEM_SEG_HEAD.DECODER.NAME", "FPN"]
            + ["INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.CROP.SIZE", [64, 64]]
            + ["SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "DATALOADER.NUM_WORKERS", 0]
            + ["SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "TEST.EVAL_PERIOD", 0]
            + ["OUTPUT_DIR", str(tmp_path)]
        )
        return cfg

    return make


class TestDefaultPredictor:
    @with_detectron2
    def test_its_metadata_has_the_classes(self, config):
        from detectron2.engine import DefaultPredictor

        predictor = DefaultPredictor(config())
        assert predictor.metadata.stuff_classes == CLASSES
        assert len(predictor.metadata.stuff_colors) == 3
        assert predictor(np.zeros((64, 64, 3), np.uint8))["sem_seg"].shape[0] == 3

    @with_embedded
    def test_the_embedded_runtime_names_load_segmentor(self):
        with pytest.raises(ImportError, match=r"Use d2_ctxseg\.model_zoo\.load_segmentor"):
            from detectron2.engine import DefaultPredictor  # noqa: F401


class TestDefaultTrainer:
    @with_detectron2
    def test_it_trains_on_labels_that_its_mapper_reads_correctly(self, config):
        from detectron2.engine import DefaultTrainer

        DefaultTrainer(config()).train()

    @with_detectron2
    @pytest.mark.parametrize(
        ("description", "said"),
        [
            ({"mode": "P"}, "palette images"),
            ({"id_map": {0: 0, 1: 1, 2: 2}}, "mapped by 'id_map'"),
            ({"ignore_label": 99}, "ignore label is 99"),
        ],
    )
    def test_labels_that_it_would_misread_are_refused(self, config, description, said):
        from detectron2.engine import DefaultTrainer

        with pytest.raises(UserError, match=f"misreads them: .*{said}.*SemanticSegmentorMapper"):
            DefaultTrainer(config(**description)).train()

    @with_detectron2
    def test_it_trains_on_them_with_this_projects_mapper(self, config):
        from detectron2.engine import DefaultTrainer

        class WithMapper(DefaultTrainer):
            @classmethod
            def build_train_loader(cls, cfg):
                mapper = SemanticSegmentorMapper(cfg, is_train=True)
                return build_detection_train_loader(cfg, mapper=mapper)

        WithMapper(config(mode="P")).train()

    @with_embedded
    def test_the_embedded_runtime_names_the_trainer_and_the_mapper(self, config):
        from detectron2.engine import DefaultTrainer

        cfg = config()
        with pytest.raises(NotImplementedError, match=r"Use d2_ctxseg\.engine\.Trainer\(cfg\)"):
            DefaultTrainer(cfg)
        build_model(cfg)  # registers the dataset
        with pytest.raises(NotImplementedError, match="SemanticSegmentorMapper"):
            build_detection_train_loader(cfg)


class TestMark:
    """Of records whose labels need this project's mapper."""

    def test_records_that_every_mapper_reads_have_none(self, config):
        cfg = config()
        build_model(cfg)
        assert not any(
            NEEDS_MAPPER in record for record in DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
        )

    def test_the_mapper_takes_it_off(self, config):
        cfg = config(mode="P")
        model = build_model(cfg)
        records = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
        assert all(NEEDS_MAPPER in record for record in records)
        mapper = SemanticSegmentorMapper(cfg, is_train=True)
        inputs = [mapper(record) for record in records[:2]]
        assert set(inputs[0]["sem_seg"].unique().tolist()) <= {0, 1, 2, 255}
        assert all(loss.isfinite() for loss in model(inputs).values())


class TestCompose:
    def parts(self, num_classes=3):
        backbone = EncoderBackbone(name="tu-test_resnet")
        options = {"pyramid_channels": 32, "segmentation_channels": 32}
        head = SMPDecoderHead(
            backbone.output_shape(), decoder="FPN", decoder_options=options, num_classes=3
        )
        return {
            "backbone": backbone,
            "sem_seg_head": head,
            "classifier": LinearClassifier(32, num_classes),
            "pixel_mean": [0.0] * 3,
            "pixel_std": [1.0] * 3,
        }

    def test_parts_become_a_model_that_trains_and_predicts(self):
        model = compose_segmentor(**self.parts())
        inputs = [{"image": torch.rand(3, 64, 64), "sem_seg": torch.zeros(64, 64).long()}] * 2
        sum(model(inputs).values()).backward()
        assert (
            model.classifier.weight.grad is not None if hasattr(model.classifier, "weight") else 1
        )
        with torch.no_grad():
            assert model.eval()(inputs)[0]["sem_seg"].shape == (3, 64, 64)

    def test_a_classifier_that_does_not_fit_is_refused(self):
        with pytest.raises(UserError, match="num_classes 5, but the head gives 32 channels and 3"):
            compose_segmentor(**self.parts(num_classes=5))


class TestLazyConfig:
    PATH = ROOT / "configs" / "lazy" / "context_shapes.py"

    @with_embedded
    def test_the_embedded_runtime_says_what_to_do(self, context_shapes_root, monkeypatch):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(context_shapes_root))
        with pytest.raises(ImportError, match=r"LazyCall' is not part .* Use a YAML config"):
            exec(compile(self.PATH.read_text(), str(self.PATH), "exec"), {"__name__": "lazy"})

    @with_detectron2
    def test_it_trains_and_evaluates_as_detectron2s_lazy_trainer_does(
        self, context_shapes_root, monkeypatch, tmp_path
    ):
        """The steps of tools/lazyconfig_train_net.py, on few iterations."""
        from detectron2.checkpoint import DetectionCheckpointer
        from detectron2.config import LazyConfig, instantiate
        from detectron2.engine import SimpleTrainer, default_writers, hooks
        from detectron2.evaluation import inference_on_dataset

        monkeypatch.setenv("DETECTRON2_DATASETS", str(context_shapes_root))
        cfg = LazyConfig.load(str(self.PATH))
        overrides = ["train.max_iter=2", f"train.output_dir={tmp_path}", "train.device=cpu"]
        cfg = LazyConfig.apply_overrides(cfg, [*overrides, "dataloader.train.total_batch_size=2"])
        LazyConfig.save(cfg, str(tmp_path / "config.yaml"))

        model = instantiate(cfg.model).to(cfg.train.device)
        cfg.optimizer.params.model = model
        optimizer = instantiate(cfg.optimizer)
        trainer = SimpleTrainer(model, instantiate(cfg.dataloader.train), optimizer)
        checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
        results = {}

        def test():
            evaluator = instantiate(cfg.dataloader.evaluator)
            results.update(inference_on_dataset(model, instantiate(cfg.dataloader.test), evaluator))
            return results

        trainer.register_hooks(
            [
                hooks.IterationTimer(),
                hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
                hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
                hooks.EvalHook(cfg.train.eval_period, test),
                hooks.PeriodicWriter(default_writers(cfg.train.output_dir, cfg.train.max_iter)),
            ]
        )
        trainer.train(0, cfg.train.max_iter)
        assert 0 <= results["sem_seg"]["mIoU"] <= 100
        assert (tmp_path / "model_final.pth").is_file()
