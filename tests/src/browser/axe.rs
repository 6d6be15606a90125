//! What keeps people out, as far as a program can tell: axe-core, put into the page from outside.

use anyhow::{Result, ensure};
use serde_json::json;

use super::Browser;

const AXE: &str = include_str!("../../browser/vendor/axe.min.js");

/// All rules, best practices among them. What only a person can judge (`incomplete`) is left to people.
const RUN: &str = "const done = arguments[arguments.length - 1];
    axe.run(document, {resultTypes: ['violations']}).then(({violations}) => done(violations.flatMap(({id, help, nodes}) =>
        nodes.map((node) => `${id} (${help}): ${node.target.join(' ')} ${node.html.slice(0, 200)} ${node.any.concat(node.all, node.none).map((one) => one.message).join('; ')}`))),
        (error) => done(`axe failed: ${error}`))";

impl Browser {
    /// Finds nothing in the frame we are in that keeps people out.
    ///
    /// # Errors
    /// What it finds, and where.
    pub async fn open_to_all(&self, what: &str) -> Result<()> {
        self.js(&format!("if (!window.axe) {{ {AXE}; window.axe = axe }}"), &[]).await?;
        let said = self.driver.post("execute/async", &json!({"script": RUN, "args": []})).await?;
        ensure!(said == json!([]), "{what}: {said:#}");
        Ok(())
    }
}
