// What all parts of the page share: which change is the newest, where photos come from, names for screen readers.
// It is in the page's head, before any component; `stage` and `tiles` put themselves here.
window.page = {
  asked: 0, // changes so far: a result counts that has been made for the newest
  stage: null,
  tiles: null, // once the tab for several photos has been opened
  local: "", // a blob: URL of the photo that was just chosen here

  say(text, ...values) {
    return text.replace(/\{(\d)\}/g, (_, n) => values[n]);
  },

  // One of the tabs comes to the front.
  tab(number) {
    document.querySelectorAll('#tabs [role="tab"]')[number].click();
  },

  ask() {
    this.asked += 1;
    this.stage?.wait();
  },

  // A new photo, or none: what is shown of the last one goes. Not so for our own preview of it. For the mask and the
  // status, in Gradio's words.
  change(photo) {
    const { work } = this.stage.state();
    if (photo && work && [work.photo, work.preview].includes(photo.path)) return [{ __type__: "update" }, { __type__: "update" }];
    this.asked += 1;
    this.stage.begin(photo);
    this.tiles?.left();
    return [null, ""];
  },

  // The buttons for the download and the clipboard, in Gradio's words.
  buttons() {
    const state = this.stage.locked();
    const text = { making: "Making the file…", pending: "Not ready yet…" }[state] || "Download";
    const button = { interactive: state === "ready", __type__: "update" };
    return [{ ...button, value: text }, button];
  },

  // Where files go that come from anywhere: one to the photo, several to the tab for them.
  async take(files) {
    if (!files.length) return;
    const several = files.length > 1 || document.querySelector("#photos")?.offsetParent;
    this.tab(several ? 1 : 0);
    while (several && !this.tiles) await new Promise((resolve) => setTimeout(resolve, 50));
    const input = document.querySelector(several ? "#photos input[type=file]" : "#photo input[type=file]");
    const carried = new DataTransfer();
    for (const file of files) carried.items.add(file);
    input.files = carried.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  },

  // The files of what was dropped, those in folders among it, without what systems keep there for themselves.
  async files(entries) {
    const found = [];
    for (const entry of entries) {
      if (/^(\.|Thumbs\.db$|desktop\.ini$)/i.test(entry.name)) continue;
      if (entry.isFile) found.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
      else {
        const reader = entry.createReader();
        for (let some; (some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))).length; )
          found.push(...(await this.files(some)));
      }
    }
    return found;
  },

  // A photo by its address goes into the field for that.
  link(text) {
    const field = document.querySelector("#link input, #link textarea");
    if (!field || !/^https?:\/\/\S+$/.test(text.trim())) return false;
    document.querySelectorAll('#tabs [role="tab"]')[0].click();
    Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), "value").set.call(field, text.trim());
    field.dispatchEvent(new Event("input", { bubbles: true }));
    document.querySelector("#fetch").click();
    return true;
  },
};

(() => {
  const types = (event) => [...(event.dataTransfer?.types || [])];
  const comes = (event) => types(event).includes("Files") || types(event).includes("text/uri-list");
  const inside = (event) => event.target.closest?.("#backdrop, #batch-backdrop"); // which take files themselves
  let depth = 0;
  const mark = (on) => document.body?.classList.toggle("dropping", on);
  document.addEventListener("dragenter", (event) => comes(event) && mark(++depth > 0), true);
  document.addEventListener("dragleave", (event) => comes(event) && mark((depth = Math.max(0, depth - 1)) > 0), true);
  document.addEventListener("dragover", (event) => comes(event) && event.preventDefault(), true);
  document.addEventListener(
    "drop",
    (event) => {
      if (!comes(event)) return;
      depth = 0;
      mark(false);
      if (inside(event)) return;
      event.preventDefault();
      event.stopPropagation();
      const files = [...event.dataTransfer.files];
      const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
      if (entries.some((entry) => entry.isDirectory)) page.files(entries).then((found) => page.take(found));
      else if (files.length) page.take(files);
      else page.link(event.dataTransfer.getData("text/uri-list").split("\n")[0]);
    },
    true,
  );
  // The mask that is shown is a small one: its icon gives the whole.
  document.addEventListener(
    "click",
    (event) => {
      if (!event.target.closest?.("#matte a[download]")) return;
      event.preventDefault();
      event.stopPropagation();
      page.stage.download("mask");
    },
    true,
  );
  document.addEventListener("paste", (event) => {
    if (event.target.closest?.("input, textarea, [contenteditable]")) return;
    const files = [...(event.clipboardData?.files || [])];
    if (files.length) page.take(files);
    else if (!page.link(event.clipboardData?.getData("text/plain") || "")) return;
    event.preventDefault();
  });
  document.addEventListener(
    "change",
    (event) => {
      if (!event.target.matches?.("#photo input[type=file]")) return;
      if (page.local) URL.revokeObjectURL(page.local);
      page.local = event.target.files[0] ? URL.createObjectURL(event.target.files[0]) : "";
      const several = [...event.target.files];
      if (several.length > 1) page.take(several);
    },
    true,
  );

  // Names for what Gradio leaves without one, so that screen readers can tell the pictures and buttons apart.
  const set = (selector, attribute, value) =>
    document.querySelectorAll(selector).forEach((found) => {
      const text = typeof value === "function" ? value(found) : value;
      if (found.getAttribute(attribute) !== text) found.setAttribute(attribute, text);
    });
  const file = (image) => (image ? image.src.split("/").pop().split(".")[0] : "");
  const name = () => {
    set("#photo img", "alt", "Your photo");
    set("#matte img", "alt", "The mask: white is the subject, black the background");
    set("#matte .image-container > button", "aria-label", "Mask");
    set(".empty[aria-label]", "role", "img");
    set("#examples button:has(img)", "aria-label", (button) => `Example: ${file(button.querySelector("img"))}`);
    // these have a text of their own, which their labels would hide
    const named = document.querySelectorAll(".upload-container:not(.icon-mode)[aria-label], .thumbnail-item[aria-label]");
    named.forEach((button) => button.removeAttribute("aria-label"));
  };
  // A photo that the browser can't show leaves no broken picture behind.
  const hide = (event) =>
    event.target.closest?.("#photo, #backdrop, #batch-backdrop") && (event.target.hidden = event.type === "error");
  document.addEventListener("error", hide, true);
  document.addEventListener("load", hide, true);
  document.addEventListener("DOMContentLoaded", () => {
    new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
    name();
  });
})();
