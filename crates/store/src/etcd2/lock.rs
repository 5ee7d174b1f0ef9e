//! The leadership of the sentinels in etcd's version 2 API, as the Go program has it: one key that
//! the leader makes where there is none, and refreshes (contract, section 3).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Method;

use super::answer::{self, Said};
use super::{Change, change_request, request};
use crate::http::{Client, Pool};
use crate::leadership::Lease;
use crate::{Error, Expected, Revision};

/// The key as this candidate knows it.
#[derive(Debug)]
pub(super) struct Lock {
    pool: Pool,
    path: String,
    /// When it was last written by us; none: it is not ours.
    held: Mutex<Option<u64>>,
}

impl Lock {
    pub(super) fn new(pool: Pool, path: String) -> Self {
        Self {
            pool,
            path,
            held: Mutex::default(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<u64>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the key where there is none, or writes it again where it was last written at `index`:
    /// the index of it, or none when it is not so.
    async fn write(
        &self,
        index: Option<u64>,
        uid: &str,
        ttl: Duration,
    ) -> Result<Option<u64>, Error> {
        let expected = index.map_or(Expected::Absent, |index| Expected::At(Revision(index)));
        let ask = |client: Client| async move {
            let request = change_request(&self.path, expected, Change::Set(uid, Some(ttl)));
            Ok(match answer::read(&client.send(request).await?)? {
                Said::Done { node, .. } => Some(node.modified_index),
                Said::Conflict | Said::Absent { .. } => None,
            })
        };
        self.pool.call(self.pool.deadline(), ask).await.result
    }

    /// Who holds it, and when it was last written. `any`: as the server that is asked knows it,
    /// which costs the others nothing.
    async fn holder(&self, any: bool) -> Result<Option<(String, u64)>, Error> {
        let ask = |client: Client| async move {
            let request = request(Method::GET, &self.path).query("quorum", &!any);
            Ok(match answer::read(&client.send(request).await?)? {
                Said::Done { node, .. } => Some((node.value, node.modified_index)),
                Said::Conflict | Said::Absent { .. } => None,
            })
        };
        self.pool.call(self.pool.deadline(), ask).await.result
    }
}

#[async_trait::async_trait]
impl Lease for Lock {
    async fn hold(&self, _: &str, uid: &str, ttl: Duration) -> Result<bool, Error> {
        let held = *self.held();
        if held.is_none() && self.holder(true).await?.is_some_and(|(by, _)| by != uid) {
            return Ok(false);
        }
        if let Some(index) = self.write(held, uid, ttl).await? {
            *self.held() = Some(index);
            return Ok(true);
        }
        // Of another one, or of a try of ours whose answer was lost: a uid is that of one process.
        let ours = self.holder(false).await?.filter(|(by, _)| by == uid);
        let written = match ours {
            Some((_, index)) => self.write(Some(index), uid, ttl).await?,
            None => None,
        };
        *self.held() = written;
        Ok(written.is_some())
    }

    /// Removes the key without a condition, because Go's candidates wake on nothing else. That it
    /// is ours was seen just before, and it stays so for longer than a call may take.
    async fn release(&self, _: &str) -> Result<(), Error> {
        let Some(index) = self.held().take() else {
            return Ok(());
        };
        let uid = match self.holder(false).await? {
            Some((uid, found)) if found == index => uid,
            Some(_) | None => return Ok(()),
        };
        let ttl = self.pool.longest_call() * 2;
        if self.write(Some(index), &uid, ttl).await?.is_none() {
            return Ok(());
        }
        let ask = |client: Client| async move {
            let answer = client.send(request(Method::DELETE, &self.path)).await?;
            answer::read(&answer).map(|_| ())
        };
        self.pool.call(self.pool.deadline(), ask).await.result
    }
}
