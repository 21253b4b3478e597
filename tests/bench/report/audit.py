"""Checks of a page in a real browser, in the spirit of axe: can it be read without eyes, a mouse, or good light?"""

import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VIEWS = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "print": {"viewport": {"width": 1000, "height": 1400}},
}
AUDIT = """() => {
  const found = [], report = (rule, node) => found.push(`${rule}: ${(node.outerHTML || "").slice(0, 120)}`);
  const all = (query) => [...document.querySelectorAll(query)];
  const shown = (node) => node.getClientRects().length > 0 && getComputedStyle(node).visibility === "visible";
  const named = (node) => (node.getAttribute("aria-label") || node.textContent || node.title || "").trim()
    || node.querySelector("img[alt]:not([alt=''])") || all(`label[for='${node.id}']`).length || node.closest("label");

  if (!document.documentElement.lang) report("language", document.documentElement);
  if (!document.title.trim()) report("title", document.head);
  const captioned = (node) => node.closest("figure")?.querySelector("figcaption")?.textContent.trim();
  all("img").filter((node) => !node.alt && !(node.hasAttribute("alt") && captioned(node)))
    .forEach((node) => report("alt text", node));
  all("img").filter((node) => shown(node) && !(node.complete && node.naturalWidth))
    .forEach((node) => report("image is broken", node));
  all("a[href], button, input, select, textarea, summary").filter((node) => shown(node) && !named(node))
    .forEach((node) => report("name", node));
  const ids = all("[id]").map((node) => node.id);
  ids.filter((id, i) => ids.indexOf(id) !== i).forEach((id) => report("id twice", document.getElementById(id)));
  all("a[href^='#']").filter((node) => node.hash.length > 1 && !node.hash.includes("=")
    && !document.getElementById(node.hash.slice(1))).forEach((node) => report("link to nowhere", node));
  const labelled = (node) => document.getElementById(node.getAttribute("aria-labelledby"));
  all("[aria-labelledby]").filter((node) => shown(node) && !labelled(node))
    .forEach((node) => report("label is missing", node));

  if (all("h1").length !== 1) report("one h1", document.body);
  let level = 0;
  all("h1, h2, h3, h4, h5, h6").filter(shown).forEach((node) => {
    if (+node.tagName[1] > level + 1) report("heading order", node);
    level = +node.tagName[1];
  });
  if (all("main").length !== 1) report("one main", document.body);
  [...document.body.children].filter((node) => shown(node)
    && !node.matches("header, nav, main, footer, aside, form[aria-label], dialog, script, style, a.skip"))
    .forEach((node) => report("outside of landmarks", node));
  all("table").filter((node) => !node.querySelector("th[scope]")).forEach((node) => report("table head", node));
  all("*").filter((node) => ["auto", "scroll"].includes(getComputedStyle(node).overflowX) && shown(node)
    && node.scrollWidth > node.clientWidth + 1 && node.tabIndex < 0)
    .forEach((node) => report("scrolls by mouse only", node));
  if (document.documentElement.scrollWidth > innerWidth) report("page scrolls sideways", document.body);

  const colour = (text) => { const p = text.match(/[\\d.]+/g).map(Number); return [p[0], p[1], p[2], p[3] ?? 1]; };
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const behind = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.push(colour(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walk.nextNode(); text; text = walk.nextNode()) {
    const node = text.parentElement, style = getComputedStyle(node);
    if (!text.data.trim() || !shown(node) || node.closest("[aria-hidden=true], script, style, .skip")) continue;
    const below = behind(node), one = light(over(colour(style.color), below)), two = light(below);
    const ratio = (Math.max(one, two) + .05) / (Math.min(one, two) + .05), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && +style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) report(`contrast ${ratio.toFixed(2)}`, node);
  }
  return found;
}"""


@contextmanager
def opened(path, view="desktop"):
    """A page from the disk in one of the views; leaving fails on what the browser complained of."""
    driver = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    wrong = []
    with driver.sync_playwright() as program:
        browser = program.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(**VIEWS[view])
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda shown: (wrong.append("a script of the data ran"), shown.dismiss()))
        if view == "print":
            page.emulate_media(media="print")
        page.goto(path.as_uri())
        yield page
        browser.close()
    assert wrong == []


def faults(page):
    """What is wrong with the page as it is shown; folded parts are opened first."""
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    return page.evaluate(AUDIT)
