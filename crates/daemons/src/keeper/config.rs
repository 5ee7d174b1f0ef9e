//! What a keeper is told.

use std::path::PathBuf;

pub use stolon_postgres::tls::{SslMode, Tls};

use crate::config::CommonConfig;

/// What a keeper is told; checked, nothing left open.
#[derive(Debug, Clone)]
pub struct Config {
    /// What all daemons are told.
    pub common: CommonConfig,
    /// Its name; the one kept in the data directory, or a new one, when not given.
    pub uid: Option<String>,
    /// Its folder; PGDATA is `postgres` in it.
    pub data_dir: PathBuf,
    /// The addresses PostgreSQL listens on.
    pub listen_address: String,
    /// The port PostgreSQL listens on.
    pub port: u16,
    /// The address others reach it at.
    pub advertise_address: String,
    /// The port others reach it at.
    pub advertise_port: u16,
    /// Where PostgreSQL's programs are; searched when not given.
    pub pg_bin_path: Option<PathBuf>,
    /// Where PostgreSQL's sockets are made.
    pub socket_folder: PathBuf,
    /// The superuser.
    pub superuser: User,
    /// The replication user.
    pub replication_user: User,
    /// How connections to other members are secured.
    pub tls: Tls,
    /// Whether it may run the primary.
    pub can_be_master: bool,
    /// Whether it may run a synchronous standby.
    pub can_be_synchronous_replica: bool,
    /// Whether the data directory is not locked against a second keeper.
    pub disable_data_dir_locking: bool,
}

/// A database user.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    /// Password; none with `trust`.
    pub password: Option<String>,
    /// The file it was read from, and is read from again at SIGHUP.
    pub password_file: Option<PathBuf>,
    /// The method in `pg_hba.conf`.
    pub method: String,
}

impl std::fmt::Debug for User {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "User({} by {})", self.name, self.method)
    }
}
