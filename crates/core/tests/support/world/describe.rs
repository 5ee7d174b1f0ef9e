//! The state of a cluster in a few lines.

use stolon_core::model::{Db, DbUid, InitMode, Role};

use super::World;

impl World {
    /// The state on one line a keeper, for stories.
    pub(crate) fn describe(&self) -> String {
        let data = self.data();
        let cluster = data.cluster.as_ref().expect("cluster");
        let keeper_of = |uid: &DbUid| {
            data.dbs
                .get(uid)
                .map_or("?".to_owned(), |db| db.spec.keeper_uid.to_string())
        };
        let primary = cluster
            .status
            .master
            .as_ref()
            .map_or("none".to_owned(), &keeper_of);
        let to = &data.proxy.spec.primary_db_uid;
        let route = if to.is_empty() {
            "closed".to_owned()
        } else {
            keeper_of(to)
        };
        let mut lines = vec![format!("primary {primary}, proxies {route}")];
        for keeper in data.keepers.values() {
            let health = if keeper.status.healthy { "up" } else { "down" };
            let db = data.db_of(&keeper.uid);
            let db = db.map_or("no db".to_owned(), |db| describe_db(db, &keeper_of));
            lines.push(format!("{} {health}: {db}", keeper.uid));
        }
        lines.join("\n")
    }

    /// What the db of a keeper takes from the cluster's spec, for stories.
    pub(crate) fn describe_told(&self, keeper: &str) -> String {
        let db = self.data().db_of(&keeper.into()).expect("a db");
        let spec = &db.spec;
        let parameters: Vec<String> = spec
            .pg_parameters
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        format!(
            "request {}, standbys {}, rewind {}, walsenders {}, slots {:?}, hba {:?}, parameters {}",
            spec.request_timeout,
            spec.max_standbys,
            spec.use_pgrewind,
            spec.additional_wal_senders,
            spec.additional_replication_slots.as_slice(),
            spec.pg_hba.as_slice(),
            parameters.join(" ")
        )
    }

    /// How the first db is to be made, and who follows it, for stories.
    pub(crate) fn describe_first(&self) -> String {
        let data = self.data();
        let master = data.cluster.as_ref().and_then(|c| c.status.master.as_ref());
        let db = master.and_then(|uid| data.dbs.get(uid)).expect("a db");
        let spec = &db.spec;
        let locale = spec.new_config.as_ref().map(|config| &config.locale);
        let restore = spec.pitr_config.as_ref();
        let restore = restore.map(|config| &config.data_restore_command);
        let (mode, merges) = (spec.init_mode.as_ref(), spec.include_previous_config);
        let followers = &spec.followers.0;
        format!(
            "mode {mode:?}, locale {locale:?}, restore {restore:?}, takes its parameters over \
             {merges}, followers {followers:?}"
        )
    }
}

fn describe_db(db: &Db, keeper_of: &dyn Fn(&DbUid) -> String) -> String {
    let role = db.spec.role.as_ref().map_or("?", |role| match role {
        Role::Primary => "primary",
        Role::Standby => "standby",
        Role::Unknown(_) => "unknown",
    });
    let health = if db.status.healthy {
        "healthy"
    } else {
        "unhealthy"
    };
    let there = if db.status.current_generation == db.generation {
        ""
    } else {
        ", converging"
    };
    let init = match &db.spec.init_mode {
        Some(InitMode::None) | None => String::new(),
        Some(mode) => format!(", {mode}"),
    };
    let names = |uids: &[DbUid]| uids.iter().map(keeper_of).collect::<Vec<_>>().join(" ");
    let mut line = format!("{role} {health}{there}{init}");
    if db.spec.synchronous_replication {
        line += ", sync [";
        line += &names(&db.spec.synchronous_standbys);
        line += "] confirmed [";
        line += &names(&db.status.synchronous_standbys);
        line += "]";
        if !db.spec.external_synchronous_standbys.is_empty() {
            line += " placeholder";
        }
    }
    line
}
