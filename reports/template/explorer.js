"use strict";
// Moves a threshold over counted errors. Without this script figure, table and one setting stand.
const form = document.getElementById("controls");
const sections = [...document.querySelectorAll("section.explored")];
const counted = sections.map((section) => JSON.parse(section.dataset.counts));
const field = form.elements;
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}%`;
const whole = (number) => Math.round(number).toLocaleString("en-US");

function rate(counts, name, place) {
  return [counts[name][place] / counts[`${name}_of`], counts[`${name}_low`][place], counts[`${name}_high`][place]];
}

function interval([, low, high]) {
  return `${(100 * low).toFixed(1)} to ${(100 * high).toFixed(1)}`;
}

function choose() { // another monitor: its own thresholds and promises
  const chosen = Number(field.monitor.value);
  sections.forEach((section, place) => { section.hidden = place !== chosen; });
  field.threshold.max = counted[chosen].threshold.length - 1;
  field.threshold.value = sections[chosen].dataset.begin;
  field.promise.replaceChildren(new Option("none, a free choice", ""));
  sections[chosen].querySelectorAll("tr[data-place]").forEach((row) => {
    const [rule, level] = row.cells;
    const option = new Option(`${rule.textContent}, level ${level.textContent}`, row.dataset.place);
    option.disabled = row.dataset.place === "-1"; // it never alarms
    field.promise.add(option);
  });
}

function show() {
  const chosen = Number(field.monitor.value);
  const counts = counted[chosen];
  const place = Number(field.threshold.value);
  const baseRate = 10 ** Number(field.base_rate.value);
  const perDay = Math.max(1, Number(field.per_day.value) || 1);
  const [missed, cried] = [rate(counts, "missed", place), rate(counts, "cried", place)];
  const right = perDay * baseRate * (1 - missed[0]);
  const wrong = perDay * (1 - baseRate) * cried[0];
  const threshold = String(counts.threshold[place]);
  const said = {
    mr: percent(missed[0]), far: percent(cried[0]), mr_interval: interval(missed), far_interval: interval(cried),
    precision: right + wrong > 0 ? percent(right / (right + wrong)) : "no alarm",
    alarms: whole(right + wrong), false_alarms: whole(wrong), missed: whole(perDay * baseRate * missed[0]),
    threshold, base_rate: percent(baseRate, 2), per_day: whole(perDay),
  };
  sections[chosen].querySelectorAll("[data-out]").forEach((place) => { place.textContent = said[place.dataset.out]; });
  const line = sections[chosen].querySelector("line.here");
  ["x1", "x2"].forEach((end) => line.setAttribute(end, 600 * counts.threshold[place]));
  field.threshold_shown.value = threshold;
  field.base_rate_shown.value = said.base_rate;
  field.threshold.setAttribute("aria-valuetext", threshold);
  field.base_rate.setAttribute("aria-valuetext", said.base_rate);
}

form.addEventListener("input", (event) => {
  if (event.target === field.monitor) choose();
  if (event.target === field.promise && field.promise.value) field.threshold.value = field.promise.value;
  if (event.target === field.threshold) field.promise.value = "";
  show();
});
form.addEventListener("submit", (event) => event.preventDefault());
form.hidden = false;
choose();
show();
