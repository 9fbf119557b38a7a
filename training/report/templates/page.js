"use strict";
const touch = matchMedia("(pointer: coarse)").matches;
const config = {
  displayModeBar: matchMedia("(hover: hover)").matches && "hover",
  displaylogo: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "sendChartToCloud"],
  plotlyServerURL: "",
  responsive: true,
};

const axis = {
  automargin: true, gridcolor: "var(--rule)", linecolor: "var(--rule)", zeroline: false, nticks: 6, hoverformat: ".4~g",
  title: { font: { size: 13 }, standoff: 8 },
};
const template = { layout: {
  font: { family: "Inter, Segoe UI, system-ui, sans-serif", size: 13, color: "var(--muted)" },
  paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 8, r: 12, t: 12, b: 8 },
  xaxis: { ...axis, showgrid: false, showline: true }, yaxis: axis, showlegend: false,
  hoverlabel: { bgcolor: "var(--card)", bordercolor: "var(--rule)", align: "left", font: { color: "var(--ink)" } },
  legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
  modebar: { bgcolor: "rgba(0,0,0,0)", color: "var(--muted)", activecolor: "var(--accent)" },
} };

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
    layout.template = themed(template, style);
    layout.uirevision = "kept";  // a change of the theme keeps zoom and hidden series
    if (touch) layout.dragmode = false;  // a finger on a chart scrolls the page
    Plotly.react(place, data, layout, config);
  }
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
addEventListener("toggle", event => {
  for (const place of event.target.querySelectorAll("div.chart")) Plotly.Plots.resize(place);
}, true);
draw();
