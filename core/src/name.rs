//! Names of tenants, principals, topics, consumer groups and queues.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// A name: 1–249 characters of `[A-Za-z0-9._-]`, and not `.` or `..`. This is Kafka's rule for topic names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a name has 1 to 249 characters of [A-Za-z0-9._-] and is not '.' or '..'")]
pub struct NameError;

impl Name {
    pub const MAX_LEN: usize = 249;

    pub fn new(text: &str) -> Result<Self, NameError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let valid = (1..=Self::MAX_LEN).contains(&text.len())
            && text.bytes().all(allowed)
            && text != "."
            && text != "..";
        if valid { Ok(Self(text.into())) } else { Err(NameError) }
    }

    /// The tenant that a server without authentication uses.
    #[must_use]
    pub fn default_tenant() -> Self {
        Self::literal("default")
    }

    /// A name from a literal in this crate, which must be valid.
    pub(crate) fn literal(text: &'static str) -> Self {
        debug_assert!(Self::new(text).is_ok());
        Self(text.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_kafkas_names_and_nothing_else() {
        for good in ["a", "A-b_c.9", "...", &"x".repeat(249)] {
            assert!(Name::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a b", "ä", "a/b", "a\0", &"x".repeat(250)] {
            assert_eq!(Name::new(bad), Err(NameError), "{bad}");
        }
    }
}
