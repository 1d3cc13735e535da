//! How often contacts may offer tubes and files: buckets of tokens, one for each contact and one for all those
//! our user never dealt with together.
//!
//! [`super::table`] bounds how many offers wait at once. Whoever offers and closes in turn stays within
//! that, and yet each offer makes a channel, two signals and work for every client on the bus. An offer
//! that our user took up was welcome, so the token comes back when that channel has closed.

use std::{collections::BTreeMap, time::Duration};

use actors::{
    model::{ContactHandle, Error, Result},
    runtime::Time,
};

use super::table::{MAX_OFFERS_OF_ONE, MAX_OFFERS_OF_STRANGERS};

/// How fast a bucket empties and fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Offers that may come at once.
    pub burst: u32,
    /// After which time one more may come.
    pub each: Duration,
}

/// Of a contact our user never dealt with: as many at once as may wait.
pub const OF_A_STRANGER: Rate = Rate {
    burst: MAX_OFFERS_OF_ONE as u32,
    each: Duration::from_secs(2),
};
/// Of a pinned contact, whose programs may well offer one short tube after the other.
pub const OF_A_PINNED_CONTACT: Rate = Rate {
    burst: 16 * OF_A_STRANGER.burst,
    each: Duration::from_millis(250),
};
/// Of all strangers together: names and keys cost nothing.
pub const OF_STRANGERS: Rate = Rate {
    burst: MAX_OFFERS_OF_STRANGERS as u32,
    each: Duration::from_millis(250),
};
/// Beyond so many buckets, those that have filled up again are thrown away. The rate over all
/// strangers keeps the others few.
const SWEEP: usize = 256;

/// Who has offered how much of late.
#[derive(Debug, Default)]
pub struct OfferRate {
    /// When each bucket is full again, as far as it is not.
    full_at: BTreeMap<ContactHandle, Time>,
    strangers_full_at: Time,
}

impl OfferRate {
    /// Takes the tokens for one offer.
    ///
    /// # Errors
    /// `ResourceUnavailable` when there are none; nothing is taken then.
    pub fn take(&mut self, contact: ContactHandle, pinned: bool, now: Time) -> Result<()> {
        let rate = if pinned {
            OF_A_PINNED_CONTACT
        } else {
            OF_A_STRANGER
        };
        let before = self.full_at.get(&contact).copied().unwrap_or_default();
        let own = rate.after_one(before, now);
        let all = OF_STRANGERS.after_one(self.strangers_full_at, now);
        let (Some(own), Some(all)) = (own, all.or(pinned.then_some(self.strangers_full_at))) else {
            return Err(Error::ResourceUnavailable("offers come too fast".into()));
        };
        if self.full_at.len() >= SWEEP {
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        self.full_at.insert(contact, own);
        if !pinned {
            self.strangers_full_at = all;
        }
        Ok(())
    }

    /// Puts the token of one offer back. To take a tube up pins the contact, so it is the rate of
    /// pinned contacts, and nothing comes back to the strangers' bucket.
    pub fn give_back(&mut self, contact: ContactHandle) {
        if let Some(full_at) = self.full_at.get_mut(&contact) {
            *full_at = full_at.saturating_sub(OF_A_PINNED_CONTACT.each);
        }
    }
}

impl Rate {
    /// When a bucket that is full at `full_at` will be after one more is taken, if one is there.
    fn after_one(self, full_at: Time, now: Time) -> Option<Time> {
        let full_at = full_at.max(now).saturating_add(self.each);
        let limit = now.saturating_add(self.each.saturating_mul(self.burst));
        (full_at <= limit).then_some(full_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Duration::from_secs(1000);

    fn taken(rate: &mut OfferRate, contact: u32, pinned: bool, now: Time) -> u32 {
        let take = |_: &u32| rate.take(ContactHandle(contact), pinned, now).is_ok();
        (0..1000).take_while(take).count() as u32
    }

    #[test]
    fn a_burst_and_then_one_at_a_time() {
        let mut rate = OfferRate::default();
        assert_eq!(taken(&mut rate, 1, false, START), OF_A_STRANGER.burst);
        let later = START + OF_A_STRANGER.each;
        assert_eq!(taken(&mut rate, 1, false, later), 1);
        let later = later + 3 * OF_A_STRANGER.each;
        assert_eq!(taken(&mut rate, 1, false, later), 3);
        assert_eq!(taken(&mut rate, 2, true, later), OF_A_PINNED_CONTACT.burst);
    }

    #[test]
    fn what_our_user_takes_up_costs_nothing() {
        let mut rate = OfferRate::default();
        for _ in 0..1000 {
            rate.take(ContactHandle(1), true, START).unwrap();
            rate.give_back(ContactHandle(1));
        }
        // Never more than a full bucket.
        rate.give_back(ContactHandle(1));
        assert_eq!(taken(&mut rate, 1, true, START), OF_A_PINNED_CONTACT.burst);
    }

    #[test]
    fn many_strangers_share_and_take_nothing_from_pinned_contacts() {
        let mut rate = OfferRate::default();
        let of_many: u32 = (1..=100).map(|n| taken(&mut rate, n, false, START)).sum();
        assert_eq!(of_many, OF_STRANGERS.burst);
        let of_a_friend = taken(&mut rate, 1000, true, START);
        assert_eq!(of_a_friend, OF_A_PINNED_CONTACT.burst);
    }

    #[test]
    fn buckets_that_are_full_again_cost_nothing() {
        let mut rate = OfferRate::default();
        for hour in 0..2000 {
            let now = START + Duration::from_secs(3600) * hour;
            rate.take(ContactHandle(hour), hour % 2 == 0, now).unwrap();
        }
        assert!(rate.full_at.len() <= SWEEP);
    }
}
