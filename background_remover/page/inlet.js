// Where photos come in: chosen one by one or as a folder. What is dropped or pasted comes by way of `page.take`.
// Also how they are sent, and what a browser can show of them before.
const at = (selector) => element.querySelector(selector);
const input = at("input");
const SMALL = 360; // pixels: the longer side of what is shown of a photo

const api = () => window.gradio_config.root.replace(/\/$/, "") + (window.gradio_config.api_prefix ?? "/gradio_api");

page.inlet = {
  // The address of a file that the server keeps.
  url: (path) => `${api()}/file=${path.split("/").map(encodeURIComponent).join("/")}`,
  // The path of a photo once it has been sent; throws the sentence of a server that refuses it.
  async send(file, signal) {
    const body = new FormData();
    body.append("files", file);
    const answer = await fetch(`${api()}/upload`, { method: "POST", body, signal });
    if (!answer.ok) throw (await answer.text()).slice(0, 300);
    return (await answer.json())[0];
  },
  // A small picture of a photo, empty where the browser can't read it.
  async small(file) {
    try {
      const whole = await createImageBitmap(file);
      const scale = Math.min(1, SMALL / Math.max(whole.width, whole.height));
      const canvas = document.createElement("canvas");
      canvas.width = Math.max(1, whole.width * scale);
      canvas.height = Math.max(1, whole.height * scale);
      canvas.getContext("2d").drawImage(whole, 0, 0, canvas.width, canvas.height);
      whole.close();
      return URL.createObjectURL(await new Promise((resolve) => canvas.toBlob(resolve, "image/webp")));
    } catch {
      return "";
    }
  },
};

const give = async (files) => {
  while (!page.tiles) await new Promise((resolve) => setTimeout(resolve, 50));
  page.tiles.add(files);
};

input.addEventListener("change", () => {
  give([...input.files]);
  input.value = ""; // so that the same photo can be chosen again
});
at(".files").addEventListener("click", () => input.click());
at("#choose-folder").hidden = !("webkitdirectory" in input);
at("#choose-folder").addEventListener("click", () => {
  const folder = Object.assign(document.createElement("input"), { type: "file", webkitdirectory: true, hidden: true });
  folder.addEventListener("change", () => {
    const found = [...folder.files].filter(({ name, type }) => !page.isSystems(name) && (!type || type.startsWith("image/")));
    give(found.sort((one, other) => one.webkitRelativePath.localeCompare(other.webkitRelativePath)));
    folder.remove();
  });
  folder.addEventListener("cancel", () => folder.remove());
  document.body.append(folder);
  folder.click();
});
at(".clear").addEventListener("click", () => page.tiles.clear());

// With photos below there is need of a small one only.
document.addEventListener("tiles", ({ detail }) => {
  at(".zone").classList.toggle("some", detail > 0);
  at(".clear").hidden = !detail;
  at(".files span").textContent = page.say(detail ? "Add photos" : "Choose photos");
  at("#choose-folder span").textContent = page.say(detail ? "Add a folder" : "Choose a folder");
  at(".hint").textContent = page.say(detail ? "Drop more photos anywhere on this page" : "Drop photos here");
});
