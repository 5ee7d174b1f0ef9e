//! `stolonctl spec`: the specification in force.

use serde_json::{Value, json};
use stolon_core::model::{EffectiveSpec, ExtSpec, GoDuration};

use super::Failure;
use super::session::{Session, indented, spec_of};
use super::settings;
use crate::output;

pub(super) async fn run(session: &Session, own: &clap::ArgMatches) -> Result<(), Failure> {
    let data = session.data().await?;
    let spec = spec_of(&data)?;
    let mut value = serde_json::to_value(spec)?;
    if own.get_flag("defaults") {
        fill_in(&mut value, &spec.effective());
    } else if let Value::Object(fields) = &mut value {
        fields.retain(|_, value| !value.is_null());
    }
    let settings = settings::read(session).await?.spec;
    if let Value::Object(fields) = &mut value {
        add(fields, &settings, own.get_flag("defaults"));
    }
    Ok(output::line(&indented(&value)?)?)
}

/// Adds the settings that lie beside the Go program's specification.
fn add(fields: &mut serde_json::Map<String, Value>, settings: &ExtSpec, defaults: bool) {
    for (name, default) in ExtSpec::defaults().filter(|_| defaults) {
        fields.insert(name.to_owned(), default);
    }
    for (name, value) in settings.fields() {
        fields.insert(name.clone(), value.clone());
    }
}

/// Adds the defaults of everything that is not said.
fn fill_in(value: &mut Value, spec: &EffectiveSpec) {
    let time = |duration: std::time::Duration| json!(GoDuration::from(duration).to_string());
    let defaults = [
        ("sleepInterval", time(spec.sleep_interval)),
        ("requestTimeout", time(spec.request_timeout)),
        ("convergenceTimeout", time(spec.convergence_timeout)),
        ("initTimeout", time(spec.init_timeout)),
        ("syncTimeout", time(spec.sync_timeout.unwrap_or_default())),
        ("dbWaitReadyTimeout", time(spec.db_wait_ready_timeout)),
        ("failInterval", time(spec.fail_interval)),
        (
            "deadKeeperRemovalInterval",
            time(spec.dead_keeper_removal_interval),
        ),
        ("proxyCheckInterval", time(spec.proxy_check_interval)),
        ("proxyTimeout", time(spec.proxy_timeout)),
        ("maxStandbys", json!(spec.max_standbys)),
        ("maxStandbysPerSender", json!(spec.max_standbys_per_sender)),
        ("maxStandbyLag", json!(spec.max_standby_lag)),
        (
            "synchronousReplication",
            json!(spec.synchronous_replication),
        ),
        (
            "minSynchronousStandbys",
            json!(spec.min_synchronous_standbys),
        ),
        (
            "maxSynchronousStandbys",
            json!(spec.max_synchronous_standbys),
        ),
        ("additionalWalSenders", json!(spec.additional_wal_senders)),
        ("additionalMasterReplicationSlots", Value::Null),
        ("usePgrewind", json!(spec.use_pgrewind)),
        ("initMode", json!(spec.init_mode.as_str())),
        ("mergePgParameters", json!(spec.merge_pg_parameters)),
        ("role", json!(spec.role.as_str())),
        (
            "defaultSUReplAccessMode",
            json!(spec.default_su_repl_access_mode.as_str()),
        ),
        ("pgHBA", Value::Null),
        ("automaticPgRestart", json!(spec.automatic_pg_restart)),
    ];
    if let Value::Object(fields) = value {
        for (name, default) in defaults {
            let slot = fields.entry(name).or_insert(Value::Null);
            if slot.is_null() {
                *slot = default;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fill_in;
    use serde_json::Value;
    use stolon_core::model::ClusterSpec;

    #[test]
    fn defaults_are_gos_but_for_the_documented_difference() {
        let golden = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../core/tests/golden/spec-minimal-effective.json"
        );
        let bytes = std::fs::read(golden).expect("a golden document");
        let mut expected: Value = serde_json::from_slice(&bytes).expect("JSON");
        // Go's 1024*1204 is a slip of the pen.
        expected["maxStandbyLag"] = (1024 * 1024).into();
        let mut value = serde_json::json!({"initMode": "new"});
        let spec: ClusterSpec = serde_json::from_value(value.clone()).expect("a spec");
        fill_in(&mut value, &spec.effective());
        assert_eq!(value, expected);
    }
}
