"use strict";
// Draws the charts whose data stand in the page. Text comes from the data as text, never as markup:
// tooltips are drawn (rich text), not parsed.
(function () {
  const root = document.documentElement;
  // A document that changes has no data of its own: it calls drawCharts with what it shows.
  const own = document.getElementById("data");
  let charts = own ? JSON.parse(own.textContent).charts : [];
  const drawn = [];

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  // Named, not inherited: the library measures text with it before anything is drawn.
  const font = () => getComputedStyle(document.body).fontFamily;
  const palette = () => Array.from({ length: 10 }, (_, i) => colour("--c" + i));

  // --- numbers as people write them ---------------------------------------------------------
  const trim = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
  const three = (v) => {
    const size = Math.abs(v);
    if (size === 0) return "0";
    if (size >= 1e6 || size < 1e-4) return v.toExponential(2);
    return size >= 100 ? Math.round(v).toLocaleString("en-US") : trim(v.toPrecision(3));
  };
  const scaled = (v, steps, unit) => {
    let i = 0;
    while (i < steps.length - 1 && Math.abs(v) >= steps[i + 1][0]) i += 1;
    return three(v / steps[i][0]) + " " + steps[i][1] + unit;
  };
  const DECIMAL = [[1, ""], [1e3, "k"], [1e6, "M"], [1e9, "G"], [1e12, "T"], [1e15, "P"]];
  const TIME = [[1e-9, "ns"], [1e-6, "us"], [1e-3, "ms"], [1, "s"], [60, "min"], [3600, "h"],
    [86400, "days"]];
  const shown = (v, unit) => {
    if (v === null || v === undefined) return "unknown";
    if (unit === "s") return v === 0 ? "0 s" : scaled(v, TIME, "");
    if (unit === "USD") return (v < 0 ? "-$" : "$") + scaled(Math.abs(v), DECIMAL, "").replace(/ (?=[kMGTP]|$)/, "").replace("G", "B");
    if (unit === "1") return three(100 * v) + "%";
    if (["B", "B/s", "J", "W", "FLOP/s"].includes(unit)) return scaled(v, DECIMAL, unit);
    if (unit === "") return three(v);
    return scaled(v, DECIMAL, "").trim() + " " + unit;
  };

  // --- what every chart has ------------------------------------------------------------------
  const base = () => ({
    animation: false,
    color: palette(),
    textStyle: { color: colour("--ink"), fontFamily: font() },
    tooltip: { renderMode: "richText", confine: true },
    aria: { enabled: true },
  });
  const span = (spec, values) => {
    const known = values.filter((v) => v !== undefined && v !== null && (!spec.log || v > 0));
    const room = spec.log ? 1.12 : 1;
    return spec.log && known.length ? { min: Math.min(...known) / room, max: Math.max(...known) * room } : {};
  };
  const axis = (spec, more) => Object.assign({
    type: spec.log ? "log" : "value",
    name: spec.name,
    nameLocation: "middle",
    nameGap: spec.gap || 30,
    nameTextStyle: { color: colour("--quiet") },
    min: spec.min === undefined ? undefined : spec.min,
    max: spec.max === undefined ? undefined : spec.max,
    axisLabel: { color: colour("--quiet"), fontFamily: font(), hideOverlap: true, formatter: (v) => shown(v, spec.unit) },
    axisLine: { lineStyle: { color: colour("--line") } },
    splitLine: { lineStyle: { color: colour("--line") } },
  }, more);
  let wide = 800;
  const names = (list) => ({
    type: "category",
    data: list,
    inverse: true,
    axisLabel: { color: colour("--ink"), fontFamily: font(), interval: 0, overflow: "break",
      width: Math.min(Math.max(90, wide * 0.32), 7.5 * Math.max(...list.map((n) => n.length)) + 4) },
    axisLine: { lineStyle: { color: colour("--line") } },
    axisTick: { show: false },
  });
  const legend = () => ({ type: "scroll", bottom: 0, textStyle: { color: colour("--ink"), fontFamily: font() } });
  const grid = (left) => ({ left: left || 8, right: 24, top: 30, bottom: 64, containLabel: true });
  const mark = (value, name) => ({
    silent: true,
    symbol: "none",
    precision: 15,
    lineStyle: { color: colour("--bad"), type: "dashed", width: 2 },
    // Categories run downwards: the start of a mark is at the top.
    label: { color: colour("--bad"), formatter: name, position: "start" },
    data: [{ xAxis: value }],
  });

  // --- kinds ---------------------------------------------------------------------------------
  // Whiskers of a point, from (low x, high x, low y, high y) in data.
  const whisker = (params, api) => {
    const at = (x, y) => api.coord([x, y]);
    const [x, y, xl, xh, yl, yh] = [0, 1, 2, 3, 4, 5].map((i) => api.value(i));
    const style = { stroke: colour("--quiet"), lineWidth: 1, opacity: 0.6 };
    const line = (a, b) => ({ type: "line", shape: { x1: a[0], y1: a[1], x2: b[0], y2: b[1] }, style });
    return { type: "group", children: [line(at(xl, y), at(xh, y)), line(at(x, yl), at(x, yh))] };
  };

  const kinds = {
    scatter(d) {
      const groups = [...new Set(d.points.map((p) => p.group))];
      const banded = d.points.filter((p) => p.x_low !== undefined && p.y_low !== undefined);
      const series = groups.map((group, i) => ({
        name: group,
        type: "scatter",
        z: 3,
        symbolSize: i === 0 ? 16 : 10,
        labelLayout: { hideOverlap: true },
        label: { show: true, position: "top", color: colour("--ink"), formatter: (p) => p.data.name },
        data: d.points.filter((p) => p.group === group).map((p) => ({
          value: [p.x, p.y], name: p.name, says: p.says,
        })),
      }));
      series.push({
        type: "custom", silent: true, z: 1, renderItem: whisker, clip: true,
        data: banded.map((p) => [p.x, p.y, p.x_low, p.x_high, p.y_low, p.y_high]),
      });
      if (d.front && d.front.length > 1) {
        series.push({ name: d.front_name, type: "line", data: d.front, symbol: "none", z: 2, silent: true,
          lineStyle: { type: "dashed", color: colour("--quiet") } });
      }
      return Object.assign(base(), {
        legend: legend(),
        grid: grid(40),
        xAxis: axis(d.x, Object.assign({ scale: true }, span(d.x, d.points.map((p) => p.x)))),
        yAxis: axis(d.y, Object.assign({ scale: true, nameGap: 60 }, span(d.y, d.points.map((p) => p.y)))),
        series,
        tooltip: { renderMode: "richText", confine: true, formatter: (p) => [p.data.name].concat(p.data.says || []).join("\n") },
      });
    },
    stack(d) {
      const series = d.parts.map((part) => ({
        name: part.name, type: "bar", stack: "all", barMaxWidth: 36, data: part.values,
        itemStyle: part.hidden ? { opacity: 0.35, decal: { symbol: "rect", dashArrayX: [1, 0], dashArrayY: [2, 5], rotation: -0.7 } } : {},
        tooltip: { valueFormatter: (v) => shown(v, d.unit) },
      }));
      if (d.limit && series.length) series[0].markLine = mark(d.limit.value, d.limit.name);
      return Object.assign(base(), {
        legend: legend(),
        grid: grid(),
        xAxis: axis({ name: d.name, unit: d.unit, max: d.max, min: (v) => Math.min(v.min, 0) }),
        yAxis: names(d.rows),
        series,
        tooltip: { renderMode: "richText", confine: true, trigger: "axis", axisPointer: { type: "shadow" },
          formatter: (all) => [all[0].name].concat(all.filter((p) => p.value).map((p) => p.seriesName + "  " + shown(p.value, d.unit))).join("\n") },
      });
    },
    range(d) {
      const bar = (params, api) => {
        const row = api.value(3);
        const [a, b, c] = [0, 1, 2].map((i) => api.coord([api.value(i), row]));
        const limit = d.rows[row].limit;
        const children = [
          { type: "rect", shape: { x: a[0], y: a[1] - 7, width: Math.max(c[0] - a[0], 1), height: 14, r: 4 }, style: { fill: colour("--c0"), opacity: 0.35 } },
          { type: "circle", shape: { cx: b[0], cy: b[1], r: 6 }, style: { fill: colour("--c0") } },
        ];
        if (limit !== null && limit !== undefined) {
          const at = api.coord([limit, row]);
          children.push({ type: "rect", shape: { x: at[0] - 1.5, y: at[1] - 13, width: 3, height: 26 }, style: { fill: colour("--bad") } });
        }
        return { type: "group", children };
      };
      return Object.assign(base(), {
        grid: grid(),
        xAxis: axis(d.x, Object.assign({ scale: true }, span(d.x, d.rows.flatMap((r) => [r.low, r.high, r.limit])))),
        yAxis: names(d.rows.map((r) => r.name)),
        series: [{ type: "custom", renderItem: bar, encode: { x: [0, 1, 2], y: 3 }, data: d.rows.map((r, i) => [r.low, r.value, r.high, i]) }],
        tooltip: { renderMode: "richText", confine: true, formatter: (p) => {
          const r = d.rows[p.dataIndex];
          const limit = r.limit === null || r.limit === undefined ? [] : ["limit " + shown(r.limit, d.x.unit)];
          return [r.name, shown(r.value, d.x.unit) + ", " + shown(r.low, d.x.unit) + " to " + shown(r.high, d.x.unit)].concat(limit).join("\n");
        } },
      });
    },
    bars(d) {
      const series = [{
        type: "bar", barMaxWidth: 28,
        data: d.rows.map((r) => ({ value: r.value, itemStyle: { color: colour(r.best ? "--c0" : "--c7") } })),
        label: { show: true, position: "right", color: colour("--ink"), formatter: (p) => shown(p.value, d.unit) },
      }];
      if (d.limit) series[0].markLine = mark(d.limit.value, d.limit.name);
      return Object.assign(base(), {
        grid: Object.assign(grid(), { right: 72 }),
        xAxis: axis({ name: d.name, unit: d.unit, max: d.max }),
        yAxis: names(d.rows.map((r) => r.name)),
        series,
        tooltip: { renderMode: "richText", confine: true, formatter: (p) => [p.name, shown(p.value, d.unit)].concat(d.rows[p.dataIndex].says || []).join("\n") },
      });
    },
    sankey(d) {
      return Object.assign(base(), {
        series: [{
          type: "sankey", left: 8, right: Math.min(230, wide * 0.36), top: 12, bottom: 12, nodeGap: 12, draggable: false,
          data: d.nodes.map((n, i) => ({ name: n, itemStyle: { color: palette()[i % 10] } })),
          links: d.links.map((l) => ({ source: l.from, target: l.to, value: l.value })),
          lineStyle: { color: "gradient", opacity: 0.35 },
          label: { color: colour("--ink"), width: Math.min(220, wide * 0.33), overflow: "break",
            formatter: (p) => p.name + "  " + shown(p.value, d.unit) },
          tooltip: { valueFormatter: (v) => shown(v, d.unit) },
        }],
        tooltip: { renderMode: "richText", confine: true, formatter: (p) => (p.dataType === "edge" ? p.data.source + " > " + p.data.target : p.name) + "\n" + shown(p.value, d.unit) },
      });
    },
    line(d) {
      const series = d.series.map((s) => ({
        name: s.name, type: "line", showSymbol: s.points.length < 20, data: s.points,
        lineStyle: { width: 2, type: s.dashed ? "dashed" : "solid" },
      }));
      if (d.marks && d.marks.length && series.length) {
        series[0].markLine = { silent: true, symbol: "none", precision: 15, data: d.marks.map((m) => ({
          [m.axis === "y" ? "yAxis" : "xAxis"]: m.at, label: { formatter: m.name, color: colour("--bad"), position: "end" } })),
          lineStyle: { color: colour("--bad"), type: "dashed" } };
      }
      return Object.assign(base(), {
        legend: series.length > 1 ? legend() : undefined,
        grid: grid(40),
        xAxis: axis(d.x, { scale: true }),
        yAxis: axis(d.y, { scale: true, nameGap: 60 }),
        series,
        tooltip: { renderMode: "richText", confine: true, trigger: "axis",
          formatter: (all) => [shown(all[0].value[0], d.x.unit)].concat(all.map((p) => p.seriesName + "  " + shown(p.value[1], d.y.unit))).join("\n") },
      });
    },
    pairs(d) {
      // Two values a row, of which one foretells the other.
      const link = (params, api) => {
        const row = api.value(2);
        const [a, b] = [0, 1].map((i) => api.coord([api.value(i), row]));
        const style = { stroke: colour("--quiet"), lineWidth: 3, opacity: 0.5 };
        return { type: "line", shape: { x1: a[0], y1: a[1], x2: b[0], y2: b[1] }, style };
      };
      const dots = (name, field, tone) => ({
        name, type: "scatter", symbolSize: 13, itemStyle: { color: colour(tone) }, z: 3,
        data: d.rows.map((r, i) => [r[field], i]),
      });
      return Object.assign(base(), {
        legend: legend(),
        grid: grid(),
        xAxis: axis(d.x, { scale: true }),
        yAxis: names(d.rows.map((r) => r.name)),
        series: [
          { type: "custom", silent: true, renderItem: link, encode: { x: [0, 1], y: 2 }, data: d.rows.map((r, i) => [r.first, r.second, i]) },
          dots(d.names[0], "first", "--c0"), dots(d.names[1], "second", "--c1"),
        ],
        tooltip: { renderMode: "richText", confine: true, formatter: (p) => {
          const r = d.rows[p.value[1]];
          return [r.name, d.names[0] + "  " + shown(r.first, d.x.unit), d.names[1] + "  " + shown(r.second, d.x.unit)].join("\n");
        } },
      });
    },
    heat(d) {
      const cells = d.values.map((v, i) => [i % d.columns, Math.floor(i / d.columns), v]);
      const plain = (list) => ({ type: "category", data: list, splitArea: { show: false }, axisTick: { show: false },
        axisLabel: { color: colour("--quiet"), hideOverlap: true }, axisLine: { show: false } });
      return Object.assign(base(), {
        grid: Object.assign(grid(), { bottom: 72 }),
        xAxis: plain(d.column_names),
        yAxis: plain(d.row_names),
        visualMap: { min: 0, max: d.max, text: [shown(d.max, d.unit), "0"], calculable: false, orient: "horizontal", left: "center", bottom: 0,
          inRange: { color: ["#e8f1f5", "#4fb3d4", "#d9822b", "#b3261e"] }, textStyle: { color: colour("--ink") }, formatter: (v) => shown(v, d.unit) },
        series: [{ type: "heatmap", data: cells, itemStyle: { borderWidth: 0.5, borderColor: colour("--paper") } }],
        tooltip: { renderMode: "richText", confine: true, formatter: (p) => d.says[p.dataIndex] + "\n" + shown(p.value[2], d.unit) },
      });
    },
    gantt(d) {
      const block = (params, api) => {
        const [row, from, until, tone] = [0, 1, 2, 3].map((i) => api.value(i));
        const [a, b] = [api.coord([from, row]), api.coord([until, row])];
        const height = api.size([0, 1])[1] * 0.8;
        return { type: "rect", shape: { x: a[0], y: a[1] - height / 2, width: Math.max(b[0] - a[0] - 0.5, 0.5), height }, style: { fill: colour("--c" + tone) } };
      };
      return Object.assign(base(), {
        grid: grid(),
        xAxis: axis({ name: d.name, unit: d.unit, max: d.until }),
        yAxis: names(d.rows),
        series: [{ type: "custom", renderItem: block, clip: true, encode: { x: [1, 2], y: 0 }, data: d.blocks.map((b) => [b.row, b.from, b.until, b.tone]) }],
        tooltip: { renderMode: "richText", confine: true, formatter: (p) => {
          const b = d.blocks[p.dataIndex];
          return b.name + "\n" + shown(b.from, d.unit) + " to " + shown(b.until, d.unit);
        } },
      });
    },
  };

  // --- drawing ---------------------------------------------------------------------------------
  const draw = () => {
    drawn.splice(0).forEach((c) => c.dispose());
    for (const spec of charts) {
      const place = document.getElementById(spec.id);
      wide = place.clientWidth;
      const chart = echarts.init(place, null, { renderer: "svg" });
      chart.setOption(kinds[spec.kind](spec.data));
      drawn.push(chart);
    }
    root.dataset.state = "ready";
  };
  root.dataset.state = "drawing";
  draw();
  window.drawCharts = (list) => { charts = list; draw(); };
  let waiting = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(draw);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((d) => { d.open = true; });
    drawn.forEach((c) => c.resize());
  });
})();
