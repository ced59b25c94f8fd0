"use strict";
// What htmx does not do: charts drawn when answers come, texts copied, what is stale marked so.
(function () {
  const me = document.currentScript.dataset;
  const root = document.documentElement;
  const answer = () => document.getElementById("answer");
  let drawing = null;

  const script = (url) => new Promise((done, failed) => {
    const tag = document.createElement("script");
    tag.src = url;
    tag.onload = done;
    tag.onerror = () => failed(new Error("cannot load " + url));
    document.head.append(tag);
  });
  // A megabyte that the first paint does not need: it comes with the first answer.
  const library = () => (drawing = drawing || script(me.chartsLibrary).then(() => script(me.chartsDrawing)));

  const draw = () => {
    const found = Array.from(document.querySelectorAll("#answer [data-charts]"));
    if (!found.length) return;
    root.dataset.state = "drawing";
    library().then(() => window.drawCharts(found.flatMap((e) => JSON.parse(e.dataset.charts))));
  };

  document.addEventListener("htmx:afterSettle", (event) => {
    if (!event.detail.target || event.detail.target.id !== "answer") return;
    answer().removeAttribute("aria-busy");
    draw();
  });
  let asked = 0;
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (event.detail.elt.id !== "question") return;
    // A field that was left for the button has changed, too: one question, not two.
    const cause = event.detail.requestConfig.triggeringEvent;
    if (cause && cause.type === "submit") asked = Date.now();
    else if (Date.now() - asked < 500) { event.preventDefault(); return; }
    answer().setAttribute("aria-busy", "true");
  });
  // A question that failed or was taken back leaves no answer of another question behind.
  document.addEventListener("htmx:afterSwap", (event) => {
    if (!event.detail.target || event.detail.target.id !== "status") return;
    if (event.detail.target.querySelector("[data-failed]")) answer().replaceChildren();
    if (!event.detail.target.querySelector(".job")) answer().removeAttribute("aria-busy");
  });
  // On a phone the answer comes below the form: whoever pressed the button wants to see it.
  document.addEventListener("submit", (event) => {
    if (event.target.id === "question") document.getElementById("status").scrollIntoView({ block: "nearest" });
  });
  // Eighty boxes are many Tabs: Escape goes to what follows them.
  document.addEventListener("keydown", (event) => {
    const list = event.key === "Escape" && event.target.closest(".chips");
    if (!list) return;
    const next = Array.from(document.querySelectorAll("#question input, #question select, #question button"))
      .find((e) => list.compareDocumentPosition(e) & Node.DOCUMENT_POSITION_FOLLOWING && e.type !== "hidden" && e.offsetParent
        && !list.contains(e));
    if (next) next.focus();
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy], [data-copy-url]");
    if (!button) return;
    const url = button.dataset.copyUrl;
    navigator.clipboard.writeText(url ? location.origin + url : button.dataset.copy)
      .then(() => { button.textContent = "Copied"; }, () => { button.textContent = "Copying is not allowed here"; });
  });
})();
