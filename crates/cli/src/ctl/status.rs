//! `stolonctl status`: what is, in a form for people and one for programs.

mod members;
mod requests;
mod table;

use std::fmt::Write as _;

use serde_json::json;
use stolon_core::model::history::{Decision, History};
use stolon_core::model::request::Request;
use stolon_core::model::{ClusterData, Db, KeeperInfo, ProxyInfo, SentinelInfo, wire};
use stolon_core::time::Timestamp;
use stolon_daemons::runtime::clock;
use stolon_store::{Entry, Folder, Key, Store};

use super::Failure;
use super::reasons::{in_words, keepers as keepers_of};
use super::session::{Session, indented};
use crate::output;
pub use members::{lag, role, synchronous};
use table::table;

/// All that the status is made of.
#[derive(Debug, Default)]
pub struct Picture {
    /// The cluster data.
    pub data: Option<ClusterData>,
    /// What keepers published.
    pub keepers: Vec<KeeperInfo>,
    /// The sentinels, by uid.
    pub sentinels: Vec<String>,
    /// The leading one.
    pub leader: Option<String>,
    /// What proxies published.
    pub proxies: Vec<ProxyInfo>,
    /// The latest decision that changed something.
    pub latest: Option<Decision>,
    /// What operators asked for.
    pub requests: Vec<Request>,
    /// When all of this was read.
    pub wall: Timestamp,
}

/// The forms of the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Format {
    /// The one asked for.
    pub(super) fn of(own: &clap::ArgMatches) -> Self {
        match own.get_one::<String>("format").map(String::as_str) {
            Some("json") => Self::Json,
            Some(_) | None => Self::Text,
        }
    }
}

pub(super) async fn run(session: &Session, own: &clap::ArgMatches) -> Result<(), Failure> {
    let picture = look(session.store.as_ref()).await?;
    let text = match Format::of(own) {
        Format::Text => render(&picture),
        Format::Json => format!("{}\n", indented(&render_json(&picture))?),
    };
    Ok(output::data(&text)?)
}

/// What a program that reads the status is told of a failure.
pub(super) fn render_failure(error: &str) -> Result<String, Failure> {
    Ok(format!("{}\n", indented(&json!({ "error": error }))?))
}

/// Reads everything the status is made of.
pub async fn look(store: &dyn Store) -> Result<Picture, String> {
    let text = |error: stolon_store::Error| error.to_string();
    let data = match store.get(&Key::ClusterData).await.map_err(text)? {
        None => None,
        Some(entry) => wire::read_cluster_data(&entry.value).map_err(|error| error.to_string())?,
    };
    let sentinels: Vec<SentinelInfo> = read(&store.list(Folder::Sentinels).await.map_err(text)?);
    let history = store.get(&Key::History).await.map_err(text)?;
    let history: History = history
        .and_then(|entry| wire::read(&entry.value).ok())
        .unwrap_or_default();
    Ok(Picture {
        data,
        keepers: read(&store.list(Folder::Keepers).await.map_err(text)?),
        sentinels: sentinels
            .into_iter()
            .map(|info| info.uid.to_string())
            .collect(),
        leader: store.leader().await.map_err(text)?,
        proxies: read(&store.list(Folder::Proxies).await.map_err(text)?),
        latest: history.decisions.last().cloned(),
        requests: read(&store.list(Folder::Requests).await.map_err(text)?),
        wall: clock::wall(),
    })
}

/// What cannot be understood is passed over: the sentinel tells of it.
fn read<T: serde::de::DeserializeOwned + wire::Document>(entries: &[Entry]) -> Vec<T> {
    entries
        .iter()
        .filter_map(|entry| wire::read(&entry.value).ok())
        .collect()
}

/// The text of the status: the contract's sections and columns first, ours after them.
pub fn render(picture: &Picture) -> String {
    let mut text = requests::pause(&picture.requests, picture.wall);
    let mut section = |title: &str, body: String| {
        let _ = writeln!(text, "=== {title} ===\n\n{body}");
    };
    section("Active sentinels", sentinels(picture));
    section("Active proxies", proxies(picture));
    section("Keepers", keepers(picture));
    text.push_str(&cluster(picture));
    if let Some(latest) = &picture.latest {
        let _ = writeln!(text, "=== Latest decision ===\n");
        let _ = writeln!(text, "{} by sentinel {}", latest.at, latest.sentinel);
        let keepers = picture.data.as_ref().map(keepers_of).unwrap_or_default();
        for reason in &latest.reasons {
            let _ = writeln!(text, "  {}", in_words(reason, &keepers));
        }
        text.push('\n');
    }
    let requests = requests::render(&picture.requests, picture.wall);
    if !requests.is_empty() {
        let _ = writeln!(text, "=== Requests ===\n\n{requests}");
    }
    text
}

fn sentinels(picture: &Picture) -> String {
    if picture.sentinels.is_empty() {
        return "No active sentinels\n".to_owned();
    }
    let mut rows = vec![vec!["ID".to_owned(), "LEADER".to_owned()]];
    for uid in &picture.sentinels {
        let leads = picture.leader.as_ref() == Some(uid);
        rows.push(vec![uid.clone(), leads.to_string()]);
    }
    table(&rows)
}

fn proxies(picture: &Picture) -> String {
    if picture.proxies.is_empty() {
        return "No active proxies\n".to_owned();
    }
    let mut rows = vec![vec!["ID".to_owned(), "OPEN TO".to_owned()]];
    for proxy in &picture.proxies {
        let to = picture.data.as_ref().map_or(String::new(), |data| {
            let spec = &data.proxy.spec;
            let enabled = spec.enabled_proxies.contains(&proxy.uid);
            let db = data.dbs.get(&spec.primary_db_uid).filter(|_| enabled);
            db.map_or("(closed)".to_owned(), |db| db.spec.keeper_uid.to_string())
        });
        rows.push(vec![proxy.uid.to_string(), to]);
    }
    table(&rows)
}

fn keepers(picture: &Picture) -> String {
    let Some(data) = picture
        .data
        .as_ref()
        .filter(|data| !data.keepers.is_empty())
    else {
        return "No keepers available\n".to_owned();
    };
    let titles = [
        "UID",
        "HEALTHY",
        "PG LISTENADDRESS",
        "PG HEALTHY",
        "PG WANTEDGENERATION",
        "PG CURRENTGENERATION",
    ];
    let titles = titles.iter().chain(&members::TITLES);
    let mut rows = vec![titles.map(|title| (*title).to_owned()).collect()];
    for keeper in data.keepers.values() {
        let mut row = vec![keeper.uid.to_string(), keeper.status.healthy.to_string()];
        match data.db_of(&keeper.uid) {
            Some(db) => row.extend(db_columns(picture, data, db)),
            None => row.extend(["(no db assigned)", "false", "0", "0"].map(str::to_owned)),
        }
        rows.push(row);
    }
    table(&rows)
}

fn db_columns(picture: &Picture, data: &ClusterData, db: &Db) -> Vec<String> {
    let status = &db.status;
    let address = if status.listen_address.is_empty() {
        "(unknown)".to_owned()
    } else {
        format!("{}:{}", status.listen_address, status.port)
    };
    let mut columns = vec![
        address,
        status.healthy.to_string(),
        db.generation.to_string(),
        status.current_generation.to_string(),
    ];
    columns.extend(members::columns(picture, data, db));
    columns
}

fn cluster(picture: &Picture) -> String {
    let title = "=== Cluster Info ===\n\n";
    let Some((data, primary)) = picture
        .data
        .as_ref()
        .zip(picture.data.as_ref().and_then(|d| d.primary()))
    else {
        return format!("{title}No cluster available\n\n");
    };
    let keeper = &primary.spec.keeper_uid;
    let mut text = format!(
        "{title}Master Keeper: {keeper}\n\n===== Keepers/DB tree =====\n\n{keeper} (master)\n"
    );
    let followers: Vec<&Db> = data
        .dbs
        .values()
        .filter(|db| {
            db.spec
                .follow_config
                .as_ref()
                .is_some_and(|f| f.db_uid == primary.uid)
        })
        .collect();
    for (index, db) in followers.iter().enumerate() {
        let branch = if index + 1 == followers.len() {
            "└─"
        } else {
            "├─"
        };
        let _ = writeln!(text, "{branch}{}", db.spec.keeper_uid);
    }
    text.push('\n');
    text
}

fn render_json(picture: &Picture) -> serde_json::Value {
    let data = picture.data.as_ref();
    let sentinels: Vec<_> = picture
        .sentinels
        .iter()
        .map(|uid| json!({"uid": uid, "leader": picture.leader.as_ref() == Some(uid)}))
        .collect();
    let proxies: Vec<_> = picture
        .proxies
        .iter()
        .map(|proxy| json!({"uid": proxy.uid, "generation": proxy.generation}))
        .collect();
    let keeper = |data: &ClusterData, keeper: &stolon_core::model::Keeper| {
        let db = data.db_of(&keeper.uid);
        let mut value = json!({
            "uid": keeper.uid,
            "listen_address": db.map_or("(no db assigned)".to_owned(), |db| {
                if db.status.listen_address.is_empty() {
                    "(unknown)".to_owned()
                } else {
                    format!("{}:{}", db.status.listen_address, db.status.port)
                }
            }),
            "healthy": keeper.status.healthy,
            "pg_healthy": db.is_some_and(|db| db.status.healthy),
            "pg_wanted_generation": db.map_or(0, |db| db.generation.0),
            "pg_current_generation": db.map_or(0, |db| db.status.current_generation.0),
        });
        if let Some(db) = db {
            members::add_json(&mut value, picture, data, db);
        }
        value
    };
    let keepers: Vec<_> = data.map_or(vec![], |data| {
        data.keepers.values().map(|k| keeper(data, k)).collect()
    });
    let primary = data.and_then(ClusterData::primary);
    json!({
        "sentinels": sentinels,
        "proxies": proxies,
        "keepers": keepers,
        "cluster": {
            "available": primary.is_some(),
            "master_keeper_uid": primary.map_or("", |db| db.spec.keeper_uid.as_str()),
            "master_db_uid": primary.map_or("", |db| db.uid.as_str()),
            "proxies_open": data.is_some_and(|data| !data.proxy.spec.primary_db_uid.is_empty()),
            "uid": data.and_then(|d| d.cluster.as_ref()).map(|cluster| cluster.uid.clone()),
        },
        "latest_decision": picture.latest,
        "requests": requests::render_json(&picture.requests, picture.wall),
    })
}
