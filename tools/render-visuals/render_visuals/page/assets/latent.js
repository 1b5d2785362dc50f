"use strict";
// One latent: its images, heat on and off, its distribution, its nearest latents, a note.
saetools.latentView = (function () {
  const { page, rows, notes, tiles, places } = saetools;
  const { el, fill, svg, number, percent } = saetools.elements;

  async function show(latent, box, isCurrent) {
    const data = await saetools.latent(latent);
    if (!isCurrent()) return;
    const largest = page.table.columns.max[latent], dead = !data.top.length;
    fill(box,
      el("div", { class: "heading" },
        places.back(),
        el("h2", null, `Latent ${latent}`),
        dead ? null : [tiles.colourBar(largest, `activation of latent ${latent}`), tiles.switches()]),
      dead ? el("p", { class: "dead" }, `Latent ${latent} is never active in these ${number(page.about.n_images)} images: there is nothing to show.`) : null,
      facts(latent),
      saetools.editView.links(latent),
      el("div", { class: "twice" },
        el("div", null, el("h3", null, "Note"), note(latent)),
        el("div", null, ...found(latent))),
      dead ? null : tiles.legend(),
      dead ? null : el("h3", null, `Top ${data.top.length} images`),
      el("div", { class: "tiles", id: "top" }, data.top.map((example) => tiles.tile(latent, example, largest))),
      data.spread.length ? el("h3", { title: "One image at each quantile of its maximum activation per image" }, "Examples at lower activations") : null,
      data.spread.length ? el("div", { class: "tiles", id: "spread" }, data.spread.map((example) =>
        tiles.tile(latent, example, largest, `quantile ${number(example.quantile)}`))) : null,
      data.hist.some(Boolean) ? el("h3", null, "Distribution of its activations") : null,
      data.hist.some(Boolean) ? histogram(data) : null,
      el("h3", null, "Nearest latents by cosine of their decoder vectors"),
      data.near.length ? tiles.colourBar("maximum", "each latent from 0 to its own maximum") : null,
      near(data, isCurrent));
  }

  // Its trait or class, where a table names one, tells more than its number.
  const named = (latent) => page.about.columns.filter((column) => column.text && column.name !== rows.grouping()).map((column) => rows.value(column.name, latent)).find(Boolean);
  const title = (latent) => [`Latent ${latent}`, named(latent)].filter(Boolean).join(" · ");

  function facts(latent) {
    const shown = page.about.columns.filter((c) => rows.value(c.name, latent) !== "" && !Number.isNaN(rows.value(c.name, latent)));
    return el("dl", { class: "facts" }, shown.map((column) => {
      const value = rows.value(column.name, latent);
      return el("div", { title: column.hint, class: column.text ? "words" : null },
        el("dt", null, column.title),
        el("dd", null, column.text ? value : column.name === "frequency" ? percent(value) : number(value)));
    }));
  }

  function note(latent) {
    const field = el("textarea", { id: "note", "data-latent": latent, placeholder: "What does it stand for? Stored in this browser.", "aria-label": `Note on latent ${latent}` });
    field.value = notes.of(latent);
    field.addEventListener("input", () => {
      notes.write(latent, field.value);
      saetools.table.refresh();
    });
    return field;
  }

  function found(latent) {
    const all = page.byLatent.get(latent) || [];
    if (!all.length) return [];
    return [
      el("h3", null, `Best latent for ${all.length} ${all.length === 1 ? all[0].kind : all[0].kind === "class" ? "classes" : "traits"}`),
      el("ul", { class: "found", tabindex: "0", "aria-label": "Traits and classes for which it is the best latent" }, all.map((one) =>
        el("li", null, el("span", null, one.name), el("span", null, `AP ${number(one.ap)}${one.prevalence === null ? "" : ` · prev. ${number(one.prevalence)}`}${one.r === null ? "" : ` · R ${number(one.r)}`}`)))),
    ];
  }

  // Bars over logarithmic bins; the heights are the square roots of the counts, so that rare large values show.
  function histogram(data) {
    const { bin_edges: edges } = page.about;
    const bins = Array.from(data.hist, (count, i) => ({ count, low: edges[data.firstBin + i], high: edges[data.firstBin + i + 1] }));
    while (bins.length && !bins[0].count) bins.shift();
    while (bins.length && !bins[bins.length - 1].count) bins.pop();
    const max = Math.max(...bins.map((bin) => Math.sqrt(bin.count))), width = 600, wide = Math.min(width / bins.length, 60);
    const picture = svg("svg", { class: "histogram", viewBox: `0 0 ${width} 96`, preserveAspectRatio: "xMinYMid meet", role: "img", "aria-label": "Histogram of its activations over patches" });
    const every = Math.ceil(44 / wide);
    bins.forEach((bin, i) => {
      const height = (76 * Math.sqrt(bin.count)) / max;
      const bar = svg("rect", { x: i * wide + 0.5, y: 78 - height, width: Math.max(wide - 1, 0.5), height });
      bar.append(svg("title", {}, `${number(bin.low)} to ${number(bin.high)}: ${number(bin.count)} patches`));
      picture.append(bar);
      if (i % every === 0) picture.append(svg("text", { x: i * wide, y: 92 }, number(bin.low)));
    });
    return picture;
  }

  // The best image of each near latent arrives when its chunk does.
  function near(data, isCurrent) {
    if (!data.near.length) return el("p", { class: "faint" }, "Not shown: the page was made without --scorer.");
    const box = el("div", { class: "near" });
    Array.from(data.near).forEach((latent, i) => {
      const link = el("a", { class: "tile", href: `#latent=${latent}`, title: `cosine ${number(data.cosine[i])}` },
        el("span", { class: "picture", style: "aspect-ratio:1" }),
        el("span", { class: "says" }, el("b", null, `${latent}`), el("i", null, number(data.cosine[i]))));
      box.append(link);
    });
    const seen = new IntersectionObserver(async (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      seen.disconnect();
      for (const [i, link] of Array.from(box.children).entries()) {
        const other = await saetools.latent(data.near[i]);
        if (!isCurrent()) return;
        if (other.top.length) link.firstChild.replaceWith(tiles.picture(other.top[0].image, other.top[0], page.table.columns.max[other.number]));
      }
    });
    seen.observe(box);
    return box;
  }

  return { show, title, named };
})();
