"use strict";
// Sorting: the headers of a table are buttons; numbers sort as numbers, and empty cells stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    header.firstElementChild.addEventListener("click", () => {
      const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
      const value = (row) => {
        const text = row.cells[column].textContent.trim();
        const number = parseFloat(text.replace(/,/g, "").replace("−", "-"));
        return [text, header.classList.contains("n") ? number : NaN];
      };
      const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
      rows.sort(([[a, x]], [[b, y]]) => {
        if (!a || !b) return !a - !b;
        return direction * (isNaN(x) || isNaN(y) ? a.localeCompare(b) : x - y);
      });
      table.tBodies[0].append(...rows.map((entry) => entry[1]));
    });
  });
}
// Light, dark, or as the system has it.
const theme = document.getElementById("theme");
theme.addEventListener("click", () => {
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme || (isDark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
});
// On paper, the numbers of plots are shown, but for those of hundreds of points, which would be most of the pages.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details.print")) {
    details.open ||= details.querySelectorAll("tbody tr").length <= 60;
  }
});
