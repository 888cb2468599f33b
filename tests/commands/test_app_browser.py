"""demo/app.py in use: its page in a headless Chromium, with two small trained models."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from daylight import DAY, NIGHT, half_bright, make_run
from PIL import Image
from uploaded_images import write_bomb

pytest.importorskip("gradio", reason="the page needs Gradio")
playwright = pytest.importorskip("playwright.sync_api", reason="a browser is driven by Playwright")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is installed"),
]
ROOT = Path(__file__).parents[2]
PATIENCE_S = 120  # for a busy machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs "linear" and "context_aware", a folder of samples, and files to upload."""
    folder = tmp_path_factory.mktemp("app")
    make_run(folder / "linear", "LinearSegmentor", "browser_daylight")
    make_run(folder / "context_aware", "ContextAwareSegmentor", "browser_daylight")
    (folder / "samples").mkdir()
    for name, image in (("left", half_bright()[:, ::-1]), ("right", half_bright())):
        Image.fromarray(image).save(folder / "samples" / f"{name}.png")
    Image.fromarray(half_bright()).save(folder / "street.png")
    (folder / "notes.txt").write_text("Dear diary")
    write_bomb(folder / "bomb.png", 8000, 5000)
    return folder


@pytest.fixture(scope="module")
def server(folder):
    """The script in a separate process, once its page is served: (process, address)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, ROOT / "demo" / "app.py", "--port", str(port)]
    command += ["--run", folder / "linear", folder / "context_aware"]
    command += ["--samples", folder / "samples"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield process, wait_for_page(process, port, folder / "log.txt")
    finally:
        process.kill()
        process.wait()


def wait_for_page(process, port, log):
    address = f"http://127.0.0.1:{port}"
    end = time.monotonic() + PATIENCE_S
    while f"The page is at {address}" not in log.read_text():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.2)
    return address


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """The page, freshly loaded; it must not load external resources or fail in its scripts."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(1000 * PATIENCE_S)
    page.addresses, errors = [], []
    page.on("request", lambda request: page.addresses.append(request.url))
    page.on("pageerror", lambda error: errors.append(error))  # takes no built-in
    page.goto(server[1])
    page.wait_for_selector("#result .message")
    yield page
    hosts = {urlparse(url).netloc for url in page.addresses if not url.startswith("data:")}
    assert hosts == {urlparse(server[1]).netloc}
    assert errors == []
    page.close()


def upload(page, path):
    page.set_input_files("#upload input[type=file]", path)


def wait_for_panels(page, count=2):
    """Until the panels are there, faded in by Gradio, and their images decoded."""
    page.wait_for_function(
        "count => document.querySelectorAll('#result .panel').length === count", arg=count
    )
    page.wait_for_function(
        "[...document.querySelectorAll('#result, #result *:has(.panels)')]"
        ".every(element => getComputedStyle(element).opacity === '1')"
    )
    page.evaluate(
        "Promise.all([...document.querySelectorAll('.photo, .colors')].map(i => i.decode()))"
    )


def point_at(page, x, y, panel=0):
    """Move the pointer to a place in a panel, in shares of its size."""
    box = page.locator(".stage").nth(panel).bounding_box()
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])


def tips(page):
    return [tip.inner_text() for tip in page.locator(".stage .tip").all() if tip.is_visible()]


def colors_seen(page, folder, panel=0):
    """What the screen shows in the left and in the right of a panel, mean RGB."""
    page.mouse.move(1, 1)
    page.locator(".stage").nth(panel).screenshot(path=folder / "panel.png")
    pixels = np.asarray(Image.open(folder / "panel.png").convert("RGB")).astype(float)
    height, width = pixels.shape[:2]
    rows = slice(height // 4, 3 * height // 4)
    left = pixels[rows, width // 8 : 3 * width // 8]
    right = pixels[rows, 5 * width // 8 : 7 * width // 8]
    return left.mean(axis=(0, 1)), right.mean(axis=(0, 1))


def blended(color, side, opacity):
    image = half_bright()[:, :56] if side == "left" else half_bright()[:, 72:]
    return opacity * np.array(color) + (1 - opacity) * image.mean(axis=(0, 1))


def test_the_page_loads_with_its_choices(page):
    assert page.title() == "Semantic segmentation"
    assert "choose a sample" in page.inner_text("#result")
    assert page.input_value("#model input") == "linear"
    assert page.input_value("#beside input") == "context_aware"
    assert page.locator("#samples img").count() == 2


def test_an_uploaded_image_is_segmented_by_both_models(page, folder):
    upload(page, folder / "street.png")
    wait_for_panels(page)
    assert [b.inner_text() for b in page.locator(".panel figcaption b").all()] == [
        "linear", "context_aware"
    ]  # fmt: skip
    for panel in (0, 1):
        left, right = colors_seen(page, folder, panel)
        np.testing.assert_allclose(left, blended(NIGHT, "left", 0.6), atol=25)
        np.testing.assert_allclose(right, blended(DAY, "right", 0.6), atol=25)


def test_the_legend_says_each_classs_share(page, folder):
    upload(page, folder / "street.png")
    wait_for_panels(page)
    rows = [row.inner_text().split() for row in page.locator(".legend tbody tr").all()]
    assert {row[0] for row in rows} == {"night", "day"}
    for row in rows:
        assert float(row[1]) == pytest.approx(50, abs=8)
        assert float(row[3]) == pytest.approx(50, abs=8)
    assert sum(float(row[1]) for row in rows) == pytest.approx(100, abs=0.2)
    assert "linear and context_aware agree on" in page.inner_text(".agreement")


def test_the_class_under_the_pointer_is_shown_in_both_panels(page, folder):
    upload(page, folder / "street.png")
    wait_for_panels(page)
    assert tips(page) == []
    point_at(page, 0.2, 0.5)
    assert [tip.split(" · ")[0] for tip in tips(page)] == ["night", "night"]
    point_at(page, 0.9, 0.9, panel=1)
    assert [tip.split(" · ")[0] for tip in tips(page)] == ["day", "day"]
    assert all(re.search(r" · [\d.]+ % · \d+ % sure$", tip) for tip in tips(page))
    page.mouse.move(1, 1)
    assert tips(page) == []


def test_unsure_pixels_are_hatched_or_lose_their_class_without_the_server(page, folder):
    upload(page, folder / "street.png")
    wait_for_panels(page)
    page.locator("#opacity input[type=range]").fill("1")
    page.wait_for_timeout(500)
    asked = len(page.addresses)

    def choose(mode, threshold):
        page.locator("#threshold input[type=range]").fill(str(threshold))
        page.get_by_label(mode).check()
        page.wait_for_timeout(300)
        return colors_seen(page, folder)[1], page.locator(".unsure-share").first.inner_text()

    plain, note = choose("Shown like the others", 1)
    assert note == ""
    hatched, note = choose("Hatched", 1)
    assert (hatched < plain - 30).any() and "less than 100 % sure (confidence is not" in note
    blank, _ = choose("Without a class", 1)
    np.testing.assert_allclose(blank, blended(DAY, "right", 0), atol=25)
    # Of two classes the likelier one has half at least.
    sure, note = choose("Without a class", 0.49)
    np.testing.assert_allclose(sure, plain, atol=2)
    assert note.startswith("0.0 % of the pixels")
    assert len(page.addresses) == asked


def test_the_opacity_changes_at_once_and_without_the_server(page, folder):
    upload(page, folder / "street.png")
    wait_for_panels(page)
    page.wait_for_timeout(500)
    asked = len(page.addresses)
    slider = page.locator("#opacity input[type=range]")
    for opacity in (1, 0, 0.3):
        slider.fill(str(opacity))
        page.wait_for_timeout(300)
        left, right = colors_seen(page, folder)
        np.testing.assert_allclose(left, blended(NIGHT, "left", opacity), atol=25)
        np.testing.assert_allclose(right, blended(DAY, "right", opacity), atol=25)
    assert page.addresses[asked:] == []
    upload(page, folder / "samples" / "right.png")  # a new result keeps the opacity
    page.wait_for_selector("text=right_linear.png")
    wait_for_panels(page)
    np.testing.assert_allclose(colors_seen(page, folder)[0], blended(NIGHT, "left", 0.3), atol=25)


def test_the_label_map_can_be_downloaded(page, folder, tmp_path):
    upload(page, folder / "street.png")
    wait_for_panels(page)
    with page.expect_download() as download:
        page.locator("a.download").first.click()
    assert download.value.suggested_filename == "street_linear.png"
    download.value.save_as(tmp_path / "labels.png")
    decoded = Image.open(tmp_path / "labels.png")
    labels = np.asarray(decoded)
    assert labels.shape == (96, 128)
    assert (labels[:, :56] == 0).mean() > 0.9 and (labels[:, 72:] == 1).mean() > 0.9
    assert decoded.getpalette()[:6] == NIGHT + DAY


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("notes.txt", "notes.txt is not an image that can be read here."),
        ("bomb.png", "bomb.png is 8000 x 5000 pixels, 40.0 megapixels: that is too large."),
    ],
)
def test_what_cannot_be_taken_is_explained_and_the_next_image_works(page, folder, name, message):
    upload(page, folder / "street.png")
    wait_for_panels(page)
    upload(page, folder / name)
    alert = page.wait_for_selector("#result [role=alert]")
    assert alert.is_visible() and message in alert.inner_text()
    assert page.locator(".panel").count() == 0  # the last result does not pass for this one's
    assert "Traceback" not in page.content()
    upload(page, folder / "street.png")
    wait_for_panels(page)


def test_a_sample_is_segmented_by_the_chosen_models(page):
    page.locator("#samples button").first.click()
    page.wait_for_selector("text=left_context_aware.png")
    point_at(page, 0.1, 0.5)
    assert [tip.split(" · ")[0] for tip in tips(page)] == ["day", "day"]
    choose(page, "#beside", "none")
    wait_for_panels(page, count=1)
    assert page.locator(".agreement").count() == 0
    choose(page, "#model", "context_aware")
    page.wait_for_selector("text=left_context_aware.png")
    assert page.locator(".panel figcaption b").inner_text() == "context_aware"


def choose(page, dropdown, option):
    page.click(f"{dropdown} input")
    page.locator(dropdown).get_by_role("option", name=option, exact=True).click()


def test_the_classifiers_views_are_drawn_on_demand(page, folder):
    upload(page, folder / "street.png")
    wait_for_panels(page)
    page.click("#inside button >> nth=0")
    assert page.locator("#views img").count() == 0
    page.click("#draw-views")
    page.wait_for_selector("#views figure")
    captions = page.locator("#views figcaption").all_inner_texts()
    assert any("vanilla" in caption for caption in captions)
    widths = page.eval_on_selector_all("#views img", "all => all.map(i => i.naturalWidth)")
    assert len(widths) == len(captions) >= 3 and min(widths) > 100
    upload(page, folder / "samples" / "left.png")  # views of another image would mislead
    page.wait_for_selector("text=left_linear.png")
    assert page.locator("#views figure").count() == 0


def test_the_page_fits_a_telephone(page, folder):
    upload(page, folder / "street.png")
    wait_for_panels(page)
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    # The bars of classes with half of the image are half as wide as their cells, not a point.
    bars = page.evaluate(
        "[...document.querySelectorAll('.legend .bar')].map(bar => bar.offsetWidth)"
    )
    assert len(bars) >= 2 and min(bars) > 25
    assert page.locator(".stage").first.bounding_box()["width"] > 250


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="others have one such address")
def test_the_page_is_served_to_this_machine_only(server):
    port = urlparse(server[1]).port
    with socket.create_connection(("127.0.0.1", port)):
        pass
    # What listens to the whole network listens to this address as well.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port))


def test_ctrl_c_ends_it_without_a_traceback(server, folder):
    process, _ = server
    process.send_signal(signal.SIGINT)
    process.wait(timeout=PATIENCE_S)
    assert "Traceback" not in (folder / "log.txt").read_text()
    assert process.returncode in (0, 130)
