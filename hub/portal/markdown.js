/**
 * What an agent writes, made visible: Markdown by marked, cleaned by DOMPurify. What people write stays as it is.
 *
 * Nothing in it reaches out: pictures become links, and what is left of HTML can neither run, nor style, nor load.
 */

import { Marked } from "./vendor/marked.esm.js";
import "./vendor/purify.min.js";
import { button, h, toast } from "./view.js";
import { t } from "./texts.js";

const marked = new Marked({ gfm: true, breaks: true });
const purify = /** @type {any} */ (globalThis).DOMPurify;

const ALLOWED = {
  ALLOWED_TAGS: [
    ..."a b blockquote br code del em h1 h2 h3 h4 h5 h6 hr i img input kbd li ol p pre s strong sub sup".split(" "),
    ..."table tbody td th thead tr ul".split(" "),
  ],
  ALLOWED_ATTR: ["href", "title", "alt", "src", "start", "align", "type", "checked", "disabled"],
  // No addresses, so they need not look like one.
  ADD_URI_SAFE_ATTR: ["align", "start", "type"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto|tel):/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

purify.addHook("afterSanitizeAttributes", (/** @type {Element} */ node) => {
  if (node.nodeName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
  // A picture would tell its server who reads this, and when.
  if (node.nodeName === "IMG") {
    const src = node.getAttribute("src");
    const words = document.createTextNode(node.getAttribute("alt") || src || "");
    if (src) node.replaceWith(h("a", { href: src, target: "_blank", rel: "noopener noreferrer nofollow" }, words));
    else node.replaceWith(words);
  }
  // Of a list of tasks; any other has no place here.
  if (node.nodeName === "INPUT") {
    if (node.getAttribute("type") !== "checkbox") node.remove();
    else {
      node.setAttribute("disabled", "");
      node.setAttribute("aria-label", node.hasAttribute("checked") ? "☑" : "☐");
    }
  }
});

/**
 * Shows Markdown in an element, instead of what was there.
 * @param {HTMLElement} element
 * @param {string} text
 */
export function showMarkdown(element, text) {
  const shown = purify.sanitize(/** @type {string} */ (marked.parse(text)), ALLOWED);
  // A document without a body, as a `<frameset>` makes it: what cannot be shown can still be read.
  if (!shown) {
    element.textContent = text;
    return;
  }
  for (const code of shown.querySelectorAll("pre")) {
    const copy = button({ class: "copy", label: t("copy"), icon: "copy", onclick: () => copyText(code.textContent ?? "", copy) });
    const frame = h("div", { class: "code" });
    code.replaceWith(frame);
    code.tabIndex = 0;
    frame.append(code, copy);
  }
  for (const table of shown.querySelectorAll("table")) {
    const frame = h("div", { class: "table", tabindex: "0" });
    table.replaceWith(frame);
    frame.append(table);
  }
  element.replaceChildren(shown);
}

/** @param {string} text @param {HTMLElement} by */
export async function copyText(text, by) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // The host's frame does not allow it (`allow="clipboard-write"`).
    return toast(t("error_forbidden"));
  }
  by.classList.add("done");
  by.setAttribute("aria-label", t("copied"));
  setTimeout(() => {
    by.classList.remove("done");
    by.setAttribute("aria-label", t("copy"));
  }, 1_500);
}
