// What all parts of the page share: which change is the newest, where photos come from, names for screen readers.
// It is in the page's head, before any component; `stage` and `tiles` put themselves here.
const [RECENT, CURRENT] = ["background-remover-recent", "background-remover-current"];
const SENT = 1; // in the detail of our own events
const PATIENCE = 10_000; // ms for which files wait for the input that takes them

function store(storage, key, value) {
  try {
    window[storage].setItem(key, JSON.stringify(value));
  } catch {} // full, or not allowed, as in some frames
}

// Gives files to an input. Gradio would refuse some by the type that a browser guesses from a name; the server looks.
function put(input, files) {
  const carried = new DataTransfer();
  for (const file of files)
    carried.items.add(file.type.startsWith("image/") ? file : new File([file], file.name, { type: "image/x" }));
  input.files = carried.files;
  input.dispatchEvent(new CustomEvent("change", { bubbles: true, detail: SENT }));
}

window.page = {
  asked: 0, // changes so far: a result counts that has been made for the newest
  stage: null,
  tiles: null, // once the tab for several photos has been opened

  // A text for people, with values for {0}, {1}.
  say: (text, ...values) => words.fill(words.texts.get(text) || text, values),

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

  // What was chosen last time, for the controls, in Gradio's words; nothing is lost by a reload. The last is the switch
  // for whole subjects, which a photo that is there by now has set already.
  settings(values, count) {
    const nothing = { __type__: "update" };
    const known = values?.length === count ? values : [];
    const found = Array.from({ length: count }, (_, place) => known[place] ?? nothing);
    return this.stage?.state().work ? [...found.slice(0, -1), nothing] : found;
  },

  // --- the last results of this browser, while the server has their files ---

  recents() {
    const since = Date.now() - 1000 * this.limits.seconds;
    try {
      return JSON.parse(localStorage.getItem(RECENT) || "[]").filter((one) => one.time > since && one.work?.photo);
    } catch {
      return [];
    }
  },
  remember(one) {
    const others = this.recents().filter((other) => other.work.photo !== one.work.photo);
    store("localStorage", RECENT, [{ ...one, time: Date.now() }, ...others].slice(0, 5));
    store("sessionStorage", CURRENT, one);
    this.list();
  },
  forget(photo) {
    store("localStorage", RECENT, this.recents().filter((one) => one.work.photo !== photo));
    this.list();
  },
  list() {
    const place = document.querySelector("#recent .recents");
    if (!place) return;
    const found = this.recents();
    const buttons = found.map((one) => {
      const button = document.createElement("button");
      const image = document.createElement("img");
      button.type = "button";
      button.title = image.alt = one.name;
      image.onerror = () => this.forget(one.work.photo);
      image.src = one.picture;
      button.append(image);
      button.addEventListener("click", () => this.stage.open(one));
      return button;
    });
    place.replaceChildren(...buttons);
    document.querySelector("#recent").classList.toggle("some", found.length > 0);
  },
  // After a reload, also Gradio's own once a server is there again, what was in hand comes back.
  resume() {
    this.list();
    if (performance.getEntriesByType("navigation")[0]?.type !== "reload") return;
    try {
      const one = JSON.parse(sessionStorage.getItem(CURRENT));
      if (one?.work) this.stage.open(one);
    } catch {}
  },

  // Whether files can be sent; says so if they can't.
  fits(files) {
    const large = files.find((file) => file.size > this.limits.bytes);
    if (large) {
      const size = Math.round(this.limits.bytes / 1e6);
      this.tell(this.say("'{0}' is larger than the {1} MB that can be sent: save it smaller first.", large.name, size));
    } else if (files.length > this.limits.files)
      this.tell(this.say("These are more than {0} photos: send them in several batches.", this.limits.files));
    else return true;
    return false;
  },
  tell(text) {
    for (const line of document.querySelectorAll("#status .say")) {
      const told = document.createElement("p");
      told.className = "bad";
      told.textContent = text;
      line.replaceChildren(told);
    }
    this.tiles?.say(text);
  },

  // A file at an address, as a download of that name.
  save(url, name) {
    const link = Object.assign(document.createElement("a"), { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
  },

  // Whether systems keep a file of that name in folders for themselves.
  isSystems: (name) => /^(\.|Thumbs\.db$|desktop\.ini$)/i.test(name),

  // Where files go that come from anywhere: one to the photo, several to the tab for them.
  async take(files) {
    if (!files.length || !this.fits(files)) return;
    const several = files.length > 1 || document.querySelector("#photos")?.offsetParent;
    this.tab(several ? 1 : 0);
    const input = () => document.querySelector(several ? "#photos input[type=file]" : "#photo input[type=file]");
    // A tab's parts come once it is opened, and Gradio's input goes while it sends a file.
    for (const end = Date.now() + PATIENCE; (!input() || (several && !this.tiles)) && Date.now() < end; )
      await new Promise((resolve) => setTimeout(resolve, 50));
    if (input()) put(input(), files);
    else this.tell(this.say("No photo can be taken just now: close the camera first."));
  },

  // The files of what was dropped, those in folders among it, without what systems keep there for themselves.
  async files(entries) {
    const found = [];
    for (const entry of entries) {
      if (this.isSystems(entry.name)) continue;
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

document.documentElement.classList.toggle("at-home", /^(localhost|127\.[\d.]+|\[::1\])$/.test(location.hostname));

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
      const files = [...(event.target.files || [])];
      if (event.detail === SENT || !files.length || !event.target.closest("#photo, #photos, #backdrop, #batch-backdrop")) return;
      event.stopImmediatePropagation();
      if (event.target.closest("#photo")) page.take(files);
      else if (page.fits(files)) put(event.target, files);
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
    set("#photo img", "alt", page.say("Your photo"));
    set("#matte img", "alt", page.say("The mask: white is the subject, black the background"));
    set("#matte .image-container > button", "aria-label", page.say("Mask"));
    set(".empty[aria-label]", "role", "img");
    set("#solid label", "title", page.say("Makes wide parts that came out half transparent whole; not for glass or smoke."));
    set("#examples button:has(img)", "aria-label", (button) => page.say("Example: {0}", file(button.querySelector("img"))));
    set("fieldset input[type=radio]", "tabindex", (radio) => {
      const chosen = radio.closest("fieldset").querySelector("input:checked");
      return radio.checked || !chosen ? "0" : "-1";
    });
    // these have a text of their own, which their labels would hide
    const named = document.querySelectorAll(".upload-container:not(.icon-mode)[aria-label], .thumbnail-item[aria-label]");
    named.forEach((button) => button.removeAttribute("aria-label"));
  };
  // Choices are one group, in which arrow keys move: Gradio's are not.
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  document.addEventListener("keydown", (event) => {
    const group = [...(event.target.closest?.("fieldset")?.querySelectorAll("input[type=radio]") || [])];
    const place = group.indexOf(event.target);
    if (place < 0 || !steps[event.key]) return;
    event.preventDefault();
    const next = group[(place + steps[event.key] + group.length) % group.length];
    next.focus();
    next.click();
  });
  document.addEventListener("change", () => requestAnimationFrame(name), true);
  // A photo that the browser can't show leaves no broken picture behind.
  const hide = (event) =>
    event.target.closest?.("#photo, #backdrop, #batch-backdrop") && (event.target.hidden = event.type === "error");
  document.addEventListener("error", hide, true);
  document.addEventListener("load", hide, true);
  const start = () => {
    new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
    name();
  };
  if (document.body) start();
  else document.addEventListener("DOMContentLoaded", start);
})();
