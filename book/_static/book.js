// Open the folded block that a link points into, and fold everything open before printing.
function unfold(target) {
  for (let node = target; node; node = node.parentElement) {
    if (node.tagName === "DETAILS") node.open = true;
  }
  if (target) target.scrollIntoView();
}

function unfoldTarget() {
  const id = decodeURIComponent(window.location.hash.slice(1));
  if (id) unfold(document.getElementById(id));
}

window.addEventListener("hashchange", unfoldTarget);
window.addEventListener("DOMContentLoaded", unfoldTarget);
window.addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((node) => { node.open = true; });
});
