// The brush. Strokes leave as lines in shares of the photo, so that they are sharp at its full size:
// props.value = {photo, matte, taken, strokes: [{keep, width, points: [[x, y], ...]}]}, of which the server sends the
// first three; `taken` is how many strokes the matte has taken up.
const at = (selector) => element.querySelector(selector);
const [stage, view, canvas, photo, kept] = [".stage", ".view", "canvas", ".photo", ".kept"].map(at);
const colours = { true: "rgba(16, 185, 129, 0.65)", false: "rgba(239, 68, 68, 0.65)" };
let strokes = [];
let done = 0; // strokes that the shown matte has taken up
let stroke = null;
let hover = null; // where the brush is, to show its size
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
  for (const line of [...strokes.slice(done), ...(stroke ? [stroke] : [])]) {
    brush.strokeStyle = colours[line.keep];
    brush.lineWidth = line.width * Math.max(canvas.width, canvas.height);
    brush.beginPath();
    const [first] = line.points;
    brush.moveTo(first[0] * canvas.width, first[1] * canvas.height);
    for (const [x, y] of line.points) brush.lineTo(x * canvas.width, y * canvas.height);
    brush.stroke();
  }
  if (!hover) return;
  brush.lineWidth = dense;
  for (const [colour, more] of [["#fff", 0], ["#000", dense]]) {
    brush.strokeStyle = colour;
    brush.beginPath();
    const radius = (brushWidth() * Math.max(canvas.width, canvas.height)) / 2;
    brush.arc(hover[0] * canvas.width, hover[1] * canvas.height, radius + more, 0, 2 * Math.PI);
    brush.stroke();
  }
}

const keeps = () => at("input[value=keep]").checked;
const brushWidth = () => at(".width").value / 100 / at(".zoom").value; // as a share of the longer side

function show() {
  const { photo: picture, matte, taken } = props.value || {};
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
    done = taken;
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
  stroke = { keep: keeps(), width: brushWidth(), points: [point(event)] };
  draw();
});
canvas.addEventListener("pointermove", (event) => {
  if (!event.isPrimary) return;
  hover = event.pointerType === "mouse" ? point(event) : null;
  if (stroke) stroke.points.push(...(event.getCoalescedEvents?.() || [event]).map(point));
  draw();
});
canvas.addEventListener("pointerup", (event) => {
  if (!stroke || !event.isPrimary) return;
  const painted = stroke;
  stroke = null;
  send([...strokes, painted]);
});
canvas.addEventListener("pointerleave", () => {
  hover = null;
  draw();
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
