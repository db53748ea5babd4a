"""The page in a browser."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.support.emulated_pipeline import add_dead_letter
from tests.support.serving import served
from xfarm.operations.pipeline import Pipeline
from xfarm.operations.redrive import MANY

CHROMIUMS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
TIMEOUT_MS = 60_000
"""Longer than a file takes to the dead-letter queue on a busy machine."""

DROP = """(files) => {
    const transfer = new DataTransfer();
    for (const [name, text] of Object.entries(files)) transfer.items.add(new File([text], name));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, CHROMIUMS)), None)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of the machine's browser; install Debian's package if there is none."""
    if path := find_chromium():
        return path
    if os.geteuid() or not shutil.which("apt-get"):
        pytest.fail("there is no browser for this test: install Chromium or Chrome.")
    subprocess.run(["apt-get", "update"], check=True, capture_output=True)
    subprocess.run(
        ["apt-get", "install", "--yes", "--no-install-recommends", "chromium"],
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        check=True,
        capture_output=True,
    )
    path = find_chromium()
    assert path
    return path


@pytest.fixture
def browser_page(pipeline: Pipeline, chromium: str) -> Iterator[Page]:
    """Yield an empty page; assert afterwards that its console has no error."""
    assert pipeline  # created first: that runs asyncio, which fails while Playwright runs
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--disable-background-networking"])
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        browser.close()
        assert errors == []


def test_dropped_files_are_followed_and_a_button_redrives_a_dead_letter(
    browser_page: Page, pipeline: Pipeline, fix_function: Callable[[], None]
) -> None:
    page = browser_page
    expect.set_options(timeout=TIMEOUT_MS)
    with served(pipeline) as server:
        page.goto(server.url)
        expect(page.locator("#inputs")).to_have_text("0")
        expect(page.locator("#redrive")).to_be_disabled()
        page.evaluate(DROP, {"good.csv": "a,b\n1,2\n", "bad<img src=x>.csv": "x\n"})

        good = page.locator("#files li", has_text="good.csv")
        expect(good.locator("summary")).to_have_text("outputs/good.csv.json (8 bytes, 1 row)")
        good.locator("summary").click()
        expect(good.locator("pre")).to_contain_text('"rows": 1')
        expect(page.locator("#outputs")).to_have_text("1")

        bad = page.locator("#files li", has_text="bad<img src=x>.csv")
        expect(bad.locator(".text")).to_have_text("dead letter: RuntimeError: test failure")
        expect(page.locator("#dead")).to_have_text("1")
        page.locator("#causes summary").click()
        cause = page.locator("#causes ol > li")
        expect(cause.locator("pre")).to_have_text("RuntimeError: test failure")
        expect(cause.locator("ul li")).to_have_text([f"s3://{pipeline.bucket_name}/inputs/bad<img src=x>.csv"])
        fix_function()
        expect(page.locator("#redrive")).to_be_enabled()
        cause.get_by_role("button", name="Redrive cause").click()
        expect(page.locator("#redriven")).to_have_text("1 moved from xFarmDeadLetterSqs back to xFarmMainQueue.")
        expect(bad.locator("summary")).to_contain_text("(2 bytes, 0 rows)")
        for element, text in (("#dead", "0"), ("#inputs", "2"), ("#outputs", "2"), ("#waiting", "0")):
            expect(page.locator(element)).to_have_text(text)
        expect(page.locator("#causes")).to_be_hidden()
        expect(page.locator("#progress")).to_be_hidden()


def test_the_choices_of_a_redrive_are_followed_and_no_text_is_too_wide(browser_page: Page, pipeline: Pipeline) -> None:
    page = browser_page
    expect.set_options(timeout=TIMEOUT_MS)
    long = "a_long_name_" * 40
    for number in range(MANY + 1):
        add_dead_letter(pipeline, f"inputs/{number}/{long}.csv", f"row {number} of {long}")
    add_dead_letter(pipeline, "inputs/שלום\u202e.csv", "[red]\x1b[2J<img src=x>")
    with served(replace(pipeline, alarm_email=f"{long}@example.com")) as server:
        page.goto(server.url)
        page.locator("#causes summary").click()
        causes = page.locator("#causes ol > li")
        expect(causes.locator("h2")).to_contain_text(["11 dead letters", "1 dead letter"])
        expect(causes.first.locator("ul li")).to_contain_text(["inputs/0/", "inputs/1/", "inputs/2/", "and 8 more"])
        expect(causes.last.locator("pre")).to_have_text(r"ValueError: [red]\x1b[2J<img src=x>")
        expect(causes.last.locator("ul li")).to_contain_text([r"inputs/שלום\u202e.csv"])
        page.locator("#options summary").click()
        for width in (1280, 380):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") == width

        expect(page.locator("#trial")).to_be_checked()
        page.locator("#trial").uncheck()
        page.locator("#limit").fill("11")
        page.locator("#rate").fill("2")
        expect(page.locator("#redrive")).to_be_enabled()
        causes.first.get_by_role("button").click()
        expect(page.locator("#progress")).to_be_visible()
        expect(page.locator("#redriven")).to_contain_text(" of 11 moved")
        expect(page.locator("#redrive")).to_be_disabled()
        expect(page.locator("#redriven")).to_have_text("11 moved from xFarmDeadLetterSqs back to xFarmMainQueue.")
        expect(causes.locator("h2")).to_contain_text(["1 dead letter"])  # it is read again
        page.locator("#redrive").click()
        expect(page.locator("#redriven")).to_have_text("1 moved from xFarmDeadLetterSqs back to xFarmMainQueue.")


def test_a_read_only_page_has_no_controls(browser_page: Page, pipeline: Pipeline) -> None:
    add_dead_letter(pipeline, "inputs/a.csv", "broken")
    with served(pipeline, writable=False) as server:
        browser_page.goto(server.url)
        expect(browser_page.locator("#mapping")).to_have_text("Enabled")
        browser_page.locator("#causes summary").click()
        expect(browser_page.locator("#causes pre")).to_have_text("ValueError: broken")
        assert browser_page.locator("button, input, #drop").count() == 0
