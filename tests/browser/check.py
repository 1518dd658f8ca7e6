#!/usr/bin/env python3
"""Opens the demo page in a real browser and checks what a visitor can see and do.

    python3 -m venv VENV && VENV/bin/pip install -r tests/browser/requirements.txt
    VENV/bin/python tests/browser/check.py http://127.0.0.1:7777/ --screenshot-dir DIR

The browser is the system's Chromium (Debian: apt-get install chromium), from --chromium, $CHROMIUM or PATH. Every
check waits for a fact under a deadline. All failures are printed; the exit status is 0 when there is none, 1 when there
is one, 2 when the browser is missing or the arguments are wrong.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
import time
from urllib.parse import urlsplit

from playwright.sync_api import Error, Page, sync_playwright

PERIOD_MS = 2000
HISTORY = 40
MARKUP = "<img src=x onerror=\"document.title='broken'\"><b>bold</b>"

# What a lane shows, as data: its dots from old to new, its legend, its words.
LANE = """id => {
    const lane = document.getElementById(id);
    const look = dot => ({
        letter: dot.textContent, title: dot.title, server: dot.dataset.server ?? null,
        failed: dot.classList.contains("failed"), colour: getComputedStyle(dot).backgroundColor,
    });
    return {
        dots: [...lane.querySelectorAll(".tape .dot:not(.empty)")].map(look),
        legend: [...lane.querySelectorAll(".legend li")].map(item => ({
            dot: look(item.querySelector(".dot")),
            who: item.querySelector(".who").textContent,
            count: parseInt(item.querySelector(".count").textContent, 10),
        })),
        name: lane.querySelector("[data-part=name]").textContent,
        verdict: lane.querySelector("[data-part=verdict]").textContent,
        summary: lane.querySelector(".tape").getAttribute("aria-label"),
    };
}"""

# Contrast (WCAG 2) of every visible text against what is painted behind it, and of dots against their card.
CONTRAST = """() => {
    const parse = text => {
        const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
        return [r, g, b, a];
    };
    const over = ([r, g, b, a], below) => [r, g, b].map((c, i) => c * a + below[i] * (1 - a));
    const painted = element => {
        const layers = [];
        for (let e = element; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
        return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
    };
    const luminance = rgb => {
        const [r, g, b] = rgb.map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ratio = (one, other) => {
        const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    const found = [];
    for (const element of document.querySelectorAll("body *")) {
        const style = getComputedStyle(element);
        const text = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join("");
        if (!text || !element.checkVisibility() || element.closest(".unseen, noscript")) continue;
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight, 10) >= 700);
        const behind = painted(element);
        found.push([text.slice(0, 30), ratio(over(parse(style.color), behind), behind), large ? 3 : 4.5]);
    }
    for (const dot of document.querySelectorAll(".legend .dot:not(.failed)")) {
        found.push([`dot ${dot.textContent}`, ratio(painted(dot), painted(dot.parentElement)), 3]);
    }
    for (let n = 0; n < 8; n += 1) { // the palette's colours that no server has yet
        const dot = document.createElement("span");
        dot.className = `dot c${n}`;
        document.querySelector(".card").append(dot);
        const behind = painted(dot);
        found.push([`letter on c${n}`, ratio(parse(getComputedStyle(dot).color).slice(0, 3), behind), 4.5]);
        found.push([`c${n} on card`, ratio(behind, painted(dot.parentElement)), 3]);
        dot.remove();
    }
    return found;
}"""

# Names and structure, by the rules a screen reader lives by. Gives a list of faults.
STRUCTURE = """() => {
    const faults = [];
    const need = (fact, text) => { if (!fact) faults.push(text); };
    need(document.documentElement.lang, "html has no lang");
    need(document.title.trim(), "the page has no title");
    const levels = [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].map(h => Number(h.tagName[1]));
    need(levels.filter(level => level === 1).length === 1, "there is not exactly one h1");
    need(levels[0] === 1 && levels.every((level, i) => i === 0 || level <= levels[i - 1] + 1), `heading levels ${levels}`);
    for (const image of document.images) need(image.hasAttribute("alt"), `image without alt: ${image.src}`);
    const named = e => e.getAttribute("aria-label") ?? (e.getAttribute("aria-labelledby") ?? "").split(/\\s+/)
        .map(id => document.getElementById(id)?.textContent ?? "").join("");
    for (const e of document.querySelectorAll("a, button, input, select, textarea, summary, [tabindex]"))
        need((e.textContent + named(e)).trim(), `no name: ${e.outerHTML}`);
    for (const e of document.querySelectorAll("section, [role=img]")) need(named(e).trim(), `no label: ${e.outerHTML}`);
    const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
    need(new Set(ids).size === ids.length, "an id is there twice");
    for (const e of document.querySelectorAll("button")) {
        const { width, height } = e.getBoundingClientRect();
        need(width >= 44 && height >= 44, `button of ${width} by ${height}`);
    }
    need(!document.querySelector("[style]"), "inline style");
    return faults;
}"""


class Checks:
    """Runs checks one after the other and remembers which failed."""

    def __init__(self):
        self.failed = []

    def that(self, fact, claim, detail=""):
        if fact:
            print(f"ok      {claim}", flush=True)
        else:
            self.failed.append(claim)
            print(f"FAILED  {claim}{': ' if detail else ''}{detail}", flush=True)
        return bool(fact)


def eventually(read, holds, deadline_s):
    """Reads until `holds`, or the deadline. Gives what was read last, and whether it held."""
    end = time.monotonic() + deadline_s
    while True:
        value = read()
        if holds(value):
            return value, True
        if time.monotonic() > end:
            return value, False
        time.sleep(0.05)


def lane(page: Page, which):
    return page.evaluate(LANE, which)


def rounds(page: Page):
    """How many rounds the page has shown."""
    return sum(entry["count"] for entry in lane(page, "dynamic")["legend"])


def advance(page: Page, count, deadline_s):
    """Lets the page's clock run for `count` periods, waiting for the answers of each."""
    for _ in range(count):
        before = rounds(page)
        page.clock.run_for(PERIOD_MS)
        _, shown = eventually(lambda: rounds(page), lambda now: now > before, deadline_s)
        if not shown:
            raise Error(f"no new dot within {deadline_s} s after {PERIOD_MS} ms of the page's time")


def shorten(value):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 600 else text[:600] + "…"


def check_live(check, browser, args):
    """The page as a visitor gets it, in real time."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints, asked, foreign = [], [], []
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def note(request):
        if request.url.endswith("/api/student"):
            asked.append(time.monotonic())
        if urlsplit(request.url)[:2] != urlsplit(args.url)[:2]:
            foreign.append(request.url)

    page.on("request", note)
    response = page.goto(args.url, timeout=args.deadline * 1000)
    check.that(response.status == 200, "the page answers 200", f"status {response.status}")
    headers = response.headers
    check.that("default-src 'self'" in headers.get("content-security-policy", ""), "a Content-Security-Policy is sent", headers)
    check.that(headers.get("cache-control") == "no-store", "the page may not be cached", headers)

    students, shown = eventually(lambda: page.locator("#students li").all_inner_texts(), bool, args.deadline)
    check.that(shown and len(students) <= 8, "students are shown", shorten(students))

    enough = lambda seen: all(len(one["dots"]) >= args.dots for one in seen)
    both = lambda: (lane(page, "static"), lane(page, "dynamic"))
    (static, dynamic), shown = eventually(both, enough, args.deadline)
    check.that(shown, f"{args.dots} dots a row within {args.deadline} s", shorten([static, dynamic]))
    check.that(not any(dot["failed"] for dot in static["dots"] + dynamic["dots"]), "no answer failed", shorten([static, dynamic]))

    gaps = [later - earlier for earlier, later in zip(asked, asked[1:])]
    check.that(gaps and all(1.8 < gap < 3.0 for gap in gaps), "the API is asked every two seconds", shorten(gaps))

    for row, name, least, most in (
        (static, "static", args.static, args.static), (dynamic, "dynamic", args.dynamic, None)):
        servers = {dot["server"] for dot in row["dots"]}
        claim = f"{name}: {'exactly' if most else 'at least'} {least} server(s)"
        check.that(least <= len(servers) <= (most or len(servers)), claim, shorten(sorted(servers, key=str)))
        looks = {(dot["server"], dot["letter"], dot["colour"]) for dot in row["dots"]}
        distinct = len({look[1] for look in looks}) == len({look[2] for look in looks}) == len(servers) == len(looks)
        check.that(distinct or len(servers) > 8, f"{name}: each server has a letter and a colour of its own", shorten(sorted(looks)))
        check.that(all(dot["server"] in dot["title"] for dot in row["dots"]), f"{name}: each dot's title names the server")
        check.that({entry["who"] for entry in row["legend"]} == servers, f"{name}: the legend names all", shorten(row["legend"]))
        counted = {entry["who"]: entry["count"] for entry in row["legend"]}
        dots = {server: sum(dot["server"] == server for dot in row["dots"]) for server in servers}
        check.that(len(row["dots"]) == HISTORY or counted == dots, f"{name}: the legend's counts are the dots'", shorten([counted, dots]))
        check.that(row["name"] == row["dots"][-1]["server"], f"{name}: the server named is the last that answered", row["name"])
        check.that(all(server in row["summary"] for server in servers), f"{name}: the row's label tells it in words", row["summary"])
    if args.dynamic > 1:
        servers = [dot["server"] for dot in dynamic["dots"]]
        turns = sum(one != other for one, other in zip(servers, servers[1:]))
        check.that(turns >= (len(servers) - 1) // 2, "dynamic: the servers take turns", shorten(servers))
    check.that(not complaints, "the console has no error and no warning", shorten(complaints))
    check.that(not foreign, "nothing is asked of another origin", shorten(foreign))
    page.close()


def check_keyboard(check, browser, args):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.clock.install()
    page.goto(args.url)
    eventually(lambda: rounds(page), bool, args.deadline)
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "pause":
            break
    focus = page.evaluate("""() => {
        const style = getComputedStyle(document.activeElement);
        return [document.activeElement.id, style.outlineStyle, parseFloat(style.outlineWidth)];
    }""")
    check.that(focus[0] == "pause" and focus[1] != "none" and focus[2] >= 2, "Tab reaches the button, and it shows", focus)

    button = page.get_by_role("button")
    page.keyboard.press("Enter")
    check.that(button.inner_text() == "Resume" and page.locator("#state").inner_text() == "Paused", "Enter pauses", button.inner_text())
    check.that(page.get_by_role("status").inner_text() == "Paused.", "the pause is spoken")
    # A round that had begun may still end; from then on nothing is asked.
    asked = []
    page.wait_for_load_state("networkidle")
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(5 * PERIOD_MS)
    check.that(not asked, "nothing is asked while paused", shorten(asked))

    before = rounds(page)
    page.keyboard.press("Space")
    now, resumed = eventually(lambda: rounds(page), lambda now: now > before, args.deadline)
    check.that(resumed and button.inner_text() == "Pause", "Space goes on, at once", f"{before} rounds before, {now} now")
    try:
        advance(page, 2, args.deadline)
        check.that(True, "and keeps the beat")
    except Error as error:
        check.that(False, "and keeps the beat", str(error))
    page.close()


def check_faults(check, browser, args):
    """Answers that no server of ours would give: nothing breaks, everything is shown as text."""
    page = browser.new_page(viewport={"width": 360, "height": 800}, reduced_motion="reduce")
    broken = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.clock.install()
    fine = {"X-Server": "good:1", "Content-Type": "application/json"}
    student = {"id": MARKUP, "first_name": MARKUP, "last_name": "x" * 300, "birth_year": {}, "subject": [MARKUP]}
    answers = [  # what the API answers, and what the page then says
        (dict(headers=fine, body="[]"), "good:1"),
        (dict(status=502, body="<h1>bad gateway</h1>"), "502 Bad Gateway"),
        (dict(status=503, headers=fine, body="[]"), "503 Service Unavailable"),
        (dict(headers=fine, body="<html>"), "The answer is not JSON"),
        (dict(headers=fine, body='{"students":[]}'), "The answer is not a list"),
        (dict(headers={"Content-Type": "application/json"}, body="[]"), "An answer without X-Server"),
        (None, "No connection"),
        (dict(headers=fine, body='[null, 1, "two", [], {}, {"first_name": null}]'), "good:1"),
        (dict(headers={**fine, "X-Server": MARKUP + "y" * 200}, body=json.dumps([student])), MARKUP + "y" * 200),
    ]
    turn = iter(answers)
    expected = []

    def answer(route):
        fields, text = next(turn)
        expected.append(text)
        route.abort() if fields is None else route.fulfill(**fields)

    page.route("**/api/student", answer)
    page.goto(args.url)
    for n in range(len(answers)):
        if n:
            page.clock.run_for(PERIOD_MS)
        eventually(lambda: rounds(page), lambda now: now > n, args.deadline)
        row = lane(page, "dynamic")
        good = row["name"] == expected[-1] and len(expected) == n + 1 and row["dots"][-1]["failed"] == (row["dots"][-1]["server"] is None)
        check.that(good, f"shown as text: {answers[n][1][:40]}", shorten([row["name"], expected]))
    row = lane(page, "dynamic")
    crosses = [dot for dot in row["dots"] if dot["failed"]]
    check.that(len(crosses) == 6 and all(dot["letter"] == "×" for dot in crosses), "six failures, six crosses", shorten(crosses))
    markup = page.evaluate("document.querySelectorAll('main b, main img').length")
    check.that(not markup and "demo" in page.title(), "markup in an answer stays text", f"{markup} elements, title {page.title()}")
    wide = page.evaluate("document.documentElement.scrollWidth")
    check.that(wide <= 360, "long names do not widen a narrow page", f"{wide} px")
    check.that(not lane(page, "static")["dots"][-1]["failed"], "the static row is not troubled by it")
    check.that(not broken, "no exception", shorten(broken))

    page.unroute("**/api/student")
    # The demo API can be told to take its time: longer than the page waits.
    page.route("**/api/student", lambda route: route.continue_(url=route.request.url + "?delay_ms=10000"))
    before = rounds(page)
    page.clock.run_for(PERIOD_MS)
    _, shown = eventually(lambda: rounds(page), lambda now: now > before, args.deadline)
    name = lane(page, "dynamic")["name"]
    check.that(shown and name.startswith("No answer within"), "an answer that takes too long is a failure", name)
    spoken = page.get_by_role("status").inner_text()
    check.that("No answer within" in spoken, "the trouble is spoken", spoken)
    check.that(page.locator("#stale").is_visible(), "and the list that stays is called old")
    low = [entry for entry in page.evaluate(CONTRAST) if entry[1] < entry[2]]
    check.that(not low, "enough contrast in trouble, too", shorten(low))
    if args.screenshot_dir:
        page.screenshot(path=args.screenshot_dir / "faults-narrow.png", full_page=True)
    page.unroute("**/api/student")

    # The round before may still be under way, with its answer that is late.
    def fine_again():
        page.clock.run_for(PERIOD_MS)
        return not lane(page, "dynamic")["dots"][-1]["failed"] and not page.locator("#stale").is_visible()

    _, fine = eventually(fine_again, bool, args.deadline)
    check.that(fine, "and the page recovers")
    page.close()


def check_looks(check, browser, args):
    """Contrast, structure and fit in every dress the page has, each with a full history."""
    for scheme, name, width in (("light", "wide", 1280), ("dark", "wide", 1280), ("light", "medium", 760),
                                ("light", "narrow", 360), ("dark", "narrow", 360)):
        dress = f"{scheme}-{name}"
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
        page.clock.install()
        page.goto(args.url)
        eventually(lambda: rounds(page), bool, args.deadline)
        advance(page, HISTORY + 2, args.deadline)

        low = [entry for entry in page.evaluate(CONTRAST) if entry[1] < entry[2]]
        check.that(not low, f"{dress}: every text and every dot has enough contrast", shorten(low))
        faults = page.evaluate(STRUCTURE)
        check.that(not faults, f"{dress}: names, headings and structure", shorten(faults))
        scroll = page.evaluate("document.documentElement.scrollWidth")
        check.that(scroll <= width, f"{dress}: nothing is wider than the window", f"{scroll} px")
        moving = page.evaluate("document.getAnimations().length")
        check.that(moving == 0, f"{dress}: nothing moves where less motion is wanted", f"{moving} animations")
        dots = len(lane(page, "static")["dots"])
        check.that(dots == HISTORY, f"{dress}: the history holds {HISTORY} dots", f"{dots}")
        page.wait_for_load_state("networkidle")
        height = page.evaluate("document.getElementById('students').getBoundingClientRect().top")
        advance(page, 4, args.deadline)
        later = page.evaluate("document.getElementById('students').getBoundingClientRect().top")
        check.that(height == later, f"{dress}: new answers move nothing", f"{height} px, then {later} px")
        if dress == "light-wide":
            for role, count in (("banner", 1), ("main", 1), ("heading", 4), ("status", 1), ("button", 1), ("region", 3)):
                found = page.get_by_role(role).count()
                check.that(found == count, f"the browser sees {count} {role}", f"{found}")
            tapes = page.get_by_role("img", name="Last 40 answers").count()
            check.that(tapes == 2, "the browser sees the two rows as images with words", f"{tapes}")
        if args.screenshot_dir:
            # After a round in real time, because a clock that was pushed on shows durations nobody waited for.
            before = rounds(page)
            eventually(lambda: rounds(page), lambda now: now > before, args.deadline)
            page.screenshot(path=args.screenshot_dir / f"{dress}.png", full_page=True)
        page.close()


def arguments():
    parser = argparse.ArgumentParser(description="Checks the demo page in a real browser.")
    parser.add_argument("url", help="where the page is, such as http://127.0.0.1:7777/")
    parser.add_argument("--screenshot-dir", type=pathlib.Path, metavar="DIR", help="write pictures of the page there")
    parser.add_argument("--static", type=int, default=1, metavar="N", help="static servers this browser reaches (1: sticky)")
    parser.add_argument("--dynamic", type=int, default=2, metavar="N", help="least number of dynamic servers (2)")
    parser.add_argument("--dots", type=int, default=6, metavar="N", help="dots to wait for in real time (6)")
    parser.add_argument("--deadline", type=float, default=30, metavar="SECONDS", help="longest wait for one fact (30)")
    parser.add_argument("--chromium", default=os.environ.get("CHROMIUM") or shutil.which("chromium"), metavar="PATH")
    args = parser.parse_args()
    if not args.chromium:
        parser.error("no chromium in PATH; install it (Debian: apt-get install chromium) or give --chromium")
    if args.screenshot_dir:
        args.screenshot_dir.mkdir(parents=True, exist_ok=True)
    return args


def main():
    args = arguments()
    check = Checks()
    with sync_playwright() as playwright:
        try:
            # Root, as in most containers, has no sandbox; the page is our own.
            browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        except Error as error:
            print(f"check.py: starting {args.chromium}: {error}", file=sys.stderr)
            return 2
        for part in (check_live, check_keyboard, check_faults, check_looks):
            try:
                part(check, browser, args)
            except Error as error:
                check.that(False, f"{part.__name__} ran to its end", str(error))
        browser.close()
    if check.failed:
        print(f"check.py: {len(check.failed)} failed: {'; '.join(check.failed)}", file=sys.stderr)
        return 1
    print("check.py: all well")
    return 0


if __name__ == "__main__":
    sys.exit(main())
