// Tables of the class `sortable`: DataTables (from the package itables) sorts and searches them, and columns with few
// different values get a list to choose from. Without JavaScript they are ordinary tables.
{
  const folder = document.currentScript.src.replace(/[^/]*$/, "");
  const root = document.documentElement;

  const followTheme = () => {
    const dark = () => root.classList.toggle("dark", root.dataset.theme === "dark");
    new MutationObserver(dark).observe(root, { attributes: true, attributeFilter: ["data-theme"] });
    dark();
  };

  const load = (tag, attributes) => new Promise((resolve, reject) => {
    const element = Object.assign(document.createElement(tag), attributes, { onload: resolve, onerror: reject });
    document.head.append(element);
  });

  const dataTables = async () => {
    await load("link", { rel: "stylesheet", href: folder + "datatables.css" });
    await load("script", { src: folder + "datatables.js" });
    const url = URL.createObjectURL(new Blob([window.dataTablesSource], { type: "text/javascript" }));
    return (await import(url)).default;
  };

  // A column in which every cell begins with a number, or is empty, is sorted by that number.
  const orderByNumber = (table) => {
    for (let column = 0; column < table.rows[0].cells.length; column++) {
      const cells = [...table.tBodies[0].rows].map((row) => row.cells[column]);
      const numbers = cells.map((cell) => parseFloat(cell.textContent.trim().replace(/,/g, "").replace("−", "-")));
      if (!cells.every((cell, row) => !cell.textContent.trim() || !isNaN(numbers[row])) || numbers.every(isNaN)) continue;
      cells.forEach((cell, row) => { cell.dataset.order = isNaN(numbers[row]) ? -1e99 : numbers[row]; });
    }
  };

  const widenLongColumns = (table) => {
    [...table.rows[0].cells].forEach((head, column) => {
      const cells = [...table.tBodies[0].rows].map((row) => row.cells[column]);
      if (Math.max(...cells.map((cell) => cell.textContent.length)) > 40) cells.forEach((cell) => cell.classList.add("long"));
    });
  };

  const chooser = (column, title) => {
    const values = [...new Set(column.nodes().toArray().map((cell) => cell.textContent.trim()))].filter(Boolean).sort();
    const numeric = column.nodes().toArray().some((cell) => cell.dataset.order !== undefined);
    if (numeric || values.length < 2 || values.length > 14) return null;
    const select = document.createElement("select");
    select.append(new Option(`${title}: all`, ""), ...values.map((value) => new Option(value)));
    select.className = "form-select form-select-sm";
    select.setAttribute("aria-label", title);
    select.addEventListener("change", () => {
      const wanted = select.value;
      column.search.fixed("choice", wanted ? (text) => text.trim() === wanted : null).draw();
    });
    return select;
  };

  const enhance = (DataTable, element) => {
    const many = element.tBodies[0].rows.length >= 12;
    orderByNumber(element);
    widenLongColumns(element);
    const table = new DataTable(element, {
      paging: false, order: [], autoWidth: false, searching: many, info: many,
      layout: { topStart: many ? "search" : null, topEnd: null, bottomStart: many ? "info" : null, bottomEnd: null },
      language: { search: "", searchPlaceholder: "search this table", info: "_TOTAL_ lines", infoFiltered: "of _MAX_" },
    });
    if (!many) return;
    const choosers = document.createElement("div");
    choosers.className = "table-choosers";
    table.columns().every(function () {
      const select = chooser(this, this.header().textContent.trim());
      if (select) choosers.append(select);
    });
    table.table().container().querySelector(".dt-search").append(choosers);
  };

  const start = async () => {
    followTheme();
    const found = document.querySelectorAll("table.sortable");
    if (!found.length) return;
    const DataTable = await dataTables();
    found.forEach((element) => enhance(DataTable, element));
  };

  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", start) : start();
}
