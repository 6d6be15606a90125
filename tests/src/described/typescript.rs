//! Both documents as TypeScript declarations. Only what our own types become is known here; anything else fails loudly.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::Value;

use super::{entries, text};

const HEAD: &str = "// What goes over the wire of the Konstruct web chat, for clients in TypeScript.
// Made by `cargo describe` of docs/openapi.json and docs/asyncapi.json; not to be edited by hand.
";

/// The declarations of every type, frame and operation.
#[must_use]
pub fn declarations(rest: &Value, socket: &Value) -> String {
    let mut out = HEAD.to_owned();
    let of = |document: &'_ Value| -> Vec<(String, Value)> {
        entries(&document["components"]["schemas"]).map(|(name, schema)| (name.clone(), schema.clone())).collect()
    };
    let schemas: BTreeMap<String, Value> = of(socket).into_iter().chain(of(rest)).collect();
    for (name, schema) in &schemas {
        declare(&mut out, name, schema);
    }
    for (side, what) in [("Server", "What the server sends."), ("Client", "What a client sends.")] {
        let messages = entries(&socket["components"]["messages"]).filter(|(name, _)| name.starts_with(side));
        let names: Vec<&str> = messages.map(|(name, _)| name.as_str()).collect();
        let _ = write!(
            out,
            "\n/** {what} `type` tells which. */\nexport type {side}Frame =\n  | {};\n",
            names.join("\n  | ")
        );
    }
    out.push_str(
        "\n/** Every operation of REST, by its `operationId`: where it is, what it takes, and what it answers. */\n",
    );
    out.push_str("export interface Operations {\n");
    for (path, methods) in entries(&rest["paths"]) {
        for (method, operation) in entries(methods) {
            operate(&mut out, path, method, operation);
        }
    }
    out.push_str("}\n");
    out
}

fn declare(out: &mut String, name: &str, schema: &Value) {
    out.push('\n');
    comment(out, "", schema);
    if schema.get("properties").is_some() {
        let _ = writeln!(out, "export interface {name} {}", object(schema, ""));
    } else {
        let _ = writeln!(out, "export type {name} = {};", written(schema, ""));
    }
}

fn comment(out: &mut String, indent: &str, schema: &Value) {
    let said = text(&schema["description"]).split_whitespace().collect::<Vec<_>>().join(" ");
    if !said.is_empty() {
        let _ = writeln!(out, "{indent}/** {} */", said.replace("*/", "* /"));
    }
}

fn object(schema: &Value, indent: &str) -> String {
    let mut out = "{\n".to_owned();
    let inner = format!("{indent}  ");
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().map(text).collect();
    for (name, field) in entries(&schema["properties"]) {
        // What a nullable field says of itself stands beside the `null`.
        let described = if field.get("description").is_some() { field } else { &field["oneOf"][0] };
        comment(&mut out, &inner, described);
        let optional = if required.contains(&name.as_str()) { "" } else { "?" };
        let _ = writeln!(out, "{inner}{name}{optional}: {};", written(field, &inner));
    }
    out.push_str(indent);
    out.push('}');
    out
}

/// A schema where a type is expected.
fn written(schema: &Value, indent: &str) -> String {
    if let Some(name) = schema["$ref"].as_str() {
        return name.rsplit('/').next().unwrap_or_default().to_owned();
    }
    if let Some(only) = schema.get("const") {
        return only.to_string();
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().map(Value::to_string).collect::<Vec<_>>().join(" | ");
    }
    if let Some(one_of) = schema["oneOf"].as_array() {
        return one_of.iter().map(|one| written(one, indent)).collect::<Vec<_>>().join(" | ");
    }
    let kind = &schema["type"];
    let kinds: Vec<&str> = kind.as_array().map_or_else(|| vec![text(kind)], |kinds| kinds.iter().map(text).collect());
    let one = |kind: &str| match kind {
        "string" | "boolean" | "null" => kind.to_owned(),
        "integer" | "number" => "number".to_owned(),
        "array" => format!("Array<{}>", written(&schema["items"], indent)),
        "object" if schema.get("properties").is_some() => object(schema, indent),
        "object" => "Record<string, unknown>".to_owned(),
        other => panic!("not known how to write a type {other} in TypeScript: {schema}"),
    };
    kinds.into_iter().map(one).collect::<Vec<_>>().join(" | ")
}

fn operate(out: &mut String, path: &str, method: &str, operation: &Value) {
    let summary = text(&operation["summary"]);
    let _ = writeln!(out, "  /** {summary}. */\n  {}: {{", text(&operation["operationId"]));
    let _ = writeln!(out, "    method: \"{}\";\n    path: \"{path}\";", method.to_uppercase());
    for (place, field) in [("path", "params"), ("query", "query"), ("header", "headers")] {
        let all = operation["parameters"].as_array().into_iter().flatten();
        let here: Vec<&Value> = all.filter(|parameter| parameter["in"] == place).collect();
        if here.is_empty() {
            continue;
        }
        let _ = writeln!(out, "    {field}: {{");
        for parameter in here {
            comment(out, "      ", parameter);
            let optional = if parameter["required"] == true { "" } else { "?" };
            let kind = written(&parameter["schema"], "      ");
            let _ = writeln!(out, "      \"{}\"{optional}: {kind};", text(&parameter["name"]));
        }
        out.push_str("    };\n");
    }
    if let Some(body) = operation["requestBody"]["content"]["application/json"].get("schema") {
        let _ = writeln!(out, "    body: {};", written(body, "    "));
    }
    let done = entries(&operation["responses"]).filter(|(status, _)| status.starts_with('2'));
    let mut answers: Vec<String> = done
        .flat_map(|(_, response)| match response.get("content") {
            Some(content) => entries(content).map(|(_, content)| written(&content["schema"], "    ")).collect(),
            None => vec!["undefined".to_owned()],
        })
        .collect();
    answers.sort();
    answers.dedup();
    let _ = writeln!(out, "    answer: {};\n  }};", answers.join(" | "));
}
