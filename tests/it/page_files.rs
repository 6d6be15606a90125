//! The chat page as the hub serves it: what browsers are told about each file, and that nothing here signs anybody in.

use std::future::pending;

use chat_core::config::{Env, Portal};
use harness::{app::App, clients::http, raw};
use reqwest::{Method, Response, StatusCode};
use tokio::net::TcpListener;

/// What other portals import.
const SHARED: &[&str] = &["/portal/client.js", "/portal/client.d.ts", "/portal/konstruct-chat.d.ts"];

async fn ask(app: &App, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let http =
        reqwest::Client::builder().tls_certs_only([]).redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let mut request = http.request(method, format!("{}{path}", app.product.rest()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    let mut values = answer.headers().get_all(name).iter();
    let value = values.next().map(|value| value.to_str().unwrap());
    assert_eq!(values.next(), None, "{name} is there once");
    value
}

fn files() -> impl Iterator<Item = String> {
    hub::portal::paths().into_iter().filter(|path| path != "/portal")
}

/// What every answer under `/portal` says, whatever it is.
fn assert_guarded(what: &str, answer: &Response, frames: &str, rest: &str) {
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{rest}; \
         base-uri 'none'; form-action 'none'; object-src 'none'; frame-ancestors {frames}; \
         require-trusted-types-for 'script'; trusted-types dompurify"
    );
    for (name, value) in [
        ("content-security-policy", policy.as_str()),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("permissions-policy", "camera=(), microphone=(), geolocation=()"),
        ("cross-origin-opener-policy", "same-origin"),
    ] {
        assert_eq!(header(answer, name), Some(value), "{what}: {name}");
    }
    let all = format!("{:?}", answer.headers());
    assert!(!all.contains("unsafe-"), "{what}: {all}");
    assert_eq!(header(answer, "set-cookie"), None, "{what}");
}

#[tokio::test]
async fn every_file_comes_with_its_type_and_with_what_guards_it() {
    let app = App::start().await.unwrap();
    for path in files() {
        let answer = ask(&app, Method::GET, &path, &[]).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        assert_guarded(&path, &answer, "'none'", "");
        let kind = match path.rsplit_once('.').map_or("html", |(_, end)| end) {
            "html" => "text/html; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            "ts" => "text/plain; charset=utf-8",
            "svg" => "image/svg+xml",
            other => panic!("which type has {other}?"),
        };
        assert_eq!(header(&answer, "content-type"), Some(kind), "{path}");
        assert_eq!(header(&answer, "cache-control"), Some("no-cache"), "{path}");
        assert_eq!(header(&answer, "vary"), Some("accept-encoding"), "{path}");
        let shared = SHARED.contains(&path.as_str());
        let (policy, origin) = if shared { ("cross-origin", Some("*")) } else { ("same-origin", None) };
        assert_eq!(header(&answer, "cross-origin-resource-policy"), Some(policy), "{path}");
        assert_eq!(header(&answer, "access-control-allow-origin"), origin, "{path}");
        let length = answer.content_length();
        let body = answer.bytes().await.unwrap();
        assert_eq!(length, Some(body.len() as u64), "{path}");
        let text = std::str::from_utf8(&body).unwrap();
        if kind.starts_with("text/html") {
            // The policy would stop it; a page that needs it shall not come so far.
            for inline in ["<style", "<script>", " style=", " onclick=", " onload=", "javascript:"] {
                assert!(!text.contains(inline), "{path}: {inline}");
            }
        }

        let (method, head) = (Method::HEAD, ask(&app, Method::HEAD, &path, &[]).await);
        assert_guarded(&path, &head, "'none'", "");
        assert_eq!(head.status(), StatusCode::OK, "{method} {path}");
        assert_eq!(header(&head, "content-length"), Some(body.len().to_string().as_str()), "{method} {path}");
        assert!(head.bytes().await.unwrap().is_empty());
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn what_a_browser_has_is_not_sent_again() {
    let app = App::start().await.unwrap();
    for path in files() {
        for encoding in ["identity", "gzip"] {
            let first = ask(&app, Method::GET, &path, &[("accept-encoding", encoding)]).await;
            let tag = header(&first, "etag").unwrap().to_owned();
            assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 16, "{path}: {tag}");
            for known in [tag.clone(), format!("\"other\", {tag}"), format!("W/{tag}"), "*".to_owned()] {
                let again =
                    ask(&app, Method::GET, &path, &[("accept-encoding", encoding), ("if-none-match", &known)]).await;
                assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{path} {encoding} {known}");
                assert_guarded(&path, &again, "'none'", "");
                assert_eq!(header(&again, "etag"), Some(tag.as_str()), "{path}");
                assert_eq!(header(&again, "vary"), Some("accept-encoding"), "{path}");
                assert_eq!(header(&again, "cache-control"), Some("no-cache"), "{path}");
                assert!(again.bytes().await.unwrap().is_empty());
            }
            let other = ask(&app, Method::GET, &path, &[("if-none-match", "\"other\"")]).await;
            assert_eq!(other.status(), StatusCode::OK, "{path}");
        }
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn who_reads_gzip_gets_less_of_the_same() {
    let app = App::start().await.unwrap();
    let mut packed = 0;
    for path in files() {
        let plain = ask(&app, Method::GET, &path, &[("accept-encoding", "br, gzip;q=0")]).await;
        assert_eq!(header(&plain, "content-encoding"), None, "{path}");
        let tag = header(&plain, "etag").unwrap().to_owned();
        let plain = plain.bytes().await.unwrap();
        let small = ask(&app, Method::GET, &path, &[("accept-encoding", "gzip, deflate, br")]).await;
        if header(&small, "content-encoding").is_none() {
            // Packed it would be larger.
            assert!(plain.len() < 200, "{path}: {} bytes", plain.len());
            assert_eq!(header(&small, "etag"), Some(tag.as_str()), "{path}");
            continue;
        }
        packed += 1;
        assert_eq!(header(&small, "content-encoding"), Some("gzip"), "{path}");
        assert_ne!(header(&small, "etag"), Some(tag.as_str()), "{path}: another representation, another strong tag");
        let small = small.bytes().await.unwrap();
        assert!(small.len() < plain.len(), "{path}");
        assert_eq!(unpacked(&small), plain, "{path}");
    }
    assert!(packed > 1, "the types at least are large enough");
    app.finish().await.unwrap();
}

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    std::io::copy(&mut flate2::read::GzDecoder::new(bytes), &mut plain).unwrap();
    plain
}

#[tokio::test]
async fn what_is_not_there_is_a_guarded_404_and_nothing_is_written() {
    let app = App::start().await.unwrap();
    for path in [
        "/portal/index.htm",
        "/portal/vendor",
        "/portal/vendor/",
        "/portal//style.css",
        "/portal/..%2fCargo.toml",
        "/portal/style.css%00",
        "/portal/STYLE.CSS",
    ] {
        let answer = ask(&app, Method::GET, path, &[]).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
        assert_guarded(path, &answer, "'none'", "");
    }
    // No client library would send this.
    for path in ["/portal/../Cargo.toml", "/portal/../../etc/passwd", "/portal/%2e%2e/lib.rs"] {
        let (_tcp, head) =
            raw::ask(app.product.address, &format!("GET {path} HTTP/1.1\r\nHost: hub\r\n\r\n")).await.unwrap();
        assert!(head.starts_with("http/1.1 404 "), "{path}: {head}");
    }
    let moved = ask(&app, Method::GET, "/portal", &[]).await;
    assert_eq!(moved.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(header(&moved, "location"), Some("/portal/"));
    assert_guarded("/portal", &moved, "'none'", "");
    for path in ["/portal", "/portal/", "/portal/style.css"] {
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
            let answer = ask(&app, method.clone(), path, &[]).await;
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_guarded(path, &answer, "'none'", "");
        }
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn only_named_pages_may_show_it_and_it_is_told_which_and_where_rest_is() {
    let portal = Portal {
        rest_url: Some("https://api.example".to_owned()),
        hosts: vec!["https://portal.example".to_owned(), "http://127.0.0.1:8787".to_owned()],
    };
    let app = App::with(|setting| setting.portal = portal).await.unwrap();
    for path in files() {
        let answer = ask(&app, Method::GET, &path, &[]).await;
        assert_guarded(&path, &answer, "https://portal.example http://127.0.0.1:8787", " https://api.example");
    }
    let page = ask(&app, Method::GET, "/portal/", &[]).await.text().await.unwrap();
    let told = "{&quot;hosts&quot;:[&quot;https://portal.example&quot;,&quot;http://127.0.0.1:8787&quot;],\
                &quot;rest&quot;:&quot;https://api.example&quot;}";
    assert!(page.contains(&format!("<meta name=\"konstruct-chat\" content=\"{told}\">")), "{page}");
    app.finish().await.unwrap();
}

#[test]
fn a_host_that_could_write_into_the_policy_stops_the_start() {
    for (name, value) in [
        ("PORTAL_HOSTS", "https://portal.example; script-src *"),
        ("PORTAL_HOSTS", "*"),
        ("PORTAL_HOSTS", "'self'"),
        ("PORTAL_HOSTS", "https://portal.example/"),
        ("PORTAL_REST_URL", "https://api.example/api/portal/chat"),
        ("PORTAL_REST_URL", "https://api.example https://evil.test"),
        ("PORTAL_REST_URL", "javascript:alert(1)"),
    ] {
        let lookup = |asked: &str| (asked == name).then(|| value.to_owned());
        let mut env = Env::new(&lookup);
        let portal = Portal::read(&mut env);
        let fault = env.finish(portal).unwrap_err().to_string();
        assert!(fault.contains(name) && !fault.contains(value), "{value}: {fault}");
    }
}

#[tokio::test]
async fn a_deployed_hub_signs_nobody_in() {
    let app = App::start().await.unwrap();
    let hub = app.product.hub.clone();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(hub.clone().serve(listener, hub::router(hub), pending()));
    for path in ["/", "/?as=ben@acme", "/host.js", "/local", "/local/people", "/local/token", "/portal/local/token"] {
        for method in [Method::GET, Method::POST] {
            let body = r#"{"user": "ben@acme"}"#;
            let request = http().request(method.clone(), format!("{base}{path}"));
            let answer = request.header("content-type", "application/json").body(body).send().await.unwrap();
            let status = answer.status().as_u16();
            // Below /portal/ the path is a file's name, and files are only read.
            let refused = status == 404 || (path.starts_with("/portal/") && method == Method::POST && status == 405);
            assert!(refused, "{method} {path}: {status}");
            assert!(!answer.text().await.unwrap().contains("ey"), "{method} {path}");
        }
    }
    let page = http().get(format!("{base}/portal/")).send().await.unwrap();
    assert_eq!(page.status(), StatusCode::OK, "or this hub would not be asked at all");
    app.finish().await.unwrap();
}
