"use strict";
// What is typed into the search of latents: clauses, all of which must hold, and what could not be understood.
//   ap>0.3  "best trait":red  best trait:red  top class="Azure Jay"  frequency<1%  has:note  note:beak  "red breast"  77
saetools.search = (function () {
  const { page } = saetools;
  const { number, percent } = saetools.elements;
  const OPERATOR = "(<=|>=|<|>|=|:(?!:))"; // "::" is a part of names, such as has_colour::red
  const NUMBER = /^(-?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?)(%?)$/i;
  const LATENT = { name: "latent", title: "latent" }, NOTE = { name: "note", title: "note", text: true };

  // Capitals and underscores make no difference.
  const fold = (text) => text.toLowerCase().replace(/_/g, " ");

  const columns = () => [LATENT, ...page.about.columns, NOTE];

  // A value of a latent: a number, NaN where there is none, or a text.
  function value(column, latent) {
    if (column === "latent") return latent;
    if (column === "note") return saetools.notes.of(latent);
    const values = page.table.columns[column];
    return values.texts ? values.texts[values.code[latent]] : values[latent];
  }

  // How a value is shown everywhere on the page.
  function shown(column, v) {
    if (column.name === "latent") return String(v);
    return column.text ? v : column.name === "frequency" ? percent(v) : number(v);
  }

  // All that is searched of each latent, folded. A line per name, so that a phrase fits within one.
  function texts() {
    const words = page.about.columns.filter((column) => column.text);
    const found = Array.from({ length: page.about.n_latents }, (_, k) => words.map((column) => fold(value(column.name, k))).join("\n"));
    for (const [latent, , name] of page.table.found) found[latent] += `\n${fold(name)}`;
    return found;
  }

  // Query -> {clauses: [{says, fits(latent)}], problems: [sentence]}. all: as `texts` gives them.
  function parse(query, all) {
    const text = query.replace(/[“”„]/g, '"').replace(/−/g, "-").replace(/\s+/g, " ").trim();
    const clauses = [], problems = [];
    for (let at = 0; at < text.length;) {
      const rest = text.slice(at), found = compared(rest) || word(rest);
      at += found.length;
      while (text[at] === " ") at++;
      const clause = found.operator ? comparison(found) : anywhere(found, all);
      if (clause.problem) problems.push(clause.problem);
      else if (clause.fits) clauses.push(clause);
    }
    return { clauses, problems };
  }

  // The start of a text, if it compares: column, operator, value.
  function compared(rest) {
    const folded = fold(rest);
    const names = columns().flatMap((column) => [[fold(column.title), column], [fold(column.name), column]]);
    names.sort((a, b) => b[0].length - a[0].length);
    const quoted = new RegExp(`^"([^"]*)" ?${OPERATOR} ?`).exec(rest);
    if (quoted) return withValue(rest, quoted[0], quoted[1], named(quoted[1], names, quoted[2]), quoted[2]);
    for (const [name, column] of names) {
      const after = folded.startsWith(name) && new RegExp(`^ ?${OPERATOR} ?`).exec(rest.slice(name.length));
      if (after) return withValue(rest, rest.slice(0, name.length) + after[0], rest.slice(0, name.length), column, after[1]);
    }
    const short = new RegExp(`^([^\\s"<>=:]+)(?:${OPERATOR}| (<=|>=|<|>|=) )`).exec(rest);
    if (!short) return null;
    const operator = short[2] || short[3], having = operator === ":" && fold(short[1]) === "has";
    const column = having ? null : named(short[1], names, operator);
    if (operator === ":" && !column && !having) return null; // a word with a colon in it
    return withValue(rest, short[0], short[1], column, operator);
  }

  // The column of the shortest name that begins so; to be compared by size, one of numbers. names: longest first.
  function named(asked, names, operator) {
    const name = fold(asked.trim()), sized = operator !== ":" && operator !== "=";
    const fits = names.filter(([one, column]) => one.startsWith(name) && !(sized && column.text && one !== name));
    return name && fits.length ? fits[fits.length - 1][1] : null;
  }

  function withValue(rest, before, name, column, operator) {
    const [whole, quoted] = /^"([^"]*)"?|^\S*/.exec(rest.slice(before.length));
    const length = before.length + whole.length;
    return { length, text: rest.slice(0, length), name, column, operator, value: quoted === undefined ? whole : quoted };
  }

  function word(rest) {
    const [whole, quoted] = /^"([^"]*)"?|^\S+/.exec(rest);
    return { length: whole.length, text: whole, value: quoted === undefined ? whole : quoted };
  }

  // One clause that compares -> {says, fits} or {problem}.
  function comparison({ text, name, column, operator, value: asked }) {
    if (!column && fold(name) === "has") return having(text, asked);
    if (!column) {
      const known = columns().map((one) => one.title).slice(0, 14).join(", ");
      return { problem: `there is no column for ${text}: “${name}” is none of ${known}` };
    }
    const { title } = column;
    if (asked === "") return { problem: `${text}: what to compare ${title} with is missing` };
    if (column.text) {
      if (operator !== ":" && operator !== "=") return { problem: `${text}: ${title} holds words; write ${quote(title)}:${quote(asked)}` };
      const wanted = fold(asked);
      const says = operator === "=" ? `${title} is “${asked}”` : `${title} with “${asked}”`;
      return { says, fits: (k) => (operator === "=" ? fold(value(column.name, k)) === wanted : fold(value(column.name, k)).includes(wanted)) };
    }
    const found = NUMBER.exec(asked);
    if (!found) return { problem: `${text}: ${title} holds numbers, and “${asked}” is none${/^\d+,\d+$/.test(asked) ? `; decimals follow a point: ${asked.replace(",", ".")}` : ""}` };
    const limit = Math.fround(Number(found[1].replace(/,/g, "")) / (found[2] ? 100 : 1));
    const as = shown(column, limit);
    const fits = {
      "<": (v) => v < limit, ">": (v) => v > limit, "<=": (v) => v <= limit, ">=": (v) => v >= limit,
      "=": (v) => v === limit || (!Number.isNaN(v) && shown(column, v) === as),
    }[operator === ":" ? "=" : operator];
    return { says: `${title} ${operator === ":" ? "=" : operator} ${asked}`, fits: (k) => fits(value(column.name, k)) };
  }

  const quote = (words) => (/\s/.test(words) ? `"${words}"` : words);

  function having(text, asked) {
    const names = columns().flatMap((one) => [[fold(one.title), one], [fold(one.name), one]]).filter(([, one]) => one !== LATENT);
    const column = (names.find(([one]) => one === fold(asked)) || [])[1];
    if (!column) return { problem: `${text}: has: is followed by note, or by a column of the table` };
    return { says: column === NOTE ? "a note" : `a value of ${column.title}`, fits: (k) => { const v = value(column.name, k); return v !== "" && !Number.isNaN(v); } };
  }

  // A word or a phrase of any name or note; a number is a latent's too.
  function anywhere({ text, value: asked }, all) {
    const wanted = fold(asked);
    if (wanted.trim() === "") return {};
    const n = /^#?\d+$/.test(text) ? Number(text.replace("#", "")) : null;
    const [, before] = /^([^:"]+):[^:]/.exec(text) || [];
    return {
      says: `${n === null ? "" : `the number ${n}, or `}“${asked}” in its names or note${before ? ` (no column is called ${before})` : ""}`,
      fits: (k) => k === n || all[k].includes(wanted) || fold(saetools.notes.of(k)).includes(wanted),
    };
  }

  return { parse, texts, value, shown, fold };
})();
