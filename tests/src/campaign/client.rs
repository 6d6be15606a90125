//! A portal user in one conversation: says things, sends again what was not confirmed, comes back after every drop, and
//! writes down what it is shown.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use chat_core::{
    conversation::TurnState,
    event::ServerFrame,
    ids::{ClientMessageId, MessageId, TurnId},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    ledger::{End, Entry, Ledger, marks},
    rest::Rest,
    script::REPLY,
    view::View,
};
use crate::clients::{Heard, Socket};

/// Longest wait for a connection, and for `ready`.
const JOIN_PATIENCE: Duration = Duration::from_secs(12);

/// A message without an answer is sent again after this.
const ANSWER_PATIENCE: Duration = Duration::from_secs(4);

/// How long a client stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum Stay {
    /// It talks as long as there is something to say.
    Talk,
    /// It listens.
    Listen,
    /// It goes.
    Go,
}

/// What all clients share.
pub struct Shared {
    /// Where the sockets are.
    pub ws: String,
    /// Every message.
    pub ledger: Arc<Ledger>,
    /// Leave to say something; so that the messages last as long as the faults.
    pub leave_to_speak: Semaphore,
    /// Messages that one client has open at once.
    pub open: usize,
    /// How long they stay.
    pub stay: watch::Receiver<Stay>,
}

/// One client: a tab of a user.
pub struct Client {
    /// Number of its conversation.
    pub number: usize,
    /// Its conversation's id.
    pub conversation: String,
    /// What it shows; shared with whoever judges.
    pub view: Arc<Mutex<View>>,
    /// Whether it talks, or only listens as a second tab.
    pub talks: bool,
    /// Its user's token.
    pub token: String,
    /// REST as its user.
    pub rest: Rest,
    /// What it shares with the others.
    pub shared: Arc<Shared>,
    /// Decides what it does.
    pub random: StdRng,
    /// Messages that it said and that have no end yet.
    open: Vec<Sent>,
    said: usize,
    /// The hub's wish, when it went away.
    delay: Option<Duration>,
    /// It was told to read everything again, and has not yet.
    must_read: bool,
    /// Calls over REST under way.
    calls: tokio::task::JoinSet<()>,
}

/// Why a socket is not there any more.
enum Left {
    /// It dropped; come again.
    Dropped,
    /// A hub said not to come again.
    PutOut(u16),
}

impl From<serde_json::Error> for Left {
    fn from(_: serde_json::Error) -> Self {
        // A frame that nobody can read is no fault of the network.
        Self::PutOut(1011)
    }
}

impl From<anyhow::Error> for Left {
    fn from(_: anyhow::Error) -> Self {
        Self::Dropped
    }
}

/// A message on its way.
struct Sent {
    entry: Arc<Entry>,
    /// The epoch that this client knew of when it said so.
    epoch: i32,
    /// When to send it (again) over this socket; `None` for one that goes over REST.
    due: Option<Instant>,
}

impl Client {
    /// A client that was not there yet.
    #[must_use]
    pub fn new(number: usize, talks: bool, token: String, rest: Rest, shared: Arc<Shared>, seed: u64) -> Self {
        Self {
            number,
            conversation: rest.conversation.clone(),
            view: Arc::default(),
            talks,
            token,
            rest,
            shared,
            random: StdRng::seed_from_u64(seed),
            open: Vec::new(),
            said: 0,
            delay: None,
            must_read: false,
            calls: tokio::task::JoinSet::new(),
        }
    }

    /// Lives until it shall go.
    ///
    /// # Errors
    /// If a hub puts it out for good, which nothing here is a reason for.
    #[expect(clippy::disallowed_methods, reason = "backs off as a client does")]
    pub async fn live(mut self) -> Result<Self> {
        let mut stay = self.shared.stay.clone();
        loop {
            if *stay.borrow() == Stay::Go {
                return Ok(self);
            }
            let visit = async {
                let mut socket = timeout(JOIN_PATIENCE, self.join()).await.map_err(|_| Left::Dropped)??;
                self.talk(&mut socket).await
            };
            tokio::select! {
                left = visit => if let Err(Left::PutOut(code)) = left {
                    bail!("client {} was put out with {code}", self.number);
                },
                _ = stay.wait_for(|stay| *stay == Stay::Go) => return Ok(self),
            }
            let jitter = Duration::from_millis(self.random.random_range(20..400));
            let delay = self.delay.take().map_or(jitter, |delay| delay.min(Duration::from_secs(2)));
            tokio::select! {
                () = sleep(delay) => {}
                _ = stay.wait_for(|stay| *stay == Stay::Go) => return Ok(self),
            }
        }
    }

    /// Comes in with what it has seen, and hears what it missed.
    async fn join(&mut self) -> Result<Socket, Left> {
        let mut socket = Socket::open(&self.shared.ws, &self.conversation, None).await?;
        let mut auth = json!({"type": "auth", "token": self.token});
        if let Some((last_seq, epoch)) = self.with_view(|view| view.seen()) {
            auth["last_seq"] = last_seq.into();
            auth["epoch"] = epoch.into();
        }
        self.with_view(View::comes_back);
        socket.say(&auth).await?;
        let now = Instant::now();
        for sent in &mut self.open {
            // Whatever was not confirmed is sent again over the new socket.
            sent.due = sent.due.map(|_| now);
        }
        loop {
            match socket.hear().await {
                Heard::Frame(text) => {
                    if self.frame(&text)? {
                        return Ok(socket);
                    }
                }
                Heard::Close(code) => return Err(left(code)),
            }
        }
    }

    /// Comes back once more, after everything, and hears what it missed.
    ///
    /// # Errors
    /// If it is not let in.
    pub async fn last_visit(&mut self) -> Result<()> {
        match timeout(JOIN_PATIENCE, self.join()).await.context("nobody says ready")? {
            Ok(_) => self.read_again().await,
            Err(Left::Dropped) => bail!("dropped"),
            Err(Left::PutOut(code)) => bail!("put out with {code}"),
        }
    }

    /// Stays until the socket does not.
    async fn talk(&mut self, socket: &mut Socket) -> Result<std::convert::Infallible, Left> {
        let mut tick = interval(Duration::from_millis(40));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                heard = socket.hear() => match heard {
                    Heard::Frame(text) => { self.frame(&text)?; }
                    Heard::Close(code) => return Err(left(code)),
                },
                _ = tick.tick() => {
                    // What cannot be read now is read with the next tick.
                    let _ = self.read_again().await;
                    self.speak(socket).await?;
                }
            }
        }
    }

    /// Says something new if it may, and again what was not confirmed.
    async fn speak(&mut self, socket: &mut Socket) -> Result<()> {
        self.note_ends();
        let may = self.talks && self.open.len() < self.shared.open && *self.shared.stay.borrow() == Stay::Talk;
        if may
            && self.random.random_bool(0.3)
            && let Ok(leave) = self.shared.leave_to_speak.try_acquire()
        {
            leave.forget();
            self.said += 1;
            let entry = self.shared.ledger.add(self.number, self.said);
            let by_rest = self.random.random_bool(0.1);
            if by_rest {
                let (rest, ledger, entry) = (self.rest.clone(), Arc::clone(&self.shared.ledger), Arc::clone(&entry));
                self.calls.spawn(async move { rest.say(&ledger, &entry).await });
            }
            let epoch = self.with_view(|view| view.epoch());
            self.open.push(Sent { entry, epoch, due: (!by_rest).then(Instant::now) });
        }
        while self.calls.try_join_next().is_some() {}
        let now = Instant::now();
        for sent in &mut self.open {
            if sent.entry.life().accepted.is_none() && sent.due.is_some_and(|due| due <= now) {
                sent.due = Some(now + ANSWER_PATIENCE);
                self.shared.ledger.tried(&sent.entry);
                socket.message(&sent.entry.text, Some(&sent.entry.key.to_string())).await?;
            }
        }
        if self.random.random_bool(0.001)
            && let Some((_, turn)) = self.open.first().and_then(|sent| sent.entry.life().accepted)
        {
            socket.say(&json!({"type": "stop", "turn_id": turn})).await?;
        }
        Ok(())
    }

    /// Notes a frame down. Returns whether it was `ready`.
    fn frame(&mut self, text: &str) -> Result<bool, serde_json::Error> {
        let frame: ServerFrame = serde_json::from_str(text)?;
        match frame {
            ServerFrame::Ready { last_seq, epoch, resumed, .. } => {
                self.must_read |= self.with_view(|view| view.ready(last_seq, epoch, resumed));
                return Ok(true);
            }
            ServerFrame::Accepted { message_id, seq, turn_id, client_message_id, duplicate } => {
                if duplicate {
                    self.must_read |= self.with_view(|view| view.hear_again(seq, message_id));
                } else {
                    self.with_view(|view| view.hear(seq, message_id));
                }
                self.accepted(client_message_id, turn_id);
            }
            ServerFrame::Message { message } => {
                self.with_view(|view| view.hear(message.seq, message.id));
                self.must_be_ours(&message.content);
            }
            ServerFrame::Response { text, message_id, seq, turn_id, .. } => {
                self.with_view(|view| view.hear(seq, message_id));
                self.must_be_ours(&text);
                if let Some(turn) = turn_id {
                    self.with_view(|view| view.whole(turn, &text));
                    self.answers_its_question(turn, &text);
                    self.ended(turn, TurnState::Answered, Some(message_id));
                }
            }
            ServerFrame::Turn { turn_id, state, message_id, .. } if state.ended() => {
                self.ended(turn_id, state, message_id);
            }
            ServerFrame::Error { code, client_message_id, retry_after_ms, .. } => {
                self.shared.ledger.error(code);
                let pause = Duration::from_millis(retry_after_ms.unwrap_or(500).min(1_500));
                if let Some(sent) = self.open.iter_mut().find(|sent| Some(sent.entry.key) == client_message_id) {
                    sent.due = sent.due.map(|_| Instant::now() + pause);
                }
            }
            ServerFrame::Reset { epoch } => {
                self.with_view(|view| view.reset(epoch));
                self.must_read = true;
            }
            ServerFrame::Reconnect { delay_ms } => self.delay = Some(Duration::from_millis(delay_ms)),
            ServerFrame::Delta { turn_id, offset, text, .. } => {
                self.with_view(|view| view.delta(turn_id, offset, &text));
            }
            ServerFrame::Typing { .. }
            | ServerFrame::Tool { .. }
            | ServerFrame::Turn { .. }
            | ServerFrame::Status { .. }
            | ServerFrame::Read { .. }
            | ServerFrame::Conversation { .. } => {}
        }
        Ok(false)
    }

    fn accepted(&self, key: Option<ClientMessageId>, turn: TurnId) {
        if let Some(sent) = self.open.iter().find(|sent| Some(sent.entry.key) == key) {
            self.shared.ledger.accepted(&sent.entry, turn);
        }
    }

    /// Forgets the messages that came to an end. It may have been heard before the confirmation was; and what a reset has
    /// taken has ended with it.
    fn note_ends(&mut self) {
        let shared = Arc::clone(&self.view);
        let view = shared.lock().unwrap_or_else(PoisonError::into_inner);
        for sent in &mut self.open {
            let Some((_, turn)) = sent.entry.life().accepted else { continue };
            if let Some(state) = view.end_of(turn) {
                self.shared.ledger.ended(&sent.entry, End::Turn(state));
            } else if sent.epoch < view.epoch() && !self.must_read {
                // Everything was read again since. What is there all the same was stored after the reset.
                if view.shows(turn.into()) {
                    sent.epoch = view.epoch();
                } else {
                    self.shared.ledger.ended(&sent.entry, End::Reset);
                }
            }
        }
        drop(view);
        self.open.retain(|sent| sent.entry.life().end.is_none());
    }

    fn ended(&self, turn: TurnId, state: TurnState, reply: Option<MessageId>) {
        self.with_view(|view| view.end(turn, state, reply));
        if self.talks
            && let Some(entry) = self.shared.ledger.of(turn)
        {
            self.shared.ledger.ended(&entry, End::Turn(state));
        }
    }

    fn must_be_ours(&self, text: &str) {
        let ours = format!("c{}.", self.number);
        if marks(text).any(|mark| !mark.starts_with(&ours)) {
            self.shared.ledger.foreign();
        }
    }

    fn answers_its_question(&self, turn: TurnId, text: &str) {
        // A reply that was stopped has only the beginning of it.
        let answers = |entry: Arc<Entry>| format!("{REPLY}{}", entry.text).starts_with(text);
        if self.shared.ledger.of(turn).is_some_and(|entry| !answers(entry)) {
            self.shared.ledger.foreign();
        }
    }

    /// Reads everything again, if it was told to.
    async fn read_again(&mut self) -> Result<()> {
        if self.must_read {
            let rows = self.rest.history().await?;
            self.with_view(|view| view.read(rows));
            self.must_read = false;
        }
        Ok(())
    }

    fn with_view<T>(&self, look: impl FnOnce(&mut View) -> T) -> T {
        look(&mut self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a close code tells a client to do.
fn left(code: Option<u16>) -> Left {
    // The final ones of the contract, and those that tell of a defect of ours.
    code.filter(|code| [1002, 1011, 4400, 4401, 4403, 4404].contains(code)).map_or(Left::Dropped, Left::PutOut)
}
