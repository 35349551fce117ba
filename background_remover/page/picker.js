// Which subjects of the photo are cut out: a click, or a box. One script with `stage.js`, which comes after it.
//
// A pick is {box: [left, top, right, bottom] or null, points: [[x, y, keep], ...]}, and a subject that was found is
// [left, top, right, bottom, x, y], the last two a place on it; all are shares of the photo.
const ALL = { box: null, points: [] };
const SLIP = 6; // the screen's pixels that a finger may move and still point

let pick = ALL; // what is wanted
let made = { pick: ALL, solid: false }; // what the matte was made of
let subjects = []; // that were found in the whole photo, the largest first
let band = null; // a box that is being drawn, by two of its corners
let stays = false; // whether another subject may be added
let [due, sent] = [0, 0]; // the change for which the network is to be asked, and the last for which it was

const picks = () => at(".picker").getAttribute("aria-pressed") === "true";

// What is sent, and what is kept for the next visit.
const subject = () => ({ pick, solid: made.solid, subjects });
const subjectMade = () => ({ ...subject(), pick: made.pick });

function recall(one) {
  [due, sent] = [0, 0];
  made = { pick: one.pick || ALL, solid: Boolean(one.solid) };
  subjects = one.subjects || [];
  stay();
}

// --- what is asked for, and what has come ---

// With `more` the photo stays in view, so that others can be added.
function pickOut(wanted, more = false) {
  [pick, stays] = [wanted, more];
  pickAnew();
}

// The network is to be asked again, for another subject or since wide parts are to be whole; once there is a photo.
function pickAnew() {
  page.ask();
  due = page.asked;
  outline();
  if (!work) return;
  busy(true, page.say("Cutting out…"));
  askNetwork();
}

function askNetwork() {
  if (sent === due) return; // what was asked will be answered
  sent = due;
  trigger("picked");
}

function settlePick(value) {
  if (value.pick) {
    made = { pick: value.pick, solid: value.solid };
    subjects = value.subjects || subjects;
  }
  if (!(value.pick || value.missed || value.failed) || value.answered < due) return;
  if (value.pick && due && !stays) choosing(false);
  stay();
}

// The choice is what the matte was made of.
function stay() {
  due = 0;
  pick = made.pick;
  outline();
}

// --- what is seen ---

function choosing(on) {
  if (on) paint(false);
  else if (at(".pick").contains(document.activeElement) || outlines.contains(document.activeElement)) at(".picker").focus();
  at(".picker").setAttribute("aria-pressed", on);
  at(".pick").hidden = outlines.hidden = !on;
  element.classList.toggle("picks", on);
  stays = false;
  stretch(null);
  over();
}

// The subject at a point: of several the smallest, which is the last.
const subjectAt = ([x, y]) => subjects.findLastIndex(([l, t, r, b]) => l <= x && x <= r && t <= y && y <= b);

function isPicked(index) {
  const [, , , , x, y] = subjects[index];
  if (!pick.box) return pick.points.some((point) => subjectAt(point) === index);
  const [left, top, right, bottom] = pick.box;
  return left <= x && x <= right && top <= y && y <= bottom;
}

function outline() {
  const all = !pick.box && !pick.points.length;
  at(".everything").disabled = all;
  element.classList.toggle("all", all);
  while (outlines.childElementCount > subjects.length) outlines.lastElementChild.remove();
  subjects.forEach((one, index) => {
    const button = outlines.children[index] || outlines.appendChild(document.createElement("button"));
    button.type = "button";
    button.setAttribute("aria-label", page.say("Subject {0}", index + 1));
    button.setAttribute("aria-pressed", isPicked(index));
    // by keys alone: with a pointer it matters where
    button.onclick = (event) => event.detail || pointAt(one.slice(4), event.shiftKey);
    lay(button, one);
  });
}

function lay(found, [left, top, right, bottom]) {
  const shares = { left, top, width: right - left, height: bottom - top };
  for (const [name, share] of Object.entries(shares)) found.style[name] = `${100 * share}%`;
}

// --- what is done ---

function pointAt([x, y], add) {
  const points = add && !pick.box ? pick.points : [];
  if (points.length < page.limits.points) pickOut({ box: null, points: [...points, [x, y, true]] }, add);
  else page.tell(page.say("These are more than {0} points: leave some out.", page.limits.points));
}

const corners = ([[x, y], [u, v]]) => [Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)];

function stretch(two) {
  band = two;
  at(".band").hidden = !band;
  if (band) lay(at(".band"), corners(band));
}

// A pointer has been lifted from the photo, or from beside it.
function choosePart(event) {
  const [left, top, right, bottom] = corners(band);
  const { width, height } = sheet.getBoundingClientRect();
  const slipped = Math.min((right - left) * width, (bottom - top) * height) < SLIP;
  const [from] = band;
  stretch(null);
  if (!slipped) pickOut({ box: [left, top, right, bottom], points: [] });
  else if (inside(event)) pointAt(from, event.shiftKey);
}
