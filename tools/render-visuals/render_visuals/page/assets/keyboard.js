"use strict";
// Keys that work everywhere but in a field.
saetools.keyboard = (function () {
  function start() {
    const help = document.getElementById("help-dialog");
    document.getElementById("help").addEventListener("click", () => help.showModal());
    const keys = {
      "/": () => document.querySelector("#latents:not([hidden]) #search, #images:not([hidden]) #image-search").focus(),
      "?": () => help.showModal(),
      j: () => saetools.table.step(1),
      k: () => saetools.table.step(-1),
      ArrowDown: () => saetools.table.step(1),
      ArrowUp: () => saetools.table.step(-1),
      h: () => saetools.tiles.toggle(),
      m: () => { location.hash = "heatmap"; },
      e: () => { if (saetools.page.about.edits) location.hash = "edits"; },
      Enter: () => document.getElementById("detail").focus(),
      n: () => { const note = document.getElementById("note"); if (note) note.focus(); },
      Escape: () => { if (document.body.classList.contains("has-detail")) location.hash = saetools.places.list(); },
    };
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
      const field = event.target.closest("input, textarea, select");
      if (field) {
        if (event.key === "Escape") field.blur();
        return;
      }
      // Enter goes from the row of the table to what it chose; elsewhere it is the browser's.
      if (event.key === "Enter" && (event.target.id !== "table" || saetools.table.selected() === null)) return;
      // The arrows scroll where there is something to scroll, but step through the table on it and on nothing.
      if (event.key.startsWith("Arrow") && !event.target.closest("#table") && event.target !== document.body) return;
      if (keys[event.key]) {
        event.preventDefault();
        keys[event.key]();
      }
    });
  }

  return { start };
})();
