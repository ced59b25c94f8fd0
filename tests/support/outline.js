// What a page shows, as an eye finds it: its parts in words, and labels that cannot be read.
() => {
  const masked = (text) => text.replace(/\s+/g, " ").trim().replace(/\d[\d,.]*/g, "#");
  const seen = (box) => box.width > 0 && box.height > 0;
  const texts = (svg) => [...svg.querySelectorAll("text")]
    .filter((t) => t.textContent.trim() && getComputedStyle(t).opacity !== "0")
    .map((t) => ({ said: t.textContent.trim(), box: t.getBoundingClientRect() }));
  const charts = JSON.parse(document.getElementById("data").textContent).charts;
  // Words that a chart is made of. Left out are numbers with their units, and names that may give way
  // where there is no room: those of points, and of what flows on in a diagram of flows.
  const words = (found, chart) => {
    const { kind, data } = chart;
    const yields = new Set(kind === "scatter" ? data.points.map((p) => p.name)
      : kind === "sankey" ? data.links.flatMap((l) => l.from.split(/[^a-z]+/i)) : []);
    const all = found.map((t) => t.said).filter((said) => !yields.has(said) && !/^[-$]*[\d.,]+ ?[%a-zA-Z/]{0,5}$/.test(said))
      .flatMap((said) => said.split(/[^a-z]+/i)).filter((word) => word.length > 2 && !yields.has(word));
    return [...new Set(all)].sort().join(" ");
  };
  const wrong = [];
  const outline = [];
  const say = (depth, ...words) => outline.push("  ".repeat(depth) + words.join(" "));
  say(0, "h1", masked(document.querySelector("h1").textContent));
  for (const section of document.querySelectorAll("main section")) {
    say(0, "section", masked(section.querySelector("h2").textContent));
    for (const list of section.querySelectorAll(":scope > ul")) say(1, "list of", list.children.length > 1 ? "lines" : "a line");
    for (const figure of section.querySelectorAll("figure")) {
      say(1, "figure", masked(figure.querySelector("h3").textContent));
      const svg = figure.querySelector(".chart svg");
      const found = texts(svg);
      const room = svg.getBoundingClientRect();
      const chart = charts.find((c) => c.id === figure.querySelector(".chart").id);
      say(2, chart.kind, words(found, chart));
      say(2, "columns", [...figure.querySelectorAll("th")].map((th) => th.textContent).join(" | "));
      const where = figure.querySelector("h3").textContent;
      for (const t of found) {
        const { left, right, top, bottom } = t.box;
        if (left < room.left - 2 || right > room.right + 2 || top < room.top - 2 || bottom > room.bottom + 2) wrong.push(`cut: ${t.said} in ${where}`);
      }
      for (let i = 0; i < found.length; i += 1) {
        for (let j = i + 1; j < found.length; j += 1) {
          const [a, b] = [found[i].box, found[j].box];
          const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
          const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
          // A line's box is higher than its letters: two lines of one label may touch.
          if (wide > 2 && high > 4) wrong.push(`over each other: ${found[i].said} / ${found[j].said} in ${where}`);
        }
      }
    }
    for (const table of section.querySelectorAll(":scope > .wide table")) {
      say(1, "table", [...table.querySelectorAll("th")].map((th) => th.textContent).join(" | "));
    }
  }
  const width = document.documentElement.clientWidth;
  for (const element of document.querySelectorAll("main h1, main h2, main h3, main p, main li, main figcaption")) {
    const box = element.getBoundingClientRect();
    if (seen(box) && (box.left < -1 || box.right > width + 1 || element.scrollWidth > element.clientWidth + 1)) wrong.push(`wider than the screen: ${element.textContent.slice(0, 60)}`);
  }
  return { outline, wrong };
};
