/** The right side: one conversation, what is said in it, and what one says. */

import { announce, ask, button, face, h, icon, keep, toast } from "./view.js";
import { copyText, showMarkdown } from "./markdown.js";
import { dayName, fault, moment, t, time } from "./texts.js";

/** @typedef {import("./konstruct-chat.d.ts").Conversation} Conversation */
/** @typedef {import("./client.js").Conversation} Talk */
/** @typedef {import("./client.js").Entry} Entry */
/** @typedef {import("./page.js").Page} Page */

/** Longest message, in Unicode code points (LIMIT_TEXT_CHARS). */
const LONGEST = 16_000;

/** So near to the end counts as at the end, in pixels. */
const NEAR = 48;

/** Earlier messages are read when their beginning comes so near, in pixels. */
const AHEAD = 800;

/** What is being written, of each conversation. @type {Map<string, string>} */
const drafts = new Map();

export class Thread {
  /** The end is in sight, and stays there. */
  #pinned = true;
  /** Up to where was read when it was opened: after it stands the line. @type {number | undefined} */
  #readBefore;
  /** Something came while the end was not in sight. */
  #below = false;
  #leaving = new AbortController();
  /** @type {number | undefined} */
  #target;

  /**
   * @param {Page} page
   * @param {Conversation} conversation
   * @param {Talk} talk
   */
  constructor(page, conversation, talk) {
    this.page = page;
    this.conversation = conversation;
    this.talk = talk;
    this.agent = conversation.agent_name;

    this.face = face(this.agent, conversation.agent_id);
    this.heading = h("h1", {});
    this.subheading = h("p", {});
    this.menu = h("div", { class: "menu", popover: "auto", id: "menu" });
    this.options = button({ label: t("options"), icon: "more", popovertarget: "menu", dataset: { does: "options" } });
    this.banner = h("div", { class: "banner", role: "status" });
    this.list = h("ol", { class: "messages", "aria-label": t("messages") });
    this.dots = h("p", { class: "dots", hidden: true });
    this.olderNote = h("p", { class: "older", hidden: true }, t("older"));
    this.scroller = h(
      "div",
      { class: "scroller", tabindex: "0", role: "region", "aria-label": t("messages"), onscroll: () => this.#scrolled() },
      this.olderNote,
      this.list,
      this.dots,
    );
    this.toBottom = button({ class: "to-bottom", label: t("to_bottom"), icon: "bottom", hidden: true, onclick: () => this.#toEnd("smooth") });
    this.input = h("textarea", {
      rows: "1",
      "aria-label": t("message_to", { agent: this.agent }),
      placeholder: t("message_to", { agent: this.agent }),
      autocomplete: "off",
      oninput: () => this.#wrote(),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.#key(event),
    });
    this.tooLong = h("span", { class: "too-long", role: "status" });
    this.sendButton = button({ class: "main send", label: t("send"), icon: "send", onclick: () => this.#send() });
    this.stopButton = button({ class: "main stop", label: t("stop"), icon: "stop", hidden: true, onclick: () => this.talk.stop() });
    this.element = h(
      "section",
      { class: "thread", "aria-label": this.agent },
      h(
        "header",
        {},
        button({ class: "back", label: t("back"), icon: "back", onclick: () => page.leave() }),
        this.face,
        h("div", { class: "names" }, this.heading, this.subheading),
        this.options,
        this.menu,
      ),
      this.banner,
      h("div", { class: "room" }, this.scroller, this.toBottom),
      h("footer", {}, h("div", { class: "composer" }, this.input, this.tooLong, this.stopButton, this.sendButton)),
    );
    this.menu.addEventListener("toggle", (/** @type {any} */ event) => event.newState === "open" && this.#openMenu());
    this.input.value = drafts.get(conversation.id) ?? "";
  }

  /** It is on the page. */
  shown() {
    const { signal } = this.#leaving;
    const { talk } = this;
    talk.addEventListener("change", () => this.render(), { signal });
    talk.addEventListener("arrived", (event) => this.#arrived(/** @type {CustomEvent<Entry>} */ (event).detail), { signal });
    talk.addEventListener("trouble", (event) => toast(fault(/** @type {any} */ (event).detail.code, this.agent)), { signal });
    addEventListener("focus", () => this.#read(), { signal });
    document.addEventListener("visibilitychange", () => this.render(), { signal });
    addEventListener("resize", () => this.#pinned && this.#toEnd(), { signal });
    if (talk.own && this.conversation.unread) this.#readBefore = Math.max(this.conversation.read_seq, talk.readSeq);
    this.render();
    this.#wrote();
    this.#toEnd();
    // On a phone the keyboard would cover what one came to read.
    if (matchMedia("(pointer: fine)").matches) this.input.focus();
  }

  /** Another one takes its place. */
  hide() {
    this.#leaving.abort();
  }

  /** Shows the message at a place. @param {number} seq */
  async goTo(seq) {
    this.#target = seq;
    this.#pinned = false;
    if (!this.talk.loaded) return;
    try {
      await this.talk.upTo(seq);
    } catch (error) {
      toast(fault(/** @type {any} */ (error).code, this.agent));
    }
    this.render();
    const found = this.list.querySelector(`[data-seq="${seq}"]`);
    this.#target = undefined;
    if (!found) return this.#toEnd();
    this.#pinned = false;
    found.scrollIntoView({ block: "center" });
    found.classList.add("found");
    found.addEventListener("animationend", () => found.classList.remove("found"), { once: true });
  }

  // What is seen.

  render() {
    const { talk, conversation } = this;
    if (talk.title !== undefined && (talk.title !== conversation.title || !!conversation.archived_at !== talk.archived)) {
      this.page.sidebar?.know(conversation.id, { title: talk.title });
      conversation.title = talk.title;
      conversation.archived_at = talk.archived ? (conversation.archived_at ?? new Date().toISOString()) : null;
    }
    if (talk.connection.state === "online") {
      conversation.status = talk.status;
      if (talk.status === "agent") delete conversation.escalation;
    }
    const about = talk.own ? conversation.title : this.#person();
    this.heading.textContent = about ?? this.agent;
    this.subheading.textContent = about ? this.agent : "";
    this.#showFace();
    this.#banner();
    this.#holdPlace(() => {
      this.#messages();
      const words = talk.tool && talk.openTurn ? t("using_tool", { agent: this.agent, tool: talk.tool.replaceAll("_", " ") }) : t("typing", { agent: this.agent });
      this.dots.hidden = !talk.busy || talk.connection.state !== "online";
      if (this.dots.dataset.shown !== words) {
        this.dots.dataset.shown = words;
        this.dots.replaceChildren(h("span", { class: "dot" }), h("span", { class: "dot" }), h("span", { class: "dot" }), h("span", { class: "words" }, words));
      }
      this.dots.dataset.tool = talk.tool ?? "";
    });
    const turn = talk.status === "agent" ? talk.openTurn : undefined;
    this.stopButton.hidden = !turn;
    this.stopButton.disabled = turn?.stopping ?? false;
    this.stopButton.setAttribute("aria-label", t(turn?.stopping ? "stopping" : "stop"));
    this.sendButton.hidden = !!turn && this.input.value.trim() === "";
    if (this.#target !== undefined && talk.loaded) this.goTo(this.#target);
    this.#read();
  }

  #messages() {
    const { talk } = this;
    /** @type {Array<{key: string, make: () => HTMLElement, update?: (element: any) => void}>} */
    const items = [];
    let day = "";
    let line = this.#readBefore !== undefined;
    for (const entry of talk.messages) {
      const its = new Date(entry.createdAt).toDateString();
      if (its !== day) {
        day = its;
        items.push({ key: `day:${its}`, make: () => h("li", { class: "day" }, h("time", { datetime: entry.createdAt }, dayName(entry.createdAt))) });
      }
      if (line && entry.role === "assistant" && (entry.seq ?? 0) > (this.#readBefore ?? 0)) {
        line = false;
        items.push({ key: "unread", make: () => h("li", { class: "unread" }, h("span", {}, t("unread_here"))) });
      }
      items.push({
        key: entry.key,
        make: () => h("li", {}, h("div", { class: "body" }), h("div", { class: "foot" })),
        update: (element) => this.#message(element, entry),
      });
    }
    if (talk.loaded && items.length === 0) {
      items.push({ key: "empty", make: () => h("li", { class: "empty" }, face(this.agent, this.conversation.agent_id), h("p", {}, t("empty_thread", { agent: this.agent }))) });
    }
    this.list.setAttribute("aria-busy", String(!talk.loaded));
    keep(this.list, items);
  }

  /** @param {HTMLElement} element @param {Entry} entry */
  #message(element, entry) {
    const mine = this.#mine(entry);
    const agent = entry.role === "assistant" && !entry.authorId;
    element.className = `message ${mine ? "mine" : "theirs"} ${agent ? "agent" : "human"} ${entry.state}`;
    element.dataset.state = entry.state;
    if (entry.seq !== undefined) element.dataset.seq = String(entry.seq);
    const [body, foot] = /** @type {any} */ (element.children);
    if (body.dataset.text !== entry.text) {
      body.dataset.text = entry.text;
      if (agent) showMarkdown(body, entry.text);
      else body.textContent = entry.text;
    }
    const connection = this.talk.connection.state;
    const shown = JSON.stringify([entry.state, entry.feedback?.rating, entry.error, entry.stopping, entry.state === "sending" && connection, entry.id]);
    if (foot.dataset.shown === shown) return;
    foot.dataset.shown = shown;
    foot.replaceChildren(...this.#foot(entry, mine, agent));
  }

  /** @param {Entry} entry @param {boolean} mine @param {boolean} agent @returns {Array<Node | string>} */
  #foot(entry, mine, agent) {
    const at = h("time", { datetime: entry.createdAt, title: moment(entry.createdAt) }, time(entry.createdAt));
    if (entry.state === "streaming") return [];
    if (!mine) {
      const who = h("span", { class: "who" }, this.#name(entry));
      if (!agent || !entry.id) return [who, at];
      const copy = button({ class: "small", label: t("copy"), icon: "copy", onclick: () => copyText(entry.text, copy) });
      return this.talk.own ? [at, copy, this.#thumb(entry, "up"), this.#thumb(entry, "down")] : [who, at, copy];
    }
    const bad = entry.state === "failed" || entry.state === "refused";
    const waiting = entry.state === "sending" && this.talk.connection.state !== "online";
    const words = t(waiting ? "state_waiting" : `state_${entry.state === "whole" ? "escalated" : entry.state}`);
    const state = h(
      "span",
      { class: "state", title: words },
      icon(bad ? "alert" : entry.state === "sending" ? "clock" : "sent"),
      h("span", { class: waiting || entry.state === "stopped" ? "" : "unseen" }, words),
      bad && h("span", {}, fault(entry.error?.code, this.agent)),
    );
    const other = entry.authorId && entry.authorId !== this.page.user;
    if (!bad) return [other ? h("span", { class: "who" }, t("person")) : "", at, state];
    const again = h("button", { type: "button", class: "link", dataset: { does: "again" }, onclick: () => this.#again(entry) }, t("again"));
    const dismiss = h("button", { type: "button", class: "link", onclick: () => this.talk.dismiss(entry) }, t("dismiss"));
    return [at, state, ...(this.#mayWrite() ? [again] : []), ...(entry.state === "refused" ? [dismiss] : [])];
  }

  /** @param {Entry} entry @param {"up" | "down"} rating */
  #thumb(entry, rating) {
    const given = entry.feedback?.rating === rating;
    return button({
      class: "small",
      label: t(rating === "up" ? "good" : "bad"),
      icon: rating,
      "aria-pressed": String(given),
      onclick: () => this.#rate(entry, given ? null : rating),
    });
  }

  /** On whose side it stands: who answers in the agent's stead sees their answers as their own. @param {Entry} entry */
  #mine(entry) {
    if (this.talk.own) return entry.role === "user";
    return entry.authorId === this.page.user;
  }

  /** Who said it, if that was somebody else. @param {Entry} entry */
  #name(entry) {
    if (entry.authorId) return t("person");
    return entry.role === "user" ? this.#person() : this.agent;
  }

  /** Changes what is shown and keeps what somebody looks at where it is. @param {() => void} change */
  #holdPlace(change) {
    const { scroller } = this;
    const top = scroller.scrollTop;
    const anchor = this.#pinned ? undefined : [...this.list.children].find((child) => child.offsetTop + child.offsetHeight > top);
    const before = anchor?.offsetTop ?? 0;
    change();
    if (this.#pinned) scroller.scrollTop = scroller.scrollHeight;
    else if (anchor?.isConnected) scroller.scrollTop = top + anchor.offsetTop - before;
  }

  /** @param {"auto" | "smooth"} [behavior] */
  #toEnd(behavior = "auto") {
    this.#pinned = true;
    this.scroller.scrollTo({ top: this.scroller.scrollHeight, behavior });
  }

  async #scrolled() {
    const { scroller, talk } = this;
    this.#pinned = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR;
    if (this.#pinned) this.#below = false;
    this.toBottom.hidden = this.#pinned;
    this.toBottom.classList.toggle("news", this.#below);
    this.#read();
    if (scroller.scrollTop > AHEAD || !talk.hasOlder || !talk.loaded || !this.olderNote.hidden) return;
    this.#holdPlace(() => (this.olderNote.hidden = false));
    await talk.older().catch((error) => toast(fault(error.code, this.agent)));
    this.#holdPlace(() => (this.olderNote.hidden = true));
  }

  /** What is in sight of somebody who looks has been read. */
  #read() {
    if (!this.#pinned || !this.talk.loaded || !document.hasFocus() || document.visibilityState !== "visible") return;
    this.talk.read(this.talk.lastSeq);
    const { conversation } = this;
    if (conversation.unread) {
      conversation.unread = 0;
      this.page.sidebar?.know(conversation.id, { unread: 0 });
    }
  }

  /** @param {Entry} entry */
  #arrived(entry) {
    if (!this.#pinned) {
      this.#below = true;
      this.toBottom.classList.add("news");
    }
    announce(t("said", { name: this.#name(entry), text: entry.text.slice(0, 1_000) }));
    const preview = entry.text.slice(0, 100);
    this.page.sidebar?.know(this.conversation.id, { last_message_preview: preview, updated_at: entry.createdAt });
  }

  #banner() {
    const { talk, agent } = this;
    const { connection } = talk;
    /** @type {[string, string, ...Array<Node>]} */
    let says = ["", ""];
    if (connection.state === "closed") {
      const why = { 4401: "unauthenticated", 4403: "forbidden", 4404: "gone" }[connection.code] ?? "broken";
      const reload = h("button", { type: "button", onclick: () => location.reload() }, t("reload"));
      says = ["bad", t(`ended_${why}`), ...(why === "unauthenticated" || why === "broken" ? [reload] : [])];
    } else if (!navigator.onLine) says = ["bad", t("offline")];
    else if (connection.state === "waiting") says = ["bad", t("reconnecting")];
    else if (!talk.own) says = this.#inbox();
    else if (talk.status === "escalated") says = ["person", t(this.#answers() ? "taken_over" : "escalated")];
    const shown = JSON.stringify([says[0], says[1], talk.own, this.#answers()]);
    if (this.banner.dataset.shown === shown) return;
    this.banner.dataset.shown = shown;
    this.banner.dataset.kind = says[0];
    this.banner.replaceChildren(...(says[1] ? [icon(says[0] === "bad" ? "alert" : "person"), h("p", {}, says[1]), ...says.slice(2)] : []));
    this.input.disabled = !this.#mayWrite();
    this.input.placeholder = this.#mayWrite() || talk.own ? t("message_to", { agent: talk.own ? agent : this.#person() }) : t("take_over_first");
    this.#wrote();
  }

  /** What stands above somebody else's conversation. @returns {[string, string, ...Array<Node>]} */
  #inbox() {
    const { talk, agent } = this;
    const name = this.#person();
    if (talk.status !== "escalated") return ["person", t("handed_back", { agent })];
    const by = this.#answers();
    const takeOver = h("button", { type: "button", class: "main", dataset: { does: "takeover" }, onclick: () => this.#take() }, t("take_over"));
    if (by === this.page.user) {
      const back = h("button", { type: "button", dataset: { does: "handback" }, onclick: () => this.#handBack() }, t("hand_back", { agent }));
      return ["person", t("you_answer", { name, agent }), back];
    }
    const reason = this.conversation.escalation?.reason;
    const words = by ? t("other_answers", { name }) : t("waits", { name });
    return ["person", reason ? `${words} ${t("reason", { reason })}` : words, takeOver];
  }

  /** At the head is whoever the words are for: the agent, or the person that somebody answers in its stead. */
  #showFace() {
    const person = this.conversation.escalation?.user_id;
    const shown = this.talk.own || !person ? face(this.agent, this.conversation.agent_id) : face(this.#person(), person);
    if (this.face.isEqualNode(shown)) return;
    this.face.replaceWith(shown);
    this.face = shown;
  }

  /** Whose conversation it is, by name. */
  #person() {
    return this.conversation.escalation?.user_name ?? t("somebody");
  }

  /** Who answers in the agent's stead, if anybody does yet. */
  #answers() {
    return this.talk.by ?? this.conversation.escalation?.taken_by;
  }

  #mayWrite() {
    const { talk } = this;
    if (talk.connection.state === "closed") return false;
    return talk.own || (talk.status === "escalated" && this.#answers() === this.page.user);
  }

  // What is done.

  #wrote() {
    const text = this.input.value;
    drafts.set(this.conversation.id, text);
    const over = text.length > LONGEST ? [...text].length - LONGEST : 0;
    this.tooLong.textContent = over > 0 ? t("too_long", { count: over }) : "";
    this.sendButton.disabled = text.trim() === "" || over > 0 || this.input.disabled;
    const turn = this.talk.status === "agent" ? this.talk.openTurn : undefined;
    this.sendButton.hidden = !!turn && text.trim() === "";
    if (CSS.supports("field-sizing", "content")) return;
    this.input.style.height = "auto";
    this.input.style.height = `${this.input.scrollHeight}px`;
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.#send();
    } else if (event.key === "Escape" && this.talk.openTurn) {
      this.talk.stop();
    }
  }

  #send() {
    if (this.sendButton.disabled) return;
    const text = this.input.value.trim();
    this.input.value = "";
    this.#readBefore = undefined;
    this.#pinned = true;
    this.talk.send(text);
    this.#sent(text);
    this.#wrote();
    this.input.focus();
  }

  /** @param {string} text */
  #sent(text) {
    const updated_at = new Date().toISOString();
    this.page.sidebar?.know(this.conversation.id, { last_message_preview: text.slice(0, 100), updated_at });
  }

  /** @param {Entry} entry */
  #again(entry) {
    this.#pinned = true;
    this.talk.again(entry);
    this.#sent(entry.text);
    this.input.focus();
  }

  /** @param {Entry} entry @param {"up" | "down" | null} rating */
  async #rate(entry, rating) {
    const say = (/** @type {any} */ error) => toast(fault(error.code, this.agent));
    await this.talk.rate(entry, rating).catch(say);
    if (rating === "up") toast(t("thanks"));
    if (rating !== "down" || entry.feedback?.rating !== "down") return;
    const comment = h("textarea", { rows: "3", maxlength: "2000", "aria-label": t("bad_title") });
    const given = await ask({ title: t("bad_title"), text: t("bad_hint", { agent: this.agent }), field: comment, does: t("send") });
    if (given && comment.value.trim()) await this.talk.rate(entry, "down", comment.value.trim()).catch(say);
    if (given) toast(t("thanks"));
  }

  #openMenu() {
    const { own } = this.talk;
    const { id, archived_at } = this.conversation;
    const item = (/** @type {string} */ name, /** @type {() => void} */ act, danger = false) =>
      h("button", { type: "button", class: danger ? "danger" : "", dataset: { does: name }, onclick: () => (this.menu.hidePopover(), act()) }, t(name));
    const archive = archived_at ? "unarchive" : "archive";
    this.menu.replaceChildren(
      ...(own ? [item("rename", () => this.#rename()), item(archive, () => this.#change(id, { archived: !archived_at }))] : []),
      item("download", () => this.#download()),
      ...(own ? [item("reset", () => this.#reset(), true)] : []),
    );
    const at = this.options.getBoundingClientRect();
    this.menu.style.top = `${at.bottom + 4}px`;
    this.menu.style.right = `${innerWidth - at.right}px`;
    this.menu.querySelector("button")?.focus();
  }

  async #rename() {
    const name = h("input", { type: "text", maxlength: "200", "aria-label": t("name"), value: this.conversation.title ?? "" });
    if (!(await ask({ title: t("rename_title"), field: name, does: t("save") }))) return;
    await this.#change(this.conversation.id, { title: name.value.trim() || null });
  }

  /** @param {string} id @param {import("./konstruct-chat.d.ts").Patch} change */
  async #change(id, change) {
    try {
      const { title, archived_at, updated_at } = await this.page.chat.change(id, change);
      Object.assign(this.conversation, { title, archived_at });
      this.talk.title = title;
      this.talk.archived = archived_at !== null;
      this.page.sidebar?.know(id, { title, archived_at, updated_at });
      this.page.sidebar?.refresh();
      this.render();
    } catch (error) {
      toast(fault(/** @type {any} */ (error).code, this.agent));
    }
  }

  async #download() {
    try {
      const text = await this.page.chat.export(this.conversation.id);
      const file = URL.createObjectURL(new Blob([text], { type: "text/markdown" }));
      h("a", { href: file, download: `${this.conversation.title ?? this.agent}.md` }).click();
      setTimeout(() => URL.revokeObjectURL(file), 60_000);
    } catch (error) {
      toast(fault(/** @type {any} */ (error).code, this.agent));
    }
  }

  async #reset() {
    const { agent } = this;
    const sure = await ask({ title: t("reset_title", { agent }), text: t("reset_text", { agent }), does: t("reset_do"), danger: true });
    if (!sure) return;
    try {
      await this.page.chat.reset(this.conversation.id);
      this.page.sidebar?.know(this.conversation.id, { last_message_preview: null });
      announce(t("was_reset"));
      toast(t("was_reset"));
    } catch (error) {
      toast(fault(/** @type {any} */ (error).code, agent));
    }
  }

  async #take() {
    try {
      Object.assign(this.conversation, await this.page.chat.takeOver(this.conversation.id));
      this.talk.by = this.page.user;
      this.render();
      this.page.sidebar?.refresh();
      this.input.focus();
    } catch (error) {
      toast(fault(/** @type {any} */ (error).code, this.agent));
    }
  }

  async #handBack() {
    try {
      await this.page.chat.handBack(this.conversation.id);
      toast(t("handed_back", { agent: this.agent }));
      this.page.forget(this.conversation.id);
      this.page.leave();
      this.page.sidebar?.refresh();
    } catch (error) {
      toast(fault(/** @type {any} */ (error).code, this.agent));
    }
  }
}
