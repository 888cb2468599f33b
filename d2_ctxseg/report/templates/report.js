// A click on a column's header sorts its table. The page is complete without it.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  headers.forEach((header, column) => {
    if (!header.textContent) return;
    const button = document.createElement("button");
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const cellOf = (row) => row.cells[column];
      const rows = [...body.rows];
      const numeric = rows.some((row) => "value" in cellOf(row).dataset);
      const before = header.getAttribute("aria-sort");
      const ascending = before ? before === "descending" : !numeric;
      const value = (row) => parseFloat(cellOf(row).dataset.value);
      rows.sort((a, b) => {
        const sign = ascending ? 1 : -1;
        if (!numeric) return sign * cellOf(a).textContent.localeCompare(cellOf(b).textContent);
        // What has no value stays at the end.
        if (isNaN(value(a)) || isNaN(value(b))) return isNaN(value(a)) - isNaN(value(b));
        return sign * (value(a) - value(b));
      });
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      body.append(...rows);
    });
  });
}
