//! Clusters in which processes of the Go program still run: what they would not survive is refused
//! (contract, section 8).

use stolon_core::model::ClusterSpec;
use stolon_store::Folder;

use super::Failure;
use super::session::Session;

/// The processes of the Go program that published lately, as "keeper k1".
pub(super) async fn go_processes(session: &Session) -> Result<Vec<String>, Failure> {
    let roles = [
        (Folder::Keepers, "keeper"),
        (Folder::Sentinels, "sentinel"),
        (Folder::Proxies, "proxy"),
    ];
    let mut found = Vec::new();
    for (folder, role) in roles {
        for entry in session.store.list(folder).await? {
            // What is no document stops nobody.
            let Ok(info) = serde_json::from_slice::<serde_json::Value>(&entry.value) else {
                continue;
            };
            let is_ours = info["impl"].as_str().is_some_and(|name| !name.is_empty());
            let name = entry.key.to_string();
            let uid = name.rsplit('/').next().unwrap_or_default();
            if info.is_object() && !is_ours {
                found.push(format!("{role} {uid}"));
            }
        }
    }
    Ok(found)
}

/// The processes in a folder that published lately and lack a feature.
pub(super) async fn lacking(
    session: &Session,
    folder: Folder,
    feature: &str,
) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    for entry in session.store.list(folder).await? {
        let Ok(info) = serde_json::from_slice::<serde_json::Value>(&entry.value) else {
            continue;
        };
        let features = info["features"].as_array();
        let has = features.is_some_and(|features| features.iter().any(|name| name == feature));
        if info.is_object() && !has {
            let name = entry.key.to_string();
            found.push(name.rsplit('/').next().unwrap_or_default().to_owned());
        }
    }
    Ok(found)
}

/// Stolon v0.17.0 stops on a specification that allows no synchronous standby at all.
pub(super) fn check(spec: &ClusterSpec, go: &[String]) -> Result<(), Failure> {
    if go.is_empty() || spec.effective().min_synchronous_standbys > 0 {
        return Ok(());
    }
    Err(Failure::Error(format!(
        "minSynchronousStandbys 0 is refused while processes of the Go program run, which may stop on \
         it: {}",
        go.join(", ")
    )))
}
