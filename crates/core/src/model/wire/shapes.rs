//! The field names of every document, for bringing input to the model's spelling.

use serde_json::{Map, Value};

use crate::model::history::History;
use crate::model::request::Request;
use crate::model::{ClusterData, ClusterSpec, ExtSpec, KeeperInfo, ProxyInfo, SentinelInfo};

/// What a value is made of.
#[derive(Debug)]
pub enum Shape {
    /// Anything; left as it is.
    Leaf,
    /// An object with these fields.
    Object(&'static [(&'static str, &'static Shape)]),
    /// A map from the user's names to values of one shape.
    Map(&'static Shape),
    /// A list of values of one shape.
    List(&'static Shape),
}

/// A document with a shape.
pub trait Document {
    /// Its shape.
    const SHAPE: &'static Shape;
}

impl Document for ClusterData {
    const SHAPE: &'static Shape = &CLUSTER_DATA;
}
impl Document for ClusterSpec {
    const SHAPE: &'static Shape = &CLUSTER_SPEC;
}
impl Document for ExtSpec {
    const SHAPE: &'static Shape = &EXT_SPEC;
}
impl Document for KeeperInfo {
    const SHAPE: &'static Shape = &KEEPER_INFO;
}
impl Document for ProxyInfo {
    const SHAPE: &'static Shape = &PROXY_INFO;
}
impl Document for SentinelInfo {
    const SHAPE: &'static Shape = &SENTINEL_INFO;
}
impl Document for History {
    const SHAPE: &'static Shape = &HISTORY;
}
impl Document for Request {
    // Only programs of ours write it.
    const SHAPE: &'static Shape = &Shape::Leaf;
}

const LEAF: Shape = Shape::Leaf;

const NEW_CONFIG: Shape = Shape::Object(&[
    ("locale", &LEAF),
    ("encoding", &LEAF),
    ("dataChecksums", &LEAF),
]);
const ARCHIVE: Shape = Shape::Object(&[("restoreCommand", &LEAF)]);
const RECOVERY_TARGET: Shape = Shape::Object(&[
    ("recoveryTarget", &LEAF),
    ("recoveryTargetLsn", &LEAF),
    ("recoveryTargetName", &LEAF),
    ("recoveryTargetTime", &LEAF),
    ("recoveryTargetXid", &LEAF),
    ("recoveryTargetTimeline", &LEAF),
]);
const PITR_CONFIG: Shape = Shape::Object(&[
    ("dataRestoreCommand", &LEAF),
    ("archiveRecoverySettings", &ARCHIVE),
    ("recoveryTargetSettings", &RECOVERY_TARGET),
]);
const STANDBY_SETTINGS: Shape = Shape::Object(&[
    ("primaryConninfo", &LEAF),
    ("primarySlotName", &LEAF),
    ("recoveryMinApplyDelay", &LEAF),
]);
const STANDBY_CONFIG: Shape = Shape::Object(&[
    ("standbySettings", &STANDBY_SETTINGS),
    ("archiveRecoverySettings", &ARCHIVE),
]);

/// The spec, which is also what operators type.
pub(super) const CLUSTER_SPEC: Shape = Shape::Object(&[
    ("sleepInterval", &LEAF),
    ("requestTimeout", &LEAF),
    ("convergenceTimeout", &LEAF),
    ("initTimeout", &LEAF),
    ("syncTimeout", &LEAF),
    ("dbWaitReadyTimeout", &LEAF),
    ("failInterval", &LEAF),
    ("deadKeeperRemovalInterval", &LEAF),
    ("proxyCheckInterval", &LEAF),
    ("proxyTimeout", &LEAF),
    ("maxStandbys", &LEAF),
    ("maxStandbysPerSender", &LEAF),
    ("maxStandbyLag", &LEAF),
    ("synchronousReplication", &LEAF),
    ("minSynchronousStandbys", &LEAF),
    ("maxSynchronousStandbys", &LEAF),
    ("additionalWalSenders", &LEAF),
    ("additionalMasterReplicationSlots", &LEAF),
    ("usePgrewind", &LEAF),
    ("initMode", &LEAF),
    ("mergePgParameters", &LEAF),
    ("role", &LEAF),
    ("newConfig", &NEW_CONFIG),
    ("pitrConfig", &PITR_CONFIG),
    ("existingConfig", &Shape::Object(&[("keeperUID", &LEAF)])),
    ("standbyConfig", &STANDBY_CONFIG),
    ("defaultSUReplAccessMode", &LEAF),
    ("pgParameters", &Shape::Map(&LEAF)),
    ("pgHBA", &LEAF),
    ("automaticPgRestart", &LEAF),
]);

const SWITCHES: Shape = Shape::List(&Shape::Object(&[
    ("timelineID", &LEAF),
    ("switchPoint", &LEAF),
    ("reason", &LEAF),
]));

const FOLLOW_CONFIG: Shape = Shape::Object(&[
    ("type", &LEAF),
    ("dbuid", &LEAF),
    ("standbySettings", &STANDBY_SETTINGS),
    ("archiveRecoverySettings", &ARCHIVE),
]);

const DB_SPEC: Shape = Shape::Object(&[
    ("keeperUID", &LEAF),
    ("requestTimeout", &LEAF),
    ("maxStandbys", &LEAF),
    ("synchronousReplication", &LEAF),
    ("usePgrewind", &LEAF),
    ("additionalWalSenders", &LEAF),
    ("additionalReplicationSlots", &LEAF),
    ("initMode", &LEAF),
    ("newConfig", &NEW_CONFIG),
    ("pitrConfig", &PITR_CONFIG),
    ("pgParameters", &Shape::Map(&LEAF)),
    ("pgHBA", &LEAF),
    ("role", &LEAF),
    ("followConfig", &FOLLOW_CONFIG),
    ("followers", &LEAF),
    ("includePreviousConfig", &LEAF),
    ("synchronousStandbys", &LEAF),
    ("externalSynchronousStandbys", &LEAF),
]);

const DB_STATUS: Shape = Shape::Object(&[
    ("healthy", &LEAF),
    ("currentGeneration", &LEAF),
    ("listenAddress", &LEAF),
    ("port", &LEAF),
    ("systemdID", &LEAF),
    ("timelineID", &LEAF),
    ("xLogPos", &LEAF),
    ("timelinesHistory", &SWITCHES),
    ("pgParameters", &Shape::Map(&LEAF)),
    ("synchronousStandbys", &LEAF),
    ("olderWalFile", &LEAF),
    ("oldestWal", &LEAF),
]);

const VERSION: Shape = Shape::Object(&[("Maj", &LEAF), ("Min", &LEAF)]);

const KEEPER_STATUS: Shape = Shape::Object(&[
    ("healthy", &LEAF),
    ("lastHealthyTime", &LEAF),
    ("bootUUID", &LEAF),
    ("postgresBinaryVersion", &VERSION),
    ("forceFail", &LEAF),
    ("canBeMaster", &LEAF),
    ("canBeSynchronousReplica", &LEAF),
]);

const CLUSTER: Shape = Shape::Object(&[
    ("uid", &LEAF),
    ("generation", &LEAF),
    ("changeTime", &LEAF),
    ("spec", &CLUSTER_SPEC),
    (
        "status",
        &Shape::Object(&[
            ("currentGeneration", &LEAF),
            ("phase", &LEAF),
            ("master", &LEAF),
        ]),
    ),
]);

const KEEPER: Shape = Shape::Object(&[
    ("uid", &LEAF),
    ("generation", &LEAF),
    ("changeTime", &LEAF),
    ("spec", &Shape::Object(&[])),
    ("status", &KEEPER_STATUS),
]);

const DB: Shape = Shape::Object(&[
    ("uid", &LEAF),
    ("generation", &LEAF),
    ("changeTime", &LEAF),
    ("spec", &DB_SPEC),
    ("status", &DB_STATUS),
]);

const PROXY: Shape = Shape::Object(&[
    ("uid", &LEAF),
    ("generation", &LEAF),
    ("changeTime", &LEAF),
    (
        "spec",
        &Shape::Object(&[
            ("masterDbUid", &LEAF),
            ("enabledProxies", &LEAF),
            ("successorDbUid", &LEAF),
        ]),
    ),
    ("status", &Shape::Object(&[])),
]);

const CLUSTER_DATA: Shape = Shape::Object(&[
    ("formatVersion", &LEAF),
    ("changeTime", &LEAF),
    ("cluster", &CLUSTER),
    ("keepers", &Shape::Map(&KEEPER)),
    ("dbs", &Shape::Map(&DB)),
    ("proxy", &PROXY),
]);

const PEER: Shape = Shape::Object(&[
    ("dbUid", &LEAF),
    ("state", &LEAF),
    ("flushLsn", &LEAF),
    ("replayLsn", &LEAF),
    ("syncState", &LEAF),
]);

const SLOT: Shape = Shape::Object(&[
    ("name", &LEAF),
    ("active", &LEAF),
    ("restartLsn", &LEAF),
    ("walStatus", &LEAF),
]);

const INSTANCE: Shape = Shape::Object(&[
    ("condition", &LEAF),
    ("reason", &LEAF),
    ("inRecovery", &LEAF),
    ("streaming", &LEAF),
    ("replayLsn", &LEAF),
    ("silentSeconds", &LEAF),
    ("streamError", &LEAF),
    ("replayAgeSeconds", &LEAF),
    ("slots", &Shape::List(&SLOT)),
    ("freeBytes", &LEAF),
    ("oldestWal", &LEAF),
    ("peers", &Shape::List(&PEER)),
    ("releasedAtRevision", &LEAF),
    ("pendingRestart", &LEAF),
    ("refusedParameters", &Shape::Map(&LEAF)),
]);

const POSTGRES_STATE: Shape = Shape::Object(&[
    ("uid", &LEAF),
    ("generation", &LEAF),
    ("listenAddress", &LEAF),
    ("port", &LEAF),
    ("healthy", &LEAF),
    ("systemID", &LEAF),
    ("timelineID", &LEAF),
    ("xLogPos", &LEAF),
    ("timelinesHistory", &SWITCHES),
    ("pgParameters", &Shape::Map(&LEAF)),
    ("synchronousStandbys", &LEAF),
    ("olderWalFile", &LEAF),
    ("instance", &INSTANCE),
]);

const KEEPER_INFO: Shape = Shape::Object(&[
    ("infoUID", &LEAF),
    ("uid", &LEAF),
    ("clusterUID", &LEAF),
    ("bootUUID", &LEAF),
    ("postgresBinaryVersion", &VERSION),
    ("postgresState", &POSTGRES_STATE),
    ("canBeMaster", &LEAF),
    ("canBeSynchronousReplica", &LEAF),
    ("impl", &LEAF),
    ("version", &LEAF),
    ("features", &LEAF),
]);

const PROXY_INFO: Shape = Shape::Object(&[
    ("infoUID", &LEAF),
    ("UID", &LEAF),
    ("Generation", &LEAF),
    ("ProxyTimeout", &LEAF),
    ("impl", &LEAF),
    ("version", &LEAF),
    ("features", &LEAF),
]);

const SENTINEL_INFO: Shape = Shape::Object(&[
    ("UID", &LEAF),
    ("impl", &LEAF),
    ("version", &LEAF),
    ("features", &LEAF),
]);

const EXT_SPEC: Shape = Shape::Object(&[
    // Each also has its line in `ext.rs`, with how it is read.
    ("maxSlotWALKeepSize", &LEAF),
    ("maxSlotWALKeepTime", &LEAF),
]);

const HISTORY: Shape = Shape::Object(&[(
    "decisions",
    &Shape::List(&Shape::Object(&[
        ("at", &LEAF),
        ("sentinel", &LEAF),
        ("reasons", &LEAF),
    ])),
)]);

/// Brings a value to the spelling of its shape, and notes the paths of the fields nobody knows.
///
/// Where nobody asks for them no path is made: below a long name each would be as long.
pub(crate) fn canonical(
    value: &mut Value,
    shape: &Shape,
    path: &str,
    unknown: &mut Option<Vec<String>>,
) {
    let wanted = unknown.is_some();
    let below = |name: &str| {
        if !wanted {
            String::new()
        } else if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    match (shape, value) {
        (Shape::Object(fields), Value::Object(object)) => {
            let given = std::mem::take(object);
            let exact = |name: &str| fields.iter().any(|(field, _)| *field == name);
            // An exact spelling wins over another one of the same name.
            let (first, last): (Map<_, _>, Map<_, _>) =
                given.into_iter().partition(|(name, _)| !exact(name));
            for (name, mut value) in first.into_iter().chain(last) {
                let known = fields
                    .iter()
                    .find(|(field, _)| field.eq_ignore_ascii_case(&name));
                match known {
                    Some(_) if value.is_null() => {}
                    Some((field, shape)) => {
                        canonical(&mut value, shape, &below(field), unknown);
                        object.insert((*field).to_owned(), value);
                    }
                    None => {
                        if let Some(unknown) = unknown {
                            unknown.push(below(&name));
                        }
                        object.insert(name, value);
                    }
                }
            }
        }
        (Shape::Map(shape), Value::Object(map)) => {
            for (name, value) in map.iter_mut() {
                canonical(value, shape, &below(name), unknown);
            }
        }
        (Shape::List(shape), Value::Array(items)) => {
            for (index, value) in items.iter_mut().enumerate() {
                canonical(value, shape, &below(&index.to_string()), unknown);
            }
        }
        (Shape::Leaf | Shape::Object(_) | Shape::Map(_) | Shape::List(_), _) => {}
    }
}
