//! Copying a running instance beside the data in place.

use std::time::Duration;

use stolon_core::keeper::decide::Follow;
use stolon_core::model::DbUid;
use stolon_postgres::outside::{self, Outside};
use stolon_postgres::query::Session;
use stolon_postgres::{base_config, basebackup, config_files, data_dir};

use super::Error;
use super::apply::{QUERY_LIMIT, telling};
use super::instance::Instance;
use super::replaced;
use crate::runtime::clock;

/// A copy that does not get on for this long is given up.
const COPY_PATIENCE: Duration = Duration::from_mins(1);
/// Room that a copy needs beyond the size of its source, for the WAL that comes meanwhile.
pub(super) const COPY_RESERVE: u64 = 256 << 20;

impl Instance {
    /// Copies the db that is followed beside PGDATA.
    pub(super) async fn copy(
        &self,
        db: &DbUid,
        source: &Follow,
        may_discard: bool,
    ) -> Result<(), Error> {
        let beside = self.local.beside();
        let session = self.session_with(source, QUERY_LIMIT).await?;
        let sql = "SELECT system_identifier::text FROM pg_control_system()";
        let system = session.value("system identifier", sql).await?;
        self.clear_beside(system.as_deref()).await?;
        // What is in place may go first only where the source has it all.
        let own = self.system_id(&self.local.pgdata()).await;
        let is_its = own.is_ok_and(|own| own == system)
            && !self.is_of_other_cluster(&self.local.pgdata())?;
        self.make_room(&session, may_discard && is_its).await?;
        let began = clock::now();
        let info = self.conninfo(source);
        self.begin_making()?;
        basebackup::run(
            &self.installation,
            &beside,
            &info,
            &source.name,
            COPY_PATIENCE,
            telling("copying the followed instance"),
        )
        .await?;
        config_files::set_standby(&beside, true)?;
        // The source's notes about its own data came along.
        replaced::own(&beside)?;
        self.finish_making(db)?;
        tracing::info!(
            seconds = clock::now().since(began).as_secs(),
            "copy finished"
        );
        Ok(())
    }

    /// Copies the server outside, which must be of this database system where that is known, beside the data
    /// of the instance that runs. The source cannot be asked for its size over a connection for replication:
    /// what it was here before is taken for it.
    pub(super) async fn copy_outside(
        &self,
        db: &DbUid,
        outside: &Outside,
        system_id: &str,
    ) -> Result<(), Error> {
        let (pgdata, beside) = (self.local.pgdata(), self.local.beside());
        let found = outside::look(&self.installation, outside, QUERY_LIMIT).await?;
        if !system_id.is_empty() && found.system_id != system_id {
            return Err(Error::DataDir(format!(
                "the server outside is of the database system {}, and this cluster is of {system_id}",
                found.system_id
            )));
        }
        self.clear_beside(Some(&found.system_id)).await?;
        let needed = data_dir::size_of(&pgdata).saturating_add(COPY_RESERVE);
        let free = data_dir::free_space(pgdata.parent().unwrap_or(&pgdata))?;
        if free < needed {
            return Err(Error::DataDir(format!(
                "no room for the copy: {needed} bytes are needed and {free} are free in {}",
                pgdata.display()
            )));
        }
        let began = clock::now();
        self.begin_making()?;
        let what = "copying the server outside";
        basebackup::run_outside(
            &self.installation,
            &beside,
            outside,
            COPY_PATIENCE,
            telling(what),
        )
        .await?;
        config_files::set_standby(&beside, true)?;
        // Its configuration may name files that are not here.
        base_config::take(&beside)?;
        replaced::own(&beside)?;
        self.finish_making(db)?;
        let seconds = clock::now().since(began).as_secs();
        tracing::info!(seconds, "copy finished");
        Ok(())
    }

    /// Checks the space for a copy before it begins (I7).
    async fn make_room(&self, source: &Session, may_discard: bool) -> Result<(), Error> {
        let pgdata = self.local.pgdata();
        let sql = "SELECT sum(pg_database_size(oid))::bigint FROM pg_database";
        let size = source.value("size", sql).await?;
        let needed = size.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let needed = needed.saturating_add(COPY_RESERVE);
        let free = data_dir::free_space(pgdata.parent().unwrap_or(&pgdata))?;
        if free >= needed {
            return Ok(());
        }
        let old = if may_discard {
            data_dir::size_of(&pgdata)
        } else {
            0
        };
        if free.saturating_add(old) < needed {
            return Err(Error::DataDir(format!(
                "no room for the copy: {needed} bytes are needed and {free} are free: {} bytes \
                 are missing in {}",
                needed - free,
                pgdata.display()
            )));
        }
        tracing::warn!(
            needed,
            free,
            "no room for two copies: removing the old one first, since the primary is healthy and \
             has all of it"
        );
        // Moved away whole, so that at no moment a part of it stands where the whole is looked for.
        data_dir::clear_identity(&pgdata)?;
        let beside = self.local.beside();
        data_dir::swap(&pgdata, &beside)?;
        Ok(data_dir::discard(&beside)?)
    }
}
