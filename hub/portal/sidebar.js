/** The left side: the conversations, the inbox of those that wait for a person, the search, and whom to start with. */

import { button, face, h, icon, keep, toast } from "./view.js";
import { fault, t, when } from "./texts.js";

/** @typedef {import("./konstruct-chat.d.ts").Conversation} Conversation */
/** @typedef {import("./konstruct-chat.d.ts").Hit} Hit */
/** @typedef {import("./page.js").Page} Page */

/** How often the lists are read again while somebody looks, in milliseconds. */
const PACE = 20_000;

/** How long somebody pauses who is done typing. */
const PAUSE = 250;

/** Letters before a search is worth it. */
const LEAST = 2;

export class Sidebar {
  /** What the list shows. @type {"chats" | "inbox" | "archived"} */
  shows = "chats";
  /** @type {Array<Conversation>} */
  conversations = [];
  /** @type {Array<Conversation>} */
  inbox = [];
  /** @type {string | undefined} */
  #next;
  /** @type {Array<Hit> | undefined} */
  #hits;
  #words = "";
  #loaded = false;
  /** Goes up with each reading: a late answer to an earlier one is passed over. */
  #reading = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #pause;

  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.search = h("input", {
      type: "search",
      placeholder: t("search_hint"),
      "aria-label": t("search_hint"),
      autocomplete: "off",
      maxlength: "200",
      oninput: () => this.#typed(),
    });
    this.list = h("ul", { class: "conversations", "aria-label": t("chats") });
    this.note = h("p", { class: "nothing" });
    this.more = h("button", { type: "button", class: "quiet", onclick: () => this.#older() }, t("more_chats"));
    this.archive = h("button", { type: "button", class: "quiet", onclick: () => this.show(this.shows === "archived" ? "chats" : "archived") });
    this.tabs = h(
      "div",
      { class: "tabs", role: "group", hidden: true },
      h("button", { type: "button", dataset: { shows: "chats" }, onclick: () => this.show("chats") }, t("chats")),
      h("button", { type: "button", dataset: { shows: "inbox" }, onclick: () => this.show("inbox") }, t("inbox")),
    );
    this.tenant = h("select", { class: "tenant", "aria-label": t("company"), hidden: true, onchange: () => page.enter(this.tenant.value) });
    this.element = h(
      "nav",
      { class: "side", "aria-label": t("chats") },
      h(
        "header",
        {},
        h("h1", {}, t("chats")),
        button({ class: "main", label: t("new_chat"), icon: "plus", dataset: { does: "new" }, onclick: () => this.choose() }),
      ),
      this.tenant,
      h("label", { class: "search" }, icon("search"), this.search),
      this.tabs,
      h("div", { class: "scroll" }, this.list, this.note, this.more, this.archive),
    );
    setInterval(() => document.visibilityState === "visible" && this.refresh(), PACE);
    addEventListener("focus", () => this.refresh());
    this.render();
  }

  /** @param {"chats" | "inbox" | "archived"} what */
  show(what) {
    this.shows = what;
    this.#loaded = false;
    this.conversations = [];
    this.#next = undefined;
    this.search.value = "";
    this.#hits = undefined;
    this.render();
    this.refresh();
  }

  /** Reads what the list shows again. */
  async refresh() {
    const { chat, tenant, admin } = this.page;
    const reading = (this.#reading += 1);
    const archived = this.shows === "archived";
    try {
      const [own, waiting] = await Promise.all([
        chat.conversations({ tenant_id: tenant, ...(archived && { archived }) }),
        admin ? chat.conversations({ tenant_id: tenant, status: "escalated" }) : { data: [], next: undefined },
      ]);
      if (reading !== this.#reading) return;
      const first = new Set(own.data.map(({ id }) => id));
      const further = this.#loaded ? this.conversations.filter(({ id }) => !first.has(id)) : [];
      // What was further down stays, unless the first page is all there is.
      this.conversations = own.next ? [...own.data, ...further] : own.data;
      if (!this.#loaded) this.#next = own.next;
      this.inbox = waiting.data.filter(({ unread }) => unread === undefined);
      this.#loaded = true;
      this.render();
    } catch (error) {
      if (reading === this.#reading && !this.#loaded) setTimeout(() => this.refresh(), 2_000);
    }
  }

  async #older() {
    if (!this.#next) return;
    const { data, next } = await this.page.chat.request("GET", this.#next);
    this.conversations.push(...data);
    this.#next = next;
    this.render();
  }

  /** Something of a conversation is known better than by the last reading. @param {string} id @param {Partial<Conversation>} news */
  know(id, news) {
    for (const conversation of [...this.conversations, ...this.inbox]) {
      if (conversation.id === id) Object.assign(conversation, news);
    }
    this.conversations.sort((one, other) => (one.updated_at < other.updated_at ? 1 : -1));
    this.render();
  }

  /** @param {string} id @returns {Conversation | undefined} */
  find(id) {
    return [...this.conversations, ...this.inbox].find((conversation) => conversation.id === id);
  }

  // The search.

  #typed() {
    clearTimeout(this.#pause);
    this.#pause = setTimeout(() => this.#look(), PAUSE);
  }

  async #look() {
    const words = (this.#words = this.search.value.trim());
    if (words.length < LEAST || !this.page.tenant) {
      this.#hits = undefined;
      return this.render();
    }
    try {
      const { data } = await this.page.chat.search({ tenant_id: this.page.tenant, q: words, limit: 30 });
      if (words !== this.#words) return;
      this.#hits = data;
      this.render();
    } catch (error) {
      toast(fault(/** @type {any} */ (error).code, ""));
    }
  }

  // Whom to start with.

  /** Lets somebody choose whom to talk to. */
  async choose() {
    const { chat, tenant } = this.page;
    if (!tenant) return;
    const agents = await chat.agents(tenant).catch((error) => toast(fault(error.code, "")));
    if (!agents) return;
    const before = /** @type {HTMLElement | null} */ (document.activeElement);
    const choices = agents.map((agent) =>
      h(
        "li",
        {},
        h(
          "button",
          {
            type: "button",
            class: "agent",
            onclick: async () => {
              dialog.close();
              const started = await chat.start(tenant, agent.id).catch((error) => toast(fault(error.code, agent.name)));
              if (!started) return;
              if (this.shows !== "chats") this.show("chats");
              this.refresh();
              this.page.select(started);
            },
          },
          face(agent.name, agent.id),
          h("span", {}, agent.name),
          agent.conversation_id && h("small", {}, t("continue_chat")),
        ),
      ),
    );
    const dialog = h(
      "dialog",
      { class: "dialog", "aria-labelledby": "whom", onclick: (/** @type {Event} */ event) => event.target === dialog && dialog.close() },
      h("header", {}, h("h2", { id: "whom" }, t("choose_agent")), button({ label: t("close"), icon: "close", onclick: () => dialog.close() })),
      choices.length > 0 ? h("ul", { class: "agents" }, ...choices) : h("p", {}, t("no_agents")),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (document.activeElement === document.body) before?.focus();
    });
    document.body.append(dialog);
    dialog.showModal();
    dialog.querySelector(".agent")?.focus();
  }

  // What is seen.

  render() {
    const { tenants, tenant, admin } = this.page;
    this.tenant.hidden = tenants.length < 2;
    keep(
      this.tenant,
      tenants.map(({ id, name }) => ({ key: id, make: () => h("option", { value: id, selected: id === tenant }, name) })),
    );
    this.tabs.hidden = !admin;
    for (const tab of this.tabs.children) {
      tab.setAttribute("aria-pressed", String(tab.dataset.shows === this.shows || (this.shows === "archived" && tab.dataset.shows === "chats")));
    }
    const waiting = this.inbox.filter(({ escalation }) => !escalation?.taken_by).length;
    const inboxTab = this.tabs.querySelector("[data-shows=inbox]");
    inboxTab.replaceChildren(t("inbox"), waiting > 0 ? h("span", { class: "count", "aria-label": t("waiting", { count: waiting }) }, String(waiting)) : "");

    const rows = this.#hits
      ? this.#hits.map((hit) => this.#hit(hit))
      : (this.shows === "inbox" ? this.inbox : this.conversations).map((conversation) => this.#row(conversation));
    keep(this.list, rows);
    const nothing = this.#hits
      ? t("no_hits", { words: this.#words })
      : t(this.shows === "inbox" ? "no_inbox" : this.shows === "archived" ? "no_archived" : "no_chats");
    this.note.textContent = rows.length === 0 && (this.#loaded || this.#hits) ? nothing : "";
    this.more.hidden = !!this.#hits || this.shows === "inbox" || !this.#next;
    this.archive.hidden = !!this.#hits || this.shows === "inbox";
    this.archive.textContent = t(this.shows === "archived" ? "hide_archived" : "show_archived");
    const unread = this.conversations.reduce((sum, { unread }) => sum + (unread ?? 0), 0);
    document.title = `${unread > 0 ? `(${unread}) ` : ""}${t("chats")}`;
  }

  /** @param {Conversation} conversation */
  #row(conversation) {
    const { id, agent_id, agent_name, title, updated_at, last_message_preview, escalation } = conversation;
    const inbox = this.shows === "inbox" && escalation;
    const unread = id === this.page.current && document.hasFocus() ? 0 : (conversation.unread ?? 0);
    const taken = escalation?.taken_by;
    const name = inbox ? (escalation.user_name ?? t("somebody")) : agent_name;
    const second = inbox ? [agent_name, escalation.reason].filter(Boolean).join(" · ") : title;
    const shown = JSON.stringify([name, second, last_message_preview, when(updated_at), unread, taken, conversation.status]);
    return {
      key: id,
      make: () => h("li", {}, h("a", { href: `#${id}` })),
      update: (/** @type {HTMLElement} */ row) => {
        const link = /** @type {HTMLElement} */ (row.firstElementChild);
        if (id === this.page.current) link.setAttribute("aria-current", "page");
        else link.removeAttribute("aria-current");
        if (link.dataset.shown === shown) return;
        link.dataset.shown = shown;
        link.dataset.unread = String(unread);
        link.replaceChildren(
          face(name, inbox ? escalation.user_id : agent_id),
          h("span", { class: "name" }, name),
          h("time", { datetime: updated_at }, when(updated_at)),
          h("span", { class: "title" }, second ?? last_message_preview ?? ""),
          second ? h("span", { class: "preview" }, last_message_preview ?? "") : "",
          unread > 0
            ? h("span", { class: "count", role: "img", "aria-label": t("unread", { count: unread }) }, unread > 99 ? "99+" : String(unread))
            : conversation.status === "escalated"
              ? h("span", { class: `human ${taken ? "taken" : ""}`, role: "img", "aria-label": t(taken ? "taken_over" : "escalated") }, icon("person"))
              : "",
        );
      },
    };
  }

  /** @param {Hit} hit */
  #hit(hit) {
    return {
      key: hit.message_id,
      make: () =>
        h(
          "li",
          {},
          h(
            "a",
            { href: `#${hit.conversation_id}/${hit.seq}`, onclick: () => this.page.goTo(hit.conversation_id, hit.seq) },
            face(hit.agent_name, hit.agent_id),
            h("span", { class: "name" }, hit.agent_name),
            h("time", { datetime: hit.created_at }, when(hit.created_at)),
            h("span", { class: "title hit" }, ...hit.snippet.map(({ text, hit }) => (hit ? h("mark", {}, text) : text))),
          ),
        ),
    };
  }
}
