//! What a hub hears from the bus: decoded once, written to each socket as it is.

use axum::extract::ws::Utf8Bytes;
use chat_core::{event::ServerFrame, ids::SocketId};

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
}

/// Reads a publication. Only frames of the contract pass, and only their fields: what else stands in a payload,
/// forged or from a newer version, reaches no client.
#[must_use]
pub fn decode(payload: &[u8]) -> Option<Event> {
    let mut frame: ServerFrame = serde_json::from_slice(payload).ok()?;
    let via = match &mut frame {
        ServerFrame::Typing { via, .. } => via.take(),
        ServerFrame::Ready { .. } | ServerFrame::Accepted { .. } | ServerFrame::Reconnect { .. } => return None,
        ServerFrame::Message { .. }
        | ServerFrame::Turn { .. }
        | ServerFrame::Delta { .. }
        | ServerFrame::Tool { .. }
        | ServerFrame::Response { .. }
        | ServerFrame::Status { .. }
        | ServerFrame::Error { .. }
        | ServerFrame::Reset { .. } => None,
    };
    let chars = if let ServerFrame::Delta { text, .. } = &frame { text.chars().count() } else { 0 };
    Some(Event { text: frame.json().into(), frame, via, chars })
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
        let event = decode(typing.as_bytes()).unwrap();
        assert!(event.via.is_some());
        assert_eq!(
            event.text.as_str(),
            format!(r#"{{"type":"typing","conversation_id":"{conversation}","origin":"agent"}}"#)
        );
        for foreign in ["", "{}", r#"{"type":"reconnect","delay_ms":0}"#, r#"{"type":"dance"}"#, "\u{0}"] {
            assert!(decode(foreign.as_bytes()).is_none(), "{foreign}");
        }
    }
}
