//! Twins of the clever functions: the same decisions, in the plainest words, written from what is
//! promised (the contract's section 7; I2, I2a, I3 and I7; scenarios A1 to A5, A10, A14, B4) and
//! not from the code. Where a twin and the code differ, one of them is wrong.

#[path = "twins/facts.rs"]
mod facts;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt::Debug;

use facts::{Copy, Facts, Relation};
use stolon_core::model::db::PLACEHOLDER_STANDBY;
use stolon_core::model::{ClusterData, DbUid, FollowType, KeeperUid, Role};
use stolon_core::sentinel::observe::View;

type Set = BTreeSet<DbUid>;

/// The primary's synchronous replication as the document has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Synchronous {
    on: bool,
    list: Set,
    confirmed: Set,
    /// Commits wait for a standby that there is not.
    placeholder: bool,
}

/// What becomes of the copies.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    deleted: Set,
    /// The keepers that are to make a copy.
    copying: BTreeSet<KeeperUid>,
}

/// Where the twins would have decided otherwise.
pub(crate) fn disagreements(before: &ClusterData, view: &View, after: &ClusterData) -> Vec<String> {
    let Some(facts) = Facts::read(before, view) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    if !view.asked.resync.is_empty() {
        // What an operator asks for by name is told by stories alone.
        return found;
    }
    if is_behind(before, view) {
        // An operator is to choose: nobody is made or unmade anything.
        let decided = after.cluster.as_ref().and_then(|c| c.status.master.clone());
        compare("the primary", &facts.primary_uid, &decided, &mut found);
        let changes = read_changes(before, after);
        compare("the standbys", &Changes::default(), &changes, &mut found);
        return found;
    }
    let is_paused = view.asked.is_paused();
    let primary = if is_paused && !facts.forced {
        facts.primary_uid.clone()
    } else {
        next_primary(&facts)
    };
    let decided = after.cluster.as_ref().and_then(|c| c.status.master.clone());
    compare("the primary", &primary, &decided, &mut found);
    let synchronous = next_synchronous(&facts, primary.as_ref(), before);
    let decided = primary
        .as_ref()
        .and_then(|uid| read_synchronous(after, uid));
    compare("the synchronous set", &synchronous, &decided, &mut found);
    let list = synchronous.map_or_else(Set::new, |synchronous| synchronous.list);
    let changes = if is_paused {
        Changes::default()
    } else {
        changes(&facts, primary == facts.primary_uid, &list)
    };
    compare(
        "the standbys",
        &changes,
        &read_changes(before, after),
        &mut found,
    );
    found
}

/// Whether a standby's keeper has carried out more than the document asks of it, and holds what is no
/// standby's: a later timeline than the primary is on, not in recovery.
fn is_behind(before: &ClusterData, view: &View) -> bool {
    let said = |uid: &DbUid| view.dbs.get(uid)?.report.as_ref();
    let Some(primary) = before.primary() else {
        return false;
    };
    let present = said(&primary.uid).filter(|report| report.healthy);
    let present = present.map_or(primary.status.timeline_id, |report| report.timeline_id);
    before.dbs.iter().any(|(uid, db)| {
        let follows = db.spec.follow_config.as_ref();
        let is_standby = *uid != primary.uid
            && db.spec.role == Some(Role::Standby)
            && follows.is_some_and(|f| f.follow_type == Some(FollowType::Internal));
        is_standby
            && said(uid).is_some_and(|report| {
                let own = report.instance.as_ref();
                report.generation > db.generation
                    && report.timeline_id > present
                    && own.is_some_and(|own| own.in_recovery != Some(true))
            })
    })
}

fn compare<T: PartialEq + Debug>(what: &str, ours: &T, theirs: &T, found: &mut Vec<String>) {
    if ours != theirs {
        found.push(format!(
            "{what}: the twin says {ours:?}, decided was {theirs:?}"
        ));
    }
}

fn read_synchronous(data: &ClusterData, primary: &DbUid) -> Option<Synchronous> {
    let db = data.dbs.get(primary)?;
    let external = &db.spec.external_synchronous_standbys;
    Some(Synchronous {
        on: db.spec.synchronous_replication,
        list: db.spec.synchronous_standbys.iter().cloned().collect(),
        confirmed: db.status.synchronous_standbys.iter().cloned().collect(),
        placeholder: external.iter().any(|name| name == PLACEHOLDER_STANDBY),
    })
}

fn read_changes(before: &ClusterData, after: &ClusterData) -> Changes {
    let gone = before
        .dbs
        .keys()
        .filter(|uid| !after.dbs.contains_key(*uid));
    let new = after
        .dbs
        .values()
        .filter(|db| !before.dbs.contains_key(&db.uid));
    Changes {
        deleted: gone.cloned().collect(),
        copying: new.map(|db| db.spec.keeper_uid.clone()).collect(),
    }
}

/// A primary is replaced when it is gone, or does not do what it is to do; not so often that
/// something else must be wrong, unless an operator wants it.
fn next_primary(facts: &Facts) -> Option<DbUid> {
    let successor = successor(facts).filter(|winner| is_left(facts, winner));
    successor.or_else(|| facts.primary_uid.clone())
}

/// Who is to replace the primary, now or when nobody reads from it any more.
fn successor(facts: &Facts) -> Option<DbUid> {
    let may_replace = facts.forced || !facts.too_many_failovers;
    let able = able(facts);
    let best = able
        .iter()
        .min_by_key(|it| (Reverse(it.position), Reverse(it.timeline), &it.uid));
    // Whoever is being left already stays the one.
    let begun = able
        .iter()
        .find(|it| facts.named == it.uid && !is_left(facts, &it.uid));
    let winner = begun.or(best).map(|copy| copy.uid.clone());
    winner.filter(|_| !serves(facts) && may_replace)
}

fn serves(facts: &Facts) -> bool {
    let given_up = facts.released && facts.in_force && facts.spec.synchronous_replication;
    facts.primary.as_ref().is_some_and(|primary| {
        primary.is_up() && primary.healthy && !primary.overdue && !given_up && !facts.forced
    })
}

fn is_left(facts: &Facts, winner: &DbUid) -> bool {
    !facts.somebody_reads || facts.left.as_ref() == Some(winner)
}

/// The primary does what it is to do, and nobody is to replace it.
fn is_primary_good(facts: &Facts) -> bool {
    let good = facts.primary.as_ref().is_some_and(Copy::is_good);
    let waits = successor(facts).is_some_and(|winner| !is_left(facts, &winner));
    good && !waits && !(serves(facts) && facts.awaits_successor)
}

/// The copies that can serve, are an earlier state of the primary, and have all that it acknowledged;
/// or, where commits wait for nobody, lack little enough.
fn able(facts: &Facts) -> Vec<&Copy> {
    let primary = facts.primary.as_ref();
    let waits = facts.spec.synchronous_replication && (facts.in_force || primary.is_none());
    let may_win = |copy: &&Copy| {
        let keeper = copy.keeper.as_ref();
        let runs = keeper.is_some_and(|keeper| keeper.up && keeper.heard && keeper.may_run_primary);
        let behind = primary.map_or(0, |it| it.position.saturating_sub(copy.position));
        let has_all = if waits {
            facts.confirmed.contains(&copy.uid)
        } else {
            behind <= u64::from(facts.spec.max_standby_lag)
        };
        let known = copy.begun && copy.position > 0;
        let same = primary.is_none() || copy.relation == Relation::Earlier;
        runs && copy.healthy && known && same && has_all
    };
    facts.standbys.iter().filter(may_win).collect()
}

/// What commits are to wait for. A new primary goes on with the others that have everything; the
/// set of one that does not serve stays as it is.
fn next_synchronous(
    facts: &Facts,
    next: Option<&DbUid>,
    before: &ClusterData,
) -> Option<Synchronous> {
    let next = next?;
    let elected = facts.primary_uid.as_ref() != Some(next);
    let serves = is_primary_good(facts);
    let (on, list) = if !elected && !serves {
        (facts.in_force, facts.listed.clone())
    } else if !facts.spec.synchronous_replication {
        (false, Set::new())
    } else if elected {
        let others = facts.confirmed.iter().filter(|uid| *uid != next);
        (true, others.cloned().collect())
    } else {
        (true, next_list(facts))
    };
    let minimum = usize::from(facts.spec.min_synchronous_standbys);
    let was = read_synchronous(before, next);
    let stays = !elected && !serves;
    Some(Synchronous {
        confirmed: facts.confirmed.intersection(&list).cloned().collect(),
        placeholder: if stays {
            was?.placeholder
        } else {
            on && list.len() < minimum
        },
        on,
        list,
    })
}

/// The list that commits are to wait for: the best, as many as are wanted, and with too few of them
/// whoever else is in it. All of them come in before anybody leaves, and nobody leaves before the
/// best have everything.
fn next_list(facts: &Facts) -> Set {
    let gone = |uid: &&DbUid| {
        let copy = facts.standbys.iter().find(|copy| copy.uid == **uid);
        copy.is_none_or(|copy| {
            copy.keeper.is_none() || copy.relation == Relation::Forked || copy.stranded
        })
    };
    let gone: Set = facts.listed.iter().filter(gone).cloned().collect();
    let left: Set = facts.listed.difference(&gone).cloned().collect();
    let best = best(facts);
    let together: Set = left.union(&best).cloned().collect();
    if together != left || !best.is_subset(&facts.confirmed) {
        return together;
    }
    let mut others: Vec<&DbUid> = left.difference(&best).collect();
    others.sort_by_key(|uid| (!facts.confirmed.contains(*uid), *uid));
    let missing = usize::from(facts.spec.min_synchronous_standbys).saturating_sub(best.len());
    best.iter()
        .chain(others.into_iter().take(missing))
        .cloned()
        .collect()
}

/// The standbys that WAL comes to now: first who has everything, then who is in the list, then
/// who is furthest.
fn best(facts: &Facts) -> Set {
    let may_be = |copy: &&Copy| {
        let keeper = copy.keeper.as_ref();
        let allowed = keeper.is_some_and(|keeper| keeper.may_be_synchronous);
        allowed && copy.healthy && copy.begun && copy.streams && copy.relation != Relation::Forked
    };
    let mut able: Vec<&Copy> = facts.standbys.iter().filter(may_be).collect();
    able.sort_by_key(|copy| {
        let listed = facts.listed.contains(&copy.uid);
        let position = if listed { 0 } else { copy.position };
        let confirmed = facts.confirmed.contains(&copy.uid);
        (!confirmed, !listed, Reverse(position), &copy.uid)
    });
    let most = usize::from(facts.spec.max_synchronous_standbys);
    able.into_iter()
        .take(most)
        .map(|copy| copy.uid.clone())
        .collect()
}

/// Which copies are given up, and where new ones begin: nothing of it while the primary does not
/// serve, and nobody that commits wait for.
fn changes(facts: &Facts, stays: bool, list: &Set) -> Changes {
    if !stays || !is_primary_good(facts) {
        return Changes::default();
    }
    let needed = |copy: &Copy| facts.listed.contains(&copy.uid) || list.contains(&copy.uid);
    let useless = |copy: &Copy| {
        let never = !copy.begun && copy.overdue;
        let forked = copy.relation == Relation::Forked && !copy.may_drop_rest;
        copy.keeper.is_none() || forked || copy.writable || copy.stranded || copy.useless || never
    };
    let all = facts.standbys.iter();
    let (kept, given_up): (Vec<&Copy>, Vec<&Copy>) =
        all.partition(|copy| needed(copy) || !useless(copy));
    let mut deleted: Set = given_up.iter().map(|copy| copy.uid.clone()).collect();
    deleted.extend(facts.deposed.iter().map(|copy| copy.uid.clone()));
    let spare: Vec<&&Copy> = kept.iter().filter(|copy| !needed(copy)).collect();
    deleted.extend(excess(facts, &kept, &spare));
    let copying = newcomers(facts, &kept, &deleted);
    // Last of all, who was dead for too long is forgotten.
    let dead = |copy: &&Copy| copy.keeper.as_ref().is_some_and(|keeper| keeper.dead);
    let forgotten = kept
        .iter()
        .copied()
        .filter(dead)
        .filter(|copy| !needed(copy));
    deleted.extend(forgotten.map(|copy| copy.uid.clone()));
    Changes { deleted, copying }
}

fn most_standbys(facts: &Facts) -> usize {
    let spec = &facts.spec;
    usize::from(spec.max_standbys.min(spec.max_standbys_per_sender))
}

/// With as many good ones as may be, the others go, and of the good ones those too many.
fn excess(facts: &Facts, kept: &[&Copy], spare: &[&&Copy]) -> Set {
    let good = kept.iter().filter(|copy| copy.is_good()).count();
    let Some(too_many) = good.checked_sub(most_standbys(facts)) else {
        return Set::new();
    };
    let (good, bad): (Vec<&&Copy>, Vec<&&Copy>) =
        spare.iter().copied().partition(|copy| copy.is_good());
    let go = bad.into_iter().chain(good.into_iter().take(too_many));
    go.map(|copy| copy.uid.clone()).collect()
}

/// As many keepers that have nothing to do as there are standbys too few. One on its way counts.
fn newcomers(facts: &Facts, kept: &[&Copy], deleted: &Set) -> BTreeSet<KeeperUid> {
    let stays = |copy: &&&Copy| !deleted.contains(&copy.uid);
    let works = |copy: &&&Copy| copy.is_up() && (copy.healthy || !copy.begun) && !copy.overdue;
    let there = kept.iter().filter(stays).filter(works).count();
    let busy = kept.iter().filter(stays).copied().chain(&facts.primary);
    let busy: BTreeSet<&KeeperUid> = busy
        .filter_map(|copy| Some(&copy.keeper.as_ref()?.uid))
        .collect();
    let keepers = facts.keepers.iter();
    let free = keepers.filter(|keeper| keeper.up && keeper.heard && !busy.contains(&keeper.uid));
    let missing = most_standbys(facts).saturating_sub(there);
    free.take(missing)
        .map(|keeper| keeper.uid.clone())
        .collect()
}
