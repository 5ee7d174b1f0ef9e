//! Taking the data in place back into the primary's history (ADR 12).

use std::time::Duration;

use stolon_core::keeper::decide::Follow;
use stolon_core::model::DbUid;
use stolon_postgres::conninfo::ConnInfo;
use stolon_postgres::rewind::{self, Rewind, Source};
use stolon_postgres::{config_files, data_dir};

use super::Error;
use super::apply::{COPY_RESERVE, QUERY_LIMIT, telling};
use super::instance::Instance;
use super::replaced;
use crate::runtime::clock;

/// A rewind that neither says nor does anything for this long is given up: it flushes every file it
/// changed, and has a command fetch WAL.
const PATIENCE: Duration = Duration::from_mins(5);
/// How long the source's checkpoint may take.
const CHECKPOINT_LIMIT: Duration = Duration::from_mins(10);

impl Instance {
    /// Rewinds the data in place to the db that is followed. What can be seen before is looked at
    /// before; then the data give up their name and their place, durably, so that whatever happens
    /// nobody takes them for whole before they are.
    pub(super) async fn rewind(
        &self,
        db: &DbUid,
        source: &Follow,
        recover_first: bool,
        restore_command: Option<&str>,
    ) -> Result<(), Error> {
        let (pgdata, beside) = (self.local.pgdata(), self.local.beside());
        let began = clock::now();
        if !self.installation.has("pg_rewind") {
            let text = "pg_rewind is not among PostgreSQL's programs: install it";
            return Err(Error::DataDir(text.to_owned()));
        }
        if replaced::is_of_other_cluster(&pgdata)? {
            let text = "the local data are those of another cluster, and nobody knows whether the \
                        primary has all of them: they are kept, and a copy is made";
            return Err(Error::DataDir(text.to_owned()));
        }
        let found = self.prepare_source(source).await?;
        if self.system_id(&pgdata).await?.as_ref() != Some(&found.system_id) {
            let text = "the local data are of another database system than those of the primary";
            return Err(Error::DataDir(text.to_owned()));
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
        data_dir::clear_identity(&pgdata)?;
        data_dir::swap(&pgdata, &beside)?;
        let superuser = ConnInfo {
            application_name: "stolon-keeper".to_owned(),
            host: source.host.clone(),
            port: source.port.clone(),
            user: self.config.superuser.name.clone(),
            password: self.passwords.superuser().unwrap_or_default(),
            tls: self.config.tls.clone(),
        };
        let rewind = Rewind {
            target: &beside,
            source: &superuser,
            timeline: found.timeline,
            recover_first,
            restore_command,
            patience: PATIENCE,
        };
        rewind::run(&self.installation, rewind, telling("rewinding the data")).await?;
        config_files::set_standby(&beside, true)?;
        replaced::own(&beside)?;
        data_dir::set_identity(&beside, db.as_str())?;
        // The data are consistent once a record ends where the primary inserts now: where nobody writes
        // that could take for ever.
        let stirred = async { self.session_with(source, QUERY_LIMIT).await?.stir().await };
        if let Err(error) = stirred.await {
            tracing::warn!(%error, "no WAL was written for the rewound data to become consistent");
        }
        tracing::info!(
            seconds = clock::now().since(began).as_secs_f64(),
            "rewind finished"
        );
        Ok(())
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
