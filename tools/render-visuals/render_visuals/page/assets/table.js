"use strict";
// The table: only the rows in sight are elements, so that any number of latents scrolls.
saetools.table = (function () {
  const { page, rows, notes } = saetools;
  const { el, number, percent } = saetools.elements;
  const HEIGHT = 28;
  let box, body, head, columns, chosen = null, drawn = "";

  function start() {
    box = document.getElementById("table");
    body = document.getElementById("table-body");
    head = document.getElementById("table-head");
    columns = [{ name: "latent", title: "latent", hint: "number of the latent" }, ...ordered(page.about.columns)];
    box.style.setProperty("--columns", columns.map(width).join(" "));
    head.style.gridTemplateColumns = "var(--columns)";
    head.replaceChildren(...columns.map((column) =>
      el("span", { role: "columnheader", "data-name": column.name },
        el("button", { type: "button", class: column.text ? "text" : null, title: `${column.hint}; click to sort`, onclick: () => sort(column) }, column.title))));
    box.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
    new ResizeObserver(() => draw(true)).observe(box);
    body.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) location.hash = `latent=${row.dataset.latent}`;
    });
    document.addEventListener("rows", () => {
      box.scrollTop = 0;
      refresh();
    });
    const search = document.getElementById("search");
    let waits;
    search.addEventListener("input", () => {
      clearTimeout(waits);
      waits = setTimeout(() => rows.update({ query: search.value }), 60);
    });
  }

  // The most telling columns first: names, then AP and R, then frequency and the rest.
  function ordered(all) {
    const rank = (c) => (["trait", "class", "best_class"].includes(c.name) ? 0 : /^(ap|gain)/.test(c.name) ? 1 : /^r(_|$)/.test(c.name) ? 2 : 3);
    return all.map((c, i) => [rank(c), i, c]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, , c]) => c);
  }

  function width(column) {
    if (column.name === "latent") return "76px";
    return column.text ? "minmax(210px, 1fr)" : column.name === "frequency" ? "98px" : "82px";
  }

  function sort(column) {
    const { state } = rows;
    const again = state.sort === column.name;
    rows.update({ sort: column.name, descending: again ? !state.descending : !column.text && column.name !== "latent" });
  }

  function refresh() {
    const { state } = rows;
    for (const cell of head.children) {
      if (cell.dataset.name === state.sort) cell.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
      const title = columns.find((column) => column.name === cell.dataset.name).title;
      cell.firstChild.textContent = cell.dataset.name === state.sort ? `${title} ${state.descending ? "↓" : "↑"}` : title;
    }
    const all = page.about.n_latents.toLocaleString("en");
    const unknown = state.unknown.length ? `; there is no column for ${state.unknown.join(", ")}` : "";
    document.getElementById("count").textContent = `${state.order.length.toLocaleString("en")} of ${all} latents${unknown}`;
    body.style.height = `${state.order.length * HEIGHT}px`;
    box.setAttribute("aria-rowcount", state.order.length);
    draw(true);
  }

  function draw(anyway) {
    const { order } = rows.state;
    const sight = Math.ceil(box.clientHeight / HEIGHT);
    const first = Math.max(0, Math.floor(box.scrollTop / HEIGHT) - 8), last = Math.min(order.length, first + sight + 16);
    const now = `${first}-${last}`;
    if (anyway !== true && now === drawn) return;
    drawn = now;
    const made = [];
    for (let i = first; i < last; i++) made.push(row(order[i], i));
    body.replaceChildren(...made);
  }

  function row(latent, i) {
    const cells = columns.map((column) => {
      const value = rows.value(column.name, latent);
      const noted = column.name === "latent" && notes.of(latent) ? "noted" : "";
      const shown = column.name === "latent" ? String(latent) : column.text ? value : column.name === "frequency" ? percent(value) : number(value);
      return el("span", { role: "gridcell", class: column.text ? "text" : noted || null, title: column.text ? value : null }, shown);
    });
    return el("div", {
      class: "row", role: "row", "data-latent": latent, "aria-rowindex": i + 1, "aria-selected": String(latent === chosen),
      style: `top:${i * HEIGHT}px;grid-template-columns:var(--columns)`,
    }, cells);
  }

  // Marks a latent and brings its row into sight.
  function select(latent) {
    chosen = latent;
    const i = latent === null ? -1 : rows.state.order.indexOf(latent);
    const above = i * HEIGHT, room = box.clientHeight - head.offsetHeight;
    if (i >= 0 && (above < box.scrollTop || above + HEIGHT > box.scrollTop + room)) {
      box.scrollTop = Math.max(0, above - room / 2);
    }
    draw();
    for (const row of body.children) row.setAttribute("aria-selected", String(Number(row.dataset.latent) === latent));
    saetools.scatter.draw();
  }

  // The latent `by` rows below the chosen one.
  function step(by) {
    const { order } = rows.state;
    if (!order.length) return;
    const i = chosen === null ? -1 : order.indexOf(chosen);
    const next = i < 0 ? (by > 0 ? 0 : order.length - 1) : Math.min(Math.max(i + by, 0), order.length - 1);
    location.hash = `latent=${order[next]}`;
  }

  return { start, refresh, select, step, selected: () => chosen };
})();
