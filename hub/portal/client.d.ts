/** An error that REST answered (RFC 9457), or `unavailable` where nothing answered. */
export class Problem extends Error {
    /** @param {Response} answer */
    static of(answer: Response): Promise<Problem>;
    /**
     * @param {number} status The HTTP status; 0 where there was no answer.
     * @param {Partial<import("./konstruct-chat.d.ts").Problem>} body What it says.
     * @param {number} [retryAfterMs] When to try again.
     */
    constructor(status: number, body: Partial<import("./konstruct-chat.d.ts").Problem>, retryAfterMs?: number);
    status: number;
    /** @type {string} */
    code: string;
    requestId: string | undefined;
    errors: import("./konstruct-chat.d.ts").FieldError[];
    retryAfterMs: number | undefined;
}
/** One person's chat: REST, and the conversations' sockets. */
export class Chat {
    /** @param {Settings} settings */
    constructor(settings: Settings);
    hub: string;
    rest: string;
    keep: Storage | null;
    /**
     * The token to use: another one than `stale`, if that is given. Asks the host at most once at a time.
     * @param {string} [stale]
     * @param {TokenReason} [reason]
     * @returns {Promise<string>}
     */
    token(stale?: string, reason?: TokenReason): Promise<string>;
    /**
     * Asks REST, with a token, and once more with a fresh one if that was refused.
     * @param {string} method
     * @param {string} path Below `/api/portal/chat`, or an `next` of an earlier answer.
     * @param {{query?: Record<string, string | number | boolean | null | undefined>, body?: object, headers?: Record<string, string>}} [request]
     * @returns {Promise<{data: any, next: string | undefined}>} The body, and where the next page is.
     * @throws {Problem}
     */
    request(method: string, path: string, { query, body, headers }?: {
        query?: Record<string, string | number | boolean | null | undefined>;
        body?: object;
        headers?: Record<string, string>;
    }): Promise<{
        data: any;
        next: string | undefined;
    }>;
    /** Who we are. @returns {Promise<import("./konstruct-chat.d.ts").Me>} */
    me(): Promise<import("./konstruct-chat.d.ts").Me>;
    /** Everybody one may talk to. @param {string} tenant @returns {Promise<Array<import("./konstruct-chat.d.ts").AgentCard>>} */
    agents(tenant: string): Promise<Array<import("./konstruct-chat.d.ts").AgentCard>>;
    /**
     * A page of conversations, newest first.
     * @param {{tenant_id?: string, status?: "escalated", archived?: boolean, limit?: number}} query
     * @returns {Promise<{data: Array<Summary>, next: string | undefined}>}
     */
    conversations(query: {
        tenant_id?: string;
        status?: "escalated";
        archived?: boolean;
        limit?: number;
    }): Promise<{
        data: Array<Summary>;
        next: string | undefined;
    }>;
    /** One conversation. @param {string} id @returns {Promise<Summary>} */
    read(id: string): Promise<Summary>;
    /** The conversation with an agent, new or not. @param {string} tenant @param {string} agent @returns {Promise<Summary>} */
    start(tenant: string, agent: string): Promise<Summary>;
    /** Begins anew: what was said is gone. @param {string} id */
    reset(id: string): Promise<void>;
    /** Names it, or puts it away. @param {string} id @param {import("./konstruct-chat.d.ts").Patch} change @returns {Promise<Summary>} */
    change(id: string, change: import("./konstruct-chat.d.ts").Patch): Promise<Summary>;
    /** Answers in it from now on. @param {string} id @returns {Promise<Summary>} */
    takeOver(id: string): Promise<Summary>;
    /** Lets the agent answer again. @param {string} id @returns {Promise<Summary>} */
    handBack(id: string): Promise<Summary>;
    /**
     * Says what a reply was worth, or takes that back.
     * @param {string} id
     * @param {string} message
     * @param {{rating: "up" | "down", comment?: string} | null} opinion
     * @returns {Promise<import("./konstruct-chat.d.ts").Feedback | undefined>}
     */
    rate(id: string, message: string, opinion: {
        rating: "up" | "down";
        comment?: string;
    } | null): Promise<import("./konstruct-chat.d.ts").Feedback | undefined>;
    /**
     * Looks for words in one's own conversations.
     * @param {{tenant_id: string, q: string, conversation_id?: string, limit?: number}} query
     * @returns {Promise<{data: Array<import("./konstruct-chat.d.ts").Hit>, next: string | undefined}>}
     */
    search(query: {
        tenant_id: string;
        q: string;
        conversation_id?: string;
        limit?: number;
    }): Promise<{
        data: Array<import("./konstruct-chat.d.ts").Hit>;
        next: string | undefined;
    }>;
    /** All that was said, as Markdown. @param {string} id @returns {Promise<string>} */
    export(id: string): Promise<string>;
    /**
     * A conversation, not connected yet.
     * @param {string} id
     * @param {Place} [place]
     */
    conversation(id: string, place?: Place): Conversation;
    #private;
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
    /**
     * @param {Chat} chat
     * @param {string} id
     * @param {Place} [place]
     */
    constructor(chat: Chat, id: string, { own, user }?: Place);
    /** @type {Connection} */
    connection: Connection;
    /** Who answers. @type {import("./konstruct-chat.d.ts").Status} */
    status: import("./konstruct-chat.d.ts").Status;
    /** The person who took it over or handed it back last, if that was said. @type {string | undefined} */
    by: string | undefined;
    /** Changed while we were here. @type {string | null | undefined} */
    title: string | null | undefined;
    /** @type {boolean | undefined} */
    archived: boolean | undefined;
    /** Who is typing. @type {import("./konstruct-chat.d.ts").Origin | undefined} */
    typing: import("./konstruct-chat.d.ts").Origin | undefined;
    /** What the agent is using. @type {string | undefined} */
    tool: string | undefined;
    /** Up to where the owner has read. */
    readSeq: number;
    /** The newest page is here. */
    loaded: boolean;
    /** There is more before the first message. */
    hasOlder: boolean;
    id: string;
    /** It is the caller's own. */
    get own(): boolean;
    /** Everything in order: what the server has, then what is being written, then what is not sent yet. @type {Array<Entry>} */
    get messages(): Array<Entry>;
    /** The newest `seq` that was seen; 0 if there is none. */
    get lastSeq(): number;
    /** The oldest message whose turn has not ended. @type {Entry | undefined} */
    get openTurn(): Entry | undefined;
    /** The answer is being made: somebody shall see that. */
    get busy(): boolean;
    /** Connects, and stays connected until {@link close}. */
    open(): this;
    /** Leaves for good. What is unsent waits for the next time. */
    close(): void;
    /** Says something. @param {string} text @returns {Entry} */
    send(text: string): Entry;
    /** Says again, as a new message, what failed or was refused. @param {Entry} entry @returns {Entry} */
    again(entry: Entry): Entry;
    /** Forgets what was refused. What the server has stays. @param {Entry} entry */
    dismiss(entry: Entry): void;
    /** Ends the reply that is being made; what is written stays. */
    stop(): void;
    /** The owner has read up to here. @param {number} seq */
    read(seq: number): void;
    /** Gets a page of what was said before the first message. */
    older(): Promise<void>;
    /** Gets what was said down to this place, however much that is. @param {number} seq */
    upTo(seq: number): Promise<void>;
    /** Puts what REST answered to a rating where it belongs. @param {Entry} entry @param {"up" | "down" | null} rating @param {string} [comment] */
    rate(entry: Entry, rating: "up" | "down" | null, comment?: string): Promise<void>;
    #private;
}
/**
 * what goes over the wire
 */
export type Wire = typeof import("./konstruct-chat.d.ts");
/**
 * a conversation as a list shows it
 */
export type Summary = import("./konstruct-chat.d.ts").Conversation;
export type Message = import("./konstruct-chat.d.ts").Message;
export type ServerFrame = import("./konstruct-chat.d.ts").ServerFrame;
export type ClientFrame = import("./konstruct-chat.d.ts").ClientFrame;
/**
 * Why a token is asked for: for the first time, because the one in use is about to end, or because it was refused.
 */
export type TokenReason = "start" | "refresh" | "refused";
export type Settings = {
    /**
     * Where the hub is, as `https://hub.example`; the page's own origin if absent.
     */
    hub?: string | undefined;
    /**
     * Where REST is; the hub's origin if absent.
     */
    rest?: string | undefined;
    /**
     * Gets a signed token. It is kept in memory alone.
     */
    token: (reason: TokenReason) => Promise<string>;
    /**
     * Where messages wait that could not be sent yet; `localStorage` if absent, nowhere if `null`.
     */
    keep?: Storage | null | undefined;
};
/**
 * What became of a message. Of one's own: `sending` until the server has it, `accepted` until its turn ends as `answered`,
 * `failed`, `stopped` or `escalated` (a person answers); or `refused`: the server does not take it. Of replies: `streaming`, then `whole`.
 */
export type State = "sending" | "accepted" | "answered" | "failed" | "stopped" | "escalated" | "refused" | "streaming" | "whole";
/**
 * One message of the list.
 */
export type Entry = {
    /**
     * Its own, for as long as it is shown.
     */
    key: string;
    /**
     * On whose side it stands.
     */
    role: "user" | "assistant";
    /**
     * What it says.
     */
    text: string;
    /**
     * What became of it.
     */
    state: State;
    /**
     * When it was stored, or written here (RFC 3339).
     */
    createdAt: string;
    /**
     * Its place; absent until the server has it.
     */
    seq?: number | undefined;
    /**
     * The server's id of it.
     */
    id?: string | undefined;
    /**
     * Our id of it, if it was sent here.
     */
    clientMessageId?: string | undefined;
    /**
     * The turn that answers it, or that it ends.
     */
    turnId?: string | undefined;
    /**
     * The person who wrote it, where that is not the one the role suggests.
     */
    authorId?: string | undefined;
    /**
     * What the conversation's owner thinks of it.
     */
    feedback?: import("./konstruct-chat.d.ts").Feedback | undefined;
    /**
     * Why it failed or was refused.
     */
    error?: {
        code: string;
        message?: string;
    } | undefined;
    /**
     * Its turn was asked to end.
     */
    stopping?: boolean | undefined;
};
/**
 * How we are connected. `waiting` knows until when (milliseconds, as `Date.now()`); `closed` is for good, and knows why.
 */
export type Connection = {
    state: "idle";
} | {
    state: "connecting";
} | {
    state: "online";
} | {
    state: "waiting";
    until: number;
} | {
    state: "closed";
    code: number;
    reason: string;
};
/**
 * Whose conversation it is.
 */
export type Place = {
    /**
     * It is the caller's own, as almost always.
     */
    own?: boolean | undefined;
    /**
     * The caller's id; keeps what two people of one browser have not sent yet apart.
     */
    user?: string | undefined;
};
