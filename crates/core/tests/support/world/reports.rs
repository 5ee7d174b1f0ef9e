//! What keepers and proxies publish of themselves.

use stolon_core::model::report::{
    FEATURE_AGE_FROM_SEND, FEATURE_FLUSH_RULE, FEATURE_READS, IMPLEMENTATION,
};
use stolon_core::model::{
    BootUuid, Condition, DbUid, Generation, InfoUid, InstanceReport, KeeperInfo, KeeperUid, List,
    Lsn, PeerReport, PostgresState, ProxyInfo, ProxyUid, TimelineId, TimelineSwitch, Unknown,
};

use super::World;
use super::members::{InstanceModel, KeeperModel, admitted};

/// Why data cannot be used that are gone; with them is what told the generation.
const DATA_GONE: &str = "its data are gone";

impl World {
    /// Every living keeper and proxy publishes.
    pub(crate) fn publish(&mut self) {
        if !self.store_writable {
            return;
        }
        let names: Vec<String> = self.keepers.keys().cloned().collect();
        for name in names {
            if self.keepers[&name].alive && !self.keepers[&name].mute {
                let info = self.keeper_info(&name);
                self.keeper_infos.insert(name, info);
            }
        }
        for (name, proxy) in self.proxies.iter().filter(|(_, proxy)| proxy.alive) {
            self.publications += 1;
            let features = match (proxy.go, proxy.reads) {
                (true, _) => vec![],
                (false, false) => vec![FEATURE_AGE_FROM_SEND.to_owned()],
                (false, true) => vec![FEATURE_AGE_FROM_SEND.to_owned(), FEATURE_READS.to_owned()],
            };
            let info = ProxyInfo {
                info_uid: InfoUid::new(self.publications.to_string()),
                uid: ProxyUid::from(name.as_str()),
                generation: proxy.generation,
                proxy_timeout_nanos: 3_000_000_000,
                features,
                ..ProxyInfo::default()
            };
            self.proxy_infos.insert(name.clone(), info);
        }
    }

    fn keeper_info(&mut self, name: &str) -> KeeperInfo {
        self.publications += 1;
        let keeper = &self.keepers[name];
        let state = keeper.instance.as_ref().map(|instance| PostgresState {
            healthy: keeper.healthy && admitted(self.data(), name, keeper),
            ..self.state(keeper, instance)
        });
        KeeperInfo {
            info_uid: InfoUid::new(self.publications.to_string()),
            uid: KeeperUid::from(name),
            cluster_uid: self.data().cluster.as_ref().expect("cluster").uid.clone(),
            boot_uuid: BootUuid::new(keeper.boot.to_string()),
            postgres_state: state,
            can_be_master: Some(keeper.can_be_master),
            can_be_synchronous_replica: Some(keeper.can_be_synchronous),
            implementation: if keeper.go {
                String::new()
            } else {
                IMPLEMENTATION.to_owned()
            },
            features: vec![FEATURE_FLUSH_RULE.to_owned()],
            ..KeeperInfo::default()
        }
    }

    fn state(&self, keeper: &KeeperModel, instance: &InstanceModel) -> PostgresState {
        let peers: Vec<PeerReport> = if instance.primary && keeper.released_at.is_none() {
            self.peers(instance)
        } else {
            vec![]
        };
        let named = self
            .data()
            .dbs
            .get(&instance.db)
            .map(|db| db.spec.synchronous_standbys.clone());
        let in_sync = peers
            .iter()
            .filter(|peer| {
                named
                    .as_ref()
                    .is_some_and(|named| named.contains(&peer.db_uid))
            })
            .map(|peer| peer.db_uid.clone());
        let report = InstanceReport {
            condition: Some(Condition::Running),
            in_recovery: Some(!instance.primary),
            streaming: (!instance.primary).then_some(!keeper.cut),
            replay_lsn: Lsn(instance.lsn),
            oldest_wal: Lsn(instance.oldest_wal),
            peers: peers.clone(),
            released_at_revision: keeper.released_at,
            data_unusable: keeper.unusable.clone(),
            ..InstanceReport::default()
        };
        let told = if instance.primary && !keeper.go {
            64
        } else {
            2
        };
        PostgresState {
            uid: instance.db.clone(),
            generation: if keeper.unusable == DATA_GONE {
                Generation::NONE
            } else {
                instance.generation
            },
            listen_address: "127.0.0.1".to_owned(),
            port: "5432".to_owned(),
            system_id: "7275812345678901234".to_owned(),
            timeline_id: TimelineId(instance.timeline),
            xlog_pos: Lsn(instance.lsn + instance.half),
            // The format keeps the last two; our primaries tell of more.
            timelines_history: instance
                .history
                .iter()
                .skip(instance.history.len().saturating_sub(told))
                .map(switch)
                .collect(),
            pg_parameters: instance.parameters.clone(),
            synchronous_standbys: in_sync.collect::<List<DbUid>>(),
            instance: (!keeper.go).then_some(report),
            ..PostgresState::default()
        }
    }

    fn peers(&self, primary: &InstanceModel) -> Vec<PeerReport> {
        let follows = |instance: &InstanceModel| {
            self.data().dbs.get(&instance.db).is_some_and(|db| {
                let follow = db.spec.follow_config.as_ref();
                follow.is_some_and(|follow| follow.db_uid == primary.db)
            })
        };
        self.keepers
            .values()
            .filter(|keeper| keeper.alive && keeper.healthy && !keeper.cut)
            .filter_map(|keeper| keeper.instance.as_ref())
            .filter(|instance| !instance.primary && follows(instance))
            .map(|instance| PeerReport {
                db_uid: instance.db.clone(),
                state: "streaming".to_owned(),
                flush_lsn: Lsn(instance.lsn),
                ..PeerReport::default()
            })
            .collect()
    }
}

fn switch((timeline, point): &(u64, u64)) -> TimelineSwitch {
    TimelineSwitch {
        timeline_id: TimelineId(*timeline),
        switch_point: Lsn(*point),
        reason: String::new(),
        unknown: Unknown::new(),
    }
}
