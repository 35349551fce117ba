// The brush. Strokes leave as lines in shares of the photo, so that they are sharp at its full size:
// props.value = {photo, matte, strokes: [{keep, width, points: [[x, y], ...]}]}; the server sends photo and matte.
const at = (selector) => element.querySelector(selector);
const [stage, view, canvas, photo, kept] = [".stage", ".view", "canvas", ".photo", ".kept"].map(at);
const colours = { true: "rgba(16, 185, 129, 0.65)", false: "rgba(239, 68, 68, 0.65)" };
let strokes = [];
let pending = []; // painted, but not yet in the matte that is shown
let stroke = null;
let shown = "";

// As large as the window shows at once, times the zoom.
function fit() {
  const shape = photo.naturalWidth / photo.naturalHeight || 1;
  const whole = Math.min(view.clientWidth, 0.7 * window.innerHeight * shape);
  stage.style.width = `${whole * at(".zoom").value}px`;
}

function draw() {
  const { width, height } = stage.getBoundingClientRect();
  const dense = Math.min(2, window.devicePixelRatio || 1);
  canvas.width = width * dense;
  canvas.height = height * dense;
  const brush = canvas.getContext("2d");
  brush.lineCap = brush.lineJoin = "round";
  for (const line of stroke ? [...pending, stroke] : pending) {
    brush.strokeStyle = colours[line.keep];
    brush.lineWidth = line.width * Math.max(canvas.width, canvas.height);
    brush.beginPath();
    const [first] = line.points;
    brush.moveTo(first[0] * canvas.width, first[1] * canvas.height);
    for (const [x, y] of line.points) brush.lineTo(x * canvas.width, y * canvas.height);
    brush.stroke();
  }
}

function show() {
  const { photo: picture, matte } = props.value || {};
  if (picture?.path !== shown) {
    shown = picture?.path;
    strokes = [];
    at(".zoom").value = 1;
  } else if (strokes.length !== (props.value?.strokes || []).length) {
    props.value = { ...props.value, strokes }; // the server's answer to an earlier stroke came in between
  }
  view.hidden = !picture;
  at(".none").hidden = Boolean(picture);
  at(".undo").disabled = at(".clear").disabled = !strokes.length;
  if (!picture) return;
  if (photo.src !== picture.url) photo.src = kept.src = picture.url;
  const mask = new Image();
  mask.onload = () => {
    kept.style.maskImage = `url("${mask.src}")`;
    pending = [];
    draw();
  };
  mask.src = matte.url;
}

function send(now) {
  strokes = now;
  at(".undo").disabled = at(".clear").disabled = !strokes.length;
  props.value = { ...props.value, strokes };
  trigger("input");
}

function point(event) {
  const box = canvas.getBoundingClientRect();
  const share = (value) => Math.round(Math.min(1, Math.max(0, value)) * 1e5) / 1e5;
  return [share((event.clientX - box.left) / box.width), share((event.clientY - box.top) / box.height)];
}

canvas.addEventListener("pointerdown", (event) => {
  if (!event.isPrimary || event.button !== 0) return;
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  const box = canvas.getBoundingClientRect();
  const width = (at(".width").value / 100) / at(".zoom").value;
  stroke = { keep: at("input[value=keep]").checked, width, points: [point(event)] };
  draw();
});
canvas.addEventListener("pointermove", (event) => {
  if (!stroke || !event.isPrimary) return;
  stroke.points.push(...(event.getCoalescedEvents?.() || [event]).map(point));
  draw();
});
canvas.addEventListener("pointerup", (event) => {
  if (!stroke || !event.isPrimary) return;
  pending.push(stroke);
  send([...strokes, stroke]);
  stroke = null;
});
canvas.addEventListener("pointercancel", () => {
  stroke = null;
  draw();
});
at(".undo").addEventListener("click", () => send(strokes.slice(0, -1)));
at(".clear").addEventListener("click", () => send([]));
at(".zoom").addEventListener("input", fit);
photo.addEventListener("load", fit);
new ResizeObserver(fit).observe(view);
new ResizeObserver(draw).observe(stage);
watch("value", show);
show();
