"use strict";
// Images with heat: the heat is a picture with one pixel per patch, stretched over the image. It is an <img>, not a
// <canvas>: every canvas is a layer of its own, and thirty of them take longer than all the rest of opening a latent.
saetools.tiles = (function () {
  const { page } = saetools;
  const { el, number, ltr } = saetools.elements;
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  let ramp; // 256 x RGBA

  function colours() {
    if (!ramp) {
      const { stops, min_alpha: min, max_alpha: max } = page.about.heat;
      const rgb = stops.map((stop) => [0, 2, 4].map((i) => parseInt(stop.slice(i, i + 2), 16)));
      ramp = new Uint8ClampedArray(256 * 4);
      for (let i = 0; i < 256; i++) {
        const at = (i / 255) * (rgb.length - 1), low = Math.min(Math.floor(at), rgb.length - 2), part = at - low;
        for (let c = 0; c < 3; c++) ramp[4 * i + c] = rgb[low][c] * (1 - part) + rgb[low + 1][c] * part;
        ramp[4 * i + 3] = 255 * (min + (max - min) * (i / 255));
      }
    }
    return ramp;
  }

  // The pixels (RGBA) as a PNG in a data: address. A canvas keeps colours multiplied by their alpha, which may change
  // a colour by 2 of 255.
  function address(width, height, pixels) {
    Object.assign(pen.canvas, { width, height });
    pen.putImageData(new ImageData(pixels, width, height), 0, 0);
    return pen.canvas.toDataURL();
  }

  const name = (image) => page.images.path[image].split("/").pop();
  const grid = (image) => [page.images.grid[2 * image], page.images.grid[2 * image + 1]];

  // Draws values at patches of an image; patches without one stay clear.
  function heat(picture, image, patch, value, largest) {
    const [height, width] = grid(image);
    heatOn(picture, width, height, patch, value, largest);
  }

  function heatOn(picture, width, height, patch, value, largest) {
    const pixels = new Uint8ClampedArray(4 * width * height), ramp = colours();
    for (let e = 0; e < patch.length; e++) {
      const at = 4 * Math.min(255, Math.round((255 * value[e]) / largest));
      for (let c = 0; c < 4; c++) pixels[4 * patch[e] + c] = ramp[at + c];
    }
    picture.src = address(width, height, pixels);
  }

  const NO_LABEL = 65535;
  const labelColour = (label) => page.about.label_colours[label % page.about.label_colours.length];

  function labels(picture, image, values) {
    const [height, width] = grid(image), pixels = new Uint8ClampedArray(4 * width * height);
    for (let p = 0; p < width * height; p++) {
      const [r, g, b] = values[p] === NO_LABEL ? [235, 235, 235] : labelColour(values[p]);
      pixels.set([r, g, b, 190], 4 * p);
    }
    picture.src = address(width, height, pixels);
  }

  const over = (what) => el("img", { class: `over ${what}`, alt: "", decoding: "sync" });

  // The picture of an image, with heat over it. Its text is that of both: what is there, and at how many patches.
  function picture(image, example, largest, eager) {
    const [height, width] = grid(image), n = example ? example.patch.length : 0;
    const frame = el("span", { class: "picture", style: `aspect-ratio:${width}/${height}`, "data-image": image },
      el("img", { src: page.images.file[image], alt: `${name(image)}${n ? `, active at ${n} of ${height * width} patches` : ""}`, width: 16 * width, height: 16 * height, loading: eager ? null : "lazy", decoding: "async" }),
      over("heat"));
    if (example) heat(frame.querySelector(".heat"), image, example.patch, example.value, largest);
    if (page.about.has_labels && document.body.dataset.heat === "labels") withLabels(frame);
    return frame;
  }

  async function withLabels(frame) {
    if (frame.querySelector(".labels")) return;
    const picture = frame.appendChild(over("labels"));
    const { labels: values } = await saetools.image(Number(frame.dataset.image));
    if (values) labels(picture, Number(frame.dataset.image), values);
  }

  // A picture with value and path under it, leading to the image.
  function tile(latent, example, largest, note) {
    const { image } = example, path = page.images.path[image];
    const max = example.value.length ? example.value.reduce((a, b) => Math.max(a, b)) : 0;
    return el("a", { class: "tile", href: `#image=${image}&latent=${latent}`, title: path },
      picture(image, example, largest),
      el("span", { class: "says" }, el("b", null, number(max)), note ? el("i", null, note) : null),
      el("span", { class: "path", "aria-hidden": "true" }, ltr(name(image))));
  }

  // The next of: heat on, off, labels (where there are any).
  function toggle() {
    const modes = page.about.has_labels ? ["on", "off", "labels"] : ["on", "off"];
    show(modes[(modes.indexOf(document.body.dataset.heat) + 1) % modes.length]);
  }

  function show(mode) {
    document.body.dataset.heat = mode;
    for (const button of document.querySelectorAll("[data-heat-mode]")) {
      button.setAttribute("aria-pressed", String(button.dataset.heatMode === mode));
    }
    if (mode === "labels") document.querySelectorAll("#detail .picture[data-image]").forEach(withLabels);
  }

  // Buttons for the modes.
  function switches() {
    const modes = [["on", "Heat", "Where the latent is active"], ["off", "No heat", "The images alone"],
      ...(page.about.has_labels ? [["labels", "Labels", "The patch labels, from the masks of the data set"]] : [])];
    return el("span", { role: "group", "aria-label": "Over the images (h)", class: "modes" }, modes.map(([mode, title, hint]) =>
      el("button", { type: "button", title: `${hint} (h)`, "data-heat-mode": mode, "aria-pressed": String(document.body.dataset.heat === mode), onclick: () => show(mode) }, title)));
  }

  // The colours of the heat with numbers: from 0 to `largest`, a number or in words (none if empty); what: of which values.
  function colourBar(largest, what) {
    const bar = el("figure", { class: "scale", role: "img" },
      el("i", { style: `background:linear-gradient(90deg,${page.about.heat.stops.map((s) => `#${s}`).join(",")})` }),
      el("span", { class: "ends" }, el("span", { class: "none" }), el("span", { class: "half" }), el("span", { class: "largest" })),
      el("figcaption"));
    rescale(bar, largest, what);
    return bar;
  }

  function rescale(bar, largest, what) {
    const end = typeof largest === "number" ? number(largest) : largest;
    bar.querySelector(".none").textContent = end === "" ? "" : "0";
    bar.querySelector(".half").textContent = typeof largest === "number" ? number(largest / 2) : "";
    bar.querySelector(".largest").textContent = end;
    bar.lastChild.textContent = what;
    bar.setAttribute("aria-label", end === "" ? `Colours of the heat: ${what}` : `Colours of the heat, from 0 to ${end}: ${what}`);
  }

  function legend() {
    if (!page.about.label_names.length) return null;
    return el("div", { class: "legend" }, page.about.label_names.map((name, i) =>
      el("span", null, el("i", { style: `background:rgb(${labelColour(i).join(",")})` }), name)));
  }

  return { address, heat, heatOn, picture, tile, toggle, switches, colourBar, rescale, legend, grid, name };
})();
