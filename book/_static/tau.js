// The temperature: what the Gumbel-softmax makes of the four components of a picture, Eq. (17), from noise that torch drew.
(() => {
  "use strict";
  const { make, bytes, slider, radios, widget } = window.lps;
  const SHOWN = 8, COLD = -1.7, HOT = 0.7; // powers of ten

  // z = softmax((logits + g) / tau)
  function gumbelSoftmax(logits, noise, tau) {
    const scores = logits.map((logit, k) => (logit + noise[k]) / tau), top = Math.max(...scores);
    const powers = scores.map((score) => Math.exp(score - top)), sum = powers.reduce((a, b) => a + b);
    return powers.map((power) => power / sum);
  }

  function tau(root, data) {
    const { size, noise, colours } = data, pixels = 3 * size * size;
    const all = bytes(data.components), components = [0, 1, 2, 3].map((k) => all.subarray(k * pixels, (k + 1) * pixels));
    const choices = { "of the picture": data.logits, "all equal": [0, 0, 0, 0], "one far ahead": [4, 0, 0, 0] };
    const state = { tau: 1, from: 0, logits: "of the picture" };

    const canvas = () => make("canvas", { width: size, height: size, "aria-hidden": "true" });
    function paint(node, weights) {
      const context = node.getContext("2d"), image = context.createImageData(size, size);
      for (let n = 0; n < size * size; n++) {
        for (let c = 0; c < 3; c++)
          image.data[4 * n + c] = Math.round(weights.reduce((sum, z, k) => sum + z * components[k][c * size * size + n], 0)); // Eq. (17)
        image.data[4 * n + 3] = 255;
      }
      context.putImageData(image, 0, 0);
    }
    const stack = () => make("span", { class: "lps-stack", "aria-hidden": "true" }, ...colours.map((colour) => make("i", { style: `background:${colour}` })));
    const fill = (bar, weights) => weights.forEach((z, k) => { bar.children[k].style.width = `${100 * z}%`; });

    const parts = components.map((_, k) => {
      const picture = canvas(), words = make("figcaption", {});
      paint(picture, [0, 1, 2, 3].map((n) => Number(n === k)));
      return { words, node: make("figure", { style: `border-color:${colours[k]}` }, picture, words) };
    });
    const draws = Array.from({ length: SHOWN }, () => {
      const picture = canvas(), bar = stack();
      return { picture, bar, node: make("figure", { role: "img" }, picture, bar) };
    });
    const verdict = make("p", { class: "lps-verdict-line", role: "status", "aria-live": "polite" });
    root.replaceChildren(
      radios("Logits of the components", "lps-tau-logits", Object.keys(choices), state.logits, (name) => { state.logits = name; show(); }),
      make("div", { class: "lps-mixtures" }, ...parts.map(({ node }) => node)),
      make("div", { class: "lps-buttons" },
        slider({ min: COLD, max: HOT, step: 0.05, value: 0, id: "lps-tau-slider" }, (power) => `Temperature τ = ${(10 ** power).toPrecision(2)}`,
          (power) => { state.tau = 10 ** power; show(); }),
        make("button", { type: "button", onclick: () => { state.from = (state.from + SHOWN) % (noise.length - SHOWN + 1); show(); } }, "Draw again")),
      make("div", { class: "lps-mixtures" }, ...draws.map(({ node }) => node)), verdict);

    function show() {
      const logits = choices[state.logits], p = gumbelSoftmax(logits, [0, 0, 0, 0], 1); // Eq. (20)
      parts.forEach(({ words }, k) => { words.textContent = `p = ${p[k].toFixed(2)}`; });
      const z = noise.map((g) => gumbelSoftmax(logits, g, state.tau));
      draws.forEach(({ picture, bar, node }, n) => {
        const weights = z[state.from + n];
        paint(picture, weights);
        fill(bar, weights);
        node.setAttribute("aria-label", `Draw ${n + 1}: weights ${weights.map((w) => w.toFixed(2)).join(", ")}`);
      });
      const best = p.indexOf(Math.max(...p)), mean = (values) => values.reduce((a, b) => a + b) / values.length;
      const largest = mean(z.map((weights) => Math.max(...weights)));
      const wins = mean(z.map((weights) => Number(weights.indexOf(Math.max(...weights)) === best)));
      verdict.textContent = `Over ${z.length} draws the largest weight is ${largest.toFixed(2)} on average` +
        (state.logits === "all equal" ? "." : `; the likeliest component has it in ${Math.round(100 * wins)} % of them, at every temperature.`);
      Object.assign(root.dataset, { tau: state.tau, z: JSON.stringify(z.slice(state.from, state.from + SHOWN)), largest, wins });
    }
    show();
  }

  widget("tau", tau);
})();
