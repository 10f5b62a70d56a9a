// The page works without this: it adds the reader's language, copying, and values under the pointer.
"use strict";
if ((navigator.language || "").startsWith("zh")) document.getElementById("zh").checked = true;

for (const button of document.querySelectorAll(".command button")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("pre").textContent.trimEnd());
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1200);
  });
}

const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
document.body.append(tip);

const show = (value) => {
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(3) : String(Number(value.toPrecision(5)));
};

for (const chart of document.querySelectorAll("svg.chart")) {
  const [left, right, top, bottom] = chart.dataset.frame.split(" ").map(Number);
  const [x0, x1] = chart.dataset.x.split(" ").map(Number);
  const log = chart.dataset.log === "1";
  const [y0, y1] = chart.dataset.y.split(" ").map((v) => (log ? Math.log10(Number(v)) : Number(v)));
  const { width, height } = chart.viewBox.baseVal;
  const lines = [...chart.querySelectorAll(".series:not(.faint)")].map((node) => ({
    label: node.dataset.label,
    color: node.dataset.color,
    points: (node.getAttribute("points") || node.dataset.points).split(" ").map((p) => p.split(",").map(Number)),
  }));
  const pointer = document.createElementNS("http://www.w3.org/2000/svg", "line");
  pointer.setAttribute("class", "pointer");
  pointer.setAttribute("y1", top);
  pointer.setAttribute("y2", height - bottom);

  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * width;
    const near = lines.map((line) => {
      const point = line.points.reduce((a, b) => (Math.abs(a[0] - x) <= Math.abs(b[0] - x) ? a : b));
      const y = y0 + ((height - bottom - point[1]) / (height - bottom - top)) * (y1 - y0);
      return { ...line, at: point[0], value: log ? 10 ** y : y };
    }).filter((line) => Math.abs(line.at - x) < 30);
    tip.hidden = near.length === 0;
    if (tip.hidden) { pointer.remove(); return; }
    const at = near.reduce((a, b) => (Math.abs(a.at - x) <= Math.abs(b.at - x) ? a : b)).at;
    pointer.setAttribute("x1", at);
    pointer.setAttribute("x2", at);
    chart.append(pointer);
    tip.replaceChildren();
    const head = document.createElement("div");
    head.textContent = String(Math.round(x0 + ((at - left) / (width - right - left)) * (x1 - x0)));
    tip.append(head);
    for (const line of near) {
      const row = document.createElement("div");
      const swatch = document.createElement("i");
      swatch.className = `swatch f${line.color}`;
      const value = document.createElement("b");
      value.textContent = show(line.value);
      row.append(swatch, `${line.label} `, value);
      tip.append(row);
    }
    tip.style.left = `${Math.min(event.clientX + 16, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${event.clientY + 16}px`;
  });
  chart.addEventListener("pointerleave", () => { tip.hidden = true; pointer.remove(); });
}
