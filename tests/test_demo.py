"The demo: what its search finds, what it refuses, and its page in a browser that asks no other machine for anything."
import http.client
import io
import re
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import psutil
import pytest
from conftest import ROOT, environment, run
from PIL import Image

from mmreid.core import InputError
from mmreid.course.people import lesson_people
from mmreid.gallery.demo import PeopleSearch, in_words, query_of, query_figure, searched_people
from mmreid.gallery.demo_page import Page, application
from mmreid.report.figures import png_bytes
from mmreid.training.shipped import shipped_network

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MMREID = [sys.executable, "-c", "import sys; from mmreid.app import main; sys.exit(main())"]
WAIT = 300_000      # milliseconds until a page is there, on a machine that does much else


@pytest.fixture(scope="module")
def gallery(): return PeopleSearch(*shipped_network(), searched_people(lesson_people, "no/such/folder"))


def stored(size, mode="RGB"):
    "The bytes of a PNG file."
    buffer = io.BytesIO()
    Image.new(mode, size, 90).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_dark_query_needs_more_than_colour(gallery):
    "Of one dark query of each person, more find their person first with all modalities than with colour alone."
    table = gallery.people.table
    dark = table[table.scenario == "low_light"].drop_duplicates("identity").index
    first = lambda chosen: np.mean([gallery.search(query_of(gallery.people, row), chosen, 1).right[0] for row in dark])
    assert len(dark) == 32 and first(("rgb", "ir", "depth")) > first(("rgb",)) + .2


def test_the_figure_is_the_search(gallery):
    "Another subset, another picture; the same search, the same bytes."
    people = gallery.people
    draw = lambda chosen: png_bytes(query_figure(gallery.search(query_of(people, 0), chosen), people, data="rendered"))
    one = draw(("rgb",))
    assert one == draw(("rgb",)) != draw(("rgb", "ir"))
    assert in_words(gallery.search(query_of(people, 0), ("ir",)), people).count("Rank") == 6


FAULTS = {"text": (b"no image", "is no image"), "nothing": (b"", "is no image"),
          "half a file": (stored((50, 100))[:50], "is no image"), "landscape": (stored((300, 200)), "cut out one"),
          "a line": (stored((4, 400)), "cut out one"), "16 bits": (stored((50, 100), "I;16"), "8 bits")}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_searched_with_is_one_sentence(gallery, name):
    content, words = FAULTS[name]
    page = Page(gallery)
    page.take("ir", [{"name": "<b>.png", "content": memoryview(content)}])
    shown = page.message.value
    assert words in shown and "&lt;b&gt;.png" in shown and shown.count(".<") == 1
    assert page.shown.layout.display == "none"
    page.back.click()
    assert page.message.value == "" and page.shown.layout.display is None


def test_damaged_people_are_one_sentence(tmp_path):
    (tmp_path / "packed.json").write_text("{")
    box = application(lambda: (*shipped_network(), searched_people(lesson_people, tmp_path)))
    assert "packed.json: not JSON" in box.value
    with pytest.raises(InputError): searched_people(lesson_people, tmp_path)


def test_a_taken_port_is_refused():
    with socket.create_server(("localhost", 0)) as taken:
        done = run(*MMREID, "demo", "--no-browser", "--port", str(taken.getsockname()[1]), root=ROOT)
    assert done.returncode == 2
    assert re.match(r"error: port \d+ cannot be used .* choose another with --port", done.stderr)


@pytest.fixture(scope="module")
def server():
    "(address of the demo, its process)."
    pytest.importorskip("voila", reason="the extra `demo` is not installed")
    with socket.create_server(("localhost", 0)) as free: port = free.getsockname()[1]
    words = [*MMREID, "demo", "--no-browser", "--port", str(port)]
    running = subprocess.Popen(words, cwd=ROOT, env=environment(ROOT), stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout.readline() == f"http://localhost:{port} is open; Ctrl-C ends it\n"
        yield f"http://localhost:{port}", running
    finally:
        running.send_signal(signal.SIGINT)
        try: running.wait(60)
        except subprocess.TimeoutExpired: running.kill()
    assert running.returncode == 0


@pytest.fixture(scope="module")
def opened(server):
    "(page of a browser in which the demo is there, what went wrong, the page's answer)."
    if CHROMIUM is None: pytest.skip("no Chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra `site` is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, faults = browser.new_page(viewport={"width": 1280, "height": 900}), []
        inside = (server[0], "ws" + server[0].removeprefix("http"), "data:", "blob:")
        watch = lambda url: url.startswith(inside) or faults.append(f"left: {url}")
        page.on("console", lambda message: message.type == "error" and faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
        page.on("request", lambda request: watch(request.url))
        page.on("websocket", lambda socket: watch(socket.url))
        answer = page.goto(server[0], timeout=WAIT)
        page.locator(".rank img").nth(5).wait_for(timeout=WAIT)      # cards come one after the other
        yield page, faults, answer
        browser.close()


def ranking(page): return page.eval_on_selector_all(".rank", "cards => cards.map(card => card.innerText)")


def test_the_page_searches(opened):
    "It opens with a ranking, which changes with the modalities; a ranked person becomes the next query."
    page, faults, _ = opened
    before = ranking(page)
    assert len(before) == 6 and all(re.match(r"[1-6] [✓✗]\s+-?\d\.\d\d\s+person", card) for card in before)
    page.get_by_label("rgb", exact=True).first.uncheck()
    page.wait_for_selector("img[alt='query, rgb, not used']", timeout=WAIT)      # comes after the ranking
    after = ranking(page)
    assert after != before
    page.get_by_text("Search with this image").nth(5).click()
    who = re.search("person .*", after[5]).group()
    page.wait_for_selector(f"h3:has-text('Query: {who}')", timeout=WAIT)
    assert faults == []


def test_the_page_refuses_in_a_sentence(opened):
    page, faults, _ = opened
    with page.expect_file_chooser() as chooser: page.get_by_text("own ir").click()
    chooser.value.set_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"})
    page.wait_for_selector("[role=alert]:has-text('notes.txt is no image')", timeout=WAIT)
    page.wait_for_selector(".rank img", state="hidden", timeout=WAIT)
    assert "Traceback" not in page.inner_text("body")
    page.get_by_text("Back to the people").click()
    page.wait_for_selector(".rank img", timeout=WAIT)
    assert faults == []


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits(opened, width):
    "No image is broken, nothing is wider than the screen of a computer or of a telephone."
    page, faults, _ = opened
    page.set_viewport_size({"width": width, "height": 900})
    inside = """[...document.querySelectorAll("body, .demo, .demo *")].every(
        part => part.getBoundingClientRect().right <= innerWidth + 1)"""
    page.wait_for_function(inside, timeout=WAIT / 10)
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth)") and faults == []


def test_only_this_machine_is_answered(server, opened):
    "A page from elsewhere that gives its own name this machine's address gets nothing."
    port = int(server[0].rpartition(":")[2])
    def status(host):
        connection = http.client.HTTPConnection("localhost", port, timeout=60)
        connection.request("GET", "/", headers={"Host": host})
        return connection.getresponse().status
    assert status("example.org") == status(f"example.org:{port}") == 403 and opened[2].status == 200


def test_nothing_leaves_the_machine(server, opened):
    "The page names no other machine, the browser may ask none, and server and kernel listen on this one alone."
    page, _, answer = opened
    assert re.findall(r'(?:src|href)="(?:https?:)?//[^"]*', answer.text()) == []
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    with page.expect_console_message(lambda message: "Content Security Policy" in message.text):
        assert page.evaluate("fetch('http://192.0.2.1/').then(() => 'came back', () => 'refused')") == "refused"
    own = psutil.Process(server[1].pid)
    listening = {connection.laddr.ip for process in (own, *own.children(recursive=True))
                 for connection in process.net_connections("inet") if connection.status == psutil.CONN_LISTEN}
    assert listening and listening <= {"127.0.0.1", "::1"}
