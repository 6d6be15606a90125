/**
 * The client of the Konstruct web chat, for any page: no framework, no build step.
 *
 *     import { Chat } from "https://hub.example/portal/client.js";
 *
 *     const chat = new Chat({ hub: "https://hub.example", token: async () => (await fetch("/my/chat-token")).text() });
 *     const talk = chat.conversation(id);
 *     talk.addEventListener("change", () => render(talk.messages, talk.connection));
 *     talk.open();
 *     talk.send("Hello");
 *
 * What it promises: a message that `send` took is sent exactly once, however often the connection breaks or the page is
 * loaded again; every reply is there, in its order, once; a reply that is being written is shown as far as it is.
 *
 * @module
 */

/** @typedef {import("./konstruct-chat.d.ts")} Wire what goes over the wire */
/** @typedef {import("./konstruct-chat.d.ts").Conversation} Summary a conversation as a list shows it */
/** @typedef {import("./konstruct-chat.d.ts").Message} Message */
/** @typedef {import("./konstruct-chat.d.ts").ServerFrame} ServerFrame */
/** @typedef {import("./konstruct-chat.d.ts").ClientFrame} ClientFrame */

/**
 * Why a token is asked for: for the first time, because the one in use is about to end, or because it was refused.
 * @typedef {"start" | "refresh" | "refused"} TokenReason
 */

/**
 * @typedef {object} Settings
 * @property {string} [hub] Where the hub is, as `https://hub.example`; the page's own origin if absent.
 * @property {string} [rest] Where REST is; the hub's origin if absent.
 * @property {(reason: TokenReason) => Promise<string>} token Gets a signed token. It is kept in memory alone.
 * @property {Storage | null} [keep] Where messages wait that could not be sent yet; `localStorage` if absent, nowhere if `null`.
 */

/**
 * What became of a message. Of one's own: `sending` until the server has it, `accepted` until its turn ends as `answered`,
 * `failed`, `stopped` or `escalated` (a person answers); or `refused`: the server does not take it. Of replies: `streaming`, then `whole`.
 * @typedef {"sending" | "accepted" | "answered" | "failed" | "stopped" | "escalated" | "refused" | "streaming" | "whole"} State
 */

/**
 * One message of the list.
 * @typedef {object} Entry
 * @property {string} key Its own, for as long as it is shown.
 * @property {"user" | "assistant"} role On whose side it stands.
 * @property {string} text What it says.
 * @property {State} state What became of it.
 * @property {string} createdAt When it was stored, or written here (RFC 3339).
 * @property {number} [seq] Its place; absent until the server has it.
 * @property {string} [id] The server's id of it.
 * @property {string} [clientMessageId] Our id of it, if it was sent here.
 * @property {string} [turnId] The turn that answers it, or that it ends.
 * @property {string} [authorId] The person who wrote it, where that is not the one the role suggests.
 * @property {import("./konstruct-chat.d.ts").Feedback} [feedback] What the conversation's owner thinks of it.
 * @property {{code: string, message?: string}} [error] Why it failed or was refused.
 * @property {boolean} [stopping] Its turn was asked to end.
 */

/**
 * How we are connected. `waiting` knows until when (milliseconds, as `Date.now()`); `closed` is for good, and knows why.
 * @typedef {{state: "idle"} | {state: "connecting"} | {state: "online"} | {state: "waiting", until: number} | {state: "closed", code: number, reason: string}} Connection
 */

const BASE = "/api/portal/chat";

/** Back-off, in milliseconds: at random up to the least doubled with every try, and never more than the most. */
const LEAST_WAIT = 500;
const MOST_WAIT = 20_000;

/** How long the server may take to let us in or to take a message, until the connection counts as dead. */
const PATIENCE = 10_000;

/** A connection that lived this long was a good one: the next failure is the first. */
const GOOD = 10_000;

/** A token is renewed this long before it ends, or in the last fifth of a short life. */
const AHEAD = 60_000;

/** After so long without a sign of life we ask for one when somebody looks at the page again. */
const SILENCE = 30_000;

/** `typing` holds so long without another (as the contract says). */
const TYPING = 15_000;

/** An unsent message that is older is not sent by itself any more. */
const STALE = 24 * 3_600_000;

/** Close codes after which the same client would only be put out again. 4401 is final with the same token. */
const FINAL = [1002, 4400, 4403, 4404];

/** Refusals that pass: the message is sent again. */
const PASSING = ["busy", "rate_limited", "unavailable", "internal", "too_many_sockets"];

const PAGE = 50;

/** An error that REST answered (RFC 9457), or `unavailable` where nothing answered. */
export class Problem extends Error {
  /**
   * @param {number} status The HTTP status; 0 where there was no answer.
   * @param {Partial<import("./konstruct-chat.d.ts").Problem>} body What it says.
   * @param {number} [retryAfterMs] When to try again.
   */
  constructor(status, body, retryAfterMs) {
    super(body.detail ?? "The service cannot be reached.");
    this.name = "Problem";
    this.status = status;
    /** @type {string} */
    this.code = body.code ?? (status === 0 || status >= 500 ? "unavailable" : "internal");
    this.requestId = body.request_id;
    this.errors = body.errors ?? [];
    this.retryAfterMs = retryAfterMs;
  }

  /** @param {Response} answer */
  static async of(answer) {
    const seconds = Number(answer.headers.get("retry-after"));
    return new Problem(answer.status, await answer.json().catch(() => ({})), seconds ? seconds * 1000 : undefined);
  }
}

/** One person's chat: REST, and the conversations' sockets. */
export class Chat {
  #settings;
  /** @type {string | undefined} */
  #token;
  /** @type {Promise<string> | undefined} */
  #asking;

  /** @param {Settings} settings */
  constructor(settings) {
    this.#settings = settings;
    this.hub = settings.hub || location.origin;
    this.rest = settings.rest || this.hub;
    this.keep = settings.keep === undefined ? storage() : settings.keep;
  }

  /**
   * The token to use: another one than `stale`, if that is given. Asks the host at most once at a time.
   * @param {string} [stale]
   * @param {TokenReason} [reason]
   * @returns {Promise<string>}
   */
  async token(stale, reason = stale ? "refused" : "start") {
    if (this.#token && this.#token !== stale) return this.#token;
    this.#asking ??= this.#settings.token(reason).finally(() => (this.#asking = undefined));
    return (this.#token = await this.#asking);
  }

  /**
   * Asks REST, with a token, and once more with a fresh one if that was refused.
   * @param {string} method
   * @param {string} path Below `/api/portal/chat`, or an `next` of an earlier answer.
   * @param {{query?: Record<string, string | number | boolean | null | undefined>, body?: object, headers?: Record<string, string>}} [request]
   * @returns {Promise<{data: any, next: string | undefined}>} The body, and where the next page is.
   * @throws {Problem}
   */
  async request(method, path, { query = {}, body, headers = {} } = {}) {
    const url = new URL((path.startsWith(BASE) ? "" : BASE) + path, this.rest);
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined && value !== null) url.searchParams.set(name, String(value));
    }
    let token = await this.token();
    for (let again = true; ; again = false) {
      const answer = await fetch(url, {
        method,
        headers: { authorization: `Bearer ${token}`, ...(body && { "content-type": "application/json" }), ...headers },
        body: body && JSON.stringify(body),
        credentials: "omit",
        referrerPolicy: "no-referrer",
      }).catch(() => {
        throw new Problem(0, {});
      });
      if (answer.status === 401 && again) {
        token = await this.token(token);
        continue;
      }
      if (!answer.ok) throw await Problem.of(answer);
      const json = answer.headers.get("content-type")?.includes("json");
      const data = answer.status === 204 ? undefined : json ? await answer.json() : await answer.text();
      const next = /<([^>]+)>; rel="next"/.exec(answer.headers.get("link") ?? "")?.[1];
      return { data, next };
    }
  }

  /** Who we are. @returns {Promise<import("./konstruct-chat.d.ts").Me>} */
  async me() {
    return (await this.request("GET", "/me")).data;
  }

  /** Everybody one may talk to. @param {string} tenant @returns {Promise<Array<import("./konstruct-chat.d.ts").AgentCard>>} */
  async agents(tenant) {
    const agents = [];
    let page = await this.request("GET", "/agents", { query: { tenant_id: tenant, limit: 100 } });
    agents.push(...page.data);
    while (page.next) {
      page = await this.request("GET", page.next);
      agents.push(...page.data);
    }
    return agents;
  }

  /**
   * A page of conversations, newest first.
   * @param {{tenant_id?: string, status?: "escalated", archived?: boolean, limit?: number}} query
   * @returns {Promise<{data: Array<Summary>, next: string | undefined}>}
   */
  conversations(query) {
    return this.request("GET", "/conversations", { query });
  }

  /** One conversation. @param {string} id @returns {Promise<Summary>} */
  async read(id) {
    return (await this.request("GET", `/conversations/${id}`)).data;
  }

  /** The conversation with an agent, new or not. @param {string} tenant @param {string} agent @returns {Promise<Summary>} */
  async start(tenant, agent) {
    return (await this.request("POST", "/conversations", { body: { tenant_id: tenant, agent_id: agent } })).data;
  }

  /** Begins anew: what was said is gone. @param {string} id */
  async reset(id) {
    await this.request("DELETE", `/conversations/${id}`);
  }

  /** Names it, or puts it away. @param {string} id @param {import("./konstruct-chat.d.ts").Patch} change @returns {Promise<Summary>} */
  async change(id, change) {
    return (await this.request("PATCH", `/conversations/${id}`, { body: change })).data;
  }

  /** Answers in it from now on. @param {string} id @returns {Promise<Summary>} */
  async takeOver(id) {
    return (await this.request("POST", `/conversations/${id}/takeover`, { body: {} })).data;
  }

  /** Lets the agent answer again. @param {string} id @returns {Promise<Summary>} */
  async handBack(id) {
    return (await this.request("POST", `/conversations/${id}/handback`, { body: {} })).data;
  }

  /**
   * Says what a reply was worth, or takes that back.
   * @param {string} id
   * @param {string} message
   * @param {{rating: "up" | "down", comment?: string} | null} opinion
   * @returns {Promise<import("./konstruct-chat.d.ts").Feedback | undefined>}
   */
  async rate(id, message, opinion) {
    const path = `/conversations/${id}/messages/${message}/feedback`;
    return (await this.request(opinion ? "PUT" : "DELETE", path, opinion ? { body: opinion } : {})).data;
  }

  /**
   * Looks for words in one's own conversations.
   * @param {{tenant_id: string, q: string, conversation_id?: string, limit?: number}} query
   * @returns {Promise<{data: Array<import("./konstruct-chat.d.ts").Hit>, next: string | undefined}>}
   */
  search(query) {
    return this.request("GET", "/search", { query });
  }

  /** All that was said, as Markdown. @param {string} id @returns {Promise<string>} */
  async export(id) {
    let text = "";
    let path = /** @type {string | undefined} */ (`/conversations/${id}/export?format=markdown`);
    while (path) {
      const part = await this.request("GET", path);
      text += part.data;
      path = part.next;
    }
    return text;
  }

  /**
   * A conversation, not connected yet.
   * @param {string} id
   * @param {Place} [place]
   */
  conversation(id, place) {
    return new Conversation(this, id, place);
  }
}

/**
 * Whose conversation it is.
 * @typedef {object} Place
 * @property {boolean} [own] It is the caller's own, as almost always.
 * @property {string} [user] The caller's id; keeps what two people of one browser have not sent yet apart.
 */

/**
 * One conversation, kept as it is on the server.
 *
 * Events: `change` after anything changed, at most once a task; `arrived` (a `CustomEvent` of an {@link Entry}) for what
 * somebody else has said; `trouble` (a `CustomEvent` of an `error` frame) for a refusal that is about no message.
 */
export class Conversation extends EventTarget {
  /** @type {Connection} */
  connection = { state: "idle" };
  /** Who answers. @type {import("./konstruct-chat.d.ts").Status} */
  status = "agent";
  /** The person who took it over or handed it back last, if that was said. @type {string | undefined} */
  by;
  /** Changed while we were here. @type {string | null | undefined} */
  title;
  /** @type {boolean | undefined} */
  archived;
  /** Who is typing. @type {import("./konstruct-chat.d.ts").Origin | undefined} */
  typing;
  /** What the agent is using. @type {string | undefined} */
  tool;
  /** Up to where the owner has read. */
  readSeq = 0;
  /** The newest page is here. */
  loaded = false;
  /** There is more before the first message. */
  hasOlder = false;

  #chat;
  #own;
  #user;
  /** @type {number | undefined} */
  #epoch;
  /** The newest `seq` we have seen; unknown before we were let in. @type {number | undefined} */
  #lastSeq;
  /** What the server has, in its order. @type {Array<Entry & {seq: number}>} */
  #kept = [];
  /** Replies that are being written, by turn. @type {Map<string, Entry & {attempt: number, length: number}>} */
  #streams = new Map();
  /** What the server does not have yet, in our order; `found`: it has it, and will say so. @type {Array<Entry & {tried?: boolean, found?: boolean}>} */
  #unsent = [];
  /** The message of which we wait to hear. @type {Entry | undefined} */
  #inFlight;
  /** The server wants nothing for a while. */
  #resting = false;

  /** @type {WebSocket | undefined} */
  #socket;
  /** Goes up with whatever makes an answer that is under way useless. */
  #attempt = 0;
  #history = 0;
  #loading = false;
  #tries = 0;
  #readyAt = 0;
  #heardAt = 0;
  /** What the hub said about coming back. @type {number | undefined} */
  #delay;
  /** The token that this connection was opened with, and the one that was refused. @type {string | undefined} */
  #token;
  /** @type {string | undefined} */
  #stale;
  #refused = false;
  #wanted = 0;
  #changed = false;
  /** @type {Record<string, ReturnType<typeof setTimeout> | undefined>} */
  #timers = {};
  #stop = new AbortController();

  /**
   * @param {Chat} chat
   * @param {string} id
   * @param {Place} [place]
   */
  constructor(chat, id, { own = true, user = "" } = {}) {
    super();
    this.#chat = chat;
    this.id = id;
    this.#own = own;
    this.#user = user;
    this.#restore();
  }

  /** It is the caller's own. */
  get own() {
    return this.#own;
  }

  /** Everything in order: what the server has, then what is being written, then what is not sent yet. @type {Array<Entry>} */
  get messages() {
    const streams = [...this.#streams.values()].filter((stream) => stream.text !== "");
    return [...this.#kept, ...streams, ...this.#unsent.filter((entry) => !entry.found)];
  }

  /** The newest `seq` that was seen; 0 if there is none. */
  get lastSeq() {
    return this.#kept.at(-1)?.seq ?? 0;
  }

  /** The oldest message whose turn has not ended. @type {Entry | undefined} */
  get openTurn() {
    return this.#kept.find((entry) => entry.state === "accepted" && entry.turnId);
  }

  /** The answer is being made: somebody shall see that. */
  get busy() {
    const streaming = [...this.#streams.values()].some((stream) => stream.text !== "");
    return !streaming && (this.typing !== undefined || (this.status === "agent" && this.openTurn !== undefined));
  }

  /** Connects, and stays connected until {@link close}. */
  open() {
    const { signal } = this.#stop;
    addEventListener("offline", () => this.#gone(), { signal });
    addEventListener("online", () => this.#now(), { signal });
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#look(), { signal });
    this.#connect();
    return this;
  }

  /** Leaves for good. What is unsent waits for the next time. */
  close() {
    this.#stop.abort();
    this.#drop();
    Object.values(this.#timers).forEach(clearTimeout);
    this.connection = { state: "idle" };
  }

  /** Says something. @param {string} text @returns {Entry} */
  send(text) {
    const entry = this.#draft(crypto.randomUUID(), text, new Date().toISOString());
    this.#unsent.push(entry);
    this.#save(entry);
    this.#pump();
    this.#change();
    return entry;
  }

  /** Says again, as a new message, what failed or was refused. @param {Entry} entry @returns {Entry} */
  again(entry) {
    this.dismiss(entry);
    return this.send(entry.text);
  }

  /** Forgets what was refused. What the server has stays. @param {Entry} entry */
  dismiss(entry) {
    if (entry.state !== "refused") return;
    this.#unsent = this.#unsent.filter((other) => other !== entry);
    this.#forget(entry);
    this.#change();
  }

  /** Ends the reply that is being made; what is written stays. */
  stop() {
    const turn = this.openTurn;
    if (!turn?.turnId || !this.#say({ type: "stop", turn_id: turn.turnId })) return;
    turn.stopping = true;
    this.#change();
  }

  /** The owner has read up to here. @param {number} seq */
  read(seq) {
    if (!this.#own || seq <= Math.max(this.readSeq, this.#wanted)) return;
    this.#wanted = seq;
    this.#say({ type: "read", seq });
  }

  /** Gets a page of what was said before the first message. */
  async older() {
    const first = this.#kept[0]?.seq;
    if (!this.hasOlder || first === undefined) return;
    await this.#page({ before: first, limit: PAGE });
  }

  /** Gets what was said down to this place, however much that is. @param {number} seq */
  async upTo(seq) {
    while (this.hasOlder && this.#kept.length > 0 && this.#kept[0].seq > seq) {
      await this.#page({ before: this.#kept[0].seq, limit: 100 });
    }
  }

  /** Puts what REST answered to a rating where it belongs. @param {Entry} entry @param {"up" | "down" | null} rating @param {string} [comment] */
  async rate(entry, rating, comment) {
    if (!entry.id) return;
    entry.feedback = (await this.#chat.rate(this.id, entry.id, rating && { rating, ...(comment && { comment }) })) ?? undefined;
    this.#change();
  }

  // The connection.

  async #connect() {
    this.#drop();
    const attempt = this.#attempt;
    this.#is({ state: "connecting" });
    let token;
    try {
      token = await this.#chat.token(this.#stale);
    } catch {
      if (attempt === this.#attempt) this.#later();
      return;
    }
    if (attempt !== this.#attempt) return;
    this.#token = token;
    const socket = new WebSocket(`${this.#chat.hub.replace(/^http/, "ws")}/chat/ws/${this.id}`);
    this.#socket = socket;
    const whileOurs = (/** @type {(event: any) => void} */ act) => (/** @type {any} */ event) => socket === this.#socket && act(event);
    socket.onopen = whileOurs(() => this.#say({ type: "auth", token, last_seq: this.#lastSeq, epoch: this.#epoch }));
    socket.onmessage = whileOurs(({ data }) => this.#hear(JSON.parse(data)));
    socket.onclose = whileOurs(({ code, reason }) => this.#ended(code, reason));
    this.#expect();
  }

  /** Lets go of the socket, and of whatever waits for it. */
  #drop() {
    this.#attempt += 1;
    const socket = this.#socket;
    this.#socket = undefined;
    this.#inFlight = undefined;
    for (const timer of ["dead", "retry", "refresh"]) clearTimeout(this.#timers[timer]);
    socket?.close();
  }

  /** Something has to come, or the connection is dead. */
  #expect() {
    clearTimeout(this.#timers.dead);
    this.#timers.dead = setTimeout(() => this.#gone(), PATIENCE);
  }

  #gone() {
    if (this.connection.state === "closed") return;
    this.#later();
  }

  /** @param {number} code @param {string} reason */
  #ended(code, reason) {
    if (FINAL.includes(code) || (code === 4401 && this.#refused)) {
      this.#drop();
      this.#is({ state: "closed", code, reason });
    } else if (code === 4401) {
      this.#refused = true;
      this.#stale = this.#token;
      this.#connect();
    } else {
      this.#later();
    }
  }

  /** Comes back after a while: as long as the hub said, or at random up to more and more. */
  #later() {
    const good = this.connection.state === "online" && Date.now() - this.#readyAt > GOOD;
    this.#tries = good ? 0 : this.#tries + 1;
    this.#drop();
    const wait = this.#delay ?? backOff(this.#tries);
    this.#delay = undefined;
    this.#timers.retry = setTimeout(() => this.#connect(), wait);
    this.#typed(undefined);
    this.#is({ state: "waiting", until: Date.now() + wait });
  }

  /** Comes back at once, if we are waiting. */
  #now() {
    if (this.connection.state === "waiting") this.#connect();
  }

  /** Somebody looks at the page again: is the connection what it seems? A machine that slept does not know. */
  #look() {
    this.#now();
    if (this.connection.state !== "online" || Date.now() - this.#heardAt < SILENCE || !this.#token) return;
    this.#say({ type: "auth", token: this.#token });
    this.#expect();
  }

  /** Renews the token before it ends. @param {string} end */
  #renew(end) {
    const left = Date.parse(end) - Date.now();
    clearTimeout(this.#timers.refresh);
    // A timer holds 2^31 ms at most.
    const after = Math.min(Math.max(left - Math.min(AHEAD, left / 5), 1_000), 2 ** 31 - 1);
    this.#timers.refresh = setTimeout(async () => {
      const attempt = this.#attempt;
      const token = await this.#chat.token(this.#token, "refresh").catch(() => undefined);
      // Without one the server ends this connection, and we ask again.
      if (attempt !== this.#attempt || !token) return;
      this.#token = token;
      this.#say({ type: "auth", token });
    }, after);
  }

  /** @param {ClientFrame} frame @returns {boolean} whether it could be said */
  #say(frame) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  // What we hear.

  /** @param {ServerFrame} frame */
  #hear(frame) {
    this.#heardAt = Date.now();
    switch (frame.type) {
      case "ready":
        this.#ready(frame);
        break;
      case "accepted":
        this.#accepted(frame);
        break;
      case "message":
        this.#heard(this.#stored(frame.message));
        break;
      case "response":
        this.#response(frame);
        break;
      case "delta":
        this.#delta(frame);
        break;
      case "turn":
        this.#turn(frame.turn_id, frame.state, frame.code ?? undefined);
        break;
      case "tool":
        this.tool = frame.state === "running" ? frame.name : undefined;
        break;
      case "typing":
        this.#typed(frame.origin);
        break;
      case "status":
        this.status = frame.status;
        this.by = frame.by ?? undefined;
        break;
      case "conversation":
        this.title = frame.title;
        this.archived = frame.archived;
        break;
      case "read":
        this.readSeq = Math.max(this.readSeq, frame.seq);
        break;
      case "reset":
        this.#epoch = frame.epoch;
        this.#begin();
        break;
      case "reconnect":
        this.#delay = frame.delay_ms;
        break;
      case "error":
        this.#error(frame);
        break;
    }
    this.#change();
  }

  /** @param {import("./konstruct-chat.d.ts").ServerReady} frame */
  #ready(frame) {
    clearTimeout(this.#timers.dead);
    if (this.connection.state !== "online") this.#readyAt = Date.now();
    this.#refused = false;
    this.#stale = undefined;
    this.#epoch = frame.epoch;
    this.#lastSeq ??= frame.last_seq;
    this.status = frame.status;
    this.readSeq = Math.max(this.readSeq, frame.read_seq);
    this.#is({ state: "online" });
    this.#renew(frame.expires_at);
    if (!this.loaded) this.#load();
    if (this.#wanted > this.readSeq) this.#say({ type: "read", seq: this.#wanted });
    this.#pump();
  }

  /** @param {import("./konstruct-chat.d.ts").ServerAccepted} frame */
  #accepted(frame) {
    const entry = this.#unsent.find((entry) => entry.clientMessageId === frame.client_message_id);
    this.#lastSeq = Math.max(this.#lastSeq ?? 0, frame.seq);
    clearTimeout(this.#timers.dead);
    if (entry) {
      this.#unsent = this.#unsent.filter((other) => other !== entry);
      this.#forget(entry);
      // One that was accepted before is here already, or on a page that is not; or a reset took it.
      if (!frame.duplicate) {
        this.#place({ ...entry, state: "accepted", seq: frame.seq, id: frame.message_id, turnId: frame.turn_id });
      }
    }
    this.#inFlight = undefined;
    this.#pump();
  }

  /** @param {import("./konstruct-chat.d.ts").ServerResponse} frame */
  #response(frame) {
    if (frame.turn_id) this.#turn(frame.turn_id, "answered");
    this.#typed(undefined);
    this.#heard({
      key: frame.turn_id ? `reply:${frame.turn_id}` : frame.message_id,
      role: "assistant",
      text: frame.text,
      state: "whole",
      createdAt: frame.created_at,
      seq: frame.seq,
      id: frame.message_id,
      turnId: frame.turn_id ?? undefined,
      authorId: frame.author_id ?? undefined,
    });
  }

  /** @param {import("./konstruct-chat.d.ts").ServerDelta} frame */
  #delta({ turn_id, attempt, offset, text }) {
    let stream = this.#streams.get(turn_id);
    if (offset === 0) {
      const key = `reply:${turn_id}`;
      const createdAt = new Date().toISOString();
      stream = { key, role: "assistant", text: "", state: "streaming", createdAt, turnId: turn_id, attempt, length: 0 };
      this.#streams.set(turn_id, stream);
    }
    // What does not fit is made good by an offset of 0, or by the whole.
    if (!stream || stream.attempt !== attempt || stream.length !== offset) return;
    stream.text += text;
    for (const _ of text) stream.length += 1;
    this.tool = undefined;
  }

  /** @param {string} id @param {import("./konstruct-chat.d.ts").TurnState} state @param {string} [code] */
  #turn(id, state, code) {
    if (state === "queued" || state === "running") return;
    this.#streams.delete(id);
    this.tool = undefined;
    this.#typed(undefined);
    const entry = this.#kept.find((entry) => entry.turnId === id && entry.state !== "whole");
    if (!entry) return;
    // A reply that was stopped comes before its turn's end is told.
    entry.state = state;
    entry.stopping = false;
    if (code) entry.error ??= { code };
  }

  /** @param {import("./konstruct-chat.d.ts").ServerError} frame */
  #error(frame) {
    const { code, message, turn_id, client_message_id, retry_after_ms } = frame;
    const entry = client_message_id && this.#unsent.find((entry) => entry.clientMessageId === client_message_id);
    if (turn_id) {
      const turn = this.#kept.find((entry) => entry.turnId === turn_id && entry.state !== "whole");
      if (turn?.state === "failed") turn.error = { code, message };
      if (turn) turn.stopping = false;
    } else if (entry) {
      clearTimeout(this.#timers.dead);
      this.#inFlight = undefined;
      this.#typed(undefined);
      if (PASSING.includes(code)) {
        this.#resting = true;
        clearTimeout(this.#timers.pump);
        this.#timers.pump = setTimeout(() => {
          this.#resting = false;
          this.#pump();
        }, retry_after_ms ?? 1_000);
      } else {
        entry.state = "refused";
        entry.error = { code, message };
        this.#pump();
      }
    } else {
      this.#delay = retry_after_ms ?? this.#delay;
      this.dispatchEvent(new CustomEvent("trouble", { detail: frame }));
    }
  }

  /** @param {import("./konstruct-chat.d.ts").Origin | undefined} origin */
  #typed(origin) {
    clearTimeout(this.#timers.typing);
    this.typing = origin;
    if (!origin) return;
    this.#timers.typing = setTimeout(() => {
      this.typing = undefined;
      this.#change();
    }, TYPING);
  }

  // What was said.

  /** Something that somebody said, live or missed. @param {Entry & {seq: number}} entry */
  #heard(entry) {
    const known = this.#kept.some((other) => other.seq === entry.seq);
    this.#lastSeq = Math.max(this.#lastSeq ?? 0, entry.seq);
    // Ours, of which we did not hear that it was accepted: said again it is the same, until then it is shown once.
    const ours = this.#unsent.find((other) => other.tried && !other.found && other.role === entry.role && other.text === entry.text);
    if (ours && !known) ours.found = true;
    this.#place(entry);
    if (!known && !ours) this.dispatchEvent(new CustomEvent("arrived", { detail: entry }));
  }

  /** Puts it where its `seq` says, over what was known of it. @param {Entry & {seq: number}} entry */
  #place(entry) {
    let at = this.#kept.length;
    while (at > 0 && this.#kept[at - 1].seq > entry.seq) at -= 1;
    const known = this.#kept[at - 1]?.seq === entry.seq ? this.#kept[at - 1] : undefined;
    if (!known) {
      this.#kept.splice(at, 0, entry);
      return;
    }
    // An end that was heard of stands: a page may have been read before it.
    const state = known.state !== "accepted" && entry.state === "accepted" ? known.state : entry.state;
    Object.assign(known, { ...entry, key: known.key, state, error: entry.error ?? known.error });
  }

  /** @param {Message} message @returns {Entry & {seq: number}} */
  #stored(message) {
    const { turn } = message;
    const waits = turn?.state === "queued" || turn?.state === "running";
    return {
      key: message.role === "assistant" && message.reply_to && !message.author_id ? `reply:${message.reply_to}` : message.id,
      role: message.role,
      text: message.content,
      state: !turn ? "whole" : waits ? "accepted" : /** @type {State} */ (turn.state),
      createdAt: message.created_at,
      seq: message.seq,
      id: message.id,
      turnId: turn?.id ?? message.reply_to ?? undefined,
      authorId: message.author_id,
      feedback: message.feedback,
      error: turn?.code ? { code: turn.code } : undefined,
    };
  }

  /** The conversation begins anew. */
  #begin() {
    this.#history += 1;
    this.#kept = [];
    this.#streams.clear();
    this.#typed(undefined);
    this.tool = undefined;
    this.loaded = false;
    this.hasOlder = false;
    this.#lastSeq = 0;
    this.#wanted = 0;
    this.#loading = false;
    this.#load();
  }

  /** Gets the newest page, at last. */
  async #load() {
    if (this.#loading) return;
    this.#loading = true;
    const history = this.#history;
    for (let tries = 0; !this.loaded && history === this.#history && !this.#stop.signal.aborted; tries += 1) {
      try {
        await this.#page({ limit: PAGE });
        this.loaded = history === this.#history;
      } catch {
        await new Promise((after) => (this.#timers.load = setTimeout(after, backOff(tries))));
      }
    }
    if (history === this.#history) this.#loading = false;
    this.#change();
  }

  /** @param {{before?: number, limit: number}} query */
  async #page(query) {
    const history = this.#history;
    const { data, next } = await this.#chat.request("GET", `/conversations/${this.id}/messages`, { query });
    // A reset came in between.
    if (history !== this.#history) return;
    data.forEach((/** @type {Message} */ message) => this.#place(this.#stored(message)));
    this.#lastSeq = Math.max(this.#lastSeq ?? 0, this.lastSeq);
    this.hasOlder = next !== undefined;
    this.#change();
  }

  // What is not sent yet.

  /** The caller answers in the agent's stead. */
  get #inStead() {
    return !this.#own && this.status === "escalated";
  }

  /** @param {string} id @param {string} text @param {string} createdAt @returns {Entry & {tried?: boolean}} */
  #draft(id, text, createdAt) {
    const authorId = this.#own ? undefined : this.#user;
    return { key: id, role: this.#inStead ? "assistant" : "user", text, state: "sending", createdAt, clientMessageId: id, authorId };
  }

  /** Sends the first that waits. One at a time: so they keep their order, whatever is refused for a while. */
  #pump() {
    if (this.connection.state !== "online" || this.#inFlight || this.#resting) return;
    const entry = this.#unsent.find((entry) => entry.state === "sending");
    this.#inFlight = entry;
    if (!entry?.clientMessageId) return;
    entry.tried = true;
    this.#say({ type: "message", text: entry.text, client_message_id: entry.clientMessageId });
    this.#expect();
  }

  /** @param {string | undefined} id */
  #name(id) {
    return `konstruct-chat:unsent:${this.#user}:${this.id}:${id}`;
  }

  /** @param {Entry} entry */
  #save({ clientMessageId, text, createdAt }) {
    try {
      this.#chat.keep?.setItem(this.#name(clientMessageId), JSON.stringify({ text, createdAt }));
    } catch {
      // It is full, or not ours: then it is sent if the page stays.
    }
  }

  /** @param {Entry} entry */
  #forget({ clientMessageId }) {
    this.#chat.keep?.removeItem(this.#name(clientMessageId));
  }

  #restore() {
    const keep = this.#chat.keep;
    const prefix = this.#name("");
    const names = keep ? Array.from({ length: keep.length }, (_, at) => keep.key(at)) : [];
    for (const name of names) {
      if (!name?.startsWith(prefix)) continue;
      const { text, createdAt } = JSON.parse(/** @type {string} */ (keep?.getItem(name)));
      const entry = { ...this.#draft(name.slice(prefix.length), text, createdAt), tried: true };
      // What was written long ago waits for a word.
      if (Date.now() - Date.parse(createdAt) > STALE) Object.assign(entry, { state: "refused", error: { code: "unsent" } });
      this.#unsent.push(entry);
    }
    this.#unsent.sort((one, other) => (one.createdAt < other.createdAt ? -1 : 1));
  }

  // Telling.

  /** @param {Connection} connection */
  #is(connection) {
    this.connection = connection;
    this.#change();
  }

  #change() {
    if (this.#changed) return;
    this.#changed = true;
    queueMicrotask(() => {
      this.#changed = false;
      this.dispatchEvent(new Event("change"));
    });
  }
}

/** How long to wait after so many failures: at random, so that those who lost the same hub do not come back at once. @param {number} tries */
function backOff(tries) {
  const most = Math.min(MOST_WAIT, LEAST_WAIT * 2 ** (tries + 1));
  return LEAST_WAIT + Math.random() * (most - LEAST_WAIT);
}

/** Where unsent messages wait; a browser may refuse. */
function storage() {
  try {
    return localStorage;
  } catch {
    return null;
  }
}
