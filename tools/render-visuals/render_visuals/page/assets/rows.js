"use strict";
// Which latents the table and the plot show, and in which order: search, comparisons, a selected region, sorting.
saetools.rows = (function () {
  const { page } = saetools;
  const state = { query: "", region: null, sort: "latent", descending: false, order: new Uint32Array(0), shown: null };
  let texts; // per latent, the text that is searched, in lower case

  function value(column, latent) {
    if (column === "latent") return latent;
    const values = page.table.columns[column];
    return values.texts ? values.texts[values.code[latent]] : values[latent];
  }

  function start() {
    const columns = page.about.columns.filter((column) => column.text);
    texts = Array.from({ length: page.about.n_latents }, (_, k) =>
      columns.map((column) => value(column.name, k)).join(" ").toLowerCase());
    for (const [latent, , name] of page.table.found) texts[latent] += ` ${name.toLowerCase()}`;
    const best = ["gain", "ap", "frequency"].find((name) => page.table.columns[name]);
    if (best) Object.assign(state, { sort: best, descending: true });
    update();
  }

  const COMPARED = /^([a-z_0-9@]+)(<=|>=|<|>|=)(-?[\d.]+(?:e-?\d+)?)(%?)$/;

  // One word of a query -> whether a latent fits it, or null where it compares an unknown column.
  function test(word) {
    const compared = COMPARED.exec(word);
    if (compared) {
      const name = compared[1] === "latent" ? "latent" : page.about.columns
        .filter((column) => !column.text)
        .map((column) => column.name)
        .sort((a, b) => a.length - b.length)
        .find((column) => column.startsWith(compared[1]));
      if (!name) return null;
      const limit = Number(compared[3]) / (compared[4] ? 100 : 1);
      const fits = { "<": (v) => v < limit, ">": (v) => v > limit, "<=": (v) => v <= limit, ">=": (v) => v >= limit, "=": (v) => v === limit }[compared[2]];
      return (latent) => fits(value(name, latent));
    }
    if (word === "has:note") return (latent) => saetools.notes.of(latent) !== "";
    if (/^#?\d+$/.test(word)) {
      const asked = word.replace("#", "");
      return (latent) => String(latent) === asked || texts[latent].includes(word);
    }
    return (latent) => texts[latent].includes(word) || saetools.notes.of(latent).toLowerCase().includes(word);
  }

  function update(changes) {
    Object.assign(state, changes);
    const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    const tests = words.map(test);
    state.unknown = words.filter((_, i) => tests[i] === null);
    const known = tests.filter(Boolean);
    const { region } = state, frequency = page.table.columns.frequency, mean = page.table.columns.mean;
    const kept = [];
    for (let k = 0; k < page.about.n_latents; k++) {
      if (region && !(frequency[k] >= region.f0 && frequency[k] <= region.f1 && mean[k] >= region.v0 && mean[k] <= region.v1)) continue;
      if (known.every((fits) => fits(k))) kept.push(k);
    }
    state.order = sorted(kept);
    state.shown = new Uint8Array(page.about.n_latents);
    for (const k of kept) state.shown[k] = 1;
    document.dispatchEvent(new CustomEvent("rows"));
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

  return { state, value, start, update };
})();
