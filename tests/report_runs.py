"""Makes folders as train_net.py leaves them, and reads the report as a browser does."""

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import yaml
from data_folders import unique_name, write_image, write_pairs, write_yaml
from PIL import Image

HOSTILE = "<img src=http://x.example/a.png onerror=\"alert('1')\"> & </script>"


# A run as train_net.py leaves it ---------------------------------------------------------------


def write_table(path, header, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def write_evaluation(folder, dataset, task, names, records, seed):
    """Scores, confusions and examples of a made-up evaluation; returns the metrics."""
    rng = np.random.default_rng(seed)
    size = len(names) + 1
    matrix = rng.integers(0, 50, (size, size)) + np.diag(rng.integers(100, 2000, size))
    counts = matrix[:-1, :-1]
    hits, true, predicted = counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)
    iou, accuracy = 100 * hits / (true + predicted - hits), 100 * hits / true
    metrics = {"mIoU": iou.mean(), "fwIoU": (iou * true / true.sum()).sum()}
    metrics |= {f"IoU-{name}": value for name, value in zip(names, iou)}
    metrics |= {"mACC": accuracy.mean(), "pACC": 100 * hits.sum() / true.sum()}
    metrics |= {f"ACC-{name}": value for name, value in zip(names, accuracy)}

    place = folder / "inference" / task / dataset
    (place / "examples").mkdir(parents=True)
    results = {"dataset": dataset, "task": task, "num_images": len(records), "metrics": metrics}
    (place / "results.json").write_text(json.dumps(results))
    np.save(place / "confusion_matrix.npy", matrix.astype(np.int64))
    columns = ("class", "IoU", "ACC", "truth_pixels", "predicted_pixels")
    write_table(place / "classes.csv", columns, zip(names, iou, accuracy, true, predicted))
    scores = np.linspace(10, 90, len(records))
    rows = [(*record, score, score) for record, score in zip(records, scores)]
    write_table(place / "images.csv", ("file_name", "sem_seg_file_name", "mIoU", "pACC"), rows)
    examples = []
    for i, (image, label, score, _) in enumerate(rows):
        labels = np.array(Image.open(label))
        labels[labels == 255] = 0
        write_image(place / "examples" / f"{i:04d}.png", labels // 2)
        examples.append(
            {
                "file_name": image,
                "sem_seg_file_name": label,
                "mIoU": score,
                "kind": "worst" if i < len(rows) / 2 else "best",
                "prediction": f"{i:04d}.png",
            }
        )
    (place / "examples" / "examples.json").write_text(json.dumps(examples))
    return metrics


def write_dataset(folder, names=("road", "tree", "car"), num_images=2):
    """A folder dataset; returns (YAML, registered name, [(image, label)])."""
    name = unique_name()
    path = write_yaml(folder, name=name, classes=list(names))
    keys = [f"image{i}" for i in range(num_images)]
    write_pairs(folder, keys, size=(48, 64))
    records = [(str(folder / f"images/{k}.png"), str(folder / f"labels/{k}.png")) for k in keys]
    return path, f"{name}_sem_seg_train", records


def write_run(
    folder, dataset, names=("road", "tree", "car"), tasks=("sem_seg", "sem_seg_TTA"), seed=0
):
    """The folder of a finished run on a dataset made by ``write_dataset``."""
    path, registered, records = dataset
    folder.mkdir(parents=True)
    config = {
        "DATASETS": {"FOLDERS": [str(path)], "TRAIN": [registered], "TEST": [registered]},
        "MODEL": {"META_ARCHITECTURE": "LinearSegmentor"},
        "SEED": seed,
        "OUTPUT_DIR": str(folder),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    results = {
        task: write_evaluation(folder, registered, task, names, records, seed + i)
        for i, task in enumerate(tasks)
    }
    (folder / "evaluation.json").write_text(json.dumps({"final.pth": {registered: results}}))
    lines = [
        {"iteration": i, "total_loss": 2 / (i + 1), "loss_sem_seg": 1 / (i + 1), "lr": 0.01}
        for i in range(20, 100, 20)
    ]
    lines += [{"iteration": i, "sem_seg/mIoU": float(i)} for i in (50, 100)]
    write_lines(folder, lines)
    return folder


def write_lines(folder, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.json").write_text(text)


# The page as a browser sees it -----------------------------------------------------------------


class Page(HTMLParser):
    """Tags with their attributes, texts, and the tables by caption, of strictly nested HTML."""

    VOID = {"meta", "link", "img", "br", "wbr"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.tables, self.rows = [], [], [], {}, []
        self.goes_on = False
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        assert len(attributes) == len(dict(attributes))
        self.tags.append((name, dict(attributes)))
        if name not in self.VOID:
            self.open.append(name)
        self.goes_on = name == "wbr"  # the text before and after it is one
        if name == "table":
            self.rows = self.tables.setdefault(f"table {len(self.tables)}", [])
        elif name == "tr":
            self.rows.append([])
        elif name in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, name):
        self.goes_on = False
        assert self.open.pop() == name

    def handle_data(self, text):
        if "caption" in self.open:
            self.tables[text] = self.tables.pop(list(self.tables)[-1])
        elif "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += text
        if "script" not in self.open and "style" not in self.open:
            self.texts.append(self.texts.pop() + text if self.goes_on else text)
        self.goes_on = False

    @property
    def text(self):
        return " ".join(self.texts)

    def attributes(self, *names):
        return [value for _, all_ in self.tags for key, value in all_.items() if key in names]


def read_page(path):
    return Page(path.read_text(encoding="utf-8"))


def decoded_image(address):
    kind, content = re.fullmatch(r"data:image/(jpeg|png);base64,(.+)", address).groups()
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert image.format.lower() == kind
    return np.array(image.convert("RGB"))
