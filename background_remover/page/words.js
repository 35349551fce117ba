// The page in the browser's language. All texts are written in English; what stands in the table, `words.txt`, is shown
// in the visitor's language wherever it comes up: in our own parts, Gradio's, and what the server says. What scripts and
// the server are told stays English. `LANGUAGES` has the codes; with any other language nothing here does anything.
const ATTRIBUTES = ["alt", "aria-label", "placeholder", "title"];
const LONGEST = 600; // of a text that is looked up

const words = {
  language: LANGUAGES.find((language) => navigator.language.split("-")[0] === language) || "en",
  texts: new Map(),
  patterns: [], // of texts that have {0} in them, the longest first

  // A text in that language; itself where it is not in the table.
  translate(text) {
    const core = text.length < LONGEST && this.texts.size ? text.trim() : "";
    const found = this.look(core);
    return found === core ? text : text.replace(core, () => found);
  },
  look(text) {
    const whole = this.known(text);
    // what a sentence is about, such as a file's name, and the sentence
    for (let at = text.indexOf(": "); whole === text && at > 0; at = text.indexOf(": ", at + 1)) {
      const [about, said] = [text.slice(0, at), text.slice(at + 2)];
      const other = this.known(said);
      if (other !== said) return this.fill(this.texts.get("{0}: {1}"), [about, other]);
    }
    return whole;
  },
  known(text) {
    const whole = this.texts.get(text);
    if (whole !== undefined) return whole;
    for (const [pattern, other] of this.patterns) {
      const found = pattern.exec(text);
      if (found) return this.fill(other, found.slice(1));
    }
    return text;
  },
  fill(text, values) {
    return text.replace(/\{(\d)\}/g, (_, number) => this.value(String(values[number])));
  },
  value(text) {
    if (/^\d+\.\d+$/.test(text)) return text.replace(".", (1.5).toLocaleString(this.language)[1]);
    const several = /^\w+(?:, \w+)*(?: or \w+| and \w+)+$/.test(text); // as "JPEG, PNG or GIF", "left and top"
    if (!several) return this.look(text);
    const type = text.includes(" or ") ? "disjunction" : "conjunction";
    const parts = text.split(/, | or | and /).map((part) => this.look(part));
    return new Intl.ListFormat(this.language, { type }).format(parts);
  },

  learn(table) {
    this.texts = new Map(Object.entries(table));
    const escape = (text) => text.replace(/[.*+?^$()[\]\\|/]/g, "\\$&");
    this.patterns = Object.entries(table)
      .filter(([text]) => text.includes("{0}") && text !== "{0}: {1}")
      .sort(([one], [other]) => other.length - one.length)
      .map(([text, other]) => [new RegExp(`^${escape(text).replace(/\{\d\}/g, "(.+?)")}$`, "s"), other]);
  },

  visit(node) {
    if (node.nodeType === Node.TEXT_NODE) {
      const text = this.translate(node.data);
      if (text !== node.data) node.data = text;
    } else if (node.nodeType === Node.ELEMENT_NODE && !node.matches("script, style")) {
      for (const name of ATTRIBUTES) this.name(node, name);
      if (node.matches("input[role=combobox][readonly]")) this.choice(node);
      node.childNodes.forEach((child) => this.visit(child));
    }
  },
  name(element, attribute) {
    const before = element.getAttribute(attribute);
    const text = this.translate(before || "");
    if (before && text !== before) element.setAttribute(attribute, text);
  },
  // A dropdown's choice is the value of an input, of which Gradio goes on reading the English.
  choice(input) {
    if (Object.hasOwn(input, "value")) return;
    const shown = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value");
    let text = shown.get.call(input);
    const set = (value) => shown.set.call(input, this.translate(String((text = value ?? ""))));
    Object.defineProperty(input, "value", { configurable: true, get: () => text, set });
    set(text);
  },

  async start() {
    if (this.language === "en") return;
    const root = window.gradio_config?.root || ".";
    const answer = await fetch(`${root}/words/${this.language}.json`);
    if (!answer.ok) return;
    this.learn(await answer.json());
    new MutationObserver((changes) => {
      for (const { type, target, attributeName, addedNodes } of changes)
        if (type === "attributes") this.name(target, attributeName);
        else if (type === "characterData") this.visit(target);
        else addedNodes.forEach((node) => this.visit(node));
    }).observe(document.documentElement, {
      attributeFilter: ATTRIBUTES, attributes: true, characterData: true, childList: true, subtree: true,
    });
    this.visit(document.documentElement);
  },
};
words.start();
