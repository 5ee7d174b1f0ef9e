//! What the data in place replaced: removed when it is known to be elsewhere, kept otherwise (I7).

use std::path::{Path, PathBuf};

use stolon_core::model::DbUid;
use stolon_postgres::{controldata, data_dir, rewind};

use super::Error;
use super::instance::Instance;

/// A file in data that were in use and were replaced.
const REPLACED: &str = "stolon.replaced";
/// A file in data that another cluster left, before this keeper came to its present one; it names that
/// cluster.
const OTHER_CLUSTER: &str = "stolon.other-cluster";
/// A file in data whose making was given up.
const UNFINISHED: &str = "stolon.unfinished";
/// More of them are not kept: somebody has to look at them first.
const MOST_KEPT: u32 = 10;

impl Instance {
    /// Empties the place beside PGDATA for data to be made there, and frees the room that older
    /// copies take.
    pub(super) async fn clear_beside(&self, present: Option<&str>) -> Result<(), Error> {
        let (trash, beside) = (self.local.trash(), self.local.beside());
        // A program that a killed keeper left behind would write into what stands there next.
        stolon_postgres::process::kill_makers(&beside).await?;
        data_dir::remove_file(&beside.with_extension("pgpass"))?;
        remove(&trash).await?;
        remove(&rewind::kept_wal(&beside)).await?;
        if self.take_away(present).await? {
            remove(&trash).await?;
        }
        Ok(())
    }

    /// Empties the place beside PGDATA, and removes what was there behind everybody's back: a large
    /// copy takes minutes, and the instance may have to be promoted meanwhile.
    pub(super) async fn discard_beside(&self, present: Option<&str>) -> Result<(), Error> {
        let trash = self.local.trash();
        if data_dir::exists(&trash)? {
            // A removal was broken off.
            remove(&trash).await?;
        }
        if self.take_away(present).await? {
            self.empty_trash();
        }
        Ok(())
    }

    /// Removes what an earlier life of the keeper meant to remove.
    pub(super) fn empty_trash(&self) {
        let trash = self.local.trash();
        tokio::spawn(async move {
            if let Err(error) = remove(&trash).await {
                tracing::warn!(%error, "what was replaced is not removed wholly; it is at the next copy");
            }
        });
    }

    /// Moves what is beside PGDATA away; whether that is to be removed. An unfinished copy goes, and
    /// so does an older copy of the database system `present`. Whole data of another one, or of another
    /// cluster of the same one, are what a cluster left that was replaced, or whose store was lost:
    /// nobody else may have them, and they get a name of their own.
    async fn take_away(&self, present: Option<&str>) -> Result<bool, Error> {
        let beside = self.local.beside();
        if !data_dir::exists(&beside)? {
            self.end_making()?;
            return Ok(false);
        }
        // Only of whole data is it asked whose they are: an unfinished copy may not be able to tell.
        if self.is_whole_beside()?
            && let Some(old) = self.system_id(&beside).await?
            && (present != Some(old.as_str()) || self.is_of_other_cluster(&beside)?)
        {
            keep(&beside, &old)?;
            return Ok(false);
        }
        // Whatever becomes of it, nobody may take it for whole data.
        data_dir::clear_identity(&beside)?;
        data_dir::swap(&beside, &self.local.trash())?;
        self.end_making()?;
        Ok(true)
    }

    /// Whole data beside PGDATA, which is taken over, get a name of their own.
    pub(super) async fn keep_beside(&self) -> Result<(), Error> {
        let beside = self.local.beside();
        if data_dir::exists(&beside)?
            && self.is_whole_beside()?
            && let Some(system_id) = self.system_id(&beside).await?
        {
            keep(&beside, &system_id)?;
        }
        Ok(())
    }

    /// Whether what is beside PGDATA says that it is whole. What comes from elsewhere brings along what
    /// its source says of itself, and what is rewound may have been whole before: both are noted outside.
    fn is_whole_beside(&self) -> Result<bool, Error> {
        let beside = self.local.beside();
        let says =
            data_dir::identity(&beside)?.is_some() || data_dir::exists(&beside.join(REPLACED))?;
        Ok(says && !data_dir::exists(&self.local.making())?)
    }

    /// Whether what is beside PGDATA, if it has a name, was made to take its place: it was not there before,
    /// and is not being made still.
    pub(super) fn is_new_beside(&self) -> Result<bool, Error> {
        let replaced = data_dir::exists(&self.local.beside().join(REPLACED))?;
        Ok(!replaced && !data_dir::exists(&self.local.making())?)
    }

    /// Notes, durably, that what is beside PGDATA, or soon will be, is not whole.
    pub(super) fn begin_making(&self) -> Result<(), Error> {
        Ok(data_dir::replace_file(&self.local.making(), b"")?)
    }

    /// Gives the data made beside PGDATA their name, as the last step of making them.
    pub(super) fn finish_making(&self, db: &DbUid) -> Result<(), Error> {
        data_dir::set_identity(&self.local.beside(), db.as_str())?;
        self.end_making()
    }

    fn end_making(&self) -> Result<(), Error> {
        let note = self.local.making();
        data_dir::remove_file(&note)?;
        Ok(data_dir::sync_folder(
            note.parent().unwrap_or(Path::new("/")),
        )?)
    }

    /// Whether data are known to be of another cluster than the keeper's present one.
    pub(super) fn is_of_other_cluster(&self, folder: &Path) -> Result<bool, Error> {
        is_of_other_cluster(folder, &self.local.cluster_uid())
    }

    /// The database system that the data in a folder belong to; none: there are no data.
    pub(super) async fn system_id(&self, folder: &Path) -> Result<Option<String>, Error> {
        if data_dir::content(folder)? != data_dir::Content::Cluster {
            return Ok(None);
        }
        let control = controldata::read(&self.installation, folder).await?;
        Ok(Some(control.system_id))
    }

    /// Data that never became a db, since its initialisation was given up, are nobody's.
    pub(super) fn disown_unfinished(&self) -> Result<(), Error> {
        let Some(state) = self.local.db_state()?.filter(|state| state.initializing) else {
            return Ok(());
        };
        for folder in [self.local.pgdata(), self.local.beside()] {
            if data_dir::identity(&folder)?.as_deref() == Some(state.uid.as_str()) {
                data_dir::clear_identity(&folder)?;
                data_dir::replace_file(&folder.join(UNFINISHED), b"")?;
            }
        }
        Ok(())
    }

    /// Puts the new data in place. Old ones that the Go program made do not say whose they are; that
    /// they are whole is noted before.
    pub(super) fn swap(&self, db: &DbUid) -> Result<(), Error> {
        tracing::info!(%db, "putting the new data in place");
        let (pgdata, beside) = (self.local.pgdata(), self.local.beside());
        // What is put in place is whole, and so is what it replaces.
        self.end_making()?;
        let is_cluster = data_dir::content(&pgdata)? == data_dir::Content::Cluster;
        if is_cluster && !pgdata.join(UNFINISHED).exists() {
            data_dir::replace_file(&pgdata.join(REPLACED), b"")?;
        }
        data_dir::swap(&beside, &pgdata)?;
        Ok(data_dir::remove_file(&pgdata.join(REPLACED))?)
    }
}

/// Notes which cluster the data are of, when the keeper leaves it: where they are replaced by another
/// one's, nobody can tell whether those have all that they have. What is noted already stays.
pub(super) fn disown(pgdata: &Path, cluster: &str) -> Result<(), Error> {
    let note = pgdata.join(OTHER_CLUSTER);
    if data_dir::content(pgdata)? == data_dir::Content::Cluster && !data_dir::exists(&note)? {
        data_dir::replace_file(&note, cluster.as_bytes())?;
    }
    Ok(())
}

/// Takes away all such notes, which data may have brought along from elsewhere: they are those of a db of
/// this cluster from now on.
pub(super) fn own(pgdata: &Path) -> Result<(), Error> {
    data_dir::remove_file(&pgdata.join(REPLACED))?;
    data_dir::remove_file(&pgdata.join(UNFINISHED))?;
    Ok(data_dir::remove_file(&pgdata.join(OTHER_CLUSTER))?)
}

/// Whether another cluster than `own` is noted: one that an operator made by mistake may have been
/// given up for the one that the data are of.
pub(super) fn is_of_other_cluster(folder: &Path, own: &str) -> Result<bool, Error> {
    let path = folder.join(OTHER_CLUSTER);
    match std::fs::read_to_string(&path) {
        Ok(noted) => Ok(noted.trim() != own || own.is_empty()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => {
            let text = format!("cannot read {}: {error}", path.display());
            Err(Error::DataDir(text))
        }
    }
}

async fn remove(folder: &Path) -> Result<(), Error> {
    let folder = folder.to_owned();
    let removed = tokio::task::spawn_blocking(move || data_dir::remove_all(&folder)).await;
    Ok(removed.map_err(|error| Error::DataDir(error.to_string()))??)
}

/// Moves data to a name that tells what they are.
fn keep(folder: &Path, system_id: &str) -> Result<(), Error> {
    let name = |number: u32| -> PathBuf {
        let suffix = if number == 0 {
            String::new()
        } else {
            format!("-{number}")
        };
        folder.with_file_name(format!("postgres.replaced-{system_id}{suffix}"))
    };
    let place = (0..MOST_KEPT).map(name).find(|place| !place.exists());
    let place = place.ok_or_else(|| {
        let text = "too many replaced data directories: remove those not needed any more";
        Error::DataDir(format!("{text}: {}*", name(0).display()))
    })?;
    tracing::warn!(
        path = %place.display(),
        system_id,
        "keeping the data of another database system that were replaced: remove them when they are \
         not needed any more"
    );
    Ok(data_dir::swap(folder, &place)?)
}
