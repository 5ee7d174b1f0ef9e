//! Steps that are taken over the session with a running instance: roles, slots, promotion.

use stolon_core::keeper::decide::SCRAM;
use stolon_core::model::{Lsn, TimelineId};
use stolon_postgres::history;
use stolon_postgres::query::Session;

use super::Error;
use super::apply::QUERY_LIMIT;
use super::instance::Instance;

impl Instance {
    /// Runs something over the persistent session.
    pub(super) async fn with_session<T>(
        &self,
        work: impl AsyncFnOnce(&Session) -> Result<T, stolon_postgres::Error>,
    ) -> Result<T, stolon_postgres::Error> {
        let mut session = self.session.lock().await;
        if session.as_ref().is_none_or(Session::is_closed) {
            *session = Some(Session::connect(&self.target(), QUERY_LIMIT).await?);
        }
        match session.as_ref() {
            Some(open) => work(open).await,
            None => Err(stolon_postgres::Error::NoAnswer {
                what: "connect",
                limit: QUERY_LIMIT,
            }),
        }
    }

    pub(super) async fn set_up_roles(&self) -> Result<(), Error> {
        let (superuser, user) = (&self.config.superuser, &self.config.replication_user);
        let password = self.passwords.replication();
        self.with_session(async |session| {
            if user.name == superuser.name {
                session
                    .set_replication_role(&user.name, None, false, false)
                    .await?;
                tracing::info!("replication role added to superuser");
                return Ok(());
            }
            let (name, password) = (&user.name, password.as_deref());
            let (exists, scram) = (session.role(name).await?.is_some(), user.method == SCRAM);
            session
                .set_replication_role(name, password, scram, !exists)
                .await?;
            tracing::info!(role = user.name, "replication role created");
            Ok(())
        })
        .await?;
        Ok(())
    }

    pub(super) async fn set_slots(
        &self,
        drop: &[String],
        create: &[String],
        advance: &[(String, Lsn)],
    ) -> Result<(), Error> {
        self.with_session(async |session| {
            for name in drop {
                session.drop_slot(name).await?;
                tracing::info!(slot = name, "dropped a replication slot");
            }
            for name in create {
                session.create_slot(name).await?;
                tracing::info!(slot = name, "created a replication slot");
            }
            for (name, to) in advance {
                session.advance_slot(name, *to).await?;
                tracing::debug!(slot = name, %to, "moved a replication slot");
            }
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Writes a little WAL, for which the standbys acknowledge what they have.
    pub(super) async fn stir(&self) -> Result<(), Error> {
        let stirred = self.with_session(async |session| session.stir().await);
        Ok(stirred.await?)
    }

    /// Promotes the instance, to a timeline beyond those that may have begun elsewhere (ADR 11).
    pub(super) async fn promote(
        &self,
        slots: &[String],
        taken: &[TimelineId],
    ) -> Result<(), Error> {
        history::pass_over(&self.local.pgdata(), taken)?;
        if let Err(error) = self.set_slots(&[], slots, &[]).await {
            tracing::warn!(%error, "cannot make the slots before the promotion");
        }
        // Where the disk held it up it may have been given up meanwhile: then it ends here.
        tokio::task::yield_now().await;
        tracing::info!("promoting to master");
        let promoted = self.with_session(async |session| session.promote().await);
        Ok(promoted.await?)
    }
}
