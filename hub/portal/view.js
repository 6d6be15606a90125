/** The few words in which the page says what is to be seen. No HTML is ever made of text. */

import { t } from "./texts.js";

/**
 * An element. `on…` are listeners, `dataset` its data; `undefined`, `null` and `false` leave an attribute out.
 * @param {string} tag
 * @param {Record<string, any>} [props]
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {any}
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Pictures of 24 by 24. */
const ICONS = {
  plus: "M12 5v14M5 12h14",
  search: "M11 4a7 7 0 1 1 0 14 7 7 0 0 1 0-14M16.500 16.500 21 21",
  back: "M15 5l-7 7 7 7",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  send: "M12 19V5M5.500 11.500 12 5l6.500 6.500",
  stop: "M8 8h8v8H8z",
  copy: "M9 9h10v10H9zM15 9V5H5v10h4",
  up: "M7 11v9H4v-9zM7 11l4-7a2 2 0 0 1 3 2l-1 4h5a2 2 0 0 1 2 2.400l-1.200 6A2 2 0 0 1 16.800 20H7",
  down: "M17 13V4h3v9zM17 13l-4 7a2 2 0 0 1-3-2l1-4H6a2 2 0 0 1-2-2.400l1.200-6A2 2 0 0 1 7.200 4H17",
  bottom: "M6 9l6 6 6-6",
  close: "M6 6l12 12M18 6 6 18",
  person: "M12 4a4 4 0 1 1 0 8 4 4 0 0 1 0-8M4.500 20a7.500 7.500 0 0 1 15 0",
  chat: "M5 5h14a1 1 0 0 1 1 1v10a1 1 0 0 1-1 1h-7l-5 4v-4H5a1 1 0 0 1-1-1V6a1 1 0 0 1 1-1",
  sent: "M5 12.500l4.500 4.500L19 7",
  clock: "M12 4a8 8 0 1 1 0 16 8 8 0 0 1 0-16M12 8v4l3 2",
  alert: "M12 4a8 8 0 1 1 0 16 8 8 0 0 1 0-16M12 8v5M12 16h.01",
};

/** @param {keyof typeof ICONS} name */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", `icon icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/**
 * A button that is a picture, with its name for those who hear it and for whoever rests on it.
 * @param {{class?: string, label: string, icon: keyof typeof ICONS, onclick?: (event: MouseEvent) => void} & Record<string, any>} props
 * @returns {HTMLButtonElement}
 */
export function button({ label, icon: picture, class: kind = "", ...props }) {
  return h("button", { type: "button", class: `round ${kind}`, "aria-label": label, title: label, ...props }, icon(picture));
}

/** A round picture of somebody: their initial on a colour of their own. @param {string} name @param {string} id */
export function face(name, id) {
  const face = h("span", { class: "face", "aria-hidden": "true" }, [...name.trim()][0]?.toUpperCase() ?? "?");
  let sum = 0;
  for (const letter of id) sum = (sum * 31 + letter.charCodeAt(0)) % 360;
  face.style.setProperty("--hue", String(sum));
  return face;
}

/**
 * Asks something, over everything else. The answer is whether to do it.
 * @param {{title: string, text?: string, field?: HTMLElement, does: string, danger?: boolean}} question
 * @returns {Promise<boolean>}
 */
export function ask({ title, text, field, does, danger }) {
  const before = /** @type {HTMLElement | null} */ (document.activeElement);
  return new Promise((answer) => {
    const heading = h("h2", { id: "asked" }, title);
    const form = h(
      "form",
      {
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          dialog.close("yes");
        },
      },
      heading,
      text && h("p", {}, text),
      field,
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "button", onclick: () => dialog.close() }, t("cancel")),
        h("button", { class: danger ? "danger" : "main", type: "submit" }, does),
      ),
    );
    const dialog = h("dialog", { class: "dialog", "aria-labelledby": "asked" }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      before?.focus();
      answer(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
    (field?.matches("input, textarea") ? field : form.querySelector(".buttons button"))?.focus();
  });
}

/** Tells something in passing. @param {string} text */
export function toast(text) {
  const note = h("p", { class: "toast" }, text);
  document.getElementById("toasts")?.replaceChildren(note);
  setTimeout(() => note.remove(), 6_000);
}

/** Says something to whoever cannot see the page. @param {string} text */
export function announce(text) {
  const live = document.getElementById("live");
  if (live) live.textContent = text;
}

/**
 * Brings an element's children to what they should be, each known by its key: what is there already stays, and keeps its focus and
 * its place.
 * @param {HTMLElement} parent
 * @param {Array<{key: string, make: () => HTMLElement, update?: (element: any) => void}>} wanted
 */
export function keep(parent, wanted) {
  const keys = new Set(wanted.map(({ key }) => key));
  const there = new Map();
  for (const child of /** @type {Array<HTMLElement>} */ ([...parent.children])) {
    if (keys.has(child.dataset.key ?? "")) there.set(child.dataset.key, child);
    else child.remove();
  }
  let at = parent.firstElementChild;
  for (const { key, make, update } of wanted) {
    const element = there.get(key) ?? make();
    element.dataset.key = key;
    update?.(element);
    if (element === at) at = at?.nextElementSibling ?? null;
    else parent.insertBefore(element, at);
  }
}
