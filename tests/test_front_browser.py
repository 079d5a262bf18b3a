"""What a real browser shows of a real worker's port: nothing is cut, nothing is complained about."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser

from streamlearn.exporter import PATHS
from streamlearn.observe import Vitals
from tests.browser import Visit, chromium
from tests.exposed import FULL
from tests.processes import Process, flags, line
from tests.scrape import serving
from tests.streams import vectors
from tests.test_prometheus import EXPORT, address

pytestmark = pytest.mark.slow

EVENTS = 300
WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of one that has learned from a pipe, and waits for more."""
    words = flags(tmp_path_factory.mktemp("look"), "-", *EXPORT, "--evaluation.held_out", "0.1")
    with Process(*words, stdin=True) as run:
        run.says("  metrics  http")
        url = f"http://{address(lambda: run.errors)}"
        run.send(b"".join(map(line, vectors(EVENTS))) + b"garbage\n")

        def counted() -> bool:
            with urlopen(f"{url}/status", timeout=10) as answer:
                return bool(json.load(answer)["records"] == EVENTS)

        run.until(counted, "all are counted")
        yield url
        run.hang_up()
        assert run.ends() == 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_front_page(browser: Browser, worker: str, width: int, dark: bool) -> None:
    visit = Visit(browser, f"{worker}/", width, 844, dark)
    assert visit.answer is not None and visit.answer.status == 200
    assert visit.page.locator("h1").inner_text() == "It learns"
    rows = dict(row.inner_text().split("\t", 1) for row in visit.page.locator(".front tbody tr").all())
    figures = {name.partition("\n")[0]: value for name, value in rows.items()}
    assert figures["predicted"] == str(EVENTS) and figures["dead letters"] == "1"
    assert figures["right on everything taught"].endswith("%")
    assert visit.width == width, "it scrolls to the side"
    for table in visit.page.locator(".scroll").all():
        assert table.evaluate("each => each.scrollWidth <= each.clientWidth"), "a table is cut"
    ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    visit.done()


def test_its_links_lead_somewhere(browser: Browser, worker: str) -> None:
    visit = Visit(browser, f"{worker}/", 390, 844, dark=False)
    for path in sorted(set(PATHS) - {"/"}):
        with visit.page.expect_response(f"{worker}{path}") as found:
            visit.page.get_by_role("link", name=path).click()
        assert found.value.status == 200
        # An answer comes before its page does: whoever moves on at once leaves a page that isn't there yet.
        visit.page.wait_for_url(f"{worker}{path}")
        visit.page.goto(f"{worker}/")
    assert visit.faults == []
    visit.page.context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/status", f'\n  "predicted": {EVENTS},\n'),
        ("/healthz", "ok"),
        ("/readyz", "ok"),
        ("/metrics", f'\nstreamlearn_events_total{{outcome="predicted"}} {EVENTS}.0\n'),
    ],
)
def test_what_is_made_for_machines_can_be_read(
    browser: Browser, worker: str, path: str, says: str, width: int
) -> None:
    visit = Visit(browser, f"{worker}{path}", width, 844, dark=False)
    assert says in visit.text
    assert visit.width == width or path == "/metrics", "it scrolls to the side"
    visit.done()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_sick_worker_with_odd_labels(browser: Browser, tmp_path: Path, width: int) -> None:
    with ExitStack() as stack:
        vitals = Vitals(60)
        vitals.observation = FULL
        vitals.failure = "the worker ended: <script>alert(1)</script> " + "x" * 300
        site = stack.enter_context(serving(vitals))
        visit = Visit(browser, f"{site.url}/", width, 844, dark=False)
        assert visit.page.locator("h1").inner_text() == "It is sick"
        assert visit.page.get_by_role("alert").inner_text() == vitals.failure
        assert visit.width == width
        visit.done()
