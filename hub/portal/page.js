/**
 * The chat page: who is here, which conversation is open, and how the page's host tells us who that is.
 *
 * The host is the portal's page that shows this one in a frame. It is asked for a token by
 * `{type: "konstruct:token?", reason}` and answers with `{type: "konstruct:token", token}`, or with `error` in its stead. Only
 * hosts that the hub's settings name are asked, and only they are heard.
 */

import { Chat } from "./client.js";
import { Sidebar } from "./sidebar.js";
import { Thread } from "./thread.js";
import { face, h, toast } from "./view.js";
import { fault, language, t } from "./texts.js";

/** @typedef {import("./konstruct-chat.d.ts").Conversation} Conversation */
/** @typedef {import("./client.js").Conversation} Talk */

/** How long the host may take to answer, in milliseconds, and when it is asked again: it may not have listened yet. */
const HOST_PATIENCE = 15_000;
const HOST_REPEAT = 2_000;

/** Conversations that stay connected after one has gone on to another. */
const KEPT = 4;

/** What the hub's settings say to the page. @type {{rest: string, hosts: Array<string>}} */
const settings = JSON.parse(document.querySelector('meta[name="konstruct-chat"]')?.getAttribute("content") || "{}");

/**
 * Asks the host for a token.
 * @param {import("./client.js").TokenReason} reason
 * @returns {Promise<string>}
 */
function tokenOfHost(reason) {
  return new Promise((give, fail) => {
    const listening = new AbortController();
    const late = setTimeout(() => end(() => fail(new Error("the host did not answer"))), HOST_PATIENCE);
    // Where the browser does not say which host it is, all are asked: to any other it does not deliver it, only complains.
    const around = location.ancestorOrigins?.[0];
    const hosts = settings.hosts.filter((host) => around === undefined || host === around);
    const ask = () => hosts.forEach((host) => parent.postMessage({ type: "konstruct:token?", reason }, host));
    const asking = setInterval(ask, HOST_REPEAT);
    const end = (/** @type {() => void} */ then) => {
      clearTimeout(late);
      clearInterval(asking);
      listening.abort();
      then();
    };
    addEventListener(
      "message",
      ({ data, source, origin }) => {
        if (source !== parent || !settings.hosts.includes(origin) || data?.type !== "konstruct:token") return;
        end(() => (typeof data.token === "string" ? give(data.token) : fail(new Error(String(data.error ?? "no token")))));
      },
      { signal: listening.signal },
    );
    ask();
  });
}

/** What is shared by the two sides of the page. */
export class Page {
  chat = new Chat({ rest: settings.rest, token: tokenOfHost });
  /** The company that is looked at; none for a platform_admin who belongs to none. @type {string | undefined} */
  tenant;
  /** @type {Array<import("./konstruct-chat.d.ts").Membership>} */
  tenants = [];
  /** May answer in an agent's stead. */
  admin = false;
  /** Who is here: their id. */
  user = "";
  /** The open conversation. @type {string | undefined} */
  current;
  /** Connected conversations, the one that was looked at last at the end. @type {Map<string, Talk>} */
  #talks = new Map();
  /** @type {Thread | undefined} */
  #thread;

  /** @param {HTMLElement} element */
  constructor(element) {
    this.element = element;
  }

  async start() {
    document.documentElement.lang = language;
    const theme = new URLSearchParams(location.search).get("theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    if (parent === window) return this.#notice(t("no_host"), t("no_host_hint"));
    let me;
    try {
      me = await this.chat.me();
    } catch (error) {
      this.#notice(t("no_token"), error instanceof Error ? error.message : "");
      return;
    }
    this.user = me.id;
    this.role = me.role;
    this.tenants = me.tenants;
    const wanted = new URLSearchParams(location.search).get("tenant");
    const known = me.role === "platform_admin" || me.tenants.some(({ id }) => id === wanted);
    this.tenant = (known && wanted) || me.tenants[0]?.id;
    this.#mayAnswer();
    this.sidebar = new Sidebar(this);
    this.main = h("main", { class: "main" });
    this.element.replaceChildren(this.sidebar.element, this.main);
    this.#welcome();
    addEventListener("hashchange", () => this.#route());
    addEventListener("keydown", (event) => this.#key(event));
    await this.sidebar.refresh();
    // A host that is loaded again opens us at our front door.
    const before = this.chat.keep && sessionStorage.getItem(this.#place());
    if (before && !location.hash) history.replaceState(null, "", `#${before}`);
    this.#route();
  }

  /** Where this tab keeps what was open. */
  #place() {
    return `konstruct-chat:open:${this.user}`;
  }

  #mayAnswer() {
    const role = this.tenants.find(({ id }) => id === this.tenant)?.role;
    this.admin = this.role === "platform_admin" || role === "customer_admin";
  }

  /** Looks at another company. @param {string} tenant */
  enter(tenant) {
    this.tenant = tenant;
    this.#mayAnswer();
    this.leave();
    this.sidebar?.show("chats");
  }

  /** What the address says is shown. */
  async #route() {
    const [id, seq] = location.hash.slice(1).split("/");
    if (!/^[0-9a-f-]{36}$/.test(id)) return this.leave();
    if (id === this.current) return seq ? this.#thread?.goTo(Number(seq)) : undefined;
    try {
      this.#show(this.sidebar?.find(id) ?? (await this.chat.read(id)));
      if (seq) this.#thread?.goTo(Number(seq));
    } catch (error) {
      toast(fault(/** @type {any} */ (error).code, ""));
      this.leave();
    }
  }

  /** Opens a conversation. @param {Conversation} conversation */
  select(conversation) {
    this.#show(conversation);
    if (location.hash !== `#${conversation.id}`) history.pushState(null, "", `#${conversation.id}`);
  }

  /** Shows a message again that is in the address already. @param {string} id @param {number} seq */
  goTo(id, seq) {
    if (location.hash === `#${id}/${seq}`) this.#thread?.goTo(seq);
  }

  /** Back to the list. */
  leave() {
    this.#thread?.hide();
    this.#thread = undefined;
    this.current = undefined;
    if (this.chat.keep) sessionStorage.removeItem(this.#place());
    if (location.hash) history.pushState(null, "", location.pathname + location.search);
    this.#welcome();
    this.sidebar?.render();
  }

  /** @param {Conversation} conversation */
  #show(conversation) {
    if (conversation.id === this.current) return;
    this.#thread?.hide();
    const talk = this.#talk(conversation);
    this.current = conversation.id;
    if (this.chat.keep) sessionStorage.setItem(this.#place(), conversation.id);
    this.#thread = new Thread(this, conversation, talk);
    this.main?.replaceChildren(this.#thread.element);
    this.element.dataset.pane = "chat";
    this.sidebar?.render();
    this.#thread.shown();
  }

  /** Its connection, which may stand already. @param {Conversation} conversation @returns {Talk} */
  #talk({ id, unread }) {
    const own = unread !== undefined;
    let talk = this.#talks.get(id);
    if (talk?.connection.state === "closed") talk = undefined;
    talk ??= this.chat.conversation(id, { own, user: this.user }).open();
    this.#talks.delete(id);
    this.#talks.set(id, talk);
    for (const [old, stale] of this.#talks) {
      if (this.#talks.size <= KEPT) break;
      stale.close();
      this.#talks.delete(old);
    }
    return talk;
  }

  /** Lets go of a conversation that one has no part in any more. @param {string} id */
  forget(id) {
    this.#talks.get(id)?.close();
    this.#talks.delete(id);
  }

  #welcome() {
    this.element.dataset.pane = "list";
    const start = this.tenant && h("button", { type: "button", class: "main", onclick: () => this.sidebar?.choose() }, t("new_chat"));
    this.main?.replaceChildren(h("div", { class: "welcome" }, h("h2", {}, t("welcome")), h("p", {}, t("welcome_hint")), start));
  }

  /** @param {string} title @param {string} text */
  #notice(title, text) {
    this.element.replaceChildren(h("main", { class: "notice" }, face("K", "konstruct"), h("h1", {}, title), h("p", {}, text)));
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (document.querySelector("dialog[open]")) return;
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      this.element.dataset.pane = "list";
      this.sidebar?.search.focus();
    }
    if (event.altKey && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      event.preventDefault();
      const links = [...(this.sidebar?.list.querySelectorAll("a") ?? [])];
      const at = links.findIndex((link) => link.hasAttribute("aria-current"));
      links[event.key === "ArrowDown" ? at + 1 : Math.max(at - 1, 0)]?.click();
    }
  }
}

new Page(/** @type {HTMLElement} */ (document.getElementById("app"))).start();
