//! The ways that are open to clients, and which of them the next one takes.

use std::sync::Arc;

use stolon_core::proxy::{Passage, Passages};

use super::permit::Permit;

/// The ways that are open.
#[derive(Debug)]
pub(super) struct Ways {
    permits: Vec<Arc<Permit>>,
    why_closed: String,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            permits: Vec::new(),
            why_closed: "the cluster data were not read yet".to_owned(),
        }
    }
}

impl Ways {
    /// Opens these and revokes all others. True when it was more than a prolongation.
    pub(super) fn set(&mut self, passages: &Passages) -> bool {
        let before = std::mem::take(&mut self.permits);
        let mut news = false;
        for Passage {
            target,
            until,
            is_spare,
        } in &passages.to
        {
            let held = before.iter().find(|p| p.target == *target && p.holds());
            let permit = if let Some(permit) = held {
                permit.prolong(*until, *is_spare);
                permit.clone()
            } else {
                news = true;
                Arc::new(Permit::new(target.clone(), *until, *is_spare))
            };
            self.permits.push(permit);
        }
        for permit in before
            .iter()
            .filter(|permit| !is_among(&self.permits, permit))
        {
            permit.revoke();
            news = true;
        }
        passages.closed.clone_into(&mut self.why_closed);
        news
    }

    /// Whether a permit is in force.
    pub(super) fn has(&self, permit: &Arc<Permit>) -> bool {
        is_among(&self.permits, permit) && permit.holds()
    }

    /// All that are in force.
    pub(super) fn open(&self) -> Vec<Arc<Permit>> {
        let open = self.permits.iter().filter(|permit| permit.holds());
        open.cloned().collect()
    }

    /// A seat on the best way that is not among those tried, or why there is none: one that has just
    /// failed is the last resort, a spare one the last but one; then the one with the fewest clients.
    pub(super) fn seat(&self, tried: &[Arc<Permit>]) -> Result<Seat, String> {
        let open = self.permits.iter().filter(|permit| permit.holds());
        let rest = open.filter(|permit| !is_among(tried, permit));
        let best = rest.min_by_key(|permit| {
            let has_failed = permit.has_failed_lately();
            (has_failed, permit.is_spare(), permit.carried())
        });
        match best {
            Some(permit) => Ok(Seat::new(permit)),
            None if self.permits.is_empty() => Err(self.why_closed.clone()),
            None => Err("no check of the cluster data succeeded lately".to_owned()),
        }
    }
}

fn is_among(permits: &[Arc<Permit>], permit: &Arc<Permit>) -> bool {
    permits.iter().any(|other| Arc::ptr_eq(other, permit))
}

/// A client's place on one of the ways; it counts there as long as it lives.
#[derive(Debug)]
pub(super) struct Seat(Arc<Permit>);

impl Seat {
    fn new(permit: &Arc<Permit>) -> Self {
        permit.carries_more();
        Self(permit.clone())
    }

    pub(super) const fn permit(&self) -> &Arc<Permit> {
        &self.0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.carries_less();
    }
}

#[cfg(test)]
mod tests {
    use super::{Passage, Passages, Ways};
    use crate::runtime::clock;
    use std::time::Duration;
    use stolon_core::proxy::Target;

    const LIMIT: Duration = Duration::from_secs(20);

    fn to(names: &[(&str, bool)]) -> Passages {
        let passage = |(name, is_spare): &(&str, bool)| Passage {
            target: Target {
                db: (*name).into(),
                host: (*name).to_owned(),
                port: "5432".to_owned(),
            },
            until: clock::now().after(LIMIT),
            is_spare: *is_spare,
        };
        Passages {
            to: names.iter().map(passage).collect(),
            closed: "a test".to_owned(),
        }
    }

    #[test]
    fn clients_are_spread_by_their_number() {
        let mut ways = Ways::default();
        assert!(ways.set(&to(&[("a", false), ("b", false), ("p", true)])));
        let mut seats = Vec::new();
        for _ in 0..10 {
            seats.push(ways.seat(&[]).expect("a seat"));
        }
        let on = |name: &str| {
            let there = seats
                .iter()
                .filter(|seat| seat.permit().target.host == name);
            there.count()
        };
        assert_eq!((on("a"), on("b"), on("p")), (5, 5, 0));
        seats.retain(|seat| seat.permit().target.host == "b");
        for _ in 0..3 {
            let seat = ways.seat(&[]).expect("a seat");
            assert_eq!(seat.permit().target.host, "a");
            seats.push(seat);
        }
    }

    #[test]
    fn one_that_failed_is_the_last_resort_and_a_spare_one_the_last_but_one() {
        let mut ways = Ways::default();
        ways.set(&to(&[("a", false), ("b", false), ("p", true)]));
        let mut tried = Vec::new();
        for expected in ["a", "b", "p"] {
            let seat = ways.seat(&tried).expect("a seat");
            assert_eq!(seat.permit().target.host, expected);
            tried.push(seat.permit().clone());
        }
        assert!(ways.seat(&tried).is_err());
        tried[0].failed();
        tried[1].failed();
        let seat = ways.seat(&[]).expect("a seat");
        assert_eq!(seat.permit().target.host, "p");
    }

    #[test]
    fn a_way_that_stays_is_prolonged_and_every_other_revoked() {
        let mut ways = Ways::default();
        ways.set(&to(&[("a", false), ("b", false)]));
        let seats = [ways.seat(&[]), ways.seat(&[])].map(|seat| seat.expect("a seat"));
        assert!(!ways.set(&to(&[("b", true), ("a", false)])), "nothing new");
        assert!(seats.iter().all(|seat| ways.has(seat.permit())));
        assert!(seats[1].permit().is_spare());
        assert!(ways.set(&to(&[("a", false)])));
        assert!(ways.has(seats[0].permit()) && !ways.has(seats[1].permit()));
        assert!(seats[1].permit().is_revoked());
        assert!(ways.set(&to(&[])));
        assert_eq!(ways.seat(&[]).expect_err("closed"), "a test");
    }
}
