//! What a hub hears from the bus: decoded once, written to each socket as it is.

use axum::extract::ws::Utf8Bytes;
use chat_core::{event::ServerFrame, ids::SocketId, keys::conversation_of, trace::Traceparent};

/// A published frame, ready to be written.
#[derive(Debug)]
pub struct Event {
    /// The frame.
    pub frame: ServerFrame,
    /// The frame as it is written; shared by all sockets.
    pub text: Utf8Bytes,
    /// The socket that was told directly and need not hear it again.
    pub via: Option<SocketId>,
    /// How much a delta adds, in Unicode code points; 0 of any other frame.
    pub chars: usize,
    /// Where its trace goes on, if it is followed; no client is told.
    pub traceparent: Option<Box<Traceparent>>,
}

/// Reads what was published under a conversation's name. Only frames of the contract pass, and only their fields: what else
/// stands in a payload, forged or from a newer version, reaches no client. One that names another conversation is refused.
#[must_use]
pub fn decode(topic: &str, payload: &[u8]) -> Option<Event> {
    let mut frame: ServerFrame = serde_json::from_slice(payload).ok()?;
    if frame.conversation().is_some_and(|named| conversation_of(topic) != Some(named)) {
        return None;
    }
    let via = match &mut frame {
        ServerFrame::Typing { via, .. } => via.take(),
        ServerFrame::Ready { .. } | ServerFrame::Accepted { .. } | ServerFrame::Reconnect { .. } => return None,
        ServerFrame::Message { .. }
        | ServerFrame::Turn { .. }
        | ServerFrame::Delta { .. }
        | ServerFrame::Tool { .. }
        | ServerFrame::Response { .. }
        | ServerFrame::Status { .. }
        | ServerFrame::Read { .. }
        | ServerFrame::Conversation { .. }
        | ServerFrame::Error { .. }
        | ServerFrame::Reset { .. } => None,
    };
    let chars = if let ServerFrame::Delta { text, .. } = &frame { text.chars().count() } else { 0 };
    let traceparent = Traceparent::taken_off(payload).map(Box::new);
    Some(Event { text: frame.json().into(), frame, via, chars, traceparent })
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn only_frames_that_belong_on_the_bus_pass() {
        let conversation = "01936f6e-0000-7000-8000-000000000000";
        let typing = format!(
            r#"{{"type":"typing","conversation_id":"{conversation}","origin":"agent","via":"{conversation}","evil":1}}"#
        );
        let topic = format!("{conversation}:webchat:response:{conversation}");
        let event = decode(&topic, typing.as_bytes()).unwrap();
        assert!(event.via.is_some());
        assert_eq!(
            event.text.as_str(),
            format!(r#"{{"type":"typing","conversation_id":"{conversation}","origin":"agent"}}"#)
        );
        for foreign in ["", "{}", r#"{"type":"reconnect","delay_ms":0}"#, r#"{"type":"dance"}"#, "\u{0}"] {
            assert!(decode(&topic, foreign.as_bytes()).is_none(), "{foreign}");
        }
        let elsewhere = topic.replace("response:01936f6e", "response:01936f6f");
        assert!(decode(&elsewhere, typing.as_bytes()).is_none(), "it names another conversation");
    }
}
