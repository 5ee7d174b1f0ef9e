//! What a keeper sees of its data and its instance.

use std::time::Duration;

use stolon_core::keeper::Event;
use stolon_core::keeper::decide::{is_managed, lets_users_in};
use stolon_core::keeper::facts::{
    Content, Control, Disk, Health, Observation, Outside, Peer, Slot,
};
use stolon_core::model::{Lsn, TimelineId, TimelineSwitch, Unknown};

use crate::world::World;
use crate::world::event::What;
use crate::world::postgres::{Data, Ending, Server};

/// So long the daemon waits for an answer of an instance that does not give one.
const NO_ANSWER: Duration = Duration::from_secs(3);

/// So many sleepIntervals an answer of a server outside counts.
const LATEST: u32 = 3;

/// The size of a file of the log: some records.
const WAL_SEGMENT: u64 = 1000;

pub(crate) fn history(data: &Data) -> Vec<TimelineSwitch> {
    let switch = |(timeline, end): &(u64, u64)| TimelineSwitch {
        timeline_id: TimelineId(*timeline),
        switch_point: Lsn(*end),
        reason: "no recovery target specified".to_owned(),
        unknown: Unknown::new(),
    };
    data.history.iter().map(switch).collect()
}

fn observation(life: u32, server: &Server, data: &Data) -> Observation {
    let peer = |(name, peer): (&String, &crate::world::postgres::Peer)| Peer {
        name: name.clone(),
        state: if peer.streaming {
            "streaming"
        } else {
            "catchup"
        }
        .to_owned(),
        flush_lsn: Lsn(peer.flushed),
        replay_lsn: Lsn(peer.flushed),
        sync_state: "sync".to_owned(),
    };
    let receiver = server
        .receiver
        .as_ref()
        .filter(|receiver| receiver.established);
    let parameters = server.config.parameters.iter();
    Observation {
        md5_verifiers: Vec::new(),
        postmaster: format!("life {life}"),
        replayed_until: String::new(),
        in_recovery: !server.writable,
        timeline: TimelineId(data.timeline),
        flush_lsn: Lsn(data.flush_lsn() + data.half),
        replay_lsn: Lsn(data.flush_lsn()),
        system_id: data.system.clone(),
        history: history(data),
        synchronous_standby_names: server.names.clone(),
        streams_from: receiver
            .map(|receiver| (format!("10.0.0.{}", receiver.source + 1), "5432".to_owned())),
        silent_for: None,
        stream_error: String::new(),
        source: None,
        replay_age: None,
        free_space: None,
        taken: String::new(),
        peers: server.peers.iter().map(peer).collect(),
        slots: data
            .slots
            .iter()
            .map(|(name, from)| Slot {
                name: name.clone(),
                active: server.peers.contains_key(name),
                restart_lsn: Lsn(*from),
                wal_status: "reserved".to_owned(),
            })
            .collect(),
        wal_segment: WAL_SEGMENT,
        pending_restart: server.pending_restart(),
        oldest_wal_file: String::new(),
        oldest_wal: Lsn(data.oldest_wal),
        refused_parameters: std::collections::BTreeMap::new(),
        parameters: parameters
            .filter(|(name, _)| !is_managed(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    }
}

impl World {
    /// Looks at the data at rest.
    pub(super) fn inspect(&self, k: usize) -> Disk {
        let instance = &self.instances[k];
        let folder = &instance.pgdata;
        let rules = folder
            .config
            .as_ref()
            .map(|config| config.access_rules.as_slice());
        let at_rest = instance.server.is_none() && folder.content == Content::Cluster;
        let control = folder
            .data
            .as_ref()
            .filter(|_| at_rest)
            .map(|data| Control {
                system_id: data.system.clone(),
                shut_down: data.ending == Ending::Shutdown,
                shut_down_in_recovery: data.ending == Ending::InRecovery,
                in_archive_recovery: data.ending == Ending::Crash && folder.signal,
                logs_all_changes: true,
                checkpoint: Lsn(data.end_of(data.flushed.saturating_sub(1))),
                timeline: TimelineId(data.timeline),
                min_recovery: Lsn(data.min_recovery),
                history: history(data),
                least_parameters: data.least.clone(),
            });
        let beside = &instance.beside;
        Disk {
            recovery_signal: false,
            trouble: String::new(),
            of_other_cluster: false,
            state: self.keepers[k].state.clone(),
            content: folder.content,
            identity: folder.identity.clone(),
            beside: (beside.content != Content::Nothing)
                .then(|| beside.identity.clone().unwrap_or_default()),
            control,
            standby_signal: folder.signal,
            gate_was_open: rules.is_some_and(|rules| lets_users_in(rules, "postgres", "repl")),
        }
    }

    /// Looks at the running instance; one that hangs answers when it goes on, or not at all.
    pub(super) fn observe(&mut self, k: usize) {
        let life = self.keepers[k].process.life;
        let quick = self.keepers[k].chance.millis(1, 10);
        let now = self.now;
        let instance = &self.instances[k];
        let hangs_until = instance.hung_until.max(now);
        let (health, pause) = if hangs_until > now {
            let left = hangs_until.saturating_sub(now).min(NO_ANSWER);
            (Health::Silent("no answer".to_owned()), left)
        } else {
            let silent = |why: &str| Health::Silent(why.to_owned());
            let health = match (&instance.server, &instance.pgdata.data) {
                (Some(server), Some(data)) if server.accepts() => {
                    let mut seen = observation(self.instances[k].life, server, data);
                    seen.source = self.heard_outside(k, &seen);
                    Health::Running(Box::new(seen))
                }
                (Some(server), _) if server.orphaned => silent("connection refused"),
                (Some(_), _) => Health::Starting("the database system is starting up".to_owned()),
                (None, _) => silent("connection refused"),
            };
            (health, quick)
        };
        self.listen_outside(k, &health);
        let event = Box::new(Event::Observed(health));
        self.queue.put(now + pause, What::Keeper(k, life, event));
    }

    /// What the server outside that an instance is to follow said, when it was last asked.
    fn heard_outside(&self, k: usize, seen: &Observation) -> Option<Outside> {
        let (asked_at, answer) = self.keepers[k].outside.as_ref()?;
        let age = self.now.saturating_sub(*asked_at);
        let counts = age <= self.spec().sleep_interval * LATEST;
        let wants = seen.in_recovery && seen.streams_from.is_none();
        (counts && wants).then(|| answer.clone())
    }

    /// It is asked again behind each look, for the next one.
    fn listen_outside(&mut self, k: usize, health: &Health) {
        if self.outside().is_empty() {
            return;
        }
        let wants = matches!(health, Health::Running(seen)
            if seen.in_recovery && seen.streams_from.is_none());
        let answer = wants.then(|| self.ask_outside(k)).flatten();
        self.keepers[k].outside = answer.map(|answer| (self.now, answer));
    }
}
