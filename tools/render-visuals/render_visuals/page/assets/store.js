"use strict";
// Loads data. A page opened from disk may not fetch files, but it may run scripts: each chunk of data is a script
// that calls saetools.put(name, value), with arrays as {t: type, b: base64}.
window.saetools = (function () {
  const KEPT = 160; // chunks in memory beyond those that are always needed
  const chunks = new Map(); // name -> {promise, resolve, reject}, the latest used last

  function put(name, value) {
    const entry = chunks.get(name) || expect(name);
    entry.resolve(decoded(value));
  }

  function expect(name) {
    const entry = {};
    entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    chunks.set(name, entry);
    return entry;
  }

  // The value of a chunk, as a promise; loaded once, dropped when many others have been used since.
  function load(name) {
    let entry = chunks.get(name);
    if (entry) {
      chunks.delete(name);
      chunks.set(name, entry);
      return entry.promise;
    }
    entry = expect(name);
    const script = document.createElement("script");
    script.src = `data/${name}.js`;
    script.onload = () => script.remove();
    script.onerror = () => {
      chunks.delete(name);
      script.remove();
      entry.reject(new Error(`data/${name}.js is missing; was the whole folder copied?`));
    };
    document.head.append(script);
    for (const old of chunks.keys()) {
      if (chunks.size <= KEPT) break;
      if (old.includes("/")) chunks.delete(old);
    }
    return entry.promise;
  }

  const TYPES = { f4: Float32Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i4: Int32Array };
  let half; // float16 bits -> number

  function decoded(value) {
    if (Array.isArray(value)) return value.length && typeof value[0] === "object" ? value.map(decoded) : value;
    if (value === null || typeof value !== "object") return value;
    if (typeof value.t === "string" && typeof value.b === "string") return numbers(value);
    return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, decoded(part)]));
  }

  function numbers({ t, b }) {
    const text = atob(b);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return t === "f2" ? fromHalf(new Uint16Array(bytes.buffer)) : new TYPES[t](bytes.buffer);
  }

  function fromHalf(bits) {
    if (!half) {
      half = new Float32Array(1 << 16);
      for (let i = 0; i < half.length; i++) {
        const sign = i >> 15 ? -1 : 1, exponent = (i >> 10) & 31, fraction = i & 1023;
        if (exponent === 0) half[i] = sign * fraction * 2 ** -24;
        else if (exponent === 31) half[i] = fraction ? NaN : sign * Infinity;
        else half[i] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
      }
    }
    return Float32Array.from(bits, (i) => half[i]);
  }

  // Latents: their examples, distribution and neighbours.
  async function latent(number) {
    const per = page.about.latents_per_chunk;
    const chunk = await load(`latents/${String(Math.floor(number / per)).padStart(4, "0")}`);
    const i = number % per;
    const examples = [];
    for (let e = chunk.example_ptr[i]; e < chunk.example_ptr[i + 1]; e++) {
      const from = chunk.patch_ptr[e], to = chunk.patch_ptr[e + 1];
      const value = chunk.value.subarray(from, to).map((v) => v * chunk.scale);
      examples.push({ image: chunk.image[e], quantile: chunk.quantile[e], patch: chunk.patch.subarray(from, to), value });
    }
    const near = page.about.n_near;
    return {
      number,
      top: examples.filter((e) => e.quantile > 1),
      spread: examples.filter((e) => e.quantile <= 1),
      firstBin: chunk.first_bin,
      hist: chunk.hist.subarray(i * chunk.n_bins, (i + 1) * chunk.n_bins),
      near: near ? chunk.near.subarray(i * near, (i + 1) * near) : [],
      cosine: near ? chunk.cosine.subarray(i * near, (i + 1) * near) : [],
    };
  }

  // An image: which latents fire at each patch, and its labels.
  async function image(number) {
    const per = page.about.images_per_chunk, patches = page.about.n_patches;
    const chunk = await load(`images/${String(Math.floor(number / per)).padStart(4, "0")}`);
    const first = (number % per) * patches;
    const start = chunk.row_ptr[first], end = chunk.row_ptr[first + patches];
    return {
      number,
      ptr: chunk.row_ptr.subarray(first, first + patches + 1).map((at) => at - start),
      latent: chunk.latent.subarray(start, end),
      value: chunk.value.subarray(start, end).map((v) => v * chunk.scale),
      labels: chunk.labels ? chunk.labels.subarray(first, first + patches) : null,
    };
  }

  // The name of an image's class, empty where none was recorded.
  function classOf(number) {
    const classes = page.images.class;
    return classes ? classes.texts[classes.code[number]] : "";
  }

  // What every view shares, filled by main.js.
  const page = { about: null, table: null, images: null, tops: null, byLatent: new Map() };
  return { put, load, latent, image, classOf, page };
})();
