//! Whether a keeper is ready: what a rolling update waits for before it goes on to the next one.
//!
//! Nothing is killed for not being ready. So a standby without a source is not ready, and a rollout
//! stops at it; but only for a while where that is not for the standby to mend: the rollout may be what
//! brings its source back.

use std::time::Duration;

use stolon_core::keeper::Keeper;
use stolon_core::keeper::facts::{Facts, Health, Observation};
use stolon_core::model::{Db, Lsn, Role};
use stolon_core::time::Instant;

/// How long a standby that reads an archive counts as catching up after it last replayed something.
const CATCHES_UP: Duration = Duration::from_mins(1);
/// How long a standby whose source may be gone is not ready. A failover that is possible is over by
/// then.
const SOURCE_GONE: Duration = Duration::from_mins(5);

/// What was seen of a standby without a stream.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    /// Since when it has none.
    since: Option<Instant>,
    /// How far it had replayed.
    replayed: Option<Lsn>,
    /// When it was last seen to replay something.
    moved_at: Option<Instant>,
}

/// What makes a standby that answers queries ready, or not.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone, Copy)]
struct Standby {
    streams: bool,
    /// Whether there is a server to stream from.
    has_server: bool,
    /// Whether there is an archive to read.
    has_archive: bool,
    replayed: Lsn,
    /// Whether the cluster data show that the server it follows is well.
    source_is_well: bool,
}

impl Readiness {
    /// Why a keeper is not ready; none: it is.
    pub(super) fn judge(&mut self, now: Instant, keeper: &Keeper) -> Option<String> {
        let Some(document) = keeper.document() else {
            return Some("the cluster data were not read yet".to_owned());
        };
        let Health::Running(seen) = &keeper.facts().health else {
            return Some("the instance does not answer queries".to_owned());
        };
        let db = document.data.db_of(keeper.uid());
        let Some(db) = db.filter(|_| seen.in_recovery) else {
            *self = Self::default();
            return None;
        };
        if db.spec.role == Some(Role::Primary) {
            return Some("the instance recovers, and is to be promoted".to_owned());
        }
        let follow = db.spec.follow_config.as_ref();
        let source = follow.and_then(|follow| document.data.dbs.get(&follow.db_uid));
        let standby = Standby::seen(keeper.facts(), seen, source);
        let not_ready = self.judge_standby(now, standby)?;
        Some(match seen.stream_error.lines().next().unwrap_or_default() {
            "" => not_ready.to_owned(),
            error => format!("{not_ready}: {error}"),
        })
    }

    fn judge_standby(&mut self, now: Instant, standby: Standby) -> Option<&'static str> {
        let before = self.replayed.replace(standby.replayed);
        if before.is_some_and(|before| before != standby.replayed) {
            self.moved_at = Some(now);
        }
        let moves = self.moved_at.is_some_and(|at| now.since(at) < CATCHES_UP);
        if standby.streams || (standby.has_archive && (moves || !standby.has_server)) {
            self.since = None;
            return None;
        }
        let since = *self.since.get_or_insert(now);
        if !standby.source_is_well && now.since(since) >= SOURCE_GONE {
            return None;
        }
        Some("the standby does not stream")
    }
}

impl Standby {
    /// `source`: the db of this cluster that it follows; none: it follows a server outside.
    fn seen(facts: &Facts, seen: &Observation, source: Option<&Db>) -> Self {
        let applied = facts.applied.as_ref();
        let has_server = applied.is_some_and(|applied| {
            applied.follow.is_some() || applied.recovery.contains_key("primary_conninfo")
        });
        let has_archive = applied.is_some_and(|applied| {
            applied.own_archive
                || applied.recovery.contains_key("restore_command")
                || applied.parameters.contains_key("restore_command")
        });
        Self {
            streams: seen.streams_from.is_some(),
            has_server,
            has_archive,
            replayed: seen.replay_lsn,
            source_is_well: source.is_some_and(|source| source.status.healthy),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use stolon_core::model::Lsn;
    use stolon_core::time::Instant;

    use super::{Readiness, Standby};

    const STREAMS: Standby = Standby {
        streams: true,
        has_server: true,
        has_archive: false,
        replayed: Lsn(100),
        source_is_well: true,
    };
    const BROKEN: Standby = Standby {
        streams: false,
        ..STREAMS
    };
    const ALONE: Standby = Standby {
        source_is_well: false,
        ..BROKEN
    };
    const WITH_ARCHIVE: Standby = Standby {
        has_archive: true,
        ..BROKEN
    };

    /// Looks at a standby, each time at so many seconds, and expects that it is ready or not.
    fn check(looks: &[(u64, Standby, bool)]) {
        let mut readiness = Readiness::default();
        for (seconds, standby, expected) in looks {
            let now = Instant::from_boot(Duration::from_secs(*seconds));
            let not_ready = readiness.judge_standby(now, *standby);
            assert_eq!(
                not_ready.is_none(),
                *expected,
                "at {seconds}: {not_ready:?}"
            );
        }
    }

    fn at(lsn: u64, standby: Standby) -> Standby {
        let replayed = Lsn(lsn);
        Standby {
            replayed,
            ..standby
        }
    }

    #[test]
    fn a_standby_is_ready_that_streams_and_none_whose_primary_is_well() {
        check(&[
            (0, STREAMS, true),
            (1, BROKEN, false),
            (9000, BROKEN, false),
            (9001, STREAMS, true),
        ]);
        // What it had already shows nothing.
        check(&[(0, BROKEN, false), (1, at(200, BROKEN), false)]);
    }

    #[test]
    fn a_standby_whose_source_is_gone_holds_a_rollout_up_for_a_while() {
        check(&[
            (0, STREAMS, true),
            (10, ALONE, false),
            (309, ALONE, false),
            (310, ALONE, true),
            // Another primary took its place, and it does not follow that.
            (320, BROKEN, false),
            (330, STREAMS, true),
            (340, ALONE, false),
        ]);
    }

    #[test]
    fn a_standby_with_an_archive_is_ready_while_it_catches_up() {
        check(&[
            (0, WITH_ARCHIVE, false),
            (5, at(200, WITH_ARCHIVE), true),
            (64, at(200, WITH_ARCHIVE), true),
            (65, at(200, WITH_ARCHIVE), false),
        ]);
        // Where there is nothing else, an archive may have nothing new for days.
        let has_server = false;
        check(&[(
            0,
            Standby {
                has_server,
                ..WITH_ARCHIVE
            },
            true,
        )]);
    }
}
