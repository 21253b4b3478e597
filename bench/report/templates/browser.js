"use strict";
// The sample browser. Text of the data goes into the page as text alone (textContent), never as HTML.
const genseg = (() => {
  const PAGE = 48; // samples on a page
  const COLOURS = [[213, 94, 0], [0, 114, 178], [230, 159, 0], [204, 121, 167], [86, 180, 233]]; // Okabe and Ito's
  const TRUTH = [0, 158, 115];
  const byId = (id) => document.getElementById(id);
  const percent = (share) => (100 * share).toFixed(1);
  let data, shown = [], page = 0, open = null, opacity = 0.45;
  const chunks = {}; // number -> promise of the masks of so many samples
  const arrived = {}; // number -> what keeps that promise

  function make(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  // ---- masks ----
  function masks(number, list) {
    (arrived[number] ??= deferred()).resolve(list);
  }

  function deferred() {
    const made = {};
    made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
    return made;
  }

  function masksOf(sample) {
    const number = Math.floor(sample.number / data.chunk);
    chunks[number] ??= new Promise((resolve, reject) => {
      arrived[number] ??= deferred();
      arrived[number].promise.then(resolve);
      if (!data.images[0]?.startsWith("data:")) {
        const source = `masks/${String(number).padStart(4, "0")}.js`;
        document.head.append(make("script", { src: source, onerror: () => reject(new Error(`${source} is missing`)) }));
      }
    });
    return chunks[number].then((list) => list[sample.number % data.chunk]);
  }

  function runsOf(text) { // COCO's compressed run lengths -> numbers of pixels outside and inside by turns
    const runs = [];
    for (let at = 0; at < text.length;) {
      let value = 0, shift = 0, code;
      do {
        code = text.charCodeAt(at++) - 48;
        value |= (code & 31) << shift;
        shift += 5;
      } while (code & 32);
      if (code & 16 && shift < 32) value |= -1 << shift;
      runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
    }
    return runs;
  }

  function pixelsOf(text, height, width) { // one byte for each pixel, row by row; runs go down the columns
    const mask = new Uint8Array(height * width);
    let at = 0, inside = 0;
    for (const run of runsOf(text)) {
      if (inside) for (let i = at; i < at + run; i++) mask[(i % height) * width + Math.floor(i / height)] = 1;
      at += run;
      inside = 1 - inside;
    }
    return mask;
  }

  function paint(canvas, text, sample, colour, box) {
    const [height, width] = sample.frame;
    Object.assign(canvas, { width, height });
    const mask = pixelsOf(text, height, width), context = canvas.getContext("2d");
    const drawn = context.createImageData(width, height);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const i = y * width + x;
        const edge = mask[i] && (x === 0 || y === 0 || x === width - 1 || y === height - 1 ||
          !mask[i - 1] || !mask[i + 1] || !mask[i - width] || !mask[i + width]);
        const [red, green, blue] = mask[i] ? colour : [255, 255, 255];
        drawn.data.set([red, green, blue, edge ? 255 : 255 * (mask[i] ? opacity : 0.68)], 4 * i);
      }
    }
    context.putImageData(drawn, 0, 0);
    if (box) {
      const scale = width / sample.whole[1];
      context.strokeStyle = "#000";
      context.lineWidth = Math.max(1, width / 200);
      context.setLineDash([4, 3]);
      context.strokeRect(box[0] * scale, box[1] * scale, (box[2] - box[0]) * scale, (box[3] - box[1]) * scale);
    }
  }

  // ---- tiles: an image, and a mask above it that is drawn when it comes into sight ----
  const pending = new WeakMap();
  const sight = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((each) => each.isIntersecting)) {
      sight.unobserve(entry.target);
      pending.get(entry.target)?.();
    }
  }, { rootMargin: "300px" });

  function tile(sample, choose, colour, caption, box = null) {
    const [height, width] = sample.frame;
    const place = make("span", { className: "tile" });
    place.style.aspectRatio = `${width} / ${height}`;
    place.append(make("img", { src: data.images[sample.image], alt: "", loading: "lazy", width, height }));
    if (choose) {
      const canvas = make("canvas");
      place.append(canvas);
      pending.set(canvas, () => masksOf(sample).then((found) => {
        const text = choose(found);
        if (text !== null) paint(canvas, text, sample, colour, box);
      }, (error) => caption.append(` (${error.message})`)));
      sight.observe(canvas);
    }
    return make("figure", {}, place, caption);
  }

  function answerCaption(sample, i) {
    const answer = sample.answers[i], caption = make("figcaption", {}, make("span", { textContent: data.methods[i] }));
    caption.append(make("br"), answer ? make("b", { textContent: `${percent(answer.iou)} %` }) : "not asked");
    if (answer?.failure) caption.append(make("br"), make("span", { className: "failure", textContent: answer.failure }));
    return caption;
  }

  function tiles(sample, plain) {
    const row = make("div", { className: "row" });
    if (plain) row.append(tile(sample, null, TRUTH, make("figcaption", { textContent: "image" })));
    row.append(tile(sample, (found) => found.truth, TRUTH, make("figcaption", { textContent: "ground truth" })));
    sample.answers.forEach((answer, i) => row.append(tile(
      sample, answer && ((found) => found.answers[i]), COLOURS[i % COLOURS.length], answerCaption(sample, i), answer?.box)));
    return row;
  }

  // ---- filters ----
  const none = ["", "all"];
  const iouOf = (sample, i) => sample.answers[i]?.iou ?? null;
  const failed = (sample) => sample.answers.some((answer) => answer?.failure);
  const STATES = {
    "": ["all", () => true],
    failed: ["with a failure", failed],
    whole: ["without failures", (sample) => !failed(sample)],
    empty: ["IoU 0 of all", (sample) => sample.answers.every((answer) => !answer?.iou)],
    stepped: ["with masks on the way", (sample) => sample.stepped],
  };

  function orders() {
    const found = { "": ["their order", (sample) => sample.number] };
    data.methods.forEach((name, i) => {
      found[`up${i}`] = [`IoU of ${name}, lowest first`, (sample) => iouOf(sample, i)];
      found[`down${i}`] = [`IoU of ${name}, highest first`, (sample) => negative(iouOf(sample, i))];
    });
    data.methods.forEach((one, i) => data.methods.forEach((other, j) => {
      if (i !== j) found[`gap${i}-${j}`] = [`${one} ahead of ${other}`, (sample) => negative(gap(sample, i, j))];
    }));
    if (data.methods.length > 1) found.disagree = ["disagreement, most first", (sample) => negative(sample.disagreement)];
    found.small = ["object size, smallest first", (sample) => sample.share];
    found.large = ["object size, largest first", (sample) => -sample.share];
    found.long = ["expression, longest first", (sample) => -sample.text.length];
    return found;
  }

  const negative = (value) => value === null ? null : -value;
  function gap(sample, i, j) {
    const [one, other] = [iouOf(sample, i), iouOf(sample, j)];
    return one === null || other === null ? null : one - other;
  }

  function fill(id, pairs) {
    byId(id).replaceChildren(...pairs.map(([value, textContent]) => make("option", { value, textContent })));
  }

  function options(name) {
    const values = [...new Set(data.samples.map((sample) => sample[name]))].sort();
    return [none, ...values.map((value) => [value, value])];
  }

  function choose() {
    const value = (id) => byId(id).value;
    const words = value("query").toLowerCase().split(/\s+/).filter(Boolean);
    const [low, high] = [Number(value("low")) / 100, Number(value("high") || 100) / 100], i = Number(value("method"));
    const fits = (sample) => words.every((word) => sample.text.toLowerCase().includes(word))
      && ["place", "size", "kind"].every((name) => !value(name) || sample[name] === value(name))
      && STATES[value("state")][1](sample)
      && ((low <= 0 && high >= 1) || (iouOf(sample, i) !== null && iouOf(sample, i) >= low && iouOf(sample, i) <= high));
    const [, rank] = orders()[value("sort")];
    const keyed = data.samples.filter(fits).map((sample) => [rank(sample) ?? Infinity, sample]);
    shown = keyed.sort((a, b) => (a[0] > b[0]) - (a[0] < b[0]) || a[1].number - b[1].number).map(([, sample]) => sample);
    page = 0;
    list();
  }

  function list() {
    const last = Math.max(0, Math.ceil(shown.length / PAGE) - 1);
    page = Math.min(page, last);
    byId("list").replaceChildren(...shown.slice(page * PAGE, (page + 1) * PAGE).map(card));
    const range = shown.length > PAGE ? `, ${page * PAGE + 1} to ${Math.min(shown.length, (page + 1) * PAGE)} below` : "";
    byId("count").textContent = `${shown.length} of ${data.samples.length} samples${range}`;
    byId("back").disabled = page === 0;
    byId("more").disabled = page === last;
  }

  const linkOf = (sample) => `#sample=${encodeURIComponent(sample.id)}`;
  function card(sample) {
    return make("a", { className: "card", href: linkOf(sample) },
      make("p", { className: "text", dir: "auto", textContent: sample.text }), tiles(sample, false));
  }

  // ---- one sample ----
  function show(sample) {
    open = sample;
    const dialog = byId("detail"), at = shown.indexOf(sample);
    const step = (text, by) => make("button", { type: "button", textContent: text, onclick: () => move(by),
      disabled: at < 0 || !shown[at + by] });
    const tint = make("input", { type: "range", min: 0, max: 0.9, step: 0.05, value: opacity,
      onchange: (event) => { opacity = Number(event.target.value); show(sample); list(); } });
    const tools = make("div", { className: "tools" }, step("← Earlier", -1), step("Later →", 1),
      make("button", { type: "button", textContent: "Close (Esc)", onclick: () => dialog.close() }),
      make("label", {}, "tint", tint));
    dialog.replaceChildren(tools, make("h2", { id: "detail-title", dir: "auto", textContent: sample.text }),
      tiles(sample, true), ...strips(sample), facts(sample));
    if (!dialog.open) dialog.showModal();
  }

  function strips(sample) {
    if (!sample.stepped) return [];
    const note = make("p", { className: "note", textContent: "Masks on the way are decoded from the written tokens "
      + "alone; an answer by another rule, from probabilities say, can differ from the last of them." });
    return [...data.methods.map((name, i) => {
      const strip = make("div", { className: "strip" });
      masksOf(sample).then((found) => strip.append(...found.steps[i].map(([count, text, iou]) => tile(sample,
        () => text, COLOURS[i % COLOURS.length], make("figcaption", {}, `${count} token${count > 1 ? "s" : ""}`,
          make("br"), make("b", { textContent: `${percent(iou)} %` }))))));
      return make("div", {}, make("h3", { textContent: `${name}: the mask after its first tokens` }), strip);
    }), note];
  }

  function facts(sample) {
    const told = [["asked about", data.places[sample.place]], ["sample", sample.id],
      ["object", `${sample.size}, ${sample.area} pixels, ${percent(sample.share)} % of the image`],
      ["kind of expression", sample.kind]];
    if (sample.disagreement !== null) told.push(["disagreement", `${percent(sample.disagreement)} %`]);
    for (const [name, value] of Object.entries(sample.facts)) told.push([name, value]);
    sample.answers.forEach((answer, i) => {
      if (!answer) return;
      const spent = `${answer.tokens} mask tokens${answer.steps ? ` in ${answer.steps} model steps` : ""}`;
      told.push([data.methods[i], [spent, answer.text].filter(Boolean).join(". Wrote: ")]);
    });
    return make("dl", { className: "facts" }, ...told.flatMap(([name, value]) => [
      make("dt", { textContent: name }), make("dd", { dir: "auto", textContent: value })]));
  }

  function move(by) {
    const next = shown[shown.indexOf(open) + by];
    if (open && next) location.replace(linkOf(next));
  }

  function follow() { // the link in the address bar
    const wanted = location.hash.match(/^#sample=(.*)$/s)?.[1];
    let name = null;
    try { name = wanted === undefined ? null : decodeURIComponent(wanted); } catch { name = wanted; }
    const sample = name === null ? null : data.samples.find((each) => each.id === name);
    if (sample) show(sample);
    else if (byId("detail").open) byId("detail").close();
    if (name !== null && !sample) byId("count").textContent = `There is no sample ${name} here.`;
  }

  function keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (open && !typing && ["ArrowLeft", "k"].includes(event.key)) move(-1);
    else if (open && !typing && ["ArrowRight", "j"].includes(event.key)) move(1);
    else if (!open && !typing && event.key === "/") { event.preventDefault(); byId("query").focus(); }
  }

  function turn(by) {
    page += by;
    list();
    scrollTo({ top: 0 });
  }

  function samples(given) {
    data = given;
    data.samples.forEach((sample, number) => { sample.number = number; });
    fill("place", [none, ...Object.entries(data.places)]);
    for (const name of ["size", "kind"]) fill(name, options(name));
    fill("state", Object.entries(STATES).map(([value, [text]]) => [value, text]));
    fill("method", data.methods.map((name, i) => [i, name]));
    fill("sort", Object.entries(orders()).map(([value, [text]]) => [value, text]));
    byId("filters").addEventListener("input", choose);
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("filters").addEventListener("reset", () => setTimeout(choose));
    byId("back").onclick = () => turn(-1);
    byId("more").onclick = () => turn(1);
    byId("detail").addEventListener("close", () => {
      open = null;
      if (location.hash) history.replaceState(null, "", location.pathname + location.search);
    });
    addEventListener("hashchange", follow);
    addEventListener("keydown", keys);
    choose();
    follow();
  }

  return { samples, masks };
})();
