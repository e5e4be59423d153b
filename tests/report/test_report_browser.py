"""The report in a real browser: on a desk, a phone and paper, by day and night, and in silence."""

import asyncio
import base64

import pytest
from browser import CHROMIUM, browser
from outputs import BEGAN, Writer, course, refused, timeout

from bulkfetch._report.page import page
from bulkfetch._report.story import read_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")

VIEWS = {
    "desktop-light": {"width": 1200},
    "desktop-dark": {"width": 1200, "scheme": "dark"},
    "phone-light": {"width": 390},
    "phone-dark": {"width": 390, "scheme": "dark"},
    "narrow": {"width": 320},
    "print": {"width": 760, "media": "print"},
}
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
FITS = "document.documentElement.scrollWidth <= window.innerWidth"
SMALLEST = """Math.min(...[...document.querySelectorAll('main *')]
    .filter(one => [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim())
        && one.getClientRects().length && !one.closest('svg'))
    .map(one => parseFloat(getComputedStyle(one).fontSize)))"""
SPLIT = """[...document.querySelectorAll('section, header')]
    .filter(one => getComputedStyle(one).breakInside !== 'avoid').map(one => one.className)"""
CUT = """[...document.querySelectorAll('section, header, .tile')]
    .filter(one => one.scrollWidth > one.clientWidth + 1)
    .map(one => one.innerText.slice(0, 90))"""


def report_on(path):
    """Write the page of an output that has something in every section."""
    writer = Writer(path)
    with writer.run("r1", finish=False) as commit:
        for second in range(20):
            commit([course(f"{second}-{'long' * 20}", [("u", "Passed", second)] * 3)])
    with writer.run("r2") as commit:
        commit([course("c", [("u", "An unusually long display string " * 3, None)], seconds=70.0)])
        commit([refused("x" * 60, "Unknown content item " * 20), timeout("t", "<b>" * 90)])
    written = path.with_suffix(".html")
    written.write_text(page(read_report(path, now=BEGAN)))
    return written


async def test_every_view_is_readable_and_silent(tmp_path):
    """No view scrolls sideways or shows tiny text; the console is silent, nothing is asked for."""
    written = report_on(tmp_path / "out.ndjson")
    backgrounds, pictures = {}, {}
    async with browser(tmp_path / "profile") as tab:
        await tab.open(written)
        for name, view in VIEWS.items():
            await tab.look(**view)
            backgrounds[name] = await tab.value(BACKGROUND)
            assert await tab.value(FITS), name
            assert await tab.value(CUT) == [], name
            assert await tab.value(SMALLEST) >= 9, name
            await tab.picture(tmp_path / f"{name}.png", height=600)
            pictures[name] = (tmp_path / f"{name}.png").read_bytes()
        assert tab.said == []
        assert tab.asked == [written.as_uri()]
    assert backgrounds["desktop-light"] == backgrounds["phone-light"] != backgrounds["desktop-dark"]
    assert backgrounds["print"] == "rgb(255, 255, 255)"
    assert len(set(pictures.values())) == len(VIEWS)


async def test_the_policy_stops_what_would_leave_the_page(tmp_path):
    """Even markup that slipped in could load nothing and run nothing: a listener hears no call."""
    written = report_on(tmp_path / "out.ndjson")
    heard = []

    async def hear(_, writer):
        heard.append(1)
        writer.close()

    async with await asyncio.start_server(hear, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        bad = f'<img src="http://127.0.0.1:{port}/"><script>document.title="run"</script></main>'
        html = written.read_text().replace("</main>", bad)
        open_to_all = html.replace("default-src 'none'", "default-src *")
        slipped, control = tmp_path / "slipped.html", tmp_path / "control.html"
        slipped.write_text(html)
        control.write_text(open_to_all.replace("img-src data:", "img-src *"))
        async with browser(tmp_path / "profile") as tab:
            await tab.open(slipped)
            assert len(tab.said) == 2  # one refusal each
            assert await tab.value("document.title") != "run"
            assert heard == []
            await tab.show(control)
            assert heard  # so the listener would have heard


TOPS = """[...document.querySelectorAll('.chart, .failure, .list')]
    .map(one => [one.className, one.getBoundingClientRect().top])"""


async def test_on_a_phone_the_charts_come_first(tmp_path):
    """What can be seen at once stands before what is to be read; long lists of ids are folded."""
    written = report_on(tmp_path / "out.ndjson")
    async with browser(tmp_path / "profile") as tab:
        await tab.open(written)
        await tab.look(width=390)
        tops = await tab.value(TOPS)
        assert await tab.value("document.querySelectorAll('details[open]').length") == 0
    charts = [top for name, top in tops if name.startswith("chart")]
    lists = [top for name, top in tops if not name.startswith("chart")]
    assert charts
    assert lists
    assert max(charts) < min(lists)


async def test_it_prints_to_pdf(tmp_path):
    """The browser's own print gives a few pages, without the settings at their defaults."""
    written = report_on(tmp_path / "out.ndjson")
    async with browser(tmp_path / "profile") as tab:
        await tab.open(written)
        printed = base64.b64decode((await tab.call("Page.printToPDF"))["data"])
        await tab.look(width=760, media="print")
        shown = "document.querySelector('{}').getClientRects().length"
        assert await tab.value(shown.format("section > .settings"))
        assert not await tab.value(shown.format("details .settings"))
        assert await tab.value(SPLIT) == []
    assert printed.startswith(b"%PDF")
    assert 1 <= printed.count(b"/Type /Page\n") <= 8
