// Lemma 1 and Claim 1: a signal to drag before rules that keep one of its two components.
(() => {
  "use strict";
  const { make, modulo, slider, radios } = window.lps;

  function signal(root, data) {
    const N = 12, TOP = 9, GRID = 2 ** 24;
    const START = [3, 7, 5, 1, 6, 4, 8, 2, 4, 5, 9, 3], TIE = [1, 1, 2, 3, 3, 2, 4, 4, 6, 5, 5, 6];
    const T = (x, d) => x.map((_, n) => x[modulo(n + d, x.length)]);
    const part = (x, k) => x.filter((_, n) => n % 2 === k); // Eq. (6)
    const energy = (p) => p.reduce((total, v) => total + v * v, 0);
    const circular = (p, n) => p[modulo(n, p.length)], zeros = (p, n) => p[n] ?? 0;
    // Eq. (23), in sums of whole numbers, which do not depend on their order
    const learned = (padding) => (p) => {
      const { weight1, bias1, taps } = data;
      return taps.reduce((total, tap, h) => total + tap * p.reduce((sum, _, n) => {
        const seen = [-1, 0, 1].reduce((s, t, i) => s + weight1[3 * h + i] * padding(p, n + t), bias1[h]);
        return sum + Math.round(Math.max(seen, 0) * GRID);
      }, 0), 0) / GRID / p.length;
    };
    const rules = {
      "Phase 0": null, "Largest norm (APS)": energy, "Smallest norm": (p) => -energy(p), "Learned (LPD)": learned(circular),
      "Learned, zero padding": learned(zeros),
    };
    const state = { x: [...START], d: 1, rule: "Phase 0" };

    function choose(x) {
      const rule = rules[state.rule];
      if (!rule) return { k: 0, scores: null, tied: false };
      const scores = [rule(part(x, 0)), rule(part(x, 1))];
      return { k: scores[1] > scores[0] ? 1 : 0, scores, tied: scores[0] === scores[1] };
    }

    // Eq. (1): the output is that of x, moved by d / 2 rounded down or up
    function follows(d) {
      const y = part(state.x, choose(state.x).k), moved = T(state.x, d), found = part(moved, choose(moved).k);
      return [Math.floor(d / 2), Math.ceil(d / 2)].some((q) => String(T(y, q)) === String(found));
    }

    const bars = (values, origin) => values.map((value, n) => make("span", { class: "lps-bar", title: `${value}` },
      make("i", { class: origin[n] % 2 ? "odd" : "even", style: `height:${(100 * value) / TOP}%` }), make("b", {}, `${value}`)));
    const handles = state.x.map((_, n) => {
      const handle = make("span", {
        class: "lps-bar", role: "slider", tabindex: 0, "aria-orientation": "vertical", "aria-label": `Sample ${n}`,
        "aria-valuemin": 0, "aria-valuemax": TOP,
      });
      const set = (value) => { state.x[n] = Math.max(0, Math.min(TOP, value)); show(); };
      const to = (event) => {
        const box = handle.getBoundingClientRect();
        set(Math.round((TOP * (box.bottom - event.clientY)) / box.height));
      };
      handle.addEventListener("pointerdown", (event) => { handle.setPointerCapture(event.pointerId); to(event); });
      handle.addEventListener("pointermove", (event) => { if (handle.hasPointerCapture(event.pointerId)) to(event); });
      handle.addEventListener("keydown", (event) => {
        const value = { ArrowUp: state.x[n] + 1, ArrowRight: state.x[n] + 1, ArrowDown: state.x[n] - 1, ArrowLeft: state.x[n] - 1, Home: 0, End: TOP }[event.key];
        if (value === undefined) return;
        event.preventDefault();
        set(value);
      });
      return handle;
    });
    const shift = slider({ min: 0, max: N - 1, value: state.d, id: "lps-signal-shift" }, (d) => `Shift d = ${d}`, (d) => { state.d = d; show(); });
    const choices = radios("Which component is kept?", "lps-rule", Object.keys(rules), state.rule, (name) => { state.rule = name; show(); });
    const button = (text, x) => make("button", { type: "button", onclick: () => { state.x = [...x]; show(); } }, text);
    const columns = [make("div", {}), make("div", {})];
    const verdict = make("p", { class: "lps-verdict-line", role: "status", "aria-live": "polite" });
    root.replaceChildren(
      choices, make("div", { class: "lps-buttons" }, shift, button("Tie the norms", TIE), button("Start again", START)),
      make("div", { class: "lps-columns" }, ...columns), verdict);
    const own = make("div", { class: "lps-signal", role: "group", "aria-label": "The signal x" }, ...handles);

    function components(name, x, d) {
      const { k, scores, tied } = choose(x);
      return [0, 1].map((phase) => {
        const values = part(x, phase), origin = values.map(() => phase + d), kept = phase === k;
        const score = scores ? `, score ${Math.round(1000 * scores[phase]) / 1000}${tied ? ", a tie" : ""}` : "";
        return make("div", { class: kept ? "lps-component kept" : "lps-component" },
          make("p", {}, `Poly(${name})`, make("sub", {}, `${phase}`), score, kept ? make("strong", {}, " kept") : ""),
          make("div", { class: "lps-signal", role: "img", "aria-label": `${kept ? "kept: " : ""}${values.join(" ")}` }, ...bars(values, origin)));
      });
    }

    function show() {
      const { x, d } = state, moved = T(x, d), name = d === 1 ? "T x" : `T${String(d).replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit])} x`;
      handles.forEach((handle, n) => {
        handle.replaceChildren(...bars([x[n]], [n])[0].children);
        handle.setAttribute("aria-valuenow", x[n]);
      });
      if (!own.isConnected) columns[0].replaceChildren(make("p", {}, "x: drag the bars"), own, make("div", { class: "lps-parts" }));
      columns[0].lastChild.replaceChildren(...components("x", x, 0));
      columns[1].replaceChildren(
        make("p", {}, `${name}: x moved by ${d}`),
        make("div", { class: "lps-signal", role: "img", "aria-label": moved.join(" ") }, ...bars(moved, moved.map((_, n) => n + d))),
        make("div", { class: "lps-parts" }, ...components(name, moved, d)));
      const good = Array.from({ length: N }, (_, n) => n).filter(follows).length;
      const tied = choose(x).tied ? " The scores tie, and the first component is taken, whatever it holds." : "";
      verdict.textContent = `${state.rule}: ${follows(d) ? "the kept samples moved with the signal." : "other samples are kept than before the shift."} ` +
        `Over all shifts it follows at ${good} of ${N}.${tied}`;
      Object.assign(root.dataset, { good, follows: follows(d) });
    }
    show();
  }

  window.lps.widget("signal", signal);
})();
