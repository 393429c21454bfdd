//! What the console shows: lists by key, newest first, and figures of the last hour. It reads; what it changes is in
//! the modules of what is changed.
//!
//! A list has an owner's rows or everybody's. It begins after the last row of the page before, so that the hundredth
//! page costs what the first does.

pub mod bases;
pub mod builds;
mod by_time;
pub mod figures;
pub mod functions;
pub mod revoked;
pub mod tasks;

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// The last row of the page before, of lists by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    pub at: DateTime<Utc>,
    pub id: Uuid,
}

/// Text as the beginning of a `like`.
fn prefix(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 1);
    for character in text.chars() {
        if matches!(character, '\\' | '%' | '_') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_looks_for_is_no_pattern() {
        assert_eq!(prefix("a_b%c\\"), "a\\_b\\%c\\\\%");
    }
}
