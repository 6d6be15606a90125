//! What must never be seen: tokens, keys, and addresses with a password in them.
//!
//! A [`Secret`] is made where the value comes in and opened where the value is used. In between it cannot be printed,
//! since it does not know how: that is checked here, when this is compiled.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroizing;

/// A text that cannot be printed, compared or sent by accident. Its memory is overwritten when it is dropped.
///
/// It has neither `Debug` nor `Display` nor `Serialize`, so whatever holds one has none of them by derivation either.
#[derive(Clone, Default)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The value, at the place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(Zeroizing::new(value))
    }
}

impl<'de> Deserialize<'de> for Secret {
    /// Reads a text.
    ///
    /// # Errors
    /// Anything else, without repeating it: the library's own complaint would quote a number or a truth value.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer);
        text.map(Self::from).map_err(|_| serde::de::Error::custom("must be a string"))
    }
}

/// The proof. For a type with one of these traits it would not be clear which `print` is meant, and nothing compiles.
const _: fn() = || {
    trait Prints<By> {
        fn print() {}
    }
    struct ByDebug;
    struct ByDisplay;
    struct BySerialize;
    impl<T: ?Sized> Prints<()> for T {}
    impl<T: ?Sized + fmt::Debug> Prints<ByDebug> for T {}
    impl<T: ?Sized + fmt::Display> Prints<ByDisplay> for T {}
    impl<T: ?Sized + Serialize> Prints<BySerialize> for T {}
    let _ = <Secret as Prints<_>>::print;
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_text_is_not_repeated() {
        assert_eq!(serde_json::from_str::<Secret>(r#""hunter2""#).ok().unwrap().expose(), "hunter2");
        for wrong in ["31337", "true", "[\"hunter2\"]", r#"{"hunter2": 1}"#] {
            let complaint = serde_json::from_str::<Secret>(wrong).err().unwrap().to_string();
            assert!(complaint.starts_with("must be a string"), "{complaint}");
        }
    }
}
