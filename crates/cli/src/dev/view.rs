//! What a dev cluster does, told as it happens: a line for each event that matters, and a table of
//! the members when what they are has changed and settled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use stolon_core::model::history::History;
use stolon_core::model::{ClusterData, Condition, Db, DbUid, Keeper, TimelineId, wire};
use stolon_core::reason::{Reason, Severity};
use stolon_core::time::{Instant, Timestamp};
use stolon_daemons::runtime::clock;
use stolon_store::{Key, Store};

use crate::ctl::reasons::{in_words, keepers};
use crate::ctl::status::{Picture, lag, look, role, synchronous};

/// How long the members must stay as they are before the table is shown again.
const SETTLED: Duration = Duration::from_secs(2);
/// Decisions about who is at hand, which nobody but the sentinel cares about.
const UNTOLD: [&str; 2] = ["proxies-enabled", "proxies-wait"];

/// What was told already.
pub(super) struct View {
    store: Arc<dyn Store>,
    decided: Option<Timestamp>,
    /// The reasons of the last decision, by code and first detail: what goes on is told once.
    last: BTreeSet<(String, String)>,
    /// The keepers of all dbs that were seen, also of those that are deleted.
    keepers: BTreeMap<DbUid, String>,
    states: BTreeMap<String, String>,
    shown: Vec<Row>,
    waiting: Option<(Vec<Row>, Instant)>,
    is_unreadable: bool,
}

/// A member, in the columns that make a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    keeper: String,
    role: &'static str,
    timeline: Option<TimelineId>,
    synchronous: &'static str,
    state: String,
}

/// What there is to tell.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Events, in their order.
    pub(super) lines: Vec<String>,
    /// The table, when it has changed.
    pub(super) table: Option<String>,
    /// Whether the table that was shown last holds.
    pub(super) table_holds: bool,
    /// The keeper that the primary runs under.
    pub(super) primary: Option<String>,
    /// How many members are what they are to be.
    pub(super) settled: usize,
}

impl View {
    /// What is there already is old news.
    pub(super) async fn new(store: Arc<dyn Store>) -> Self {
        let mut view = Self {
            store,
            decided: None,
            last: BTreeSet::new(),
            keepers: BTreeMap::new(),
            states: BTreeMap::new(),
            shown: Vec::new(),
            waiting: None,
            is_unreadable: false,
        };
        view.decisions().await;
        view
    }

    /// What happened since the last call; the table only when it is wanted.
    pub(super) async fn news(&mut self, with_table: bool) -> News {
        let picture = match look(self.store.as_ref()).await {
            Ok(picture) => picture,
            Err(error) => return self.unreadable(&error),
        };
        let mut news = News::default();
        if std::mem::take(&mut self.is_unreadable) {
            news.lines.push("the store can be read again".to_owned());
        }
        let Some(data) = &picture.data else {
            return news;
        };
        self.keepers.extend(keepers(data));
        news.lines.extend(self.decisions().await);
        news.primary = data.primary().map(|db| db.spec.keeper_uid.to_string());
        for keeper in data.keepers.values() {
            let state = state(&picture, data, keeper);
            let name = keeper.uid.to_string();
            if self.states.get(&name) != Some(&state) {
                news.lines.push(format!("{name}: {state}"));
                self.states.insert(name, state);
            }
        }
        news.settled = data
            .dbs
            .values()
            .filter(|db| is_settled(&picture, db))
            .count();
        news.table = with_table.then(|| self.table(&picture, data)).flatten();
        news.table_holds = self.shown == self.rows(data);
        news
    }

    fn unreadable(&mut self, error: &str) -> News {
        let mut news = News::default();
        if !self.is_unreadable {
            self.is_unreadable = true;
            news.lines
                .push(format!("the store cannot be read: {error}"));
        }
        news
    }

    /// What the sentinel decided, and why.
    async fn decisions(&mut self) -> Vec<String> {
        let Ok(Some(entry)) = self.store.get(&Key::History).await else {
            return Vec::new();
        };
        let history: History = wire::read(&entry.value).unwrap_or_default();
        let mut lines = Vec::new();
        for decision in history
            .decisions
            .iter()
            .filter(|d| Some(d.at) > self.decided)
        {
            for reason in &decision.reasons {
                let is_known = self.last.contains(&mark(reason));
                let matters = reason.severity > Severity::Debug;
                if matters && !is_known && !UNTOLD.contains(&reason.code.as_str()) {
                    lines.push(format!("sentinel: {}", in_words(reason, &self.keepers)));
                }
            }
            self.last = decision.reasons.iter().map(mark).collect();
        }
        let newest = history.decisions.last().map(|decision| decision.at);
        self.decided = newest.or(self.decided);
        lines
    }

    /// The table, when it has changed and has stayed so for a while.
    fn table(&mut self, picture: &Picture, data: &ClusterData) -> Option<String> {
        let rows = self.rows(data);
        if rows == self.shown {
            self.waiting = None;
            return None;
        }
        match &self.waiting {
            Some((waiting, since)) if *waiting == rows => {
                if clock::now().since(*since) < SETTLED {
                    return None;
                }
            }
            _ => {
                self.waiting = Some((rows, clock::now()));
                return None;
            }
        }
        self.waiting = None;
        let text = render(&rows, |keeper| {
            let db = data
                .dbs
                .values()
                .find(|db| db.spec.keeper_uid.as_str() == keeper);
            db.and_then(|db| lag(picture, data, db))
        });
        self.shown = rows;
        Some(text)
    }

    fn rows(&self, data: &ClusterData) -> Vec<Row> {
        let keepers = data.keepers.values();
        keepers.map(|keeper| self.row(data, keeper)).collect()
    }

    fn row(&self, data: &ClusterData, keeper: &Keeper) -> Row {
        let db = data.db_of(&keeper.uid);
        let name = keeper.uid.to_string();
        Row {
            role: db.map_or("-", |db| role(data, db)),
            timeline: db.map(|db| db.status.timeline_id),
            synchronous: db.map_or("-", |db| synchronous(data, db)),
            state: self.states.get(&name).cloned().unwrap_or_default(),
            keeper: name,
        }
    }
}

/// Whether an instance is what it is to be, by its keeper's own word.
fn is_settled(picture: &Picture, db: &Db) -> bool {
    let states = picture
        .keepers
        .iter()
        .filter_map(|info| info.postgres_state.as_ref());
    let mut own = states.filter(|state| state.uid == db.uid);
    own.any(|state| state.healthy && state.generation == db.generation)
}

/// What a member does, in a few words.
fn state(picture: &Picture, data: &ClusterData, keeper: &Keeper) -> String {
    let Some(db) = data.db_of(&keeper.uid) else {
        return "has no database yet".to_owned();
    };
    let info = picture.keepers.iter().find(|info| info.uid == keeper.uid);
    let Some(info) = info.filter(|_| keeper.status.healthy) else {
        return "its keeper is silent".to_owned();
    };
    let state = info
        .postgres_state
        .as_ref()
        .filter(|state| state.uid == db.uid);
    let Some(instance) = state.and_then(|state| state.instance.as_ref()) else {
        return "its keeper knows of no database yet".to_owned();
    };
    let is_standby = role(data, db) == "standby";
    let words = match &instance.condition {
        Some(Condition::Running) => match instance.streaming {
            Some(true) if is_standby => "streams from the primary",
            Some(false) if is_standby => "runs, does not stream",
            Some(_) | None if instance.in_recovery == Some(true) => "runs, in recovery",
            Some(_) | None => "runs",
        },
        Some(Condition::Starting) => "PostgreSQL starts",
        Some(Condition::Saturated) => "runs, with no connection left",
        Some(Condition::Silent) => "PostgreSQL does not answer",
        Some(Condition::Stopping) => "PostgreSQL stops",
        Some(Condition::Stopped) => "PostgreSQL does not run",
        Some(Condition::Initializing) => "its data are being made",
        Some(Condition::Failed) => return format!("failed: {}", instance.reason),
        Some(Condition::Unknown(word)) => return word.clone(),
        None => "nothing is known of PostgreSQL",
    };
    words.to_owned()
}

/// What makes a reason the same one as before, though the time it lasts has grown.
fn mark(reason: &Reason) -> (String, String) {
    let first = reason.details.first().map(|(_, value)| value.clone());
    (reason.code.clone(), first.unwrap_or_default())
}

fn render(rows: &[Row], lag: impl Fn(&str) -> Option<u64>) -> String {
    let mut cells = vec![["member", "role", "timeline", "lag", "sync", "state"].map(str::to_owned)];
    cells.extend(rows.iter().map(|row| {
        let lag = lag(&row.keeper).map_or("-".to_owned(), |bytes| format!("{bytes} bytes"));
        let timeline = row
            .timeline
            .filter(|timeline| *timeline != TimelineId::default());
        let timeline = timeline.map_or("-".to_owned(), |timeline| timeline.to_string());
        [
            row.keeper.clone(),
            row.role.to_owned(),
            timeline,
            lag,
            row.synchronous.to_owned(),
            row.state.clone(),
        ]
    }));
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..6).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &[String; 6]| {
        let padded = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        let line: Vec<String> = padded.collect();
        format!("           {}", line.join("  ").trim_end())
    };
    let lines: Vec<String> = cells.iter().map(line).collect();
    format!("\n{}\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use stolon_core::model::TimelineId;
    use stolon_core::reason::Reason;

    use super::{Row, mark, render};

    #[test]
    fn a_reason_that_goes_on_is_the_same() {
        let silent = |time: &str| {
            Reason::warn("keeper-silent", "silent")
                .with("keeper", "keeper1")
                .with("silent_for", time)
        };
        assert_eq!(mark(&silent("4.0s")), mark(&silent("4.4s")));
    }

    #[test]
    fn the_table_is_aligned() {
        let row = |keeper: &str, role, timeline, synchronous, state: &str| Row {
            keeper: keeper.to_owned(),
            role,
            timeline,
            synchronous,
            state: state.to_owned(),
        };
        let rows = [
            row("keeper1", "primary", Some(TimelineId(2)), "-", "runs"),
            row(
                "keeper2",
                "standby",
                Some(TimelineId(2)),
                "sync",
                "streams from the primary",
            ),
            row("keeper3", "-", None, "-", "has no database yet"),
        ];
        let lag = |keeper: &str| (keeper == "keeper2").then_some(104);
        let expected = "
           member   role     timeline  lag        sync  state
           keeper1  primary  2         -          -     runs
           keeper2  standby  2         104 bytes  sync  streams from the primary
           keeper3  -        -         -          -     has no database yet
";
        assert_eq!(render(&rows, lag), expected);
    }
}
