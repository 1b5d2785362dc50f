"use strict";
// What editing a latent does to predictions: one image before and after, with the controls beside it at the same amount.
// Patches have label maps, images have bars of probabilities. All of it was computed by edit-latents.
saetools.editView = (function () {
  const { page, tiles, places } = saetools;
  const { el, fill, svg, number, percent, ltr } = saetools.elements;
  const NONE = "none", CLASSES_SHOWN = 6;
  const CONTROLS = {
    "random-direction": ["Random direction", "Each patch is moved as far as by the latent, but in a random direction"],
    "random-latent": ["Random latent", "Each patch is moved as far as by the latent, but along another latent, drawn at random"],
    "diff-means": ["Difference of means", "Each patch is moved as far as by the latent, but along the mean of the target's patches minus that of the others"],
    probe: ["Probe", "Each patch is moved as far as by the latent, but along the weights of a linear head for the target"],
    reconstruction: ["Reconstruction", "The SAE's reconstruction in place of the activations, without an edit: the same at each amount"],
  };
  const whatOf = (control, latent) => (control === NONE ? [`Latent ${latent}`, "The edit of the latent itself"] : CONTROLS[control] || [control, "A control"]);

  // --- addresses

  const signed = (value) => String(value).replace("-", "−");

  function address(edit, image = null, amount = null) {
    const { pairs, amounts } = page.about.edits, [latent, target] = pairs[edit];
    return `#edit=${latent}:${encodeURIComponent(target).replace(/%3A/g, ":")}${image === null ? "" : `&image=${image}`}${amount === null ? "" : `&amount=${amounts[amount]}`}`;
  }

  // Of an address with "edits" or "edit" in it; whole(word, end) reads a number, unknown(says) is the answer if it is wrong.
  function parse(asked, whole, unknown) {
    const { edits } = page.about;
    if (!edits) return unknown("This page has no edits: it was made without --edits.");
    if (!asked.has("edit")) return { view: "edits" };
    const names = edits.pairs.map(([latent, target]) => `${latent}:${target}`), edit = names.indexOf(asked.get("edit"));
    if (edit < 0) return unknown(`There is no edit ${asked.get("edit")} on this page: it has ${number(names.length)} ${names.length === 1 ? "edit" : "edits"}, LATENT:TARGET, such as ${names[0]}.`);
    const image = asked.has("image") ? whole(asked.get("image"), edits.n_images) : undefined;
    if (image === null) return unknown(`There is no image ${asked.get("image")} among those of the edits: these ${edits.n_images} have the numbers 0 to ${edits.n_images - 1}.`);
    const amount = asked.has("amount") ? edits.amounts.findIndex((one) => String(one) === asked.get("amount")) : undefined;
    if (amount === -1) return unknown(`There is no amount ${asked.get("amount")} on this page: its edits have the amounts ${edits.amounts.join(", ")}.`);
    return { view: "edit", edit, image, amount, latent: edits.pairs[edit][0] };
  }

  const named = (edit) => `Latent ${page.about.edits.pairs[edit][0]} → ${page.about.edits.pairs[edit][1]}`;
  const title = (edit) => `${named(edit)} · edit`;

  // Links from a latent's view to its edits.
  function links(latent) {
    const mine = page.about.edits ? page.about.edits.pairs.flatMap(([k], edit) => (k === latent ? [edit] : [])) : [];
    return mine.length ? el("p", { class: "ways edits-of" }, el("span", null, "What it does: "), mine.map((edit) =>
      el("a", { class: "button", href: address(edit), title: "What editing this latent does to predictions" }, `edit it, see ${page.about.edits.pairs[edit][1]}`))) : null;
  }

  // --- what all edits have in common

  let common = null;
  async function load() {
    if (!common) common = await saetools.load("edits");
    return common;
  }

  // A cell of effects.csv.
  function effect(name, edit, control, amount) {
    const { effects, controls, amounts } = common;
    return effects[name][(edit * controls.length + controls.indexOf(control)) * amounts.length + amount];
  }

  // The amount at which the latent changes most predictions of its target; of equal ones, its logit.
  function strongest(edit) {
    let best = 0, most = -1;
    common.amounts.forEach((_, a) => {
      const size = (effect("target_changed", edit, NONE, a) || 0) + 1e-6 * Math.abs(effect("target_logit", edit, NONE, a) || 0);
      if (size > most) [best, most] = [a, size];
    });
    return best;
  }

  const plus = (value) => `${value > 0 ? "+" : ""}${signed(number(value))}`;
  const share = (value) => (Number.isNaN(value) ? "–" : percent(value));
  const OPERATIONS = {
    set: (amount) => `activation set to ${amount}`, scale: (amount) => `activation × ${amount}`,
    add: (amount) => `activation plus ${amount}`, "times-max": (amount) => `activation set to ${amount} × its largest`,
  };
  const says = (amount) => OPERATIONS[common.operation](signed(common.amounts[amount]));

  // --- all edits

  async function list(box, isCurrent) {
    const { controls, n_patches: patches } = await load();
    if (!isCurrent()) return;
    const { pairs } = page.about.edits, others = controls.filter((control) => control !== NONE);
    const rows = pairs.map((_, edit) => ({ edit, amount: strongest(edit) }));
    const changed = ({ edit, amount }, control = NONE, name = "target_changed") => effect(name, edit, control, amount);
    const sized = (row) => (Number.isNaN(changed(row)) ? -1 : changed(row));
    rows.sort((a, b) => sized(b) - sized(a) || a.edit - b.edit);
    const cell = (value) => el("td", null, el("i", { "aria-hidden": "true", style: `width:${60 * (value || 0)}px` }), share(value));
    fill(box,
      el("div", { class: "heading" }, places.back(), el("h2", null, "Edits of latents")),
      el("p", { class: "faint edits-intro" }, `Each latent is edited inside the network (${common.operation}) and the predictions after it are compared with those before. Of each edit the amount that changes most predictions of its target. Sorted by this share; the controls move each patch as far as the latent does.`),
      el("div", { class: "edits-table", tabindex: "0", role: "region", "aria-label": "Table of edits" }, el("table", null,
        el("thead", null, el("tr", null, el("th", { scope: "col", class: "text" }, "Edit"), el("th", { scope: "col" }, "amount"),
          el("th", { scope: "col", title: "Share of the predictions of the target that change" }, "target changed"),
          others.map((control) => el("th", { scope: "col", title: whatOf(control)[1] }, "by ", whatOf(control)[0].toLowerCase())),
          el("th", { scope: "col", title: "Share of all other predictions that change, by the latent" }, "other changed"),
          el("th", { scope: "col", title: "Mean change of the target's logit, by the latent" }, "target's logit"))),
        el("tbody", null, rows.map((row) => el("tr", null,
          el("th", { scope: "row", class: "text" }, el("a", { href: address(row.edit, null, row.amount) }, named(row.edit))),
          el("td", null, signed(common.amounts[row.amount])), cell(changed(row)),
          others.map((control) => cell(changed(row, control))), cell(changed(row, NONE, "other_changed")), el("td", null, plus(changed(row, NONE, "target_logit")))))))));
  }

  // --- one edit

  let chosenHere = false; // in the list of edits above the images: keys go on there

  async function show({ edit, image: askedImage, amount: askedAmount }, box, isCurrent) {
    await load();
    const data = await saetools.load(`edits/${String(edit).padStart(4, "0")}`);
    if (!isCurrent()) return;
    const [latent, target] = page.about.edits.pairs[edit], { controls, amounts, path, tokens } = common;
    const of = (tokens === "patches" ? patchPanels : barPanels)(data, edit);
    let amount = askedAmount === undefined ? strongest(edit) : askedAmount;
    let image = askedImage === undefined ? of.telling(amount) : askedImage;

    const choice = el("select", { id: "edit-choice", "aria-label": "Edit", onchange: () => { chosenHere = true; location.hash = address(Number(choice.value), image, amount); } },
      page.about.edits.pairs.map((_, i) => el("option", { value: i, selected: i === edit }, named(i))));
    const slider = el("input", { type: "range", id: "edit-amount", min: 0, max: amounts.length - 1, step: 1, "aria-label": "Amount", oninput: () => { amount = Number(slider.value); draw(); } });
    slider.value = amount;
    const amountSays = el("output", { for: "edit-amount" });
    const where = el("p", { class: "faint" }), summary = el("p", { id: "edit-says", role: "status" });
    const strip = el("div", { id: "edit-images", role: "radiogroup", "aria-label": "Image" }, path.map((name, i) => {
      const n = of.edited(i);
      return el("button", { type: "button", role: "radio", class: n ? null : "unedited", title: `${name}: ${number(n)} ${n === 1 ? "patch" : "patches"} edited`, onclick: () => choose(i) },
        el("img", { src: common.file[i], alt: fileName(i), width: 60, height: 60, loading: "lazy", decoding: "async" }));
    }));
    strip.addEventListener("keydown", (event) => {
      const next = { ArrowLeft: image - 1, ArrowUp: image - 1, ArrowRight: image + 1, ArrowDown: image + 1, Home: 0, End: path.length - 1 }[event.key];
      if (next === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      choose((next + path.length) % path.length);
      strip.children[image].focus();
    });

    const panels = new Map(controls.map((control) => [control, panel(control)]));
    function panel(control) {
      const [name, hint] = whatOf(control, latent), effects = el("div", { class: "effects" }), shown = of.panel(control);
      return { shown, effects, figure: el("figure", { class: control === NONE ? "edit-panel own" : "edit-panel", "data-control": control },
        el("figcaption", { title: hint }, control !== NONE ? `Control: ${name.toLowerCase()}` : tokens === "patches" ? `After: latent ${latent}` : name), shown.box, effects) };
    }

    function choose(next) {
      image = next;
      draw();
    }

    function draw() {
      for (const [i, button] of [...strip.children].entries()) {
        button.setAttribute("aria-checked", String(i === image));
        button.tabIndex = i === image ? 0 : -1;
      }
      const on = strip.children[image], left = on.offsetLeft - strip.offsetLeft;
      if (left < strip.scrollLeft || left + on.offsetWidth > strip.scrollLeft + strip.clientWidth) strip.scrollLeft = left - strip.clientWidth / 2 + on.offsetWidth / 2;
      slider.setAttribute("aria-valuetext", says(amount));
      amountSays.textContent = says(amount);
      const n = of.edited(image), all = gridOf(image)[0] * gridOf(image)[1], onPage = common.on_page[image];
      const whereSays = common.where === "firing" ? "where the latent is active" : common.where === "all" ? "all of them" : `of --where ${common.where}`;
      fill(where, el("b", null, ltr(fileName(image))), ` · ${n ? `${number(n)} of its ${number(all)} patches are edited (${whereSays})` : "none of its patches is edited"}`,
        onPage < 0 ? null : [el("span", null, " · "), el("a", { href: `#image=${onPage}&latent=${latent}` }, "latents of this image")]);
      of.draw(image, amount);
      for (const [control, { shown, effects }] of panels) {
        shown.draw(image, amount);
        fill(effects, numbersOf(edit, control, amount));
      }
      summary.textContent = `${says(amount)[0].toUpperCase()}${says(amount).slice(1)}. ${of.summary(image, amount)}`;
      places.rename(address(edit, image, amount));
    }

    const others = controls.filter((control) => control !== NONE);
    const some = (name) => number(effect(name, edit, NONE, amount));
    fill(box,
      el("div", { class: "heading" }, places.back(),
        el("h2", null, el("a", { href: `#latent=${latent}`, title: "The latent" }, `Latent ${latent}`), ` → ${target}`),
        page.about.edits.pairs.length > 1 ? choice : null),
      strip,
      where,
      el("div", { class: "edit-amount" }, el("label", { for: "edit-amount" }, "Amount"),
        el("div", null, slider, el("div", { class: "ticks", "aria-hidden": "true" }, amounts.map((one) => el("span", null, signed(one))))), amountSays),
      summary,
      of.legend,
      el("div", { class: "edit-panels" }, of.before, panels.get(NONE).figure, of.where, others.map((control) => panels.get(control).figure)),
      el("p", { class: "faint about-effects" },
        `Pictures: this image. Numbers below them: all test images (effects.csv), ${some("images")} of which have an edited patch, ${some("patches")} patches in all. `,
        "Target changed: of the predictions of the target, the share that becomes another one; other changed: the same of all other predictions; brackets: 95% interval, by drawing images again. ",
        others.length ? "Controls are at the same amount: each moves every edited patch as far as the latent does, but for the reconstruction, which has no amount." : "These edits have no controls."));
    draw();
    if (chosenHere) requestAnimationFrame(() => isCurrent() && choice.focus({ preventScroll: true }));
    chosenHere = false;
  }

  const fileName = (image) => common.path[image].split("/").pop();
  const gridOf = (image) => [common.grid[2 * image], common.grid[2 * image + 1]];

  // The row of effects.csv: shares as bars with their intervals, the logit as a number.
  function numbersOf(edit, control, amount) {
    const of = (name) => ["", "_low", "_high", "_draw_min", "_draw_max"].map((end) => effect(`${name}${end}`, edit, control, amount));
    const draws = effect("draws", edit, control, amount);
    const range = (low, high, write) => (Number.isNaN(low) ? "" : ` (${write(low).replace("%", "")} to ${write(high)})`);
    return [["target_changed", "target changed"], ["other_changed", "other changed"], ["target_logit", "target's logit"]].map(([name, title]) => {
      const [value, low, high, least, most] = of(name), isShare = name !== "target_logit";
      const write = isShare ? percent : plus;
      return el("div", { class: "effect", "data-measure": name, title: draws > 1 && !Number.isNaN(value) ? `Mean of ${draws} draws, which are from ${write(least)} to ${write(most)}` : null },
        el("span", null, title), el("span", null, el("b", null, Number.isNaN(value) ? "–" : write(value)), range(low, high, write)),
        isShare ? el("span", { class: "track", "aria-hidden": "true" }, el("i", { style: `width:${100 * (value || 0)}%` }),
          Number.isNaN(low) ? null : el("s", { style: `left:${100 * low}%;width:${100 * (high - low)}%` })) : null);
    }).concat(draws > 1 ? el("div", { class: "effect faint" }, `mean of ${draws} draws`) : []);
  }

  // A picture of an image with layers over it.
  function pictureBox() {
    const img = el("img", { alt: "", decoding: "sync" }), over = el("img", { class: "over map", alt: "", decoding: "sync" });
    const lines = svg("svg", { class: "over lines", preserveAspectRatio: "none", "aria-hidden": "true" });
    return { img, over, lines, frame: el("span", { class: "picture" }, img, over, lines) };
  }

  function setImage({ img, lines, frame }, image, alt) {
    const [high, wide] = gridOf(image);
    if (img.getAttribute("src") !== common.file[image]) img.src = common.file[image];
    img.alt = alt;
    frame.style.aspectRatio = `${wide}/${high}`;
    lines.setAttribute("viewBox", `0 0 ${wide} ${high}`);
  }

  // The outline of a set of patches: the edges between those in it and those that are not.
  function outline(wide, high, has) {
    let d = "";
    for (let p = 0; p < wide * high; p++) {
      if (!has(p)) continue;
      const x = p % wide, y = Math.floor(p / wide);
      if (y === 0 || !has(p - wide)) d += `M${x} ${y}h1`;
      if (y === high - 1 || !has(p + wide)) d += `M${x} ${y + 1}h1`;
      if (x === 0 || !has(p - 1)) d += `M${x} ${y}v1`;
      if (x === wide - 1 || !has(p + 1)) d += `M${x + 1} ${y}v1`;
    }
    return d;
  }

  const drawn = (name, d) => [svg("path", { class: `${name} below`, d }), svg("path", { class: name, d })];

  // Where the latent is active and where it is edited: the same for heads on patches and on images.
  function editedPanel(data, latent, caption) {
    const made = pictureBox(), { n_patches: patches } = common;
    const at = (image, array) => array.subarray(image * patches, (image + 1) * patches);
    const counts = common.path.map((_, image) => at(image, data.edited).reduce((a, b) => a + b, 0));
    function draw(image) {
      const [high, wide] = gridOf(image), value = at(image, data.value), edited = at(image, data.edited);
      const active = [...value.keys()].filter((p) => value[p] > 0);
      setImage(made, image, `${fileName(image)}: latent ${latent} is active at ${active.length} of ${high * wide} patches, and edited at ${counts[image]}`);
      tiles.heatOn(made.over, wide, high, active, active.map((p) => value[p]), page.table.columns.max[latent]);
      let d = "";
      for (let p = 0; p < high * wide; p++) if (edited[p]) d += `M${(p % wide) + 0.5} ${Math.floor(p / wide) + 0.5}h0`;
      made.lines.replaceChildren(...drawn("dots", d));
    }
    return { draw, edited: (image) => counts[image], figure: el("figure", { class: "edit-panel where" }, el("figcaption", null, caption), made.frame,
      el("p", { class: "faint" }, `Colours: its activation, up to ${number(page.table.columns.max[latent])}. Dots: edited patches.`)) };
  }

  // --- heads on patches: label maps

  function patchPanels(data, edit) {
    const { names, colours, controls, amounts, n_patches: patches } = common, [latent, target] = page.about.edits.pairs[edit];
    const t = names.indexOf(target), n = common.path.length, none = data.before instanceof Uint8Array ? 255 : 65535;
    const before = (image) => data.before.subarray(image * patches, (image + 1) * patches);
    const label = (image) => data.label.subarray(image * patches, (image + 1) * patches);
    function after(control, image, amount) {
      const from = ((controls.indexOf(control) * amounts.length + amount) * n + image) * patches;
      return data.after.subarray(from, from + patches);
    }
    const edited = editedPanel(data, latent, "Where it is edited"), was = pictureBox();
    const legend = el("div", { class: "edit-legend", "aria-label": "Classes", role: "group" });
    const wasSays = el("p", { class: "faint" });

    function counts(classes) {
      const found = new Map();
      for (const c of classes) if (c !== none) found.set(c, (found.get(c) || 0) + 1);
      return [...found].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
    }
    const count = (classes, c) => classes.reduce((sum, one) => sum + (one === c), 0);
    const inWords = (classes) => counts(classes).map(([c, m]) => `${names[c]} ${m}`).join(", ");

    function map(made, image, classes) {
      const [high, wide] = gridOf(image), pixels = new Uint8ClampedArray(4 * wide * high);
      for (let p = 0; p < wide * high; p++) if (classes[p] !== none) pixels.set([...colours[classes[p]], 175], 4 * p);
      made.over.src = tiles.address(wide, high, pixels);
      made.frame.classList.add("mapped");
    }

    function changes(control, image, amount) {
      const old = before(image), now = after(control, image, amount);
      let n = 0;
      for (let p = 0; p < old.length; p++) n += old[p] !== now[p];
      return n;
    }

    function draw(image) {
      edited.draw(image);
      const old = before(image), known = label(image).reduce((sum, c) => sum + (c !== none), 0);
      const right = label(image).reduce((sum, c, p) => sum + (c !== none && c === old[p]), 0);
      setImage(was, image, `${fileName(image)} before the edit: ${inWords(old)}`);
      map(was, image, old);
      wasSays.textContent = `${target}: ${number(count(old, t))}${known ? `. Right at ${number(right)} of ${number(known)} patches with a label` : ""}`;
      const shown = new Set([t, ...old]);
      for (const control of controls) for (let a = 0; a < amounts.length; a++) for (const c of after(control, image, a)) shown.add(c);
      shown.delete(none);
      fill(legend, [...shown].sort((a, b) => a - b).map((c) =>
        el("span", { class: c === t ? "target" : null }, el("i", { style: `background:rgb(${colours[c].join(",")})` }), names[c], c === t ? " (target)" : "")));
    }

    function panel(control) {
      const made = pictureBox(), text = el("p", { class: "does" });
      return { box: [made.frame, text], draw(image, amount) {
        const [high, wide] = gridOf(image), old = before(image), now = after(control, image, amount), n = changes(control, image, amount);
        setImage(made, image, `${fileName(image)} after ${whatOf(control, latent)[0].toLowerCase()}, ${says(amount)}: ${inWords(now)}; ${n} ${n === 1 ? "patch differs" : "patches differ"}`);
        map(made, image, now);
        made.lines.replaceChildren(...drawn("changed", outline(wide, high, (p) => old[p] !== now[p])));
        fill(text, el("b", null, `${number(n)} ${n === 1 ? "patch changes" : "patches change"}`), ` · ${target}: ${number(count(old, t))} → ${number(count(now, t))}`);
      } };
    }

    // The image in which the edit changes most patches.
    function telling(amount) {
      const all = common.path.map((_, image) => changes(NONE, image, amount));
      return all.indexOf(Math.max(...all));
    }

    const before_ = el("figure", { class: "edit-panel" }, el("figcaption", null, "Before"), was.frame, wasSays);
    return {
      edited: edited.edited, before: before_, where: edited.figure, legend, draw, panel, telling,
      summary: (image, amount) => `Patches of this image that change: ${controls.map((control) => `${number(changes(control, image, amount))} by ${control === NONE ? `latent ${latent}` : whatOf(control)[0].toLowerCase()}`).join(", ")}.`,
    };
  }

  // --- heads on images: bars of probabilities

  function barPanels(data, edit) {
    const { names, controls, amounts, link } = common, [latent, target] = page.about.edits.pairs[edit];
    const t = names.indexOf(target), n = common.path.length, entries = data.class.length, traits = link === "logistic";
    const none = data.label instanceof Uint8Array ? 255 : 65535;
    const place = (control, amount) => controls.indexOf(control) * amounts.length + amount;
    const predicted = (control, image, amount) => data.predicted_after[place(control, amount) * n + image];
    const edited = editedPanel(data, latent, "Where it is edited"), text = el("p", { class: "does" });
    edited.figure.append(text);

    // [class, probability before, after] of the classes that are kept of an image
    function kept(control, image, amount) {
      const found = [];
      for (let e = data.ptr[image]; e < data.ptr[image + 1]; e++) found.push([data.class[e], data.before[e], data.after[place(control, amount) * entries + e]]);
      return found;
    }
    const ofTarget = (control, image, amount) => kept(control, image, amount).find(([c]) => c === t);

    // The target, and the classes that the latent's own edit changes most; the same for the controls.
    function shownOf(image, amount) {
      const others = kept(NONE, image, amount).filter(([c]) => c !== t);
      others.sort((a, b) => Math.abs(b[2] - b[1]) - Math.abs(a[2] - a[1]) || b[1] - a[1] || a[0] - b[0]);
      return [t, ...others.slice(0, CLASSES_SHOWN - 1).map(([c]) => c)];
    }

    const said = (yes) => (yes ? "yes" : "no");
    function draw(image) {
      edited.draw(image);
      const label = data.label[image];
      if (traits) fill(text, el("b", null, `${target}: ${said(data.predicted[image])}`), label === none ? "" : ` · label: ${said(label)}`);
      else fill(text, el("b", null, `Predicted: ${names[data.predicted[image]]}`), label === none ? "" : ` · label: ${names[label]}`);
    }

    const inWords = (control, image, amount) => {
      const was = data.predicted[image], now = predicted(control, image, amount);
      if (!traits) return was === now ? `still ${names[was]}` : `${names[was]} → ${names[now]}`;
      const turned = data.turned[place(control, amount) * n + image];
      return `${target}: ${was === now ? `still ${said(was)}` : `${said(was)} → ${said(now)}`}${turned ? ` · ${number(turned)} other ${turned === 1 ? "trait turns" : "traits turn"}` : ""}`;
    };

    function panel(control) {
      const does = el("p", { class: "does" }), bars = el("ul", { class: "bars", "aria-label": "Probability before and after" });
      return { box: [does, bars], draw(image, amount) {
        fill(does, el("b", null, traits ? "" : "Predicted: ", inWords(control, image, amount)));
        const by = new Map(kept(control, image, amount).map((one) => [one[0], one]));
        fill(bars, shownOf(image, amount).map((c) => {
          const [, was, now] = by.get(c);
          return el("li", { class: c === t ? "target" : null }, el("span", { class: "who", title: names[c] }, names[c], c === t ? " (target)" : ""),
            el("span", { class: "n" }, `${percent(was)} → `, el("b", null, percent(now))),
            el("span", { class: "track", "aria-hidden": "true" }, el("i", { class: "was", style: `width:${100 * was}%` }), el("i", { style: `width:${100 * now}%` })));
        }));
      } };
    }

    function telling(amount) {
      const all = common.path.map((_, image) => { const [, was, now] = ofTarget(NONE, image, amount); return Math.abs(now - was); });
      return all.indexOf(Math.max(...all));
    }

    return {
      edited: edited.edited, before: null, where: edited.figure, legend: el("p", { class: "faint" }, traits ? "Bars: probability of the trait, thin before and thick after the edit." : "Bars: probability of the class, thin before and thick after the edit.", ` The target and the ${traits ? "traits" : "classes"} that the latent changes most.`), draw, panel, telling,
      summary: (image, amount) => `The probability of ${target} goes from ${percent(ofTarget(NONE, image, amount)[1])} to ${controls.map((control) => `${percent(ofTarget(control, image, amount)[2])} by ${control === NONE ? `latent ${latent}` : whatOf(control)[0].toLowerCase()}`).join(", ")}.`,
    };
  }

  return { parse, title, links, list, show, address };
})();
