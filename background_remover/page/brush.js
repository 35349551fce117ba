// The brush: what is painted over the photo, and sent as strokes. One script with `stage.js`, which comes after it.
//
// A stroke is {keep, width, points: [[x, y], ...]} in shares of the photo, so that it is sharp at its full size.
const colours = { true: "rgba(16, 185, 129, 0.65)", false: "rgba(239, 68, 68, 0.65)" };

let strokes = [];
let undone = [];
let stroke = null;
let hover = null; // where the brush is, to show its size

const paints = () => at(".brush").getAttribute("aria-pressed") === "true";

function paint(on) {
  if (on) choosing(false);
  at(".brush").setAttribute("aria-pressed", on);
  at(".touch").hidden = canvas.hidden = !on;
  element.classList.toggle("paints", on);
  over();
  draw();
}

function draw() {
  if (canvas.hidden) return;
  const { width, height } = sheet.getBoundingClientRect();
  const dense = Math.min(window.devicePixelRatio || 1, 4096 / Math.max(width, height, 1));
  canvas.width = width * dense;
  canvas.height = height * dense;
  const brush = canvas.getContext("2d");
  brush.lineCap = brush.lineJoin = "round";
  const done = shown?.taken || 0;
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
const brushWidth = () => at(".width").value / 100 / zoom; // as a share of the longer side

function history() {
  at(".undo").disabled = at(".clear").disabled = !strokes.length;
  at(".redo").disabled = !undone.length;
}

function send(now, again = []) {
  [strokes, undone] = [now, again];
  history();
  draw();
  page.ask();
  trigger("input");
}

const undo = () => strokes.length && send(strokes.slice(0, -1), [strokes.at(-1), ...undone]);
const redo = () => undone.length && send([...strokes, undone[0]], undone.slice(1));
