"use strict";
// One image: select patches, see which latents are active there, by activation summed over the patches, with exemplars.
saetools.imageView = (function () {
  const { page, rows, tiles, patches } = saetools;
  const { el, fill, number, ltr } = saetools.elements;
  const AT_FIRST = 24;

  async function show(image, asked, box, isCurrent) {
    const data = await saetools.image(image);
    if (!isCurrent()) return;
    const chosen = new Set(asked.patches);
    const frame = tiles.picture(image, null, 1, true);
    const says = el("p", { class: "faint", role: "status" });
    const list = el("ol", { class: "fires", id: "fires" });
    // The most telling name first: trait or class, and only then the folder of its top images.
    const names = page.about.columns.filter((column) => column.text).map((column) => column.name);
    const group = (name) => name === "folder" || name === "top_class";
    names.sort((a, b) => group(a) - group(b));
    let fixed = asked.latent, shown = AT_FIRST;
    const clear = el("button", { type: "button", id: "clear-patches", onclick: () => { chosen.clear(); outline(); update(); } }, "Clear");

    // The heat of one latent over the whole image.
    function heatOf(latent) {
      const patch = [], value = [];
      for (let p = 0; p + 1 < data.ptr.length; p++) {
        for (let e = data.ptr[p]; e < data.ptr[p + 1]; e++) {
          if (data.latent[e] === latent) {
            patch.push(p);
            value.push(data.value[e]);
          }
        }
      }
      tiles.heat(frame.querySelector(".heat"), image, patch, value, page.table.columns.max[latent]);
      for (const item of list.children) item.classList.toggle("shown", Number(item.dataset.latent) === latent);
    }

    const cut = data.ptr.some((at, p) => p > 0 && at - data.ptr[p - 1] >= page.about.per_patch);

    function update() {
      const summed = sums(data, chosen);
      const where = chosen.size ? `${chosen.size} selected ${chosen.size === 1 ? "patch" : "patches"}` : "all patches";
      says.replaceChildren(`${number(summed.length)} latents are active at ${where}, sorted by their summed activation.`,
        chosen.size ? "" : " Click patches, or drag over them, to see the latents of a part of the image.",
        cut ? ` Only the ${page.about.per_patch} largest activations of each patch are on this page (--per-patch).` : "");
      clear.hidden = !chosen.size;
      history.replaceState(null, "", `#image=${image}${chosen.size ? `&patches=${[...chosen].sort((a, b) => a - b).join(",")}` : ""}${fixed === null ? "" : `&latent=${fixed}`}`);
      const max = summed.length ? summed[0].sum : 1;
      list.replaceChildren(...summed.slice(0, shown).map((one) => item(one, max)));
      if (summed.length > shown) {
        list.append(el("li", null, el("button", { type: "button", onclick: () => { shown += 48; update(); } }, `Show more of ${number(summed.length)}`)));
      }
      const first = fixed !== null ? fixed : chosen.size && summed.length ? summed[0].latent : null;
      if (first !== null) heatOf(first);
      else tiles.heat(frame.querySelector(".heat"), image, [], [], 1);
    }

    function item({ latent, sum, count }, max) {
      const best = names.find((name) => rows.value(name, latent));
      const made = el("li", { "data-latent": latent, "data-sum": sum },
        el("div", { class: "who" },
          el("a", { href: `#latent=${latent}` }, `Latent ${latent}`),
          el("div", { class: "bar", style: `width:${Math.max(2, (100 * sum) / max)}%` }),
          el("small", null, `${number(sum)} at ${number(count)} ${count === 1 ? "patch" : "patches"}`),
          best ? el("small", { title: rows.value(best, latent) }, rows.value(best, latent)) : null),
        el("div", { class: "exemplars" }));
      made.addEventListener("pointerenter", () => heatOf(latent));
      made.addEventListener("focusin", () => heatOf(latent));
      exemplars.observe(made);
      return made;
    }

    // Exemplars come one latent after the other, so that the page answers in between.
    let queue = Promise.resolve();
    const exemplars = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        exemplars.unobserve(target);
        queue = queue.then(() => draw(target)).catch(saetools.elements.trouble);
      }
    }, { rootMargin: "200px" });

    async function draw(item) {
      if (!isCurrent() || !item.isConnected) return;
      const latent = Number(item.dataset.latent);
      const { top } = await saetools.latent(latent);
      const others = top.filter((example) => example.image !== image).slice(0, 4);
      item.lastChild.replaceChildren(...others.map((example) => tiles.tile(latent, example, page.table.columns.max[latent])));
      await new Promise((done) => setTimeout(done));
    }

    const path = page.images.path[image];
    fill(box,
      el("div", { class: "heading" },
        el("a", { class: "button back", href: "#" }, "← List"),
        el("h2", { title: path }, path.split("/").pop()),
        tiles.switches(null)),
      el("p", { class: "faint" }, ltr(path)),
      tiles.legend(),
      el("div", { class: "asking" },
        el("div", { class: "stick" }, frame,
          el("p", null, says), clear, " ",
          asked.latent === null ? null : el("button", { type: "button", onclick: (event) => { fixed = null; event.target.remove(); update(); } }, `Heat of latent ${asked.latent} ×`)),
        list));
    const outline = patches.over(frame, image, chosen, update);
    update();
  }

  // Activation of each latent summed over the selected patches (over all if none is), largest first, ties by number.
  function sums(data, chosen) {
    const total = new Map();
    const wanted = chosen.size ? [...chosen] : Array.from({ length: data.ptr.length - 1 }, (_, p) => p);
    for (const p of wanted) {
      for (let e = data.ptr[p]; e < data.ptr[p + 1]; e++) {
        const one = total.get(data.latent[e]) || { latent: data.latent[e], sum: 0, count: 0 };
        one.sum += data.value[e];
        one.count += 1;
        total.set(data.latent[e], one);
      }
    }
    return [...total.values()].sort((a, b) => b.sum - a.sum || a.latent - b.latent);
  }

  return { show };
})();
