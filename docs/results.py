"The pages of results: figures, tables and the ledger of claims of each profile, and what was measured beside them."
import csv
import re
from pathlib import Path

from pages import captions, toctree

LEDGER = {"says": "the paper says", "verdict": "verdict", "stated": "stated", "measured": "measured",
          "metric": "metric", "kind": "kind", "where": "where", "dataset": "dataset", "variant": "row", "note": "note",
          "command": "command", "claim": "claim"}       # column of the file: its head
CODE = ("variant", "command", "claim")


def number(text):
    "A number of a CSV file with four digits, or more before the point; any other text as it is."
    try: value = float(text)
    except ValueError: return text
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def sortable(header, rows):
    "A Markdown table that can be sorted and filtered in a browser, and is an ordinary table elsewhere."
    line = lambda cells: "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
    return "\n".join(["```{table}", ":class: sortable", "", line(header), line(["---"] * len(header)),
                      *map(line, rows), "```"]) + "\n"


def read_csv(path):
    "The rows of a CSV file as dictionaries."
    with open(path, newline="") as file: return list(csv.DictReader(file))


def csv_table(path):
    "A whole CSV file as a sortable table."
    rows = read_csv(path)
    return sortable(list(rows[0]), [[number(cell) for cell in row.values()] for row in rows]) if rows else "Empty.\n"


def markdown_table(path):
    "A table that a stage saved as Markdown, sortable; any other text as it is."
    lines = path.read_text().strip().splitlines()
    if not lines or not all(line.startswith("|") for line in lines): return path.read_text()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return sortable(cells[0], [[cell.replace("\\|", "|") for cell in row] for row in cells[2:]])


def ledger_table(path):
    "The ledger `claims.csv`, with the interval beside what was measured."
    def cell(row, column):
        text = number(row[column])
        if column == "measured" and row["low"]: text += f" [{number(row['low'])}, {number(row['high'])}]"
        return f"`{text}`" if text and column in CODE else text
    return sortable(LEDGER.values(), [[cell(row, column) for column in LEDGER] for row in read_csv(path)])


def found_folders(root):
    "The folders with results, as paths below `root`: each profile, and its study where that was run."
    folders = sorted(p.parent.relative_to(root) for p in Path(root, "results").glob("*/claims.csv"))
    return [f for folder in folders for f in (folder, folder / "study") if Path(root, f, "claims.csv").exists()]


def measured_on(root, folder):
    "A note that names the data, the profile and the number of training runs behind a folder of results."
    rows = read_csv(Path(root, folder, "metrics.csv"))
    data = sorted({row["dataset"] for row in rows})
    runs = len({row["seed"] for row in rows} - {"all", "none", ""})
    people = "rendered people" if data == ["rendered"] else ", ".join(data).replace("rendered", "rendered people")
    number_of_runs = "one training run" if runs == 1 else f"{runs} training runs"
    return (f":::{{note}}\nData: **{people}**, profile `{folder.parts[1]}`; {number_of_runs} of each row. "
            "Brackets are 95 % intervals.\n"
            "Levels on other data cannot be compared with the paper's, only the order of rows.\n:::\n")


def title_of(folder):
    "The title of a folder of results."
    return f"Profile {folder.parts[1]}" + (", the study" if folder.name == "study" else "")


def caption_of(name, words):
    "[title, sentence] of a figure or table by its file's name; a name that begins with a dataset may lack that part."
    for key in (name, name.partition("-")[2]):
        if key in words: return words[key]
    return [name.replace("-", " ").replace("_", " ").capitalize(), ""]


def folder_page(root, folder):
    "Figures and tables of one folder of results."
    words, text = captions(root), [f"# {title_of(folder)}\n", measured_on(root, folder)]
    text.append("[The ledger of the paper's claims](claims.md) is a page of its own.\n\n## Figures\n")
    figures = [*sorted(Path(root, folder, "figures").glob("*.png")), *sorted(Path(root, folder).glob("table-2/*.png"))]
    for figure in sorted(figures, key=lambda path: place(path.stem, words["figures"])):
        title, sentence = caption_of(figure.stem, words["figures"])
        text.append(f"### {title}\n\n![{title}]({figure.relative_to(Path(root, folder))})\n\n{sentence}\n")
    text.append("## Tables\n")
    tables = [*sorted(Path(root, folder, "tables").glob("*.md")), *sorted(Path(root, folder).glob("table-2/*.md"))]
    for table in sorted(tables, key=lambda path: place(path.stem, words["tables"])):
        if table.stem == "claims": continue
        title, sentence = caption_of(table.stem, words["tables"])
        text.append(f"### {title}\n\n{sentence}\n\n{markdown_table(table)}")
    files = [f for f in sorted(Path(root, folder).rglob("*.csv")) if is_shown(f, Path(root, folder))]
    text.append("## Files\n\n" + "\n".join(f"- [{f.name}]({f.relative_to(Path(root, folder))})" for f in files))
    return "\n".join(text) + "\n"


def is_shown(file, folder):
    "Whether a CSV file is one of the results that git has, and not the ledger, which has its page."
    parts = file.relative_to(folder).parts
    return file.name not in ("claims.csv", "curves.csv") and (len(parts) == 1 or parts[0] in ("tables", "table-2"))


def place(name, words):
    "The position of a figure or table on its page: in the order of the captions, then by name."
    keys = list(words)
    return next((keys.index(key) for key in (name, name.partition("-")[2]) if key in words), len(keys)), name


def result_pages(root):
    "[(page, text)] of all results."
    lists, folders, found = Path(root, "docs/lists"), found_folders(root), []
    for folder in folders:
        found.append((f"{folder}/index.md", folder_page(root, folder) + "\n" + toctree(["claims"])))
        text = (lists / "ledger.md").read_text()
        text = f"# The ledger of the paper's claims: {title_of(folder).lower()}\n\n{measured_on(root, folder)}\n{text}"
        found.append((f"{folder}/claims.md", f"{text}\n{ledger_table(Path(root, folder, 'claims.csv'))}"))
    tables = {name: csv_table(Path(root, "results", f"{name}.csv")) for name in ("benchmarks", "trials")}
    text = (lists / "benchmarks.md").read_text()
    for name, table in tables.items(): text = text.replace(f"<!-- {name} -->", table)
    found.append(("results/benchmarks.md", text))
    links = [f"- [{title_of(f)}](/{f}/index.md), and [its ledger](/{f}/claims.md)" for f in folders]
    entries = [*(str(Path(*folder.parts[1:], "index")) for folder in folders), "benchmarks"]
    text = (lists / "results.md").read_text().replace("<!-- profiles -->", "\n".join(links))
    found.append(("results/index.md", text + "\n" + toctree(entries)))
    return found
