"The site: built from a copy of what git has, then read as files and in a browser that has no network to rely on."
import hashlib
import os
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from conftest import copy_of_the_tree, run
from test_style import FUNCTIONS, complaints, long_lines, long_modules

pytest.importorskip("sphinx", reason="the extra `site` is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LEDGER = "results/quick/claims.html"
WAIT = 120_000      # milliseconds until a page is there, on a machine that does much else


def contents(folder):
    "{path: hash} of the files below a folder."
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    "A copy of what git has, as in a clean clone."
    return copy_of_the_tree(tmp_path_factory.mktemp("clone") / "tree")


@pytest.fixture(scope="module")
def site(tree):
    "The built site; the sources were not touched, and Sphinx had nothing to warn of."
    before = contents(tree / "nbs")
    done = run(sys.executable, "docs/build.py", root=tree)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stdout + done.stderr
    assert contents(tree / "nbs") == before
    return tree / "_site"


@pytest.fixture(scope="module")
def html(site):
    "{path below the site: text} of every page."
    files = [path.relative_to(site) for path in sorted(site.rglob("*.html"))]
    return {str(path): (site / path).read_text() for path in files if path.parts[0] != "_static"}


def linked(text):
    "The targets of all links, images, scripts and styles of a page."
    return [unquote(target.replace("&amp;", "&")) for target in re.findall(r'\b(?:href|src)="([^"]*)"', text)]


def broken(site, html):
    "The links of all pages that lead to no file, or to no place in it."
    places = {page: set(re.findall(r'\b(?:id|name)="([^"]*)"', text)) for page, text in html.items()}
    found = []
    for page, text in html.items():
        for target in linked(text):
            if re.match(r"(https?|mailto|data):", target): continue
            path, _, place = target.partition("#")
            path = os.path.normpath(Path(page).parent / path.partition("?")[0]) if path else page
            if not (site / path).exists() or (place and path in places and place not in places[path]):
                found.append((page, target))
    return found


def test_no_link_is_broken(site, html): assert broken(site, html) == []


def test_broken_links_are_noticed(tmp_path):
    "The test of the test."
    for page in ("a.html", "d.html"): (tmp_path / page).write_text("")
    text = '<p id="x"><a href="a.html"><a href="#x"><a href="b.html"><img src="c.png"><a href="a.html#y">'
    found = broken(tmp_path, {"a.html": "", "d.html": text})
    assert found == [("d.html", "b.html"), ("d.html", "c.png"), ("d.html", "a.html#y")]


def test_nothing_is_loaded_from_elsewhere(html):
    tags = re.compile(r'<(?:script|img|link|iframe|source|video)\b[^>]*(?:src|href)="(?:https?:)?//[^"]*"')
    assert {page: found for page, text in html.items() if (found := tags.findall(text))} == {}


def test_the_site_is_small(site):
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 60e6


def test_every_notebook_and_module_has_a_page(tree, html):
    notebooks = [*(tree / "nbs").glob("[0-9]*/*.ipynb"), *(tree / "nbs/stages").glob("*.ipynb")]
    modules = [path for path in (tree / "mmreid").rglob("*.py") if not path.stem.startswith("_")]
    expected = {str(path.relative_to(tree).with_suffix(".html")) for path in notebooks}
    expected |= {f"api/{'.'.join(path.relative_to(tree).with_suffix('').parts)}.html" for path in modules}
    assert len(notebooks) > 80 and len(modules) > 60 and expected - html.keys() == set()


def test_cells_are_shown_as_marked(html):
    "Directives are not shown, hidden cells are folded, and of cells without echo only outputs are left."
    assert [page for page, text in html.items() if 'class="c1">#|' in text] == []
    assert [page for page, text in html.items() if re.search(r"<p>\s*\|", text)] == []      # tables became tables
    page = html["nbs/3_method/02_attention.html"]
    folded = re.findall(r"<details.*?</details>", page, re.DOTALL)
    assert any("itertools" in text for text in folded) and not any("ModalAttention" in text for text in folded)


def test_rendered_data_are_labelled(html):
    assert [page for page, text in html.items() if "rendered people" not in text] == []
    assert all("<strong>rendered people</strong>" in html[page] for page in ("results/quick/index.html", LEDGER))


def test_without_a_run_the_stages_say_so(html):
    assert "This site was built without them" in html["nbs/stages/index.html"]


def test_lessons_are_shown_without_answers(html):
    lessons = {page: text for page, text in html.items() if page.startswith("nbs/course/0")}
    assert len(lessons) == 9 and lessons.pop("nbs/course/00_lecturer.html")      # which explains nbgrader's marks
    assert [page for page, text in lessons.items() if "BEGIN" in text or "HIDDEN" in text] == []
    assert all("your answer" in text for text in lessons.values())


def test_a_run_a_study_and_a_course_are_picked_up(tree, tmp_path):
    "Pages are laid out only, which needs no Sphinx."
    tree = shutil.copytree(tree, tmp_path / "tree", ignore=shutil.ignore_patterns("_site", "build", "[1-8]_*"))
    (tree / "nbs/1_ranking").mkdir()
    shutil.copy(tree / "nbs/stages/pack.ipynb", tree / "nbs/1_ranking/01_metrics.ipynb")
    study = tree / "results/quick/study"
    shutil.rmtree(study, ignore_errors=True)
    shutil.copytree(tree / "results/quick", study)
    shutil.copytree(study / "tables", study / "table-2")
    cells = [nbformat.v4.new_markdown_cell("# Stage: pack\n\n[Metrics](../1_ranking/01_metrics.ipynb), "
                                           "[parameters](../../params.yaml)")]
    for path in ("results/quick/notebooks/pack-rendered.ipynb", "nbs/course/01_first.ipynb"):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tree / path)
    code = "import sys; sys.path.insert(0, 'docs'); import build; build.lay_out('.', sys.argv[1])"
    done = run(sys.executable, "-c", code, str(tmp_path / "laid"), root=tree)
    assert done.returncode == 0, done.stderr
    laid = {name: (tmp_path / "laid" / name).read_text() for name in
            ("index.md", "start.md", "nbs/stages/index.md", "nbs/course/index.md",
             "results/index.md", "results/quick/study/claims.md", "results/quick/study/index.md",
             "results/quick/notebooks/pack-rendered.ipynb")}
    assert "nbs/course/index" in laid["index.md"] and "The course" in laid["start.md"]
    assert "pack-rendered" in laid["nbs/stages/index.md"] and "01_first" in laid["nbs/course/index.md"]
    assert "/results/quick/study/claims.md" in laid["results/index.md"]
    assert laid["results/quick/study/index.md"].count(":class: sortable") > 15
    executed = laid["results/quick/notebooks/pack-rendered.ipynb"]
    assert "# pack-rendered" in executed and "(../../../nbs/1_ranking/01_metrics.ipynb)" in executed
    assert "(../../../params.yaml)" in executed and (tmp_path / "laid/params.yaml").exists()


def test_the_builder_is_short():
    assert long_lines("docs") == [] and complaints(*FUNCTIONS, "docs") == []
    assert long_modules(Path(__file__).parents[1] / "docs") == {}


@pytest.fixture(scope="module")
def browser():
    "A Chromium without a window."
    if CHROMIUM is None: pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


DRAWN = "() => [...document.querySelectorAll('.math')].every(math => math.querySelector('mjx-container'))"


class Watched:
    "A page of a browser that keeps what went wrong: console errors, failed requests, requests that leave the machine."
    def __init__(self, browser, **settings):
        self.page, self.faults = browser.new_page(**settings), []
        self.page.set_default_timeout(WAIT)
        self.page.on("console", lambda message: message.type == "error" and self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("requestfailed", lambda request: self.faults.append(f"failed: {request.url}"))
        self.page.on("request", self.requested)

    def requested(self, request):
        if not request.url.startswith(("file:", "data:", "blob:")): self.faults.append(f"left: {request.url}")

    def open(self, file, query=""):
        self.page.goto(f"{file.as_uri()}{query}")
        self.page.wait_for_function(DRAWN)
        return self.page


LOOK = """() => ({
  images: [...document.images].filter(image => !image.complete || !image.naturalWidth).map(image => image.src),
  errors: document.querySelectorAll("mjx-merror").length,
  width: document.documentElement.scrollWidth})"""


def test_every_page_opens(site, html, browser):
    "Images are there, formulas are drawn, nothing is wider than the screen of a computer or of a telephone."
    desktop, phone = ({"width": width, "height": 844} for width in (1280, 390))
    watched, found = Watched(browser, viewport=desktop), {}
    for name in html:
        watched.faults.clear()
        watched.page.set_viewport_size(desktop)
        page = watched.open(site / name)
        looked = page.evaluate(LOOK)
        page.set_viewport_size(phone)
        looked["phone"] = page.evaluate("document.documentElement.scrollWidth")
        if watched.faults or looked != {"images": [], "errors": 0, "width": 1280, "phone": 390}:
            found[name] = [*watched.faults, looked]
    watched.page.close()
    assert found == {}


def test_faults_of_a_page_are_noticed(tmp_path, browser):
    "The test of the test: an image that is missing, an error, a request to elsewhere."
    (tmp_path / "a.html").write_text('<img src="none.png"><script>throw Error("oh")</script>'
                                     '<img src="http://localhost:9/x.png"><p style="width: 5000px">wide')
    watched = Watched(browser, viewport={"width": 1280, "height": 844})
    looked = watched.open(tmp_path / "a.html").evaluate(LOOK)
    assert len(looked["images"]) == 2 and looked["width"] > 1280
    assert all(any(word in fault for fault in watched.faults) for word in ("oh", "left: http", "none.png"))
    watched.page.close()


def test_search_finds_a_word(site, browser):
    watched = Watched(browser)
    page = watched.open(site / "index.html")
    page.click(".search-button__button >> visible=true")
    page.fill("dialog input[type=search]", "triplet")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a >> text=The joint loss")      # results come one after the other
    assert not watched.faults
    page.close()


def test_tables_sort_and_filter(site, browser):
    watched = Watched(browser, viewport={"width": 1280, "height": 844})
    page = watched.open(site / LEDGER)
    page.wait_for_selector(".dt-search input")         # the table is ready, its handlers too
    column = lambda name: page.evaluate(
        """name => { const table = document.querySelector("table.dataTable");
        const place = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent.trim() === name);
        return [...table.tBodies[0].rows].map(row => row.cells[place].textContent.trim()); }""", name)
    every = column("stated")
    page.click("table.dataTable th >> text=stated")
    page.wait_for_selector("table.dataTable th[aria-sort=ascending] >> text=stated")
    numbers = [float(text.replace(",", "")) for text in column("stated") if text]
    assert len(every) > 50 and numbers == sorted(numbers) and column("stated") != every
    page.select_option("select[aria-label=kind]", "ordering")
    assert set(column("kind")) == {"ordering"} and len(column("kind")) < len(every)
    page.fill(".dt-search input", "no such word")
    page.wait_for_selector("td.dt-empty")
    assert not watched.faults
    page.close()


def test_the_dark_is_dark(site, browser):
    colours = {}
    for scheme in ("light", "dark"):
        page = Watched(browser, color_scheme=scheme).open(site / LEDGER)
        page.wait_for_selector("table.dataTable")
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        colours[scheme] = sum(map(int, re.findall(r"\d+", colour)[:3]))
        page.close()
    assert colours["light"] > 700 and colours["dark"] < 200
