"use strict";
// a legend's entry lights up its series in all plots
for (const entry of document.querySelectorAll(".legend button")) {
  const plots = entry.closest("section");
  const light = (on) => {
    plots.classList.toggle("lit", on);
    for (const mark of plots.querySelectorAll("[data-series]")) {
      mark.classList.toggle("on", on && mark.dataset.series === entry.dataset.series);
    }
  };
  entry.addEventListener("pointerenter", () => light(true));
  entry.addEventListener("focus", () => light(true));
  entry.addEventListener("pointerleave", () => light(false));
  entry.addEventListener("blur", () => light(false));
}

// two pictures of one prompt, one over the other
const dialog = document.querySelector("dialog");
if (dialog) {
  const [prompt, ...sides] = dialog.querySelectorAll("select");
  const flip = dialog.querySelector(".flip");
  const faces = flip.querySelectorAll("img");
  let shown = 0;

  const show = () => {
    sides.forEach((side, k) => {
      const { src, alt } = document.querySelector(`[data-row="${side.value}"][data-image="${prompt.value}"] img`);
      Object.assign(faces[k], { src, alt, hidden: k !== shown });
      side.parentNode.classList.toggle("shown", k === shown);
    });
    const { label, dataset } = sides[shown].selectedOptions[0];
    dialog.querySelector(".seen").textContent = `${label}: ${dataset.notes}`;
  };
  const turn = () => { shown = 1 - shown; show(); };
  const step = (select, by) => {
    const count = select.options.length;
    select.selectedIndex = (select.selectedIndex + by + count) % count;
    show();
  };

  document.addEventListener("click", (event) => {
    const picture = event.target.closest(".sheet button");
    if (!picture) return;
    prompt.value = picture.dataset.image;
    sides[0].value = picture.dataset.row;
    sides[1].selectedIndex = sides[0].selectedIndex ? 0 : 1; // beside the dense one, which is the first
    shown = 0;
    show();
    dialog.showModal();
    flip.focus();
  });
  for (const select of [prompt, ...sides]) {
    select.addEventListener("change", () => { shown = Math.max(0, sides.indexOf(select)); show(); });
  }
  const steps = {
    ArrowRight: () => step(sides[shown], 1), ArrowLeft: () => step(sides[shown], -1),
    ArrowDown: () => step(prompt, 1), ArrowUp: () => step(prompt, -1),
  };
  dialog.addEventListener("keydown", (event) => {
    if (event.target.tagName === "SELECT" || !steps[event.key]) return;
    event.preventDefault();
    steps[event.key]();
  });

  let from = null, swiped = false;
  flip.addEventListener("pointerdown", (event) => { from = event; swiped = false; });
  flip.addEventListener("pointerup", (event) => {
    const [dx, dy] = from ? [event.clientX - from.clientX, event.clientY - from.clientY] : [0, 0];
    swiped = Math.max(Math.abs(dx), Math.abs(dy)) > 24;
    if (swiped && Math.abs(dx) > Math.abs(dy)) step(sides[shown], dx < 0 ? 1 : -1);
    else if (swiped) step(prompt, dy < 0 ? 1 : -1);
  });
  flip.addEventListener("click", () => {
    if (!swiped) turn();
    swiped = false;
  });
}
