"use strict";
// Selecting patches of an image, by pointer or by keys; a canvas over the picture outlines the selected ones.
saetools.patches = (function () {
  const { tiles } = saetools;
  const { el } = saetools.elements;

  // frame: the picture. chosen: a set of patches, changed in place; changed(): called after it was.
  function over(frame, image, chosen, changed) {
    const [height, width] = tiles.grid(image);
    const canvas = frame.appendChild(el("canvas", { class: "choice" }));
    const pen = canvas.getContext("2d");
    let at = null, adds = null;
    Object.assign(frame, { tabIndex: 0 });
    frame.setAttribute("role", "application");
    frame.setAttribute("aria-label", `Patches, ${height} rows of ${width}: arrows move, space selects, tab leaves`);

    function draw() {
      const scale = window.devicePixelRatio || 1;
      canvas.width = Math.round(frame.clientWidth * scale);
      canvas.height = Math.round(frame.clientHeight * scale);
      const w = canvas.width / width, h = canvas.height / height;
      for (const p of chosen) outline(p, w, h, "#fff", 4 * scale);
      for (const p of chosen) outline(p, w, h, "#1c1e21", 1.6 * scale);
      if (at !== null) {
        outline(at, w, h, "rgba(28,30,33,.6)", 3.4 * scale);
        outline(at, w, h, "#fff", 2 * scale);
      }
    }

    function outline(p, w, h, colour, size) {
      pen.strokeStyle = colour;
      pen.lineWidth = size;
      pen.strokeRect((p % width) * w + size / 2, Math.floor(p / width) * h + size / 2, w - size, h - size);
    }

    function patch(event) {
      const box = frame.getBoundingClientRect();
      const column = Math.floor(((event.clientX - box.left) / box.width) * width);
      const row = Math.floor(((event.clientY - box.top) / box.height) * height);
      return column >= 0 && column < width && row >= 0 && row < height ? row * width + column : null;
    }

    function choose(p, add) {
      if (p === null || chosen.has(p) === add) return;
      if (add) chosen.add(p);
      else chosen.delete(p);
      draw();
      changed();
    }

    frame.addEventListener("pointerdown", (event) => {
      const p = patch(event);
      if (p === null || event.button !== 0) return;
      event.preventDefault();
      frame.focus({ preventScroll: true });
      adds = !chosen.has(p);
      choose(p, adds);
    });
    frame.addEventListener("pointermove", (event) => {
      at = patch(event);
      if (adds !== null && event.buttons && event.pointerType === "mouse") choose(at, adds);
      else draw();
    });
    const stop = () => { adds = null; };
    frame.addEventListener("pointerup", stop);
    frame.addEventListener("pointercancel", stop);
    frame.addEventListener("pointerleave", () => { stop(); at = null; draw(); });
    frame.addEventListener("focus", () => {
      if (at === null && frame.matches(":focus-visible")) at = 0;
      draw();
    });
    frame.addEventListener("blur", () => { at = null; draw(); });
    frame.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -width, ArrowDown: width }[event.key];
      if (by) {
        const from = at === null ? 0 : at, column = (from % width) + (Math.abs(by) === 1 ? by : 0);
        const next = from + by;
        if (at === null) at = 0;
        else if (column >= 0 && column < width && next >= 0 && next < width * height) at = next;
        draw();
      } else if (event.key === " " || event.key === "Enter") choose(at, !chosen.has(at));
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    new ResizeObserver(draw).observe(frame);
    return draw;
  }

  return { over };
})();
