"use strict";
// The table: only the rows in sight are elements, so that any number of latents scrolls.
saetools.table = (function () {
  const { page, rows, notes, search } = saetools;
  const { el } = saetools.elements;
  const STORED = "saetools-columns"; // the columns that are left out, in this browser, for every page
  const narrow = matchMedia("(max-width: 900px)");
  const drawn = new Map(); // place in the order -> its row
  let box, body, head, every, columns, left, chosen = null, high, order = null;

  function start() {
    [box, body, head] = ["table", "table-body", "table-head"].map((id) => document.getElementById(id));
    every = [
      { name: "latent", title: "latent", hint: "number of the latent" },
      { name: "tops", title: "top images", hint: "the images of its largest maxima, cut out around the patch of the maximum", pictures: true },
      ...ordered(page.about.columns),
    ];
    left = new Set(remembered());
    layOut();
    box.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
    new ResizeObserver(() => draw()).observe(box);
    narrow.addEventListener("change", () => { layOut(); refresh(); });
    body.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row && !event.target.closest("a")) location.hash = `latent=${row.dataset.latent}`;
    });
    document.addEventListener("rows", () => {
      box.scrollTop = 0;
      refresh();
    });
    const field = document.getElementById("search");
    let waits;
    field.addEventListener("input", () => {
      clearTimeout(waits);
      waits = setTimeout(() => rows.update({ query: field.value }), 60);
    });
    document.getElementById("clear").addEventListener("click", () => {
      field.value = "";
      rows.clear();
      field.focus();
    });
    chooser();
  }

  // The most telling columns first: names, then AP and R, then frequency and the rest.
  function ordered(all) {
    const rank = (c) => (["trait", "class", "best_class"].includes(c.name) ? 0 : /^(ap|gain)/.test(c.name) ? 1 : /^r(_|$)/.test(c.name) ? 2 : 3);
    return all.map((c, i) => [rank(c), i, c]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, , c]) => c);
  }

  const thumbsEach = () => (narrow.matches ? 3 : 4);

  // In pixels; words take what is left.
  function width(column) {
    if (column.pictures) return thumbsEach() * (high - 2) + 12;
    if (column.name === "latent") return narrow.matches ? 64 : 76;
    return column.text ? (narrow.matches ? 150 : 180) : column.name === "frequency" ? 98 : 82;
  }

  // The head and the widths, for the columns that are chosen.
  function layOut() {
    columns = every.filter((column) => !left.has(column.name));
    const pictures = columns.some((column) => column.pictures);
    high = narrow.matches ? 46 : pictures ? 40 : 28;
    box.style.setProperty("--columns", columns.map((c) => (c.text ? `minmax(${width(c)}px, 1fr)` : `${width(c)}px`)).join(" "));
    box.style.setProperty("--wide", `${columns.reduce((sum, column) => sum + width(column), 0)}px`);
    box.style.setProperty("--high", `${high}px`);
    head.replaceChildren(...columns.map((column) => el("span", { role: "columnheader", "data-name": column.name },
      column.pictures ? el("span", { class: "text", title: column.hint }, column.title)
        : el("button", { type: "button", class: column.text ? "text" : null, title: `${column.hint}; click to sort`, onclick: () => sort(column) }, column.title))));
    order = null;
  }

  function sort(column) {
    const { state } = rows;
    const again = state.sort === column.name;
    rows.update({ sort: column.name, descending: again ? !state.descending : !column.text && column.name !== "latent" });
  }

  function refresh() {
    const { state } = rows;
    for (const cell of head.children) {
      const sorted = cell.dataset.name === state.sort;
      if (sorted) cell.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
      const { title } = columns.find((column) => column.name === cell.dataset.name);
      cell.firstChild.textContent = sorted ? `${title} ${state.descending ? "↓" : "↑"}` : title;
    }
    const count = document.getElementById("count"), n = state.order.length;
    count.textContent = `${n.toLocaleString("en")} of ${page.about.n_latents.toLocaleString("en")} latents`;
    if (state.problems.length) count.append("; ", el("span", { class: "problem" }, `left out of the search: ${state.problems.join("; ")}`));
    nothing(n === 0);
    body.style.height = `${n * high}px`;
    box.setAttribute("aria-rowcount", n + 1);
    if (order !== state.order) {
      order = state.order;
      drawn.clear();
      body.replaceChildren();
    }
    for (const row of drawn.values()) row.firstChild.classList.toggle("noted", Boolean(notes.of(Number(row.dataset.latent))));
    draw();
  }

  // In place of an empty table: why it is empty, and the way back.
  function nothing(empty) {
    document.getElementById("nothing").hidden = !empty;
    box.hidden = empty;
    if (!empty) return;
    const limits = rows.alone();
    document.getElementById("nothing-says").textContent = limits.length > 1 ? "No latent fits all of these:" : "No latent fits this:";
    document.getElementById("nothing-list").replaceChildren(...limits.map(({ says, n }) =>
      el("li", null, says, limits.length > 1 ? ` (${n.toLocaleString("en")} on its own)` : "")));
  }

  function draw() {
    if (!order) return;
    const sight = Math.ceil(box.clientHeight / high);
    const first = Math.max(0, Math.floor(box.scrollTop / high) - 8), last = Math.min(order.length, first + sight + 16);
    for (const [i, row] of drawn) {
      if (i >= first && i < last) continue;
      row.remove();
      drawn.delete(i);
    }
    let next = body.firstChild; // rows that stay are not touched: their images need not be decoded again
    for (let i = first; i < last; i++) {
      if (!drawn.has(i)) drawn.set(i, body.insertBefore(row(order[i], i), next));
      else next = drawn.get(i).nextSibling;
    }
    if (chosen !== null) mark();
    pictureSoon();
  }

  function row(latent, i) {
    const cells = columns.map((column) => {
      if (column.pictures) return thumbs(latent);
      if (column.name === "latent") {
        return el("span", { role: "rowheader", class: notes.of(latent) ? "noted" : null }, el("a", { href: `#latent=${latent}`, tabindex: "-1" }, String(latent)));
      }
      const value = rows.value(column.name, latent);
      return el("span", { role: "gridcell", class: column.text ? "text" : null, title: column.text ? value : null }, search.shown(column, value));
    });
    return el("div", {
      class: "row", role: "row", id: `row-${latent}`, "data-latent": latent, "aria-rowindex": i + 2, "aria-selected": String(latent === chosen),
      style: `top:${i * high}px`,
    }, cells);
  }

  // Its first images, as squares around the patch of the maximum: first without pictures, which `picture` puts in.
  function thumbs(latent) {
    const cell = el("span", { role: "gridcell", class: "thumbs" });
    if (!page.tops) return cell;
    const { image, each } = page.tops, shown = [];
    for (let i = latent * each; i < latent * each + thumbsEach() && image[i] >= 0; i++) shown.push(image[i]);
    cell.append(...shown.map(() => el("span", { class: "thumb" })));
    cell.setAttribute("aria-label", shown.length ? `top images: ${shown.map(saetools.tiles.name).join(", ")}` : "no image");
    return cell;
  }

  // Decoding a hundred pictures takes longer than opening a latent: they come when the table has been still for a moment.
  const STILL = 150; // milliseconds
  let waiting = null;

  function pictureSoon() {
    clearTimeout(waiting);
    waiting = setTimeout(picture, STILL);
  }

  function picture() {
    if (!page.tops) return;
    const { image, patch, each } = page.tops;
    for (const [i, row] of drawn) {
      row.querySelectorAll(".thumb:empty").forEach((frame, nth) => {
        const at = order[i] * each + nth;
        frame.append(el("img", { src: page.images.file[image[at]], alt: "", decoding: "async", style: cutOut(image[at], patch[at]) }));
      });
    }
  }

  // The place of an image of which a square of 0.6 of its shorter edge, around a patch, fills the thumbnail.
  function cutOut(image, patch) {
    const [height, width] = saetools.tiles.grid(image), side = 0.6 * Math.min(height, width);
    const from = (middle, whole) => Math.min(Math.max(middle - side / 2, 0), whole - side);
    const x = from((patch % width) + 0.5, width), y = from(Math.floor(patch / width) + 0.5, height);
    const percent = (cells) => `${((100 * cells) / side).toFixed(1)}%`;
    return `width:${percent(width)};height:${percent(height)};left:${percent(-x)};top:${percent(-y)}`;
  }

  // Draws the rows in sight again, when the images' names have come.
  function redraw() {
    order = null;
    refresh();
  }

  // Marks a latent and brings its row into sight.
  function select(latent) {
    chosen = latent;
    const i = latent === null ? -1 : rows.state.order.indexOf(latent);
    const above = i * high, room = box.clientHeight - head.offsetHeight;
    if (i >= 0 && (above < box.scrollTop || above + high > box.scrollTop + room)) {
      box.scrollTop = Math.max(0, above - room / 2);
    }
    draw();
    mark();
    saetools.scatter.draw();
  }

  function mark() {
    for (const row of drawn.values()) row.setAttribute("aria-selected", String(Number(row.dataset.latent) === chosen));
    if (document.getElementById(`row-${chosen}`)) box.setAttribute("aria-activedescendant", `row-${chosen}`);
    else box.removeAttribute("aria-activedescendant");
  }

  // The latent `by` rows below the chosen one.
  function step(by) {
    const { order } = rows.state;
    if (!order.length) return;
    const i = chosen === null ? -1 : order.indexOf(chosen);
    const next = i < 0 ? (by > 0 ? 0 : order.length - 1) : Math.min(Math.max(i + by, 0), order.length - 1);
    location.hash = `latent=${order[next]}`;
  }

  // The dialog in which columns are left out.
  function chooser() {
    const dialog = document.getElementById("columns-dialog"), list = document.getElementById("columns-list");
    const boxes = every.slice(1).map((column) => {
      const check = el("input", { type: "checkbox", value: column.name });
      check.addEventListener("change", () => {
        if (check.checked) left.delete(column.name);
        else left.add(column.name);
        keep();
      });
      list.append(el("li", null, el("label", { title: column.hint }, check, column.title)));
      return check;
    });
    const show = () => { for (const check of boxes) check.checked = !left.has(check.value); };
    document.getElementById("columns").addEventListener("click", () => {
      show();
      dialog.showModal();
    });
    document.getElementById("columns-reset").addEventListener("click", () => {
      left.clear();
      show();
      keep();
    });
  }

  function keep() {
    try {
      localStorage.setItem(STORED, JSON.stringify([...left]));
    } catch (error) {
      // storage is switched off: the choice lasts until the page is closed
    }
    layOut();
    refresh();
  }

  function remembered() {
    try {
      const names = JSON.parse(localStorage.getItem(STORED) || "[]");
      return Array.isArray(names) ? names.filter((name) => name !== "latent") : [];
    } catch (error) {
      return [];
    }
  }

  return { start, refresh, redraw, select, step, selected: () => chosen };
})();
