//! What a dev cluster does, told as it happens.

use std::collections::BTreeMap;
use std::sync::Arc;

use stolon_core::model::history::History;
use stolon_core::model::{ClusterData, Db, wire};
use stolon_core::time::Timestamp;
use stolon_store::{Key, Store};

use super::layout::{CLUSTER, Layout};
use crate::ctl::status::{Picture, look, role, state, synchronous};

/// What was told already.
pub(super) struct View {
    store: Arc<dyn Store>,
    rows: BTreeMap<String, String>,
    told: Option<Timestamp>,
}

impl View {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            rows: BTreeMap::new(),
            told: None,
        }
    }

    /// Whether every keeper's db is what it is to be, and the proxy is open.
    pub(super) async fn is_up(&self, keepers: usize) -> bool {
        let Ok(picture) = look(self.store.as_ref()).await else {
            return false;
        };
        let Some(data) = picture.data else {
            return false;
        };
        let settled = |db: &&Db| db.status.healthy && db.status.current_generation == db.generation;
        !data.proxy.spec.primary_db_uid.is_empty()
            && !data.proxy.spec.enabled_proxies.is_empty()
            && data.dbs.values().filter(settled).count() >= keepers
    }

    /// Prints the decisions and members that changed since the last call.
    pub(super) async fn tell_changes(&mut self) {
        self.tell_decisions().await;
        let Ok(picture) = look(self.store.as_ref()).await else {
            return;
        };
        let Some(data) = &picture.data else { return };
        for keeper in data.keepers.values() {
            let row = describe(
                &picture,
                data,
                data.db_of(&keeper.uid),
                keeper.status.healthy,
            );
            let name = keeper.uid.to_string();
            if self.rows.get(&name) != Some(&row) {
                println!("  {name:<10} {row}");
                self.rows.insert(name, row);
            }
        }
    }

    async fn tell_decisions(&mut self) {
        let Ok(Some(entry)) = self.store.get(&Key::History).await else {
            return;
        };
        let history: History = wire::read(&entry.value).unwrap_or_default();
        let newest = history.decisions.last().map(|decision| decision.at);
        if self.told.is_none() && newest.is_some() && self.rows.is_empty() {
            // What an earlier run decided is old news.
            self.told = newest;
            return;
        }
        for decision in history.decisions.iter().filter(|d| Some(d.at) > self.told) {
            for reason in &decision.reasons {
                println!("* {reason}");
            }
        }
        self.told = newest.or(self.told);
    }

    /// How to connect, and how to break things.
    pub(super) async fn instructions(&self, layout: &Layout) -> String {
        let picture = look(self.store.as_ref()).await.unwrap_or_default();
        let primary = picture.data.as_ref().and_then(ClusterData::primary);
        let keeper = primary.map_or("keeper1".to_owned(), |db| db.spec.keeper_uid.to_string());
        let pid_file = layout.folder.join(&keeper).join("postgres/postmaster.pid");
        let pid = std::fs::read_to_string(&pid_file).unwrap_or_default();
        let pid = pid.lines().next().unwrap_or("?").to_owned();
        let program = std::env::current_exe().unwrap_or_default();
        let ctl = format!(
            "{} ctl {}",
            program.display(),
            layout.store_flags().join(" ")
        );
        let password = layout.folder.join("superuser.password");
        format!(
            "\nThe cluster {CLUSTER} is up; its primary runs under {keeper}. Connect through the proxy:\n\n  \
             PGPASSWORD=$(cat {password}) psql -h 127.0.0.1 -p {port} -U stolon postgres\n\n\
             Break something, and go on writing:\n\n  \
             kill -9 {pid}                      the primary's postmaster: it is back in place at once\n  \
             kill -9 $(pgrep -f -- '--uid={keeper} ') {pid}   its keeper too: a standby takes over\n  \
             {ctl} failkeeper {keeper}\n\n\
             Look at it:\n\n  {ctl} status\n  tail -f {logs}/*.log\n\n\
             Ctrl-C stops everything; started again it continues. What happens is told here:\n",
            password = password.display(),
            port = layout.ports.proxy,
            logs = layout.folder.join("log").display(),
        )
    }
}

fn describe(picture: &Picture, data: &ClusterData, db: Option<&Db>, alive: bool) -> String {
    let health = if alive { "" } else { "  keeper silent" };
    let Some(db) = db else {
        return format!("no db{health}");
    };
    let synchronous = match synchronous(data, db) {
        "-" => String::new(),
        word => format!(", {word}"),
    };
    format!(
        "{:<8} timeline {}  {}{synchronous}{health}",
        role(data, db),
        db.status.timeline_id,
        state(picture, db)
    )
}
