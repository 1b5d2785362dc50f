"use strict";
// Frequency against mean value, both logarithmic: drag to select a region, click a point to open its latent.
saetools.scatter = (function () {
  const { page, rows } = saetools;
  const { number, percent, colour, font } = saetools.elements;
  const EDGE = { left: 44, right: 12, top: 10, bottom: 30 };
  let canvas, pen, box, x, y, drag = null, ranges;
  const cloud = { canvas: document.createElement("canvas"), of: null, size: "" }; // axes and all points, as last drawn

  function start() {
    canvas = document.getElementById("scatter");
    pen = canvas.getContext("2d");
    const { frequency, mean } = page.table.columns;
    ranges = { f: range(frequency), v: range(mean) };
    // Reading the size whenever a latent is selected would force a layout of the table.
    new ResizeObserver(() => {
      box = { width: canvas.clientWidth, height: canvas.clientHeight };
      draw();
    }).observe(canvas);
    document.addEventListener("rows", draw);
    document.addEventListener("colours", () => {
      cloud.of = null;
      draw();
    });
    canvas.addEventListener("pointerdown", (event) => {
      drag = { from: place(event), to: place(event) };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (drag) {
        drag.to = place(event);
        draw();
      } else hover(place(event));
    });
    canvas.addEventListener("pointerup", finish);
    canvas.addEventListener("pointercancel", () => { drag = null; draw(); });
    document.getElementById("unselect").addEventListener("click", () => rows.update({ region: null }));
  }

  function range(values) {
    let min = Infinity, max = -Infinity;
    for (const v of values) if (v > 0) { min = Math.min(min, v); max = Math.max(max, v); }
    if (min > max) [min, max] = [0.1, 1];
    const room = Math.max(0.05 * Math.log10(max / min), 0.05);
    return [Math.log10(min) - room, Math.log10(max) + room];
  }

  const place = (event) => [event.offsetX, event.offsetY];

  function draw() {
    if (!box || !box.width) return;
    const scale = window.devicePixelRatio || 1;
    const width = Math.round(box.width * scale), height = Math.round(box.height * scale);
    if (cloud.of !== rows.state.shown || cloud.size !== `${width} ${height} ${scale}`) drawCloud(width, height, scale);
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.drawImage(cloud.canvas, 0, 0);
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    const { frequency, mean } = page.table.columns, chosen = saetools.table.selected();
    if (chosen !== null && frequency[chosen] > 0) {
      pen.strokeStyle = colour("noted");
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(x(frequency[chosen]), y(mean[chosen]), 6, 0, 7);
      pen.stroke();
    }
    const { region } = rows.state;
    if (drag) rectangle(...drag.from, ...drag.to);
    else if (region) rectangle(x(region.f0), y(region.v0), x(region.f1), y(region.v1));
    document.getElementById("unselect").hidden = !region;
  }

  // Thousands of points take longer than a frame: they are drawn when they change, not whenever one is chosen.
  function drawCloud(width, height, scale) {
    for (const one of [canvas, cloud.canvas]) Object.assign(one, { width, height });
    const pen = cloud.canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    const along = (from, to, [min, max]) => (v) => from + ((Math.log10(v) - min) / (max - min)) * (to - from);
    x = along(EDGE.left, box.width - EDGE.right, ranges.f);
    y = along(box.height - EDGE.bottom, EDGE.top, ranges.v);
    axes(pen);
    const { frequency, mean } = page.table.columns, { shown } = rows.state;
    for (const [fits, name, size] of [[0, "point-off", 2], [1, "point", 2.4]]) {
      pen.fillStyle = colour(name);
      for (let k = 0; k < shown.length; k++) {
        if (shown[k] === fits && frequency[k] > 0) pen.fillRect(x(frequency[k]) - size / 2, y(mean[k]) - size / 2, size, size);
      }
    }
    Object.assign(cloud, { of: shown, size: `${width} ${height} ${scale}` });
  }

  function rectangle(x0, y0, x1, y1) {
    pen.fillStyle = colour("region");
    pen.strokeStyle = colour("region-line");
    pen.lineWidth = 1;
    pen.fillRect(x0, y0, x1 - x0, y1 - y0);
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }

  function axes(pen) {
    pen.font = font();
    pen.fillStyle = colour("faint");
    pen.strokeStyle = colour("grid");
    pen.lineWidth = 1;
    pen.textAlign = "center";
    let free = -Infinity;
    for (const v of ticks(ranges.f)) {
      line(pen, x(v), EDGE.top, x(v), box.height - EDGE.bottom);
      if (x(v) > free) {
        pen.fillText(percent(v), x(v), box.height - EDGE.bottom + 13);
        free = x(v) + 44;
      }
    }
    pen.fillText("frequency: share of patches at which it is active", (EDGE.left + box.width) / 2, box.height - 3);
    pen.textAlign = "right";
    free = Infinity;
    for (const v of ticks(ranges.v)) {
      line(pen, EDGE.left, y(v), box.width - EDGE.right, y(v));
      if (y(v) < free) {
        pen.fillText(String(Number(v.toPrecision(2))), EDGE.left - 5, y(v) + 4);
        free = y(v) - 16;
      }
    }
    pen.save();
    pen.translate(10, (box.height - EDGE.bottom) / 2);
    pen.rotate(-Math.PI / 2);
    pen.textAlign = "center";
    pen.fillText("mean activation", 0, 0);
    pen.restore();
  }

  function line(pen, x0, y0, x1, y1) {
    pen.beginPath();
    pen.moveTo(Math.round(x0) + 0.5, Math.round(y0) + 0.5);
    pen.lineTo(Math.round(x1) + 0.5, Math.round(y1) + 0.5);
    pen.stroke();
  }

  // Powers of ten, with more between them where the range is short.
  function ticks([min, max]) {
    const found = [];
    const steps = max - min < 1.2 ? [1, 1.5, 2, 3, 5, 7] : max - min < 3 ? [1, 2, 5] : [1];
    for (let power = Math.floor(min); power <= Math.ceil(max); power++) {
      for (const step of steps) {
        const v = step * 10 ** power;
        if (Math.log10(v) >= min && Math.log10(v) <= max) found.push(v);
      }
    }
    return found;
  }

  function nearest([px, py]) {
    const { frequency, mean } = page.table.columns, { shown } = rows.state;
    let best = null, nearest = 10 ** 2;
    for (let k = 0; k < shown.length; k++) {
      if (!shown[k] || !(frequency[k] > 0)) continue;
      const far = (x(frequency[k]) - px) ** 2 + (y(mean[k]) - py) ** 2;
      if (far < nearest) [best, nearest] = [k, far];
    }
    return best;
  }

  function hover(at) {
    const k = nearest(at);
    const { frequency, mean } = page.table.columns;
    document.getElementById("scatter-says").textContent =
      k === null ? "" : `latent ${k} · ${percent(frequency[k])} · ${number(mean[k])}`;
  }

  function finish() {
    if (!drag) return;
    const [x0, y0] = drag.from, [x1, y1] = drag.to;
    drag = null;
    if (Math.abs(x1 - x0) + Math.abs(y1 - y0) < 6) {
      const k = nearest([x1, y1]);
      if (k !== null) location.hash = `latent=${k}`;
      else if (rows.state.region) rows.update({ region: null });
      else draw();
      return;
    }
    const back = (from, to, [min, max]) => (at) => 10 ** (min + ((at - from) / (to - from)) * (max - min));
    const f = back(EDGE.left, box.width - EDGE.right, ranges.f), v = back(box.height - EDGE.bottom, EDGE.top, ranges.v);
    rows.update({ region: {
      f0: f(Math.min(x0, x1)), f1: f(Math.max(x0, x1)), v0: v(Math.max(y0, y1)), v1: v(Math.min(y0, y1)),
    } });
  }

  return { start, draw, place: (k) => [x(page.table.columns.frequency[k]), y(page.table.columns.mean[k])] };
})();
