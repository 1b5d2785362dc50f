"use strict";
// Latents x images: rows ordered by co-occurrence, columns by group. Wheel or keys zoom, dragging moves, arrows go from
// cell to cell.
saetools.heatmapView = (function () {
  const { page, tiles, places } = saetools;
  const { el, number, ltr, colour, font } = saetools.elements;
  const LEFT = 46, NOT_ACTIVE = "#141414", ITS_OWN = "each latent from 0 to its own maximum; black: not active";
  let redraw = () => {};
  document.addEventListener("colours", () => redraw());

  // kept: how it was left.
  async function show(box, isCurrent, kept) {
    const data = await saetools.load("heatmap");
    if (!isCurrent()) return;
    const high = data.latents.length, wide = data.images.length;
    const TOP = data.names.length > 6 ? 104 : 24; // room for names that stand upright
    const says = el("p", { id: "heatmap-says", role: "status" }, "Each row is a latent, from 0 to its maximum activation; each column is an image.");
    const canvas = el("canvas", { id: "heatmap", tabindex: "0", role: "application", "aria-label": `Heat map of ${high} latents and ${wide} images: arrows go from cell to cell, plus and minus zoom`, "aria-describedby": "heatmap-says" });
    const view = { x: 0, y: 0, zoom: 1, pinned: false, at: null, ...kept, pinned: false }; // at: the cell that the keys are on
    const bar = tiles.colourBar("maximum", ITS_OWN);
    bar.classList.add("always"); // with "No heat" too
    const source = pixels(data, wide, high);
    const step = (factor) => () => { // around the cell that the keys are on, or the middle
      const [w, h] = cell(), { at } = view;
      if (at) zoom(factor, LEFT + (at.column + 0.5) * w - view.x, TOP + (at.row + 0.5) * h - view.y);
      else zoom(factor, canvas.clientWidth / 2, canvas.clientHeight / 2);
    };

    box.replaceChildren(
      el("div", { class: "heading" },
        places.back(),
        el("h2", null, "Latents and images"), bar,
        el("span", { class: "modes", role: "group", "aria-label": "Zoom" },
          el("button", { type: "button", onclick: step(1.5), "aria-label": "Zoom in", title: "Zoom in (+)" }, "+"),
          el("button", { type: "button", onclick: step(1 / 1.5), "aria-label": "Zoom out", title: "Zoom out (-)" }, "−"),
          el("button", { type: "button", onclick: () => { Object.assign(view, { x: 0, y: 0, zoom: 1 }); draw(); }, title: "All latents and images (0)" }, "Whole"))),
      el("p", { class: "faint" }, `${number(high)} latents that ${data.names.length > 1 ? `best separate ${number(data.names.length)} groups (${data.by})` : "vary most"}, similar ones next to each other; ${number(wide)} images sorted by ${data.by}.`),
      canvas, says);

    const cell = () => [((canvas.clientWidth - LEFT) / wide) * view.zoom, ((canvas.clientHeight - TOP) / high) * view.zoom];

    function keepInside() {
      const [w, h] = cell();
      view.x = Math.min(Math.max(view.x, 0), Math.max(0, wide * w - (canvas.clientWidth - LEFT)));
      view.y = Math.min(Math.max(view.y, 0), Math.max(0, high * h - (canvas.clientHeight - TOP)));
    }

    function draw() {
      const scale = window.devicePixelRatio || 1, pen = canvas.getContext("2d");
      if (!canvas.clientWidth) return;
      canvas.width = Math.round(canvas.clientWidth * scale);
      canvas.height = Math.round(canvas.clientHeight * scale);
      pen.setTransform(scale, 0, 0, scale, 0, 0);
      keepInside();
      const [w, h] = cell();
      pen.imageSmoothingEnabled = w < 1 || h < 1;
      pen.save();
      pen.beginPath();
      pen.rect(LEFT, TOP, canvas.clientWidth, canvas.clientHeight);
      pen.clip();
      pen.drawImage(source, LEFT - view.x, TOP - view.y, wide * w, high * h);
      if (view.at) {
        for (const [shade, size] of [[NOT_ACTIVE, 5], ["#fff", 2]]) {
          Object.assign(pen, { strokeStyle: shade, lineWidth: size });
          pen.strokeRect(LEFT + view.at.column * w - view.x - 1, TOP + view.at.row * h - view.y - 1, Math.max(w, 2) + 2, Math.max(h, 2) + 2);
        }
      }
      pen.restore();
      pen.font = font();
      pen.fillStyle = colour("faint");
      groupNames(pen, w);
      latentNames(pen, h);
    }

    function groupNames(pen, w) {
      let start = 0, free = 0;
      pen.textAlign = "left";
      pen.strokeStyle = "rgba(255,255,255,.35)";
      pen.lineWidth = 1;
      for (let i = 1; i <= wide; i++) {
        if (i < wide && data.group[i] === data.group[start]) continue;
        const x0 = LEFT + start * w - view.x, x1 = LEFT + i * w - view.x;
        const from = Math.max(x0, LEFT), room = Math.min(x1, canvas.clientWidth) - from;
        const name = data.names[data.group[start]];
        if (x1 > LEFT && x0 < canvas.clientWidth) {
          if (pen.measureText(name).width < room - 4) pen.fillText(name, from + 2, TOP - 6);
          else if (room > 4 && from + room / 2 > free) {
            pen.save();
            pen.translate(from + room / 2 + 4, TOP - 5);
            pen.rotate(-Math.PI / 2);
            pen.fillText(shortened(pen, name, TOP - 10), 0, 0);
            pen.restore();
            free = from + room / 2 + 12;
          }
          if (x0 >= LEFT && w * (i - start) > 6) {
            pen.beginPath();
            pen.moveTo(Math.round(x0) + 0.5, TOP);
            pen.lineTo(Math.round(x0) + 0.5, canvas.clientHeight);
            pen.stroke();
          }
        }
        start = i;
      }
    }

    function shortened(pen, name, room) {
      if (pen.measureText(name).width <= room) return name;
      let text = name;
      while (text && pen.measureText(`${text}…`).width > room) text = text.slice(0, -1);
      return `${text}…`;
    }

    function latentNames(pen, h) {
      pen.textAlign = "right";
      const every = Math.max(1, Math.ceil(13 / h));
      for (let i = 0; i < high; i += every) {
        const y = TOP + (i + 0.5) * h - view.y;
        if (y > TOP && y < canvas.clientHeight) pen.fillText(String(data.latents[i]), LEFT - 5, y + 4);
      }
    }

    function zoom(factor, px, py) {
      const before = view.zoom;
      view.zoom = Math.min(Math.max(before * factor, 1), Math.max(wide, high) / 8 + 1);
      const by = view.zoom / before;
      view.x = (view.x + px - LEFT) * by - (px - LEFT);
      view.y = (view.y + py - TOP) * by - (py - TOP);
      draw();
    }

    function under(event) {
      const [w, h] = cell();
      const column = Math.floor((event.offsetX - LEFT + view.x) / w), row = Math.floor((event.offsetY - TOP + view.y) / h);
      return event.offsetX >= LEFT && event.offsetY >= TOP && column >= 0 && column < wide && row >= 0 && row < high ? { row, column } : null;
    }

    function read(at) {
      const latent = data.latents[at.row], image = data.images[at.column];
      const value = (data.strength[at.row * wide + at.column] / 255) * page.table.columns.max[latent];
      says.replaceChildren(
        el("a", { href: `#latent=${latent}` }, `latent ${latent}`), " · ",
        el("a", { href: `#image=${image}&latent=${latent}` }, ltr(page.images.path[image].split("/").pop())),
        ` · ${data.names[data.group[at.column]]} · ${value > 0 ? number(value) : "not active"}`,
        view.pinned || view.at ? "" : " · click to keep these links");
      tiles.rescale(bar, page.table.columns.max[latent], `activation of latent ${latent}; black: not active`);
    }

    // The cell that many rows and columns on, at least so far that it is seen to move; the map follows it.
    function goTo(rowsOn, columnsOn) {
      const [w, h] = cell(), by = (size) => Math.max(1, Math.round(4 / size));
      const from = view.at || { row: Math.ceil(view.y / h) - rowsOn * by(h), column: Math.ceil(view.x / w) - columnsOn * by(w) };
      const inside = (v, n) => Math.min(Math.max(v, 0), n - 1);
      view.at = { row: inside(from.row + rowsOn * by(h), high), column: inside(from.column + columnsOn * by(w), wide) };
      const follow = (size, i, start, room) => Math.max(Math.min(start, i * size), (i + 1) * size - room);
      view.x = follow(w, view.at.column, view.x, canvas.clientWidth - LEFT);
      view.y = follow(h, view.at.row, view.y, canvas.clientHeight - TOP);
      read(view.at);
    }

    let drag = null;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      drag = { x: event.offsetX, y: event.offsetY, from: { x: view.x, y: view.y }, moved: false };
      view.at = null;
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (drag) {
        const dx = event.offsetX - drag.x, dy = event.offsetY - drag.y;
        drag.moved = drag.moved || Math.abs(dx) + Math.abs(dy) > 4;
        Object.assign(view, { x: drag.from.x - dx, y: drag.from.y - dy });
        draw();
      } else if (!view.pinned && !view.at) {
        const at = under(event);
        if (at) read(at);
      }
    });
    canvas.addEventListener("pointerup", (event) => {
      const at = under(event);
      if (drag && !drag.moved && at) {
        view.pinned = !view.pinned;
        read(at);
      }
      drag = null;
    });
    canvas.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (move) goTo(...move);
      else if (event.key === "+" || event.key === "=") step(1.5)();
      else if (event.key === "-") step(1 / 1.5)();
      else if (event.key === "0") Object.assign(view, { x: 0, y: 0, zoom: 1 });
      else return;
      event.preventDefault();
      event.stopPropagation();
      draw();
    });
    redraw = draw;
    new ResizeObserver(draw).observe(canvas);
    if (view.at) read(view.at);
    return () => ({ ...view });
  }

  // The matrix as a picture of one pixel a cell: dark where nothing fires, then the colours of the heat.
  function pixels(data, wide, high) {
    const source = document.createElement("canvas");
    source.width = wide;
    source.height = high;
    const pen = source.getContext("2d"), image = pen.createImageData(wide, high);
    const rgb = page.about.heat.stops.map((stop) => [0, 2, 4].map((i) => parseInt(stop.slice(i, i + 2), 16)));
    for (let i = 0; i < data.strength.length; i++) {
      const at = (data.strength[i] / 255) * (rgb.length - 1), low = Math.min(Math.floor(at), rgb.length - 2), part = at - low;
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = data.strength[i] ? rgb[low][c] * (1 - part) + rgb[low + 1][c] * part : 20;
      image.data[4 * i + 3] = 255;
    }
    pen.putImageData(image, 0, 0);
    return source;
  }

  return { show };
})();
