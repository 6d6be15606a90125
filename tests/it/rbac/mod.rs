//! Who may do what: every route, method and frame, for every kind of caller, on every kind of target.
//!
//! [`TABLE`] says it, and the product is held to it cell by cell. A route, a method or a frame without a row fails, and so
//! does a row of nothing.

mod alike;
mod cast;
mod cursors;

use std::collections::BTreeSet;

use chat_core::event::CLIENT_FRAMES;
use conversations::ROUTES;
use harness::{
    attack::switch_policies_off,
    clients::{Answer, Farewell, Socket},
    events::{Events, Opened},
};
use serde_json::json;

use cast::{CALLERS, Caller, Cast, TARGETS, Target};

/// A cell has a letter for each target, in three groups: own | Ben's, Eva's | globex's Ben's, globex's Eva's | absent,
/// malformed. Ben and both Evas are operators; both Evas' conversations wait for a person, the others' do not. Own is what
/// the caller opened themselves; Gus was a member of acme when he did. For the collection the targets are companies: one's
/// own (Root: none named) | acme, acme (what waits; opened with an agent of globex's) | the same of globex | absent, malformed.
///
/// `y` done (2xx) · `u` 401, who are you · `f` 403, known and not allowed · `n` 404, or not for you · `b` 400, unreadable.
/// On the socket: `y` answered · `u` 4401 · `f` 4403 · `n` 4404 · `b` 4400 · `e` an `error` frame, and it lives on.
const TABLE: &str = "
                                              | no token   | bad token  | ben@acme   | cleo@acme  | ada@acme   | ben@globex | ada@globex | root       | gus
GET /conversations                            | u uu uu uu | u uu uu uu | y yy ff fb | y yy ff fb | y yy ff fb | y ff yy fb | y ff yy fb | y yy yy yb | f ff ff fb
POST /conversations                           | u uu uu uu | u uu uu uu | y yn ff fb | y yn ff fb | y yn ff fb | y ff yn fb | y ff yn fb | b yn yn nb | f ff ff fb
GET /conversations/{conversation_id}          | u uu uu uu | u uu uu uu | y yn nn nb | y nn nn nb | y ny nn nb | y nn yn nb | y nn ny nb | y yy yy nb | n nn nn nb
PATCH /conversations/{conversation_id}        | u uu uu uu | u uu uu uu | y yn nn nb | y nn nn nb | y nf nn nb | y nn yn nb | y nn nf nb | y ff ff nb | n nn nn nb
DELETE /conversations/{conversation_id}       | u uu uu uu | u uu uu uu | y yn nn nb | y nn nn nb | y ny nn nb | y nn yn nb | y nn ny nb | y yy yy nb | n nn nn nb
GET /conversations/{conversation_id}/messages | u uu uu uu | u uu uu uu | y yn nn nb | y nn nn nb | y ny nn nb | y nn yn nb | y nn ny nb | y yy yy nb | n nn nn nb
POST /conversations/{conversation_id}/messages| u uu uu uu | u uu uu uu | y yn nn nb | y nn nn nb | y ny nn nb | y nn yn nb | y nn ny nb | y yy yy nb | n nn nn nb
PUT /conversations/{conversation_id}/messages/{message_id}/feedback| u uu uu uu | u uu uu uu | y yn nn nb | y nn nn nb | y nf nn nb | y nn yn nb | y nn nf nb | y ff ff nb | n nn nn nb
DELETE /conversations/{conversation_id}/messages/{message_id}/feedback| u uu uu uu | u uu uu uu | y yn nn nb | y nn nn nb | y nf nn nb | y nn yn nb | y nn nf nb | y ff ff nb | n nn nn nb
PUT /conversations/{conversation_id}/read     | u uu uu uu | u uu uu uu | y yn nn nb | y nn nn nb | y nf nn nb | y nn yn nb | y nn nf nb | y ff ff nb | n nn nn nb
GET /conversations/{conversation_id}/export   | u uu uu uu | u uu uu uu | y yn nn nb | y nn nn nb | y ny nn nb | y nn yn nb | y nn ny nb | y yy yy nb | n nn nn nb
POST /conversations/{conversation_id}/turns/{turn_id}/stop| u uu uu uu | u uu uu uu | y yn nn nb | y nn nn nb | y ny nn nb | y nn yn nb | y nn ny nb | y yy yy nb | n nn nn nb
POST /conversations/{conversation_id}/takeover| u uu uu uu | u uu uu uu | f fn nn nb | f nn nn nb | f ny nn nb | f nn fn nb | f nn ny nb | y yy yy nb | n nn nn nb
POST /conversations/{conversation_id}/handback| u uu uu uu | u uu uu uu | f fn nn nb | f nn nn nb | y ny nn nb | f nn fn nb | y nn ny nb | y yy yy nb | n nn nn nb
GET /me                                       | u uu uu uu | u uu uu uu | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy
GET /agents                                   | u uu uu uu | u uu uu uu | y yy ff fb | y yy ff fb | y yy ff fb | y ff yy fb | y ff yy fb | b yy yy yb | f ff ff fb
GET /search                                   | u uu uu uu | u uu uu uu | y yy ff fb | y yy ff fb | y yy ff fb | y ff yy fb | y ff yy fb | b yy yy yb | f ff ff fb
GET /usage                                    | u uu uu uu | u uu uu uu | f ff ff fb | f ff ff fb | y yy ff fb | f ff ff fb | y ff yy fb | b yy yy yb | f ff ff fb
GET /openapi.json                             | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy
GET /healthz                                  | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy
GET /readyz                                   | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy
FIRST auth                                    | u uu uu uu | u uu uu uu | y yn nn nn | y nn nn nn | y ny nn nn | y nn yn nn | y nn ny nn | y yy yy nn | n nn nn nn
FIRST message                                 | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb
FIRST stop                                    | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb
FIRST read                                    | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb
FIRST of no known type                        | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb | b bb bb bb
THEN auth                                     | u uu uu uu | u uu uu uu | y yn nn nn | y nn nn nn | y ny nn nn | y nn yn nn | y nn ny nn | y yy yy nn | n nn nn nn
THEN message                                  | u uu uu uu | u uu uu uu | y yn nn nn | y nn nn nn | y ny nn nn | y nn yn nn | y nn ny nn | y yy yy nn | n nn nn nn
THEN stop                                     | u uu uu uu | u uu uu uu | y yn nn nn | y nn nn nn | y ny nn nn | y nn yn nn | y nn ny nn | y yy yy nn | n nn nn nn
THEN read                                     | u uu uu uu | u uu uu uu | y yn nn nn | y nn nn nn | y ne nn nn | y nn yn nn | y nn ne nn | y ee ee nn | n nn nn nn
THEN of no known type                         | u uu uu uu | u uu uu uu | e en nn nn | e nn nn nn | e ne nn nn | e nn en nn | e nn ne nn | e ee ee nn | n nn nn nn
SSE events                                    | u uu uu uu | u uu uu uu | y yn nn nn | y nn nn nn | y ny nn nn | y nn yn nn | y nn ny nn | y yy yy nn | n nn nn nn
METRICS figures                               | u uu uu uu | u uu uu uu | u uu uu uu | u uu uu uu | u uu uu uu | u uu uu uu | u uu uu uu | u uu uu uu | u uu uu uu
PAGE files                                    | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy | y yy yy yy
";

/// A frame of a type that there is not.
const UNKNOWN: &str = "of no known type";

/// The rows of [`TABLE`]: what is done, and the letters of each caller.
fn rows() -> Vec<(&'static str, Vec<Vec<char>>)> {
    let mut lines = TABLE.lines().filter(|line| !line.is_empty());
    let heading: Vec<&str> = lines.next().unwrap().split('|').skip(1).map(str::trim).collect();
    let callers: Vec<&str> = CALLERS.iter().map(|caller| caller.name()).collect();
    assert_eq!(heading, callers, "a column for each kind of caller");
    let rows = lines.map(|line| {
        let mut cells = line.split('|');
        let what = cells.next().unwrap().trim();
        let cells: Vec<Vec<char>> = cells.map(|cell| cell.chars().filter(|letter| *letter != ' ').collect()).collect();
        assert_eq!(cells.len(), CALLERS.len(), "{what}: a cell for each kind of caller");
        assert!(cells.iter().all(|cell| cell.len() == TARGETS.len()), "{what}: a letter for each target");
        (what, cells)
    });
    rows.collect()
}

/// All that can be done, as the product has it.
fn everything() -> BTreeSet<String> {
    let routes =
        ROUTES.iter().flat_map(|route| route.methods.iter().map(move |method| format!("{method} {}", route.path)));
    let frames = CLIENT_FRAMES.iter().map(|frame| frame.name).chain([UNKNOWN]);
    let frames = frames.flat_map(|frame| [format!("FIRST {frame}"), format!("THEN {frame}")]);
    routes.chain(frames).chain(["SSE events", "METRICS figures", "PAGE files"].map(str::to_owned)).collect()
}

#[test]
fn every_route_method_and_frame_has_its_row() {
    let rows = rows();
    let written: BTreeSet<String> = rows.iter().map(|(what, _)| (*what).to_owned()).collect();
    assert_eq!(written, everything());
    assert_eq!(written.len(), rows.len(), "one row for each");
}

/// The letter of an answer.
fn letter(answer: &Answer) -> char {
    match answer.status {
        200..=299 => 'y',
        400 => 'b',
        401 => 'u',
        403 => 'f',
        404 => 'n',
        _ => '!',
    }
}

/// What the two that are alike say, apart from which request it was and when.
fn apart_from_the_request(answer: &Answer) -> String {
    let mut body = answer.body.clone();
    if let Some(fields) = body.as_object_mut() {
        fields.remove("request_id");
    }
    let mut headers: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| *name != "x-request-id" && *name != "date")
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    headers.sort();
    format!("{} {headers:?} {body}", answer.status)
}

#[tokio::test]
async fn everybody_may_do_what_the_table_says_and_no_more() {
    hold_to_the_table(Cast::assemble().await).await;
}

/// Within a company, too, policies and application cover for each other; so here it is the application alone.
#[tokio::test]
async fn without_policies_everybody_may_do_the_same_and_no_more() {
    let cast = Cast::assemble().await;
    switch_policies_off(&cast.owner).await.unwrap();
    hold_to_the_table(cast).await;
}

/// Tries every cell, and compares.
async fn hold_to_the_table(cast: Cast) {
    let mut wrong = Vec::new();
    for (what, cells) in rows() {
        let (how, path) = what.split_once(' ').unwrap();
        for (caller, letters) in CALLERS.iter().zip(cells) {
            // The answers that say that there is nothing, the one for what is absent among them.
            let mut nothing = Vec::new();
            for (target, expected) in TARGETS.iter().zip(letters) {
                cast.restore().await;
                let (got, said) = match how {
                    "FIRST" | "THEN" => on_a_socket(&cast, *caller, *target, how == "FIRST", path).await,
                    "SSE" => on_a_stream(&cast, *caller, *target).await,
                    "PAGE" => of_the_page(&cast, *caller).await,
                    "METRICS" => of_the_figures(&cast, *caller).await,
                    method => {
                        let answer = cast.ask(*caller, method, path, *target).await;
                        (letter(&answer), apart_from_the_request(&answer))
                    }
                };
                if got != expected {
                    wrong
                        .push(format!("{what}, {}, {target:?}: {expected} in the table, {got}: {said}", caller.name()));
                }
                if got == 'n' {
                    nothing.push(said);
                }
            }
            nothing.dedup();
            assert!(
                nothing.len() <= 1,
                "{what}, {}: what is not theirs is told from what is not: {nothing:#?}",
                caller.name()
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    cast.app.finish().await.unwrap();
}

/// Says a frame on a socket, as the first one or after a good `auth`; the letter of what came, and all of it.
async fn on_a_socket(cast: &Cast, caller: Caller, target: Target, first: bool, kind: &str) -> (char, String) {
    let mut socket = Socket::open(&cast.app.product.ws(), &cast.id(caller, target), None).await.unwrap();
    let auth = json!({"type": "auth", "token": cast.token(caller)});
    let frame = match kind {
        "auth" => auth.clone(),
        "message" => json!({"type": "message", "text": "hello"}),
        "stop" => json!({"type": "stop", "turn_id": cast.turn(caller, target)}),
        "read" => json!({"type": "read", "seq": 1}),
        UNKNOWN => json!({"type": "dance"}),
        other => panic!("how is a frame of type {other} said?"),
    };
    let mut answered = "ready";
    socket.blurt(if first { &frame } else { &auth }).await.unwrap();
    let mut said = socket.farewell_or_frame().await.unwrap();
    if let (false, Farewell::Frame(_)) = (first, &said) {
        socket.blurt(&frame).await.unwrap();
        answered = match kind {
            "message" => "typing",
            "stop" => "turn",
            "read" => "read",
            _ => "ready",
        };
        // The reply to what was said before this may still be on its way.
        said = loop {
            let said = socket.farewell_or_frame().await.unwrap();
            if !matches!(&said, Farewell::Frame(frame) if frame["type"] == "response") {
                break said;
            }
        };
        // In a person's stead nobody types.
        if kind == "message" && matches!(&said, Farewell::Frame(frame) if frame["type"] == "accepted") {
            answered = "accepted";
        }
        if kind == "message" && matches!(&said, Farewell::Frame(frame) if frame["type"] == answered) {
            // Whoever comes next shall not hear of this one.
            socket.until(if answered == "typing" { "response" } else { "turn" }).await.unwrap();
        }
    }
    let letter = match &said {
        Farewell::Frame(frame) if frame["type"] == answered => 'y',
        Farewell::Frame(frame) if frame["type"] == "error" => 'e',
        Farewell::Frame(_) | Farewell::Gone => '!',
        Farewell::Close(code, _) => match code {
            4400 => 'b',
            4401 => 'u',
            4403 => 'f',
            4404 => 'n',
            _ => '!',
        },
    };
    (letter, format!("{said:?}"))
}

/// Asks for a stream of events; the letter of what came, and all of it.
async fn on_a_stream(cast: &Cast, caller: Caller, target: Target) -> (char, String) {
    let (base, id, token) = (cast.app.product.rest(), cast.id(caller, target), cast.token(caller));
    match Events::ask(&base, &id, token.as_deref(), &[]).await.unwrap() {
        Opened::Stream(mut events) => ('y', format!("{:?}", events.expect("ready").await.unwrap())),
        Opened::Refused(answer) => (letter(&answer), apart_from_the_request(&answer)),
    }
}

/// Reads every file of the chat page: they say nothing of anybody. The worst letter, and where it was.
async fn of_the_page(cast: &Cast, caller: Caller) -> (char, String) {
    for path in hub::portal::paths() {
        let url = format!("{}{path}", cast.app.product.rest());
        let answer = cast.rest(caller).with(|http, _| http.get(url)).await.unwrap();
        if letter(&answer) != 'y' {
            return (letter(&answer), format!("{path}: {}", apart_from_the_request(&answer)));
        }
    }
    ('y', "all files".to_owned())
}

/// Asks for the hub's figures: they are nobody's, not even the platform's; who may read them has a token that is no person's.
async fn of_the_figures(cast: &Cast, caller: Caller) -> (char, String) {
    let url = format!("{}/metrics", cast.app.product.rest());
    let answer = cast.rest(caller).with(|http, _| http.get(url)).await.unwrap();
    (letter(&answer), apart_from_the_request(&answer))
}

#[tokio::test]
async fn what_no_route_has_is_refused_whoever_asks() {
    let cast = Cast::assemble().await;
    for caller in CALLERS {
        for route in ROUTES {
            for method in ["POST", "PUT", "PATCH", "DELETE"] {
                if route.methods.contains(&method) {
                    continue;
                }
                let answer = cast.ask(*caller, method, route.path, Target::Own).await;
                assert_eq!(answer.status, 405, "{method} {} {}: {}", route.path, caller.name(), answer.body);
            }
        }
        for path in
            ["/", "/admin", "/conversations/", "/conversations/x/y", "/conversations/../healthz/x", "/tenants", "/me/x"]
        {
            let answer = cast.ask(*caller, "GET", path, Target::Own).await;
            assert_eq!(answer.status, 404, "{path} {}: {}", caller.name(), answer.body);
        }
    }
    cast.app.finish().await.unwrap();
}
