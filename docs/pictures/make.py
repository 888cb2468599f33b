"""Makes pictures of this folder: of pages, with a headless Chromium, and of drawings, made smaller.

    pip install "playwright>=1.50,<2"      # and a Chromium of the system
    python docs/pictures/make.py report output/report.html
    python docs/pictures/make.py comparison output/camvid_study/comparison.html
    python docs/pictures/make.py app http://127.0.0.1:7860
    python docs/pictures/make.py linear output/views/linear/0016E5_07959_entropy.png

README.md of this folder lists the commands that draw the pages and the drawings.
"""

import argparse
import shutil
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).parent
WIDTH = 1200
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Name -> width and height of the window, and the selector of the part before which a page is cut.
PARTS = {
    "report": (WIDTH, 900, "#dataset-0-run-0"),
    "comparison": (WIDTH, 900, "h3:has-text('Learning curves')"),
}


def page_picture(page, name: str, address: str) -> None:
    """The page from its top to the part named in ``PARTS``."""
    width, _, end = PARTS[name]
    page.goto(Path(address).resolve().as_uri())
    height = page.locator(end).first.bounding_box()["y"] - 20
    page.screenshot(
        path=FOLDER / f"{name}.png",
        full_page=True,
        clip={"x": 0, "y": 0, "width": width, "height": height},
    )


def app_picture(page, address: str) -> None:
    """The app with its third sample, and the pointer on a pixel."""
    page.goto(address)
    page.locator("#samples .thumbnail-item").nth(2).click()
    stage = page.locator(".stage").first
    stage.wait_for(timeout=60_000)
    page.wait_for_timeout(2000)  # the panels fade in
    box = stage.bounding_box()
    page.mouse.move(box["x"] + 0.46 * box["width"], box["y"] + 0.56 * box["height"])
    page.wait_for_timeout(500)
    page.screenshot(path=FOLDER / "app.jpg", type="jpeg", quality=88)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="report, comparison, app, or the name of a drawing's picture")
    parser.add_argument("source", help="the HTML file, the address of the app, or the drawing")
    arguments = parser.parse_args()
    if arguments.name in (*PARTS, "app"):
        screenshot(arguments.name, arguments.source)
    else:
        drawing_picture(arguments.name, arguments.source)


def drawing_picture(name: str, source: str) -> None:
    """The drawing as a JPEG file, 1200 pixels wide at most."""
    with Image.open(source) as drawing:
        drawing = drawing.convert("RGB")
    drawing.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
    drawing.save(FOLDER / f"{name}.jpg", quality=88)


def screenshot(name: str, source: str) -> None:
    from playwright.sync_api import sync_playwright

    width, height, _ = PARTS.get(name, (1400, 1000, ""))
    browser_file = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_file, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
        if name == "app":
            app_picture(page, source)
        else:
            page_picture(page, name, source)
        browser.close()


if __name__ == "__main__":
    main()
