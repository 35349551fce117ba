// One tile for each photo of several: as it was chosen, as it is worked on, as it was cut out, or why it was not.
//
// The page has the list, the server does not: it is sent what is to be worked on, see `page/several.py`, and answers
//   {run, done: [{id, took, reason?, gone?, work?, subjects?, file?, name?, thumbnail?}, ...]}   or   {run, refused}
// of which Gradio sends on only what is new. Each photo is uploaded on its own, so that one that fails stops no other.
const at = (selector) => element.querySelector(selector);
const grid = at(".grid");
const UPLOADS = 3; // at once
const ENOUGH = 2; // sound photos after which the time that is left is told
const ALOUD = 10_000; // ms between two times that screen readers are told how far it is
const LATEST = 5000; // ms after which a run that was stopped counts as ended
const say = (...words) => page.say(...words);

let tiles = [];
let [last, run, edition] = [0, 0, 0]; // numbers of tiles, runs and edits
let phase = "idle"; // or "cutting", "applying", "stopping"
let current = []; // what the run is about: {tile, version, answered}
let wanted = null; // and what it is to be: "cut" or "look"
let taken = 0; // of the run's answers
let times = []; // seconds that sound photos have taken since the start
let [problem, stopped, packing] = ["", false, false];
let [look, given] = [null, null]; // the controls' values now, and those that the run has
let archive = null; // the last zip: {key, url, name}
let editing = null; // the tile that is in the editor
let edits = []; // tiles that came back changed, the first of which the server has
let shown = ""; // what the buttons were told
let heard = 0; // when screen readers were told last
let making = Promise.resolve(); // small pictures, one after the other

const count = (...states) => tiles.filter((tile) => states.includes(tile.state)).length;
const waits = (tile) => tile.state === "ready" || tile.state === "uploading";
const url = (path) => page.inlet.url(path);

// A look as a text, to be compared.
const key = (values) => JSON.stringify((values || []).map((value) => value?.path ?? value));

// --- photos come ---

function add(files) {
  const room = Math.max(0, page.limits.files - tiles.length);
  problem = "";
  if (phase === "idle") stopped = false;
  if (files.length > room) problem = say("These are more than {0} photos: only the first of them are here.", page.limits.files);
  for (const file of [...files].slice(0, room)) {
    const tile = { id: (last += 1), name: file.name, file, state: "uploading", version: 0, strokes: [], refine: true };
    tiles.push(tile);
    build(tile);
    making = making.then(() => preview(tile));
  }
  pump();
  tell();
}

async function preview(tile) {
  if (!tiles.includes(tile) || tile.result) return;
  tile.local = await page.inlet.small(tile.file);
  paint(tile);
}

function pump() {
  const busy = tiles.filter((tile) => tile.sending).length;
  const waiting = tiles.filter((tile) => tile.state === "uploading" && !tile.sending);
  waiting.slice(0, Math.max(0, UPLOADS - busy)).forEach(upload);
}

async function upload(tile) {
  tile.sending = new AbortController();
  try {
    tile.path = await page.inlet.send(tile.file, tile.sending.signal);
    tile.state = "ready";
  } catch (error) {
    tile.state = "failed";
    tile.reason = typeof error === "string" && error ? error : say("This photo could not be sent here: try it again.");
  }
  tile.sending = null;
  if (!tiles.includes(tile)) return;
  paint(tile);
  pump();
  if (phase === "cutting" && !current.length) next();
  tell();
}

function remove(tile) {
  tile.sending?.abort();
  if (tile.local) URL.revokeObjectURL(tile.local);
  const neighbour = tile.element.nextElementSibling || tile.element.previousElementSibling;
  tiles = tiles.filter((other) => other !== tile);
  tile.element.remove();
  if (editing === tile) editing = null;
  pump();
  tell();
  return neighbour;
}

// --- runs ---

function start() {
  if (phase !== "idle" || !tiles.some(waits)) return;
  [phase, problem, stopped, times] = ["cutting", "", false, []];
  next();
}

// What is here by now; what is still being uploaded comes in the next run.
function next() {
  const ready = tiles.filter((tile) => tile.state === "ready");
  if (ready.length) send("cut", ready);
  else if (!count("uploading")) phase = "idle";
  tell();
}

function send(what, some) {
  run += 1;
  wanted = what;
  taken = 0;
  current = some.map((tile) => ({ tile, version: tile.version, answered: false }));
  trigger("run");
  some.forEach(paint);
}

function apply() {
  const some = tiles.filter((tile) => tile.state === "done");
  if (phase !== "idle" || !some.length) return;
  [phase, problem, stopped, times] = ["applying", "", false, []];
  send("look", some);
  tell();
}

function task(values) {
  look = given = values;
  const sent = current.map(({ tile }) =>
    wanted === "cut"
      ? { id: tile.id, photo: tile.path }
      : { id: tile.id, work: tile.work, strokes: tile.strokes, refine: tile.refine },
  );
  return { run, tiles: sent };
}

function take(value) {
  if (!value || value.run !== run || phase === "idle") return;
  if (value.refused) problem = value.refused;
  const news = value.done?.slice(taken) || [];
  taken += news.length;
  for (const outcome of news) settle(outcome);
  const working = current.find(({ answered }) => !answered);
  if (working) paint(working.tile);
  if (news.length) tell();
}

function settle(outcome) {
  const item = current.find(({ tile }) => tile.id === outcome.id);
  if (!item) return;
  const { tile, version } = item;
  item.answered = true;
  if (!outcome.reason) times.push(outcome.took);
  if (!tiles.includes(tile) || tile.version !== version) return;
  if (outcome.work) Object.assign(tile, { work: outcome.work, subjects: outcome.subjects, values: given });
  tile.reason = outcome.reason || "";
  if (outcome.file) become(tile, outcome, given, given);
  else if (outcome.gone) lose(tile, outcome.reason);
  else if (outcome.work) tile.state = "empty";
  else if (wanted === "cut") tile.state = "failed";
  paint(tile);
}

// It has a result, with a look of its own or that of all, which is then another look's if that is changed.
function become(tile, { file, name, thumbnail }, values, all) {
  Object.assign(tile, { state: "done", result: { file, name, thumbnail }, values, made: key(all), reason: "" });
}

// Its files are no longer there: it is to be sent once more.
function lose(tile, reason) {
  Object.assign(tile, { state: "failed", reason, path: null, work: null, result: null, strokes: [], refine: true, pick: null });
}

// A run has come to its end by itself.
function ended(value) {
  take(value);
  if (value?.run !== run || (!value.refused && current.some(({ answered }) => !answered))) return; // it was stopped
  over();
}

// Or otherwise: it was stopped, or the server has not answered.
function failed() {
  if (phase === "idle" || !current.length) return;
  if (phase !== "stopping") problem = say("This ended before all was done: press 'Cut out all' once more.");
  over();
}

function over() {
  const some = current.map(({ tile }) => tile);
  const goesOn = phase === "cutting" && !problem;
  current = [];
  if (!goesOn) phase = "idle";
  some.forEach(paint);
  if (goesOn) next();
  tell();
}

function stop() {
  if (phase !== "cutting" && phase !== "applying") return;
  stopped = phase === "cutting";
  phase = "stopping";
  if (!current.length) phase = "idle"; // only uploads were waited for
  const number = run;
  setTimeout(() => number === run && phase === "stopping" && failed(), LATEST);
  current.forEach(({ tile }) => paint(tile));
  tell();
}

function retry() {
  for (const tile of tiles.filter((tile) => tile.state === "failed")) {
    tile.state = tile.path ? "ready" : "uploading";
    tile.reason = "";
    paint(tile);
  }
  pump();
  start();
}

// --- the editor ---

function edit(tile) {
  editing = tile;
  page.tab(0);
  tell();
  trigger("opened");
}

// A change that is made there is taken over whichever way one comes back.
function back(refine, values) {
  const state = page.stage?.state();
  const tile = tiles.find((tile) => tile.work && tile.work.photo === state?.work?.photo);
  if (!tile) return;
  editing = tile;
  tile.element.scrollIntoView({ block: "nearest" });
  tile.element.querySelector(".open").focus({ preventScroll: true });
  const { work, strokes, pick, solid, subjects } = state;
  const picked = work.matte !== tile.work.matte;
  const same = JSON.stringify(tile.strokes) === JSON.stringify(strokes) && tile.refine === refine && !picked;
  if (same && key(values) === key(tile.values)) return;
  if (tile.state === "empty" && !strokes.length && !picked) return;
  if (picked) Object.assign(tile, { work, pick, solid, subjects });
  Object.assign(tile, { strokes, refine, values, version: tile.version + 1, changing: true, reason: "" });
  edits.push({ tile, version: tile.version, all: look });
  if (edits.length === 1) trigger("edited");
  paint(tile);
  tell();
}

function edited(value) {
  const done = edits.shift();
  if (done && tiles.includes(done.tile) && done.tile.version === done.version) {
    const { tile } = done;
    tile.changing = false;
    if (value?.file) become(tile, value, tile.values, done.all);
    else tile.reason = value?.refused || say("This change could not be made: open it once more.");
    paint(tile);
  }
  if (edits.length) trigger("edited");
  tell();
}

// --- files ---

const DELETED = () => say("This result has since been deleted here: try it again.");

const there = (address) => fetch(address, { method: "HEAD" }).then(({ ok }) => ok);

async function get(tile) {
  const { file, name } = tile.result;
  try {
    problem = "";
    if (await there(url(file))) page.save(url(file), name);
    else lose(tile, DELETED());
  } catch {
    problem = say("This server can't be reached just now: try it again.");
  }
  paint(tile);
  tell();
}

function pack() {
  const outcome = { done: "cut out", empty: "no subject", failed: "failed" };
  const sent = tiles.map((tile) => ({
    id: tile.id, name: tile.name, file: tile.result?.file ?? null, outcome: outcome[tile.state] || "not done", reason: tile.reason || "",
  }));
  return { run: (edition += 1), tiles: sent };
}

async function zip() {
  if (packing) return;
  [packing, problem] = [true, ""];
  tell();
  if (archive?.key === JSON.stringify(pack().tiles) && (await there(archive.url).catch(() => false))) {
    packing = false;
    page.save(archive.url, archive.name);
    tell();
  } else trigger("packed");
}

function packed(value) {
  if (!packing) return;
  packing = false;
  if (value?.file) {
    archive = { key: JSON.stringify(pack().tiles), url: url(value.file), name: value.name };
    page.save(archive.url, archive.name);
  } else if (value?.gone) {
    for (const tile of tiles.filter(({ id }) => value.gone.includes(id))) {
      lose(tile, DELETED());
      paint(tile);
    }
    problem = say("Some results have since been deleted here: try the failed again.");
  } else problem = value?.refused || say("The zip could not be made: try it again.");
  tell();
}

// --- what is seen ---

function build(tile) {
  const found = at("template").content.firstElementChild.cloneNode(true);
  const part = (name) => found.querySelector(name);
  part(".name").textContent = part(".name").title = tile.name;
  part(".kind").textContent = tile.name.includes(".") ? tile.name.split(".").pop().slice(0, 5) : "";
  part(".drop").setAttribute("aria-label", say("Remove {0}", tile.name));
  part(".drop").addEventListener("click", () => {
    const neighbour = remove(tile);
    (neighbour?.querySelector(".drop") || document.querySelector("#photos button")).focus();
  });
  part(".open").addEventListener("click", () => edit(tile));
  part(".get").addEventListener("click", (event) => {
    event.preventDefault();
    get(tile);
  });
  tile.element = found;
  grid.append(found);
  paint(tile);
}

function paint(tile) {
  if (!tile.element) return;
  const part = (name) => tile.element.querySelector(name);
  const item = phase === "idle" ? null : current.find((item) => item.tile === tile && !item.answered);
  const working = (item && item === current.find(({ answered }) => !answered)) || tile.changing;
  tile.element.className = `tile ${tile.state}`;
  tile.element.classList.toggle("busy", Boolean(working));
  tile.element.classList.toggle("waits", tile.state === "uploading");
  tile.element.classList.toggle("told", Boolean(tile.reason));
  tile.element.setAttribute("aria-busy", Boolean(working));
  part(".wheel").hidden = !working;
  const [open, picture, link] = [".open", "img", ".get"].map(part);
  open.disabled = !tile.work || Boolean(item && wanted === "look" && working);
  open.title = open.disabled ? "" : say("Open it in the editor");
  open.classList.toggle("thumbnail-item", Boolean(tile.result));
  const source = tile.result ? url(tile.result.thumbnail) : tile.local || (tile.work ? url(tile.work.preview) : "");
  if (picture.getAttribute("src") !== source && source) picture.src = source;
  picture.hidden = !source;
  picture.classList.toggle("cutout", Boolean(tile.result));
  picture.alt = tile.result ? say("{0}, cut out", tile.name) : tile.name;
  part(".kind").hidden = Boolean(source);
  if (source) open.removeAttribute("aria-label"); // the picture has a text
  else open.setAttribute("aria-label", tile.name);
  link.hidden = !tile.result;
  if (tile.result) {
    link.href = url(tile.result.file);
    link.download = tile.result.name;
    link.setAttribute("aria-label", say("Download {0}", tile.result.name));
  }
  const state = { uploading: say("Uploading…"), ready: item ? say("Waiting") : say("Ready"), done: say("Cut out") }[tile.state] || "";
  const now = tile.changing || wanted === "look" ? say("Applying the look…") : say("Cutting out…");
  part(".state").textContent = working ? now : tile.reason || (item && wanted === "look" ? say("Waiting") : state);
}

// How far it is, and how long that will take, once there are photos to tell it from.
function progress(text, done, all, remaining) {
  if (times.length < ENOUGH || !remaining) return say(text, done, all);
  const seconds = (times.reduce((sum, time) => sum + time, 0) / times.length) * remaining;
  if (seconds < 90) return say(`${text}, about {2} s left`, done, all, Math.max(1, Math.round(seconds)));
  return say(`${text}, about {2} min left`, done, all, Math.round(seconds / 60));
}

function sentence() {
  const all = tiles.length;
  const [done, empty, bad] = [count("done"), count("empty"), count("failed")];
  const unanswered = current.filter(({ answered }) => !answered).length;
  if (phase === "stopping") return say("Stopping…");
  if (phase === "applying") return progress("{0} of {1} have the new look", current.length - unanswered, current.length, unanswered);
  if (phase === "cutting" && tiles.some(waits)) return progress("{0} of {1} done", done + empty + bad, all, tiles.filter(waits).length);
  if (problem) return problem;
  if (!all) return "";
  if (stopped) return say("Stopped: {0} of {1} cut out.", done, all);
  if (count("uploading")) return say("Uploading: {0} of {1}", all - count("uploading"), all);
  if (done + empty + bad === 0) return all === 1 ? say("1 photo is ready.") : say("{0} photos are ready.", all);
  const parts = [say("{0} cut out", done)];
  if (empty) parts.push(say("{0} without a subject", empty));
  if (bad) parts.push(say("{0} failed", bad));
  if (tiles.some(waits)) parts.push(say("{0} to do", tiles.filter(waits).length));
  return parts.join(", ");
}

function status() {
  const line = at(".line");
  const text = sentence();
  line.textContent = text;
  line.classList.toggle("bad", Boolean(problem) && phase === "idle");
  const bar = at("progress");
  bar.hidden = phase === "idle";
  const looked = phase === "applying" || (phase === "stopping" && wanted === "look");
  bar.max = Math.max(1, looked ? current.length : tiles.length);
  bar.value = looked ? current.filter(({ answered }) => answered).length : tiles.length - tiles.filter(waits).length;
  const lines = tiles.filter((tile) => tile.reason).map((tile) => `${tile.name}: ${tile.reason}`);
  at(".reasons").hidden = !lines.length;
  at(".reasons p").textContent = say("Please check {0}:", lines.length);
  const list = at(".reasons ul");
  if (list.dataset.lines !== lines.join("\n")) {
    list.dataset.lines = lines.join("\n");
    list.replaceChildren(...lines.map((line) => Object.assign(document.createElement("li"), { textContent: line })));
  }
  if (phase === "idle" || Date.now() - heard > ALOUD) {
    if (at(".heard").textContent !== text) at(".heard").textContent = text;
    heard = Date.now();
  }
}

function tell() {
  status();
  const idle = phase === "idle";
  const bad = count("failed");
  const old = look && tiles.some((tile) => tile.state === "done" && tile.made !== key(look));
  at(".stale").hidden = !old || phase === "applying" || (phase === "stopping" && wanted === "look");
  at("#apply").disabled = !idle || edits.length > 0;
  at("#retry").hidden = !bad || !idle;
  document.dispatchEvent(new CustomEvent("tiles", { detail: tiles.length }));
  const now = JSON.stringify(page.tiles.buttons());
  if (now !== shown) trigger("told", { state: (shown = now) });
}

page.tiles = {
  add, start, stop, task, ended, failed, back, edited, zip, pack, packed,
  say(text) {
    problem = text;
    tell();
  },
  clear() {
    if (phase !== "idle") document.querySelector("#stop").click();
    [...tiles].forEach(remove);
    [problem, stopped, archive] = ["", false, null];
    tell();
    document.querySelector("#photos button").focus();
  },
  look(values) {
    look = values;
    tell();
  },
  // For the buttons in Gradio's words: start, stop, the zip, and back from the editor.
  buttons() {
    const [idle, done, open] = [phase === "idle", count("done"), tiles.filter(waits).length];
    const over = idle && done && !open;
    const states = [
      { interactive: idle && open > 0, variant: over ? "secondary" : "primary" },
      { interactive: !idle && phase !== "stopping", value: phase === "stopping" ? say("Stopping…") : say("Stop") },
      {
        interactive: done > 0 && !packing, variant: over ? "primary" : "secondary",
        value: packing ? say("Making the zip…") : say("Download zip"),
      },
      { visible: Boolean(editing) },
    ];
    return states.map((state) => ({ ...state, __type__: "update" }));
  },
  // The editor is emptied first, so that what its controls are set to is asked for only once.
  opening() {
    page.asked += 1;
    page.stage.begin(true);
    return [editing.refine, ...editing.values ?? look];
  },
  open() {
    const { work, strokes, pick, solid, subjects, name } = editing;
    const photo = { path: work.preview, url: url(work.preview), orig_name: name, meta: { _type: "gradio.FileData" } };
    page.stage.open({ work, strokes, pick, solid, subjects, photo });
    setTimeout(() => document.querySelector("#back")?.focus(), 100); // once it can be seen
  },
  edit() {
    const { tile } = edits[0];
    edits[0].asked = edition += 1;
    const { work, strokes, refine, values } = tile;
    return [{ asked: edition, work, strokes }, refine, ...values];
  },
  // Another photo is in the editor now.
  left() {
    editing = null;
    tell();
  },
};

grid.setAttribute("aria-label", say("Photos"));
at("progress").setAttribute("aria-label", say("How far it is"));
at("#apply").addEventListener("click", apply);
at("#retry").addEventListener("click", retry);
watch("value", () => take(props.value));
tell();
