// A page that hosts the chat, as a company's portal would: it knows who is signed in, shows the chat in a frame, and hands
// it a token whenever it asks. The token itself is never kept here.

const chat = new URL(document.querySelector('meta[name="chat"]').content, location.href);
const [choose, people, wrong, bar, who, stage] =
  ["choose", "people", "wrong", "bar", "who", "stage"].map((id) => document.getElementById(id));
const HANDLE = "konstruct-local-user";
const ROLES = {
  platform_admin: "runs the product",
  customer_admin: "admin of the company",
  customer_operator: "works with the agents",
};
let frame = null;

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

async function list() {
  choose.hidden = false;
  try {
    const answer = await fetch("/local/people");
    if (!answer.ok) throw new Error(`The list of people cannot be read: ${answer.status}.`);
    const companies = Map.groupBy(await answer.json(), (person) => person.company ?? "The platform");
    people.replaceChildren(...[...companies].map(([company, members], number) => {
      const heading = element("h2", { id: `company-${number}`, textContent: company });
      const group = element("section", {}, heading, element("ul", {}, ...members.map(card)));
      group.setAttribute("aria-labelledby", heading.id);
      return group;
    }));
  } catch (error) {
    wrong.textContent = error.message;
  }
}

function card(person) {
  const name = person.handle.split("@")[0];
  const letter = element("span", { className: "letter", textContent: name[0].toUpperCase() });
  letter.setAttribute("aria-hidden", "true");
  const button = element("button", { type: "button", value: person.handle, onclick: () => signIn(person.handle) },
    letter,
    element("span", { className: "name", textContent: person.handle }), " ",
    element("span", { className: "role", textContent: ROLES[person.role] ?? person.role }));
  return element("li", {}, button);
}

function signIn(handle) {
  sessionStorage.setItem(HANDLE, handle);
  choose.hidden = true;
  bar.hidden = stage.hidden = false;
  who.textContent = handle;
  frame = element("iframe", { src: chat.href, title: "Chat" });
  stage.replaceChildren(frame);
  frame.focus();
}

async function token(handle) {
  const answer = await fetch("/local/token", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ user: handle }),
    cache: "no-store",
  });
  const said = await answer.json();
  return answer.ok ? { token: said.token } : { error: said.error };
}

// The chat asks; only our own frame, while it shows the chat itself, is answered, and nobody else can read the answer.
addEventListener("message", async (event) => {
  if (!frame || event.source !== frame.contentWindow || event.origin !== chat.origin) return;
  if (event.data?.type !== "konstruct:token?") return;
  const answer = await token(sessionStorage.getItem(HANDLE)).catch(() => ({ error: "The portal cannot be reached." }));
  event.source?.postMessage({ type: "konstruct:token", ...answer }, chat.origin);
});

document.getElementById("switch").addEventListener("click", () => {
  sessionStorage.removeItem(HANDLE);
  location.assign("/");
});

const named = new URLSearchParams(location.search).get("as") ?? sessionStorage.getItem(HANDLE);
if (named) signIn(named);
else list();
