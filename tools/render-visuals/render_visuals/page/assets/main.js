"use strict";
// Starts the page: the table first, images' names after it; then follows the address.
(function () {
  const { page, elements } = saetools;
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
    saetools.notes.start();
    saetools.table.start();
    saetools.scatter.start();
    saetools.rows.start();
    saetools.keyboard.start();
    document.getElementById("tab-latents").addEventListener("click", () => tab("latents"));
    document.getElementById("tab-images").addEventListener("click", () => tab("images"));
    window.addEventListener("hashchange", follow);
    performance.mark("table shown");
    [page.images, page.tops] = await Promise.all([saetools.load("images"), saetools.load("tops")]);
    saetools.table.redraw();
    saetools.gallery.start();
    await follow();
  }

  function tab(name) {
    for (const each of ["latents", "images"]) {
      document.getElementById(each).hidden = each !== name;
      document.getElementById(`tab-${each}`).setAttribute("aria-pressed", String(each === name));
    }
    document.body.classList.remove("has-detail");
    if (name === "images") saetools.gallery.draw();
    else saetools.table.refresh();
  }

  // #latent=3, #image=12&patches=4,5&latent=3, #heatmap, or nothing.
  async function follow() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const box = document.getElementById("detail"), mine = ++turn, isCurrent = () => mine === turn;
    const began = performance.now();
    const whole = (name, end) => (/^\d+$/.test(asked.get(name) || "") && Number(asked.get(name)) < end ? Number(asked.get(name)) : null);
    const latent = whole("latent", page.about.n_latents), image = whole("image", page.about.n_images);
    document.body.classList.toggle("has-detail", asked.has("heatmap") || latent !== null || image !== null);
    if (latent !== null && image === null) saetools.latent(latent).catch(() => {}); // on its way while the table is drawn
    if (image === null) saetools.table.select(latent);
    try {
      if (asked.has("heatmap")) await saetools.heatmapView.show(box, isCurrent);
      else if (image !== null) {
        const patches = (asked.get("patches") || "").split(",").filter(Boolean).map(Number).filter((p) => p >= 0 && p < page.about.n_patches);
        await saetools.imageView.show(image, { patches, latent }, box, isCurrent);
      } else if (latent !== null) await saetools.latentView.show(latent, box, isCurrent);
      else saetools.wall.show(box);
    } catch (error) {
      elements.trouble(error);
    }
    if (!isCurrent()) return;
    box.scrollTop = 0;
    if (window.innerWidth <= 900) window.scrollTo(0, 0);
    // Two frames on, what was made is on the screen.
    requestAnimationFrame(() => requestAnimationFrame(() => {
      document.body.dataset.shown = location.hash;
      document.body.dataset.shownMs = (performance.now() - began).toFixed(1);
    }));
  }

  start().catch(elements.trouble);
})();
