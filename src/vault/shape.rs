//! What is wrong with a request by itself, before anybody asks whether it is allowed.

use super::{Reason, Violation};
use crate::scope;

/// Items that one call may name.
pub const BATCH_AT_MOST: usize = 1000;

const WORDS_AT_MOST: usize = 64;
/// A purpose stands in the log in clear. Eight digits fit a ticket's number and not a card's.
const DIGITS_AT_MOST: usize = 8;

/// A batch has 1 to 1,000 items.
pub(super) fn check_batch(field: &'static str, length: usize) -> Result<(), Violation> {
    match length {
        0 => Err(Violation { field, reason: Reason::BatchEmpty }),
        1..=BATCH_AT_MOST => Ok(()),
        _ => Err(Violation { field, reason: Reason::BatchTooLarge }),
    }
}

/// The scope's name, if it is one. Whether there is such a scope is for policy to say.
pub(super) fn scope_path(scope: &str) -> Result<scope::Path, Violation> {
    scope::Path::parse(scope).map_err(|_| Violation { field: "scope", reason: Reason::ScopeMalformed })
}

/// Whether `words` may stand in the log as a purpose or a reason. Empty is for the caller to judge.
pub fn check_words(words: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b" ._:/-".contains(&byte);
    words.len() <= WORDS_AT_MOST
        && words.bytes().all(allowed)
        && words.bytes().filter(u8::is_ascii_digit).count() <= DIGITS_AT_MOST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_card_numbers_out_of_the_log() {
        for good in ["refund", "ticket OPS-12345678", "a", "settle:batch/7._-", &"x".repeat(64)] {
            assert!(check_words(good), "{good}");
        }
        for bad in ["4111 1111 1", "123456789", "naïve", "a\nb", "tab\t", "semi;colon", &"x".repeat(65)] {
            assert!(!check_words(bad), "{bad}");
        }
    }

    #[test]
    fn a_batch_has_one_to_a_thousand_items_i_05() {
        assert_eq!(check_batch("items", 0).unwrap_err().reason, Reason::BatchEmpty);
        assert!(check_batch("items", 1).is_ok() && check_batch("items", 1000).is_ok());
        assert_eq!(check_batch("items", 1001).unwrap_err().reason, Reason::BatchTooLarge);
    }
}
