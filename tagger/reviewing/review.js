// The review page: a grid of images, one of them current, some of them selected; keys and buttons assign labels.
// A decision is sent at once, and gets a tick when the server has saved it.

const at = id => document.getElementById(id);
const grid = at("grid"), single = at("single"), filter = at("filter"), other = at("other").elements.tag;
const DIGITS = 9, RECENT = 4, AT_ONCE = 4;
const REASONS = {duplicate: "a copy has another label; ", dark: "dark; ", blurred: "blurred; "};
const loading = new Set();

let facts, images = [], current = 0, more = false;
let pages = [null], selected = new Set(), drafts = new Map(), undone = [], recent = [], counts = {done: 0, total: 0};
let writing = Promise.resolve(), anchor = null, asked = 0;

// --- requests to the server ------------------------------------------------------------------------------------------

async function call(path, options) {
  let answer;
  try { answer = await fetch(path, options); } catch { throw new Error("The server does not respond. Is `tagger review` running?"); }
  if (answer.status === 403) throw new Error("The server was restarted: open the URL that it printed.");
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.message || `the server returned the status ${answer.status}`);
  return body;
}

function query() {
  const found = new URLSearchParams();
  for (const field of filter.elements) {
    if (!field.name) continue;
    const value = field.type === "checkbox" ? field.checked && "true" : field.value.trim();
    if (value) found.set(field.name, value);
  }
  return found;
}

async function load(after = null, focus = true) {
  const parameters = query(), mine = ++asked;
  if (after !== null) parameters.set("after", after);
  grid.setAttribute("aria-busy", "true");
  try {
    const found = await call(`api/images?${parameters}`);
    if (mine !== asked) return;  // the filters have changed since
    images = found.images;
    counts = {done: found.done, total: found.total};
    more = found.more;
    current = 0;
    anchor = null;
    selected.clear();
    drafts.clear();
    draw();
    if (focus) show(0);
  } catch (error) { if (mine === asked) say(error.message, true); }
  if (mine === asked) grid.removeAttribute("aria-busy");
}

function firstPage(focus) {
  pages = [null];
  say("");
  return load(null, focus);
}

async function nextPage() {
  if (!images.length) return;
  await writing;
  pages.push(images.at(-1).id);
  await load(pages.at(-1));
  say(images.length ? `Page ${pages.length}.` : "");
  scrollTo(0, 0);
}

async function previousPage() {
  if (pages.length < 2) return;
  await writing;
  pages.pop();
  await load(pages.at(-1));
  say(`Page ${pages.length}.`);
}

// --- labels ----------------------------------------------------------------------------------------------------------

const several = () => at("multilabel").checked;
const targets = () => selected.size ? images.filter(each => selected.has(each.id)) : images.slice(current, current + 1);

/** The model's tags; with one tag per image, the best one, even if it is below its threshold. */
function predicted(image) {
  const tags = image.tags.map(pair => pair.tag);
  if (several()) return tags;
  return tags.length ? tags.slice(0, 1) : image.candidates.slice(0, 1).map(pair => pair.tag);
}

const shown = image => drafts.get(image.id) ?? image.labels ?? predicted(image);

/** The tags of the keys 1 to 9: all of a model with few tags, else the image's best ones; then the most recently used. */
function palette() {
  const image = images[current], fixed = facts.palette;
  if (!image && !fixed.length) return [];
  const best = fixed.length ? fixed : [...(image.given ?? []), ...image.candidates.map(pair => pair.tag), ...shown(image)];
  const first = [...new Set(best)].slice(0, fixed.length || DIGITS - recent.length);
  return [...new Set([...first, ...recent])].slice(0, DIGITS);
}

/** Send decisions; for an undo, `known` has the labels of images that are no longer on this page. */
function decide(decisions, known = null) {
  const before = decisions.map(({id}) => ({id, labels: (find(id) ?? known?.find(each => each.id === id))?.labels ?? null}));
  mark(decisions, true);
  if (!known) undone.push({before, now: decisions});
  writing = writing.then(() => send(decisions, before, known !== null));
  return writing;
}

function mark(decisions, pending) {
  for (const image of decisions.map(each => find(each.id)).filter(Boolean)) {
    image.pending = pending;
    redraw(image);
  }
}

async function send(decisions, before, isUndo) {
  const options = {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({decisions})};
  try {
    for (const saved of (await call("api/decisions", options)).images) {
      const image = find(saved.id), was = before.find(each => each.id === saved.id);
      counts.done += (saved.labels !== null) - (was.labels !== null);
      if (!image) continue;
      Object.assign(image, saved, {pending: false});
      drafts.delete(image.id);
      redraw(image);
    }
    say(isUndo ? "Undone." : summary(decisions));
  } catch (error) {
    undone = undone.filter(each => each.before !== before);
    mark(decisions, false);
    say(`Not saved: ${error.message}`, true);
  }
  drawCounts();
  drawActions();
}

function summary(decisions) {
  const names = [...new Set(decisions.map(each => each.labels.join(" + ") || "none of these"))];
  const count = decisions.length === 1 ? "1 image" : `${decisions.length} images`;
  return `${count} saved: ${names.slice(0, 3).join(", ")}${names.length > 3 ? ", …" : ""}`;
}

function give(tag) {
  recent = [tag, ...recent.filter(each => each !== tag)].slice(0, RECENT);
  if (!several()) return finish(targets().map(image => ({id: image.id, labels: [tag]})));
  const chosen = targets();
  const add = !chosen.every(image => shown(image).includes(tag));
  for (const image of chosen) {
    const rest = shown(image).filter(each => each !== tag);
    drafts.set(image.id, add ? [...rest, tag] : rest);
    redraw(image);
  }
  say(`${chosen.length === 1 ? "" : `${chosen.length} images: `}${add ? "added" : "removed"} ${tag}; accept to save`);
  drawActions();
}

function accept() {
  const chosen = targets();
  const able = chosen.filter(image => several() || shown(image).length);
  if (able.length < chosen.length) say("An image without scores has no tags to accept: choose one.", true);
  if (able.length) finish(able.map(image => ({id: image.id, labels: shown(image)})));
}

function none() { finish(targets().map(image => ({id: image.id, labels: []}))); }

function finish(decisions) {
  if (!decisions.length) return;
  decide(decisions);
  selected.clear();
  for (const image of images) redraw(image);
  advance();
}

/** Go to the next image that is not reviewed; without one, to the next page if reviewed images are hidden. */
function advance() {
  const open = place => images[place].labels === null && !images[place].pending;
  for (let place = current + 1; place < images.length; place++) if (open(place)) return show(place);
  for (let place = 0; place < current; place++) if (open(place)) return show(place);
  if (filter.elements.reviewed.value === "no") return writing.then(() => nextPage());
  show(Math.min(current + 1, images.length - 1));
}

function undo() {
  const last = undone.pop();
  if (!last) return say("Nothing to undo.");
  decide(last.before, last.now);
  const place = images.findIndex(each => each.id === last.before[0].id);
  if (place >= 0) show(place);
  drawActions();
}

// --- drawing ---------------------------------------------------------------------------------------------------------

const find = id => images.find(each => each.id === id);
const percent = score => score === null ? "" : `${(100 * score).toFixed(0)}%`;

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

function chips(image) {
  const list = make("div", {className: "tags"});
  const labels = drafts.get(image.id) ?? image.labels;
  const scores = new Map([...image.candidates, ...image.tags].map(pair => [pair.tag, pair.score]));
  for (const tag of labels ?? predicted(image)) {
    const chip = make("span", {className: "tag", textContent: tag});
    if (labels === null || labels === undefined) {
      chip.append(make("b", {textContent: percent(scores.get(tag) ?? null)}));
      if (!image.tags.some(pair => pair.tag === tag)) chip.classList.add("weak");
    }
    list.append(chip);
  }
  if (!list.children.length) {
    const text = labels ? "none of these" : image.tagged ? "no tag" : image.status;
    list.append(make("span", {className: "tag", textContent: text}));
  }
  if (image.labels && !drafts.has(image.id)) list.prepend(make("span", {className: "tag", textContent: "✓"}));
  return list;
}

function remarks(image) {
  const found = [];
  const tags = predicted(image);
  if (image.reason && image.given) found.push(`${REASONS[image.reason] ?? ""}labelled ${image.given.join(", ") || "none of these"}`);
  if (image.labels && image.labels.join() !== tags.join()) found.push(`predicted ${tags.join(", ") || "no tag"}`);
  if (image.labels && image.by) found.push(`by ${image.by}`);
  if (image.disagrees) found.push(image.others.map(each => `${each.model}: ${each.tag}`).join(", "));
  if (image.unknown) found.push("unknown");
  if (!image.tagged) found.push(image.error || image.status);
  return found.map(text => make("div", {className: "was", textContent: text}));
}

function photo(image, path, alt) {
  const img = make("img", {alt, decoding: "async"});
  img.dataset.src = `${path}/${image.id}?v=${image.version}`;
  img.addEventListener("error", () => img.replaceWith(make("span", {textContent: "no image"})));
  for (const end of ["load", "error"]) img.addEventListener(end, () => { loading.delete(img); fetchImages(); });
  return img;
}

/** Fetch images a few at a time: a browser has six connections per host, and decisions must not wait for one. */
function fetchImages() {
  for (const img of loading) if (!img.isConnected) loading.delete(img);
  for (const img of document.querySelectorAll("img[data-src]")) {
    if (loading.size >= AT_ONCE) return;
    loading.add(img);
    img.src = img.dataset.src;
    delete img.dataset.src;
  }
}

function dress(element, image) {
  const place = images.indexOf(image);
  element.setAttribute("aria-selected", selected.has(image.id));
  element.tabIndex = place === current ? 0 : -1;
  element.classList.toggle("done", image.labels !== null && !drafts.has(image.id));
  element.classList.toggle("draft", drafts.has(image.id));
  element.classList.toggle("pending", Boolean(image.pending));
  element.querySelector(".text").replaceChildren(chips(image), ...remarks(image),
    make("div", {className: "name", textContent: image.name, title: image.uri}));
}

function card(image, place) {
  const frame = make("div", {className: "frame"}, photo(image, "thumbnails", ""));
  const pick = make("span", {className: "pick", textContent: "✓"});
  pick.setAttribute("aria-hidden", "true");
  const element = make("li", {id: `image-${image.id}`}, frame, pick, make("div", {className: "text"}));
  element.setAttribute("role", "option");
  element.addEventListener("click", event => {
    const start = anchor ?? current;
    show(place);
    if (event.shiftKey) range(start, place);
    else if (pick.contains(event.target) || event.ctrlKey || event.metaKey) toggle(place);
    else anchor = place;
  });
  element.addEventListener("dblclick", () => open());
  dress(element, image);
  return element;
}

function draw() {
  grid.replaceChildren(...images.map(card));
  fetchImages();
  at("empty").hidden = images.length > 0;
  at("empty").textContent = emptiness();
  at("previous").disabled = pages.length < 2;
  at("next").disabled = !more;
  if (!images.length) close();
  drawCounts();
  drawActions();
  if (!single.hidden) drawSingle();
}

/** Explain why there is no image on the page. */
function emptiness() {
  const left = counts.total - counts.done, parameters = query();
  if (left && pages.length > 1) return `This was the last page. ${left.toLocaleString()} images were skipped: go back, or change a filter.`;
  if (counts.total && !left) return `All of these images are reviewed. Train on their labels: tagger train FOLDER --labels ${facts.labels} --out checkpoints/NAME`;
  return parameters.get("tag") || parameters.get("folder") || parameters.has("disagree") || parameters.has("unknown") ? "No image matches these filters." : "There are no images to show.";
}

function redraw(image) {
  const element = at(`image-${image.id}`);
  if (element) dress(element, image);
  if (!single.hidden && image === images[current]) drawSingle();
}

function drawCounts() {
  const left = counts.total - counts.done;
  at("bar").max = Math.max(1, counts.total);
  at("bar").value = counts.done;
  at("counts").textContent = `${counts.done.toLocaleString()} done, ${left.toLocaleString()} left`;
}

function drawActions() {
  const chosen = targets();
  at("palette").replaceChildren(...palette().map((tag, place) => {
    const button = make("button", {type: "button", title: tag}, tag, " ", make("kbd", {textContent: place + 1}));
    button.setAttribute("aria-pressed", chosen.length > 0 && chosen.every(image => shown(image).includes(tag)));
    button.addEventListener("click", () => {
      give(tag);
      if (several()) at("palette").children[place]?.focus();  // the buttons were redrawn
    });
    return button;
  }));
  at("undo").disabled = !undone.length;
  for (const id of ["accept", "none"]) at(id).disabled = !chosen.length;
  const count = selected.size;
  at("accept").firstChild.textContent = count > 1 ? `Accept ${count} ` : "Accept ";
}

function say(text, bad = false) {
  at("message").textContent = text;
  at("message").classList.toggle("bad", bad);
}

// --- moving and selecting --------------------------------------------------------------------------------------------

function show(place, focus = true) {
  if (!images.length) return;
  const before = images[current];
  current = Math.max(0, Math.min(place, images.length - 1));
  if (before) redraw(before);
  redraw(images[current]);
  const element = at(`image-${images[current].id}`);
  if (focus && single.hidden) { element.focus({preventScroll: true}); element.scrollIntoView({block: "nearest"}); }
  drawActions();
}

function columns() {
  const top = grid.children[0]?.offsetTop;
  const found = [...grid.children].findIndex(each => each.offsetTop > top);
  return single.hidden ? (found < 0 ? grid.children.length : found) : 1;
}

function move(step, selecting) {
  const start = current, place = current + step;
  if (step === 1 && place >= images.length && !selecting) return more && nextPage();
  if (place < 0 || place >= images.length) return;
  show(place);
  if (selecting) range(anchor ?? (anchor = start), place);
  else anchor = null;
}

function range(from, to) {
  anchor = from;
  selected = new Set(images.slice(Math.min(from, to), Math.max(from, to) + 1).map(each => each.id));
  afterSelecting();
}

function toggle(place) {
  const {id} = images[place];
  if (!selected.delete(id)) selected.add(id);
  anchor = place;
  afterSelecting();
}

function afterSelecting() {
  for (const image of images) redraw(image);
  say(selected.size ? `${selected.size} selected` : "");
  drawActions();
}

// --- one image -------------------------------------------------------------------------------------------------------

function open() {
  if (!images.length) return;
  single.hidden = false;
  grid.hidden = at("pages").hidden = true;
  drawSingle();
  single.querySelector("button").focus();
}

function close() {
  if (single.hidden) return;
  single.hidden = true;
  grid.hidden = at("pages").hidden = false;
  show(current);
}

async function drawSingle() {
  const image = images[current];
  if (!image) return;
  if (single.dataset.image !== String(image.id)) {
    single.dataset.image = image.id;
    const back = make("button", {type: "button", onclick: close}, "Back to the grid ", make("kbd", {textContent: "Esc"}));
    const previous = make("button", {type: "button", onclick: () => move(-1), textContent: "←"});
    const next = make("button", {type: "button", onclick: () => move(1), textContent: "→"});
    previous.setAttribute("aria-label", "Previous image");
    next.setAttribute("aria-label", "Next image");
    const focused = single.contains(document.activeElement);
    single.replaceChildren(make("div", {className: "photo"}, photo(image, "full", image.name)),
      make("div", {className: "side"}, make("div", {className: "row"}, back, previous, next), make("div", {className: "labels"}), make("section", {className: "near", hidden: true}), make("div", {className: "more side"})));
    if (focused) back.focus();
    fetchImages();
    describeFully(image);
    drawNeighbours(image);
  }
  const state = make("div", {className: image.labels && !drafts.has(image.id) ? "done" : drafts.has(image.id) ? "draft" : ""}, chips(image), ...remarks(image));
  single.querySelector(".labels").replaceChildren(state);
}

async function describeFully(image) {
  try {
    const found = await call(`api/images/${image.id}`);
    if (single.dataset.image !== String(image.id)) return;
    const given = new Set(found.tags.map(pair => pair.tag));
    const rows = found.candidates.map(pair => {
      const meter = make("meter", {value: pair.score ?? 0});
      meter.setAttribute("aria-label", `score of ${pair.tag}`);
      return make("tr", {className: given.has(pair.tag) ? "given" : ""}, make("td", {textContent: pair.tag}), make("td", {}, meter),
        make("td", {textContent: pair.score === null ? "" : `${(100 * pair.score).toFixed(1)}%`}));
    });
    const table = make("table", {}, ...rows);
    table.setAttribute("aria-label", "Scores");
    const lines = {File: found.uri, Size: found.width && `${found.width} × ${found.height} ${found.format}`, Status: found.error ? `${found.status}: ${found.error}` : found.status,
      Model: facts.model, Tagged: found.tagged_at && new Date(found.tagged_at).toLocaleString(),
      Reviewed: found.decided_at && `${new Date(found.decided_at).toLocaleString()}${found.by ? ` by ${found.by}` : ""}`};
    const list = make("dl", {className: "facts"});
    for (const [name, value] of Object.entries(lines)) if (value) list.append(make("dt", {textContent: name}), make("dd", {textContent: value}));
    for (const each of found.others) list.append(make("dt", {textContent: each.model}), make("dd", {textContent: `${each.tag} ${percent(each.score)}`}));
    single.querySelector(".more").replaceChildren(table, list);
  } catch (error) { say(error.message, true); }
}

/** Show the labelled images with the nearest embeddings; nothing if the table has no embeddings. */
async function drawNeighbours(image) {
  try {
    const found = (await call(`api/images/${image.id}/neighbours`)).images, near = single.querySelector(".near");
    if (single.dataset.image !== String(image.id) || !found.length) return;
    const list = make("ul", {}, ...found.map(each => make("li", {title: each.uri},
      make("div", {className: "frame"}, photo(each, "thumbnails", each.name)),
      make("span", {textContent: each.labels.join(", ") || "none of these"}))));
    near.replaceChildren(make("h2", {textContent: "Nearest labelled images"}), list);
    near.hidden = false;
    fetchImages();
  } catch (error) { say(error.message, true); }
}

// --- keys and buttons ------------------------------------------------------------------------------------------------

const KEYS = {
  " ": () => toggle(current), a: accept, u: undo, 0: none, n: () => more && nextPage(), p: previousPage,
  Enter: () => single.hidden ? open() : close(), t: () => other.focus(), "/": () => other.focus(), "?": () => at("keys").showModal(),
  Escape: () => { if (!single.hidden) return close(); selected.clear(); anchor = null; afterSelecting(); },
  Home: () => show(0), End: () => show(images.length - 1),
};

document.addEventListener("keydown", event => {
  if (at("keys").open || event.isComposing) return;
  const {target} = event;
  if (target.closest("input:not([type=checkbox]), select")) {
    if (event.key === "Escape") { target.blur(); show(current); }
    return;
  }
  if ((event.ctrlKey || event.metaKey) && event.key === "a") {
    event.preventDefault();
    return range(0, images.length - 1);
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (target.closest("button, summary, a, input") && [" ", "Enter"].includes(event.key)) return;
  const steps = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns()};
  const digit = /^[1-9]$/.test(event.key) ? palette()[event.key - 1] : undefined;
  const act = event.key in steps ? () => move(steps[event.key], event.shiftKey) : digit !== undefined ? () => give(digit) : KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

at("accept").addEventListener("click", accept);
at("none").addEventListener("click", none);
at("undo").addEventListener("click", undo);
at("next").addEventListener("click", nextPage);
at("previous").addEventListener("click", previousPage);
document.querySelector(".skip").addEventListener("click", event => { event.preventDefault(); show(current); });
at("help").addEventListener("click", () => at("keys").showModal());
at("multilabel").addEventListener("change", () => { drafts.clear(); draw(); });
filter.addEventListener("submit", event => event.preventDefault());
filter.addEventListener("change", event => { if (event.target.name) firstPage(false); });
at("other").addEventListener("submit", event => {
  event.preventDefault();
  const tag = other.value.trim();
  if (!tag) return;
  other.value = "";
  other.blur();
  give(tag);
  if (several()) show(current);
});

/** Complete the typed text on the server, since there may be 100,000 tags. */
function suggest(input, list, name) {
  let last = 0;
  input.addEventListener("input", async () => {
    const mine = ++last;
    try {
      const found = await call(`api/${name}?${new URLSearchParams({q: input.value})}`);
      if (mine === last) at(list).replaceChildren(...found[name].map(value => make("option", {value})));
    } catch (error) { say(error.message, true); }
  });
  input.addEventListener("focus", () => input.dispatchEvent(new Event("input")));
}

suggest(filter.elements.tag, "tags", "tags");
suggest(filter.elements.folder, "folders", "folders");
suggest(other, "tags", "tags");

async function start() {
  try { facts = await call("api/start"); } catch (error) { return say(error.message, true); }
  at("table").textContent = `${facts.table} · ${facts.model} · ${facts.labels}`;
  filter.elements.status.append(...facts.statuses.map(each => new Option(each.status, each.status)));
  filter.elements.sort.value = facts.sort;
  filter.elements.tag.value = facts.tag;
  at("multilabel").checked = facts.multilabel;
  at("disagree").hidden = !facts.others.length;
  if (!facts.queue) filter.elements.sort.querySelector("[value=queue]").remove();
  if (!facts.others.length) filter.elements.sort.querySelector("[value=disagree]").remove();
  at("unknown").hidden = !facts.unknown;
  if (!facts.unknown) filter.elements.sort.querySelector("[value=unknown]").remove();
  if (matchMedia("(max-width: 44rem)").matches) at("filters").open = false;
  await firstPage(true);
}

start();
