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

  // --- how much room text takes -------------------------------------------------------------
  const SIZE = 12;
  const LINE = 15;
  const pen = document.createElement("canvas").getContext("2d");
  // The library takes the height of a line from the width of a Chinese letter, which fonts without
  // Chinese draw as narrow as they like: lines and labels would lie on each other.
  const measured = (text, style) => {
    pen.font = style;
    const size = parseFloat((/([\d.]+)px/.exec(style) || [0, SIZE])[1]);
    return { width: text === "\u56fd" ? 1.25 * size : pen.measureText(text).width };
  };
  echarts.setPlatformAPI({ measureText: measured });
  const breadth = (text) => measured(text, SIZE + "px " + font()).width;
  // Text in lines no longer than the room, broken between words, and in a word that is too long
  // after a sign.
  const wrapped = (text, room) => {
    const found = [""];
    const put = (piece, between) => {
      const line = found[found.length - 1];
      if (line && breadth(line + between + piece) > room) found.push(piece);
      else found[found.length - 1] = line + (line ? between : "") + piece;
    };
    for (const word of text.trim().split(" ")) {
      if (breadth(word) <= room) put(word, " ");
      else word.match(/[^-,/_=]+[-,/_=]*|[-,/_=]+/g).forEach((piece, i) => put(piece, i ? "" : " "));
    }
    return found;
  };
  const lines = (text, room) => wrapped(text, room).length;

  // --- numbers as people write them ---------------------------------------------------------
  const trim = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
  const three = (v) => {
    const size = Math.abs(v);
    if (size === 0) return "0";
    if (size >= 1e6 && size < 1e15) return scaled(v, DECIMAL, "").replace(" G", "B").replace(" ", "");
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
    if (unit === "h") return three(v) + " h";
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
    if (!spec.log || !known.length) return {};
    const [low, high] = [Math.min(...known) / 1.12, Math.max(...known) * 1.12];
    // Few round values lie on a short stretch of a logarithmic axis: there it is hardly one.
    if (high / low < 5) return { type: "value" };
    return { min: low, max: high, ticks: round(low, high, spec.unit) };
  };
  // Round values inside a logarithmic axis: the powers of ten alone are too few, and of seconds
  // they are no numbers that people think in.
  const CLOCK = [60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 432000, 864000];
  const round = (low, high, unit) => {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      for (const digit of [1, 2, 5]) found.push(digit * 10 ** power);
    }
    const clock = unit === "s" ? found.filter((v) => v < 60).concat(CLOCK) : found;
    const inside = clock.filter((v) => v >= low * 0.999 && v <= high * 1.001);
    const decades = inside.filter((v) => Number(v.toPrecision(3)) === 10 ** Math.round(Math.log10(v)));
    const kept = inside.length > 9 && decades.length > 2 && unit !== "s" ? decades : inside;
    return kept.length ? kept : [low, high];
  };
  let wide = 800;
  let tall = 350;
  let extra = 0;  // what the chart needs beyond its usual height
  let rows = 0;  // what its rows need for their names
  const axis = (spec, more) => {
    const { ticks, ...rest } = more || {};
    const fixed = ticks ? { customValues: ticks } : {};
    const room = Math.max(120, wide - 150);
    const high = rest.upright ? 1 : lines(spec.name, room);
    return Object.assign({
      type: spec.log ? "log" : "value",
      name: rest.upright ? spec.name : wrapped(spec.name, room).join("\n"),
      nameLocation: "middle",
      nameGap: spec.gap || 20 + 8 * high,
      nameTextStyle: { color: colour("--quiet"), fontFamily: font(), lineHeight: LINE },
      min: spec.min === undefined ? undefined : spec.min,
      max: spec.max === undefined ? undefined : spec.max,
      axisTick: fixed,
      axisLabel: Object.assign({ color: colour("--quiet"), fontFamily: font(), hideOverlap: true, formatter: (v) => shown(v, spec.unit) }, fixed),
      axisLine: { lineStyle: { color: colour("--line") } },
      splitLine: { lineStyle: { color: colour("--line") } },
    }, rest);
  };
  const names = (list) => {
    const room = Math.min(Math.max(90, wide * 0.32), Math.max(...list.map(breadth)) + 6);
    if (list.length <= 40) rows = list.length * (LINE * Math.max(...list.map((n) => lines(n, room))) + 5);
    return {
      type: "category",
      data: list,
      inverse: true,
      axisLabel: { color: colour("--ink"), fontFamily: font(), interval: list.length > 40 ? "auto" : 0, overflow: "break", width: room, lineHeight: LINE,
        formatter: (name) => wrapped(name, room).join("\n") },
      axisLine: { lineStyle: { color: colour("--line") } },
      axisTick: { show: false },
    };
  };
  // All names of a chart below it, in as many rows as they need: nothing to turn pages of.
  const legend = (list, icon) => {
    const icons = icon || 25;
    let rows = 1, used = 0;
    for (const name of list) {
      const room = Math.min(breadth(name), wide - 40) + icons + 17;
      if (used && used + room > wide - 8) { rows += 1; used = 0; }
      used += room;
    }
    extra = Math.max(extra, 24 * (rows - 1));
    return { type: "plain", bottom: 0, left: "center", data: list, itemWidth: icons, itemHeight: 12, itemGap: 12, height: 24 * rows,
      textStyle: { color: colour("--ink"), fontFamily: font(), width: wide - 60, overflow: "truncate" } };
  };
  const grid = (left, x, below) => {
    const rows = x ? lines(x.name, Math.max(120, wide - 150)) : 1;
    extra += LINE * (rows - 1);
    return { left: left || 8, right: 28, top: 30, bottom: 24 + LINE * rows + (below ? below.height + 10 : 0), containLabel: true };
  };
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

  const sum = (list) => list.reduce((a, b) => a + b, 0);
  // What goes through a node of a diagram of flows.
  const flow = (links, name) => Math.max(
    sum(links.filter((l) => l.from === name).map((l) => l.value)),
    sum(links.filter((l) => l.to === name).map((l) => l.value)));

  const kinds = {
    scatter(d) {
      const groups = [...new Set(d.points.map((p) => p.group))];
      // Names of points at the edges stand beside them, inside the picture.
      const at = (x) => (d.x.log ? Math.log(x) : x);
      const [first, last] = [Math.min(...d.points.map((p) => at(p.x))), Math.max(...d.points.map((p) => at(p.x)))];
      const beside = (x) => {
        const share = last > first ? (at(x) - first) / (last - first) : 0.5;
        return share < 0.12 ? "right" : share > 0.88 ? "left" : "top";
      };
      const banded = d.points.filter((p) => p.x_low !== undefined && p.y_low !== undefined);
      const series = groups.map((group, i) => ({
        name: group,
        type: "scatter",
        z: 3,
        symbolSize: i === 0 ? 16 : 10,
        labelLayout: { hideOverlap: true },
        label: { show: true, position: "top", color: colour("--ink"), formatter: (p) => p.data.name,
          textBorderColor: colour("--card"), textBorderWidth: 3 },
        data: d.points.filter((p) => p.group === group).map((p) => ({
          value: [p.x, p.y], name: p.name, says: p.says, label: { position: beside(p.x) },
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
      const below = legend(groups.concat(d.front && d.front.length > 1 ? [d.front_name] : []));
      const fronts = d.front && d.front.length > 1 ? d.front : [];
      return Object.assign(base(), {
        legend: below,
        grid: grid(52, d.x, below),
        xAxis: axis(d.x, Object.assign({ scale: true }, span(d.x, d.points.map((p) => p.x).concat(fronts.map((p) => p[0]))))),
        yAxis: axis(d.y, Object.assign({ scale: true, nameGap: 60, upright: true }, span(d.y, d.points.map((p) => p.y).concat(fronts.map((p) => p[1]))))),
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
      const below = legend(d.parts.map((p) => p.name));
      return Object.assign(base(), {
        legend: below,
        grid: grid(8, d, below),
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
        grid: grid(8, d.x),
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
      const most = Math.max(d.max || 0, ...d.rows.map((r) => Math.abs(r.value)), d.limit ? d.limit.value : 0);
      const least = Math.min(0, ...d.rows.map((r) => r.value));
      // Inside a bar that is long enough: a mark behind its end would run through the number.
      const number = (v) => v > 0.45 * most && least === 0
        ? { position: "insideRight", color: colour("--paper") }
        : { position: v < 0 ? "left" : "right", color: colour("--ink"), backgroundColor: colour("--card"), padding: [0, 2] };
      const series = [{
        type: "bar", barMaxWidth: 28,
        data: d.rows.map((r) => ({ value: r.value, itemStyle: { color: colour(r.best ? "--c0" : "--c7") }, label: number(r.value) })),
        label: { show: true, formatter: (p) => shown(p.value, d.unit) },
      }];
      if (d.limit) series[0].markLine = mark(d.limit.value, d.limit.name);
      return Object.assign(base(), {
        grid: Object.assign(grid(8, d), { right: 64, left: least < 0 ? 64 : 8 }),
        xAxis: axis(Object.assign({ name: d.name, unit: d.unit, max: d.max }, least < 0 ? { min: (v) => 1.25 * v.min } : {})),
        yAxis: names(d.rows.map((r) => r.name)),
        series,
        tooltip: { renderMode: "richText", confine: true, formatter: (p) => [p.name, shown(p.value, d.unit)].concat(d.rows[p.dataIndex].says || []).join("\n") },
      });
    },
    sankey(d) {
      const narrow = wide < 600;
      const sources = new Set(d.links.map((l) => l.from));
      const total = Math.max(...d.nodes.map((n) => flow(d.links, n)));
      const room = narrow ? wide * 0.42 : Math.min(300, wide * 0.36);
      const said = (n) => n.trim() + "  " + shown(flow(d.links, n), d.unit);
      const ends = d.nodes.filter((n) => !sources.has(n));
      const rows = Math.max(1, ...ends.map((n) => lines(said(n), room - 14)));
      const gap = LINE * rows + 3;
      const high = Math.max(260, ends.length * (gap + 4) + 180);
      extra = Math.max(0, high + 24 - tall);
      // On a phone what flows on is named along its own bar, where the bar is as long as the name.
      const along = (n) => (flow(d.links, n) / total) * (high - gap * (ends.length - 1)) > breadth(said(n)) + 8
        ? { position: "inside", rotate: 90, color: colour("--paper") }
        : { show: false };
      return Object.assign(base(), {
        series: [{
          type: "sankey", left: 8, right: room, top: 12, bottom: 4 + gap / 2, nodeGap: gap, nodeWidth: narrow ? 18 : 20, draggable: false,
          layoutIterations: 32,
          data: d.nodes.map((n, i) => ({ name: n, itemStyle: { color: palette()[i % 10] }, label: narrow && sources.has(n) ? along(n) : {} })),
          links: d.links.map((l) => ({ source: l.from, target: l.to, value: l.value })),
          lineStyle: { color: "gradient", opacity: 0.35 },
          label: { color: colour("--ink"), lineHeight: LINE, formatter: (p) => (narrow && sources.has(p.name) ? said(p.name) : wrapped(said(p.name), room - 14).join("\n")) },
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
        const upright = d.marks.filter((m) => m.axis !== "y").map((m) => m.at).sort((a, b) => a - b);
        const middle = (first, last) => (d.x.log ? Math.sqrt(first * last) : (first + last) / 2);
        const all = d.series.flatMap((s) => s.points.map((p) => p[0])).concat(upright);
        const atRight = upright.some((at) => at > middle(Math.min(...all), Math.max(...all)));
        // The first of two names ends at its mark and the last one begins there; alone it is over it.
        const align = (m) => (upright.length < 2 ? "center" : m.at === upright[0] ? "right" : "left");
        series[0].markLine = { silent: true, symbol: "none", precision: 15, data: d.marks.map((m) => (
          m.axis === "y"
            ? { yAxis: m.at, label: { formatter: m.name, color: colour("--bad"), position: atRight ? "insideStartTop" : "insideEndTop" } }
            : { xAxis: m.at, label: { formatter: m.name, color: colour("--bad"), position: "end", align: align(m) } })),
          lineStyle: { color: colour("--bad"), type: "dashed" } };
      }
      // A mark is part of what the axis has to hold.
      const held = (d.marks || []).filter((m) => m.axis === "y").map((m) => [d.series[0].points[0][0], m.at]);
      if (held.length) series.push({ name: "", type: "line", data: held, symbol: "none", silent: true, lineStyle: { opacity: 0 } });
      const below = d.series.length > 1 ? legend(d.series.map((s) => s.name)) : undefined;
      const marked = (axis) => (d.marks || []).filter((m) => (m.axis || "x") === axis).map((m) => m.at);
      const xs = d.series.flatMap((s) => s.points.map((p) => p[0])).concat(marked("x"));
      const ys = d.series.flatMap((s) => s.points.map((p) => p[1])).concat(marked("y"));
      const ends = d.x.log ? span(d.x, xs) : { min: d.x.min === undefined ? Math.min(...xs) : d.x.min, max: Math.max(...xs) };
      return Object.assign(base(), {
        legend: below,
        grid: grid(52, d.x, below),
        xAxis: axis(d.x, Object.assign({ scale: true }, ends)),
        yAxis: axis(d.y, Object.assign({ scale: true, nameGap: 60, upright: true }, span(d.y, ys))),
        series,
        tooltip: { renderMode: "richText", confine: true, trigger: "axis",
          formatter: (all) => [shown(all[0].value[0], d.x.unit)].concat(all.filter((p) => p.seriesName).map((p) => p.seriesName + "  " + shown(p.value[1], d.y.unit))).join("\n") },
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
      const below = legend(d.names);
      return Object.assign(base(), {
        legend: below,
        grid: grid(8, d.x, below),
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
      // A cell without a value stays empty.
      const cells = d.values.map((v, i) => ({ value: [i % d.columns, Math.floor(i / d.columns), v === null ? "-" : v],
        label: { color: v > 0.75 * d.max ? "#ffffff" : "#1b2430" } }));
      const few = cells.length <= 80;
      const column = (wide - 60) / d.columns - 8;
      const across = { type: "category", data: d.column_names, axisTick: { show: false }, axisLine: { show: false },
        name: d.x_name, nameLocation: "middle", nameGap: 28, nameTextStyle: { color: colour("--quiet"), fontFamily: font() },
        axisLabel: { color: colour("--quiet"), fontFamily: font(), interval: few ? 0 : "auto", hideOverlap: !few,
          width: few && d.columns < 12 ? (wide * 0.62) / d.columns - 6 : undefined, overflow: "break", lineHeight: LINE } };
      const high = few && d.columns < 12 ? Math.max(...d.column_names.map((n) => lines(n, (wide * 0.62) / d.columns - 6))) : 1;
      extra += LINE * (high - 1);
      return Object.assign(base(), {
        grid: { left: d.y_name ? 34 : 8, right: 28, top: 16, bottom: 34 + LINE * high + (d.x_name ? 22 : 0), containLabel: true },
        xAxis: across,
        yAxis: Object.assign(names(d.row_names), { axisLine: { show: false }, name: d.y_name, nameLocation: "middle", nameGap: 28,
          nameTextStyle: { color: colour("--quiet"), fontFamily: font() } }),
        visualMap: { min: 0, max: d.max, text: [shown(d.max, d.unit), "0"], calculable: false, orient: "horizontal", left: "center", bottom: 0,
          inRange: { color: ["#e8f1f5", "#4fb3d4", "#d9822b", "#b3261e"] }, textStyle: { color: colour("--ink"), fontFamily: font() }, formatter: (v) => shown(v, d.unit) },
        series: [{ type: "heatmap", data: cells, itemStyle: { borderWidth: 0.5, borderColor: colour("--paper") },
          label: { show: few && column > 30, formatter: (p) => (p.value[2] === "-" ? "" : shown(p.value[2], d.unit)) } }],
        tooltip: { renderMode: "richText", confine: true, formatter: (p) => d.says[p.dataIndex] + (p.value[2] === "-" ? "" : "\n" + shown(p.value[2], d.unit)) },
      });
    },
    gantt(d) {
      const block = (params, api) => {
        const [row, from, until, tone] = [0, 1, 2, 3].map((i) => api.value(i));
        const [a, b] = [api.coord([from, row]), api.coord([until, row])];
        const height = api.size([0, 1])[1] * 0.8;
        return { type: "rect", shape: { x: a[0], y: a[1] - height / 2, width: Math.max(b[0] - a[0] - (b[0] - a[0] > 4 ? 0.5 : 0), 0.5), height }, style: { fill: colour("--c" + tone) } };
      };
      return Object.assign(base(), {
        grid: grid(8, d),
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
      place.style.height = "";
      wide = place.clientWidth;
      tall = place.clientHeight;
      extra = rows = 0;
      const option = kinds[spec.kind](spec.data);
      const { top, bottom } = option.grid || { top: 0, bottom: 0 };
      const high = Math.max(tall + extra, rows + top + bottom + 24);
      if (high > tall) place.style.height = high + "px";
      const chart = echarts.init(place, null, { renderer: "svg" });
      chart.setOption(option);
      drawn.push(chart);
    }
    root.dataset.wide = innerWidth;
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
