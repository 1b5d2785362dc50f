"use strict";
// Notes on latents: kept in this browser under the scorer's uid, so that a page that is made again still has them.
saetools.notes = (function () {
  const { page } = saetools;
  const { number, say, trouble } = saetools.elements;
  const UID = "scorer_uid"; // the column that says whose latents they are
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
    const file = document.getElementById("import-file"), dialog = document.getElementById("notes-dialog");
    document.getElementById("notes").addEventListener("click", () => dialog.showModal());
    document.getElementById("import").addEventListener("click", () => file.click());
    file.addEventListener("change", async () => {
      dialog.close(); // what comes of it is said above the views
      if (file.files.length) await load(file.files[0]);
      file.value = ""; // so that the same file can be chosen again
    });
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
    store();
  }

  function store() {
    if (keeps) {
      try {
        localStorage.setItem(key(), JSON.stringify(notes));
      } catch (error) {
        keeps = false;
        trouble(new Error("This browser cannot store notes; export them before you close the page."));
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
    const lines = [["latent", "note", UID, ...columns.map((column) => column.name)]];
    for (const latent of Object.keys(notes).map(Number).sort((a, b) => a - b)) {
      lines.push([latent, notes[latent], page.about.scorer, ...columns.map((column) => saetools.rows.value(column.name, latent))]);
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

  async function load(file) {
    try {
      const { added, joined, same } = merge(read(await file.text()));
      const parts = [`${number(added)} ${added === 1 ? "note" : "notes"} added`];
      if (joined) parts.push(`${number(joined)} joined with the ${joined === 1 ? "one that was" : "ones that were"} there`);
      if (same) parts.push(`${number(same)} already there`);
      say("done", `${file.name}: ${parts.join(", ")}.`);
      saetools.table.refresh();
      const field = document.getElementById("note");
      if (field) field.value = notes[field.dataset.latent] || "";
    } catch (error) {
      trouble(new Error(`${file.name}: ${error.message}. Nothing was imported.`));
    }
  }

  // [[latent, text], ...] of a CSV with the columns latent and note, or an error that says where it is wrong.
  function read(text) {
    if (text.includes("\ufffd")) throw new Error("it is not UTF-8; save it as \"CSV UTF-8\"");
    const lines = parsed(text.replace(/^\ufeff/, "")), { n_latents: n, scorer } = page.about;
    if (!lines.length) throw new Error("it is empty");
    const names = lines[0].cells, column = (name) => names.indexOf(name);
    for (const name of ["latent", "note"]) {
      if (column(name) < 0) throw new Error(`it has no column "${name}", but ${names.slice(0, 5).map((each) => `"${each.slice(0, 30)}"`).join(", ")}; expected a CSV that "Export notes" saved`);
    }
    const found = [];
    for (const { cells, line } of lines.slice(1)) {
      if (cells.length !== names.length) throw new Error(`line ${line} has ${cells.length} fields, the first line ${names.length}`);
      const of = column(UID) < 0 ? scorer : cells[column(UID)];
      if (of !== scorer) throw new Error(`its notes are on latents of another SAE (line ${line}: ${UID} ${of || "empty"}; this page: ${scorer}), whose numbers mean other latents`);
      const latent = cells[column("latent")].trim();
      if (!/^\d{1,9}$/.test(latent) || Number(latent) >= n) throw new Error(`line ${line}: "${latent.slice(0, 30)}" is no latent of this page; expected a number from 0 to ${n - 1}`);
      const note = cells[column("note")].replace(/\r\n?/g, "\n");
      if (note.trim()) found.push([Number(latent), note]);
    }
    return found;
  }

  // Records of a CSV with their first lines: separated by what separates the names in the first line; blank lines are left out.
  function parsed(text) {
    const head = text.slice(0, (text + "\n").search(/[\r\n]/));
    const separator = [",", ";", "\t"].reduce((a, b) => (head.split(b).length > head.split(a).length ? b : a));
    const records = [];
    let cells = [], cell = "", line = 1, first = 1, at = 0;
    const end = () => {
      if (cells.length || cell.trim()) records.push({ cells: [...cells, cell], line: first });
      [cells, cell] = [[], ""];
    };
    while (at < text.length) {
      const c = text[at];
      if (c === '"' && cell === "") {
        const began = line;
        for (at++; text[at] !== '"' || text[at + 1] === '"'; at++) {
          if (at >= text.length) throw new Error(`the quoted field that begins in line ${began} never ends`);
          if (text[at] === '"') at++;
          if (text[at] === "\n") line++;
          cell += text[at];
        }
        const next = text[at + 1];
        if (next !== undefined && next !== separator && next !== "\n" && next !== "\r") throw new Error(`line ${line}: after a quoted field comes "${next}", not a separator`);
      } else if (c === separator) {
        cells.push(cell);
        cell = "";
      } else if (c === "\n" || c === "\r") {
        end();
        if (c === "\r" && text[at + 1] === "\n") at++;
        first = ++line;
      } else cell += c;
      at++;
    }
    end();
    return records;
  }

  // Adds notes to those that are here. Where both have one, both texts are kept, unless one has all lines of the other;
  // so importing a file twice changes nothing.
  function merge(found) {
    const counts = { added: 0, joined: 0, same: 0 };
    const has = (text, other) => other.trim().split("\n").every((line) => text.split("\n").some((own) => own.trim() === line.trim()));
    for (const [latent, text] of found) {
      const here = notes[latent];
      counts[!here ? "added" : has(here, text) ? "same" : "joined"]++;
      if (!here || !has(here, text)) notes[latent] = !here || has(text, here) ? text : `${here}\n${text}`;
    }
    store();
    return counts;
  }

  return { start, write, csv, of: (latent) => notes[latent] || "" };
})();
