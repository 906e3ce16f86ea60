"use strict";
// Draws the charts of the page with uPlot. Every text goes in as textContent: class and run names come from a disk.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const losses = JSON.parse(document.getElementById("losses").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const charts = []; // each {box, make, plot, kind}, the kind of its lines
  const sync = uPlot.sync("epochs");
  const initial = data.first / 3;
  const whole = { min: initial / 1.2, max: Math.max(data.last, 1) * 1.1 };
  // What lines may be of: a legend shows and hides those of one kind in all its charts. `hidden` has their numbers.
  const kinds = {
    classes: { names: () => names(), hidden: new Set(), colour: "--class", buttons: [] },
    settings: { names: () => data.settings, hidden: new Set(), colour: "--setting", buttons: [] },
    labels: { names: () => data.label_lines.map((line) => line.name), hidden: new Set(), colour: "--label", buttons: [] },
  };
  let byClass = false; // whether classes stand under their names, not under their favoured rank
  const names = () => (byClass ? data.class_names : data.names);
  let view = whole; // the part of the axis of epochs that all charts show

  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const element = (tag, parent, text, className) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    if (parent) parent.append(made);
    return made;
  };
  const dash = (k) => (k % 2 ? [6, 3] : undefined);
  const epochs = (panel) => panel.steps.map((step) => (step === 0 ? initial : step / panel.steps_per_epoch));
  const number = (value) =>
    value === null || value === undefined ? "–" : Math.abs(value) < 1e-3 && value !== 0 ? value.toExponential(2) : value.toPrecision(3);
  const short = (value) => String(Number(value.toPrecision(3)));

  // Ticks of a log axis in a range: those given if several are in it, else 1, 2 and 5 of each decade.
  function logTicks(min, max, given) {
    const inside = given.filter((tick) => tick >= min && tick <= max);
    if (inside.length >= 3) return inside;
    const ticks = [];
    for (let power = Math.floor(Math.log10(min)); power <= Math.ceil(Math.log10(max)); power++)
      for (const digit of [1, 2, 5]) ticks.push(digit * 10 ** power);
    const fine = ticks.filter((tick) => tick >= Math.max(min, data.first) && tick <= max);
    if (fine.length >= 2) return inside.includes(initial) ? [initial, ...fine] : fine;
    return [0, 1, 2, 3, 4].map((part) => min + ((max - min) * part) / 4);
  }

  // What a chart says under the pointer: the place, and each visible line's value, the highest first.
  function tip(where, names) {
    let box = null;
    return (plot) => {
      const { idx, left } = plot.cursor;
      const chosen = plot.root.parentNode.matches(":hover, :focus");
      const shown = idx !== null && idx !== undefined && left >= 0 && chosen;
      if (!shown) {
        if (box) box.remove();
        box = null;
        return;
      }
      if (!box) box = element("div", plot.over.parentNode, undefined, "tip");
      box.replaceChildren();
      element("b", box, where(idx));
      const rows = names
        .map((name, k) => ({ name, value: plot.data[k + 1][idx], series: plot.series[k + 1] }))
        .filter((row) => row.series.show && row.value !== null && row.value !== undefined)
        .sort((a, b) => b.value - a.value)
        .slice(0, 20);
      const table = element("table", box);
      for (const row of rows) {
        const line = element("tr", table);
        element("i", element("td", line), undefined, "swatch").style.background = row.series.stroke();
        element("td", line, row.name);
        element("td", line, number(row.value));
      }
      const spoken = plot.root.parentNode.querySelector(".spoken");
      if (spoken && plot.root.parentNode.matches(":focus"))
        spoken.textContent = [where(idx), ...rows.map((row) => `${row.name} ${number(row.value)}`)].join(", ");
      const right = left > plot.over.clientWidth / 2;
      const at = plot.over.offsetLeft + left;
      box.style.left = right ? "" : `${at + 12}px`;
      box.style.right = right ? `${plot.over.parentNode.clientWidth - at + 12}px` : "";
      box.style.top = `${plot.over.offsetTop + 4}px`;
    };
  }

  function axes(xTicks, xText) {
    const common = { stroke: style("--faint"), font: "11px system-ui, sans-serif", ticks: { stroke: style("--line"), width: 1, size: 4 }, grid: { stroke: style("--line"), width: 1 } };
    return [
      { ...common, size: 28, gap: 2, splits: (plot, axis, min, max) => xTicks(min, max), filter: (plot, splits) => splits, values: (plot, splits) => thin(plot, splits).map(xText) },
      { ...common, size: 46, gap: 2, values: (plot, splits) => splits.map((value) => (value === null ? "" : short(value))) },
    ];
  }

  // Labels that would run into another are left out, but never the last.
  function thin(plot, splits) {
    const at = splits.map((split) => plot.valToPos(split, "x"));
    let last = -Infinity;
    return splits.map((split, k) => {
      const end = splits.length - 1;
      if (k < end && (at[k] - last < 34 || at[end] - at[k] < 22)) return null;
      last = at[k];
      return split;
    });
  }

  function draw(chart) {
    const made = chart.make();
    const options = {
      width: Math.max(chart.box.clientWidth, 120),
      height: 190,
      legend: { show: false },
      ...made.options,
    };
    if (chart.plot) chart.plot.destroy();
    chart.plot = new uPlot(options, made.data, chart.box);
    if (chart.kind) chart.plot.over.addEventListener("dblclick", () => show(whole));
  }

  function show(part) {
    view = part;
    for (const { plot } of charts.filter((chart) => chart.kind && chart.plot)) plot.setScale("x", view);
  }

  function add(box, make, kind) {
    const chart = { box, make, kind, plot: null };
    charts.push(chart);
    box.addEventListener("keydown", (event) => read(chart, event));
    box.addEventListener("blur", () => chart.plot?.setCursor({ left: -10, top: -10 }));
    watch.observe(box);
    resize.observe(box);
    return chart;
  }

  // The arrow keys go from point to point within the view, Home and End to its ends, and Escape leaves.
  function read({ plot, box }, event) {
    if (!plot || event.target !== box) return;
    if (event.key === "Escape") return box.blur();
    const { min, max } = plot.scales.x;
    const places = plot.data[0].flatMap((x, at) => (x >= min && x <= max ? [at] : []));
    const now = places.indexOf(plot.cursor.left >= 0 ? plot.cursor.idx : null);
    const next = { ArrowRight: now + 1, ArrowLeft: now < 0 ? 0 : now - 1, Home: 0, End: places.length - 1 }[event.key];
    if (next === undefined || !places.length) return;
    event.preventDefault();
    const at = places[Math.min(Math.max(next, 0), places.length - 1)];
    plot.setCursor({ left: plot.valToPos(plot.data[0][at], "x"), top: 0 });
  }

  // Charts are made when they come near the window, which keeps a page of hundreds quick.
  const watch = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        const chart = charts.find((one) => one.box === entry.target);
        if (entry.isIntersecting && !chart.plot) draw(chart);
      }
    },
    { rootMargin: "400px" },
  );
  const resize = new ResizeObserver((entries) => {
    for (const entry of entries) {
      const chart = charts.find((one) => one.box === entry.target);
      if (chart.plot && Math.abs(chart.plot.width - entry.target.clientWidth) > 1)
        chart.plot.setSize({ width: Math.max(entry.target.clientWidth, 120), height: chart.plot.height });
    }
  });
  addEventListener("beforeprint", () => charts.filter((chart) => !chart.plot).forEach(draw));
  dark.addEventListener("change", () => charts.filter((chart) => chart.plot).forEach(draw));

  // The numbers of a panel in the order that classes are shown in; those of one run may stand in its setting's panel.
  function numbers(panel, quantity) {
    const named = (columns, order) => (byClass ? order.map((_, k) => columns[order.indexOf(k)]) : columns);
    if (panel.of !== undefined) {
      const { curves, orders } = data.panels[panel.of];
      return { mean: named(curves[quantity].each[panel.run], orders?.[panel.run]) };
    }
    const drawn = panel.curves[quantity];
    if (!byClass) return drawn;
    if (!panel.by_class) return { mean: named(drawn.mean, panel.orders[0]) };
    return { ...panel.by_class[quantity], each: drawn.each?.map((seed, k) => named(seed, panel.orders[k])) };
  }

  // A line for each class over training, with its band where there is one.
  function curves(panel, quantity, logarithmic) {
    const { mean, low, high, each } = numbers(panel, quantity);
    const x = epochs(panel.of === undefined ? panel : data.panels[panel.of]);
    const count = data.names.length;
    const { hidden } = kinds.classes;
    const series = [{}];
    const columns = [x];
    const ofClass = (k) => style(`--class-${k}`);
    const lone = x.length < 3;
    names().forEach((name, k) => {
      const colour = ofClass(k);
      series.push({ label: name, stroke: colour, width: each ? 0 : 1.5, dash: dash(k), show: !hidden.has(k), points: { show: lone, size: 6, fill: colour } });
      columns.push(mean[k]);
    });
    const bands = [];
    if (low)
      for (const [part, values] of [["high", high], ["low", low]])
        names().forEach((name, k) => {
          series.push({ label: `${name} ${part}`, stroke: "transparent", width: 0, show: !hidden.has(k), points: { show: false } });
          columns.push(values[k]);
          if (part === "low")
            bands.push({ series: [1 + count + k, 1 + 2 * count + k], fill: `color-mix(in srgb, ${ofClass(k)} 10%, transparent)` });
        });
    for (const seed of each ?? []) // few enough for a line each
      names().forEach((name, k) => {
        series.push({ label: name, stroke: ofClass(k), width: 0.8, dash: dash(k), spanGaps: true, show: !hidden.has(k), points: { show: lone, size: 4 } });
        columns.push(seed[k]);
      });
    const positive = logarithmic ? columns.map((column, at) => (at ? column.map((value) => (value > 0 ? value : null)) : column)) : columns;
    const fraction = !logarithmic && !["loss", "gradient_norm", "weight", "drift_ratio"].includes(quantity);
    const where = (idx) => {
      const { steps, steps_per_epoch } = panel.of === undefined ? panel : data.panels[panel.of];
      const step = steps[idx];
      return step === 0 ? "initialisation" : `step ${step.toLocaleString("en")}, epoch ${number(step / steps_per_epoch)}`;
    };
    return {
      data: positive,
      options: {
        series,
        bands,
        ...overEpochs(logarithmic ? { distr: 3 } : fraction ? { range: [-0.02, 1.02] } : {}, where, names()),
      },
    };
  }

  // What charts over epochs have in common.
  function overEpochs(y, where, names) {
    return {
      scales: { x: { time: false, distr: 3, range: () => [view.min, view.max] }, y },
      axes: axes((min, max) => logTicks(min, max, data.ticks), (tick) => (tick === null ? "" : tick === initial ? "Init." : short(tick))),
      cursor: { sync: { key: sync.key, scales: ["x", null] }, drag: { x: true, y: false, setScale: false }, points: { size: 5 } },
      hooks: { setCursor: [tip(where, names)], setSelect: [select], draw: [(plot) => line(plot, "x", 1)] },
    };
  }

  // A line for each of some names, from [epochs, values] of each, or null where it has none.
  function lines(kind, tables, dashes) {
    const { hidden, colour } = kinds[kind];
    const columns = uPlot.join(tables.map((table) => table ?? [[], []]));
    const where = (idx) => (columns[0][idx] === initial ? "initialisation" : `epoch ${number(columns[0][idx])}`);
    const lone = columns[0].length < 3;
    const series = kinds[kind].names().map((name, k) => {
      const stroke = style(`${colour}-${k}`);
      return { label: name, stroke, width: 1.6, dash: dashes(k), spanGaps: true, show: !hidden.has(k), points: { show: lone, size: 6, fill: stroke } };
    });
    return { data: columns, options: { series: [{}, ...series], ...overEpochs({ range: (plot, min, max) => [-0.02, Math.min(1.02, 1.1 * Math.max(max, 0.2))] }, where, kinds[kind].names()) } };
  }
  const SETTING_DASHES = [undefined, [8, 3], [2, 3], [8, 3, 2, 3]]; // of ten settings each
  const settingDash = (k) => SETTING_DASHES[Math.floor(k / 10) % SETTING_DASHES.length];
  const column = (panel, labels, k) => panel.labels && [epochs({ ...panel, steps: panel.labels.steps }), panel.labels[labels][k]];

  // The values of a panel in a quantity of all classes together.
  function overall(panel, quantity) {
    if (quantity in panel.overall) return [epochs(panel), panel.overall[quantity]];
    return column(panel, "wrong", data.label_lines.findIndex((line) => `wrong.${line.column}` === quantity));
  }

  // A part that was dragged over becomes the view of all charts.
  function select(plot) {
    const { left, width } = plot.select;
    if (width < 5 || !plot.over.matches(":hover")) return;
    const part = { min: plot.posToVal(left, "x"), max: plot.posToVal(left + width, "x") };
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    show(part);
  }

  // A dashed line across, such as at the end of epoch one.
  function line(plot, scale, value) {
    const at = Math.round(plot.valToPos(value, scale, true));
    const { left, top, width, height } = plot.bbox;
    const [from, length] = scale === "x" ? [left, width] : [top, height];
    if (at < from || at > from + length) return;
    const { ctx } = plot;
    ctx.save();
    ctx.strokeStyle = style("--faint");
    ctx.setLineDash([4, 4]);
    ctx.beginPath();
    ctx.moveTo(...(scale === "x" ? [at, top] : [left, at]));
    ctx.lineTo(...(scale === "x" ? [at, top + height] : [left + width, at]));
    ctx.stroke();
    ctx.restore();
  }

  function chartBox(parent, label) {
    const box = element("div", parent, undefined, "chart");
    element("div", box, label, "label");
    element("div", box, "", "spoken").setAttribute("aria-live", "polite");
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", `chart of ${label}; arrow keys read its values`);
    box.tabIndex = 0;
    return box;
  }

  // A row of charts under the title of a panel.
  function heading(grid, panel) {
    const row = element("div", grid, undefined, "row");
    element("h3", row, panel.title);
    if (panel.count) element("span", row.lastChild, panel.count, "count");
    return row;
  }

  const together = document.getElementById("overall");
  if (together)
    for (const [mode, panels] of Object.entries(data.modes))
      for (const [quantity, text] of Object.entries(data.overall)) {
        const label = text + (Object.keys(data.modes).length > 1 ? ` (${mode} statistics)` : "");
        add(
          chartBox(together, `${label} (over epochs, log scale)`),
          () => {
            const made = lines("settings", data.settings.map((_, k) => (k in panels ? overall(data.panels[panels[k]], quantity) : null)), settingDash);
            Object.assign(made.options, { height: 280, focus: { alpha: 0.2 } });
            if (quantity === "dominance") made.options.hooks.draw.push((plot) => line(plot, "y", data.threshold));
            return made;
          },
          "settings",
        );
      }
  const ofLabels = document.getElementById("of-labels");
  if (ofLabels)
    for (const panel of data.panels.filter((one) => one.labels)) {
      const row = heading(ofLabels, panel);
      for (const labels of ["clean", "wrong"])
        add(chartBox(row, `${labels} labels (over epochs, log scale)`), () => lines("labels", data.label_lines.map((_, k) => column(panel, labels, k)), (k) => data.label_lines[k].dash), "labels");
    }

  const NAMES = { probability: "mean probability of the class", accuracy: "accuracy of the class", gradient_share: "share in the gradient norm", active_fraction: "active fraction" };
  for (const grid of document.querySelectorAll(".grid[data-quantities]"))
    for (const panel of data.panels.filter((one) => one.of_setting)) {
      const row = heading(grid, panel);
      for (const quantity of grid.dataset.quantities.split(" "))
        add(chartBox(row, `${NAMES[quantity]} (over epochs, log scale)`), () => curves(panel, quantity, false), "classes");
    }

  // The buttons that show and hide a line, in every chart of its kind at once; those of settings single one out.
  function each(kind, k, change) {
    const count = kinds[kind].names().length;
    for (const { plot } of charts.filter((chart) => chart.kind === kind && chart.plot))
      for (let at = 1 + k; at < plot.series.length; at += count) change(plot, at);
  }
  function toggle(kind, k) {
    const { hidden, buttons } = kinds[kind];
    if (hidden.has(k)) hidden.delete(k);
    else hidden.add(k);
    for (const button of buttons.filter((one) => one.k === k)) button.made.setAttribute("aria-pressed", String(!hidden.has(k)));
    each(kind, k, (plot, at) => plot.setSeries(at, { show: !hidden.has(k) }));
    if (kind === "settings") for (const point of document.querySelectorAll(`[data-setting="${k}"]`)) point.hidden = hidden.has(k);
  }
  function singleOut(k) {
    if (k === null) charts.filter((chart) => chart.kind === "settings" && chart.plot).forEach(({ plot }) => plot.setSeries(null, { focus: true }));
    else each("settings", k, (plot, at) => plot.setSeries(at, { focus: true }));
    for (const point of document.querySelectorAll("[data-setting]")) point.classList.toggle("faint", k !== null && Number(point.dataset.setting) !== k);
  }
  for (const legend of document.querySelectorAll(".legend")) {
    const { kind } = legend.dataset;
    const { names, colour, buttons } = kinds[kind];
    names().forEach((name, k) => {
      const made = element("button", legend);
      made.type = "button";
      made.title = name;
      made.setAttribute("aria-pressed", "true");
      if (names().length > 20) legend.classList.add("many");
      const swatch = element("i", made, undefined, "swatch");
      swatch.style.background = `var(${colour}-${k})`;
      const dashes = kind === "settings" ? settingDash(k) : kind === "labels" ? data.label_lines[k].dash : dash(k);
      if (dashes?.length) swatch.style.background = `repeating-linear-gradient(90deg, var(${colour}-${k}) 0 ${dashes[0] / 2}px, transparent 0 ${(dashes[0] + 3) / 2}px)`;
      made.append(name);
      made.addEventListener("click", () => toggle(kind, k));
      if (kind === "settings")
        for (const [event, place] of [["pointerenter", k], ["pointerleave", null], ["focus", k], ["blur", null]])
          made.addEventListener(event, () => singleOut(place));
      buttons.push({ made, k });
    });
  }

  const other = document.getElementById("by-class");
  if (other)
    other.addEventListener("click", () => {
      byClass = !byClass;
      other.textContent = byClass ? "Show by favoured rank" : "Show class by class";
      for (const { made, k } of kinds.classes.buttons) made.title = made.lastChild.textContent = names()[k];
      for (const panels of document.querySelectorAll(".panels[data-align]"))
        panels.hidden = (panels.dataset.align === "class") !== byClass;
      charts.filter((chart) => chart.kind === "classes" && chart.plot).forEach(draw);
    });

  const parts = [["all", whole], ["first ten batches", { min: initial / 1.2, max: 10 * data.first }], ["epoch one", { min: data.first / 1.2, max: 1 }], ["after it", { min: 1, max: data.last }]];
  for (const zoom of document.querySelectorAll(".zoom"))
    for (const [name, part] of parts) {
      if (part !== whole && (part.min >= data.last || part.min >= part.max)) continue;
      const made = element("button", zoom, name);
      made.type = "button";
      made.addEventListener("click", () => show(part));
    }

  const run = document.getElementById("explored-run");
  const quantity = document.getElementById("explored-quantity");
  const logarithmic = document.getElementById("explored-log");
  data.panels.forEach((panel, at) => {
    element("option", run, panel.title + (panel.count ? ` (mean, ${panel.count})` : "")).value = at;
  });
  const explored = add(
    chartBox(document.getElementById("explored"), "over epochs, log scale"),
    () => {
      const made = curves(data.panels[run.value], quantity.value, logarithmic.checked);
      made.options.height = 320;
      return made;
    },
    "classes",
  );
  for (const input of [run, quantity, logarithmic])
    input.addEventListener("change", () => {
      if (explored.plot) draw(explored);
    });

  const landscape = document.getElementById("landscape");
  if (landscape)
    for (const [name, label] of [["loss", "loss over p_y, log scale"], ["gradient", "gradient with respect to the true class's logit over p_y, log scale"], ["weight", "weight, −gradient / (1 − p_y), over p_y, log scale"]])
      add(
        chartBox(landscape, label),
        () => ({
          data: [losses.p, ...losses.curves.map((curve) => curve[name])],
          options: {
            series: [{}, ...losses.curves.map((curve, k) => ({ label: curve.name, stroke: style(`--loss-${k}`), width: 1.8, dash: dash(k), points: { show: false } }))],
            scales: { x: { time: false, distr: 3, range: (plot, min, max) => [min, max] } },
            axes: axes((min, max) => logTicks(min, max, losses.p.length ? [1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1] : []), (tick) => (tick === null ? "" : tick < 1e-3 ? tick.toExponential(0) : short(tick))),
            cursor: { sync: { key: "losses" }, drag: { x: true, y: false }, points: { size: 5 } },
            hooks: { setCursor: [tip((idx) => `p_y = ${number(losses.p[idx])}`, losses.curves.map((curve) => curve.name))] },
          },
        }),
      );
})();
