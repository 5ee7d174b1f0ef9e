//! What operators ask for, read from the store, and what came of it, written there.

use stolon_core::keeper::Event;
use stolon_core::keeper::facts::Asked;
use stolon_core::model::request::{Progress, ProgressState, Request, RequestId, RequestKind};
use stolon_core::model::{KeeperInfo, KeeperUid, wire};
use stolon_store::{Expected, Folder, Key, Store, Written};

use crate::document::understood;
use crate::runtime::clock;

/// Reads the requests, and what the other keepers publish when `peers` is set.
pub(super) async fn ask(store: &dyn Store, peers: bool) -> Event {
    match read(store, peers).await {
        Ok(asked) => Event::Asked(Box::new(asked)),
        Err(error) => {
            tracing::debug!(%error, "cannot read what operators ask for");
            Event::AskFailed
        }
    }
}

async fn read(store: &dyn Store, peers: bool) -> Result<Asked, stolon_store::Error> {
    let requests = understood::<Request>(store.list(Folder::Requests).await?);
    let peers = if peers {
        Some(understood::<KeeperInfo>(store.list(Folder::Keepers).await?))
    } else {
        None
    };
    Ok(Asked {
        wall: clock::wall(),
        requests,
        peers,
    })
}

/// Writes what came of a request at this keeper; false: somebody else changed it meanwhile, or the store
/// does not answer, and it is to be tried again.
pub(super) async fn note(
    store: &dyn Store,
    id: &RequestId,
    keeper: &str,
    progress: &Progress,
) -> bool {
    let (state, reason) = (progress.state.as_str(), progress.reason.as_str());
    let key = Key::Request(id.as_str().to_owned());
    let changed = async {
        let Some(entry) = store.get(&key).await.map_err(|error| error.to_string())? else {
            // Its end was taken for granted by who asked.
            return Ok(());
        };
        let read = wire::read::<Request>(&entry.value);
        let mut request = read.map_err(|error| error.to_string())?;
        let keeper = KeeperUid::from(keeper);
        let is_over =
            |known: &Progress| matches!(known.state, ProgressState::Done | ProgressState::Failed);
        let is_restart = request.kind == Some(RequestKind::Restart);
        if !request.is_live(clock::wall())
            || request.progress_of(&keeper).is_some_and(is_over)
            || (is_restart && !request.is_turn_of(&keeper))
        {
            return Err("it has changed or ended meanwhile".to_owned());
        }
        request.progress.insert(keeper, progress.clone());
        let bytes = wire::write(&request).map_err(|error| error.to_string())?;
        match store
            .compare_and_swap(&key, Expected::At(entry.revision), &bytes)
            .await
        {
            Written::Yes(_) => Ok(()),
            Written::Conflict => Err("somebody else changed it meanwhile".to_owned()),
            Written::No(error) | Written::Unknown(error) => Err(error.to_string()),
        }
    };
    match changed.await {
        Ok(()) => {
            tracing::info!(request = %id, state, reason, "an operator's request");
            true
        }
        Err(error) => {
            tracing::warn!(error, request = %id, state, "cannot tell what came of a request");
            false
        }
    }
}
