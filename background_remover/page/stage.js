// The result, large: cutout, before and after, or mask; zoom and pan, with the full pixels of what is in view.
// `brush.js` and `picker.js` are one script with this.
//
// The server sends what it has made as `value`:
//   {answered, work: {photo, matte, preview}, cutout, before, mask, alpha, size, whole, taken, css, look, took}
// of which what has not changed may be missing, and with a matte that the network has just made {pick, solid, subjects},
// see `picker.js`. `state` is what all handlers are given, see `page/state.py`.
const at = (selector) => element.querySelector(selector);
const all = (selector) => [...element.querySelectorAll(selector)];
const [view, sheet, result, canvas, divider] = [".view", ".sheet", ".result", "canvas", ".divider"].map(at);
const [after, before, mask, painting, outlines] = [".after", ".before", ".mask", ".painting", ".outlines"].map(at);
const PREVIEW = 1600; // pixels: the longer side of what is shown
const CLOSEST = 8; // screen's pixels for one of the picture's, at most
const LATER = 250; // ms without a change after which the full pixels are asked for
const MOMENT = 60; // ms
const WEIGH = 600; // and the file itself is made, to say how large it is

let shown = null; // the last value with pictures
let work = null;
let answered = 0;
let mode = "cutout";
let zoom = 1; // times what fits
let [left, top] = [0, 0]; // of the sheet in the view, in its pixels
let wanted = null; // what part of the picture the full pixels are asked for
let [later, weigh] = [0, 0];
let file = null; // what was made for download: {answered, url, name, ...}
let task = "";
let took = 0;
let locked = "empty"; // what the button for the download was told
let opened = null; // the photo's preview, as Gradio's file
let waiting = null; // for a file: {resolve, what, mode, asked}

const blur = () => all(".detail").forEach((layer) => put(layer, "")); // without the full pixels
const put = (layer, url) => (layer.style.backgroundImage = url ? `url("${url}")` : "none");
const ready = () => Boolean(work && shown && answered === page.asked);
const paths = (files) => Object.fromEntries(Object.entries(files).map(([name, found]) => [name, found.path]));

// --- what is asked for, and what has come ---

page.stage = {
  state: () => ({ asked: page.asked, work, strokes, mode, view: wanted, task, took, have: shown?.look || "", ...subject() }),
  locked: () => locked,
  wait() {
    file = null;
    if (work) busy(true);
  },
  begin(photo, what = "Cutting out…") {
    clearTimeout(later);
    clearTimeout(weigh);
    waiting?.resolve(null); // it was of the last photo
    [work, shown, file, waiting, task, strokes, undone, took] = [null, null, null, null, "", [], [], 0];
    recall({});
    paint(false);
    choosing(false);
    element.closest(".editor")?.classList.toggle("full", Boolean(photo));
    sheet.hidden = true;
    result.remove();
    for (const layer of [before, mask, at(".photo"), at(".kept")]) put(layer, "");
    blur();
    at(".none").hidden = Boolean(photo);
    busy(Boolean(photo), page.say(what));
    lock();
  },
  // Nothing else comes for the newest change, or for what was to be a file.
  failed() {
    answered = -1;
    stay();
    busy(false);
    page.stage.made(null);
    lock();
  },
  refused(number) {
    if (number === page.asked) this.failed();
  },
  detail(found) {
    if (found?.asked !== page.asked || found.view.join() !== wanted?.join()) return;
    const [x0, y0, x1, y1] = found.shown;
    const style = {
      left: `${100 * x0}%`, top: `${100 * y0}%`, width: `${100 * (x1 - x0)}%`, height: `${100 * (y1 - y0)}%`,
    };
    for (const [name, picture] of Object.entries(found.pictures)) {
      const loaded = new Image();
      loaded.onload = () => {
        if (found.asked !== page.asked) return;
        const layer = at(`.${name} .detail`);
        Object.assign(layer.style, style);
        put(layer, loaded.src);
      };
      loaded.src = picture.url;
    }
  },
  made(found) {
    if (found?.asked === page.asked && found.mode === mode && !found.task)
      file = { ...found, until: Date.now() + 500 * page.limits.seconds }; // half as long as the server keeps it
    const given = waiting;
    // what was made to say how large it is may come in between, and is no mask and no copy
    if (given && (!found || (found.task === given.what && found.mode === given.mode && found.asked >= given.asked))) {
      waiting = null;
      task = "";
      given.resolve(found);
    }
    lock();
  },
  // Something from before: {work, strokes, photo}, and what `subject` gives.
  open(one) {
    page.asked += 1;
    page.stage.begin(true, "Opening…");
    [work, strokes, opened] = [one.work, one.strokes || [], one.photo];
    recall(one);
    history();
    trigger("opened");
    trigger("input");
  },
  // For the photo and the switch for whole subjects, in Gradio's words.
  opening: () => [opened || { __type__: "update" }, made.solid],
  pickAnew,
};

function lock() {
    const state = waiting ? "making" : ready() ? "ready" : work || !at(".busy").hidden ? "pending" : "empty";
  if (state !== locked) trigger("locked", { state: (locked = state) });
}

function busy(on, what = "") {
  at(".busy").hidden = !on;
  at(".what").textContent = what;
  view.setAttribute("aria-busy", on);
  view.classList.toggle("waiting", on);
  if (on) lock();
}

function show() {
  const value = props.value;
  if (!value?.answered) return;
  // a look that was asked for before there was another matte
  if (work && value.work && !value.pick && value.work.matte.path !== work.matte) return goOn();
  if (value.work) work = paths(value.work);
  answered = value.answered;
  took = value.took || 0;
  settlePick(value);
  if (value.cutout) shown = { ...shown, ...value };
  if (value.cutout) picture();
  if (value.failed) return page.stage.refused(answered);
  if (answered !== page.asked) return goOn();
  busy(false);
  lock();
  look();
  if (!value.missed) weighLater(); // which would take away what is said of it
}

// Something was changed meanwhile.
const goOn = () => (due ? askNetwork() : trigger("input"));

function weighLater() {
  clearTimeout(weigh);
  weigh = setTimeout(() => ready() && !waiting && trigger("settled"), WEIGH);
}

function picture() {
  result.src = shown.cutout.url;
  after.prepend(result);
  put(before, shown.before.url);
  put(mask, shown.mask.url);
  blur();
  put(at(".photo"), shown.photo.url);
  put(at(".kept"), shown.photo.url);
  const loaded = new Image();
  loaded.onload = () => {
    at(".kept").style.maskImage = `url("${loaded.src}")`;
    draw();
  };
  loaded.src = shown.alpha.url;
  at(".under").disabled = !shown.css;
  painting.style.background = shown.css || "";
  sheet.hidden = false;
  at(".none").hidden = true;
  element.closest(".editor")?.classList.add("full");
  page.remember({ work, strokes, ...subjectMade(), name: shown.name, picture: shown.cutout.url, photo: shown.work.preview });
  history();
  fit();
  draw();
}

// --- zoom and pan ---

// Whether the photo is seen, all of it, with what is done to it.
const whole = () => paints() || picks();

function over() {
  painting.hidden = !whole();
  element.classList.toggle("over", whole());
  fit();
}

const shape = () => (whole() ? shown?.whole : shown?.size) || [4, 3];

function measure() {
  const [width, height] = shape();
  const scale = Math.min(view.clientWidth / width, view.clientHeight / height);
  return [width * scale, height * scale];
}

// Pixels of the screen for one of the picture's.
const density = () => ((measure()[0] * zoom) / shape()[0]) * (window.devicePixelRatio || 1);

function fit() {
  const [width, height] = measure();
  const most = Math.max(1, (CLOSEST * shape()[0]) / (width * (window.devicePixelRatio || 1)));
  zoom = Math.min(most, Math.max(1, zoom));
  const clamp = (value, length, room) =>
    length <= room ? (room - length) / 2 : Math.min(0, Math.max(room - length, value));
  left = clamp(left, width * zoom, view.clientWidth);
  top = clamp(top, height * zoom, view.clientHeight);
  Object.assign(sheet.style, {
    width: `${width * zoom}px`, height: `${height * zoom}px`, transform: `translate(${left}px, ${top}px)`,
  });
  at(".fit").textContent = sheet.hidden ? "100 %" : `${Math.round(100 * density())} %`;
  at(".out").disabled = zoom <= 1;
  at(".in").disabled = zoom >= most;
  sheet.classList.toggle("sharp", density() > 2);
  view.classList.toggle("zoomed", zoom > 1);
  split();
  clearTimeout(later);
  later = setTimeout(look, LATER);
}

function zoomTo(value, x = view.clientWidth / 2, y = view.clientHeight / 2) {
  const was = zoom;
  const [width, height] = measure();
  const [fx, fy] = [(x - left) / (width * was), (y - top) / (height * was)];
  zoom = value;
  fit();
  [left, top] = [x - fx * width * zoom, y - fy * height * zoom];
  fit();
}

// The full pixels of what is in view, once the preview has too few.
function look() {
  if (!ready() || whole()) return;
  const [width, height] = shape();
  if (Math.max(width, height) <= PREVIEW || density() * Math.max(width, height) < PREVIEW * 1.05) {
    return blur();
  }
  const [w, h] = measure().map((length) => length * zoom);
  const box = [-left / w, -top / h, (view.clientWidth - left) / w, (view.clientHeight - top) / h];
  const [dx, dy] = [(box[2] - box[0]) / 8, (box[3] - box[1]) / 8];
  wanted = [box[0] - dx, box[1] - dy, box[2] + dx, box[3] + dy].map((share) => Math.min(1, Math.max(0, share)));
  trigger("zoomed");
}

// --- before and after ---

function split() {
  const compare = mode === "compare" && !sheet.hidden && !whole();
  divider.hidden = at(".line").hidden = !compare;
  if (!compare) {
    after.style.clipPath = before.style.clipPath = "";
    return;
  }
  const x = (divider.value / 100) * view.clientWidth;
  const share = (x - left) / sheet.offsetWidth;
  const inset = `${100 * Math.min(1, Math.max(0, share))}%`;
  before.style.clipPath = `inset(0 calc(100% - ${inset}) 0 0)`;
  after.style.clipPath = `inset(0 0 0 ${inset})`;
  at(".line").style.left = `${x}px`;
}

function choose(now) {
  mode = now;
  for (const name of ["cutout", "compare", "mask"]) element.classList.toggle(`shows-${name}`, mode === name);
  result.alt = mode === "mask" ? "The cutout, under its mask" : "The cutout";
  if (work) {
    file = null; // a mask is another file
    lock();
    weighLater();
  }
  fit();
}

function original(on) {
  at(".original").setAttribute("aria-pressed", on);
  element.classList.toggle("shows-photo", on);
}

// --- pointers: one paints, picks, moves or holds; two zoom ---

const inside = ({ clientX: x, clientY: y }) => {
  const box = sheet.getBoundingClientRect();
  return box.left <= x && x <= box.right && box.top <= y && y <= box.bottom;
};

function point(event) {
  const box = sheet.getBoundingClientRect();
  const share = (value) => Math.round(Math.min(1, Math.max(0, value)) * 1e5) / 1e5;
  return [share((event.clientX - box.left) / box.width), share((event.clientY - box.top) / box.height)];
}

const pointers = new Map();
let pinch = null;
const place = (event) => {
  const box = view.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};

view.addEventListener("pointerdown", (event) => {
  if (sheet.hidden || event.target === divider || event.button !== 0) return;
  pointers.set(event.pointerId, place(event));
  if (pointers.size === 2) {
    stroke = null;
    stretch(null);
    const [[x0, y0], [x1, y1]] = [...pointers.values()];
    pinch = { apart: Math.hypot(x1 - x0, y1 - y0), zoom };
  } else if (paints() && event.isPrimary) {
    event.preventDefault();
    stroke = { keep: keeps(), width: brushWidth(), points: [point(event)] };
  } else if (picks() && event.isPrimary) stretch([point(event), point(event)]);
  if (zoom > 1 || whole() || pointers.size === 2) view.setPointerCapture(event.pointerId);
  draw();
});
view.addEventListener("pointermove", (event) => {
  if (paints() && event.isPrimary) {
    hover = event.pointerType === "mouse" ? point(event) : null;
    if (stroke) stroke.points.push(...(event.getCoalescedEvents?.() || [event]).map(point));
    draw();
  }
  if (band && event.isPrimary) stretch([band[0], point(event)]);
  const was = pointers.get(event.pointerId);
  if (!was) return;
  const now = place(event);
  pointers.set(event.pointerId, now);
  if (pinch && pointers.size === 2) {
    const [[x0, y0], [x1, y1]] = [...pointers.values()];
    zoomTo((pinch.zoom * Math.hypot(x1 - x0, y1 - y0)) / Math.max(1, pinch.apart), (x0 + x1) / 2, (y0 + y1) / 2);
  }
  if ((!whole() || pinch) && zoom > 1) {
    left += (now[0] - was[0]) / pointers.size;
    top += (now[1] - was[1]) / pointers.size;
    fit();
  }
});
function lift(event) {
  pointers.delete(event.pointerId);
  if (pointers.size < 2) pinch = null;
  if (band && event.isPrimary) event.type === "pointerup" ? choosePart(event) : stretch(null);
  if (!stroke || !event.isPrimary) return;
  const painted = stroke;
  stroke = null;
  if (event.type === "pointerup") send([...strokes, painted]);
  else draw();
}
view.addEventListener("pointerup", lift);
view.addEventListener("pointercancel", lift);
view.addEventListener("pointerleave", () => {
  hover = null;
  draw();
});
view.addEventListener(
  "wheel",
  (event) => {
    if (sheet.hidden || (event.deltaY > 0 && zoom <= 1)) return; // the page scrolls on
    event.preventDefault();
    zoomTo(zoom * Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), ...place(event));
    draw();
  },
  { passive: false },
);
view.addEventListener("dblclick", (event) => {
  if (!sheet.hidden && !whole()) zoomTo(zoom > 1 ? 1 : zoom / density(), ...place(event));
});

// --- buttons and keys ---

for (const radio of all("input[name=stage-mode]")) radio.addEventListener("change", () => choose(radio.value));
divider.addEventListener("input", split);
at(".in").addEventListener("click", () => zoomTo(zoom * 1.5) || draw());
at(".out").addEventListener("click", () => zoomTo(zoom / 1.5) || draw());
at(".fit").addEventListener("click", () => zoomTo(zoom > 1 ? 1 : zoom / density()) || draw());
at(".new").addEventListener("click", () => document.querySelector("#photo input[type=file]")?.click()); // the camera has none
at(".brush").addEventListener("click", () => work && paint(!paints()));
at(".picker").addEventListener("click", () => work && shown && choosing(!picks()));
at(".everything").addEventListener("click", () => {
  at(".picker").focus(); // the button itself goes
  pickOut(ALL);
});
at(".undo").addEventListener("click", undo);
at(".redo").addEventListener("click", redo);
at(".clear").addEventListener("click", () => send([]));
at(".under").addEventListener("change", () => element.classList.toggle("on-background", at(".under").checked));
for (const [type, on] of [["pointerdown", true], ["pointerup", false], ["pointerleave", false], ["blur", false]])
  at(".original").addEventListener(type, () => original(on));
at(".original").addEventListener("keydown", (event) => event.key === " " && original(true));
at(".original").addEventListener("keyup", (event) => event.key === " " && original(false));
at(".original").addEventListener("contextmenu", (event) => event.preventDefault());

element.addEventListener("keydown", (event) => {
  const { key } = event;
  const control = event.ctrlKey || event.metaKey;
  const step = 40;
  const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
  const width = at(".width");
  if (paints() && control && key.toLowerCase() === "z") event.shiftKey ? redo() : undo();
  else if (paints() && control && key.toLowerCase() === "y") redo();
  else if (paints() && (key === "[" || key === "]")) {
    width.value = Number(width.value) + (key === "]" ? 0.5 : -0.5);
    draw();
  } else if (picks() && key === "Escape") band ? stretch(null) : choosing(false);
  else if (control || event.target !== view) return;
  else if (key === "+" || key === "=") zoomTo(zoom * 1.5);
  else if (key === "-") zoomTo(zoom / 1.5);
  else if (key === "0") zoomTo(1);
  else if (moves[key] && zoom > 1) {
    left += moves[key][0];
    top += moves[key][1];
    fit();
  } else return;
  event.preventDefault();
});

// --- files ---

// What was made for the download, or is made now; for a task, another one.
const make = (what = "") =>
  new Promise((resolve) => {
    if (file?.asked === page.asked && Date.now() < file.until && !what) return resolve(file);
    task = what;
    waiting = { resolve, what, mode, asked: page.asked };
    lock();
    trigger("wanted");
  });

// Gradio tells of a change a moment after the click that made it; what is asked for then waits for its result.
async function settle() {
  await new Promise((resolve) => setTimeout(resolve, MOMENT));
  while (work && !ready() && answered >= 0) await new Promise((resolve) => setTimeout(resolve, MOMENT));
  return ready();
}

page.stage.download = async (what) => {
  const found = (await settle()) && (await make(what));
  if (found) page.save(found.file.url, found.name);
};
page.stage.copy = async () => {
  try {
    const picture = settle()
      .then(() => make("copy"))
      .then((found) => fetch(found.file.url))
      .then((answer) => answer.blob());
    await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]);
  } catch {
    page.tell(page.say("This browser does not let the page copy pictures: download it instead."));
  }
};

new ResizeObserver(() => {
  fit();
  draw();
}).observe(view);
watch("value", show);
result.remove(); // there is a picture only where there is a result
choose("cutout");
show();
requestAnimationFrame(() => page.resume());
