// Names for what Gradio leaves without one, so that screen readers can tell the pictures and buttons apart.
() => {
  const set = (selector, attribute, value) =>
    document.querySelectorAll(selector).forEach((found) => {
      const text = typeof value === "function" ? value(found) : value;
      if (found.getAttribute(attribute) !== text) found.setAttribute(attribute, text);
    });
  const file = (image) => (image ? image.src.split("/").pop().split(".")[0] : "");
  const name = () => {
    set("#photo img", "alt", "Your photo");
    set("#matte img", "alt", "The matte: white is the subject, black the background");
    set("#cutout img", "alt", "The cutout");
    set("#matte .image-container > button", "aria-label", "Matte");
    set("#cutout .image-container > button", "aria-label", "Cutout");
    set(".empty[aria-label]", "role", "img");
    set("#compare img", "alt", "The photo and the cutout, one over the other");
    set("#examples button:has(img)", "aria-label", (button) => `Example: ${file(button.querySelector("img"))}`);
    // these have a text of their own, which their labels would hide
    const named = document.querySelectorAll(".upload-container:not(.icon-mode)[aria-label], .thumbnail-item[aria-label]");
    named.forEach((button) => button.removeAttribute("aria-label"));
  };
  // A photo that the browser can't show leaves no broken picture behind.
  const hide = (event) => event.target.closest?.("#photo") && (event.target.hidden = event.type === "error");
  document.addEventListener("error", hide, true);
  document.addEventListener("load", hide, true);
  new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
  name();
}
