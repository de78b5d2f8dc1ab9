"""`python docs/build.py [folder]`: the site, without a network and without running a notebook.

Sources are copied to `build/site`, or to the folder given by `--work`, and only read where they lie. A copy has the
same path there as in the repository. Sphinx reads the copies and writes the folder, by default `_site`."""
import argparse
import json
import shutil
import sys
from importlib.metadata import distribution
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pages
import results
from notebooks import copied, with_links, write_notebook

ROOT = Path(__file__).parents[1]
OURS = ("conf.py", "pages.py", "static", "templates")     # what Sphinx needs besides pages
DOWNLOADS = ("nbs/references.bib", "results/benchmarks.csv", "results/trials.csv")
MATHJAX = ("tex-chtml-full.js", "output/chtml/fonts")


def write(site, page, text):
    "Write a page below the folder `site`."
    path = Path(site, page)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def packaged(package, part):
    "The path of a file or folder `part` of an installed package."
    files = distribution(package).files
    return next(Path(file.locate()) for file in files if str(file).endswith(part))


def copy_scripts(static):
    "Formulas (MathJax) and tables (DataTables) from their packages into the site's folder of static files."
    mathjax = packaged("sphinx-mathjax-offline", MATHJAX[0]).parent
    for part in MATHJAX:
        source, target = mathjax / part, Path(static, "mathjax", part)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)
    bundle = packaged("itables", "html/dt_bundle.js")
    shutil.copy2(bundle.with_suffix(".css"), Path(static, "datatables.css"))
    # A browser refuses modules from a folder of files, so the module is a string of an ordinary script.
    Path(static, "datatables.js").write_text(f"window.dataTablesSource = {json.dumps(bundle.read_text())};\n")


def copy_texts(root, site):
    "The texts of `docs` and of the repository's root."
    course = pages.course_notebooks(root)
    for file in sorted(Path(root, "docs").glob("*.md")):
        text = file.read_text().replace("<!-- course -->", pages.course_line(course))
        write(site, file.name, with_links(text, file.name, root, site))
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        write(site, name, with_links(Path(root, name).read_text(), name, root, site))
    front = with_links(Path(root, "README.md").read_text(), "README.md", root, site)
    write(site, "index.md", front + pages.front_navigation(course))


def lay_out(root, site):
    "All sources of the site as Sphinx reads them, in the new folder `site`."
    Path(site).mkdir(parents=True)
    for name in OURS:
        source = Path(root, "docs", name)
        if source.is_dir(): shutil.copytree(source, Path(site, name))
        else: shutil.copy2(source, site)
    copy_scripts(Path(site, "static"))
    for page, text in pages.api_pages(root): write(site, page, text)
    for page in pages.every_notebook(root): write_notebook(page, root, site)
    for page, text in pages.notebook_lists(root): write(site, page, text)
    for page, text in results.result_pages(root): write(site, page, with_links(text, page, root, site))
    ledgers = [f"{folder}/claims.csv" for folder in results.found_folders(root)]
    for path in (*DOWNLOADS, *ledgers): copied(path, root, site)
    copy_texts(root, site)


def build(out, work, root=ROOT, jobs=2):
    """Build the site into the folder `out`, which is replaced; `work` holds the copies and is made anew.

    Returns Sphinx's exit status."""
    from sphinx.cmd.build import build_main
    shutil.rmtree(work, ignore_errors=True)
    lay_out(root, Path(work, "source"))
    sys.path.insert(0, str(root))       # the reference shows the library of this folder
    words = ["-b", "html", "-q", "-j", str(jobs), "-d", f"{work}/doctrees", f"{work}/source", f"{work}/html"]
    status = build_main(words)
    if status: return status
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(Path(work, "html"), out)
    return 0


def main():
    "The command line."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", default=ROOT / "_site", help="where the site goes, by default _site")
    parser.add_argument("--work", default=ROOT / "build/site", help="where sources are copied to")
    options = parser.parse_args()
    status = build(options.out, options.work)
    if not status: print(f"open {Path(options.out) / 'index.html'}")
    return status


if __name__ == "__main__": sys.exit(main())
