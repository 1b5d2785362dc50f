"use strict";
// Which latents the table and the plot show, and in which order: search, a selected region, sorting.
saetools.rows = (function () {
  const { page, search } = saetools;
  const { value } = search;
  const state = { query: "", region: null, sort: "latent", descending: false, order: new Uint32Array(0), shown: null, problems: [] };
  let texts;

  function start() {
    texts = search.texts();
    const best = ["gain", "ap", "frequency"].find((name) => page.table.columns[name]);
    if (best) Object.assign(state, { sort: best, descending: true });
    update();
  }

  // What limits the rows: the clauses of the query, and the region of the plot.
  function limits() {
    const { clauses, problems } = search.parse(state.query, texts);
    const { region } = state, { frequency, mean } = page.table.columns;
    const inside = (k) => frequency[k] >= region.f0 && frequency[k] <= region.f1 && mean[k] >= region.v0 && mean[k] <= region.v1;
    return { clauses: region ? [...clauses, { says: "in the selected region of the plot", fits: inside }] : clauses, problems };
  }

  function update(changes) {
    Object.assign(state, changes);
    const { clauses, problems } = limits();
    const kept = [];
    for (let k = 0; k < page.about.n_latents; k++) if (clauses.every(({ fits }) => fits(k))) kept.push(k);
    state.problems = problems;
    state.order = sorted(kept);
    state.shown = new Uint8Array(page.about.n_latents);
    for (const k of kept) state.shown[k] = 1;
    document.dispatchEvent(new CustomEvent("rows"));
  }

  // Each limit in words, and how many latents fit it alone: which of them leaves nothing?
  function alone() {
    return limits().clauses.map(({ says, fits }) => {
      let n = 0;
      for (let k = 0; k < page.about.n_latents; k++) n += fits(k);
      return { says, n };
    });
  }

  // Latents without a value come last in both directions; equal ones by number.
  function sorted(kept) {
    const { sort, descending } = state;
    const keys = new Map();
    const text = page.about.columns.some((column) => column.name === sort && column.text);
    for (const k of kept) keys.set(k, value(sort, k));
    const none = (v) => (text ? v === "" : Number.isNaN(v));
    const turn = descending ? -1 : 1;
    return Uint32Array.from(kept.sort((a, b) => {
      const x = keys.get(a), y = keys.get(b);
      if (none(x) || none(y)) return none(x) - none(y) || a - b;
      return x < y ? -turn : x > y ? turn : a - b;
    }));
  }

  // The column that says of what class, or without classes in what folder, most top images of a latent are.
  const grouping = () => ["top_class", "folder"].find((name) => page.table.columns[name]);
  const group = (latent) => (grouping() ? value(grouping(), latent) : "");

  // Search, region and all: back to every latent.
  const clear = () => update({ query: "", region: null });

  return { state, value, start, update, alone, clear, grouping, group };
})();
