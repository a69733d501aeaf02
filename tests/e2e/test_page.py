"""The page in a real browser: what it shows, by mouse and by keyboard, in both themes, on a phone, and where it must not reach."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.synthetic.talk import SETTINGS, talk
from tests.stack import ADMIN_TOKEN, Stack, eventually, free_port

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="Debian's chromium is not installed: apt-get install chromium")
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
VIEWS = ("live", "play", "verdicts", "path", "rules", "probes", "health", "incident/0")
RULES = """
include: [default]
rules:
- {rule: arousal_up, desc: Arousal is up., when: arousal.mean(8) > 0.8, until: arousal.mean(8) < 0.2, for: 4 tokens, do: alert, mode: armed}
- {rule: arousal_stop, desc: Arousal is far up., when: arousal.ewma(8) > 0.5, for: 2 tokens, do: halt, mode: shadow, severity: critical}
- {rule: panic_stop, desc: Panic is as far up as it never gets., accept_unproven: [panic], when: panic.last > 11.9, do: halt, mode: shadow}
"""
# What lies on the canvas: how many colours, transparent ones aside.
COLOURS = """canvas => {
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height), found = new Set();
  for (let i = 0; i < data.length; i += 4) if (data[i + 3]) found.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
  return found.size;
}"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = {**SETTINGS, "sidecar": {"page": {"texts": 64}}}
    with Stack(tmp_path_factory.mktemp("page"), settings, RULES, engine=False) as running, talk(running, 8):
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield running
        running.close()


class Visit:
    """One tab on the page of a stack. At its end nothing may have been wrong, and nothing may have left for another origin."""

    def __init__(self, browser: Any, stack: Stack, **about: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **about})
        self.page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.wrong: list[str] = []
        self.base = stack.admin("")
        self.page.on("console", lambda message: self.wrong.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on(
            "request", lambda request: None if request.url.startswith(f"{self.base}/") else self.wrong.append(f"left for {request.url}")
        )

    def open(self, view: str = "live") -> Any:
        self.page.goto(f"{self.base}/page#{view}")
        self.page.locator("#link[data-state=ok]").wait_for()
        return self.page

    def give(self, token: str = ADMIN_TOKEN) -> None:
        self.page.get_by_role("button", name="Token", exact=True).click()
        self.page.get_by_label("Bearer token").fill(token)
        self.page.get_by_role("button", name="Use it").click()
        self.page.locator("#person", has_text="admin, admin").wait_for()


@pytest.fixture
def visit(browser: Any, stack: Stack) -> Iterator[Visit]:
    made = Visit(browser, stack)
    yield made
    made.context.close()
    assert made.wrong == []


def until(page: Any, script: str, about: Any = None) -> None:
    """The page's own policy lets nobody wait by a script inside it."""
    eventually(lambda: page.evaluate(script, about), script)


def settle(page: Any, view: str) -> None:
    """Wait until a view has something to show."""
    wanted = {
        "live": ".row canvas", "play": "textarea", "verdicts": "tbody tr", "path": "figure canvas", "rules": ".rule", "probes": "article", "health": ".tile", "incident": ".plot canvas",
    }  # fmt: skip
    page.locator(f"main {wanted[view.split('/')[0]]}").first.wait_for()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_on_any_view(browser: Any, stack: Stack, theme: str) -> None:
    visit = Visit(browser, stack, color_scheme=theme)
    axe = (resources.files("axe_playwright_python") / "axe.min.js").read_text()
    page = visit.open()
    until(page, "document.querySelectorAll('.prose span, .tokens canvas').length")
    page.evaluate(f"{axe}; null")
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    for view in VIEWS:
        page.evaluate("view => { location.hash = view }", view)
        settle(page, view)
        if view == "play":
            page.get_by_label("Message").fill("Hello.")
            page.get_by_role("button", name="Send").click()
            page.get_by_text("Streaming.").wait_for()
            page.locator(".turn .reading").first.wait_for()
        page.wait_for_timeout(250)
        found = page.evaluate("axe.run()")
        assert [(each["id"], each["nodes"][0]["html"][:200], each["nodes"][0]["failureSummary"]) for each in found["violations"]] == [], (
            view
        )
        assert len(found["passes"]) > 15
    page.get_by_role("button", name="Token", exact=True).click()
    assert page.evaluate("axe.run()")["violations"] == []
    visit.context.close()
    assert visit.wrong == []


def test_a_phone_shows_every_view_without_scrolling_sideways(browser: Any, stack: Stack) -> None:
    visit = Visit(browser, stack, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    page = visit.open()
    for view in VIEWS:
        page.evaluate("view => { location.hash = view }", view)
        settle(page, view)
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, view
    visit.context.close()
    assert visit.wrong == []


def test_the_heatmap_fills_while_streams_run(visit: Visit) -> None:
    page = visit.open()
    page.locator(".row").nth(5).wait_for()
    until(page, f"Math.max(...[...document.querySelectorAll('.row canvas')].map({COLOURS})) >= 3")
    before = page.locator("main .bar").inner_text()
    assert "running" in before
    tokens = page.locator(".row .count").first
    until(page, "([node, text]) => node.textContent !== text", [tokens.element_handle(), tokens.inner_text()])
    page.locator(".readout .reading").nth(6).wait_for()
    until(page, f"({COLOURS})(document.querySelector('.tokens canvas')) >= 3")
    box = page.locator(".tokens canvas").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.get_by_role("heading", name="Token 0", exact=True).wait_for()
    assert "texts" in page.locator(".hint, main").last.inner_text().lower()


def test_the_way_by_keyboard(visit: Visit) -> None:
    page = visit.open()
    page.locator(".row").nth(3).wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.get_by_role("listbox", name="Streams").focus()
    page.keyboard.press("End")
    chosen = page.locator(".row[aria-selected=true]")
    chosen.wait_for()
    last = chosen.get_attribute("aria-label")
    page.keyboard.press("Home")
    eventually(lambda: chosen.get_attribute("aria-label").split(",")[0] != last.split(",")[0], "another row is chosen")
    slider = page.get_by_role("slider", name=chosen.get_attribute("aria-label").split(",")[0])
    slider.wait_for()  # the stream is there
    until(page, "Number(document.querySelector('.tokens input').max) > 5")
    slider.focus()
    page.keyboard.press("Home")
    page.get_by_role("heading", name="Token 0", exact=True).wait_for()
    page.keyboard.press("ArrowRight")
    page.get_by_role("heading", name="Token 1", exact=True).wait_for()
    assert slider.get_attribute("aria-valuetext").startswith("token 1: desperation ")


def test_an_incident_is_replayed(visit: Visit) -> None:
    page = visit.open("verdicts")
    page.get_by_label("Rule", exact=True).select_option("arousal_up")
    page.get_by_label("Mode", exact=True).select_option("armed")
    until(page, "[...document.querySelectorAll('tbody tr')].every(row => row.textContent.includes('arousal_up'))")
    page.locator("tbody a").first.click()
    page.get_by_role("heading", name="arousal_up", level=1).wait_for()
    assert page.evaluate(COLOURS, page.locator(".plot canvas").element_handle()) >= 4
    assert "alert, armed at token" in page.locator(".plot canvas").get_attribute("aria-label")
    page.get_by_role("button", name="To the first token").click()
    page.get_by_role("heading", name="Token 0", exact=True).wait_for()
    page.get_by_role("button", name="Play", exact=True).press("Enter")
    until(page, "Number(document.querySelector('.tokens input').value) >= 3")
    page.get_by_role("button", name="Pause").press("Enter")
    stood = page.locator(".player .num").inner_text()
    page.wait_for_timeout(300)
    assert page.locator(".player .num").inner_text() == stood
    page.get_by_role("button", name="To the verdict").click()
    page.locator(".readout", has_text="arousal_up fires").wait_for()


def test_a_rule_is_armed_and_put_in_shadow_with_a_reason(visit: Visit, stack: Stack) -> None:
    page = visit.open("rules")
    switch = page.get_by_role("switch", name="panic_stop armed")
    switch.click()
    page.get_by_label("Bearer token").fill(ADMIN_TOKEN)  # looking on, a token is asked for first
    page.keyboard.press("Enter")
    page.get_by_label("Reason").fill(" ")
    page.get_by_role("button", name="Arm", exact=True).click()
    assert page.locator("#ask").is_visible()
    page.get_by_label("Reason").fill("replayed on a week of traffic")
    page.get_by_role("button", name="Arm", exact=True).click()
    page.get_by_role("switch", name="panic_stop armed", checked=True).wait_for()
    assert {rule["rule"]: rule["mode"] for rule in httpx.get(stack.admin("/rules")).json()["rules"]}["panic_stop"] == "armed"
    page.locator(".rule", has_text="panic_stop").get_by_role("button", name="As in its file").click()
    page.get_by_label("Reason").fill("the file knows")
    page.keyboard.press("Enter")
    page.get_by_role("switch", name="panic_stop armed", checked=False).wait_for()
    page.get_by_role("switch", name="hostility_rising armed").press("Space")
    page.get_by_label("Reason").fill("too loud")
    page.keyboard.press("Enter")
    page.get_by_role("switch", name="hostility_rising armed", checked=False).wait_for()
    given = [(each["verb"], each["reason"], each["issuer"]) for each in stack.ledger("command") if each["about"] == "rule"]
    assert given[-3:] == [
        ("arm", "replayed on a week of traffic", "admin"),
        ("release", "the file knows", "admin"),
        ("disarm", "too loud", "admin"),
    ]
    assert page.evaluate("JSON.stringify(localStorage)") == "{}"


def test_the_playground_shades_a_reply_as_it_streams(visit: Visit) -> None:
    page = visit.open("play")
    page.get_by_label("Message").fill("Hello.")
    page.get_by_label("Tokens", exact=True).fill("40")
    page.get_by_role("button", name="Send").click()
    page.locator(".turn .prose span").nth(3).wait_for(state="attached")
    assert page.get_by_role("button", name="Stop").is_enabled()
    page.get_by_text("The reply ended: 40 tokens").wait_for()
    assert page.locator(".turn .prose span").count() >= 30
    assert page.locator(".turn .prose span[class*=s]").count() >= 30
    assert page.locator(".turn .reading").count() == 7
    page.get_by_label("Message").fill("Again.")
    page.get_by_label("Tokens", exact=True).fill("1000")
    page.get_by_role("button", name="Send").click()
    page.locator(".turn").nth(1).wait_for()
    page.locator(".turn").first.locator(".prose span").nth(3).wait_for(state="attached")
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped by you.").wait_for()


def test_the_path_of_a_conversation(visit: Visit) -> None:
    page = visit.open("path")
    page.locator("figure canvas").wait_for()
    assert page.get_by_label("Conversation or stream").input_value() in page.locator("main [role=status]").inner_text()
    assert page.locator("main tbody tr").count() >= 1
    until(page, f"({COLOURS})(document.querySelector('figure canvas')) >= 5")
    assert "mean valence" in page.locator("figure canvas").get_attribute("aria-label")


def test_texts_are_for_those_who_have_a_token(visit: Visit) -> None:
    page = visit.open()
    page.locator(".readout .reading").first.wait_for()
    assert page.locator(".prose span").count() == 0
    page.get_by_text("Texts are for operators and auditors").wait_for()
    visit.give()
    page.locator(".row").nth(1).click()
    page.locator(".prose span").nth(5).wait_for(state="attached")
    page.reload()
    page.locator("#person", has_text="admin").wait_for()


def test_an_address_that_others_reach_asks_for_the_token_first(browser: Any, tmp_path: Path) -> None:
    port = free_port()
    waiting = Stack(tmp_path, {"sidecar": {"admin": f"0.0.0.0:{port}"}}, engine=False)
    waiting.ports["admin"] = port
    with waiting as stack:
        visit = Visit(browser, stack)
        page = visit.page
        page.goto(stack.admin("/"))
        page.get_by_label("Bearer token").fill("wrong")
        page.get_by_role("button", name="Use it").click()
        page.locator("#ask-wrong", has_text="expected the bearer token").wait_for()
        page.get_by_label("Bearer token").fill(ADMIN_TOKEN)
        page.get_by_role("button", name="Use it").click()
        page.locator("#person", has_text="admin, admin").wait_for()
        page.get_by_text("No stream has been judged yet").wait_for()
        stack.stop("sidecar")
        page.locator("#link", has_text="not connected").wait_for()
        stack.start("sidecar")
        page.locator("#link[data-state=ok]").wait_for()
        visit.context.close()
        assert all("401" in each or "ERR_" in each for each in visit.wrong), visit.wrong
