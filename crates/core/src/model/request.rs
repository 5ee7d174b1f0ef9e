//! What an operator asks for, kept under the keys `ext/requests/ID` until it has ended (contract,
//! section 8): each with a state, a reason and an end that `stolonctl status` shows.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::text_id;
use super::{DbUid, KeeperUid, Unknown, is_default, string_enum};
use crate::time::Timestamp;

/// Sentinel and keeper: carries out what operators ask for.
pub const FEATURE_REQUESTS: &str = "requests";

/// A request that nobody went on with for so long is not gone on with: who asked is not there to see it.
pub const TO_BE_BEGUN_WITHIN: Duration = Duration::from_hours(1);

text_id! {
    /// A request.
    RequestId,
}

string_enum! {
    /// What is asked for.
    RequestKind {
        /// That a standby's data are copied anew, whatever they are.
        Resync = "resync",
        /// That instances are restarted, one after the other.
        Restart = "restart",
        /// That instances read their configuration again.
        Reload = "reload",
        /// That nothing is decided automatically until this request is ended.
        Pause = "pause",
    }
}

string_enum! {
    /// How far a keeper is with its part.
    ProgressState {
        /// It knows of it, and waits for others to do their part.
        Known = "known",
        /// It has begun.
        Running = "running",
        /// It is done.
        Done = "done",
        /// It came to nothing; those after it in the order do not begin.
        Failed = "failed",
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Request {
    /// Its name, which is also the last part of its key.
    pub id: RequestId,
    /// What is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<RequestKind>,
    /// The keepers it concerns, in the order in which they are to act.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keepers: Vec<KeeperUid>,
    /// Of a resync: the db to be replaced. One of another uid has been.
    #[serde(rename = "dbUID", skip_serializing_if = "is_default")]
    pub db_uid: DbUid,
    /// When.
    pub asked_at: Timestamp,
    /// By whom, as user@host.
    pub asked_by: String,
    /// Why, in their words.
    #[serde(skip_serializing_if = "is_default")]
    pub why: String,
    /// What came of it at each keeper that has begun.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub progress: BTreeMap<KeeperUid, Progress>,
    /// When somebody ended it; zero: nobody did.
    #[serde(skip_serializing_if = "is_default")]
    pub ended_at: Timestamp,
    /// Who ended it.
    #[serde(skip_serializing_if = "is_default")]
    pub ended_by: String,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What came of a request at one keeper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// How far it is.
    pub state: ProgressState,
    /// Why, where it failed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reason: String,
    /// When.
    #[serde(default, skip_serializing_if = "is_default")]
    pub at: Timestamp,
    /// Of a restart: which postmaster ran when it began. Another one has been started since.
    #[serde(default, skip_serializing_if = "is_default")]
    pub postmaster: String,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Progress {
    /// A progress without more to say.
    pub const fn new(state: ProgressState) -> Self {
        Self {
            state,
            reason: String::new(),
            at: Timestamp::ZERO,
            postmaster: String::new(),
            unknown: Unknown::new(),
        }
    }

    /// One that came to nothing.
    pub fn failed(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            ..Self::new(ProgressState::Failed)
        }
    }
}

/// The state of a request as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nobody has begun.
    Waiting,
    /// It is being carried out; a pause: it is in force.
    Running,
    /// All is done.
    Done,
    /// It came to nothing at this keeper, for this reason.
    Failed(KeeperUid, String),
    /// Somebody ended it before.
    Ended,
    /// Nobody began in time.
    Expired,
}

impl Request {
    /// Its state, for a reader whose clock says `wall`.
    pub fn state(&self, wall: Timestamp) -> State {
        let found = |state: &ProgressState| {
            let mut progress = self.progress.iter();
            progress.find(|(_, progress)| progress.state == *state)
        };
        let is_done = |keeper: &KeeperUid| {
            let progress = self.progress.get(keeper);
            progress.is_some_and(|progress| progress.state == ProgressState::Done)
        };
        if let Some((keeper, progress)) = found(&ProgressState::Failed) {
            State::Failed(keeper.clone(), progress.reason.clone())
        } else if !self.keepers.is_empty() && self.keepers.iter().all(is_done) {
            State::Done
        } else if !self.ended_at.is_zero() {
            State::Ended
        } else if self.kind == Some(RequestKind::Pause) {
            State::Running
        } else if wall.since(self.last_heard_of()) > TO_BE_BEGUN_WITHIN && !self.is_copying() {
            State::Expired
        } else if found(&ProgressState::Running).is_some() || found(&ProgressState::Done).is_some()
        {
            State::Running
        } else {
            State::Waiting
        }
    }

    /// When somebody last did something for it.
    fn last_heard_of(&self) -> Timestamp {
        let times = self.progress.values();
        let times = times.filter(|progress| progress.state != ProgressState::Known);
        times
            .map(|progress| progress.at)
            .fold(self.asked_at, Timestamp::max)
    }

    /// A copy takes as long as it takes.
    fn is_copying(&self) -> bool {
        let mut progress = self.progress.values();
        self.kind == Some(RequestKind::Resync)
            && progress.any(|progress| progress.state == ProgressState::Running)
    }

    /// Whether something is still to be done for it.
    pub fn is_live(&self, wall: Timestamp) -> bool {
        matches!(self.state(wall), State::Waiting | State::Running)
    }

    /// Whether it is a keeper's turn: all before it in the order are done, and it is not.
    pub fn is_turn_of(&self, keeper: &KeeperUid) -> bool {
        let left = self.keepers.iter().find(|keeper| {
            let progress = self.progress.get(*keeper);
            progress.is_none_or(|progress| progress.state != ProgressState::Done)
        });
        left == Some(keeper)
    }

    /// What came of it at a keeper so far.
    pub fn progress_of(&self, keeper: &KeeperUid) -> Option<&Progress> {
        self.progress.get(keeper)
    }
}

#[cfg(test)]
mod tests {
    use super::{Progress, ProgressState, Request, RequestKind, State, TO_BE_BEGUN_WITHIN};
    use crate::model::KeeperUid;
    use crate::time::Timestamp;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_utc(jiff::Timestamp::from_second(seconds).expect("a moment"))
    }

    fn restart() -> Request {
        Request {
            kind: Some(RequestKind::Restart),
            keepers: vec!["k2".into(), "k1".into()],
            asked_at: at(1_000),
            ..Request::default()
        }
    }

    #[test]
    fn one_keeper_after_the_other_until_one_fails() {
        let (k1, k2) = (KeeperUid::from("k1"), KeeperUid::from("k2"));
        let mut request = restart();
        assert_eq!(request.state(at(1_001)), State::Waiting);
        assert!(request.is_turn_of(&k2) && !request.is_turn_of(&k1));
        let mut note = |keeper: &KeeperUid, progress| {
            request.progress.insert(keeper.clone(), progress);
            request.clone()
        };
        let begun = Progress {
            at: at(4_000),
            ..Progress::new(ProgressState::Running)
        };
        let running = note(&k2, begun);
        assert_eq!(running.state(at(7_600)), State::Running, "begun in time");
        assert_eq!(running.state(at(7_601)), State::Expired, "not gone on with");
        assert!(running.is_turn_of(&k2));
        let half = note(&k2, Progress::new(ProgressState::Done));
        assert_eq!(half.state(at(1_002)), State::Running);
        assert!(half.is_turn_of(&k1) && !half.is_turn_of(&k2));
        let failed = note(&k1, Progress::failed("no room"));
        assert_eq!(
            failed.state(at(1_003)),
            State::Failed(k1.clone(), "no room".into())
        );
        assert!(!failed.is_live(at(1_003)));
        let done = note(&k1, Progress::new(ProgressState::Done));
        assert_eq!(done.state(at(1_003)), State::Done);
        assert!(!done.is_turn_of(&k1) && !done.is_turn_of(&k2));
    }

    #[test]
    fn a_copy_that_was_begun_takes_as_long_as_it_takes() {
        let k1 = KeeperUid::from("k1");
        let mut resync = Request {
            kind: Some(RequestKind::Resync),
            keepers: vec![k1.clone()],
            ..restart()
        };
        let known = Progress {
            at: at(4_000),
            ..Progress::new(ProgressState::Known)
        };
        resync.progress.insert(k1.clone(), known);
        assert_eq!(resync.state(at(4_001)), State::Waiting);
        assert_eq!(resync.state(at(4_601)), State::Expired);
        resync
            .progress
            .insert(k1, Progress::new(ProgressState::Running));
        assert_eq!(resync.state(at(999_999)), State::Running);
    }

    #[test]
    fn a_request_that_nobody_began_runs_out_and_a_pause_does_not() {
        let late = at(1_001).moment() + TO_BE_BEGUN_WITHIN;
        let late = Timestamp::from_utc(late);
        assert_eq!(restart().state(late), State::Expired);
        let pause = Request {
            kind: Some(RequestKind::Pause),
            keepers: Vec::new(),
            ..restart()
        };
        assert_eq!(pause.state(late), State::Running);
        let resumed = Request {
            ended_at: at(2_000),
            ..pause
        };
        assert_eq!(resumed.state(late), State::Ended);
    }
}
