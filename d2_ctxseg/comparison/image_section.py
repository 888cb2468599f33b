"""The part of the page about the images that gain and lose most."""

from collections import Counter
from collections.abc import Mapping, Sequence

from ..report.markup import Markup, format_number, join, note, swatch, tag
from .gallery import Gallery, Picture
from .image_pairs import ImagePair
from .results import Study

_LEGEND_CLASSES = 14
_EXPLANATION = (
    "By the difference of the image's mIoU (over the classes in its ground truth), mean over the "
    "paired seeds; neighbours in the dataset are passed over. Predictions, and the scores below "
    "them, are of the first paired seed."
)


def image_section(
    study: Study, dataset: str, chosen: Mapping[str, Sequence[ImagePair]], gallery: Gallery
) -> Markup:
    """For each label the images that gain, then those that lose, with their pictures."""
    parts = []
    for label, images in chosen.items():
        for title, gains in (("gain", True), ("lose", False)):
            some = [image for image in images if (image.difference > 0) is gains]
            parts.append(tag("h4", f"{label}: {title} most" if some else f"{label}: none {title}s"))
            parts += [_image(study, dataset, label, image, gallery) for image in some]
    return tag(
        "div",
        tag("h3", "Images that gain and lose most"),
        tag("p", _EXPLANATION, class_="pale"),
        *(note(text) for text in gallery.notes(dataset)),
        *parts,
    )


def _image(study: Study, dataset: str, label: str, image: ImagePair, gallery: Gallery) -> Markup:
    panels = gallery.panels(dataset, label, image)
    figures = [
        tag("figure", tag("img", src=picture.address, alt=title), tag("figcaption", title))
        for title, picture in panels
    ]
    facts = _facts(study, label, image)
    if not figures:
        return facts
    return tag(
        "div",
        facts,
        tag("div", *figures, class_="panels"),
        _legend([picture for _, picture in panels], gallery.classes[dataset]),
        class_="example",
    )


def _facts(study: Study, label: str, image: ImagePair) -> Markup:
    pairs = study.pairs(label)
    seeds = f", mean over {len(pairs)} seeds" if len(pairs) > 1 else ""
    facts = [
        f"{format_number(image.difference, 1, signed=True)} points{seeds}",
        f"seed {pairs[0][1].seed}: {study.baseline} {image.baseline:.1f}",
        f"{label} {image.other:.1f}",
    ]
    name = tag("strong", image.file_name)
    return tag("p", join([name, *(tag("span", text, class_="fact") for text in facts)], " · "))


def _legend(pictures: Sequence[Picture], classes) -> Markup | None:
    """The classes in the pictures, those with the most pixels first."""
    pixels: Counter = Counter()
    for picture in pictures:
        pixels.update(picture.pixels)
    if not pixels:
        return None
    shown = [label for label, _ in pixels.most_common()]
    items = [
        tag("li", swatch(classes.colors[label]), classes.names[label])
        for label in shown[:_LEGEND_CLASSES]
    ]
    if len(shown) > _LEGEND_CLASSES:
        items.append(tag("li", f"and {len(shown) - _LEGEND_CLASSES} more"))
    return tag("ul", *items, class_="legend")
