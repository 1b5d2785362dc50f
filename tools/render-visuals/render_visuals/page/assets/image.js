"use strict";
// One image: select patches, see which latents are active there, by activation summed over the patches, with exemplars.
saetools.imageView = (function () {
  const { page, rows, tiles, patches, places, latentView } = saetools;
  const { el, fill, number, ltr } = saetools.elements;
  const AT_FIRST = 24, EXEMPLARS = 4; // latents; images of each

  // asked: {image, patches, latent, kept}, as an address says it.
  async function show(asked, box, isCurrent) {
    const { image } = asked;
    const data = await saetools.image(image);
    if (!isCurrent()) return;
    const chosen = new Set(asked.patches);
    const frame = tiles.picture(image, null, 1, true);
    const says = el("p", { class: "faint", role: "status" });
    const [high, wide] = tiles.grid(image);
    const list = el("ol", { class: "fires", id: "fires", style: `--shape:${high / wide}` }); // room for exemplars of the same shape
    let fixed = asked.latent, shown = asked.kept && asked.kept.view ? asked.kept.view.shown : AT_FIRST;
    const clear = el("button", { type: "button", id: "clear-patches", title: "Select no patch", onclick: () => { chosen.clear(); outline(); update(); } }, "Clear");
    const bar = tiles.colourBar("", "");

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
      const largest = page.table.columns.max[latent];
      tiles.heat(frame.querySelector(".heat"), image, patch, value, largest);
      tiles.rescale(bar, largest, `activation of latent ${latent}`);
      for (const item of list.children) item.classList.toggle("shown", Number(item.dataset.latent) === latent);
    }

    const cut = data.ptr.some((at, p) => p > 0 && at - data.ptr[p - 1] >= page.about.per_patch);

    function update() {
      const summed = sums(data, chosen);
      const where = chosen.size ? `${chosen.size} selected ${chosen.size === 1 ? "patch" : "patches"}` : "all patches";
      says.replaceChildren(summed.length ? `${number(summed.length)} latents are active at ${where}, sorted by their summed activation.` : `No latent is active at ${where}.`,
        chosen.size ? "" : " Click patches, or drag over them, to see the latents of a part of the image.",
        cut ? ` Only the ${page.about.per_patch} largest activations of each patch are on this page (--per-patch).` : "");
      clear.hidden = !chosen.size;
      const sorted = [...chosen].sort((a, b) => a - b);
      places.rename(`#image=${image}${chosen.size ? `&patches=${sorted.join(",")}` : ""}${fixed === null ? "" : `&latent=${fixed}`}`);
      places.name(title({ image, patches: sorted }));
      const max = summed.length ? summed[0].sum : 1;
      list.replaceChildren(...summed.slice(0, shown).map((one) => item(one, max)));
      if (summed.length > shown) {
        list.append(el("li", null, el("button", { type: "button", title: "The next in this order", onclick: () => { shown += 48; update(); } }, `Show more of ${number(summed.length)}`)));
      }
      const first = fixed !== null ? fixed : chosen.size && summed.length ? summed[0].latent : null;
      if (first !== null) heatOf(first);
      else {
        tiles.heat(frame.querySelector(".heat"), image, [], [], 1);
        tiles.rescale(bar, "", "no heat: point at a latent, or select patches");
      }
    }

    function item({ latent, sum, count }, max) {
      const best = latentView.named(latent) || rows.group(latent);
      const made = el("li", { "data-latent": latent, "data-sum": sum },
        el("div", { class: "who" },
          el("a", { href: `#latent=${latent}` }, `Latent ${latent}`),
          el("div", { class: "bar", style: `width:${Math.max(2, (100 * sum) / max)}%` }),
          el("small", null, `${number(sum)} at ${number(count)} ${count === 1 ? "patch" : "patches"}`),
          best ? el("small", { title: best }, best) : null),
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
      const others = top.filter((example) => example.image !== image).slice(0, EXEMPLARS);
      item.lastChild.replaceChildren(...others.map((example) => tiles.tile(latent, example, page.table.columns.max[latent])));
      await new Promise((done) => setTimeout(done));
    }

    const path = page.images.path[image];
    fill(box,
      el("div", { class: "heading" },
        places.back(),
        el("h2", { title: path }, tiles.name(image)),
        tiles.switches()),
      el("p", { class: "faint" }, ltr(path)),
      saetools.classOf(image) ? el("p", { class: "class" }, `Class: ${saetools.classOf(image)}`) : null,
      tiles.legend(),
      el("div", { class: "asking" },
        el("div", { class: "stick" }, frame, bar,
          el("p", null, says), clear, " ",
          asked.latent === null ? null : el("button", { type: "button", title: "Show no latent until patches are selected", onclick: (event) => { fixed = null; event.target.remove(); update(); } }, `Heat of latent ${asked.latent} ×`)),
        list));
    const outline = patches.over(frame, image, chosen, update);
    update();
    return () => ({ shown });
  }

  function title({ image, patches }) {
    const n = patches.length;
    return `${tiles.name(image)}${n ? ` · ${n === 1 ? "1 patch" : `${n} patches`}` : ""}`;
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

  return { show, title };
})();
