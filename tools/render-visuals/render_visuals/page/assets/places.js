"use strict";
// Where one is: addresses, the browser's history, its tab. Each entry of the history keeps how it was left (search and
// sorting, scroll positions, what had the focus), so that Back returns to it.
saetools.places = (function () {
  const { page, rows } = saetools;
  const SCROLLED = { table: "scrollTop", gallery: "scrollTop", detail: "scrollTop", "wall-tiles": "scrollLeft" }, KEPT = 60;
  const left = new Map(); // number of an entry -> how it was left
  const tops = {}; // the last scroll position of each of SCROLLED: none can be read while it is hidden
  let here = null, newest = 0, settled = false, from = null, wasSeen = [], viewState = () => null;
  const stored = () => `saetools-places:${location.pathname}:${page.about.scorer}`;
  const within = (id) => document.getElementById(id);

  function start() {
    history.scrollRestoration = "manual";
    try {
      for (const [entry, how] of JSON.parse(sessionStorage.getItem(stored()) || "[]")) left.set(entry, how);
    } catch (error) {
      // storage is switched off: Back forgets after a reload
    }
    newest = Math.max(0, ...left.keys());
    // What has the focus; an address that is the id of a section takes it away before one hears of it.
    document.addEventListener("pointerdown", () => { from = null; }, true);
    document.addEventListener("focusin", (event) => { from = event.target; });
    window.addEventListener("pagehide", () => {
      leave();
      try {
        sessionStorage.setItem(stored(), JSON.stringify([...left].slice(-KEPT)));
      } catch (error) {
        // as above
      }
    });
  }

  // #latents, #images, #heatmap, #edits, #latent=3, #image=12&patches=4,5&latent=3, #edit=3:car&image=2&amount=-1 -> {view, ...};
  // of any other, what is wrong with it.
  function parse(hash) {
    const text = hash.slice(1), asked = new URLSearchParams(text), { n_latents: latents, n_images: images, n_patches: patches } = page.about;
    const whole = (word, end) => (/^\d{1,9}$/.test(word || "") && Number(word) < end ? Number(word) : null);
    const unknown = (says) => ({ view: "unknown", says });
    if (!text) return { view: "latents" };
    if (["latents", "images", "heatmap"].includes(text)) return { view: text };
    if (text === "edits" || asked.has("edit")) return saetools.editView.parse(asked, whole, unknown);
    const latent = asked.has("latent") ? whole(asked.get("latent"), latents) : undefined;
    if (latent === null) return unknown(`There is no latent ${asked.get("latent")} on this page: its ${latents.toLocaleString("en")} latents have the numbers 0 to ${latents - 1}.`);
    if (!asked.has("image")) return latent === undefined ? unknown("No view of this page has this address.") : { view: "latent", latent };
    const image = whole(asked.get("image"), images);
    if (image === null) return unknown(`There is no image ${asked.get("image")} on this page: its ${images.toLocaleString("en")} images have the numbers 0 to ${images - 1}.`);
    const words = (asked.get("patches") || "").split(",").filter(Boolean), numbers = words.map((word) => whole(word, patches));
    const strange = words.filter((_, i) => numbers[i] === null);
    if (strange.length) return unknown(`There is no patch ${strange.join(", ")} in an image of this page: the ${patches} patches have the numbers 0 to ${patches - 1}.`);
    return { view: "image", image, latent: latent === undefined ? null : latent, patches: numbers };
  }

  // Known without a layout: lists are hidden by the other list, and on narrow screens by a view.
  const narrow = matchMedia("(max-width: 900px)");
  function seen(id) {
    const view = document.body.classList.contains("has-detail");
    if (id === "detail") return view || !narrow.matches;
    if (id === "wall-tiles") return narrow.matches && !view && list() === "#latents" && within(id) !== null;
    return list() === (id === "table" ? "#latents" : "#images") && !(view && narrow.matches);
  }

  // Keeps how the entry that was shown is left. Called before anything of it changes.
  function leave() {
    for (const id of wasSeen) tops[id] = within(id)[SCROLLED[id]];
    if (here === null || !settled) return;
    const { query, region, sort, descending } = rows.state;
    left.delete(here);
    left.set(here, {
      list: within("images").hidden ? "latents" : "images", rows: { query, region, sort, descending }, images: within("image-search").value,
      tops: { ...tops }, window: window.scrollY, focus: focused(), view: viewState(),
    });
    for (const old of left.keys()) if (left.size > KEPT) left.delete(old);
  }

  // What the address asks for, and how its entry was left if it is not new.
  function arrive() {
    const known = history.state && history.state.entry;
    if (!known) history.replaceState({ entry: ++newest }, "");
    here = history.state.entry;
    newest = Math.max(newest, here); // after a reload the entry may be newer than all that were kept
    settled = false;
    viewState = () => null;
    return { ...parse(location.hash), kept: left.get(here) || null };
  }

  // Search and sorting as they were; the list must be shown.
  function restoreLists(kept) {
    if (kept) {
      if (Object.keys(kept.rows).some((name) => JSON.stringify(kept.rows[name]) !== JSON.stringify(rows.state[name]))) {
        within("search").value = kept.rows.query;
        rows.update(kept.rows);
      }
      if (within("image-search").value !== kept.images) saetools.gallery.search(kept.images);
    }
    // A list that was hidden has lost its place.
    for (const id of ["table", "gallery", "wall-tiles"]) if (kept || !wasSeen.includes(id)) scroll(id, (kept || { tops }).tops[id]);
    // One may leave again before the view is made: what is hidden by now has no place to keep.
    wasSeen = wasSeen.filter(seen);
  }

  function scroll(id, top) {
    if (top !== undefined && seen(id)) within(id)[SCROLLED[id]] = top;
  }

  // The view is made: scrolls to where it was, and puts the focus there. state(): what of it is to be kept.
  function settle(kept, state) {
    viewState = state || (() => null);
    const box = within("detail");
    box.scrollTop = kept ? kept.tops.detail || 0 : 0;
    if (kept) for (const id of ["table", "wall-tiles"]) scroll(id, kept.tops[id]);
    if (narrow.matches) window.scrollTo(0, kept ? kept.window : 0);
    // A link that was followed is gone with its view, or hidden: keys go on in the new one. In a list they stay there.
    const again = kept && kept.focus ? document.querySelector(kept.focus) : null;
    const next = document.body.classList.contains("has-detail") ? box : within(list() === "#images" ? "gallery" : "table");
    if (again && again.checkVisibility()) again.focus({ preventScroll: true });
    else if (from && (box.contains(from) || !from.isConnected || !from.checkVisibility())) next.focus({ preventScroll: true });
    wasSeen = Object.keys(SCROLLED).filter(seen);
    settled = true;
  }

  // A selector of what has the focus.
  function focused() {
    if (!from) return null;
    if (from.id) return `#${CSS.escape(from.id)}`;
    const href = from.getAttribute("href");
    return href ? `a[href=${JSON.stringify(href)}]` : from.classList.contains("picture") ? ".asking .picture" : null;
  }

  // Another address for the same entry: patches were chosen.
  function rename(hash) {
    if (hash !== location.hash) history.replaceState(history.state, "", hash);
  }

  // The list that is beside the view, or behind it on narrow screens.
  const list = () => (within("images").hidden ? "#latents" : "#images");

  function name(title) {
    document.title = title ? `${title} – ${page.about.title}` : page.about.title;
    within("detail").setAttribute("aria-label", document.body.classList.contains("has-detail") ? title : "What is chosen");
    within("where").textContent = title;
  }

  const back = () => saetools.elements.el("a", { class: "button back", href: list(), title: "Back to the list (Esc)" }, "← List");

  return { start, parse, leave, arrive, restoreLists, settle, rename, list, name, back };
})();
