//! Data at rest: what is in a data directory, and how one takes another's place.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::Error;

/// The file in a data directory that says which db it holds, so that a swap of directories and the
/// note of it in `dbstate` need not be one step.
const IDENTITY_FILE: &str = "stolon.db";

/// What a data directory is at first sight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// It does not exist, or is empty.
    Nothing,
    /// It holds a database cluster (`PG_VERSION` and `global/pg_control` are there).
    Cluster,
    /// It holds something, and not a whole cluster.
    Broken,
}

/// Looks at a data directory. One that cannot be read is an error, and never taken for empty.
pub fn content(pgdata: &Path) -> Result<Content, Error> {
    let failed = Error::file("look into", pgdata);
    let mut entries = match std::fs::read_dir(pgdata) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Content::Nothing),
        Err(error) => return Err(failed(error)),
        Ok(entries) => entries,
    };
    match entries.next() {
        None => return Ok(Content::Nothing),
        Some(Err(error)) => return Err(failed(error)),
        Some(Ok(_)) => {}
    }
    let whole = is_file(&pgdata.join("PG_VERSION"))? && is_file(&pgdata.join("global/pg_control"))?;
    Ok(if whole {
        Content::Cluster
    } else {
        Content::Broken
    })
}

/// The major version of the programs that made the data (`PG_VERSION`); none: it does not say.
pub fn major_version(pgdata: &Path) -> Result<Option<i64>, Error> {
    let path = pgdata.join("PG_VERSION");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().split('.').next().and_then(|n| n.parse().ok())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", &path)(error)),
    }
}

/// Whether there is anything of that name.
pub fn exists(path: &Path) -> Result<bool, Error> {
    path.try_exists().map_err(Error::file("look at", path))
}

fn is_file(path: &Path) -> Result<bool, Error> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(metadata.is_file()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::file("look at", path)(error)),
    }
}

/// The db a data directory says it holds.
pub fn identity(pgdata: &Path) -> Result<Option<String>, Error> {
    let path = pgdata.join(IDENTITY_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|uid| !uid.is_empty())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", &path)(error)),
    }
}

/// Writes which db a data directory holds: the last step of making one.
pub fn set_identity(pgdata: &Path, uid: &str) -> Result<(), Error> {
    replace_file(&pgdata.join(IDENTITY_FILE), format!("{uid}\n").as_bytes())
}

/// Removes, durably, what a data directory says of itself; a copy brings that of its source along.
pub fn clear_identity(pgdata: &Path) -> Result<(), Error> {
    remove_file(&pgdata.join(IDENTITY_FILE))?;
    match sync_names(pgdata) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("sync", pgdata)(error))
        }
        _ => Ok(()),
    }
}

/// Replaces a file atomically and durably, readable by its owner only.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".stolon-tmp");
    let temporary = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        sync_names(path.parent().unwrap_or(Path::new("/")))
    };
    write().map_err(Error::file("write", path))
}

/// Removes a file that may not be there.
pub fn remove_file(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Removes a directory that may not be there, with all that is in it.
pub fn remove_all(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Removes a data directory. What it says of itself goes first, durably: a removal that is broken off
/// leaves something that nobody takes for whole data.
pub fn discard(path: &Path) -> Result<(), Error> {
    clear_identity(path)?;
    remove_all(path)
}

/// Makes a private directory that may be there already.
pub fn make_private(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(Error::file("make", path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
        .map_err(Error::file("set permissions of", path))
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> Result<(), Error> {
    sync_names(folder).map_err(Error::file("sync", folder))
}

fn sync_names(folder: &Path) -> std::io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}

/// Puts `new` in the place of `old`, atomically; what was in the place is at `new` afterwards, or
/// nothing when there was nothing (renameat2(2), `RENAME_EXCHANGE`).
pub fn swap(new: &Path, old: &Path) -> Result<(), Error> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let flags = if old.exists() {
        RenameFlags::EXCHANGE
    } else {
        RenameFlags::NOREPLACE
    };
    renameat_with(CWD, new, CWD, old, flags).map_err(|error| {
        Error::file(
            "swap (a mount point or this file system cannot be swapped; let --data-dir be \
                     a folder on one local file system) the new copy with",
            old,
        )(error.into())
    })?;
    sync_folder(old.parent().unwrap_or(Path::new("/")))
}

/// Refuses a data directory that is a mount point, which cannot be swapped with another.
pub fn refuse_mount_point(pgdata: &Path) -> Result<(), Error> {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.dev())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("look at", path)(error)),
    };
    let parent = pgdata.parent().unwrap_or(Path::new("/"));
    match (device(pgdata)?, device(parent)?) {
        (Some(own), Some(parents)) if own != parents => {
            Err(Error::file(
                "make data beside (a mount point cannot be swapped: mount it at --data-dir, not at \
             the folder in it)",
                pgdata,
            )(std::io::ErrorKind::CrossesDevices.into()))
        }
        _ => Ok(()),
    }
}

/// Waits until everything in the file system of `folder` is on disk: other programs need not.
pub fn sync_file_system(folder: &Path) -> Result<(), Error> {
    let failed = Error::file("sync the file system of", folder);
    let file = std::fs::File::open(folder).map_err(Error::file("open", folder))?;
    rustix::fs::syncfs(&file).map_err(|error| failed(error.into()))
}

/// The bytes of all files below a folder.
pub fn size_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .fold(0, u64::saturating_add)
}

/// Bytes that an unprivileged user may still write where `path` lies.
pub fn free_space(path: &Path) -> Result<u64, Error> {
    let status = rustix::fs::statvfs(path)
        .map_err(|error| Error::file("look at the free space of", path)(error.into()))?;
    Ok(status.f_bavail.saturating_mul(status.f_frsize))
}

/// Less free than this is none: PostgreSQL writes WAL in files of this size, unless told otherwise.
const FULL: u64 = 16 << 20;

/// What keeps the file system at `path` from taking what PostgreSQL writes, in words; empty: nothing, or
/// nobody can tell.
pub fn trouble(path: &Path) -> String {
    let Ok(status) = rustix::fs::statvfs(path) else {
        return String::new();
    };
    let path = path.display();
    if status
        .f_flag
        .contains(rustix::fs::StatVfsMountFlags::RDONLY)
    {
        return format!("the file system of {path} is read-only");
    }
    if status.f_bavail.saturating_mul(status.f_frsize) < FULL {
        return format!(
            "the disk is full: less than {} MB are free in {path}",
            FULL >> 20
        );
    }
    String::new()
}

/// The pid in `postmaster.pid`, when there is one.
pub fn postmaster_pid(pgdata: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
    parse_pid(&text)
}

/// Which postmaster `postmaster.pid` is of: its pid, and the second in which it started (PostgreSQL's
/// `pidfile.h`: lines 1 and 3).
pub fn postmaster_start(pgdata: &Path) -> Option<String> {
    let text = std::fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
    let mut lines = text.lines().map(str::trim);
    let (pid, started) = (lines.next()?, lines.nth(1)?);
    (!pid.is_empty() && !started.is_empty()).then(|| format!("{pid} of {started}"))
}

/// The pid on the first line of a pid file: never one that stands for a group of processes.
pub(crate) fn parse_pid(text: &str) -> Option<i32> {
    let pid = text.lines().next()?.trim().parse().ok();
    pid.filter(|pid| *pid > 0)
}

/// The processes of PostgreSQL that live in a data directory: each has it as its working directory.
pub fn processes(pgdata: &Path) -> Vec<i32> {
    let Ok(wanted) = pgdata.canonicalize() else {
        return Vec::new();
    };
    all_processes()
        .filter(|pid| is_postgres_in(*pid, &wanted))
        .collect()
}

/// The programs that make data in `target`: `initdb`s, `pg_basebackup`s and `pg_rewind`s that were
/// given its name.
pub fn makers(target: &Path) -> Vec<i32> {
    let is_maker = |pid: &i32| {
        let makes = matches!(
            program_of(*pid).as_deref(),
            Some("initdb" | "pg_basebackup" | "pg_rewind")
        );
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let name = target.as_os_str().as_encoded_bytes();
        makes && words.split(|byte| *byte == 0).any(|word| word == name)
    };
    all_processes().filter(is_maker).collect()
}

/// The processes that have this folder in an environment variable: those of a command that was
/// started with it, and all that they started.
pub(crate) fn marked(variable: &str, folder: &Path) -> Vec<i32> {
    let mut mark = format!("{variable}=").into_bytes();
    mark.extend(folder.as_os_str().as_encoded_bytes());
    let own = std::process::id();
    let is_marked = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == mark) && u32::try_from(*pid) != Ok(own)
    };
    all_processes().filter(is_marked).collect()
}

fn all_processes() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
}

/// Whether a process is a PostgreSQL server process of a data directory.
///
/// One that another mount namespace started may show the same folder under another path (systemd
/// makes a namespace for each start of a service), so the folders count where the paths differ.
pub fn is_postgres_in(pid: i32, pgdata: &Path) -> bool {
    // First what asks no file system: that of some other process may hang.
    if program_of(pid).as_deref() != Some("postgres") {
        return false;
    }
    let at = PathBuf::from(format!("/proc/{pid}/cwd"));
    std::fs::read_link(&at).is_ok_and(|path| path == pgdata) || is_same_folder(&at, pgdata)
}

fn is_same_folder(one: &Path, other: &Path) -> bool {
    let folder = |path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    folder(one).is_some_and(|one| folder(other) == Some(one))
}

/// The name of the program a process runs.
fn program_of(pid: i32) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = path.file_name()?.to_string_lossy().into_owned();
    // A package upgrade leaves " (deleted)" behind the path of a running program.
    Some(name.trim_end_matches(" (deleted)").to_owned())
}

/// Removes what crashes leave behind: a pid file whose process is gone.
///
/// PostgreSQL removes a stale one itself unless another process has got its pid, when it refuses to
/// start.
pub fn remove_stale_pid_file(pgdata: &Path) -> Result<(), Error> {
    let wanted = pgdata
        .canonicalize()
        .unwrap_or_else(|_| PathBuf::from(pgdata));
    match postmaster_pid(pgdata) {
        Some(pid) if is_postgres_in(pid, &wanted) => Ok(()),
        _ => remove_file(&pgdata.join("postmaster.pid")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Content, content, discard, identity, replace_file, set_identity, swap};

    #[test]
    fn a_swap_exchanges_and_an_identity_moves_with_its_data() {
        let folder = tempfile::tempdir().expect("a folder");
        let (new, old) = (folder.path().join("new"), folder.path().join("old"));
        std::fs::create_dir(&new).expect("new");
        set_identity(&new, "cafe0002").expect("identity");
        swap(&new, &old).expect("into an empty place");
        assert!(!new.exists());
        let said = |folder| identity(folder).expect("readable");
        assert_eq!(said(&old).as_deref(), Some("cafe0002"));
        std::fs::create_dir(&new).expect("new again");
        set_identity(&new, "cafe0003").expect("identity");
        swap(&new, &old).expect("exchange");
        assert_eq!(said(&old).as_deref(), Some("cafe0003"));
        assert_eq!(said(&new).as_deref(), Some("cafe0002"));
    }

    #[test]
    fn what_is_discarded_is_gone_and_may_be_gone_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let old = folder.path().join("old");
        discard(&old).expect("nothing there");
        std::fs::create_dir(&old).expect("old");
        set_identity(&old, "cafe0002").expect("identity");
        discard(&old).expect("discarded");
        assert!(!old.exists());
    }

    #[test]
    fn contents_are_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let pgdata = folder.path().join("postgres");
        let found = || content(&pgdata).expect("readable");
        assert_eq!(found(), Content::Nothing);
        std::fs::create_dir(&pgdata).expect("made");
        assert_eq!(found(), Content::Nothing);
        std::fs::create_dir(pgdata.join("global")).expect("made");
        assert_eq!(found(), Content::Broken);
        replace_file(&pgdata.join("PG_VERSION"), b"15\n").expect("written");
        replace_file(&pgdata.join("global/pg_control"), b"x").expect("written");
        assert_eq!(found(), Content::Cluster);
    }

    #[test]
    fn what_cannot_be_looked_into_is_not_taken_for_empty() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("postgres");
        std::fs::write(&file, "not a folder").expect("written");
        let error = content(&file).expect_err("not to be looked into");
        assert!(error.to_string().contains("look into"), "{error}");
        // Root may read everything: a loop of links cannot be followed by anybody.
        let pgdata = folder.path().join("loop");
        std::os::unix::fs::symlink(&pgdata, &pgdata).expect("a link");
        content(&pgdata).expect_err("a loop");
        identity(&pgdata).expect_err("a loop");
    }
}
