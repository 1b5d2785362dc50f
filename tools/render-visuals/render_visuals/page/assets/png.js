"use strict";
// Pictures made in the page. As an image, a tile's heat is painted together with what it lies on; a canvas would be a
// layer of its own to the browser, and thirty of these take longer than all the rest of opening a latent.
saetools.png = (function () {
  const STORED = 65535; // bytes that one block of a zlib stream holds as they are
  const table = Uint32Array.from({ length: 256 }, (_, n) => {
    let crc = n;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1;
    return crc;
  });

  // The address of a PNG of these pixels: RGBA, width * height * 4 bytes, not compressed.
  function url(width, height, rgba) {
    const header = new DataView(new ArrayBuffer(13));
    header.setUint32(0, width);
    header.setUint32(4, height);
    header.setUint8(8, 8); // bits
    header.setUint8(9, 6); // RGBA
    const rows = new Uint8Array(height * (1 + 4 * width)); // each begins with its filter, 0: none
    for (let y = 0; y < height; y++) rows.set(rgba.subarray(4 * width * y, 4 * width * (y + 1)), y * (1 + 4 * width) + 1);
    const parts = [Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10), chunk("IHDR", new Uint8Array(header.buffer)),
      chunk("IDAT", zlib(rows)), chunk("IEND", new Uint8Array(0))];
    let text = "";
    for (const part of parts) for (const byte of part) text += String.fromCharCode(byte);
    return `data:image/png;base64,${btoa(text)}`;
  }

  function zlib(bytes) {
    const blocks = Math.max(1, Math.ceil(bytes.length / STORED)), made = new Uint8Array(2 + 5 * blocks + bytes.length + 4);
    made.set([0x78, 1]);
    let at = 2;
    for (let block = 0; block < blocks; block++) {
      const some = bytes.subarray(block * STORED, (block + 1) * STORED), n = some.length;
      made.set([block === blocks - 1 ? 1 : 0, n & 255, n >> 8, ~n & 255, (~n >> 8) & 255], at);
      made.set(some, at + 5);
      at += 5 + n;
    }
    let a = 1, b = 0; // Adler's check sum
    for (const byte of bytes) {
      a = (a + byte) % 65521;
      b = (b + a) % 65521;
    }
    new DataView(made.buffer).setUint32(at, b * 65536 + a);
    return made;
  }

  function chunk(name, bytes) {
    const made = new Uint8Array(12 + bytes.length), view = new DataView(made.buffer);
    view.setUint32(0, bytes.length);
    for (let i = 0; i < 4; i++) made[4 + i] = name.charCodeAt(i);
    made.set(bytes, 8);
    let crc = ~0;
    for (let i = 4; i < 8 + bytes.length; i++) crc = table[(crc ^ made[i]) & 255] ^ (crc >>> 8);
    view.setUint32(8 + bytes.length, ~crc);
    return made;
  }

  return { url };
})();
