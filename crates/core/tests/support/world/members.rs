//! Keepers with their instances, and proxies: what they do when they read a document.

use std::collections::BTreeMap;

use stolon_core::model::{ClusterData, Db, DbUid, Generation, InitMode, KeeperUid, Role};

use super::World;

/// A keeper with its instance.
#[derive(Debug, Clone)]
pub(crate) struct KeeperModel {
    pub(crate) alive: bool,
    pub(crate) healthy: bool,
    /// Does not carry out what the document says.
    pub(crate) stuck: bool,
    /// Does not receive WAL.
    pub(crate) cut: bool,
    /// Carries out what the document says and cannot say so.
    pub(crate) mute: bool,
    /// A Go keeper: says less of itself.
    pub(crate) go: bool,
    pub(crate) can_be_master: bool,
    pub(crate) can_be_synchronous: bool,
    pub(crate) boot: u64,
    pub(crate) released_at: Option<u64>,
    /// Why its data cannot be used; until it gets others.
    pub(crate) unusable: String,
    pub(crate) instance: Option<InstanceModel>,
    /// What lies in its data directory and is no db of the cluster.
    pub(crate) found: Option<InstanceModel>,
}

/// What is in a keeper's data directory.
#[derive(Debug, Clone, Default)]
pub(crate) struct InstanceModel {
    pub(crate) db: DbUid,
    pub(crate) generation: Generation,
    pub(crate) primary: bool,
    pub(crate) lsn: u64,
    /// Bytes received of a record that is not whole.
    pub(crate) half: u64,
    /// Where the oldest WAL that it has begins.
    pub(crate) oldest_wal: u64,
    pub(crate) timeline: u64,
    pub(crate) history: Vec<(u64, u64)>,
    /// Of a primary: the names its commits wait for, as it was last told.
    pub(crate) waits_for: Vec<String>,
    /// The parameters in its configuration files.
    pub(crate) parameters: BTreeMap<String, String>,
}

/// A proxy.
#[derive(Debug, Clone)]
pub(crate) struct ProxyModel {
    pub(crate) alive: bool,
    /// Does not carry out what the document says.
    pub(crate) stuck: bool,
    pub(crate) go: bool,
    /// Leads clients to standbys.
    pub(crate) reads: bool,
    pub(crate) generation: Generation,
}

impl World {
    pub(crate) fn add_keeper(&mut self, name: &str) {
        let model = KeeperModel {
            alive: true,
            healthy: true,
            stuck: false,
            cut: false,
            mute: false,
            go: false,
            can_be_master: true,
            can_be_synchronous: true,
            boot: 1,
            released_at: None,
            unusable: String::new(),
            instance: None,
            found: None,
        };
        self.keepers.insert(name.to_owned(), model);
    }

    pub(crate) fn add_proxy(&mut self, name: &str) {
        let model = ProxyModel {
            alive: true,
            stuck: false,
            go: false,
            reads: false,
            generation: Generation::NONE,
        };
        self.proxies.insert(name.to_owned(), model);
    }

    pub(crate) fn keeper(&mut self, name: &str) -> &mut KeeperModel {
        self.keepers
            .get_mut(name)
            .unwrap_or_else(|| panic!("no keeper {name}"))
    }

    /// Every living keeper and proxy does what the document says.
    pub(crate) fn obey(&mut self) {
        let data = self.data().clone();
        let source = self.source();
        for (name, keeper) in &mut self.keepers {
            if keeper.alive && !keeper.stuck && admitted(&data, name, keeper) {
                obey_as_keeper(name, keeper, &data, self.revision, source.as_ref());
            }
        }
        for proxy in self.proxies.values_mut() {
            if proxy.alive && !proxy.stuck {
                proxy.generation = data.proxy.generation;
            }
        }
    }

    /// The running primary the others can copy from and follow.
    pub(super) fn source(&self) -> Option<InstanceModel> {
        let uid = self.data().cluster.as_ref()?.status.master.clone()?;
        let outside = self
            .data()
            .primary()
            .is_some_and(|db| db.spec.role == Some(Role::Standby));
        let running = self
            .keepers
            .values()
            .filter(|keeper| keeper.alive && keeper.healthy);
        running
            .filter_map(|keeper| keeper.instance.clone())
            .find(|i| i.db == uid && (i.primary || outside))
    }

    /// The primary that runs by the document, if any.
    pub(crate) fn running_primary(&self) -> Option<InstanceModel> {
        self.source()
    }

    /// The primary writes so many bytes; whoever streams receives them.
    pub(crate) fn write_wal(&mut self, bytes: u64) {
        let Some(source) = self.source() else { return };
        for keeper in self
            .keepers
            .values_mut()
            .filter(|keeper| keeper.alive && keeper.healthy)
        {
            if let Some(instance) = keeper.instance.as_mut() {
                let receives = !keeper.cut && instance.timeline == source.timeline;
                if instance.db == source.db || receives {
                    instance.lsn = instance.lsn.max(source.lsn + bytes);
                    instance.half = 0;
                }
            }
        }
        let written = source.lsn + bytes;
        let has_it = |name: &String| {
            let keepers = self.keepers.values().filter(|keeper| keeper.alive);
            let mut instances = keepers.filter_map(|keeper| keeper.instance.as_ref());
            instances.any(|instance| instance.db.as_str() == name && instance.lsn >= written)
        };
        if !source.waits_for.is_empty() && source.waits_for.iter().all(has_it) {
            self.acknowledged = self.acknowledged.max(written);
        }
    }
}

/// The boot rule: whether the document knows this start of the keeper.
pub(super) fn admitted(data: &ClusterData, name: &str, keeper: &KeeperModel) -> bool {
    let known = data.keepers.get(&KeeperUid::from(name));
    known.is_some_and(|known| known.status.boot_uuid.as_str() == keeper.boot.to_string())
}

fn obey_as_keeper(
    name: &str,
    keeper: &mut KeeperModel,
    data: &ClusterData,
    revision: u64,
    source: Option<&InstanceModel>,
) {
    let Some(db) = data.db_of(&KeeperUid::from(name)) else {
        keeper.instance = None;
        return;
    };
    let known = keeper
        .instance
        .as_ref()
        .is_some_and(|instance| instance.db == db.uid);
    if !known && !start_anew(keeper, db, source) {
        return;
    }
    if !known && !std::mem::take(&mut keeper.unusable).is_empty() {
        keeper.healthy = true;
    }
    let is_primary = data.cluster.as_ref().and_then(|c| c.status.master.as_ref()) == Some(&db.uid);
    if is_primary
        && keeper
            .released_at
            .is_some_and(|released| revision > released)
    {
        // It reads a newer document and takes its instance back, unless that is to be replaced.
        let stays = !data.proxy.spec.successor_db_uid.is_empty();
        keeper.released_at = stays.then_some(revision);
        keeper.healthy = !stays;
    }
    let Some(instance) = keeper.instance.as_mut() else {
        return;
    };
    // What went back leaves a later history as it is.
    let is_later = instance.generation > db.generation
        && source.is_none_or(|source| instance.timeline > source.timeline);
    if is_later && !is_primary {
        return;
    }
    if is_primary && db.spec.role == Some(Role::Primary) && !instance.primary {
        instance.history.push((instance.timeline, instance.lsn));
        instance.timeline += 1;
        instance.primary = true;
        instance.half = 0;
    }
    if let (false, Some(source)) = (instance.primary || keeper.cut, source) {
        let switched = source
            .history
            .iter()
            .find(|(timeline, _)| *timeline == instance.timeline);
        let forked = switched.is_some_and(|(_, point)| *point < instance.lsn);
        if !forked && instance.timeline <= source.timeline {
            if instance.timeline != source.timeline {
                instance.half = 0;
            }
            instance.timeline = source.timeline;
            instance.history.clone_from(&source.history);
            instance.lsn = instance.lsn.max(source.lsn);
        }
    }
    let listed = db.spec.synchronous_standbys.iter().map(ToString::to_string);
    let external = db.spec.external_synchronous_standbys.iter().cloned();
    instance.waits_for = listed.chain(external).collect();
    instance.generation = db.generation;
}

/// Makes the data a db begins with; false: not possible now.
fn start_anew(keeper: &mut KeeperModel, db: &Db, source: Option<&InstanceModel>) -> bool {
    let found = keeper.found.clone();
    let fresh = match (&db.spec.init_mode, source) {
        (Some(InitMode::Existing | InitMode::Pitr), _) => match found {
            Some(found) => found,
            None => return false,
        },
        (Some(InitMode::New), _) => InstanceModel {
            primary: true,
            lsn: 1000,
            timeline: 1,
            ..InstanceModel::default()
        },
        (Some(InitMode::Resync), Some(source)) if !keeper.cut => InstanceModel {
            primary: false,
            ..source.clone()
        },
        _ => return false,
    };
    keeper.healthy = true;
    keeper.instance = Some(InstanceModel {
        db: db.uid.clone(),
        ..fresh
    });
    true
}
