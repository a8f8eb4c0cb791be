// A picture to drag before four networks. What they are made of stands in the page as JSON, and the worker is made from a
// function here: a page that is opened from the disk may fetch neither data nor workers.
(() => {
  "use strict";
  const { make, modulo, bytes } = window.lps;
  const SIZE = 32, PLACES = SIZE * SIZE, CELL = 4;

  // The networks ---------------------------------------------------------------------------------------------

  // All of the worker. In 64-bit numbers, of which a shift changes no bit: a convolution adds its terms in the same
  // order at every position, and a sum over positions adds whole numbers, which is exact in any order below 2^53.
  function engine() {
    const GRID = 2 ** 24;
    let products = 0; // multiply-adds since it was set to zero

    // C maps of S x S with their neighbours across the border
    function wrapped(x, C, S) {
      const P = S + 2, padded = new Float64Array(C * P * P);
      for (let c = 0, n = 0; c < C; c++)
        for (let i = 0; i < P; i++, n += P) {
          const row = (c * S + ((i + S - 1) % S)) * S;
          padded[n] = x[row + S - 1];
          for (let j = 0; j < S; j++) padded[n + 1 + j] = x[row + j];
          padded[n + S + 1] = x[row];
        }
      return padded;
    }

    // circular convolution, 3 x 3, of C maps of S x S, with a stride; two outputs at a time, which read the same samples
    function convolve(x, C, S, weight, bias, stride = 1) {
      const O = bias.length, P = S + 2, M = S / stride, padded = wrapped(x, C, S), y = new Float64Array(O * M * M);
      products += 9 * C * O * M * M;
      for (let o = 0; o < O; o++) y.fill(bias[o], o * M * M, (o + 1) * M * M);
      for (let o = 0; o < O; o += 2)
        for (let c = 0; c < C; c++) {
          const t = (o * C + c) * 9, u = t + C * 9;
          const a = weight[t], b = weight[t + 1], d = weight[t + 2], e = weight[t + 3], f = weight[t + 4],
            g = weight[t + 5], h = weight[t + 6], k = weight[t + 7], l = weight[t + 8];
          const A = weight[u], B = weight[u + 1], D = weight[u + 2], E = weight[u + 3], F = weight[u + 4],
            G = weight[u + 5], H = weight[u + 6], K = weight[u + 7], L = weight[u + 8];
          for (let i = 0; i < M; i++) {
            let n = (o * M + i) * M, m = n + M * M, p = (c * P + i * stride) * P, q = p + P, r = q + P;
            for (let j = 0; j < M; j++, n++, m++, p += stride, q += stride, r += stride) {
              const p0 = padded[p], p1 = padded[p + 1], p2 = padded[p + 2], q0 = padded[q], q1 = padded[q + 1],
                q2 = padded[q + 2], r0 = padded[r], r1 = padded[r + 1], r2 = padded[r + 2];
              y[n] = y[n] + a * p0 + b * p1 + d * p2 + e * q0 + f * q1 + g * q2 + h * r0 + k * r1 + l * r2;
              y[m] = y[m] + A * p0 + B * p1 + D * p2 + E * q0 + F * q1 + G * q2 + H * r0 + K * r1 + L * r2;
            }
          }
        }
      return y;
    }

    const relu = (x) => { for (let n = 0; n < x.length; n++) if (x[n] < 0) x[n] = 0; return x; };

    // Tri-3, where phase 0 is: what LPF keeps
    function blur(x, C, S) {
      const P = S + 2, padded = wrapped(x, C, S), y = new Float64Array(x.length / 4);
      products += 9 * y.length;
      for (let c = 0, n = 0; c < C; c++)
        for (let i = 0; i < S; i += 2)
          for (let j = 0, p = (c * P + i) * P; j < S; j += 2, n++, p += 2)
            y[n] = (padded[p] + 2 * padded[p + 1] + padded[p + 2] + 2 * padded[p + P] + 4 * padded[p + P + 1] + 2 * padded[p + P + 2] +
              padded[p + 2 * P] + 2 * padded[p + 2 * P + 1] + padded[p + 2 * P + 2]) / 16;
      return y;
    }

    // Eq. (6): phase k = 2 i + j has rows i, i + 2, ... and columns j, j + 2, ...
    function component(x, C, S, k) {
      const H = S / 2, y = new Float64Array(C * H * H);
      for (let c = 0, n = 0; c < C; c++)
        for (let i = k >> 1; i < S; i += 2) for (let j = k & 1; j < S; j += 2) y[n++] = x[(c * S + i) * S + j];
      return y;
    }

    const means = (x, C) => Array.from({ length: C }, (_, c) => {
      const N = x.length / C;
      let total = 0;
      for (let n = c * N; n < (c + 1) * N; n++) total += Math.round(x[n] * GRID);
      return total / GRID / N;
    });

    // Eqs. (5) and (23); after a convolution the mean needs only the sum of its taps
    const rules = {
      aps: (part) => {
        let total = 0;
        products += part.length;
        for (let n = 0; n < part.length; n++) total += Math.round(part[n] * part[n] * GRID);
        return total;
      },
      lps: (part, C, S, of) => {
        const hidden = relu(convolve(part, C, S, of("conv1.weight"), of("conv1.bias"))), H = of("conv1.bias").length;
        const second = of("conv2.weight"), taps = new Float64Array(H);
        for (let n = 0; n < second.length; n++) taps[Math.floor(n / 9) % H] += second[n];
        return means(hidden, H).reduce((total, mean, c) => total + mean * taps[c], 0);
      },
    };

    // Equal scores are told apart by the content, seen through windows; components that agree there too are the same.
    function fingerprint(part, C, S) {
      let total = 0;
      for (let i = 0; i < S; i++)
        for (let j = 0; j < S; j++) {
          let seen = 0;
          for (let c = 0; c < C; c++) {
            const at = (y, x) => part[(c * S + y % S) * S + x % S];
            seen += (c + 1) * (0.61 * at(i, j) + 0.37 * at(i, j + 1) + 0.23 * at(i + 1, j));
          }
          total += Math.round(seen * seen * GRID);
        }
      return total;
    }

    function choose(method, parts, C, S, of) {
      const scores = parts.map((part) => rules[method](part, C, S, of)), best = Math.max(...scores);
      const tied = [0, 1, 2, 3].filter((k) => scores[k] === best);
      if (tied.length === 1) return tied[0];
      const prints = tied.map((k) => fingerprint(parts[k], C, S));
      return tied[prints.indexOf(Math.min(...prints))];
    }

    // Logits of a picture, and the phase that each sampling layer keeps.
    function run({ method, weights }, picture) {
      const phases = [];
      let x = picture, C = 3, S = 32;
      for (let layer = 0; ; layer++) {
        const bias = weights[`convs.${layer}.bias`];
        const last = !weights[`convs.${layer + 1}.bias`], stride = method === "baseline" && !last ? 2 : 1;
        x = relu(convolve(x, C, S, weights[`convs.${layer}.weight`], bias, stride)); // Eq. (4), where it has a stride
        C = bias.length;
        if (last) break;
        let k = 0;
        if (method === "lpf") x = blur(x, C, S);
        if (method in rules) {
          const parts = [0, 1, 2, 3].map((phase) => component(x, C, S, phase)); // Eq. (6)
          k = choose(method, parts, C, S / 2, (name) => weights[`samplers.${layer}.select.${name}`]);
          x = parts[k]; // Eq. (7)
        }
        S /= 2;
        phases.push(k);
      }
      const features = means(x, C), weight = weights["head.weight"]; // Eq. (3)
      const logits = Array.from(weights["head.bias"], (bias, o) =>
        features.reduce((total, feature, c) => total + feature * weight[o * C + c], bias));
      return { logits, phases };
    }

    function shifted(pixels, dy, dx) {
      const y = new Float64Array(pixels.length);
      for (let c = 0; c < 3; c++)
        for (let i = 0; i < 32; i++)
          for (let j = 0; j < 32; j++) y[(c * 32 + (i + dy) % 32) * 32 + (j + dx) % 32] = pixels[(c * 32 + i) * 32 + j] / 255 - 0.5;
      return y;
    }

    let networks, pixels, id, place = 0;
    const at = (n) => {
      const picture = shifted(pixels, n >> 5, n & 31);
      return networks.map((network) => run(network, picture));
    };
    // the places in an order in which the maps fill evenly: 357 has no divisor in common with 1024
    const order = (step) => (step * 357) % 1024;

    // one place at a time, by messages to itself: a move that the page sends meanwhile comes next
    const next = new MessageChannel();
    let found = [], sent = 0;

    function work(job) {
      if (job !== id || place === 1024) return;
      const n = order(place++);
      found.push([n, at(n).map(({ logits }) => logits)]);
      if (place === 1024 || Date.now() > sent + 50) {
        postMessage({ id, found });
        [found, sent] = [[], Date.now()];
      }
      next.port2.postMessage(job);
    }
    next.port1.onmessage = ({ data }) => work(data);

    onmessage = ({ data }) => {
      if (data.networks) {
        networks = data.networks;
        return;
      }
      if (data.pixels) {
        [pixels, id, place, found] = [data.pixels, data.id, 0, []];
        next.port2.postMessage(id);
      }
      products = 0;
      const now = at(data.look);
      postMessage({ id, look: data.look, now, products });
    };
  }

  // The picture ----------------------------------------------------------------------------------------------

  function drag(root, data) {
    const all = bytes(data.pictures), one = 3 * PLACES;
    const networks = data.networks.map(({ name, method, accuracy, weights }) => ({
      name, method, accuracy,
      weights: Object.fromEntries(Object.entries(weights).map(([key, text]) => [key, new Float32Array(bytes(text).buffer)])),
    }));
    const state = { index: data.first, pixels: null, dy: 0, dx: 0, id: 0, brush: false, cursor: [16, 16], drawn: false };
    const worker = new Worker(URL.createObjectURL(new Blob([`(${engine})()`], { type: "text/javascript" })));
    worker.postMessage({ networks });

    const picture = make("canvas", {
      width: SIZE, height: SIZE, tabindex: 0, class: "lps-picture", role: "application", "aria-describedby": "lps-drag-how",
    });
    const said = make("p", { class: "lps-said", role: "status", "aria-live": "polite" });
    const where = make("p", { class: "lps-where" });
    const how = make("p", { id: "lps-drag-how", class: "lps-hint" }), speed = make("p", { class: "lps-hint" });
    const button = (text, action, more) => make("button", { type: "button", onclick: action, ...more }, text);
    const brush = button("Draw", () => { state.brush = !state.brush; show(); }, { "aria-pressed": "false" });
    const colour = make("input", { type: "color", value: "#ffffff", "aria-label": "Colour of the brush" });
    const thumbs = data.labels.map((label, n) => {
      const canvas = make("canvas", { width: SIZE, height: SIZE });
      paint(canvas, all.subarray(n * one, (n + 1) * one), 0, 0);
      return button(canvas, () => pick(n), { "aria-label": data.classes[label], "aria-pressed": "false", title: data.classes[label] });
    });
    const arrows = [["←", 0, -1, "left"], ["↑", -1, 0, "up"], ["↓", 1, 0, "down"], ["→", 0, 1, "right"]].map(
      ([sign, dy, dx, name]) => button(sign, () => move(state.dy + dy, state.dx + dx), { "aria-label": `One pixel ${name}` }));
    const cards = networks.map(({ name, accuracy }) => card(name, accuracy));
    root.replaceChildren(
      make("div", { class: "lps-stage" }, picture,
        make("div", { class: "lps-controls" },
          make("div", { class: "lps-thumbs", role: "group", "aria-label": "Pictures" }, ...thumbs),
          make("div", { class: "lps-buttons" }, ...arrows, button("Back to the start", () => move(0, 0))),
          make("div", { class: "lps-buttons" }, brush, colour, button("Undo drawing", () => pick(state.index))),
          where, how, speed)),
      make("div", { class: "lps-cards" }, ...cards.map(({ node }) => node)), said);

    function card(name, accuracy) {
      const bars = data.classes.map((label, n) => {
        const bar = make("i", { style: `background:${data.colours[n]}` });
        return { bar, row: make("span", {}, make("span", {}, label), make("span", { class: "lps-track" }, bar)) };
      });
      const map = make("canvas", { width: SIZE * CELL, height: SIZE * CELL, class: "lps-map", role: "img" });
      map.addEventListener("click", (event) => {
        const box = map.getBoundingClientRect(), cell = box.width / SIZE;
        move(Math.floor((event.clientY - box.top) / cell), Math.floor((event.clientX - box.left) / cell));
      });
      const parts = {
        verdict: make("p", { class: "lps-label" }), phases: make("p", { class: "lps-phases", role: "img" }), map,
        chart: make("div", { class: "lps-bars", role: "img" }, ...bars.map(({ row }) => row)),
        tally: make("p", { class: "lps-tally" }), bars: bars.map(({ bar }) => bar), labels: new Int8Array(PLACES),
      };
      const title = make("h3", {}, name, make("small", {}, ` ${accuracy} right`));
      parts.node = make("section", { "aria-label": name }, title, parts.verdict, parts.chart, parts.phases, map, parts.tally);
      return parts;
    }

    function paint(canvas, pixels, dy, dx) {
      const context = canvas.getContext("2d"), image = context.createImageData(SIZE, SIZE);
      for (let i = 0; i < SIZE; i++)
        for (let j = 0; j < SIZE; j++) {
          const to = ((i + dy) % SIZE * SIZE + (j + dx) % SIZE) * 4;
          for (let c = 0; c < 3; c++) image.data[to + c] = pixels[c * PLACES + i * SIZE + j];
          image.data[to + 3] = 255;
        }
      context.putImageData(image, 0, 0);
    }

    const look = () => state.dy * SIZE + state.dx;

    function restart() {
      state.id++;
      for (const each of cards) Object.assign(each, { first: null, done: 0, equal: 0, largest: 0, waiting: [] }).labels.fill(-1);
      state.asked = null; // a new picture is no move
      worker.postMessage({ pixels: state.pixels.slice(), id: state.id, look: look() });
      show();
    }

    function pick(n) {
      Object.assign(state, { index: n, pixels: all.slice(n * one, (n + 1) * one), dy: 0, dx: 0, drawn: false });
      thumbs.forEach((thumb, k) => thumb.setAttribute("aria-pressed", String(k === n)));
      restart();
    }

    function move(dy, dx) {
      [state.dy, state.dx] = [modulo(dy, SIZE), modulo(dx, SIZE)];
      state.asked = performance.now();
      worker.postMessage({ look: look() });
      show();
    }

    function draw(i, j) {
      const rgb = [1, 3, 5].map((n) => parseInt(colour.value.slice(n, n + 2), 16));
      for (const [di, dj] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
        const to = modulo(i + di - state.dy, SIZE) * SIZE + modulo(j + dj - state.dx, SIZE);
        rgb.forEach((value, c) => { state.pixels[c * PLACES + to] = value; });
      }
      state.drawn = true;
      restart();
    }

    function show() {
      paint(picture, state.pixels, state.dy, state.dx);
      if (state.brush) {
        const context = picture.getContext("2d");
        context.strokeStyle = colour.value;
        context.strokeRect(state.cursor[1] - 0.5, state.cursor[0] - 0.5, 3, 3);
      }
      const name = data.classes[data.labels[state.index]] + (state.drawn ? ", drawn on" : "");
      picture.setAttribute("aria-label", `The picture: ${name}`);
      picture.dataset.shift = `${state.dy},${state.dx}`;
      brush.setAttribute("aria-pressed", String(state.brush));
      how.textContent = state.brush
        ? "Draw with the pointer, or move the frame with the arrow keys and paint with the space bar."
        : "Drag the picture, or use the arrow keys: a pixel, with Shift eight. What leaves on one side returns on the other.";
      where.textContent = `A ${name}, moved ${state.dx} to the right and ${state.dy} down.`;
      cards.forEach(drawMap);
    }

    function drawMap(each) {
      const context = each.map.getContext("2d");
      context.clearRect(0, 0, SIZE * CELL, SIZE * CELL);
      each.labels.forEach((label, n) => {
        if (label < 0) return;
        context.fillStyle = data.colours[label];
        context.fillRect((n % SIZE) * CELL, Math.floor(n / SIZE) * CELL, CELL, CELL);
      });
      for (const [width, ink] of [[3, "#000"], [1.5, "#fff"]]) {
        Object.assign(context, { lineWidth: width, strokeStyle: ink });
        context.strokeRect(state.dx * CELL - 1, state.dy * CELL - 1, CELL + 2, CELL + 2);
      }
    }

    function decide(each, { logits, phases }, name) {
      const top = Math.max(...logits), powers = logits.map((z) => Math.exp(z - top)), sum = powers.reduce((a, b) => a + b);
      const percent = powers.map((p) => Math.round((100 * p) / sum)), label = logits.indexOf(top);
      each.bars.forEach((bar, n) => { bar.style.width = `${(100 * powers[n]) / sum}%`; });
      each.chart.setAttribute("aria-label", data.classes.map((c, n) => `${c} ${percent[n]} %`).join(", "));
      each.verdict.textContent = `${data.classes[label]}, ${percent[label]} %`;
      each.verdict.style.borderColor = data.colours[label];
      each.phases.replaceChildren("keeps ", ...phases.map((k) =>
        make("span", { class: "lps-phase" }, ...[0, 1, 2, 3].map((n) => make("i", n === k ? { class: "kept" } : {})))));
      each.phases.setAttribute("aria-label", `Phases kept by the layers: ${phases.join(", ")}`);
      each.node.dataset.logits = JSON.stringify(logits);
      return `${name}: ${data.classes[label]}`;
    }

    function note(each, found, name) {
      for (const [place, logits] of found) {
        if (place === 0) each.first = logits; // the worker begins with the picture where it was
        each.labels[place] = logits.indexOf(Math.max(...logits));
        each.done++;
        each.equal += logits.every((z, n) => z === each.first[n]);
        each.largest = Math.max(each.largest, ...logits.map((z, n) => Math.abs(z - each.first[n])));
      }
      const labels = new Set(each.labels);
      labels.delete(-1);
      const change = each.largest === 0 ? "0" : each.largest.toPrecision(2);
      const count = (n) => n.toLocaleString("en");
      each.tally.replaceChildren(
        make("b", {}, `${labels.size} label${labels.size === 1 ? "" : "s"}`), make("br"),
        `all scores equal at ${count(each.equal)} of ${count(each.done)} places`, make("br"), `largest change ${change}`);
      each.map.setAttribute("aria-label", `Labels of ${name} at ${each.done} of ${PLACES} places: ` +
        [...labels].map((label) => data.classes[label]).join(", "));
      Object.assign(each.node.dataset, { done: each.done, equal: each.equal, largest: each.largest });
      drawMap(each);
    }

    let speaking;
    worker.onmessage = ({ data: answer }) => {
      if (answer.id !== state.id) return;
      if (answer.found)
        cards.forEach((each, n) => note(each, answer.found.map(([place, logits]) => [place, logits[n]]), networks[n].name));
      else if (answer.look === look()) {
        const words = cards.map((each, n) => decide(each, answer.now[n], networks[n].name));
        const took = state.asked && performance.now() - state.asked;
        Object.assign(root.dataset, { shown: `${state.dy},${state.dx}`, took, products: answer.products });
        speed.textContent = `Four networks, ${(answer.products / 1e6).toFixed(1)} million multiply-adds a move` +
          (took === null ? "." : `: answered in ${Math.ceil(took)} ms.`);
        clearTimeout(speaking);
        speaking = setTimeout(() => { said.textContent = `${where.textContent} ${words.join("; ")}.`; }, 500);
      }
    };

    let held = null;
    const cellAt = (event) => {
      const box = picture.getBoundingClientRect();
      return [event.clientY - box.top, event.clientX - box.left].map((n) => Math.floor((n * SIZE) / box.width));
    };
    picture.addEventListener("pointerdown", (event) => {
      picture.setPointerCapture(event.pointerId);
      held = { from: cellAt(event), dy: state.dy, dx: state.dx };
      if (state.brush) { state.cursor = held.from; draw(...held.from); }
    });
    picture.addEventListener("pointermove", (event) => {
      if (!held) return;
      const [i, j] = cellAt(event);
      if (state.brush) { state.cursor = [i, j]; draw(i, j); }
      else move(held.dy + i - held.from[0], held.dx + j - held.from[1]);
    });
    for (const end of ["pointerup", "pointercancel"]) picture.addEventListener(end, () => { held = null; });
    picture.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (steps) {
        const [dy, dx] = steps.map((n) => n * (event.shiftKey ? 8 : 1));
        if (state.brush) { state.cursor = [modulo(state.cursor[0] + dy, SIZE), modulo(state.cursor[1] + dx, SIZE)]; show(); }
        else move(state.dy + dy, state.dx + dx);
      } else if (event.key === "Home") move(0, 0);
      else if (event.key === " " && state.brush) draw(...state.cursor);
      else return;
      event.preventDefault();
    });
    pick(data.first);
  }

  window.lps.widget("drag", drag);
})();
