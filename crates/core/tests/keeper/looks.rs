//! What is seen of a keeper's world: by the keeper, and by who reads a story.

use std::collections::BTreeMap;

use stolon_core::keeper::decide::{Start, Step, is_managed};
use stolon_core::keeper::facts::{
    Content, Control, Disk, Health, Observation, Outside, Peer, Slot,
};
use stolon_core::model::{Lsn, TimelineId, TimelineSwitch};

use super::{Folder, World};

/// The size of a file of WAL.
const WAL_SEGMENT: u64 = 1000;

/// Every timeline of this world is left at the same place.
pub(crate) fn switch(timeline: u64) -> TimelineSwitch {
    TimelineSwitch {
        timeline_id: TimelineId(timeline),
        switch_point: Lsn(3000),
        ..TimelineSwitch::default()
    }
}

impl World {
    pub(super) fn inspect(&self) -> Disk {
        let folder = &self.pgdata;
        let rules = folder.config.as_ref().map(|config| &config.access_rules);
        let control = (self.server.is_none() && folder.content == Content::Cluster).then(|| {
            let data = &folder.data;
            Control {
                system_id: data.system.clone(),
                shut_down: data.clean && !folder.signal,
                shut_down_in_recovery: data.interrupted || data.clean && folder.signal,
                in_archive_recovery: !data.clean && folder.signal,
                logs_all_changes: !data.no_hints,
                checkpoint: Lsn(data.lsn),
                timeline: TimelineId(data.timeline),
                min_recovery: Lsn(if data.interrupted { 0 } else { data.lsn }),
                history: (1..data.timeline).map(switch).collect(),
                least_parameters: [("max_connections".to_owned(), data.connections)].into(),
            }
        });
        let beside = (self.beside.content != Content::Nothing)
            .then(|| {
                self.beside
                    .identity
                    .clone()
                    .filter(|_| !self.beside_is_replaced)
            })
            .map(Option::unwrap_or_default);
        Disk {
            state: self.state.clone(),
            content: folder.content,
            identity: folder.identity.clone(),
            beside,
            control,
            standby_signal: folder.signal,
            recovery_signal: folder.recovery_signal,
            of_other_cluster: folder.of_other_cluster,
            trouble: if self.faults.disk_full {
                "the disk is full".to_owned()
            } else {
                String::new()
            },
            gate_was_open: rules
                .is_some_and(|rules| rules.iter().any(|rule| rule.contains(" all all "))),
        }
    }

    /// What the server outside says, which was promoted to the third timeline; nobody asks it while it
    /// streams.
    fn outside(&self) -> Option<Outside> {
        let parted = self.faults.source_parted?;
        let data = &self.pgdata.data;
        Some(Outside {
            replayed_before: Lsn(data.lsn),
            system_id: data.system.clone(),
            is_writable: true,
            timeline: TimelineId(3),
            flush_lsn: Lsn(9000),
            history: (1..3)
                .map(|timeline| TimelineSwitch {
                    timeline_id: TimelineId(timeline),
                    switch_point: Lsn(parted),
                    ..TimelineSwitch::default()
                })
                .collect(),
        })
    }

    pub(super) fn health(&self) -> Health {
        let Some(server) = &self.server else {
            return Health::Silent("connection refused".to_owned());
        };
        if self.faults.silent {
            return Health::Silent("no answer".to_owned());
        }
        if self.faults.wal_gone {
            let text = "the database system is starting up: could not receive data from WAL stream: \
                        ERROR:  requested WAL segment 3 has already been removed";
            return Health::Starting(text.to_owned());
        }
        if server.ready_at > self.now {
            return Health::Starting("the database system is starting up".to_owned());
        }
        let data = &self.pgdata.data;
        let peers = self.peers.iter().map(|(name, behind)| Peer {
            name: name.clone(),
            state: "streaming".to_owned(),
            flush_lsn: Lsn(data.lsn.saturating_sub(*behind)),
            replay_lsn: Lsn(data.lsn.saturating_sub(*behind)),
            sync_state: "sync".to_owned(),
        });
        let names = server.in_force.parameters.get("synchronous_standby_names");
        let observation = Box::new(Observation {
            oldest_wal_file: String::new(),
            oldest_wal: Lsn::UNKNOWN,
            in_recovery: !server.writable,
            timeline: TimelineId(data.timeline),
            flush_lsn: Lsn(data.lsn),
            replay_lsn: Lsn(data.lsn),
            replayed_until: String::new(),
            system_id: data.system.clone(),
            history: (1..data.timeline).map(switch).collect(),
            synchronous_standby_names: names.cloned().unwrap_or_default(),
            streams_from: (!server.writable)
                .then_some(&server.in_force.follow)
                .and_then(|follow| follow.as_ref())
                .map(|follow| (follow.host.clone(), follow.port.clone()))
                .or_else(|| {
                    let outside = server.in_force.recovery.get("primary_conninfo");
                    let streams = !self.faults.source_silent
                        && self.outside().is_none()
                        && server.in_force.start == Start::Standby;
                    let outside = outside.filter(|_| streams && !server.writable);
                    Some((outside?.clone(), String::new()))
                }),
            md5_verifiers: self.stored_for_md5.iter().cloned().collect(),
            silent_for: None,
            stream_error: String::new(),
            source: self.outside(),
            replay_age: None,
            free_space: self.faults.disk_full.then_some(0),
            taken: if self.faults.taken {
                "all 17 places for users' connections are taken".to_owned()
            } else {
                String::new()
            },
            peers: peers.collect(),
            slots: data
                .slots
                .iter()
                .map(|(name, slot)| Slot {
                    name: name.clone(),
                    active: self.peers.contains_key(name),
                    restart_lsn: Lsn(if slot.lost { 0 } else { slot.from }),
                    wal_status: if slot.lost { "lost" } else { "reserved" }.to_owned(),
                })
                .collect(),
            postmaster: format!("started at {:?}", server.ready_at),
            wal_segment: WAL_SEGMENT,
            pending_restart: server.pending_restart.clone(),
            refused_parameters: std::collections::BTreeMap::new(),
            parameters: server
                .in_force
                .parameters
                .iter()
                .filter(|(name, _)| !is_managed(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        });
        if self.faults.saturated {
            Health::Saturated(observation)
        } else {
            Health::Running(observation)
        }
    }

    /// Parameters of the configuration, and what is told of them.
    pub(crate) fn parameters(&self, names: &[&str]) -> String {
        let written = self.pgdata.config.as_ref();
        let state = self
            .published
            .as_ref()
            .and_then(|info| info.postgres_state.as_ref());
        let line = |name: &&str| {
            let value = written.and_then(|config| config.parameters.get(*name));
            let told = state.and_then(|state| state.pg_parameters.get(*name));
            format!("{name} is {value:?}, told as {told:?}")
        };
        names.iter().map(line).collect::<Vec<_>>().join("; ")
    }

    /// All that the configuration in place says, a line each.
    pub(crate) fn configuration(&self) -> String {
        let Some(written) = self.pgdata.config.as_ref() else {
            return "none\n".to_owned();
        };
        let pairs = |pairs: &BTreeMap<String, String>| -> Vec<String> {
            let line = |(name, value): (&String, &String)| format!("{name} = {value}");
            pairs.iter().map(line).collect()
        };
        let base = if written.include_base {
            ", after what was there"
        } else {
            ""
        };
        let mut lines = vec![format!("{:?}{base}", written.start)];
        lines.extend(pairs(&written.parameters));
        lines.extend(
            pairs(&written.recovery)
                .into_iter()
                .map(|line| format!("recovery: {line}")),
        );
        lines.extend(
            written
                .access_rules
                .iter()
                .map(|rule| format!("access: {rule}")),
        );
        lines.join("\n") + "\n"
    }

    /// What is on disk, what runs, and what was told last.
    pub(crate) fn describe(&self) -> String {
        let noted = self.state.as_ref().map_or_else(
            || "nothing".to_owned(),
            |state| {
                let making = if state.initializing {
                    " being made"
                } else {
                    ""
                };
                format!("{} generation {}{making}", state.uid, state.generation)
            },
        );
        let folder = |folder: &Folder| match (folder.content, folder.whole) {
            (Content::Nothing, _) => "nothing".to_owned(),
            (_, false) => "a part".to_owned(),
            (_, true) => format!("{} whole", folder.data.owner),
        };
        let server = match &self.server {
            None if self.orphans => "orphans",
            None => "nothing",
            Some(server) if server.writable => "a primary",
            Some(_) => "a standby",
        };
        format!(
            "noted {noted}; in place {}; beside {}; running {server}; told {}",
            folder(&self.pgdata),
            folder(&self.beside),
            self.told
        )
    }
}

/// A step in words.
pub(super) fn name_of(step: &Step) -> String {
    match step {
        Step::SaveState(state) if state.initializing => {
            format!("note that the making of {} begins", state.uid)
        }
        Step::SaveState(state) => {
            format!("note {} at generation {}", state.uid, state.generation)
        }
        Step::Initialize { db, .. } => format!("initdb for {db}"),
        Step::Copy {
            db, may_discard, ..
        } => {
            let may = if *may_discard {
                ", old data may go first"
            } else {
                ""
            };
            format!("copy for {db}{may}")
        }
        Step::Rewind {
            db,
            recover_first,
            restore_command,
            ..
        } => {
            let first = if *recover_first {
                ", after recovering"
            } else {
                ""
            };
            let archive = restore_command.as_ref();
            let archive = archive.map_or(String::new(), |command| format!(", with {command}"));
            format!("rewind for {db}{first}{archive}")
        }
        Step::Restore { db, .. } => format!("restore {db} from a backup"),
        Step::FromOutside {
            db,
            conninfo,
            rewind,
            ..
        } => {
            let what = if *rewind { "rewind" } else { "copy" };
            format!("{what} for {db}, from {conninfo} outside")
        }
        Step::Swap { db } => format!("put {db} in place"),
        Step::Discard => "remove the old copy".to_owned(),
        Step::Claim { db } => format!("claim the data for {db}"),
        Step::TakeOver { db, .. } => format!("take the data over for {db}"),
        Step::Configure(wanted) => {
            let outside = wanted.recovery.get("primary_conninfo");
            let role = match (&wanted.follow, wanted.start) {
                (None, Start::Standby) if outside.is_some() => {
                    format!("to follow {} outside", outside.expect("a source"))
                }
                (Some(follow), _) => format!("to follow {}:{}", follow.host, follow.port),
                (None, Start::Standby) => "to be promoted".to_owned(),
                (None, Start::Primary) => "as primary".to_owned(),
                (None, Start::Recovery) => {
                    let target = wanted.recovery.iter();
                    let target = target.filter(|(name, _)| name.starts_with("recovery_target"));
                    let target: Vec<_> = target.map(|(n, v)| format!("{n}={v}")).collect();
                    format!("to recover, {}", target.join(" "))
                }
            };
            let has = |part: &str| wanted.access_rules.iter().any(|rule| rule.contains(part));
            let said = [
                (wanted.own_archive, ", with the archive they came with"),
                (has("hostssl"), ", by TLS only"),
                (
                    has("hostnossl all postgres") && has("hostnossl all repl "),
                    ", refused without",
                ),
                (has("scram-sha-256"), ", by SCRAM"),
                (!has(" all all "), ", users kept out"),
            ];
            let said = said.into_iter().filter(|(is_so, _)| *is_so);
            let said: String = said.map(|(_, words)| words).collect();
            format!("configure {role}{said}")
        }
        Step::Start { db } => format!("start {db}"),
        Step::Checkpoint => "write a checkpoint".to_owned(),
        Step::Stop { why, .. } => format!("stop: {why}"),
        Step::KillAll => "end what is left".to_owned(),
        Step::SetUpRoles => "make the roles".to_owned(),
        Step::Slots {
            drop,
            create,
            advance,
        } => {
            let moved = advance.iter().map(|(name, to)| format!(" {name}>{}", to.0));
            let moved: String = moved.collect();
            format!("slots +[{}] -[{}]{moved}", create.join(" "), drop.join(" "))
        }
        Step::Stir => "write a little WAL".to_owned(),
        Step::Promote { taken, .. } => taken.last().map_or_else(
            || "promote".to_owned(),
            |last| format!("promote past timeline {last}"),
        ),
        Step::Release { .. } => "release".to_owned(),
    }
}
