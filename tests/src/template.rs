//! A template of CloudFormation, read as the service reads it, as far as the tests here ask.
//!
//! Tags become what they are short for: `!Ref Name` is `{"Ref": "Name"}`, `!Sub text` is `{"Fn::Sub": "text"}`.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, anyhow, bail};
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value, json};

/// A template, and what its parameters are.
pub struct Template {
    /// The whole of it.
    pub document: Value,
    /// The parameters that were given; others have their defaults.
    pub given: BTreeMap<String, String>,
}

impl Template {
    /// Reads a file of this repository.
    ///
    /// # Errors
    /// If it is not there, or no YAML.
    pub fn read(path: &str) -> Result<Self> {
        let text = std::fs::read_to_string(root().join(path)).with_context(|| path.to_owned())?;
        let documents = Yaml::load_from_str(&text).with_context(|| path.to_owned())?;
        let document = value(documents.first().with_context(|| format!("{path} is empty"))?)?;
        Ok(Self { document, given: BTreeMap::new() })
    }

    /// The same template with these parameters.
    #[must_use]
    pub fn with<'a>(mut self, given: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        self.given.extend(given.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        self
    }

    /// The parameters by name: default, or none.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, Option<&Value>)> {
        let all = self.document["Parameters"].as_object().into_iter().flatten();
        all.map(|(name, parameter)| (name.as_str(), parameter.get("Default")))
    }

    /// The resources of a type, by name.
    pub fn resources<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let all = self.document["Resources"].as_object().into_iter().flatten();
        all.filter(move |(_, resource)| resource["Type"] == kind)
            .map(|(name, resource)| (name.as_str(), &resource["Properties"]))
    }

    /// The properties of a resource.
    #[must_use]
    pub fn resource(&self, name: &str) -> &Value {
        &self.document["Resources"][name]["Properties"]
    }

    /// What a value comes to: text as it is, references to parameters as they are given, and what only the service can
    /// know as its own name in brackets. None, where a condition leaves it out.
    ///
    /// # Errors
    /// If a parameter has neither been given nor a default, or it is no text.
    pub fn text(&self, value: &Value) -> Result<Option<String>> {
        let Some(value) = self.chosen(value)? else { return Ok(None) };
        Ok(Some(match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            Value::Object(call) => {
                let (name, argument) = call.iter().next().context("an empty object")?;
                match (name.as_str(), argument) {
                    ("Ref", Value::String(name)) => self.reference(name)?,
                    ("Fn::GetAtt", Value::String(name)) => format!("<{name}>"),
                    ("Fn::Sub", Value::String(text)) => self.filled(text)?,
                    _ => bail!("{name} is not understood here"),
                }
            }
            Value::Null | Value::Array(_) => bail!("{value} is no text"),
        }))
    }

    /// The number that a value comes to.
    ///
    /// # Errors
    /// As [`Template::text`], or if it is none.
    pub fn number(&self, value: &Value) -> Result<u64> {
        let text = self.text(value)?.context("it is left out")?;
        text.parse().with_context(|| format!("{text} is no number"))
    }

    /// A value, or that of the two between which a condition chooses; none, if that is nothing.
    ///
    /// # Errors
    /// If a condition is not understood.
    pub fn chosen<'a>(&self, value: &'a Value) -> Result<Option<&'a Value>> {
        if value["Ref"] == "AWS::NoValue" {
            return Ok(None);
        }
        let Some(arms) = value["Fn::If"].as_array() else { return Ok(Some(value)) };
        let condition = &self.document["Conditions"][arms[0].as_str().context("a condition has a name")?];
        self.chosen(&arms[if self.holds(condition)? { 1 } else { 2 }])
    }

    fn holds(&self, condition: &Value) -> Result<bool> {
        if let Some(not) = condition["Fn::Not"].as_array() {
            return Ok(!self.holds(&not[0])?);
        }
        let equal =
            condition["Fn::Equals"].as_array().with_context(|| format!("{condition} is not understood here"))?;
        Ok(self.text(&equal[0])? == self.text(&equal[1])?)
    }

    fn reference(&self, name: &str) -> Result<String> {
        if let Some(given) = self.given.get(name) {
            return Ok(given.clone());
        }
        let parameter = &self.document["Parameters"][name];
        if parameter.is_null() {
            return Ok(format!("<{name}>"));
        }
        self.text(parameter.get("Default").with_context(|| format!("{name} is not given"))?)?.context("never left out")
    }

    fn filled(&self, text: &str) -> Result<String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after.split_once('}').context("a name without its end")?;
            filled.push_str(before);
            filled.push_str(&self.reference(name)?);
            rest = after;
        }
        Ok(filled + rest)
    }
}

/// The folder of the repository.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn value(node: &Yaml<'_>) -> Result<Value> {
    Ok(match node {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(truth)) => json!(truth),
        Yaml::Value(Scalar::Integer(number)) => json!(number),
        Yaml::Value(Scalar::FloatingPoint(number)) => json!(number.into_inner()),
        Yaml::Value(Scalar::String(text)) => json!(text),
        Yaml::Representation(text, ..) => json!(text),
        Yaml::Sequence(nodes) => Value::Array(nodes.iter().map(value).collect::<Result<_>>()?),
        Yaml::Mapping(entries) => {
            let mut object = Map::new();
            for (name, node) in entries {
                let name = name.as_str().context("a name that is no text")?;
                if object.insert(name.to_owned(), value(node)?).is_some() {
                    bail!("{name} comes twice");
                }
            }
            Value::Object(object)
        }
        Yaml::Tagged(tag, node) => {
            let name = match tag.suffix.as_str() {
                name @ ("Ref" | "Condition") => name.to_owned(),
                name => format!("Fn::{name}"),
            };
            json!({name: value(node)?})
        }
        Yaml::Alias(_) => bail!("an alias"),
        Yaml::BadValue => return Err(anyhow!("a value that cannot be read")),
    })
}
