"use strict";
// Starts the page: the table first, images' names after it; then follows the address.
(function () {
  const { page, elements, places } = saetools;
  const { el, fill } = elements;
  let turn = 0;

  async function start() {
    [page.about, page.table] = await Promise.all([saetools.load("about"), saetools.load("table")]);
    const { about } = page;
    document.getElementById("about").textContent =
      `${about.kind} of ${about.model}, layer ${about.layer} · ${about.n_latents.toLocaleString("en")} latents · ${about.n_images.toLocaleString("en")} images`;
    for (const [latent, kind, name, ap, r, prevalence] of page.table.found) {
      if (!page.byLatent.has(latent)) page.byLatent.set(latent, []);
      page.byLatent.get(latent).push({ kind, name, ap, r, prevalence });
    }
    document.getElementById("tab-edits").hidden = !about.edits;
    saetools.notes.start();
    saetools.table.start();
    saetools.scatter.start();
    saetools.rows.start();
    saetools.keyboard.start();
    performance.mark("table shown");
    [page.images, page.tops] = await Promise.all([saetools.load("images"), saetools.load("tops")]);
    saetools.table.redraw();
    saetools.gallery.start();
    places.start();
    window.addEventListener("hashchange", follow);
    await follow();
  }

  // The list on the left: all latents or all images.
  function showList(name) {
    for (const each of ["latents", "images"]) document.getElementById(each).hidden = each !== name;
    if (name === "images") saetools.gallery.draw();
    else saetools.table.refresh();
  }

  // What is shown, or the list that it was chosen from.
  function markTab(view) {
    for (const each of ["latents", "images", "heatmap", "edits"]) {
      const tab = document.getElementById(`tab-${each}`);
      if (each === view || (each === "edits" && view === "edit")) tab.setAttribute("aria-current", "page");
      else if (!["heatmap", "edits", "edit"].includes(view) && `#${each}` === places.list()) tab.setAttribute("aria-current", "true");
      else tab.removeAttribute("aria-current");
    }
  }

  // Each shows what an address asks for in the box, and returns, if it likes, a function whose value is kept with the entry.
  const views = {
    latents: (place, box) => saetools.wall.show(box),
    images: (place, box) => opening(box, "Choose an image to see which latents are active in it, and where."),
    unknown: ({ says }, box) => fill(box,
      el("div", { class: "heading" }, places.back(), el("h2", null, "Unknown address")),
      el("p", null, el("code", null, decoded(location.hash))),
      el("p", { class: "unknown" }, says),
      el("p", { class: "ways" }, el("a", { class: "button", href: "#latents", title: "The table of all latents" }, "All latents"), " ", el("a", { class: "button", href: "#images", title: "All images" }, "All images"))),
    latent: ({ latent }, box, isCurrent) => saetools.latentView.show(latent, box, isCurrent),
    image: (place, box, isCurrent) => saetools.imageView.show(place, box, isCurrent),
    edits: (place, box, isCurrent) => saetools.editView.list(box, isCurrent),
    edit: (place, box, isCurrent) => saetools.editView.show(place, box, isCurrent),
    heatmap: ({ kept }, box, isCurrent) => saetools.heatmapView.show(box, isCurrent, kept && kept.view),
  };

  function opening(box, says) {
    fill(box, el("div", { class: "empty" }, el("p", null, says), el("p", { class: "faint" }, "Press ", el("kbd", null, "?"), " for the keys.")));
  }

  function decoded(hash) {
    try {
      return decodeURIComponent(hash);
    } catch (error) {
      return hash; // a % that is no code
    }
  }

  function title({ view, latent, image, patches, edit }) {
    if (view === "edit") return saetools.editView.title(edit);
    if (view === "latent") return saetools.latentView.title(latent);
    if (view === "image") return saetools.imageView.title({ image, patches });
    return { latents: "", images: "Images", heatmap: "Heat map", edits: "Edits", unknown: "Unknown address" }[view];
  }

  async function follow() {
    const began = performance.now(), { hash } = location;
    places.leave();
    const place = places.arrive(), { view, kept } = place;
    const box = document.getElementById("detail"), mine = ++turn, isCurrent = () => mine === turn;
    document.body.classList.toggle("has-detail", view !== "latents" && view !== "images");
    if (view === "latent") saetools.latent(place.latent).catch(() => {}); // on its way while the table is drawn
    const list = view === "latents" || view === "images" ? view : kept && kept.list;
    if (list && list !== places.list().slice(1)) showList(list);
    markTab(view);
    places.name(title(place));
    places.restoreLists(kept);
    if (view !== "image") saetools.table.select(view === "latent" || view === "edit" ? place.latent : null);
    let state;
    try {
      state = await views[view](place, box, isCurrent);
    } catch (error) {
      elements.trouble(error);
    }
    if (!isCurrent()) return;
    places.settle(kept, typeof state === "function" ? state : null);
    // Two frames on, what was made is on the screen.
    requestAnimationFrame(() => requestAnimationFrame(() => {
      if (!isCurrent()) return;
      document.body.dataset.shown = hash;
      document.body.dataset.shownMs = (performance.now() - began).toFixed(1);
    }));
  }

  start().catch(elements.trouble);
})();
