//! A transaction in one network round trip.
//!
//! `BEGIN`, the statements and `COMMIT` are queued in one poll, without an await between them, so they leave in one
//! packet and are answered in one. Nothing can decide between two statements; a decision belongs into the SQL.
//!
//! Cancelling is not undoing: a call that is dropped after its first poll usually commits. The answers of what was
//! queued are drained by the connection itself, so it goes back to the pool clean; dropped before, nothing was sent.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use deadpool_postgres::Object;
use futures::future::try_join_all;
use tokio::time::timeout;
use tokio_postgres::{Client, Row, error::SqlState, types::ToSql};

use super::{ANSWER_TIMEOUT, sabotage::statement};
use crate::error::{Error, Result};

/// One statement and its parameters.
pub(crate) type Step<'a> = (&'static str, &'a [&'a (dyn ToSql + Sync)]);

/// A connection on loan. If we are dropped while a script is only partly queued (a panic in between), the
/// connection is closed instead of returned, and the server rolls back.
struct Loan {
    conn: Option<Object>,
    whole: bool,
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take().filter(|_| !self.whole) {
            drop(Object::take(conn));
        }
    }
}

type Answer = Result<Vec<Row>, tokio_postgres::Error>;
type Pending<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// Runs `begin`, the steps and `COMMIT` as one transaction in one round trip, and returns each step's rows.
///
/// # Errors
/// The first that occurred; then nothing was stored, except that an error of `COMMIT` itself, or no answer at all, means
/// unknown.
/// [`Kind::Unavailable`](crate::Kind::Unavailable) where trying again may help, else
/// [`Kind::Internal`](crate::Kind::Internal).
pub(crate) async fn run(conn: Object, begin: &str, steps: &[Step<'_>]) -> Result<Vec<Vec<Row>>> {
    let mut loan = Loan { conn: Some(conn), whole: false };
    let answered = timeout(ANSWER_TIMEOUT, on(&mut loan, begin, steps)).await;
    if answered.is_err() {
        // The server has gone quiet; nobody else shall wait for this connection.
        loan.whole = false;
    }
    answered.map_err(Error::unavailable)?
}

async fn on(loan: &mut Loan, begin: &str, steps: &[Step<'_>]) -> Result<Vec<Vec<Row>>> {
    let Loan { conn, whole } = loan;
    let conn = conn.as_ref().expect("taken only on drop");
    // Until BEGIN is queued there is nothing on the connection that could be cut.
    *whole = true;
    // Cached with the connection, those that are not in one round trip; this is the last await before BEGIN.
    let prepared = try_join_all(steps.iter().map(|(sql, _)| conn.prepare_cached(statement(sql)))).await;
    let prepared = prepared.map_err(translate)?;
    *whole = false;
    let client: &Client = conn;

    let mut queue: Vec<(Pending<'_>, Option<Answer>)> = Vec::with_capacity(steps.len() + 2);
    queue.push((Box::pin(async { client.batch_execute(begin).await.map(|()| Vec::new()) }), None));
    for ((_, params), statement) in steps.iter().zip(&prepared) {
        queue.push((Box::pin(async move { client.query(statement, params).await }), None));
    }
    queue.push((Box::pin(async { client.batch_execute("commit").await.map(|()| Vec::new()) }), None));

    // Every future is polled to its end whatever the others say: COMMIT must be queued even after a refusal.
    poll_fn(|cx| {
        let mut pending = false;
        for (future, answer) in queue.iter_mut().filter(|(_, answer)| answer.is_none()) {
            match future.as_mut().poll(cx) {
                Poll::Ready(ready) => *answer = Some(ready),
                Poll::Pending => pending = true,
            }
        }
        *whole = true;
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;

    let mut answers = Vec::with_capacity(queue.len());
    for (_, answer) in queue {
        answers.push(answer.expect("all were polled to their end").map_err(translate)?);
    }
    answers.pop();
    answers.remove(0);
    Ok(answers)
}

/// Which failures may pass by themselves: a lost connection, a full or restarting server, a timeout, a deadlock.
#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
pub(super) fn translate(error: tokio_postgres::Error) -> Error {
    let broken = || {
        let source = std::error::Error::source(&error);
        error.is_closed() || source.is_some_and(|source| source.is::<std::io::Error>())
    };
    let passing = error.code().map_or_else(broken, |code| {
        let class = &code.code()[..2];
        matches!(class, "08" | "53" | "57")
            || [
                &SqlState::LOCK_NOT_AVAILABLE,
                &SqlState::T_R_DEADLOCK_DETECTED,
                &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            ]
            .contains(&code)
    });
    // The driver's own sentence names only the kind; the server's has the reason, and no row data without DETAIL.
    let source = match error.as_db_error() {
        Some(server) => format!("{}: {}", server.code().code(), server.message()),
        None => error.to_string(),
    };
    if passing { Error::unavailable(source) } else { Error::internal(source) }
}
