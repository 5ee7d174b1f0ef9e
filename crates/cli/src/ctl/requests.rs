//! What operators ask of the daemons: `stolonctl resync`, `restart`, `reload`, `pause`, `resume` and
//! `cancel`. Each is written into the store, where those it concerns find it and tell what came of it
//! (contract, section 8).

mod arguments;
mod follow;

pub(crate) use arguments::commands;
pub(crate) use follow::wording;

use stolon_core::model::request::{FEATURE_REQUESTS, Request, RequestId, RequestKind};
use stolon_core::model::{ClusterData, Db, KeeperInfo, KeeperUid, SentinelInfo, wire};
use stolon_core::time::Timestamp;
use stolon_daemons::runtime::{clock, names};
use stolon_store::{Entry, Expected, Folder, Key, Written};

use super::Failure;
use super::keepers::unknown;
use super::session::Session;
use crate::output;

/// Ended requests that are kept to be looked at.
const KEPT: usize = 20;

/// What the commands read before they ask for anything.
struct Scene {
    data: ClusterData,
    keepers: Vec<KeeperInfo>,
    sentinels: Vec<SentinelInfo>,
    requests: Vec<Request>,
    wall: Timestamp,
}

impl Scene {
    async fn look(session: &Session) -> Result<Self, Failure> {
        let store = session.store.as_ref();
        Ok(Self {
            data: session.data().await?,
            keepers: understood(&store.list(Folder::Keepers).await?),
            sentinels: understood(&store.list(Folder::Sentinels).await?),
            requests: understood(&store.list(Folder::Requests).await?),
            wall: clock::wall(),
        })
    }

    fn live(&self, kind: &RequestKind) -> impl Iterator<Item = &Request> {
        let requests = self.requests.iter();
        requests.filter(move |r| r.kind.as_ref() == Some(kind) && r.is_live(self.wall))
    }

    /// Sentinels must keep a request, or it is worth nothing.
    fn check_sentinels(&self, what: &str) -> Result<(), Failure> {
        let lack = self.sentinels.iter().filter(|info| lacks(&info.features));
        let lack: Vec<&str> = lack.map(|info| info.uid.as_str()).collect();
        if lack.is_empty() && self.sentinels.is_empty() {
            return Err(Failure::Error(format!("{what}: no sentinel is active")));
        }
        refuse(what, "sentinel", &lack)
    }

    /// The keepers that are asked must hear it.
    fn check_keepers(&self, what: &str, keepers: &[KeeperUid]) -> Result<(), Failure> {
        let found = |uid: &KeeperUid| self.keepers.iter().find(|info| info.uid == *uid);
        let silent: Vec<&str> = keepers
            .iter()
            .filter(|uid| found(uid).is_none())
            .map(KeeperUid::as_str)
            .collect();
        if !silent.is_empty() {
            return Err(Failure::Error(format!(
                "{what}: nothing is heard of keeper {}: start it, or leave it out",
                silent.join(", ")
            )));
        }
        let lack = keepers
            .iter()
            .filter(|uid| found(uid).is_some_and(|info| lacks(&info.features)));
        let lack: Vec<&str> = lack.map(KeeperUid::as_str).collect();
        refuse(what, "keeper", &lack)
    }

    fn db(&self, keeper: &KeeperUid) -> Result<&Db, Failure> {
        if !self.data.keepers.contains_key(keeper) {
            return Err(unknown(&self.data, keeper));
        }
        let db = self.data.db_of(keeper);
        db.ok_or_else(|| {
            Failure::Error(format!("keeper {keeper} has no db: there is nothing to do"))
        })
    }

    fn is_primary(&self, db: &Db) -> bool {
        self.data
            .primary()
            .is_some_and(|primary| primary.uid == db.uid)
    }

    fn request(
        &self,
        kind: RequestKind,
        keepers: Vec<KeeperUid>,
        own: &clap::ArgMatches,
    ) -> Request {
        Request {
            id: RequestId::new(names::short()),
            kind: Some(kind),
            keepers,
            asked_at: self.wall,
            asked_by: asker(),
            why: own.get_one::<String>("why").cloned().unwrap_or_default(),
            ..Request::default()
        }
    }
}

fn lacks(features: &[String]) -> bool {
    !features.iter().any(|feature| feature == FEATURE_REQUESTS)
}

fn refuse(what: &str, role: &str, lack: &[&str]) -> Result<(), Failure> {
    if lack.is_empty() {
        return Ok(());
    }
    Err(Failure::Error(format!(
        "{what}: {role} {} is of the Go program or an older version and knows no requests: replace it \
         first",
        lack.join(", ")
    )))
}

/// What cannot be understood is passed over: the daemons tell of it.
fn understood<T: serde::de::DeserializeOwned + wire::Document>(entries: &[Entry]) -> Vec<T> {
    let read = entries.iter().map(|entry| wire::read(&entry.value));
    read.filter_map(Result::ok).collect()
}

/// Who asks, as user@host.
fn asker() -> String {
    let user = crate::args::environment("USER").filter(|user| !user.is_empty());
    let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let host = rustix::system::uname();
    format!("{user}@{}", host.nodename().to_string_lossy())
}

/// `stolonctl resync KEEPER`.
pub(super) async fn resync(session: &Session, own: &clap::ArgMatches) -> Result<(), Failure> {
    let scene = Scene::look(session).await?;
    let keeper = KeeperUid::new(own.get_one::<String>("uid").cloned().unwrap_or_default());
    let db = scene.db(&keeper)?;
    if scene.is_primary(db) {
        return Err(Failure::Error(format!(
            "keeper {keeper} runs the primary, whose data the others are copies of: stolonctl failkeeper \
             {keeper} lets another one take its place first"
        )));
    }
    if !scene
        .data
        .primary()
        .is_some_and(|primary| primary.status.healthy)
    {
        return Err(Failure::Error(
            "there is no healthy primary to copy from: the data of a standby may be the last good ones"
                .to_owned(),
        ));
    }
    scene.check_keepers("resync", std::slice::from_ref(&keeper))?;
    scene.check_sentinels("resync")?;
    if let Some(request) = scene.live(&RequestKind::Pause).next() {
        return Err(Failure::Error(format!(
            "the cluster is paused by {} (stolonctl resume ends it): nothing would begin",
            request.asked_by
        )));
    }
    if let Some(request) = scene.live(&RequestKind::Resync).next() {
        return Err(Failure::Error(format!(
            "request {} is not at its end yet: one standby after the other",
            request.id
        )));
    }
    if needs_another(&scene, db) {
        output::talk(&format!(
            "warning: commits wait for keeper {keeper}, and no other standby can take its place: the copy \
             begins when one can (or after synchronous replication was turned off)"
        ));
    }
    let request = Request {
        db_uid: db.uid.clone(),
        ..scene.request(RequestKind::Resync, vec![keeper], own)
    };
    follow::submit(session, &scene, request, own).await
}

/// Whether commits wait for a standby that nobody can replace.
fn needs_another(scene: &Scene, db: &Db) -> bool {
    let Some(primary) = scene.data.primary() else {
        return false;
    };
    let others = scene.data.dbs.values();
    let others = others.filter(|other| other.uid != db.uid && !scene.is_primary(other));
    let is_listed = primary.spec.synchronous_standbys.contains(&db.uid);
    is_listed && !others.into_iter().any(|other| other.status.healthy)
}

/// `stolonctl restart KEEPER… | --all`.
pub(super) async fn restart(session: &Session, own: &clap::ArgMatches) -> Result<(), Failure> {
    let scene = Scene::look(session).await?;
    let keepers = named(&scene, own)?;
    scene.check_keepers("restart", &keepers)?;
    if let Some(request) = scene.live(&RequestKind::Restart).next() {
        return Err(Failure::Error(format!(
            "restart {} is not at its end yet: wait for it, or stolonctl cancel {}",
            request.id, request.id
        )));
    }
    let request = scene.request(RequestKind::Restart, keepers, own);
    follow::submit(session, &scene, request, own).await
}

/// `stolonctl reload KEEPER… | --all`.
pub(super) async fn reload(session: &Session, own: &clap::ArgMatches) -> Result<(), Failure> {
    let scene = Scene::look(session).await?;
    let keepers = named(&scene, own)?;
    scene.check_keepers("reload", &keepers)?;
    let request = scene.request(RequestKind::Reload, keepers, own);
    follow::submit(session, &scene, request, own).await
}

/// The keepers that were named, or all that have a db: standbys before the primary.
fn named(scene: &Scene, own: &clap::ArgMatches) -> Result<Vec<KeeperUid>, Failure> {
    let mut keepers: Vec<KeeperUid> = if own.get_flag("all") {
        scene
            .data
            .dbs
            .values()
            .map(|db| db.spec.keeper_uid.clone())
            .collect()
    } else {
        let typed = own.get_many::<String>("uids").into_iter().flatten();
        typed.map(|uid| KeeperUid::from(uid.as_str())).collect()
    };
    if keepers.is_empty() {
        return Err(Failure::Error("name keepers, or say --all".to_owned()));
    }
    for keeper in &keepers {
        scene.db(keeper)?;
    }
    let primary = scene.data.primary().map(|db| db.spec.keeper_uid.clone());
    keepers.sort_by_key(|keeper| (Some(keeper) == primary.as_ref(), keeper.clone()));
    keepers.dedup();
    Ok(keepers)
}

/// `stolonctl pause`.
pub(super) async fn pause(session: &Session, own: &clap::ArgMatches) -> Result<(), Failure> {
    let scene = Scene::look(session).await?;
    scene.check_sentinels("pause")?;
    if let Some(request) = scene.live(&RequestKind::Pause).next() {
        output::talk(&format!(
            "the cluster is paused already, by {}",
            request.asked_by
        ));
        return Ok(());
    }
    let request = scene.request(RequestKind::Pause, Vec::new(), own);
    follow::store(session, &scene, &request).await?;
    output::talk(
        "paused: nothing is decided automatically, no failed primary is replaced, until stolonctl resume",
    );
    Ok(())
}

/// `stolonctl resume`.
pub(super) async fn resume(session: &Session, _: &clap::ArgMatches) -> Result<(), Failure> {
    let scene = Scene::look(session).await?;
    let paused: Vec<&Request> = scene.live(&RequestKind::Pause).collect();
    if paused.is_empty() {
        output::talk("the cluster is not paused");
    }
    for request in paused {
        end(session, &request.id).await?;
    }
    Ok(())
}

/// `stolonctl cancel ID`: what has begun at a keeper is brought to its end, nothing more begins.
pub(super) async fn cancel(session: &Session, own: &clap::ArgMatches) -> Result<(), Failure> {
    let id = RequestId::new(own.get_one::<String>("id").cloned().unwrap_or_default());
    let scene = Scene::look(session).await?;
    let Some(request) = scene.requests.iter().find(|request| request.id == id) else {
        let live = scene
            .requests
            .iter()
            .filter(|request| request.is_live(scene.wall));
        let live: Vec<&str> = live.map(|request| request.id.as_str()).collect();
        let known = if live.is_empty() {
            "none".to_owned()
        } else {
            live.join(", ")
        };
        return Err(Failure::Error(format!(
            "there is no request {id}; not at their end are: {known}"
        )));
    };
    if !request.is_live(scene.wall) {
        output::talk(&format!("request {id} is at its end already"));
        return Ok(());
    }
    end(session, &id).await
}

/// Ends a request, whatever others write into it meanwhile.
async fn end(session: &Session, id: &RequestId) -> Result<(), Failure> {
    let key = Key::Request(id.as_str().to_owned());
    for _ in 0..super::session::ATTEMPTS {
        let Some(entry) = session.store.get(&key).await? else {
            return Ok(());
        };
        let mut request: Request = wire::read(&entry.value)?;
        request.ended_at = clock::wall();
        request.ended_by = asker();
        let bytes = wire::write(&request)?;
        match session
            .store
            .compare_and_swap(&key, Expected::At(entry.revision), &bytes)
            .await
        {
            Written::Yes(_) => return Ok(()),
            Written::Conflict => {}
            Written::No(error) | Written::Unknown(error) => return Err(error.into()),
        }
    }
    Err(Failure::Error(format!(
        "request {id} changed during each attempt: try again"
    )))
}
