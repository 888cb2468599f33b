"""The tables of the page of a comparison."""

import math
from collections.abc import Mapping, Sequence

from ..engine.cost import read_cost
from ..report.charts import NUM_COLORS
from ..report.markup import Markup, format_number, note, number_cell, number_header, table, tag
from ..report.run import flattened
from ..report.sections import value_cell
from .results import MEANS, NEUTRAL_KEYS, Study, cost_cells


def finite(value: float | None) -> float:
    """A score of the content: NaN for None, which NaN becomes in a JSON file."""
    return math.nan if value is None else value


def label_key(label: str, index: int) -> Markup:
    """A label with the colour that it has in the charts."""
    return tag("span", tag("span", class_=f"key series-{index % NUM_COLORS}"), label)


def results_table(content: Mapping) -> Markup:
    """A row for each classifier: scores, and the difference from the baseline."""
    rows = []
    for index, (label, scores) in enumerate(content["classifiers"].items()):
        difference = content["differences"].get(label, {}).get("mIoU")
        rows.append(
            [
                tag("td", label_key(label, index), class_="name"),
                number_cell(len(scores["seeds"]), 0),
                _score_cell(scores, "mIoU"),
                *difference_cells(difference, without="baseline"),
                *(_score_cell(scores, name) for name in MEANS[1:]),
                number_cell(finite(content["iterations_to_baseline"][label]["mean"]), 0),
            ]
        )
    numbers = ["seeds", "mIoU", "Δ mIoU", "95 %", "seeds that gain", *MEANS[1:], "to baseline"]
    return table(["classifier", *map(number_header, numbers)], rows, class_="sortable")


def _score_cell(scores: Mapping, name: str) -> Markup:
    mean, spread = finite(scores["mean"][name]), finite(scores["std"][name])
    text = format_number(mean)
    if math.isfinite(spread):
        text += f" ± {format_number(spread)}"
    return tag("td", text, class_="number", data_value=f"{mean:.10g}")


def difference_cells(difference: Mapping | None, without: str = "–") -> list[Markup]:
    """Mean, interval and number of seeds that gain; ``without`` stands where there is none."""
    if difference is None:
        return [tag("td", text, class_="number") for text in (without, "–", "–")]
    low, high = (format_number(finite(value), signed=True) for value in difference["ci95"])
    pairs = len(difference["per_seed"])
    gaining = round(pairs * difference["seeds_that_gain"])
    return [
        number_cell(finite(difference["mean"]), signed=True),
        tag("td", f"{low} … {high}", class_="number"),
        tag("td", f"{gaining} of {pairs}", class_="number", data_value=gaining / pairs),
    ]


def cost_table(content: Mapping) -> Markup:
    """A row for each classifier: parameters, times, memory."""
    rows = [
        [
            tag("td", label, class_="name"),
            *(tag("td", text, class_="number") for text in cost_cells(scores["cost"])),
        ]
        for label, scores in content["classifiers"].items()
    ]
    numbers = ["parameters", "s / iteration", "ms / image", "peak memory"]
    return table(["classifier", *map(number_header, numbers)], rows)


def machines_note(study: Study) -> Markup | None:
    """On which devices the runs were; a warning where there are several. None if unknown."""
    costs = [read_cost(run.folder) for runs in study.runs.values() for run in runs]
    known = [(cost["device"], cost.get("threads")) for cost in costs if "device" in cost]
    machines = [
        device if threads is None else f"{device}, {threads} thread{'s' * (threads != 1)}"
        for device, threads in dict.fromkeys(known)
    ]
    if not machines:
        return None
    if len(machines) == 1:
        return tag("p", f"Measured on: {machines[0]}.", class_="pale")
    listed = "; ".join(machines)
    return warning(f"Times and memory cannot be compared: the runs were on {listed}.")


def warning(text: str) -> Markup:
    """What the reader must know before believing the figures."""
    return tag("p", text, class_="warning")


def runs_table(study: Study, datasets: Sequence[str]) -> Markup:
    """All runs under their classifier: seed, scores, folder."""
    rows = [
        [
            tag("td", label_key(label, index), class_="name"),
            number_cell(run.seed, 0),
            *(number_cell(float(run.metrics(name)[0])) for name in datasets),
            tag("td", tag("code", str(run.folder)), class_="value"),
        ]
        for index, (label, runs) in enumerate(study.runs.items())
        for run in runs
    ]
    numbers = [number_header(text) for text in ("seed", *(f"mIoU {name}" for name in datasets))]
    return table(["classifier", *numbers, "folder"], rows, class_="sortable")


def config_table(study: Study) -> Markup:
    """The config keys that differ between the classifiers."""
    flat = {label: flattened(runs[0].run.config) for label, runs in study.runs.items()}
    rows = [
        [tag("th", tag("code", key), scope="row"), *(value_cell(v.get(key)) for v in flat.values())]
        for key in _differing_keys(flat.values())
    ]
    return table(["key", *flat], rows) if rows else note("They do not differ.")


def config_warnings(study: Study) -> list[Markup]:
    """One for each classifier whose own runs differ in more than the seed."""
    texts = []
    for label, runs in study.runs.items():
        keys = _differing_keys([flattened(run.run.config) for run in runs])
        if keys:
            texts.append(f"The runs of {label} differ in more than the seed: {', '.join(keys)}.")
    return [warning(text) for text in texts]


def _differing_keys(configs) -> list[str]:
    configs = list(configs)
    keys = dict.fromkeys(key for config in configs for key in config)
    return [
        key
        for key in keys
        if key not in NEUTRAL_KEYS and len({repr(config.get(key)) for config in configs}) > 1
    ]
