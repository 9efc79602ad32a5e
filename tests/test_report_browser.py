"""The report as a reader has it: opened from disk in a browser, by mouse, by keyboard, on a phone, in the dark."""

import csv
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from test_report import written

CHROMIUM = Path("/usr/bin/chromium")
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}"),
    pytest.mark.skipif(find_spec("playwright") is None, reason="playwright is not installed (extra `dev`)"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("browser"))


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    context = browser.new_context(viewport=DESKTOP)
    page = context.new_page()
    page.goto(report.as_uri())
    yield page
    context.close()


def test_it_opens_from_disk_without_an_error_or_a_request(browser, report):
    context = browser.new_context(viewport=DESKTOP)
    page = context.new_page()
    wrong, asked = [], []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri(), wait_until="load")
    page.wait_for_function("document.querySelector('video').readyState > 0")
    assert wrong == []
    assert [url[:80] for url in asked if not url.startswith(("data:", report.as_uri()))] == []
    context.close()


def test_a_clip_is_shown_under_the_mouse_and_at_the_keyboards_focus(page):
    dots = page.locator("#map circle")
    card = page.locator("#map-card img")
    assert not card.is_visible()
    data = json.loads(page.locator("#map-data").text_content())
    last = dots.count() - 1  # nothing is drawn over it
    dots.nth(last).hover(force=True)
    assert page.locator("#map-card").get_attribute("data-shown") == str(last)
    assert card.is_visible()
    assert card.evaluate("image => image.decode().then(() => image.naturalWidth)") == 160
    assert data["windows"][last][0] in page.locator("#map-card figcaption").inner_text()
    dots.nth(0).focus()
    assert page.locator("#map-card").get_attribute("data-shown") == "0"
    seen = {"0"}
    for key in ("ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
        seen.add(page.locator("#map-card").get_attribute("data-shown"))
    assert len(seen) > 1, "arrow keys go on from dot to dot"
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert any(focused.startswith(log) for log, _ in data["windows"])
    assert page.locator("#map circle[tabindex='0']").count() == 1, "the map is one stop for the Tab key"


def test_a_window_is_named_by_the_logs_own_clock(page, report, tmp_path):
    """Also where that counts from 1970: what is shown is found again."""
    before, opening, rest = report.read_text().partition("id='map-data'>")
    written, closing, after = rest.partition("</script>")
    data = json.loads(written)
    data["windows"] = [[log, start + 1.7e9 + 0.25] for log, start in data["windows"]]
    when = next(colour for colour in data["colours"] if colour["name"] == "begins at")
    when["values"] = [start for _, start in data["windows"]]
    (tmp_path / "late.html").write_text(before + opening + json.dumps(data) + closing + after)
    page.goto((tmp_path / "late.html").as_uri())
    names = page.locator("#map circle").evaluate_all("dots => dots.map(dot => dot.getAttribute('aria-label'))")
    assert names[1].startswith("body-000, 1700000001.25 to 1700000002.25 s")
    assert len(set(names)) == len(names)
    page.select_option("#map-colour", "begins at")
    assert page.locator("#map-legend").inner_text().split() == ["1700000000.25", "1700000002.25", "s"]
    page.locator("#map circle").nth(1).focus()
    assert "1700000001.25 to 1700000002.25 s" in page.locator("#map-card figcaption").inner_text()


def test_the_map_is_coloured_by_what_is_chosen(page):
    def inks() -> list[str]:
        return page.locator("#map circle").evaluate_all("dots => dots.map(dot => getComputedStyle(dot).fill)")

    page.select_option("#map-colour", "fast")
    by_class = inks()
    data = json.loads(page.locator("#map-data").text_content())
    values = next(one for one in data["colours"] if one["name"] == "fast")["values"]
    assert len({(ink, value) for ink, value in zip(by_class, values, strict=True)}) == len(set(values))
    assert "slow" in page.locator("#map-legend").inner_text()
    page.select_option("#map-colour", "height")
    assert len(set(inks())) > 3, "a quantity has many colours"


def test_a_table_sorts_by_number_and_by_word(page):
    table = page.locator("#table-probes")
    heads = table.locator("thead th").all_inner_texts()
    column = next(i for i, words in enumerate(heads) if words.startswith("run"))

    def numbers() -> list[float]:
        return [
            float(row.locator("td").nth(column - 1).get_attribute("data-v")) for row in table.locator("tbody tr").all()
        ]

    table.locator("thead th button").nth(column).click()
    assert numbers() == sorted(numbers(), reverse=True)
    table.locator("thead th button").nth(column).press("Enter")
    assert numbers() == sorted(numbers())
    assert table.locator("thead th").nth(column).get_attribute("aria-sort") == "ascending"
    table.locator("thead th button").nth(0).click()
    labels = table.locator("tbody th").all_inner_texts()
    assert labels == sorted(labels)


def test_bold_is_what_a_table_calls_so_and_nothing_else(page):
    page.locator("table.plain tbody td").first.evaluate("cell => cell.classList.add('strong')")
    cells = page.evaluate(
        "[...document.querySelectorAll('table.plain td')].map("
        "cell => [cell.classList.contains('strong'), getComputedStyle(cell).fontWeight >= 600])"
    )
    assert [True, True] in cells
    assert all(strong == bold for strong, bold in cells)


def test_a_table_comes_as_csv(page, tmp_path):
    with page.expect_download() as coming:
        page.locator("a.csv[download='ablation.csv']").click()
    coming.value.save_as(tmp_path / "ablation.csv")
    rows = list(csv.DictReader((tmp_path / "ablation.csv").read_text().splitlines()))
    assert len(rows) == page.locator("#table-ablation tbody tr, #table-ablation tfoot tr").count()
    for row in rows:
        assert float(row["camera low"]) <= float(row["camera"]) <= float(row["camera high"])


def test_the_film_plays_and_the_line_goes_with_it(page):
    video = page.locator("video")
    page.wait_for_function("document.querySelector('video').readyState > 0")
    assert video.evaluate("video => video.duration") == pytest.approx(3.0, abs=0.2)
    assert video.evaluate("video => video.videoWidth") == 32
    video.evaluate("video => { video.currentTime = 1.5; return new Promise(done => video.onseeked = done); }")
    page.wait_for_timeout(100)
    assert float(page.locator("svg .head").get_attribute("x1")) == pytest.approx(108 + 840 / 2, abs=15)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_has_nothing_serious_to_say(browser, report, scheme, size):
    axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed (extra `dev`)")
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    page.goto(report.as_uri())
    page.locator("details").evaluate_all("all => all.forEach(one => (one.open = true))")
    page.locator("#map circle").first.focus()
    page.add_script_tag(path=Path(axe.__file__).with_name("axe.min.js"))
    found = page.evaluate("axe.run()")["violations"]
    bad = [(v["id"], v["nodes"][0]["target"], v["help"]) for v in found if v["impact"] in ("serious", "critical")]
    assert bad == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(18, 22, 28)") == (scheme == "dark")
    context.close()


def test_on_a_phone_nothing_but_boxes_scrolls_sideways(browser, report):
    context = browser.new_context(viewport=PHONE)
    page = context.new_page()
    page.goto(report.as_uri())
    page.locator("details").evaluate_all("all => all.forEach(one => (one.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    context.close()
