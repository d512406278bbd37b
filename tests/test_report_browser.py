"""The report in a real browser: nothing is fetched, nothing complains, everything is drawn.

Needs playwright and a Chromium: the distribution's (`apt-get install chromium`), or playwright's
own (`playwright install chromium`).
"""

import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from hamnet.evaluation import evaluate
from hamnet.evaluation.orbital_grids import extreme_frames, frame_orbitals
from hamnet.evaluation.report import write_results

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SOFTWARE_WEBGL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
DRAWN_MS = 240_000  # WebGL in software, on a machine that does other things too
PHONE, DESKTOP = (390, 844), (1280, 900)

CONTRAST = """() => {
  const rgb = (text) => text.match(/[0-9.]+/g).slice(0, 3).map(Number);
  const light = (c) => rgb(c).map((x) => x / 255).map((x) => x <= 0.03928 ? x / 12.92 :
    ((x + 0.055) / 1.055) ** 2.4).reduce((sum, x, k) => sum + x * [0.2126, 0.7152, 0.0722][k], 0);
  const card = light(getComputedStyle(document.querySelector("section")).backgroundColor);
  const ratio = (c) => { const x = light(c);
    return (Math.max(x, card) + 0.05) / (Math.min(x, card) + 0.05); };
  const found = {};
  for (const name of ["h2", "p", "th", "td", "figcaption", "summary"])
    found[name] = ratio(getComputedStyle(document.querySelector("section " + name)).color);
  const axis = document.querySelector("figure svg text");
  found.svg = ratio(getComputedStyle(axis).fill);
  return found;
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory, water_records, water_basis, predict_from):
    rng = np.random.default_rng(3)
    pairs = []
    for record in water_records:
        noise = 1e-3 * rng.standard_normal(record.hamiltonian.shape)
        pairs.append((predict_from(record, water_basis, record.hamiltonian + noise), record))
    found = evaluate(pairs, water_basis)
    shown = [
        frame_orbitals(found.frames[place], words, *pairs[place])
        for words, place in extreme_frames(found).items()
    ]
    out = tmp_path_factory.mktemp("report")
    history = out / "history.csv"
    history.write_text("step,seconds,train_loss,val_h_mae_uha\n1,1.0,1.0,300\n2,2.0,0.5,150\n")
    long_path = "runs/" + "a-rather-long-name-of-a-run-" * 4
    about = {"model": long_path, "data": "water.h5", "split": "test", "elements": ["H", "O"]}
    write_results(found, out, about, history, shown)
    return (out / "report.html").as_uri()


def launch(driver, *arguments):
    path = next(filter(None, map(shutil.which, NAMES)), None)
    try:
        return driver.chromium.launch(executable_path=path, args=list(arguments))
    except playwright.Error as error:
        pytest.skip(f"no Chromium starts: apt-get install chromium ({str(error).splitlines()[0]})")


@pytest.fixture(scope="module")
def driver():
    with playwright.sync_playwright() as found:
        yield found


@pytest.fixture(scope="module")
def browser(driver):
    found = launch(driver, *SOFTWARE_WEBGL)
    yield found
    found.close()


@pytest.fixture
def visit(browser, report):
    """Open the report; afterwards nothing must have complained or been fetched."""
    contexts, complaints, fetched = [], [], []

    def open_page(size, scheme="light"):
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(DRAWN_MS)
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: fetched.append(request.url))
        page.goto(report)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    outside = [url for url in fetched if not url.startswith((report, "blob:", "data:"))]
    assert outside == []


def picture(page, selector):
    return np.asarray(Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB"))


def share_drawn(pixels):
    """Return the share of pixels that are not of the colour of the corner."""
    return float((np.abs(pixels.astype(int) - pixels[2, 2]).max(axis=-1) > 24).mean())


def wait_for_orbitals(page, words):
    page.locator("#orbital-note").scroll_into_view_if_needed()
    page.wait_for_selector(f"#orbital-viewer[data-drawn^='{words}']")


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_page_fits_and_is_legible(visit, size):
    page = visit(size)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= size[0]
    boxes = page.evaluate(
        "[...document.querySelectorAll('figure svg')].filter((e) => e.checkVisibility())"
        ".map((e) => e.getBoundingClientRect()).map((b) => [b.left, b.right, b.height])"
    )
    assert len(boxes) >= 15
    for left, right, height in boxes:
        assert left >= 0
        assert right <= size[0]
        assert right - left > 200
        assert height > 120
    letters = page.evaluate(
        "[...document.querySelectorAll('p, td, figcaption, figure svg text')]"
        ".filter((e) => e.checkVisibility()).map((e) => e.getBoundingClientRect().height)"
    )
    assert min(h for h in letters if h) > 7  # CSS pixels


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_stand_out(visit, scheme):
    """WCAG's contrast of 4.5 : 1, in both themes."""
    found = visit(DESKTOP, scheme).evaluate(CONTRAST)
    assert min(found.values()) >= 4.5, found


def test_orbitals_are_drawn_and_can_be_changed(visit):
    page = visit(PHONE)  # small canvases: WebGL in software
    wait_for_orbitals(page, "0 HOMO")
    assert not page.locator("section details").first.evaluate("(e) => e.open")
    homo = {side: picture(page, f"[data-side={side}]") for side in ("predicted", "label")}
    for pixels in homo.values():
        assert share_drawn(pixels) > 0.02
        blue, orange = pixels[..., 2].astype(int) - pixels[..., 0], pixels[..., 0] - 40
        assert (blue > 40).any()  # both signs of the orbital
        assert (orange > pixels[..., 2]).any()
    page.get_by_role("button", name="LUMO").click()
    wait_for_orbitals(page, "0 LUMO")
    lumo = picture(page, "[data-side=label]")
    assert (np.abs(lumo.astype(int) - homo["label"]).max(axis=-1) > 24).mean() > 0.01
    facts = page.locator("[data-text=facts]").inner_text()
    assert re.search(r"LUMO: error [+−][\d.e-]+ meV, overlap of the two orbitals 0\.\d+", facts)
    assert page.get_by_role("button", name="LUMO").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="best").click()
    wait_for_orbitals(
        page, f"{page.get_by_role('button', name='best').get_attribute('data-value')} "
    )


def test_without_webgl_the_outlines_are_shown(driver, report):
    browser = launch(driver, "--disable-gpu", "--disable-software-rasterizer")
    page = browser.new_page()
    page.set_default_timeout(DRAWN_MS)
    page.goto(report)
    page.locator("#orbital-note").scroll_into_view_if_needed()
    page.get_by_text("cannot show surfaces in three dimensions (no WebGL)").wait_for()
    assert page.locator("#orbital-viewer").is_hidden()
    assert page.locator("details figure svg").first.is_visible()
    browser.close()
