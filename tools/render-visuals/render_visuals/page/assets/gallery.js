"use strict";
// All images; only those in view are elements of the document.
saetools.gallery = (function () {
  const { page, tiles } = saetools;
  const { el, ltr, number } = saetools.elements;
  let box, kept = [], waits;

  function start() {
    box = document.getElementById("gallery");
    const search = document.getElementById("image-search");
    search.addEventListener("input", () => {
      clearTimeout(waits);
      waits = setTimeout(filter, 60);
    });
    document.getElementById("clear-images").addEventListener("click", () => {
      search.value = "";
      filter();
      search.focus();
    });
    box.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
    new ResizeObserver(draw).observe(box);
    filter();
  }

  function filter() {
    const words = document.getElementById("image-search").value.toLowerCase().split(/\s+/).filter(Boolean);
    kept = [];
    page.images.path.forEach((path, image) => {
      const text = `${path}\n${saetools.classOf(image)}`.toLowerCase();
      if (words.every((word) => text.includes(word))) kept.push(image);
    });
    document.getElementById("image-count").textContent = `${number(kept.length)} of ${number(page.about.n_images)} images`;
    document.getElementById("no-images").hidden = kept.length > 0;
    box.scrollTop = 0;
    draw();
  }

  function search(text) {
    document.getElementById("image-search").value = text;
    filter();
  }

  function draw() {
    const room = box.clientWidth - 40;
    if (room <= 0) return;
    const columns = Math.max(2, Math.floor(room / 128)), wide = room / columns, high = wide + 16;
    const first = Math.max(0, Math.floor(box.scrollTop / high) - 1), n = Math.ceil(box.clientHeight / high) + 3;
    const made = [el("div", { style: `height:${Math.ceil(kept.length / columns) * high + 20}px` })];
    for (let i = first * columns; i < Math.min(kept.length, (first + n) * columns); i++) {
      const image = kept[i];
      made.push(el("a", { class: "tile", href: `#image=${image}`, title: [page.images.path[image], saetools.classOf(image)].filter(Boolean).join("\n"), style: `left:${20 + (i % columns) * wide}px;top:${10 + Math.floor(i / columns) * high}px;width:${wide - 8}px` },
        el("span", { class: "picture" }, el("img", { src: page.images.file[image], alt: tiles.name(image), decoding: "async" })),
        el("span", { class: "path", "aria-hidden": "true" }, ltr(tiles.name(image)))));
    }
    box.replaceChildren(...made);
  }

  return { start, draw, search };
})();
