"""The report in a real browser: light and dark, on a screen and on a phone, by mouse, finger and keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from streamlearn.page import page as report_page
from tests.browser import Visit, chromium
from tests.page_samples import long, sample

pytestmark = pytest.mark.slow

NASTY = [
    "</script><img src=x onerror=alert(1)>",
    "قط صغير",
    "x" * 300,
    "",
    "many words in a label " * 3,
]
SIZES = [(1280, 800), (414, 896), (390, 844), (360, 640), (320, 568)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A usual report, one of a long stream, one with labels that nobody would choose, and an empty one."""
    folder = tmp_path_factory.mktemp("reports")
    texts = {
        "usual": report_page(*sample()),
        "long": report_page(*long()),
        "nasty": report_page(*sample(NASTY, ["<b>one</b>", "two + " + "very_long_modifier" * 4, "three"])),
        "empty": report_page({}, []),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, "utf-8")
    return {name: folder / f"{name}.html" for name in texts}


@pytest.mark.parametrize("name", ["usual", "long", "nasty", "empty"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_it_fits(
    browser: Browser, files: dict[str, Path], size: tuple[int, int], dark: bool, name: str
) -> None:
    width, height = size
    visit = Visit(browser, files[name].as_uri(), width, height, dark)
    page = visit.page
    assert page.evaluate("document.documentElement.scrollWidth") == width, "it scrolls to the side"
    for details in page.locator("summary").all():
        details.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width, "its tables do"
    page.evaluate("window.scrollTo(0, 0)")
    headline = page.locator("h1").bounding_box()
    assert headline is not None and headline["y"] + headline["height"] < height
    if name == "usual":
        assert "forgets" in page.locator("h1").inner_text()
        first = page.locator(".learners li").first.bounding_box()
        assert first is not None and first["y"] + first["height"] < height, "who forgets is above the fold"
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) / 3 > 127
    assert light != dark
    visit.done()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_has_contrast(browser: Browser, files: dict[str, Path], dark: bool) -> None:
    """WCAG's 4.5 to 1 for text, 3 to 1 for lines and bars, against the paper."""
    visit = Visit(browser, files["usual"].as_uri(), 1280, 800, dark)
    colours = visit.page.evaluate(
        """() => {
          const style = getComputedStyle(document.documentElement);
          const learners = [...Array(8).keys()].map((i) => "c" + i);
          const names = ["paper", "ink", "soft", "focus", "l0", "l9", ...learners];
          return Object.fromEntries(names.map((name) => [name, style.getPropertyValue("--" + name).trim()]));
        }"""
    )
    assert contrast(colours["paper"], colours["ink"]) > 12
    assert contrast(colours["paper"], colours["soft"]) > 4.5
    for name in set(colours) - {"paper", "ink", "soft"}:
        assert contrast(colours["paper"], colours[name]) > 3, name
    visit.done()


def contrast(one: str, other: str) -> float:
    """Of two colours #rrggbb."""
    lights = []
    for colour in (one, other):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        lights.append(0.2126 * red + 0.7152 * green + 0.0722 * blue)
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def test_the_mouse_reads_values(browser: Browser, files: dict[str, Path]) -> None:
    visit = Visit(browser, files["usual"].as_uri(), 1280, 800, dark=False)
    page = visit.page
    summary, rows = sample()
    area = page.locator("[data-chart=seen]")
    area.hover(position={"x": 5, "y": 50})
    tip = area.locator(".tip")
    first = next(row for row in rows if row["learner"] == "er")
    assert f"{first['events']} events" in tip.inner_text()
    assert f"{100 * first['accuracy_seen_classes']:.1f}" in tip.inner_text().replace(
        "\N{NO-BREAK SPACE}", " "
    )
    page.locator("[data-chart=sets0]").hover(position={"x": 3, "y": 3})
    assert tip.is_hidden(), "one tooltip at a time"
    other = page.locator("[data-chart=sets0] .tip")
    assert "%" in other.inner_text()
    page.mouse.move(2, 2)
    assert other.is_hidden()
    page.locator("[data-chart=prototypes1]").hover(position={"x": 30, "y": 3})
    cosine = summary["learners"]["er"]["prototypes"]["similarity"][0][1]
    assert page.locator("[data-chart=prototypes1] .tip").inner_text().split() == [
        "0",
        "and",
        "1",
        f"{cosine:.2f}",
    ]
    visit.done()


@pytest.mark.parametrize("width", [1280, 320])
def test_keys_read_values(browser: Browser, files: dict[str, Path], width: int) -> None:
    visit = Visit(browser, files["usual"].as_uri(), width, 800, dark=True)
    page = visit.page
    keys = page.keyboard
    keys.press("Tab")
    area = page.locator("[data-chart=seen]")
    tip = area.locator(".tip")
    assert area.evaluate("each => each === document.activeElement"), "the first stop is the first chart"
    assert area.get_attribute("role") == "application" and "Arrow keys" in (
        area.get_attribute("aria-label") or ""
    )
    assert "1,300 events" in tip.inner_text()
    keys.press("Home")
    assert tip.inner_text().startswith("22 events")
    keys.press("ArrowRight")
    assert tip.inner_text().startswith("43 events")
    keys.press("Escape")
    assert tip.is_hidden()
    for place in ("Home", "End"):
        page.locator("[data-chart=gaps1]").focus()
        keys.press(place)
        box = page.locator("[data-chart=gaps1] .tip").bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width
    assert "recovered after" in page.locator("[data-chart=gaps1] .tip").inner_text()
    heat = page.locator("[data-chart=sets2]")
    heat.focus()
    keys.press("End")
    keys.press("ArrowDown")
    assert heat.locator(".tip").inner_text().startswith("1\n")
    keys.press("Home")
    assert "not seen yet" in heat.locator(".tip").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    visit.done()


def test_a_finger_reads_values(browser: Browser, files: dict[str, Path]) -> None:
    visit = Visit(browser, files["nasty"].as_uri(), 360, 640, dark=False, touch=True)
    page = visit.page
    area = page.locator("[data-chart=sets0]")
    area.scroll_into_view_if_needed()
    area.tap(position={"x": 8, "y": 8})
    assert NASTY[0][:20] in area.locator(".tip").inner_text(), "a label is text in a tooltip too"
    page.locator("h2", has_text="Every class").tap()
    assert area.locator(".tip").is_hidden()
    visit.done()


def test_it_prints_and_needs_no_script(browser: Browser, files: dict[str, Path]) -> None:
    visit = Visit(browser, files["usual"].as_uri(), 1280, 800, dark=True)
    visit.page.emulate_media(media="print", color_scheme="dark")
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert visit.page.pdf()[:5] == b"%PDF-"
    visit.done()
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(files["usual"].as_uri())
    assert page.locator("[data-chart=seen] path.line").count() == 3
    context.close()
