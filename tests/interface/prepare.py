"""Prints, for a shell, who a caller of the local stack is and what is theirs: a conversation with something in it."""

import json
import sys
import time
import urllib.request
import uuid

card = json.load(open(sys.argv[1]))
users = {user["handle"]: user for user in card["users"]}
rest = card["rest"] + "/api/portal/chat"
caller = sys.argv[2]
# Nobody is given what is Ben's, and may not have it.
token = users["ben@acme" if caller == "nobody" else caller]["token"]


def ask(method, path, body=None, **headers):
    request = urllib.request.Request(rest + path, method=method, data=body and json.dumps(body).encode())
    request.add_header("Authorization", "Bearer " + token)
    request.add_header("Content-Type", "application/json")
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


tenant = users["ada@acme"]["tenant_id"]
agent = next(agent["id"] for agent in card["agents"] if agent["tenant_id"] == tenant)
conversation = ask("POST", "/conversations", {"tenant_id": tenant, "agent_id": agent})["id"]
sent = ask("POST", f"/conversations/{conversation}/messages", {"text": "Hello"}, Idempotency_Key=str(uuid.uuid4()))
deadline = time.monotonic() + 20
while True:
    messages = ask("GET", f"/conversations/{conversation}/messages?after={sent['seq']}")
    if messages:
        break
    assert time.monotonic() < deadline, "nobody answers"
ids = {
    "tenant_id": tenant,
    "agent_id": agent,
    "conversation_id": conversation,
    "message_id": messages[0]["id"],
    "turn_id": sent["turn_id"],
}
print(f"REST={rest}\nTOKEN={token}\nIDS='{json.dumps(ids)}'")
