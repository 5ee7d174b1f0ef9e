//! The keeper's flags.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use stolon_daemons::keeper::config::{Config, User};

use super::{Flag, Kind, Values, common, text, yes_no};
use crate::Parsed;

const PREFIX: &str = "STKEEPER";

const FLAGS: &[Flag] = &[
    text(
        "uid",
        "",
        "name of the keeper, of a-z, 0-9 and _ (default: generated, and kept)",
    ),
    Flag {
        name: "id",
        kind: Kind::Deprecated("--uid"),
        default: "",
        help: "as --uid",
    },
    text(
        "data-dir",
        "",
        "folder of the keeper; PGDATA is postgres in it (required)",
    ),
    text(
        "pg-listen-address",
        "",
        "addresses PostgreSQL listens on (required)",
    ),
    text("pg-port", "5432", "port PostgreSQL listens on"),
    text(
        "pg-advertise-address",
        "",
        "address others reach PostgreSQL at (default: the first of --pg-listen-address)",
    ),
    text(
        "pg-advertise-port",
        "",
        "port others reach PostgreSQL at (default: --pg-port)",
    ),
    text(
        "pg-bin-path",
        "",
        "folder of PostgreSQL's programs (default: searched)",
    ),
    text("pg-socket-dir", "/tmp", "folder of PostgreSQL's sockets"),
    text(
        "pg-repl-auth-method",
        "md5",
        "how the replication user authenticates: md5 or trust",
    ),
    text("pg-repl-username", "", "replication user (required)"),
    text("pg-repl-password", "", "its password"),
    text("pg-repl-passwordfile", "", "file with its password"),
    text(
        "pg-su-auth-method",
        "md5",
        "how the superuser authenticates: md5 or trust",
    ),
    text(
        "pg-su-username",
        "",
        "superuser (default: the user this runs as)",
    ),
    text("pg-su-password", "", "its password"),
    text("pg-su-passwordfile", "", "file with its password"),
    yes_no("can-be-master", "true", "may run the primary"),
    yes_no(
        "can-be-synchronous-replica",
        "true",
        "may run a synchronous standby",
    ),
    yes_no(
        "disable-data-dir-locking",
        "false",
        "do not lock the data dir (file systems without locks)",
    ),
    Flag {
        name: "debug",
        kind: Kind::Deprecated("--log-level=debug"),
        default: "bool",
        help: "debug",
    },
];

/// Parses a keeper's command line.
pub fn parse(arguments: &[OsString]) -> Parsed<Config> {
    let flags: Vec<Flag> = [common::STORE, common::DAEMON, FLAGS].concat();
    let about = "Runs one PostgreSQL instance as the cluster data say.";
    let values = super::daemon_values(
        "stolon-keeper",
        about,
        &flags,
        PREFIX,
        arguments,
        &super::environment,
    );
    super::finish(values, config)
}

fn config(values: &Values) -> Result<Config, String> {
    let data_dir = values.given("data-dir").ok_or("data dir required")?;
    let common = common::daemon(values)?;
    let listen_address = values
        .given("pg-listen-address")
        .ok_or("--pg-listen-address is required")?;
    let replication = values
        .given("pg-repl-username")
        .ok_or("--pg-repl-username is required")?;
    let uid = values.given("uid").or_else(|| values.given("id"));
    if let Some(uid) = &uid {
        check_uid(uid)?;
    }
    let superuser_name = match values.given("pg-su-username") {
        Some(name) => name,
        None => effective_user()?,
    };
    let superuser = user(values, "su", "superuser", superuser_name)?;
    let replication_user = user(values, "repl", "replication user", replication)?;
    check_same_user(&superuser, &replication_user)?;
    let port = values.number("pg-port", "a port number")?;
    let first = listen_address
        .split(',')
        .next()
        .unwrap_or("")
        .trim()
        .to_owned();
    let advertise_address = values.given("pg-advertise-address").unwrap_or(first);
    warn_of_address(&advertise_address);
    let advertise_port = match values.given("pg-advertise-port") {
        Some(_) => values.number("pg-advertise-port", "a port number")?,
        None => port,
    };
    Ok(Config {
        common,
        uid,
        data_dir: absolute(&data_dir)?,
        listen_address,
        port,
        advertise_address,
        advertise_port,
        pg_bin_path: values.given("pg-bin-path").map(Into::into),
        socket_folder: absolute(values.text("pg-socket-dir"))?,
        superuser,
        replication_user,
        can_be_master: values.is("can-be-master")?,
        can_be_synchronous_replica: values.is("can-be-synchronous-replica")?,
        disable_data_dir_locking: values.is("disable-data-dir-locking")?,
    })
}

fn absolute(path: &str) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("invalid path {path:?}: {error}"))
}

fn check_uid(uid: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if uid.chars().all(fits) {
        return Ok(());
    }
    Err(format!(
        "keeper uid {uid:?} not valid. It can contain only lower-case letters, numbers and the underscore character"
    ))
}

/// The name of the user this process runs as.
fn effective_user() -> Result<String, String> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    name.ok_or_else(|| format!("user {uid} has no name: give --pg-su-username"))
}

/// A user with the password that was given in one of two ways.
fn user(values: &Values, kind: &str, what: &str, name: String) -> Result<User, String> {
    let flag = |rest: &str| format!("pg-{kind}-{rest}");
    let method = values.text(&flag("auth-method")).to_owned();
    if !matches!(method.as_str(), "md5" | "trust") {
        return Err(format!(
            "--{} must be one of: md5, trust",
            flag("auth-method")
        ));
    }
    let password = values.given(&flag("password"));
    let file = values.given(&flag("passwordfile"));
    if method == "trust" {
        if password.is_some() || file.is_some() {
            return Err(format!(
                "can not utilize --{} trust together with --{} or --{}",
                flag("auth-method"),
                flag("password"),
                flag("passwordfile")
            ));
        }
        return Ok(User {
            name,
            password: None,
            method,
        });
    }
    let password = match (password, file) {
        (Some(_), Some(_)) => {
            return Err(format!(
                "only one of --{} or --{} must be provided",
                flag("password"),
                flag("passwordfile")
            ));
        }
        (None, None) => {
            return Err(format!(
                "one of --{} or --{} is required",
                flag("password"),
                flag("passwordfile")
            ));
        }
        (Some(password), None) => password,
        (None, Some(file)) => read_password(Path::new(&file), what)?,
    };
    let trimmed = password.trim_end_matches(['\r', '\n']);
    if trimmed.len() != password.len() {
        eprintln!("{what} password contain trailing new line, removing");
    }
    if trimmed.is_empty() {
        return Err(format!(
            "{what} password is empty after removing trailing new line"
        ));
    }
    Ok(User {
        name,
        password: Some(trimmed.to_owned()),
        method,
    })
}

fn read_password(file: &Path, what: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| {
        format!(
            "cannot read {what} password file {}: {error}",
            file.display()
        )
    };
    let metadata = std::fs::metadata(file).map_err(failed)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        eprintln!(
            "password file {} permissions {:#o} are too open. This file should only be readable to the user executing stolon! Continuing...",
            file.display(),
            metadata.permissions().mode() & 0o777
        );
    }
    std::fs::read_to_string(file).map_err(failed)
}

fn check_same_user(superuser: &User, replication: &User) -> Result<(), String> {
    if superuser.name != replication.name {
        return Ok(());
    }
    if superuser.method != replication.method {
        return Err(
            "provided superuser name and replication user name are the same but provided \
                    authentication methods are different"
                .to_owned(),
        );
    }
    if superuser.password != replication.password {
        return Err(
            "provided superuser name and replication user name are the same but provided \
                    passwords are different"
                .to_owned(),
        );
    }
    Ok(())
}

fn warn_of_address(address: &str) {
    match address.parse::<std::net::IpAddr>() {
        Ok(ip) if ip.is_loopback() => {
            eprintln!(
                "provided --pg-listen-address \"{address}\" is a loopback ip. This will be reachable only from the same host"
            );
        }
        Ok(_) => {}
        Err(_) => eprintln!(
            "provided --pg-listen-address \"{address}\" is not an ip address but a hostname. This will be advertized to the other components and may have undefined behaviors if resolved differently by other hosts"
        ),
    }
}
