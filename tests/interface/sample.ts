// Uses the declarations as a client does: `tsc --strict` must let it pass.

import type { ServerFrame, ClientFrame, Operations } from "../../docs/konstruct-chat";
export function shown(frame: ServerFrame): string {
  switch (frame.type) {
    case "response": return frame.text + frame.seq;
    case "delta": return frame.text + frame.offset;
    case "turn": return frame.state === "failed" ? (frame.code ?? "internal") : "";
    default: return frame.type;
  }
}
// @ts-expect-error a client has no such frame
export const bad: ClientFrame = { type: "dance" };
export const first: ClientFrame = { type: "auth", token: "…", last_seq: 3, epoch: 0 };
export type Page = Operations["list_messages"]["answer"];
export const body: Operations["send_message"]["body"] = { text: "Hello" };
