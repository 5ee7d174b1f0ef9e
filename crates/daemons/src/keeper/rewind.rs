//! Taking the data in place back into the primary's history (ADR 12).

use std::time::Duration;

use stolon_core::keeper::decide::Follow;
use stolon_core::model::DbUid;
use stolon_core::time::Instant;
use stolon_postgres::conninfo::ConnInfo;
use stolon_postgres::outside::Outside;
use stolon_postgres::rewind::{self, Reach, Request, Rewind, Source};
use stolon_postgres::{config_files, data_dir};

use super::Error;
use super::apply::{QUERY_LIMIT, telling};
use super::copy::COPY_RESERVE;
use super::instance::Instance;
use super::replaced;
use crate::runtime::clock;

/// A rewind that neither says nor does anything for this long is given up: it flushes every file it
/// changed, and has a command fetch WAL.
const PATIENCE: Duration = Duration::from_mins(5);
/// How long the source's checkpoint may take.
const CHECKPOINT_LIMIT: Duration = Duration::from_mins(10);

/// What is to come of a rewind, and how.
struct Plan<'a> {
    db: &'a DbUid,
    source: Reach<'a>,
    found: Source,
    recover_first: bool,
    restore_command: Option<&'a str>,
}

impl Instance {
    /// Rewinds the data in place to the db that is followed.
    pub(super) async fn rewind(
        &self,
        db: &DbUid,
        source: &Follow,
        recover_first: bool,
        restore_command: Option<&str>,
    ) -> Result<(), Error> {
        let began = clock::now();
        self.check_rewindable()?;
        let found = self.prepare_source(source).await?;
        let superuser = self.superuser_at(source);
        let plan = Plan {
            db,
            source: Reach::Member(&superuser),
            found,
            recover_first,
            restore_command,
        };
        self.carry_out(plan).await?;
        // The data are consistent once a record ends where the primary inserts now: where nobody writes
        // that could take for ever.
        let stirred = async { self.session_with(source, QUERY_LIMIT).await?.stir().await };
        tell_end(began, stirred.await);
        Ok(())
    }

    /// Rewinds the data in place to the server outside that a standby cluster follows (scenario C3).
    pub(super) async fn rewind_to_outside(
        &self,
        db: &DbUid,
        server: &Outside,
    ) -> Result<(), Error> {
        let began = clock::now();
        let (programs, limit) = (&self.installation, QUERY_LIMIT);
        self.check_rewindable()?;
        let found = Source::look_outside(programs, server, limit).await?;
        if found.checkpoint_timeline != found.timeline {
            tracing::info!("asking the server outside for a checkpoint before the rewind");
            let limit = CHECKPOINT_LIMIT;
            rewind::request(programs, server, Request::Checkpoint, limit).await?;
        }
        let plan = Plan {
            db,
            source: Reach::Outside(server),
            found,
            recover_first: false,
            restore_command: None,
        };
        self.carry_out(plan).await?;
        let stirred = rewind::request(programs, server, Request::Stir, limit).await;
        tell_end(began, stirred);
        Ok(())
    }

    fn check_rewindable(&self) -> Result<(), Error> {
        if !self.installation.has("pg_rewind") {
            let text = "pg_rewind is not among PostgreSQL's programs: install it";
            return Err(Error::DataDir(text.to_owned()));
        }
        if self.is_of_other_cluster(&self.local.pgdata())? {
            let text = "the local data are those of another cluster, and nobody knows whether the \
                        primary has all of them: they are kept, and a copy is made";
            return Err(Error::DataDir(text.to_owned()));
        }
        Ok(())
    }

    /// What can be seen before is looked at before; then the data give up their name and their place,
    /// durably, so that whatever happens nobody takes them for whole before they are.
    async fn carry_out(&self, plan: Plan<'_>) -> Result<(), Error> {
        let (pgdata, beside) = (self.local.pgdata(), self.local.beside());
        let Plan { db, found, .. } = plan;
        if self.system_id(&pgdata).await?.as_ref() != Some(&found.system_id) {
            let text = "the local data are of another database system than those of the primary";
            return Err(Error::DataDir(text.to_owned()));
        }
        let rewind = |target| Rewind {
            target,
            source: plan.source,
            timeline: found.timeline,
            recover_first: plan.recover_first,
            restore_command: plan.restore_command,
            patience: PATIENCE,
        };
        // Data that have to recover first cannot be asked about: their recovery would change them.
        if !plan.recover_first {
            let what = "looking whether the data can be rewound";
            rewind::try_out(&self.installation, rewind(&pgdata), telling(what)).await?;
        }
        self.clear_beside(Some(&found.system_id)).await?;
        let needed = found.wal_bytes.saturating_add(COPY_RESERVE);
        let free = data_dir::free_space(&pgdata)?;
        if free < needed {
            return Err(Error::DataDir(format!(
                "no room for the rewind: {needed} bytes are needed for WAL and {free} are free in {}",
                pgdata.display()
            )));
        }
        tracing::info!(%db, "rewinding the data: until that has succeeded they count as destroyed");
        self.begin_making()?;
        data_dir::clear_identity(&pgdata)?;
        data_dir::swap(&pgdata, &beside)?;
        let what = "rewinding the data";
        rewind::run(&self.installation, rewind(&beside), telling(what)).await?;
        config_files::set_standby(&beside, true)?;
        replaced::own(&beside)?;
        self.finish_making(db)
    }

    fn superuser_at(&self, source: &Follow) -> ConnInfo {
        ConnInfo {
            application_name: "stolon-keeper".to_owned(),
            host: source.host.clone(),
            port: source.port.clone(),
            user: self.config.superuser.name.clone(),
            password: self.passwords.superuser().unwrap_or_default(),
            tls: self.config.tls.clone(),
        }
    }

    /// Looks at the source, and has it write a checkpoint where its control file still tells of the
    /// timeline before its promotion: `pg_rewind` goes by that before version 16, and would find that
    /// nothing is to be undone (scenario C1).
    async fn prepare_source(&self, source: &Follow) -> Result<Source, Error> {
        let session = self.session_with(source, QUERY_LIMIT).await?;
        let found = Source::look(&session).await?;
        if found.checkpoint_timeline != found.timeline {
            tracing::info!("asking the primary for a checkpoint before the rewind");
            let patient = self.session_with(source, CHECKPOINT_LIMIT).await?;
            patient.checkpoint().await?;
        }
        Ok(found)
    }
}

fn tell_end(began: Instant, stirred: Result<(), stolon_postgres::Error>) {
    if let Err(error) = stirred {
        tracing::warn!(%error, "no WAL was written for the rewound data to become consistent");
    }
    let seconds = clock::now().since(began).as_secs_f64();
    tracing::info!(seconds, "rewind finished");
}
