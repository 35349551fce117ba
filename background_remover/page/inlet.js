// Where photos come in: chosen one by one or as a folder. What is dropped or pasted comes by way of `page.take`.
const at = (selector) => element.querySelector(selector);
const input = at("input");
const SYSTEM = /^(\.|Thumbs\.db$|desktop\.ini$)/i; // files that systems keep in folders for themselves

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
    const found = [...folder.files].filter(({ name, type }) => !SYSTEM.test(name) && (!type || type.startsWith("image/")));
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
