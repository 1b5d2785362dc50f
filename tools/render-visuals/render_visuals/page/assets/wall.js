"use strict";
// The opening view: the most telling latents, each with images and what it is best at, and in words how they are ordered.
saetools.wall = (function () {
  const { page, rows, search } = saetools;
  const { el, fill, number, percent } = saetools.elements;
  const AT_ONCE = 24, IMAGES = 3;
  const ALWAYS_ON = 0.5; // share of all patches
  const FEWEST = 8; // images: where a latent is active in fewer, its top images are of one class easily
  const narrow = matchMedia("(max-width: 900px)");
  let wall = null, beside = null;

  const known = (name) => page.about.columns.some((column) => column.name === name);
  const alive = (k) => page.table.columns.images[k] > 0 && page.table.columns.frequency[k] <= ALWAYS_ON;

  // From the most to the least telling measure that this page has: {says, of(latent), name(latent), note(latent)}.
  // A latent has the first measure that is above 0 for it.
  function measures() {
    const found = [], { columns } = page.table;
    const best = ["trait", "class", "best_class"].find(known), of = ["gain", "ap"].find(known);
    if (best && of) {
      const ap = (k) => (known("ap") ? `AP ${number(columns.ap[k])}` : "");
      const what = best === "trait" ? "trait" : "class", its = `the AP of the ${what} for which a latent is the best one`;
      found.push({
        says: of === "gain" ? `by gain: ${its}, minus the prevalence of the ${what}, which is the AP of a constant score` : `by ${its}`,
        of: (k) => columns[of][k], name: (k) => rows.value(best, k), note: ap,
      });
    }
    if (rows.grouping()) {
      const what = rows.grouping() === "folder" ? "folder" : "class", share = shares(what);
      found.push({
        says: `by the share of their top images that are of one ${what}, minus the share of this ${what} among all images; then by mean activation. Only latents that are active in at least ${FEWEST} images`,
        of: (k) => (columns.images[k] >= FEWEST ? columns.purity[k] - share.get(rows.group(k)) : NaN),
        name: rows.group, note: (k) => `${percent(columns.purity[k])} of its top images`,
      });
    }
    found.push({ says: "by their mean activation where they are active", of: (k) => columns.mean[k], name: () => "", note: (k) => `mean ${number(columns.mean[k])}` });
    return found;
  }

  // class or folder -> its share of all images
  function shares(what) {
    const count = new Map(), { path } = page.images;
    for (let image = 0; image < path.length; image++) {
      const name = what === "class" ? saetools.classOf(image) : path[image].split("/").slice(-2, -1)[0] || "";
      count.set(name, (count.get(name) || 0) + 1);
    }
    return new Map([...count].map(([name, n]) => [name, n / path.length]));
  }

  // All latents of the wall, in their order: [{latent, measure}].
  function order() {
    const { mean } = page.table.columns, taken = new Set(), found = [];
    for (const measure of measures()) {
      const mine = [];
      for (let k = 0; k < page.about.n_latents; k++) if (!taken.has(k) && alive(k) && measure.of(k) > 0) mine.push([measure.of(k), k]);
      mine.sort((a, b) => b[0] - a[0] || mean[b[1]] - mean[a[1]] || a[1] - b[1]);
      for (const [, latent] of mine) {
        taken.add(latent);
        found.push({ latent, measure });
      }
    }
    return found;
  }

  function build() {
    const all = order(), { images, frequency } = page.table.columns;
    const dead = images.filter((n) => n === 0).length, always = frequency.filter((share) => share > ALWAYS_ON).length;
    const left = [dead ? `${number(dead)} dead ${dead === 1 ? "latent" : "latents"} (active in none of these images)` : null,
      always ? `${number(always)} active at more than half of all patches` : null].filter(Boolean);
    const more = el("button", { type: "button", class: "wall-more", title: "The next in this order", onclick: add });
    const says = el("p", { class: "faint" }), tiles = el("div", { class: "wall-tiles", id: "wall-tiles" });
    let shown = 0, measure = null;

    function add() {
      const first = shown;
      for (const { latent, measure: its } of all.slice(shown, shown + AT_ONCE)) {
        if (measure === null) says.textContent = `Ordered ${its.says}.${left.length ? ` Left out: ${left.join("; ")}.` : ""}`;
        else if (its !== measure) tiles.append(el("p", { class: "faint" }, `Then ${its.says}.`));
        measure = its;
        tiles.append(tile(latent, its));
        shown += 1;
      }
      more.textContent = `Show ${Math.min(AT_ONCE, all.length - shown)} more of ${number(all.length)}`;
      if (shown < all.length) tiles.append(more);
      else more.remove();
      if (first && shown > first) document.getElementById(`wall-${all[first].latent}`).focus();
    }

    add();
    if (!all.length) says.textContent = `There is none: ${left.join("; ")}.`;
    return el("div", { class: "wall" },
      el("div", { class: "wall-head" }, el("h2", null, "The most telling latents"), saetools.tiles.colourBar("maximum", "each latent's own maximum")),
      says, tiles);
  }

  function tile(latent, measure) {
    const { image, each } = page.tops, pictures = [];
    for (let i = 0; i < Math.min(IMAGES, each) && image[latent * each + i] >= 0; i++) pictures.push(saetools.tiles.picture(image[latent * each + i], null, 1));
    const name = measure.name(latent);
    const made = el("a", { class: "tile wall-tile", id: `wall-${latent}`, href: `#latent=${latent}` },
      el("span", { class: "wall-pictures" }, pictures),
      el("b", { title: name }, name || `Latent ${latent}`),
      el("span", { class: "faint" }, measure.note(latent), name ? ` · latent ${latent}` : ""));
    inSight.observe(made);
    return made;
  }

  // The heat comes when a tile is in sight, one latent after the other, so that the page answers in between.
  let queue = Promise.resolve();
  const inSight = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      inSight.unobserve(target);
      queue = queue.then(() => heat(target)).catch(saetools.elements.trouble);
    }
  }, { rootMargin: "200px" });

  async function heat(tile) {
    const latent = Number(tile.id.slice("wall-".length)), { top } = await saetools.latent(latent);
    for (const [i, frame] of [...tile.querySelectorAll(".picture")].entries()) {
      saetools.tiles.heat(frame.querySelector(".heat"), top[i].image, top[i].patch, top[i].value, page.table.columns.max[latent]);
    }
    await new Promise((done) => setTimeout(done));
  }

  // Beside the table; on narrow screens, where one thing is shown at a time, as a strip above it.
  function show(box) {
    beside = box;
    if (!wall) {
      wall = build();
      narrow.addEventListener("change", () => narrow.matches || !document.body.classList.contains("has-detail") ? put() : null);
    }
    put();
  }

  function put() {
    const place = narrow.matches ? document.getElementById("strip") : beside;
    if (wall.parentElement !== place) fill(place, wall); // the strip keeps its own place
  }

  return { show, order };
})();
