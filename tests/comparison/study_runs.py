"""Folders of finished runs as train_net.py leaves them, with made-up counts."""

import json

import numpy as np
import yaml

from d2_ctxseg.evaluation.image_counts import ImageCounts
from d2_ctxseg.evaluation.paired import metrics_of_counts

CLASSES = ("road", "sky", "car")
ARCHITECTURES = {"linear": "LinearSegmentor", "context_aware": "ContextAwareSegmentor"}


def write_run(
    folder,
    classifier="linear",
    seed=1,
    accuracy=0.6,
    *,
    datasets=("val",),
    images=6,
    classes=CLASSES,
    solver=(),
    curve=(),
    cost=(),
    root="/data",
):
    """A run whose predictions are correct in about ``accuracy`` of the pixels of each image."""
    folder.mkdir(parents=True)
    config = {
        "SEED": seed,
        "OUTPUT_DIR": str(folder),
        "MODEL": {"META_ARCHITECTURE": ARCHITECTURES.get(classifier, classifier)},
        "DATASETS": {"TEST": list(datasets)},
        "SOLVER": {"MAX_ITER": 50, **dict(solver)},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "evaluation.json").write_text("{}")
    # Detectron2 writes the last iteration done, but after the training the number of iterations.
    rows = [
        {"iteration": i if i == 50 else i - 1, f"{datasets[0]}/sem_seg/mIoU": value}
        for i, value in curve
    ]
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows) or "{}\n")
    if cost:
        (folder / "cost.json").write_text(json.dumps(dict(cost)))
    for dataset in datasets:
        _write_evaluation(folder, dataset, seed, accuracy, images, classes, root)
    return folder


def _write_evaluation(folder, dataset, seed, accuracy, images, classes, root):
    rng = np.random.default_rng(seed)
    true = rng.integers(500, 1500, (images, len(classes)))
    noise = rng.uniform(-0.05, 0.05, true.shape)
    correct = np.rint(true * (accuracy + noise))
    counts = np.stack([correct, true, true], axis=1)
    place = folder / "inference" / "sem_seg" / dataset
    place.mkdir(parents=True)
    names = [f"{root}/{dataset}/{i:03d}.png" for i in range(images)]
    ImageCounts.of_images(names, classes, counts).write(place / "image_counts.npz")
    miou, macc, pacc, *ious = metrics_of_counts(counts.sum(0)).tolist()
    metrics = {"mIoU": miou, "mACC": macc, "pACC": pacc}
    metrics |= {f"IoU-{name}": value for name, value in zip(classes, ious)}
    results = {"dataset": dataset, "task": "sem_seg", "metrics": metrics, "num_images": images}
    (place / "results.json").write_text(json.dumps(results))
