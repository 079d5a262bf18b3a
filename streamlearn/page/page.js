"use strict";
// Tooltips: by pointer, by finger, and by the arrow keys on a chart that has the focus. The charts are there without it.
(() => {
  const charts = JSON.parse(document.getElementById("data").textContent);
  const percent = (value, scale) => (value === null || value === undefined ? "–" : (value / scale).toFixed(1) + "\u00a0%");
  const events = (value) => Math.round(value).toLocaleString("en") + " events";
  const nearest = (xs, x) => {
    let best = 0;
    for (let i = 1; i < xs.length; i++) if (Math.abs(xs[i] - x) < Math.abs(xs[best] - x)) best = i;
    return best;
  };
  const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
  const last = (xs, x) => {
    let found = -1;
    for (let i = 0; i < xs.length && xs[i] <= x; i++) found = i;
    return found;
  };

  // What a kind of chart says at a place: {lines: [[text, value]], left, top, width, height} in parts of the area.
  const kinds = {
    lines: {
      columns: (chart) => [...new Set(chart.lines.flatMap((line) => line.x))].sort((a, b) => a - b),
      at: (chart, xs, column) => {
        const x = xs[column];
        const mark = chart.marks[last(chart.marks.map((each) => each[0]), x)];
        const lines = chart.lines.map((line) => [line.name, percent(line.y[last(line.x, x)], 10)]);
        if (mark) lines.push([mark[1], "since " + Math.round(mark[0]).toLocaleString("en")]);
        return { lines: [[events(x), ""], ...lines], left: x / chart.end, width: 0 };
      },
    },
    drops: {
      columns: (chart) => chart.x,
      at: (chart, xs, column) => {
        const [name, before, lowest, gap, recovery] = chart.y[column];
        const back = recovery === null ? "not before the next" : events(recovery);
        const lines = [[name, events(xs[column])], ["before", percent(before, 10)], ["lowest", percent(lowest, 10)]];
        lines.push(["gap", (gap / 10).toFixed(1) + " points"], ["recovered after", back]);
        return { lines, left: xs[column] / chart.end, width: 0 };
      },
    },
    heat: {
      columns: (chart) => chart.x,
      at: (chart, xs, column, row) => {
        const end = xs[xs.length - 1], begin = column ? xs[column - 1] : 0, value = chart.y[row][column];
        const said = value === null ? "not seen yet" : value + "\u00a0%";
        const lines = [[chart.names[row], said], [events(xs[column]), ""]];
        return { lines, left: begin / end, width: (xs[column] - begin) / end };
      },
    },
    similarity: {
      columns: (chart) => chart.names.map((_, i) => i + 0.5),
      at: (chart, xs, column, row) => {
        const pair = [chart.names[row] + " and " + chart.names[column], (chart.y[row][column] / 100).toFixed(2)];
        return { lines: [pair], left: column / xs.length, width: 1 / xs.length };
      },
    },
  };

  const element = (name, parent, text) => {
    const made = parent.appendChild(document.createElement(name));
    if (text !== undefined) made.textContent = text;
    return made;
  };

  let shown = null;
  const hide = () => {
    if (shown) shown();
    shown = null;
  };

  for (const area of document.querySelectorAll("[data-chart]")) {
    const chart = charts[area.dataset.chart];
    const kind = kinds[chart.kind];
    const xs = kind.columns(chart);
    const rows = chart.kind === "lines" || chart.kind === "drops" ? 0 : chart.y.length;
    if (!xs.length) continue;
    const cursor = element("div", area);
    cursor.className = rows ? "cell" : "cursor";
    const tip = element("div", area);
    tip.className = "tip";
    tip.setAttribute("role", "status");
    cursor.hidden = tip.hidden = true;
    area.setAttribute("role", "application");
    area.setAttribute("aria-roledescription", "chart");
    area.setAttribute("aria-label", area.getAttribute("aria-label") + " Arrow keys read the values.");
    let column = xs.length - 1, row = 0;

    const show = () => {
      if (shown !== area.hide) hide();
      shown = area.hide;
      const found = kind.at(chart, xs, column, row);
      tip.replaceChildren();
      for (const [text, value] of found.lines) {
        const line = element("p", tip);
        element("bdi", line, text);
        element("span", line, value);
      }
      cursor.hidden = tip.hidden = false;
      cursor.style.left = 100 * found.left + "%";
      if (rows) {
        cursor.style.width = 100 * found.width + "%";
        cursor.style.top = (100 * row) / rows + "%";
        cursor.style.height = 100 / rows + "%";
      }
      // Beside the place, inside the page.
      const box = area.getBoundingClientRect(), place = (found.left + found.width) * box.width;
      const room = document.documentElement.clientWidth - box.left - tip.offsetWidth - 4;
      const right = place + 12 <= room, other = found.left * box.width - tip.offsetWidth - 12;
      tip.style.left = clamp(right ? place + 12 : other, 4 - box.left, Math.max(4 - box.left, room)) + "px";
      if (rows) {
        const below = ((row + 1) * box.height) / rows + 8;
        tip.style.top = below + tip.offsetHeight <= box.height ? below + "px" : (row * box.height) / rows - tip.offsetHeight - 8 + "px";
      }
    };
    area.hide = () => {
      cursor.hidden = tip.hidden = true;
    };
    const point = (event) => {
      const box = area.getBoundingClientRect();
      const x = clamp((event.clientX - box.left) / box.width, 0, 1), y = clamp((event.clientY - box.top) / box.height, 0, 0.999);
      if (chart.kind === "similarity") column = Math.min(xs.length - 1, Math.floor(x * xs.length));
      else if (chart.kind === "heat") column = clamp(last(xs, x * xs[xs.length - 1]) + 1, 0, xs.length - 1);
      else column = nearest(xs, x * chart.end);
      row = rows ? Math.floor(y * rows) : 0;
      show();
    };
    area.addEventListener("pointermove", point);
    area.addEventListener("pointerdown", point);
    area.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse" && document.activeElement !== area) hide();
    });
    area.addEventListener("focus", () => {
      if (area.matches(":focus-visible")) show();
    });
    area.addEventListener("blur", hide);
    area.addEventListener("keydown", (event) => {
      const far = event.shiftKey ? 10 : 1;
      const moves = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far], Home: [-1e9, 0], End: [1e9, 0] };
      if (event.key === "Escape") return hide();
      if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
      const [right, down] = moves[event.key];
      if (down && !rows) return;
      event.preventDefault();
      column = clamp(column + right, 0, xs.length - 1);
      row = clamp(row + down, 0, Math.max(0, rows - 1));
      show();
    });
  }
  document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest("[data-chart]")) hide();
  });
})();
