//! The keys that write nothing (<https://www.w3.org/TR/webdriver2/#keyboard-actions>), and letters for shortcuts.

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Held while others are pressed.
    Alt,
    /// Held while others are pressed.
    Control,
    /// Held while others are pressed.
    Shift,
    /// ↓
    Down,
    /// ↑
    Up,
    /// Ends a line, or sends it.
    Enter,
    /// Lets go.
    Escape,
    /// Presses a button that has the focus.
    Space,
    /// On to the next thing.
    Tab,
    /// Whatever this writes.
    Letter(char),
}

impl Key {
    /// It is held while others are pressed.
    pub(super) fn is_held(self) -> bool {
        matches!(self, Self::Alt | Self::Control | Self::Shift)
    }

    /// As the protocol writes it.
    pub(super) fn sign(self) -> char {
        match self {
            Self::Alt => '\u{e00a}',
            Self::Control => '\u{e009}',
            Self::Shift => '\u{e008}',
            Self::Down => '\u{e015}',
            Self::Up => '\u{e013}',
            Self::Enter => '\u{e007}',
            Self::Escape => '\u{e00c}',
            Self::Space => ' ',
            Self::Tab => '\u{e004}',
            Self::Letter(letter) => letter,
        }
    }
}
