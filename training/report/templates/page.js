"use strict";
const touch = matchMedia("(pointer: coarse)").matches;
const config = {
  displayModeBar: matchMedia("(hover: hover)").matches && "hover",
  displaylogo: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "sendChartToCloud"],
  plotlyServerURL: "",
  responsive: true,
};

// Replaces var(--name) in every string by the colour of the current theme.
function themed(value, style) {
  if (typeof value === "string")
    return value.replace(/var\((--\w+)\)/g, (_, name) => style.getPropertyValue(name).trim());
  if (Array.isArray(value)) return value.map(one => themed(one, style));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, themed(one, style)]));
}

function draw() {
  const style = getComputedStyle(document.documentElement);
  for (const place of document.querySelectorAll("div.chart")) {
    const { data, layout } = themed(JSON.parse(place.previousElementSibling.textContent), style);
    if (touch) layout.dragmode = false;  // a finger on a chart scrolls the page
    Plotly.react(place, data, layout, config);
  }
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
addEventListener("toggle", event => {
  for (const place of event.target.querySelectorAll("div.chart")) Plotly.Plots.resize(place);
}, true);
draw();
