// What goes over the wire of the Konstruct web chat, for clients in TypeScript.
// Made by `cargo describe` of docs/openapi.json and docs/asyncapi.json; not to be edited by hand.

/** An AI employee, to whoever may talk to it. */
export interface AgentCard {
  /** The caller's conversation with it; `null` while there is none. */
  conversation_id: ConversationId | null;
  /** Its id. */
  id: AgentId;
  /** What it is called. */
  name: string;
  /** The company. */
  tenant_id: TenantId;
}

/** An AI employee. */
export type AgentId = string;

/** Who speaks. */
export type Author = "user" | "assistant";

/** Who the client says it is, and where it was. */
export interface ClientAuth {
  /** The epoch that `last_seq` belongs to; the current one if absent. */
  epoch?: number | null;
  /** The newest `seq` this client has seen; what came after is sent first. */
  last_seq?: number | null;
  /** As in the original; compared, never believed. */
  role?: string | null;
  /** As in the original; compared, never believed. */
  tenantId?: string | null;
  /** The signed token; the only field that is believed. Without it nobody comes in. */
  token?: string | null;
  type: "auth";
  /** As in the original; compared, never believed. */
  userId?: string | null;
}

/** A message for the agent. */
export interface ClientMessage {
  /** The client's own id of it. */
  client_message_id?: ClientMessageId | null;
  /** What it says. */
  text: string;
  type: "message";
}

/** The client's own id of a message: the same one again is the same message. */
export type ClientMessageId = string;

/** How far the conversation's owner has read. */
export interface ClientRead {
  /** Up to this `seq`. The newest mark counts; it never goes back. */
  seq: number;
  type: "read";
}

/** Which turn shall end. */
export interface ClientStop {
  /** This one. */
  turn_id: TurnId;
  type: "stop";
}

/** The closed list of error codes, in REST problems, socket `error` frames and failed turns. */
export type Code = "unauthenticated" | "token_expired" | "forbidden" | "not_found" | "invalid" | "method_not_allowed" | "unsupported_media_type" | "payload_too_large" | "bad_frame" | "unknown_frame" | "text_too_long" | "text_refused" | "idempotency_mismatch" | "busy" | "rate_limited" | "over_budget" | "too_many_sockets" | "unavailable" | "internal" | "model_failed" | "model_unavailable" | "model_refused" | "prompt_too_long" | "model_key_refused" | "attempts_exhausted" | "deadline_exceeded" | "delivery_failed" | "delivery_unknown";

/** The one thread of a person with an agent. */
export interface Conversation {
  /** The AI employee. */
  agent_id: AgentId;
  /** The AI employee's name. */
  agent_name: string;
  /** When its owner put it away; `null` while it is in sight. */
  archived_at: Timestamp | null;
  /** When it was opened. */
  created_at: Timestamp;
  /** Counts the resets. */
  epoch: number;
  /** Why a person answers, and who; absent while the agent does. */
  escalation?: Escalation;
  /** Its id. */
  id: ConversationId;
  /** The beginning of its newest message; `null` while there is none. */
  last_message_preview: string | null;
  /** The `seq` of its newest message ever; 0 while there was none. */
  last_seq: number;
  /** Up to which `seq` its owner has read. */
  read_seq: number;
  /** Who answers. */
  status: Status;
  /** The company. */
  tenant_id: TenantId;
  /** What it is about, in its owner's words or its agent's; `null` while nobody has said so. */
  title: string | null;
  /** Replies that its owner has not read, counted up to 100; absent in somebody else's conversation. */
  unread?: number;
  /** When something last happened in it. */
  updated_at: Timestamp;
}

/** The one thread of (tenant, agent, user) on the web channel. */
export type ConversationId = string;

/** Why a person answers in a conversation, and who. */
export interface Escalation {
  /** The person who took it away from the agent; absent where a rule did. */
  by?: UserId;
  /** What the matched rule says; empty if nobody said why. */
  reason: string;
  /** Since when. */
  since: Timestamp;
  /** The person who answers; absent while it waits for one. */
  taken_by?: UserId;
  /** The last of what was said, oldest first; in the list with `status=escalated` alone. */
  transcript?: Array<Line>;
  /** Whose conversation it is. */
  user_id: UserId;
  /** What they are called; `null` for somebody who is no member of the company (any more). */
  user_name: string | null;
}

/** Why a stream of events ends. */
export interface EventClose {
  /** One of the channel `conversation`'s `x-close-codes`. */
  code: number;
  /** The same in words. */
  reason: string;
}

/** A conversation, or a part of it. */
export interface Export {
  /** What it is. */
  conversation: Conversation;
  /** What was said, in the order in which it was. */
  messages: Array<Message>;
}

/** What somebody thinks of a reply. */
export interface Feedback {
  /** Why, in their words; `null` if they did not say. */
  comment: string | null;
  /** When they said so. */
  rated_at: Timestamp;
  /** Whether it was of use. */
  rating: Rating;
}

/** One field of a request that was refused, and why. */
export interface FieldError {
  /** Where it stands: a field path (`text`), a query parameter, a header or a path segment. */
  field: string;
  /** What is wrong with it, for the person who wrote the client. */
  message: string;
}

/** A message in which words were found. */
export interface Hit {
  /** The AI employee. */
  agent_id: AgentId;
  /** What that is called. */
  agent_name: string;
  /** The conversation. */
  conversation_id: ConversationId;
  /** When it was stored. */
  created_at: Timestamp;
  /** The message. */
  message_id: MessageId;
  /** Who spoke. */
  role: Author;
  /** Its place in the conversation. */
  seq: number;
  /** The words with some around them, in their order; to be shown as text. */
  snippet: Array<Piece>;
  /** What the conversation is about; `null` while nobody has said so. */
  title: string | null;
}

/** One line of a transcript. A transcript has at most 30 lines and 3,000 characters; the oldest line's end is cut where it does not fit. */
export interface Line {
  /** The person who wrote it, where that is not the one the role suggests. */
  author_id?: UserId;
  /** What it says. */
  content: string;
  /** When it was stored. */
  created_at: Timestamp;
  /** Who speaks. */
  role: Author;
  /** Its place in the conversation. */
  seq: number;
}

/** How far somebody has read. */
export interface Mark {
  /** Up to this `seq`. */
  seq: number;
}

/** How far a conversation was read. */
export interface Marked {
  /** Up to this `seq`. */
  read_seq: number;
  /** Replies behind it, counted up to 100. */
  unread: number;
}

/** The caller, as the database knows them now. */
export interface Me {
  /** What they are called. */
  display_name: string;
  /** Their id. */
  id: UserId;
  /** What they are. */
  role: Role;
  /** Where they belong, by name. A platform_admin may act in every other company, too. */
  tenants: Array<Membership>;
}

/** A company that somebody belongs to. */
export interface Membership {
  /** The company. */
  id: TenantId;
  /** What it is called. */
  name: string;
  /** What they may do there: the lesser of what they are and what the company knows them as. */
  role: Role;
}

/** One entry of a conversation, as REST and the socket show it. */
export interface Message {
  /** The person who wrote it, where that is not the one the role suggests. */
  author_id?: UserId;
  /** What it says. */
  content: string;
  /** When it was stored. */
  created_at: Timestamp;
  /** What the conversation's owner thinks of it; on replies that they have rated. */
  feedback?: Feedback;
  /** Its id. */
  id: MessageId;
  /** The message it answers. */
  reply_to: MessageId | null;
  /** Who speaks. */
  role: Author;
  /** Its place: 1, 2, 3 … without gaps, never restarted. */
  seq: number;
  /** What became of it; on user messages. */
  turn?: Turn;
}

/** One entry of a conversation. */
export type MessageId = string;

/** The body that opens a conversation. */
export interface Open {
  /** One of its AI employees. */
  agent_id: AgentId;
  /** The company. */
  tenant_id: TenantId;
}

/** What somebody thinks of a reply. */
export interface Opinion {
  /** Why. */
  comment?: string | null;
  /** Whether it was of use. */
  rating: Rating;
}

/** Who is typing. */
export type Origin = "agent" | "user";

/** What to change of a conversation; what is absent stays. */
export interface Patch {
  /** Whether it is put away. */
  archived?: boolean;
  /** What it is called; `null` takes the title away, and the agent's model may give it another. */
  title?: string | null;
}

/** A piece of a snippet. */
export interface Piece {
  /** It is one of the words that were looked for. */
  hit: boolean;
  /** What it says. */
  text: string;
}

/** An error (RFC 9457). */
export interface Problem {
  /** One of the closed list. */
  code: Code;
  /** A sentence for the user. */
  detail: string;
  /** Each field that was refused; absent where it is about none. */
  errors?: Array<FieldError>;
  /** This request, as in `x-request-id`; an operator finds it in the log by that. */
  request_id: RequestId;
  /** The HTTP status. */
  status: number;
  /** The status in words. */
  title: string;
  /** The kind of problem: `urn:konstruct:chat:` and the code. */
  type: string;
}

/** Whether a reply was of use. */
export type Rating = "up" | "down";

/** One request at an edge, for the log and the error body. */
export type RequestId = string;

/** What a portal user is, least first. */
export type Role = "customer_operator" | "customer_admin" | "platform_admin";

/** The body of a message. */
export interface Send {
  /** What it says. */
  text: string;
}

/** What a sender learns. */
export interface Sent {
  /** The id it got. */
  message_id: MessageId;
  /** Its place in the conversation. */
  seq: number;
  /** The turn that will answer it. */
  turn_id: TurnId;
}

/** The client's message is stored; from here it cannot be lost. */
export interface ServerAccepted {
  /** The client's own id, if it gave one. */
  client_message_id: ClientMessageId | null;
  /** The same message was accepted before; this is its answer again. */
  duplicate: boolean;
  /** The id it got. */
  message_id: MessageId;
  /** Its place in the conversation. */
  seq: number;
  /** The turn that will answer it. */
  turn_id: TurnId;
  type: "accepted";
}

/** What the conversation is called has changed, or whether its owner wants to see it. */
export interface ServerConversation {
  /** Whether its owner has put it away. */
  archived: boolean;
  /** The conversation. */
  conversation_id: ConversationId;
  /** What it is about; `null` while nobody has said so. */
  title: string | null;
  type: "conversation";
}

/** A piece of a running reply. */
export interface ServerDelta {
  /** Which claim of the turn writes it; a later one begins again. */
  attempt: number;
  /** Where it starts, in Unicode code points; 0 replaces what was there. */
  offset: number;
  /** What it adds. */
  text: string;
  /** The turn that it will end. */
  turn_id: TurnId;
  type: "delta";
}

/** A failed turn, a bad frame, a limit. */
export interface ServerError {
  /** The message that was refused. */
  client_message_id?: ClientMessageId;
  /** One of the closed list. */
  code: Code;
  /** A sentence for the user. */
  message: string;
  /** When to try again, in milliseconds. */
  retry_after_ms?: number;
  /** The turn that failed. */
  turn_id?: TurnId;
  type: "error";
}

/** A message of this conversation that came another way. */
export interface ServerMessage {
  /** The message, as in REST. */
  message: Message;
  type: "message";
}

/** The conversation's owner has read on, here or elsewhere. */
export interface ServerRead {
  /** The conversation. */
  conversation_id: ConversationId;
  /** Up to which `seq`. */
  seq: number;
  type: "read";
}

/** Authenticated, and everything missed was sent. */
export interface ServerReady {
  /** The conversation of this socket. */
  conversation_id: ConversationId;
  /** The current epoch. */
  epoch: number;
  /** When the token ends; a fresh one in another `auth` frame moves it. */
  expires_at: Timestamp;
  /** The newest `seq` of the conversation. */
  last_seq: number;
  /** Up to which `seq` the conversation's owner has read. */
  read_seq: number;
  /** The client's `last_seq` was ours, and what came after it was sent. */
  resumed: boolean;
  /** Who answers. */
  status: Status;
  type: "ready";
}

/** This hub is going away. */
export interface ServerReconnect {
  /** Come back after this many milliseconds. */
  delay_ms: number;
  type: "reconnect";
}

/** The conversation was reset, or the client's position is not ours: drop what you show and read again. */
export interface ServerReset {
  /** The epoch that holds now. */
  epoch: number;
  type: "reset";
}

/** A whole reply, after it was stored. */
export interface ServerResponse {
  /** The person who answered in the agent's stead. */
  author_id?: UserId;
  /** The conversation. */
  conversation_id: ConversationId;
  /** When it was stored. */
  created_at: Timestamp;
  /** The reply's id. */
  message_id: MessageId;
  /** Its place in the conversation. */
  seq: number;
  /** What it says. */
  text: string;
  /** The turn it ends; absent on a person's answer. */
  turn_id?: TurnId;
  type: "response";
}

/** The conversation was handed to a person or back. */
export interface ServerStatus {
  /** Who handed it over. */
  by?: UserId;
  /** Who answers now. */
  status: Status;
  type: "status";
}

/** The agent uses a tool. */
export interface ServerTool {
  /** The tool. */
  name: string;
  /** How far it is. */
  state: ToolState;
  /** The turn it works on. */
  turn_id: TurnId;
  type: "tool";
}

/** What became of a turn, unless a `response` says it. */
export interface ServerTurn {
  /** Why it failed. */
  code?: Code;
  /** The reply, where there is one. */
  message_id?: MessageId;
  /** Its state. */
  state: TurnState;
  /** Which. */
  turn_id: TurnId;
  type: "turn";
}

/** Somebody is writing. */
export interface ServerTyping {
  /** The conversation. */
  conversation_id: ConversationId;
  /** Who. */
  origin: Origin;
  type: "typing";
}

/** Who answers in a conversation. */
export type Status = "agent" | "escalated";

/** Where a turn is that somebody wanted to end. */
export interface Stopping {
  /** Why it failed, if it had ended that way. */
  code?: Code;
  /** The reply, where there is one. */
  message_id?: MessageId;
  /** Its state: `running` while its worker has yet to notice. */
  state: TurnState;
  /** Which. */
  turn_id: TurnId;
}

/** One customer company. */
export type TenantId = string;

/** A moment in UTC. Written with milliseconds (`2026-11-22T14:51:40.123Z`); read with any RFC 3339 offset, and of what is finer no more than is written. */
export type Timestamp = string;

/** How far a tool is that the agent uses. */
export type ToolState = "running" | "done" | "failed";

/** What became of a message. */
export interface Turn {
  /** Why it failed. */
  code?: Code;
  /** The turn's id. */
  id: TurnId;
  /** Where it is. */
  state: TurnState;
}

/** One user message and what becomes of it; on the web equal to that message's [`MessageId`]. */
export type TurnId = string;

/** Where a turn is. */
export type TurnState = "queued" | "running" | "answered" | "failed" | "stopped" | "escalated";

/** What one agent took of one model on one day. */
export interface Usage {
  /** The agent. */
  agent_id: AgentId;
  /** What it is called; `null` for one that is gone. */
  agent_name: string | null;
  /** Times it was asked, those that failed among them. */
  calls: number;
  /** The day, UTC: `2026-11-26`. */
  day: string;
  /** Tokens read, as the provider reported them. */
  input_tokens: number;
  /** The model, as agents name it. */
  model: string;
  /** Tokens written, as the provider reported them. */
  output_tokens: number;
  /** Tokens of calls that nobody reported (yet): an estimate, which counts as spent. */
  reserved_tokens: number;
  /** Turns for which it was asked, of the web and other channels. */
  turns: number;
}

/** One portal user. */
export type UserId = string;

/** What the server sends. `type` tells which. */
export type ServerFrame =
  | ServerAccepted
  | ServerConversation
  | ServerDelta
  | ServerError
  | ServerMessage
  | ServerRead
  | ServerReady
  | ServerReconnect
  | ServerReset
  | ServerResponse
  | ServerStatus
  | ServerTool
  | ServerTurn
  | ServerTyping;

/** What a client sends. `type` tells which. */
export type ClientFrame =
  | ClientAuth
  | ClientMessage
  | ClientRead
  | ClientStop;

/** Every operation of REST, by its `operationId`: where it is, what it takes, and what it answers. */
export interface Operations {
  /** The company's AI employees that one may talk to, by name. */
  list_agents: {
    method: "GET";
    path: "/agents";
    query: {
      /** The company. */
      "tenant_id": TenantId;
      /** Entries of the page; 50 if absent. */
      "limit"?: number;
      /** A place that a `Link` header named. */
      "after"?: string;
    };
    answer: Array<AgentCard>;
  };
  /** One's own conversations, newest change first. */
  list_conversations: {
    method: "GET";
    path: "/conversations";
    query: {
      /** The company. A platform_admin may leave it out and gets those of all. */
      "tenant_id"?: TenantId;
      /** Entries of the page; 50 if absent. */
      "limit"?: number;
      /** A place that a `Link` header named. */
      "before"?: string;
      /** Only what waits for a person, or has one. */
      "status"?: "escalated";
      /** Only those that their owners have put away, or only the others; if absent, all but what one has put away oneself. */
      "archived"?: boolean;
    };
    answer: Array<Conversation>;
  };
  /** Opens the conversation with an agent; 201 if it is new, or 200 with the one that stands. */
  open_conversation: {
    method: "POST";
    path: "/conversations";
    body: Open;
    answer: Conversation;
  };
  /** Begins anew: the messages go, the row stays. */
  reset_conversation: {
    method: "DELETE";
    path: "/conversations/{conversation_id}";
    params: {
      /** The conversation. */
      "conversation_id": ConversationId;
    };
    answer: undefined;
  };
  /** One conversation. */
  read_conversation: {
    method: "GET";
    path: "/conversations/{conversation_id}";
    params: {
      /** The conversation. */
      "conversation_id": ConversationId;
    };
    answer: Conversation;
  };
  /** Changes what it is called, and whether it is put away. */
  change_conversation: {
    method: "PATCH";
    path: "/conversations/{conversation_id}";
    params: {
      /** The conversation. */
      "conversation_id": ConversationId;
    };
    body: Patch;
    answer: Conversation;
  };
  /** All that was said, as a file. */
  export_conversation: {
    method: "GET";
    path: "/conversations/{conversation_id}/export";
    params: {
      /** The conversation. */
      "conversation_id": ConversationId;
    };
    query: {
      /** As what; JSON if absent. */
      "format"?: "json" | "markdown";
      /** Only what was said after this `seq`. */
      "after"?: number;
    };
    answer: Export | string;
  };
  /** The agent answers again. */
  hand_back_conversation: {
    method: "POST";
    path: "/conversations/{conversation_id}/handback";
    params: {
      /** The conversation. */
      "conversation_id": ConversationId;
    };
    answer: Conversation;
  };
  /** A page of what was said, ascending; the newest page, or the one before or after a message. */
  list_messages: {
    method: "GET";
    path: "/conversations/{conversation_id}/messages";
    params: {
      /** The conversation. */
      "conversation_id": ConversationId;
    };
    query: {
      /** Entries of the page; 50 if absent. */
      "limit"?: number;
      /** A message's id, or a `seq`: only what is before it. */
      "before"?: string;
      /** A message's id, or a `seq`: only what is after it. */
      "after"?: string;
    };
    answer: Array<Message>;
  };
  /** Says something; 202 once it is stored and cannot be lost. */
  send_message: {
    method: "POST";
    path: "/conversations/{conversation_id}/messages";
    params: {
      /** The conversation. */
      "conversation_id": ConversationId;
    };
    headers: {
      /** An id of your own; the same one again is the same message. */
      "Idempotency-Key": ClientMessageId;
    };
    body: Send;
    answer: Sent;
  };
  /** Takes it back. */
  unrate_reply: {
    method: "DELETE";
    path: "/conversations/{conversation_id}/messages/{message_id}/feedback";
    params: {
      /** The conversation. */
      "conversation_id": ConversationId;
      /** The message. */
      "message_id": MessageId;
    };
    answer: undefined;
  };
  /** Keeps a thumb up or down for a reply, with a comment, instead of what was there. */
  rate_reply: {
    method: "PUT";
    path: "/conversations/{conversation_id}/messages/{message_id}/feedback";
    params: {
      /** The conversation. */
      "conversation_id": ConversationId;
      /** The message. */
      "message_id": MessageId;
    };
    body: Opinion;
    answer: Feedback;
  };
  /** Marks it as read up to a place. */
  mark_conversation_read: {
    method: "PUT";
    path: "/conversations/{conversation_id}/read";
    params: {
      /** The conversation. */
      "conversation_id": ConversationId;
    };
    body: Mark;
    answer: Marked;
  };
  /** The caller answers in it from now on, whoever did before. */
  take_over_conversation: {
    method: "POST";
    path: "/conversations/{conversation_id}/takeover";
    params: {
      /** The conversation. */
      "conversation_id": ConversationId;
    };
    answer: Conversation;
  };
  /** Ends a turn if it is still open. */
  stop_turn: {
    method: "POST";
    path: "/conversations/{conversation_id}/turns/{turn_id}/stop";
    params: {
      /** The conversation. */
      "conversation_id": ConversationId;
      /** The turn. */
      "turn_id": TurnId;
    };
    answer: Stopping;
  };
  /** The process is up. */
  healthz: {
    method: "GET";
    path: "/healthz";
    answer: string;
  };
  /** Who the caller is, as the database knows them now. */
  read_me: {
    method: "GET";
    path: "/me";
    answer: Me;
  };
  /** This interface, as an OpenAPI 3.1 document. */
  openapi: {
    method: "GET";
    path: "/openapi.json";
    answer: Record<string, unknown>;
  };
  /** What we depend on can be reached. */
  readyz: {
    method: "GET";
    path: "/readyz";
    answer: string;
  };
  /** Messages of one's own conversations in which words stand, newest first, with some of what stands around them. */
  search_messages: {
    method: "GET";
    path: "/search";
    query: {
      /** The company. */
      "tenant_id": TenantId;
      /** Words to look for. */
      "q": string;
      /** In this conversation alone. */
      "conversation_id"?: ConversationId;
      /** Entries of the page; 50 if absent. */
      "limit"?: number;
      /** A place that a `Link` header named. */
      "before"?: string;
    };
    answer: Array<Hit>;
  };
  /** What the company's agents took, by day, agent and model, for its admins. */
  read_usage: {
    method: "GET";
    path: "/usage";
    query: {
      /** The company. */
      "tenant_id": TenantId;
      /** The first day, UTC. */
      "from": string;
      /** The last day, UTC: `from`, or one of the 365 days after it. */
      "to": string;
      /** Lines of the page; 1000 if absent. */
      "limit"?: number;
      /** A place that a `Link` header named. */
      "after"?: string;
    };
    answer: Array<Usage>;
  };
}
