"use strict";
// Building elements and writing numbers.
saetools.elements = (function () {
  // el("a", {class: "x", href: "#", onclick: f}, "text", child, [children]): an element; null children are left out.
  function el(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
    return made;
  }

  // Puts these in place of what an element held; null ones are left out.
  function fill(box, ...children) {
    box.replaceChildren(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  }

  function svg(tag, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function number(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "";
    if (Number.isInteger(value)) return value.toLocaleString("en");
    const size = Math.abs(value);
    if (size < 0.001 || size >= 1e5) return value.toExponential(1).replace("e-", "e−").replace("e+", "e");
    return value.toPrecision(3).replace("-", "−");
  }

  function percent(value) {
    if (Number.isNaN(value)) return "";
    const hundred = 100 * value;
    return `${hundred !== 0 && hundred < 1e-5 ? hundred.toExponential(0).replace("e-", "e−") : Number(hundred.toPrecision(2))}%`;
  }

  // The file name at the end of a path is what tells images apart; it is shown from its end (see .path in page.css).
  // The mark keeps "/" and numbers in their order there.
  const ltr = (path) => `\u200e${path}`;

  // A colour of page.css, for a canvas; it differs between light and dark. And its font.
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const font = () => `11px ${colour("sans")}`;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new CustomEvent("colours")));

  // A line above the views, until it is closed; the next of its kind ("trouble" or "done") takes its place.
  function say(kind, text) {
    document.querySelectorAll(`.said.${kind}`).forEach((old) => old.remove());
    const said = el("div", { class: `said ${kind}`, role: kind === "trouble" ? "alert" : "status" }, el("p", null, text),
      el("button", { type: "button", "aria-label": "Close this message", title: "Close", onclick: () => said.remove() }, "×"));
    document.querySelector("main").before(said);
    said.scrollIntoView({ block: "nearest" });
  }

  const trouble = (error) => say("trouble", error.message || String(error));

  return { el, fill, svg, number, percent, ltr, colour, font, say, trouble };
})();
