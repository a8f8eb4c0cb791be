// What the widgets of the book share. A page that is opened from the disk may fetch neither data nor modules: scripts stand
// in the page one after the other, and the data of a widget NAME as JSON in the element lps-NAME-data.
window.lps = (() => {
  "use strict";

  function make(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== false) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  // a slider with its label, which `say` words anew for each value; both in one element
  function slider(attributes, say, oninput) {
    const input = make("input", { type: "range", ...attributes }), label = make("span", {});
    const show = () => { label.textContent = say(Number(input.value)); input.setAttribute("aria-valuetext", label.textContent); };
    input.addEventListener("input", () => { show(); oninput(Number(input.value)); });
    show();
    return make("label", { class: "lps-slider" }, label, input);
  }

  function radios(legend, name, choices, first, onchange) {
    return make("fieldset", { class: "lps-rules" }, make("legend", {}, legend), ...choices.map((choice) => make("label", {},
      make("input", { type: "radio", name, value: choice, ...(choice === first && { checked: "" }), onchange: () => onchange(choice) }),
      ` ${choice}`)));
  }

  // fill the element lps-NAME by `build(root, data)`, once the page is there
  function widget(name, build) {
    const begin = () => build(document.getElementById(`lps-${name}`), JSON.parse(document.getElementById(`lps-${name}-data`).textContent));
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
    else begin();
  }

  return {
    make, slider, radios, widget,
    modulo: (a, b) => ((a % b) + b) % b,
    bytes: (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)),
  };
})();
