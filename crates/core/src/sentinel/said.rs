//! What a sentinel said and still holds.

use std::collections::BTreeSet;

use super::Effect;
use crate::reason::Reason;

/// What was said and still holds: a reason is logged when it appears, not at every look.
#[derive(Debug, Default)]
pub(super) struct Said(BTreeSet<(String, String, String)>);

impl Said {
    /// Logs those of the `reasons` of this look that did not hold at the last one.
    pub(super) fn say(&mut self, reasons: Vec<Reason>, effects: &mut Vec<Effect>) {
        let now: BTreeSet<_> = reasons.iter().map(key).collect();
        let fresh = reasons
            .into_iter()
            .filter(|reason| !self.0.contains(&key(reason)));
        effects.extend(fresh.map(Effect::Log));
        self.0 = now;
    }
}

/// What makes two reasons the same: numbers among the details may change.
fn key(reason: &Reason) -> (String, String, String) {
    let subject = reason.details.first().map(|(_, value)| value.clone());
    (
        reason.code.clone(),
        reason.text.clone(),
        subject.unwrap_or_default(),
    )
}
