//! HTTP as an HTTP API hands it to a function: events and answers of payload format 2.0.

use std::collections::BTreeMap;

use ::http::{HeaderMap, HeaderName, HeaderValue};
use anyhow::{Context, Result};
use aws_lambda_events::encodings::Base64Data;
use serde_json::{Value, json};

use crate::clients::Answer;

/// The event that an HTTP API sends for a request, payload version 2.0; `path` may have a query.
/// Source: <https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html>.
#[must_use]
pub fn http_event(method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Value {
    const HOST: &str = "chat.execute-api.us-east-1.amazonaws.com";
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut all = BTreeMap::from([("host".to_owned(), HOST.to_owned())]);
    // Names come in lower case, and those that come twice as one value.
    for (name, value) in headers {
        let values = all.entry(name.to_lowercase()).or_default();
        *values = if values.is_empty() { (*value).to_owned() } else { format!("{values},{value}") };
    }
    if body.is_some() {
        all.entry("content-type".to_owned()).or_insert_with(|| "application/json".to_owned());
    }
    let mut event = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": all,
        "requestContext": {
            "accountId": "000000000000",
            "apiId": "chat",
            "domainName": HOST,
            "domainPrefix": "chat",
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "harness"
            },
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": "$default",
            "stage": "$default",
            "time": "01/Jan/2026:00:00:00 +0000",
            "timeEpoch": 1_767_225_600_000_u64
        },
        "isBase64Encoded": false
    });
    if let Some(body) = body {
        event["body"] = body.to_string().into();
    }
    event
}

/// Reads a function's answer as an HTTP API does: what has no meaning to it is left out.
///
/// # Errors
/// What is wrong with it.
pub fn http_answer(answer: &Value) -> Result<Answer> {
    let status = answer["statusCode"].as_u64().and_then(|status| status.try_into().ok()).context("statusCode")?;
    let mut headers = HeaderMap::new();
    for (name, value) in answer["headers"].as_object().into_iter().flatten() {
        let value = value.as_str().with_context(|| format!("the header {name}"))?;
        headers.insert(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?);
    }
    let body = match (&answer["body"], &answer["isBase64Encoded"]) {
        (Value::Null, _) => Vec::new(),
        (encoded, Value::Bool(true)) => serde_json::from_value::<Base64Data>(encoded.clone())?.0,
        (body, _) => body.as_str().context("a body that is no text")?.as_bytes().to_vec(),
    };
    Ok(Answer { status, headers, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_what_an_http_api_puts_there() {
        let body = json!({"text": "hello"});
        let event = http_event("POST", "/a/b?c=1&d=%20", &[("X-One", "1"), ("x-one", "2")], Some(&body));
        assert_eq!((&event["rawPath"], &event["rawQueryString"]), (&json!("/a/b"), &json!("c=1&d=%20")));
        assert_eq!(event["headers"]["x-one"], "1,2");
        assert_eq!((&event["body"], &event["isBase64Encoded"]), (&json!(r#"{"text":"hello"}"#), &json!(false)));
        assert_eq!(http_event("GET", "/a", &[], None).get("body"), None);
    }

    #[test]
    fn an_answer_is_read_as_an_http_api_reads_it() {
        let answer = http_answer(&json!({"statusCode": 404, "headers": {"X-One": "1"}, "multiValueHeaders": {"x-two":
            ["2"]}, "body": "eyJhIjoxfQ==", "isBase64Encoded": true}));
        let answer = answer.unwrap();
        assert_eq!(
            (answer.status, &answer.headers["x-one"], &answer.body),
            (404, &HeaderValue::from_static("1"), &json!({"a": 1}))
        );
        assert!(!answer.headers.contains_key("x-two"), "payload 2.0 knows no multiValueHeaders");
        assert!(http_answer(&json!({"headers": {}})).is_err(), "without a status it is none");
    }
}
