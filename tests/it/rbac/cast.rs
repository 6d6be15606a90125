//! Everybody and everything in the table of authorization.

use std::time::Duration;

use chat_core::{
    caller::Role,
    config::{self, Secret},
    ids::{AgentId, ClientMessageId, ConversationId, MessageId, TenantId, TurnId, UserId},
};
use harness::{
    app::{App, until},
    clients::{Answer, Rest},
    demo::User,
    requests,
};
use serde_json::json;
use tokio_postgres::Client;

/// Every kind of caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// Nobody.
    NoToken,
    /// Somebody whose token is not good.
    BadToken,
    /// A member of acme: the one whose conversation is `Bens`.
    Ben,
    /// Another member of acme.
    Cleo,
    /// Its customer_admin.
    Ada,
    /// A member of another company.
    GlobexBen,
    /// That one's customer_admin.
    GlobexAda,
    /// The platform_admin.
    Root,
    /// Without any membership; was in acme once.
    Gus,
}

/// In the order of the table's columns.
pub(super) const CALLERS: &[Caller] = &[
    Caller::NoToken,
    Caller::BadToken,
    Caller::Ben,
    Caller::Cleo,
    Caller::Ada,
    Caller::GlobexBen,
    Caller::GlobexAda,
    Caller::Root,
    Caller::Gus,
];

impl Caller {
    /// As the table calls them.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NoToken => "no token",
            Self::BadToken => "bad token",
            Self::Ben => "ben@acme",
            Self::Cleo => "cleo@acme",
            Self::Ada => "ada@acme",
            Self::GlobexBen => "ben@globex",
            Self::GlobexAda => "ada@globex",
            Self::Root => "root",
            Self::Gus => "gus",
        }
    }

    /// Whom it is about where the caller says nothing of themselves.
    fn handle(self) -> &'static str {
        match self {
            Self::NoToken | Self::BadToken => "ben@acme",
            Self::Ben | Self::Cleo | Self::Ada | Self::GlobexBen | Self::GlobexAda | Self::Root | Self::Gus => {
                self.name()
            }
        }
    }
}

/// What it is done to, in the order of a cell's letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// The caller's own.
    Own,
    /// Ben's of acme, where the agent answers.
    Bens,
    /// Eva's of acme, which waits for a person.
    Evas,
    /// Another company's.
    GlobexBens,
    /// Another company's that waits for a person.
    GlobexEvas,
    /// An id that nothing has.
    Absent,
    /// What is no id.
    Malformed,
}

/// In the order of a cell's letters.
pub(super) const TARGETS: &[Target] = &[
    Target::Own,
    Target::Bens,
    Target::Evas,
    Target::GlobexBens,
    Target::GlobexEvas,
    Target::Absent,
    Target::Malformed,
];

/// A conversation, and a turn of it that has ended.
struct Talk {
    owner: &'static str,
    id: ConversationId,
    turn: TurnId,
    reply: MessageId,
}

/// The product with all of them in it.
pub(super) struct Cast {
    pub(super) app: App,
    pub(super) owner: Client,
    talks: Vec<Talk>,
    absent: ConversationId,
    gus: User,
}

impl Cast {
    /// Starts a product and fills it.
    pub(super) async fn assemble() -> Self {
        let figures = config::Metrics { token: Some(Secret::from("d8Kq-mX2w_Pz7Rt4Vn9Bc3Jh".to_owned())) };
        let mut app = App::with(|setting| setting.metrics = figures).await.unwrap();
        let owner = app.owner().await.unwrap();
        let (acme, globex) = (app.user("ben@acme").tenant.unwrap(), app.user("ben@globex").tenant.unwrap());
        for (handle, tenant) in [("cleo@acme", acme), ("eva@acme", acme), ("eva@globex", globex), ("gus", acme)] {
            let user = User {
                id: UserId::new(),
                handle: handle.to_owned(),
                role: Role::CustomerOperator,
                tenant: Some(tenant),
            };
            let insert =
                "insert into portal_users (id, email, display_name, role) values ($1, $2, $2, 'customer_operator')";
            owner.execute(insert, &[&user.id, &handle]).await.unwrap();
            let join = "insert into user_tenant_roles (tenant_id, user_id, role) values ($1, $2, 'customer_operator')";
            owner.execute(join, &[&tenant, &user.id]).await.unwrap();
            app.demo.users.push(user);
        }
        let mut talks = Vec::new();
        for handle in ["ben@acme", "cleo@acme", "eva@acme", "ada@acme", "gus", "ben@globex", "eva@globex", "ada@globex"]
        {
            talks.push(Talk {
                owner: handle,
                id: app.conversation(handle).await.unwrap().parse().unwrap(),
                turn: TurnId::new(),
                reply: MessageId::new(),
            });
        }
        let agent = app.agent_of(app.user("ben@acme")).id;
        let roots = app.rest("root").open(acme, agent).await.unwrap().parse().unwrap();
        talks.push(Talk { owner: "root", id: roots, turn: TurnId::new(), reply: MessageId::new() });
        for Talk { id, turn, .. } in &talks {
            let insert = "insert into turns (id, tenant_id, conversation_id, user_id, seq, epoch, state, text_sha256, ended_at)
                select $1, tenant_id, id, user_id, 0, 0, 'stopped', sha256('x'), now() from web_conversations where id = $2";
            owner.execute(insert, &[turn, id]).await.unwrap();
        }
        let gus = app.user("gus").clone();
        owner.execute("delete from user_tenant_roles where user_id = $1", &[&gus.id]).await.unwrap();
        Self { app, owner, talks, absent: ConversationId::new(), gus }
    }

    /// Makes all conversations what the table says they are, whatever was done to them, once that is over.
    pub(super) async fn restore(&self) {
        until("every turn to end", || async {
            let open = "select count(*) from turns where state in ('queued', 'running')";
            Ok(self.owner.query_one(open, &[]).await?.get::<_, i64>(0) == 0)
        })
        .await
        .unwrap();
        let waiting: Vec<ConversationId> =
            self.talks.iter().filter(|talk| talk.owner.starts_with("eva")).map(|talk| talk.id).collect();
        let restore = "update web_conversations set taken_by = null, taken_at = null, escalated_by = null,
              status = case when id = any($1) then 'escalated' else 'agent' end,
              escalated_at = case when id = any($1) then now() end
            where (status = 'escalated') <> (id = any($1)) or taken_by is not null";
        self.owner.execute(restore, &[&waiting]).await.unwrap();
        // There is something to read, and nobody has.
        let unread = "update web_conversations set read_seq = 0, last_seq = greatest(last_seq, 1)
            where read_seq > 0 or last_seq = 0";
        self.owner.execute(unread, &[]).await.unwrap();
        let (ids, replies): (Vec<_>, Vec<_>) = self.talks.iter().map(|talk| (talk.id, talk.reply)).unzip();
        let reply = "insert into web_conversation_messages (id, conversation_id, tenant_id, seq, epoch, role, content)
            select t.reply, c.id, c.tenant_id, 0, c.epoch, 'assistant', 'hello'
            from unnest($1::uuid[], $2::uuid[]) t (id, reply) join web_conversations c on c.id = t.id on conflict do nothing";
        self.owner.execute(reply, &[&ids, &replies]).await.unwrap();
    }

    fn talk(&self, caller: Caller, target: Target) -> Option<&Talk> {
        let of = |handle: &str| self.talks.iter().find(|talk| talk.owner == handle);
        match target {
            Target::Own => of(caller.handle()),
            Target::Bens => of("ben@acme"),
            Target::Evas => of("eva@acme"),
            Target::GlobexBens => of("ben@globex"),
            Target::GlobexEvas => of("eva@globex"),
            Target::Absent | Target::Malformed => None,
        }
    }

    /// The id of a target, as a path has it.
    pub(super) fn id(&self, caller: Caller, target: Target) -> String {
        match (self.talk(caller, target), target) {
            (Some(talk), _) => talk.id.to_string(),
            (None, Target::Malformed) => "17".to_owned(),
            (None, _) => self.absent.to_string(),
        }
    }

    /// An ended turn of a target.
    pub(super) fn turn(&self, caller: Caller, target: Target) -> TurnId {
        self.talk(caller, target).map_or_else(TurnId::new, |talk| talk.turn)
    }

    /// A reply in a target.
    fn reply(&self, caller: Caller, target: Target) -> MessageId {
        self.talk(caller, target).map_or_else(MessageId::new, |talk| talk.reply)
    }

    /// What a caller says of themselves; `None` where that is nothing.
    pub(super) fn token(&self, caller: Caller) -> Option<String> {
        match caller {
            Caller::NoToken => None,
            Caller::BadToken => {
                // Ben's own, with the end of the signature gone.
                let token = self.app.token(self.app.user("ben@acme"));
                Some(token[..token.len() - 4].to_owned())
            }
            Caller::Gus => {
                Some(self.app.mint.token(self.gus.id, self.gus.role, self.gus.tenant, Duration::from_secs(600)))
            }
            Caller::Ben | Caller::Cleo | Caller::Ada | Caller::GlobexBen | Caller::GlobexAda | Caller::Root => {
                Some(self.app.token(self.app.user(caller.name())))
            }
        }
    }

    /// REST as a caller.
    pub(super) fn rest(&self, caller: Caller) -> Rest {
        Rest::new(&self.app.product.rest(), self.token(caller).as_deref())
    }

    /// Asks a route with a method about a target, with all that it needs.
    pub(super) async fn ask(&self, caller: Caller, method: &str, path: &str, target: Target) -> Answer {
        let (query, body) = match path {
            "/conversations" => self.collection(caller, target),
            "/agents" | "/search" | "/usage" => {
                let (company, _) = self.collection(caller, target);
                let company = company.replace("&status=escalated", "");
                let rest = requests::query(path);
                (if company.is_empty() { rest.replacen('&', "?", 1) } else { format!("{company}{rest}") }, json!({}))
            }
            _ => (String::new(), requests::body(method, path).unwrap_or_default()),
        };
        let path = path.replace("{conversation_id}", &self.id(caller, target));
        let path = path.replace("{turn_id}", &self.turn(caller, target).to_string());
        let path = path.replace("{message_id}", &self.reply(caller, target).to_string());
        let query = if method == "GET" { query } else { String::new() };
        let make = |http: &reqwest::Client, base: &str| {
            let request = http.request(method.parse().unwrap(), format!("{base}{path}{query}"));
            let request = request.header("Idempotency-Key", ClientMessageId::new().to_string());
            if body.is_object() && method != "GET" { request.json(&body) } else { request }
        };
        self.rest(caller).with(make).await.unwrap()
    }

    /// The companies that stand for targets where it is about the collection: the query of a list, the body to open one.
    fn collection(&self, caller: Caller, target: Target) -> (String, serde_json::Value) {
        let of = |handle: &str| {
            let user = self.app.user(handle);
            (user.tenant.unwrap(), self.app.agent_of(user).id)
        };
        let ((acme, acmes), (globex, globexes)) = (of("ben@acme"), of("ben@globex"));
        let named = |tenant: TenantId, waiting: bool, agent: AgentId| {
            let status = if waiting { "&status=escalated" } else { "" };
            (format!("?tenant_id={tenant}{status}"), json!({"tenant_id": tenant, "agent_id": agent}))
        };
        match (target, caller) {
            (Target::Own, Caller::Root) => (String::new(), json!({"agent_id": acmes})),
            (Target::Own, Caller::GlobexBen | Caller::GlobexAda) => named(globex, false, globexes),
            (Target::Own, _) | (Target::Bens, _) => named(acme, false, acmes),
            (Target::Evas, _) => named(acme, true, globexes),
            (Target::GlobexBens, _) => named(globex, false, globexes),
            (Target::GlobexEvas, _) => named(globex, true, acmes),
            (Target::Absent, _) => named(TenantId::new(), false, acmes),
            (Target::Malformed, _) => ("?tenant_id=17".to_owned(), json!({"tenant_id": "17", "agent_id": acmes})),
        }
    }
}
