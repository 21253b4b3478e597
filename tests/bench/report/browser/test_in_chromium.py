"""The sample browser in a real browser, from the disk: filters, sorts, follows a link, and complains of nothing."""

import re
from urllib.parse import quote

import pytest

from bench.report.browser import write
from bench.report.browser.samples import read_samples

from ..audit import CHROMIUM, VIEWS, faults, opened

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]


@pytest.fixture(params=["folder", "one page"])
def written(request, tmp_path, scores, dataset):
    samples, methods = read_samples(scores), ["himtok", "argenseg"]
    steps = {"himtok": {samples[0].name: [(1, dataset[0].mask), (2, dataset[0].mask)]}}
    drawn, head = write.draw(samples, methods, lambda *_: dataset, steps), write.head_of("a run", methods, samples)
    whole = request.param == "one page"
    files = {"index.html": write.one_page(head, drawn)} if whole else write.folder_files(head, drawn)
    return write.write_files(tmp_path / "browser", files)


@pytest.fixture
def page(written):
    with opened(written) as found:
        found.address = written.as_uri()
        yield found


@pytest.mark.parametrize("view", VIEWS)
def test_list_and_sample_are_sound_in_every_view(written, view):
    with opened(written, view) as found:
        found.wait_for_function("document.querySelectorAll('.card').length === 4")
        assert faults(found) == []
        found.locator(".card").first.click()
        found.wait_for_function("document.querySelectorAll('.strip figure').length === 2")
        assert faults(found) == []


def names(page):
    return page.locator(".card .text").all_text_contents()


def test_it_filters_sorts_and_follows_links(page):
    hostile = names(page)[2]
    assert len(names(page)) == 4
    assert hostile.startswith("</script><img src=x onerror=")
    page.fill("#query", "TREE left")
    assert names(page) == ["the tall tree to the left"]
    page.click("text=Reset")
    page.wait_for_function("document.querySelectorAll('.card').length === 4")
    page.select_option("#sort", label="IoU of HiMTok, lowest first")
    assert names(page)[0] == "person holding an umbrella"
    page.select_option("#sort", label="HiMTok ahead of ARGenSeg")
    assert names(page)[0] == "red car"
    page.select_option("#state", "failed")
    assert names(page) == ["person holding an umbrella"]
    page.select_option("#state", "")
    page.select_option("#kind", "name")
    assert names(page) == ["red car"]
    page.select_option("#kind", "")
    page.fill("#low", "95")
    assert names(page) == ["red car"]

    page.fill("#low", "0")
    page.select_option("#sort", "")
    page.goto(f"{page.address}#sample={quote('examples/val/per_expression/0/0', safe='')}")
    assert page.text_content("#detail-title") == "red car"
    page.wait_for_function("document.querySelectorAll('.strip figure').length === 2")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('#detail-title').textContent.includes('tree')")
    assert re.search(r"#sample=.*1%2F0$", page.url)
    page.keyboard.press("Escape")
    page.wait_for_function("!document.querySelector('#detail').open")
    assert "#" not in page.url


def test_masks_are_drawn_where_they_are(page):
    page.wait_for_function("document.querySelector('.card canvas').width === 64")
    drawn = "(x) => [...document.querySelector('.card canvas').getContext('2d').getImageData(x, 20, 1, 1).data]"
    assert page.evaluate(drawn, 15)[1] > 150 > page.evaluate(drawn, 15)[0]  # green: the ground truth
    assert page.evaluate(drawn, 40)[:3] == [255, 255, 255]
    assert page.evaluate("document.querySelector('.card img').naturalWidth") == 64


def test_a_link_to_a_sample_that_is_not_there_says_so(page):
    page.goto(f"{page.address}#sample=nowhere%2F%25")
    page.wait_for_function("document.querySelector('#count').textContent.includes('no sample nowhere/%')")
