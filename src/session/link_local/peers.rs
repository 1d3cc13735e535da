//! Which stream to a contact is *the* stream, when both sides open one at once. Pure.
//!
//! Both sides decide alike without a word: of two streams opened from different sides, the one that the
//! side with the smaller key opened stays (in plaintext: the smaller name); of two opened from the same
//! side, the newer, because whoever opens another one has lost the first. The other is retired: used
//! for nothing new, closed once it is quiet, so that no stanza on its way is lost.
//!
//! Opening another one though there is one is what a side does also whose own address has changed, for
//! bytestreams need an address that is still there. If both sides' addresses have changed (a network
//! that was renumbered) each opens another; of the two newcomers the rule keeps the same one on both
//! sides, but each side compares it with what it has at that moment, so for a round trip one may use a
//! stream that the other retires. A retired stream still carries what is said on it, so nothing is lost.

use crate::{session::trust::KeyId, xmpp::stream::Role};

/// Which of the two stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The one there was.
    Existing,
    /// The new one.
    Newcomer,
}

/// What the two sides of a stream are compared by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// A proven key.
    Key(KeyId),
    /// A name, in plaintext.
    Name(String),
}

/// See the module's head. `existing` and `newcomer` say whether *we* opened it.
pub fn keep(us: &Side, them: &Side, existing: Role, newcomer: Role) -> Keep {
    if existing == newcomer {
        return Keep::Newcomer;
    }
    let preferred = if us < them {
        Role::Initiator
    } else {
        Role::Recipient
    };
    if newcomer == preferred {
        Keep::Newcomer
    } else {
        Keep::Existing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [Role; 2] = [Role::Initiator, Role::Recipient];

    fn other(role: Role) -> Role {
        match role {
            Role::Initiator => Role::Recipient,
            Role::Recipient => Role::Initiator,
        }
    }

    #[test]
    fn both_sides_keep_the_same_of_two_streams_in_whatever_order_they_see_them() {
        let (a, b) = (Side::Key(KeyId([1; 32])), Side::Key(KeyId([2; 32])));
        // As `a` calls the two streams; `b` calls each by the other role.
        for (first, second) in [(ROLES[0], ROLES[1]), (ROLES[1], ROLES[0])] {
            let kept = |us, them, one: Role, two: Role| match keep(us, them, one, two) {
                Keep::Existing => one,
                Keep::Newcomer => two,
            };
            let at_a = kept(&a, &b, first, second);
            for (one, two) in [(first, second), (second, first)] {
                let at_b = kept(&b, &a, other(one), other(two));
                assert_eq!(at_a, other(at_b));
            }
        }
    }

    #[test]
    fn of_two_from_the_same_side_the_newer_stays() {
        let (a, b) = (Side::Name("a".into()), Side::Name("b".into()));
        for role in ROLES {
            assert_eq!(keep(&a, &b, role, role), Keep::Newcomer);
        }
    }
}
