// How exact is exact: the four logits of LPD at every shift of a map, summed one after the other in numbers of few bits, or
// in whole numbers. The data are the values that each component's mean runs over.
(() => {
  "use strict";
  const { make, modulo, slider, radios, widget } = window.lps;
  const float = new Float64Array(1), words = new Uint32Array(float.buffer), HALVES = 1.5 * 2 ** 52, GRID = 2 ** 40;

  // x with so many significant bits: to the nearest, ties to even
  function rounded(x, bits) {
    if (x === 0) return 0;
    float[0] = x;
    const scale = 2 ** (bits - 1 - (((words[1] >>> 20) & 0x7ff) - 1023));
    return (x * scale + HALVES - HALVES) / scale;
  }

  function exact(root, data) {
    const { components, colours } = data, M = Math.sqrt(components[0].length), S = 2 * M, CELL = 10, WIDE = 640;
    const sums = {
      "one after the other": (values, bits) => values.reduce((sum, value) => rounded(sum + value, bits), 0),
      "whole numbers on a grid": (values) => values.reduce((sum, value) => sum + Math.round(value * GRID), 0) / GRID,
    };
    const state = { bits: 8, shift: 0, sum: "one after the other" };

    // By Lemma 1 phase k of the map shifted by d is component r of the map, shifted by q, with k + d = 2 q + r.
    function logits(d, values) {
      const at = [Math.floor(d / S), d % S], found = [];
      for (let k = 0; k < 4; k++) {
        const [i, j] = [k >> 1, k & 1].map((offset, axis) => offset + at[axis]), r = 2 * (i % 2) + (j % 2);
        const moved = [];
        for (let y = 0; y < M; y++) for (let x = 0; x < M; x++) moved.push(values[r][modulo(y + (i >> 1), M) * M + modulo(x + (j >> 1), M)]);
        found.push({ r, logit: sums[state.sum](moved, state.bits) / (M * M) }); // Eq. (23)
      }
      return found;
    }
    const first = (found) => found.reduce((best, each) => (each.logit > best.logit ? each : best)).r; // Eq. (7), the first of equals

    const ends = make("div", { class: "lps-ends" });
    const ruler = make("canvas", { width: WIDE, height: 90, class: "lps-ruler", role: "img" });
    const map = make("canvas", { width: S * CELL, height: S * CELL, class: "lps-map", role: "img" });
    map.addEventListener("click", (event) => {
      const box = map.getBoundingClientRect(), cell = box.width / S;
      go(Math.floor((event.clientY - box.top) / cell) * S + Math.floor((event.clientX - box.left) / cell));
    });
    const place = slider({ min: 0, max: S * S - 1, value: 0, id: "lps-exact-shift" }, (d) => `Shift ${Math.floor(d / S)} down, ${d % S} right`, (d) => { state.shift = d; draw(); });
    const named = { 24: " (float32)", 11: " (float16)", 8: " (bfloat16)" };
    const verdict = make("p", { class: "lps-verdict-line", role: "status", "aria-live": "polite" }), said = make("p", {});
    const next = make("button", { type: "button", onclick: () => go(state.flipped.find((d) => d > state.shift) ?? state.flipped[0] ?? 0) }, "Next flip");
    root.replaceChildren(
      radios("How is the mean summed?", "lps-exact-sum", Object.keys(sums), state.sum, (name) => { state.sum = name; compute(); }),
      make("div", { class: "lps-buttons" }, slider({ min: 3, max: 24, value: state.bits, id: "lps-exact-bits" }, (bits) => `${bits} bits${named[bits] ?? ""}`,
        (bits) => { state.bits = bits; compute(); }), place, next),
      ruler, ends, said, make("div", { class: "lps-ruled" }, map, verdict));

    function go(d) {
      const input = place.querySelector("input");
      input.value = d;
      input.dispatchEvent(new Event("input"));
    }

    function compute() {
      const values = components.map((part) => part.map((value) => rounded(value, state.bits)));
      state.found = Array.from({ length: S * S }, (_, d) => logits(d, values));
      state.kept = state.found.map(first);
      state.flipped = state.kept.flatMap((r, d) => (r === state.kept[0] ? [] : [d]));
      const different = new Set(state.found.map((found) => String(found.map(({ logit }) => logit).sort()))).size;
      const ties = (found) => found.filter(({ logit }) => logit === Math.max(...found.map((each) => each.logit))).length > 1;
      const tied = state.flipped.filter((d) => ties(state.found[d])).length;
      verdict.textContent = state.flipped.length
        ? `At ${state.flipped.length} of ${S * S} shifts another component is kept than of the unshifted map: the selection flips.` +
          (tied ? ` At ${tied} of them the best scores are equal, and the first is taken, whatever it holds.` : "")
        : `At all ${S * S} shifts the same component is kept. ` +
          (different === 1 ? "The four logits are the same four numbers everywhere." : `The four logits take ${different} different sets of values, but their order stays.`);
      next.disabled = !state.flipped.length;
      Object.assign(root.dataset, { kept: state.kept.join(""), flipped: state.flipped.length, different });
      draw();
    }

    function draw() {
      const found = state.found[state.shift], all = state.found.flat().map(({ logit }) => logit);
      const middle = (Math.max(...all) + Math.min(...all)) / 2, float_ = rounded(middle, state.bits);
      float[0] = Math.abs(float_);
      const step = 2 ** (((words[1] >>> 20) & 0x7ff) - 1023 - state.bits + 1); // from one number to the next
      const half = Math.max(0.6 * (Math.max(...all) - Math.min(...all)), 3 * step * (state.sum === "one after the other"), 1e-9);
      const x = (value) => WIDE / 2 + ((value - middle) / half) * (WIDE / 2 - 20), ink = getComputedStyle(root).color;
      const context = ruler.getContext("2d");
      Object.assign(context, { fillStyle: ink, strokeStyle: ink, lineWidth: 1 });
      context.clearRect(0, 0, WIDE, 90);
      context.fillRect(0, 80, WIDE, 1);
      if (x(middle + step) - x(middle) > 3)
        for (let n = Math.ceil((middle - half) / step); n * step <= middle + half; n++) context.fillRect(x(n * step), 74, 1, 12);
      ends.replaceChildren(...[middle - half, middle + half].map((end) => make("span", {}, end.toPrecision(7))));
      context.globalAlpha = 0.12;
      for (const { r, logit } of state.found.flat()) { context.fillStyle = colours[r]; context.fillRect(x(logit) - 1, 60, 2, 20); }
      context.globalAlpha = 1;
      found.forEach(({ r, logit }, k) => {
        context.fillStyle = colours[r];
        context.beginPath();
        context.arc(x(logit), 50 - 13 * k, 6, 0, 7);
        context.fill();
        context.fillRect(x(logit) - 0.5, 50 - 13 * k, 1, 30 + 13 * k);
      });
      const now = state.kept[state.shift];
      const key = found.flatMap(({ r, logit }, k) => [
        make("i", { class: "lps-key", style: `background: ${colours[r]}`, "aria-hidden": "true" }), `${logit.toPrecision(9)}${k < 3 ? ", " : ". "}`]);
      said.replaceChildren("Logits of phases 0 to 3: ", ...key,
        `Kept: component ${now} of the unshifted map${now === state.kept[0] ? "" : ", where it kept component " + state.kept[0]}.`);
      ruler.setAttribute("aria-label", said.textContent);

      const picture = map.getContext("2d");
      state.kept.forEach((r, d) => {
        picture.fillStyle = colours[r];
        picture.fillRect((d % S) * CELL, Math.floor(d / S) * CELL, CELL, CELL);
      });
      for (const [width, line] of [[4, "#000"], [2, "#fff"]]) {
        Object.assign(picture, { lineWidth: width, strokeStyle: line });
        picture.strokeRect((state.shift % S) * CELL, Math.floor(state.shift / S) * CELL, CELL, CELL);
      }
      map.setAttribute("aria-label", verdict.textContent);
      root.dataset.logits = JSON.stringify(found.map(({ logit }) => logit));
    }
    compute();
  }

  widget("exact", exact);
})();
