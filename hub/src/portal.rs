//! The chat page: the files of `hub/portal/`, part of this program, under `/portal/`.
//!
//! They hold no secret and know nobody; who is asking comes with the tokens that the page's host hands it. What browsers are
//! told about each stands here, so that a deployment needs nothing in front to be safe.

use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use chat_core::config::Portal;

mod gzip;

/// What `/portal/` shows.
const INDEX: &str = "index.html";

/// Where the page reads its settings, with nothing in it yet.
const SETTINGS: &str = r#"<meta name="konstruct-chat" content="">"#;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
/// Types are for readers and compilers, not for browsers.
const TYPES: &str = "text/plain; charset=utf-8";

/// What pages of other origins may load, too: the client, for portals with a page of their own.
const SHARED: &[&str] = &["client.js", "client.d.ts", "konstruct-chat.d.ts"];

macro_rules! files {
    ($($name:literal $kind:ident $path:literal;)*) => {
        &[$(($name, $kind, include_bytes!(concat!("../", $path)) as &[u8]),)*]
    };
}

/// Every file: its name, its type, and what is in it.
const FILES: &[(&str, &str, &[u8])] = files! {
    "index.html" HTML "portal/index.html";
    "style.css" CSS "portal/style.css";
    "client.js" JS "portal/client.js";
    "client.d.ts" TYPES "portal/client.d.ts";
    "konstruct-chat.d.ts" TYPES "../docs/konstruct-chat.d.ts";
    "page.js" JS "portal/page.js";
    "thread.js" JS "portal/thread.js";
    "sidebar.js" JS "portal/sidebar.js";
    "view.js" JS "portal/view.js";
    "markdown.js" JS "portal/markdown.js";
    "texts.js" JS "portal/texts.js";
    "icon.svg" SVG "portal/icon.svg";
    "vendor/marked.esm.js" JS "portal/vendor/marked.esm.js";
    "vendor/purify.min.js" JS "portal/vendor/purify.min.js";
};

/// Where the page is.
#[must_use]
pub fn paths() -> Vec<String> {
    let files = FILES.iter().map(|(name, ..)| format!("/portal/{name}"));
    ["/portal".to_owned(), "/portal/".to_owned()].into_iter().chain(files).collect()
}

/// A file as it goes out.
struct File {
    name: &'static str,
    kind: &'static str,
    plain: Variant,
    /// Made when somebody first asks for it; `None` where it is no smaller.
    packed: OnceLock<Option<Variant>>,
}

/// One way to write a file. Each has a tag of its own, as strong ones must (RFC 9110, section 8.8.3.3).
struct Variant {
    bytes: Bytes,
    tag: HeaderValue,
}

impl Variant {
    fn new(bytes: Bytes) -> Self {
        let hash = digest(&SHA256, &bytes);
        let hex: String = hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let tag = HeaderValue::try_from(format!("\"{hex}\"")).expect("hexadecimal digits");
        Self { bytes, tag }
    }
}

impl File {
    /// The best way to write it for whoever sends these headers, and its encoding.
    fn variant(&self, headers: &HeaderMap) -> (&Variant, Option<HeaderValue>) {
        if gzip::accepted(headers) {
            let packed = self.packed.get_or_init(|| {
                let packed = gzip::pack(&self.plain.bytes);
                (packed.len() < self.plain.bytes.len()).then(|| Variant::new(packed.into()))
            });
            if let Some(packed) = packed {
                return (packed, Some(HeaderValue::from_static("gzip")));
            }
        }
        (&self.plain, None)
    }
}

/// The page with its settings in it.
#[derive(Clone)]
struct Page(Arc<[File]>);

impl Page {
    fn new(settings: &Portal) -> Self {
        let file = |(name, kind, bytes): &(&'static str, &'static str, &'static [u8])| {
            let bytes = if *name == INDEX { index(bytes, settings).into() } else { Bytes::from_static(bytes) };
            File { name, kind, plain: Variant::new(bytes), packed: OnceLock::new() }
        };
        Self(FILES.iter().map(file).collect())
    }
}

/// `index.html` with the settings.
fn index(html: &[u8], settings: &Portal) -> String {
    let told = serde_json::json!({"rest": settings.rest_url.as_deref().unwrap_or_default(), "hosts": settings.hosts});
    let mut escaped = String::new();
    for c in told.to_string().chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            other => escaped.push(other),
        }
    }
    let html = std::str::from_utf8(html).expect("our own page is text");
    html.replacen(SETTINGS, &SETTINGS.replace("\"\"", &format!("\"{escaped}\"")), 1)
}

/// The routes of the page.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(settings: &Portal) -> Router<S> {
    let headers = told(settings);
    let tell = move |mut response: Response| {
        response.headers_mut().extend(headers.clone());
        std::future::ready(response)
    };
    Router::new()
        .route("/portal", get(to_the_page))
        .route("/portal/", get(page))
        .route("/portal/{*file}", get(file))
        .layer(middleware::map_response(tell))
        .with_state(Page::new(settings))
}

/// What browsers are told about everything here.
///
/// The policy (CSP) lets in our own files and nothing else: no inline script or style, no other host, no plugin, no form,
/// and text becomes markup only through the sanitizer (trusted types). `'self'` covers the sockets of the same host.
fn told(settings: &Portal) -> HeaderMap {
    let rest = settings.rest_url.iter().map(|origin| format!(" {origin}")).collect::<String>();
    let frames = if settings.hosts.is_empty() { "'none'".to_owned() } else { settings.hosts.join(" ") };
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{rest}; \
         base-uri 'none'; form-action 'none'; object-src 'none'; frame-ancestors {frames}; \
         require-trusted-types-for 'script'; trusted-types dompurify"
    );
    let policy = HeaderValue::try_from(policy).expect("origins are graphic ASCII");
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("permissions-policy"), "camera=(), microphone=(), geolocation=()"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}

/// Relative addresses in the page need the slash.
async fn to_the_page() -> Response {
    let to = [(header::LOCATION, "/portal/"), (header::CACHE_CONTROL, "no-cache")];
    (StatusCode::PERMANENT_REDIRECT, to, ALONE).into_response()
}

async fn page(State(page): State<Page>, headers: HeaderMap) -> Response {
    send(&page, INDEX, &headers)
}

async fn file(State(page): State<Page>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    send(&page, &name, &headers)
}

/// Only for pages of the hub's own origin.
const ALONE: [(HeaderName, &str); 1] = [(HeaderName::from_static("cross-origin-resource-policy"), "same-origin")];

fn send(page: &Page, name: &str, asked: &HeaderMap) -> Response {
    let Some(file) = page.0.iter().find(|file| file.name == name) else {
        return (StatusCode::NOT_FOUND, ALONE, "There is no such file.\n").into_response();
    };
    let (variant, encoding) = file.variant(asked);
    let mut response = if known(asked, &variant.tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = variant.bytes.clone().into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(file.kind));
        response.headers_mut().extend(encoding.map(|encoding| (header::CONTENT_ENCODING, encoding)));
        response
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, variant.tag.clone());
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    // Asked for each time, so that a new release is whole from its first request on; it costs a 304.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if SHARED.contains(&name) {
        headers.insert("cross-origin-resource-policy", HeaderValue::from_static("cross-origin"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    } else {
        headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    }
    response
}

/// Whether the browser has this very thing already (RFC 9110, section 13.1.2).
fn known(asked: &HeaderMap, tag: &HeaderValue) -> bool {
    let lists = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|list| list.to_str().ok());
    let mut tags = lists.flat_map(|list| list.split(',')).map(|one| one.trim().trim_start_matches("W/"));
    tags.any(|one| one == "*" || one.as_bytes() == tag.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    fn names(folder: &Path, before: &str, into: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{before}{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                names(&entry.path(), &format!("{name}/"), into);
            } else if !name.ends_with(".md") && !name.ends_with(".txt") {
                // The others say where a file is from, and under which licence.
                into.insert(name);
            }
        }
    }

    #[test]
    fn every_file_of_the_folder_is_served_under_its_own_name() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("portal");
        let mut there = BTreeSet::from(["konstruct-chat.d.ts".to_owned()]);
        names(&folder, "", &mut there);
        let served: BTreeSet<String> = FILES.iter().map(|(name, ..)| (*name).to_owned()).collect();
        assert_eq!(served, there);
        assert_eq!(served.len(), FILES.len(), "each once");
        for (name, kind, bytes) in FILES.iter().filter(|(name, ..)| *name != "konstruct-chat.d.ts") {
            assert!(fs::read(folder.join(name)).unwrap() == *bytes, "{name} is itself");
            let expected = match name.rsplit_once('.').unwrap() {
                (_, "html") => HTML,
                (_, "css") => CSS,
                (_, "js") => JS,
                (_, "ts") => TYPES,
                (_, "svg") => SVG,
                (_, other) => panic!("which type has {other}?"),
            };
            assert_eq!(*kind, expected, "{name}");
        }
    }

    #[test]
    fn the_page_has_one_place_for_its_settings_and_they_cannot_leave_it() {
        let (_, _, html) = FILES.iter().find(|(name, ..)| *name == INDEX).unwrap();
        assert_eq!(std::str::from_utf8(html).unwrap().matches(SETTINGS).count(), 1);
        let settings = Portal { rest_url: Some("https://a\"'<b>&".to_owned()), hosts: vec!["https://c".to_owned()] };
        let filled = index(html, &settings);
        let written = "{&quot;hosts&quot;:[&quot;https://c&quot;],&quot;rest&quot;:&quot;https://a\\&quot;&#39;&lt;b&gt;&amp;&quot;}";
        assert!(filled.contains(&format!("content=\"{written}\"")), "{filled}");
        assert!(!filled.contains(SETTINGS));
    }
}
