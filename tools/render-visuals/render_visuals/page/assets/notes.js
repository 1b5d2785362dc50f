"use strict";
// Notes on latents: kept in this browser under the scorer's uid, so that a page that is made again still has them.
saetools.notes = (function () {
  const { page } = saetools;
  let notes = {};
  let keeps = true;
  const key = () => `saetools-notes:${page.about.scorer}`;

  function start() {
    try {
      notes = JSON.parse(localStorage.getItem(key()) || "{}");
    } catch (error) {
      keeps = false; // storage is switched off: notes last until the page is closed
    }
    count();
    document.getElementById("export").addEventListener("click", save);
    window.addEventListener("storage", (event) => {
      if (event.key === key()) {
        notes = JSON.parse(event.newValue || "{}");
        count();
        saetools.table.refresh();
      }
    });
  }

  function write(latent, text) {
    if (text.trim()) notes[latent] = text;
    else delete notes[latent];
    if (keeps) {
      try {
        localStorage.setItem(key(), JSON.stringify(notes));
      } catch (error) {
        keeps = false;
        saetools.elements.trouble(new Error("This browser cannot store notes; export them before you close the page."));
      }
    }
    count();
  }

  function count() {
    const n = Object.keys(notes).length;
    document.getElementById("n-notes").textContent = n ? ` (${n})` : "";
    document.getElementById("export").disabled = !n;
  }

  const quoted = (value) => {
    const text = String(value);
    return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  };

  function csv() {
    const columns = page.about.columns;
    const lines = [["latent", "note", ...columns.map((column) => column.name)]];
    for (const latent of Object.keys(notes).map(Number).sort((a, b) => a - b)) {
      lines.push([latent, notes[latent], ...columns.map((column) => saetools.rows.value(column.name, latent))]);
    }
    return lines.map((line) => line.map((v) => quoted(Number.isNaN(v) ? "" : v)).join(",")).join("\r\n") + "\r\n";
  }

  function save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.download = "notes.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  return { start, write, csv, of: (latent) => notes[latent] || "" };
})();
