// Open the folded block that a link points into, fold everything open before printing, and say where tables are wide.
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

// Say where a table is wider than the page.
function markWide() {
  for (const node of document.querySelectorAll(".output.text_html, .pst-scrollable-table-container")) {
    node.classList.toggle("lps-wide", node.scrollWidth > node.clientWidth + 1);
  }
}

window.addEventListener("hashchange", unfoldTarget);
window.addEventListener("DOMContentLoaded", unfoldTarget);
window.addEventListener("load", markWide);
window.addEventListener("resize", markWide);
document.addEventListener("toggle", markWide, true);
window.addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((node) => { node.open = true; });
});
