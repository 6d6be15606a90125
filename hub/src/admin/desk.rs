//! Where commands are carried out: the owner's connection, who gives them, and how they answer.

use std::io::Write;

use chat_core::{
    Error, Result,
    store::{
        admin::{Done, Operator, Outcome, Record, Table, Values},
        owner::Owner,
    },
};
use serde::Serialize;
use serde_json::json;

/// A desk.
pub struct Desk<W> {
    /// The facts.
    pub owner: Owner,
    /// Who gives the command.
    pub by: Operator,
    /// Answers are JSON.
    pub json: bool,
    /// Where they go.
    pub out: W,
}

impl<W: Write> Desk<W> {
    /// Makes a row, and says what became of it.
    pub(super) async fn create(&mut self, table: &'static Table, values: Values) -> Result<()> {
        let done = self.owner.create(table, values, &self.by).await?;
        self.tell(table, &done)
    }

    /// Makes or changes a row, and says what became of it.
    pub(super) async fn set(&mut self, table: &'static Table, values: Values) -> Result<()> {
        let done = self.owner.set(table, values, &self.by).await?;
        self.tell(table, &done)
    }

    /// Changes a row, and says what became of it.
    pub(super) async fn change(&mut self, table: &'static Table, values: Values) -> Result<()> {
        let done = self.owner.change(table, values, &self.by).await?;
        self.tell(table, &done)
    }

    /// Removes a row, and says what became of it.
    pub(super) async fn remove(&mut self, table: &'static Table, key: Values) -> Result<()> {
        let done = self.owner.remove(table, key, &self.by).await?;
        self.tell(table, &done)
    }

    /// Shows the rows that have these values.
    pub(super) async fn list(&mut self, table: &'static Table, having: Values) -> Result<()> {
        let rows = self.owner.list(table, &having).await?;
        self.rows(&rows)
    }

    /// Shows the one row that has these values.
    pub(super) async fn show(&mut self, table: &'static Table, having: Values) -> Result<()> {
        let row = self.owner.list(table, &having).await?.pop();
        self.row(&row.ok_or_else(|| Error::field(table.noun, "there is none of this id"))?)
    }

    fn tell(&mut self, table: &Table, done: &Done) -> Result<()> {
        if self.json {
            return self.document(&json!({"outcome": done.outcome.as_str(), "changed": done.changed, "row": done.row}));
        }
        let line = match done.outcome {
            Outcome::Created | Outcome::Removed => format!("{} {}", done.outcome.as_str(), table.noun),
            Outcome::Changed => format!("changed {}: {}", table.noun, done.changed.join(", ")),
            Outcome::Unchanged => format!("nothing to change: {}", table.noun),
        };
        writeln!(self.out, "{line}").map_err(Error::internal)?;
        done.row.as_ref().map_or(Ok(()), |row| self.row(row))
    }

    /// Shows a row, each column on a line of its own.
    pub(super) fn row(&mut self, row: &Record) -> Result<()> {
        if self.json {
            return self.document(row);
        }
        for (name, value) in row.words() {
            writeln!(self.out, "  {name:<20} {}", one_line(&value)).map_err(Error::internal)?;
        }
        Ok(())
    }

    /// Shows rows, each on a line of its own below the names of the columns.
    pub(super) fn rows(&mut self, rows: &[Record]) -> Result<()> {
        if self.json {
            return self.document(&rows);
        }
        let Some(first) = rows.first() else { return Ok(()) };
        let head: Vec<String> = first.words().map(|(name, _)| name.to_owned()).collect();
        let lines: Vec<Vec<String>> =
            rows.iter().map(|row| row.words().map(|(_, value)| one_line(&value)).collect()).collect();
        let widths: Vec<usize> = (0..head.len())
            .map(|at| lines.iter().chain([&head]).map(|line| line[at].chars().count()).max().unwrap_or(0))
            .collect();
        for line in [&head].into_iter().chain(&lines) {
            let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            writeln!(self.out, "{}", cells.join("  ").trim_end()).map_err(Error::internal)?;
        }
        Ok(())
    }

    /// Says what was done, as JSON or in words.
    pub(super) fn outcome(&mut self, document: &impl Serialize, words: &str) -> Result<()> {
        if self.json {
            return self.document(document);
        }
        writeln!(self.out, "{words}").map_err(Error::internal)
    }

    fn document(&mut self, document: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(document).map_err(Error::internal)?;
        writeln!(self.out, "{text}").map_err(Error::internal)
    }
}

/// What stands in a row may have been written by others: it moves no cursor and begins no line.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
