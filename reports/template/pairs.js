"use strict";
// Hides the pairs that the filters leave out. Without this script all of them are listed.
const form = document.getElementById("filters");
const list = document.getElementById("pairs");
const pairs = [...list.children];
const texts = pairs.map((pair) => pair.textContent.toLowerCase());

function errs(pair, monitor, side) {
  const by = (kind) => pair.dataset[kind].split(" ").includes(monitor);
  return (side !== "benign" && by("missed")) || (side !== "misbehaving" && by("cried"));
}

function apply() {
  const wanted = Object.fromEntries(new FormData(form));
  const words = wanted.words.trim().toLowerCase();
  let shown = 0;
  pairs.forEach((pair, place) => {
    const fits = ["cell", "tier", "protocol"].every((name) => !wanted[name] || pair.dataset[name] === wanted[name])
      && (!wanted.monitor || errs(pair, wanted.monitor, wanted.side))
      && (!words || texts[place].includes(words));
    pair.hidden = !fits;
    shown += fits;
  });
  list.dataset.side = wanted.side;
  document.getElementById("count").textContent = `${shown} of ${pairs.length} pairs`;
}

form.addEventListener("input", apply);
form.addEventListener("reset", () => setTimeout(apply));
form.addEventListener("submit", (event) => event.preventDefault());
form.hidden = false;
apply();
