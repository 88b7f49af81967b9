//! How much attention an event deserves, as the world outside grades it: OCSF, OpenTelemetry and syslog have scales of
//! their own, and all of them are read from this one.

use super::{Action, Event, ItemOutcome, Outcome};

/// How much attention an event deserves, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// What is allowed and happens all day.
    Routine,
    /// What is allowed and changes the vault itself: keys, rules, copies, deletions.
    Notable,
    /// Denied, or failed.
    Refused,
    /// A record that does not open, or something out of the ordinary.
    Alarming,
    /// A token was used that nobody should use.
    Critical,
}

impl Severity {
    /// The severity of `event`, from its action, outcome and items alone.
    pub fn of(event: &Event) -> Self {
        let corrupt = event.item_outcomes.contains(&ItemOutcome::Corrupt.into());
        match (event.action(), event.outcome()) {
            (Action::Honey, _) => Self::Critical,
            (Action::Unusual, _) => Self::Alarming,
            _ if corrupt => Self::Alarming,
            (_, Outcome::Denied | Outcome::Failed) => Self::Refused,
            (action, _) if changes_the_vault(action) => Self::Notable,
            _ => Self::Routine,
        }
    }

    /// `severity_id` and `severity` of OCSF.
    pub const fn ocsf(self) -> (u8, &'static str) {
        match self {
            Self::Routine => (1, "Informational"),
            Self::Notable => (2, "Low"),
            Self::Refused => (3, "Medium"),
            Self::Alarming => (4, "High"),
            Self::Critical => (5, "Critical"),
        }
    }

    /// The severity of RFC 5424, section 6.2.1.
    pub const fn syslog(self) -> u8 {
        match self {
            Self::Routine => 6,
            Self::Notable => 5,
            Self::Refused => 4,
            Self::Alarming => 3,
            Self::Critical => 2,
        }
    }

    /// `SeverityNumber` of OpenTelemetry's logs and its short name.
    pub const fn opentelemetry(self) -> (i32, &'static str) {
        match self {
            Self::Routine => (9, "INFO"),
            Self::Notable => (10, "INFO2"),
            Self::Refused => (13, "WARN"),
            Self::Alarming => (17, "ERROR"),
            Self::Critical => (21, "FATAL"),
        }
    }
}

fn changes_the_vault(action: Action) -> bool {
    matches!(
        action,
        Action::Reload
            | Action::Clock
            | Action::CreateKey
            | Action::RotateKeys
            | Action::Rewrap
            | Action::Seal
            | Action::Unseal
            | Action::Backup
            | Action::Restore
            | Action::Shred
            | Action::Erase
            | Action::Hold
            | Action::Export
            | Action::Import
            | Action::Approve
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scale_rises_with_the_severity() {
        let all = [Severity::Routine, Severity::Notable, Severity::Refused, Severity::Alarming, Severity::Critical];
        for pair in all.windows(2) {
            assert!(pair[0] < pair[1]);
            assert!(pair[0].ocsf().0 < pair[1].ocsf().0);
            assert!(pair[0].opentelemetry().0 < pair[1].opentelemetry().0);
            assert!(pair[0].syslog() > pair[1].syslog(), "syslog counts down");
        }
    }

    #[test]
    fn what_happened_decides() {
        let of = |action: Action, outcome: Outcome, items: &[ItemOutcome]| {
            let item_outcomes = items.iter().map(|item| (*item).into()).collect();
            Severity::of(&Event { action: action.into(), outcome: outcome.into(), item_outcomes, ..Event::default() })
        };
        assert_eq!(of(Action::Tokenize, Outcome::Allowed, &[ItemOutcome::Issued]), Severity::Routine);
        assert_eq!(of(Action::Start, Outcome::Allowed, &[]), Severity::Routine);
        assert_eq!(of(Action::RotateKeys, Outcome::Allowed, &[]), Severity::Notable);
        assert_eq!(of(Action::Detokenize, Outcome::Denied, &[]), Severity::Refused);
        assert_eq!(of(Action::RotateKeys, Outcome::Failed, &[]), Severity::Refused);
        assert_eq!(of(Action::Detokenize, Outcome::Allowed, &[ItemOutcome::Corrupt]), Severity::Alarming);
        assert_eq!(of(Action::Unusual, Outcome::Allowed, &[]), Severity::Alarming);
        assert_eq!(of(Action::Honey, Outcome::Denied, &[]), Severity::Critical);
    }
}
