"use strict";
// Adds to a page that is complete without it: values under the pointer, zoom, cursors that move together.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const LEVELS = 250, ZERO = 250, NAN = 251; // colours.py
  const data = JSON.parse(document.getElementById("data").textContent);
  const tip = document.getElementById("tip");
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const hue = (severity) => css(`--${severity}-strong`);

  function spell(value, digits = 3) { // as numbers.py
    if (value === null || Number.isNaN(value)) return "NaN";
    if (Number.isInteger(value) && Math.abs(value) < 1e6) return value.toLocaleString("en-US");
    const rounded = Number(value.toPrecision(digits)), power = Math.floor(Math.log10(Math.abs(rounded)));
    if (power < -3 || power >= 6) return value.toExponential(digits - 1).replace("e+", "e");
    const decimals = Math.max(0, digits - 1 - power);
    return rounded.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  }

  function showTip(text, event) {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 8));
    const above = event.clientY - box.height - 12;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : event.clientY + 18}px`;
  }

  // The axis of steps of one run: what is seen of it, and who has to hear of that.
  class Steps {
    constructor(span) {
      this.full = span;
      this.span = span;
      this.onZoom = [];
      this.onPoint = [];
    }
    zoom(low, high) {
      const [first, last] = this.full;
      const next = high - low > (last - first) * 1e-4 ? [Math.max(low, first), Math.min(high, last)] : this.full;
      if (next[0] === this.span[0] && next[1] === this.span[1]) return;
      this.span = next;
      this.onZoom.forEach((listener) => listener());
    }
    point(step, from) {
      this.onPoint.forEach((listener) => listener(step, from));
    }
    move(event) { // keys
      const [low, high] = this.span, width = high - low, middle = (low + high) / 2;
      if (event.key === "Escape" || event.key === "0") this.zoom(...this.full);
      else if (event.key === "+" || event.key === "=") this.zoom(middle - width / 4, middle + width / 4);
      else if (event.key === "-") this.zoom(middle - width, middle + width);
      else return;
      event.preventDefault();
    }
  }

  function chart(figure, given, steps, marks) {
    const still = figure.querySelector("svg.chart"), box = still.viewBox.baseVal;
    const now = figure.querySelector(".now"), last = now.textContent;
    const floor = Math.min(...given.lines.flatMap((line) => line.values).filter((value) => value > 0));
    const tables = given.lines.map((line) => [
      line.steps,
      line.values.map((value) => (given.log && value !== null && value <= 0 ? floor : value)),
    ]);
    const joined = tables.length > 1 ? uPlot.join(tables) : tables[0];
    const host = document.createElement("div");
    host.className = "live";
    still.replaceWith(host);
    const scaled = () => host.clientWidth / box.width; // on narrow windows the names stand above, not beside
    const gutter = () => (host.clientWidth < 720 ? 52 : 168 * scaled());
    const height = () => Math.max(box.height * scaled(), 110);
    const text = () => `11.5px ${getComputedStyle(document.body).fontFamily}`;
    const axis = {
      stroke: () => css("--soft"), font: text(), ticks: { show: false }, grid: { stroke: () => css("--faint"), width: 1 },
    };
    const plot = new uPlot({
      width: host.clientWidth,
      height: height(),
      legend: { show: false },
      padding: [18, 12 * scaled(), 0, 0],
      scales: { x: { time: false, range: () => steps.span }, y: { distr: given.log ? 3 : 1 } },
      axes: [
        { ...axis, size: 22, gap: 4, grid: { show: false }, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) && tick >= 0 ? tick.toLocaleString("en-US") : "")) },
        { ...axis, size: gutter, gap: 6, space: 26, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : spell(Number(tick.toPrecision(6)), 2))) },
      ],
      series: [{}, ...given.lines.map((line) => ({
        stroke: () => css(line.kind === "line" ? "--line" : "--second"), width: 1.6, dash: line.kind === "line" ? [] : [5, 4],
        spanGaps: given.lines.length > 1, points: { show: line.steps.length < 2 },
      }))],
      cursor: { y: false, points: { size: 6 }, drag: { x: true, y: false, setScale: false } },
      hooks: {
        draw: [(u) => decorate(u, given, marks)],
        setSelect: [(u) => {
          if (u.select.width > 4) steps.zoom(u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x"));
          u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
        }],
        setCursor: [(u) => {
          const i = u.cursor.idx;
          const on = i !== null && i !== undefined && u.cursor.left >= 0;
          now.textContent = on ? spell(u.data[1][i]) : last;
          if (on && u.pointed !== true) steps.point(u.data[0][i], u);
          if (!on && u.pointed !== true) steps.point(null, u);
        }],
      },
    }, joined, host);
    plot.over.addEventListener("dblclick", () => steps.zoom(...steps.full));
    steps.onZoom.push(() => plot.setScale("x", { min: steps.span[0], max: steps.span[1] }));
    steps.onPoint.push((step, from) => {
      if (from === plot) return;
      plot.pointed = true;
      plot.setCursor(step === null ? { left: -10, top: -10 } : { left: plot.valToPos(step, "x"), top: 1 });
      plot.pointed = false;
    });
    figure.tabIndex = 0;
    figure.setAttribute("role", "group");
    figure.setAttribute("aria-label", `${given.title} over steps. Arrow keys move along the line, plus and minus zoom, Escape shows all.`);
    let at = -1;
    figure.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (way === undefined) return steps.move(event);
      event.preventDefault();
      at = Math.max(0, Math.min(joined[0].length - 1, at + way));
      plot.setCursor({ left: plot.valToPos(joined[0][at], "x"), top: 1 });
      now.setAttribute("aria-live", "polite");
    });
    return { plot, resize: () => plot.setSize({ width: host.clientWidth, height: height() }) };
  }

  function decorate(u, given, marks) { // findings as lines, what is not finite as ticks
    const { ctx, bbox } = u, ratio = devicePixelRatio;
    ctx.save();
    for (const line of given.lines) {
      ctx.fillStyle = hue("error");
      line.values.forEach((value, i) => {
        const x = u.valToPos(line.steps[i], "x", true);
        if (value === null && x >= bbox.left && x <= bbox.left + bbox.width) {
          ctx.fillRect(x - ratio, bbox.top + bbox.height - 6 * ratio, 2 * ratio, 6 * ratio);
        }
      });
    }
    for (const mark of marks) {
      const x = u.valToPos(mark.step, "x", true);
      if (x < bbox.left - 1 || x > bbox.left + bbox.width + 1) continue;
      ctx.strokeStyle = ctx.fillStyle = hue(mark.severity);
      ctx.lineWidth = 1.4 * ratio;
      ctx.setLineDash([3 * ratio, 3 * ratio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.beginPath();
      ctx.arc(x, bbox.top - 8 * ratio, 7.5 * ratio, 0, 7);
      ctx.fill();
      ctx.fillStyle = mark.severity === "warning" ? "#1a1f26" : "#fff";
      ctx.font = `700 ${10.5 * ratio}px ${getComputedStyle(document.body).fontFamily}`;
      ctx.textAlign = "center";
      ctx.textBaseline = "middle";
      ctx.fillText(mark.label, x, bbox.top - 7.5 * ratio);
    }
    ctx.restore();
  }

  // The numbers of the colours in a PNG that png.py wrote: one chunk of data, no filters.
  async function unpack(address) {
    const bytes = Uint8Array.from(atob(address.slice(address.indexOf(",") + 1)), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const width = view.getUint32(16), height = view.getUint32(20);
    let at = 8;
    while (String.fromCharCode(...bytes.slice(at + 4, at + 8)) !== "IDAT") at += 12 + view.getUint32(at);
    const packed = bytes.slice(at + 8, at + 8 + view.getUint32(at));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const rows = new Uint8Array(await new Response(stream).arrayBuffer());
    return { width, height, at: (x, y) => rows[y * (width + 1) + 1 + x] };
  }

  function meaning(index, map) {
    if (index === ZERO) return "exactly 0, or None";
    if (index === NAN) return "NaN or Inf";
    if (index > NAN) return "not logged";
    const share = index / (LEVELS - 1);
    const value = map.log ? map.low * (map.high / map.low) ** share : map.low + (map.high - map.low) * share;
    const sign = index === 0 ? "≤" : index === LEVELS - 1 ? "≥" : "≈";
    return `${sign} ${spell(value, 2)}`;
  }

  function heatmap(figure, map, steps, open) {
    const svg = figure.querySelector("svg.heatmap"), cells = svg.querySelector("svg.cells"), image = cells.querySelector("image");
    const width = cells.width.baseVal.value, height = cells.height.baseVal.value, left = cells.x.baseVal.value;
    const [first, last, columns] = map.columns, size = columns > 1 ? (last - first) / (columns - 1) : 1;
    const place = (step) => ((step - steps.span[0]) / (steps.span[1] - steps.span[0])) * width;
    const cursor = cells.appendChild(document.createElementNS(SVG, "path"));
    const row = cells.appendChild(document.createElementNS(SVG, "rect"));
    cursor.setAttribute("class", "cursor");
    row.setAttribute("class", "cursor");
    row.setAttribute("width", width);
    row.setAttribute("height", height / map.names.length);
    row.setAttribute("visibility", "hidden");
    let pixels = null;
    const ready = unpack(image.getAttribute("href")).then((unpacked) => { pixels = unpacked; }, () => {});

    function arrange() {
      image.setAttribute("x", place(first - size / 2));
      image.setAttribute("width", place(last + size / 2) - place(first - size / 2));
      svg.querySelectorAll(".mark").forEach((mark) => {
        const x = place(Number(mark.dataset.step));
        mark.setAttribute("transform", `translate(${x - (mark.home ??= x)})`);
        mark.setAttribute("visibility", x < -1 || x > width + 1 ? "hidden" : "visible");
      });
      const ticks = svg.querySelector(".steps"), y = ticks.querySelector("text")?.getAttribute("y");
      if (!y) return;
      const about = (steps.span[1] - steps.span[0]) / 6, power = 10 ** Math.floor(Math.log10(about));
      const every = Math.max(1, power * [1, 2, 5, 10].find((m) => power * m >= about));
      ticks.replaceChildren();
      for (let step = Math.max(0, Math.ceil(steps.span[0] / every) * every); step <= steps.span[1]; step += every) {
        const label = ticks.appendChild(document.createElementNS(SVG, "text"));
        label.textContent = step.toLocaleString("en-US");
        for (const [key, value] of [["class", "tick"], ["x", left + place(step)], ["y", y], ["text-anchor", place(step) > width - 20 ? "end" : "middle"]]) label.setAttribute(key, value);
      }
    }
    steps.onZoom.push(arrange);
    arrange();

    function hit(event) {
      const box = cells.getBoundingClientRect();
      const step = steps.span[0] + ((event.clientX - box.left) / box.width) * (steps.span[1] - steps.span[0]);
      const y = Math.floor(((event.clientY - box.top) / box.height) * map.names.length);
      return { step, x: Math.round((step - first) / size), y };
    }
    let pressed = null;
    cells.addEventListener("pointerdown", (event) => { pressed = hit(event); });
    function show(x, y, step, place) {
      steps.point(step, figure);
      row.setAttribute("visibility", "visible");
      row.setAttribute("y", (height / map.names.length) * y);
      const at = Math.max(0, Math.round(first + x * size)).toLocaleString("en-US");
      showTip(`${map.names[y]}\nstep ${at}: ${pixels ? meaning(pixels.at(x, y), map) : ""}`, place);
    }
    function hide() {
      tip.hidden = true;
      pressed = null;
      row.setAttribute("visibility", "hidden");
      steps.point(null, figure);
    }
    cells.addEventListener("pointermove", (event) => {
      const { step, x, y } = hit(event);
      if (map.names[y] !== undefined && x >= 0 && x < columns) show(x, y, step, event);
    });
    cells.addEventListener("pointerup", (event) => {
      const here = hit(event);
      if (pressed && Math.abs(here.step - pressed.step) > (steps.span[1] - steps.span[0]) * 0.01) {
        steps.zoom(Math.min(here.step, pressed.step), Math.max(here.step, pressed.step));
      } else if (map.names[here.y] !== undefined) open(map.names[here.y]);
      pressed = null;
    });
    cells.addEventListener("pointerleave", hide);
    cells.addEventListener("dblclick", () => steps.zoom(...steps.full));
    steps.onPoint.push((step) => cursor.setAttribute("d", step === null ? "" : `M${place(step)} 0V${height}`));
    const scroll = figure.querySelector(".scroll");
    scroll.tabIndex = 0;
    const at = { x: 0, y: 0 };
    scroll.setAttribute("role", "application");
    scroll.setAttribute("aria-label", `${map.title}. Arrow keys move over tensors and steps, Enter shows histograms, plus and minus zoom, Escape shows all.`);
    scroll.addEventListener("keydown", (event) => {
      const [right, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
      if (event.key === "Enter") return open(map.names[at.y]);
      if (!right && !down) return steps.move(event);
      event.preventDefault();
      at.x = Math.max(0, Math.min(columns - 1, at.x + right));
      at.y = Math.max(0, Math.min(map.names.length - 1, at.y + down));
      const box = cells.getBoundingClientRect(), step = first + at.x * size;
      show(at.x, at.y, step, { clientX: box.left + (place(step) / width) * box.width, clientY: box.top + ((at.y + 0.5) / map.names.length) * box.height });
    });
    scroll.addEventListener("blur", hide);
    return { ready, value: (x, y) => meaning(pixels.at(x, y), map) };
  }

  // As ridges.py, from the densities of all tensors in one picture.
  function ridge(pixels, first, steps, low, high) {
    const width = 420, gap = 16, tall = 40, left = 54, bins = pixels.width;
    const svg = document.createElementNS(SVG, "svg");
    const add = (name, attributes, text) => {
      const node = svg.appendChild(document.createElementNS(SVG, name));
      Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
      if (text !== undefined) node.textContent = text;
    };
    const x = (bin) => left + ((width - 10 - left) * bin) / (bins - 1), bottom = tall + gap * (steps.length - 1);
    svg.setAttribute("class", "ridges");
    svg.setAttribute("viewBox", `0 0 ${width} ${bottom + 22}`);
    steps.forEach((step, i) => {
      const base = tall + gap * i;
      const y = (bin) => base - (pixels.at(bin, first + i) / 255) * (tall - 4);
      const line = Array.from({ length: bins }, (_, bin) => `${x(bin).toFixed(1)} ${y(bin).toFixed(1)}`).join("L");
      add("path", { class: "ridge", d: `M${line}L${x(bins - 1)} ${base}L${x(0)} ${base}Z` });
      add("text", { class: "tick", x: left - 8, y: base, "text-anchor": "end" }, step.toLocaleString("en-US"));
    });
    add("text", { class: "tick", x: left, y: bottom + 18 }, spell(low));
    add("text", { class: "tick", x: width - 10, y: bottom + 18, "text-anchor": "end" }, spell(high));
    return svg;
  }

  // What opens the histograms of a tensor: rows of heatmaps and names in the text.
  function histograms(section, atlases) {
    const panel = section.querySelector(".histograms");
    if (!panel) return () => {};
    panel.hidden = false;
    const pictures = atlases.map(({ kind }) => unpack([...panel.querySelectorAll(".atlas")].find((image) => image.dataset.kind === kind).src));
    async function open(name) {
      const figures = await Promise.all(atlases.map(async (atlas, i) => {
        const at = atlas.names.indexOf(name), pixels = await pictures[i];
        if (at < 0) return null;
        const figure = document.createElement("figure");
        figure.appendChild(document.createElement("figcaption")).textContent = atlas.kind;
        figure.append(ridge(pixels, at * 12, atlas.steps[at], atlas.low[at], atlas.high[at]));
        return figure;
      }));
      const found = figures.filter((figure) => figure);
      panel.querySelector(".chosen").textContent = found.length ? name : `no histograms of ${name} are logged`;
      panel.querySelector(".plots").replaceChildren(...found);
    }
    section.querySelectorAll("[data-tensor]").forEach((node) => {
      if (!atlases.some(({ names }) => names.includes(node.dataset.tensor))) return;
      node.tabIndex = 0;
      node.setAttribute("role", "button");
      const chosen = () => open(node.dataset.tensor).then(() => panel.scrollIntoView({ block: "nearest" }));
      node.addEventListener("click", chosen);
      node.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        chosen();
      });
    });
    return open;
  }

  function rememberTab(section) { // over the reloads of a page that follows a run
    section.querySelectorAll("input.tab").forEach((tab) => {
      try {
        if (sessionStorage.getItem(tab.name) === tab.id) tab.checked = true;
        tab.addEventListener("change", () => sessionStorage.setItem(tab.name, tab.id));
      } catch { /* no storage for this page: nothing is remembered */ }
    });
  }

  const drawn = [], maps = [];
  for (const run of data) {
    const section = document.getElementById(run.anchor), steps = new Steps(run.span);
    rememberTab(section);
    const open = histograms(section, run.atlases);
    run.charts.forEach((given, i) => drawn.push(chart(section.querySelector(`[data-chart="${i}"]`), given, steps, run.marks)));
    for (const map of run.heatmaps) {
      maps.push(heatmap(section.querySelector(`[data-measure="${map.key}"]`), map, steps, open));
    }
  }
  addEventListener("resize", () => drawn.forEach(({ resize }) => resize()));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(({ plot }) => plot.redraw()));
  Promise.all(maps.map(({ ready }) => ready)).then(() => { document.documentElement.dataset.ready = "yes"; });
})();
