"What a user has set for himself changes neither an executed notebook nor a figure."
import nbformat

from mmreid.pipeline.runner import execute

CELLS = ["import matplotlib.pyplot as plt, pandas as pd", "pd.DataFrame({'a': range(9)})",
         "plt.plot([1, 2]); plt.show()", "'LEAK' in dir()", "1\n2"]
RC = "figure.dpi: 33\nfont.size: 31\nlines.linewidth: 9\n"
SVG = "c.InlineBackend.figure_formats = {'svg'}\nc.InteractiveShell.ast_node_interactivity = 'all'\n"
START = "LEAK = 1\nimport pandas as pd\npd.set_option('display.max_rows', 2)\n"


def users_settings(folder, patch):
    "Settings of every kind, in `folder` and in the environment; `folder / 'here'` is where the notebook runs."
    files = {"ipython/profile_default/startup/a.py": START, "ipython/profile_default/ipython_kernel_config.py": SVG,
             "jupyter/jupyter_config.py": SVG, "jupyter/ipython_kernel_config.py": SVG, "start.py": START,
             "config/matplotlib/matplotlibrc": RC, "rc": RC, "here/matplotlibrc": RC,
             "here/ipython_kernel_config.py": SVG, "here/ipython_config.py": SVG}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    places = {"IPYTHONDIR": "ipython", "JUPYTER_CONFIG_DIR": "jupyter", "JUPYTER_CONFIG_PATH": "jupyter",
              "PYTHONSTARTUP": "start.py", "MATPLOTLIBRC": "rc", "XDG_CONFIG_HOME": "config"}
    for name, place in places.items(): patch.setenv(name, str(folder / place))
    patch.setenv("MPLBACKEND", "agg")


def executed(folder):
    "What the cells of a notebook show that ran in `folder`."
    folder.mkdir(exist_ok=True)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    nbformat.write(notebook, folder / "x.ipynb")
    done = execute(notebook, None, folder / "done.ipynb", folder)
    return [out.get("data", out.get("text")) for cell in done.cells if cell.cell_type == "code" for out in cell.outputs]


def test_an_executed_notebook_is_the_same(tmp_path, monkeypatch):
    plain = executed(tmp_path / "plain")
    assert len(plain) == 4 and "image/png" in plain[1] and plain[2]["text/plain"] == "False"
    users_settings(tmp_path, monkeypatch)
    assert executed(tmp_path / "here") == plain
