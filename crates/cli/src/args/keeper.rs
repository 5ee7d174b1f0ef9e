//! The keeper's flags.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use stolon_daemons::keeper::config::{Config, SslMode, Tls, User};

use super::{Daemon, Flag, Values, common, deprecated_text, deprecated_yes_no, text, yes_no};
use crate::output::talk;

/// What an address is that PostgreSQL can listen on and nobody can connect to.
const EVERYWHERE: &str = "stands for all addresses of this host. Other hosts cannot connect to it: \
                          give the one they reach with --pg-advertise-address";

/// Its command line.
pub const DAEMON: Daemon<Config> = Daemon {
    name: "stolon-keeper",
    about: "Runs one PostgreSQL instance as the cluster data say.",
    prefix: "STKEEPER",
    own: FLAGS,
    meaning: config,
};

const FLAGS: &[Flag] = &[
    text(
        "uid",
        "",
        "name of the keeper, of a-z, 0-9 and _ (default: generated, and kept)",
    ),
    deprecated_text("id", "--uid"),
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
        "address others reach PostgreSQL at (default: the first it listens on)",
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
        "how the replication user authenticates: md5, scram-sha-256 or trust",
    ),
    text("pg-repl-username", "", "replication user (required)"),
    text("pg-repl-password", "", "its password"),
    text("pg-repl-passwordfile", "", "file with its password"),
    text(
        "pg-su-auth-method",
        "md5",
        "how the superuser authenticates: md5, scram-sha-256 or trust",
    ),
    text(
        "pg-su-username",
        "",
        "superuser (default: the user this runs as)",
    ),
    text("pg-su-password", "", "its password"),
    text("pg-su-passwordfile", "", "file with its password"),
    text(
        "pg-ssl-mode",
        "prefer",
        "TLS to other members: disable, allow, prefer, require, verify-ca or verify-full",
    ),
    text(
        "pg-ssl-root-cert",
        "",
        "file with the authorities of other members' certificates",
    ),
    text(
        "pg-ssl-cert",
        "",
        "file with the certificate shown to other members",
    ),
    text("pg-ssl-key", "", "file with its key"),
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
    deprecated_yes_no("debug", "--log-level=debug"),
];

fn config(values: &Values) -> Result<Config, String> {
    let data_dir = values.required("data-dir", "data dir required", "a folder of its own")?;
    let common = common::daemon(values)?;
    let listen_address = values.required(
        "pg-listen-address",
        "--pg-listen-address is required",
        "the address PostgreSQL listens on",
    )?;
    let replication = values.required(
        "pg-repl-username",
        "--pg-repl-username is required",
        "the name of the replication user",
    )?;
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
    let port = values.port("pg-port")?;
    let (advertise_flag, advertise_address) = match values.given("pg-advertise-address") {
        Some(address) => ("pg-advertise-address", address),
        None => ("pg-listen-address", first_address(values)?),
    };
    warn_of_address(advertise_flag, &advertise_address);
    let advertise_port = match values.given("pg-advertise-port") {
        Some(_) => values.port("pg-advertise-port")?,
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
        tls: tls(values)?,
        can_be_master: values.is("can-be-master")?,
        can_be_synchronous_replica: values.is("can-be-synchronous-replica")?,
        disable_data_dir_locking: values.is("disable-data-dir-locking")?,
    })
}

/// The first of the addresses that PostgreSQL listens on.
fn first_address(values: &Values) -> Result<String, String> {
    let all = values.text("pg-listen-address");
    match all.split(',').map(str::trim).next() {
        Some(first) if !first.is_empty() => Ok(first.to_owned()),
        _ => Err(values.invalid("pg-listen-address", "addresses divided by commas")),
    }
}

/// How connections to other members are secured.
fn tls(values: &Values) -> Result<Tls, String> {
    let mode = values.text("pg-ssl-mode");
    let Some(mode) = SslMode::ALL.into_iter().find(|m| m.as_str() == mode) else {
        let names = SslMode::ALL.map(SslMode::as_str).join(", ");
        return Err(format!(
            "--pg-ssl-mode must be one of: {names}, not {mode:?}"
        ));
    };
    let file = |flag: &str| values.given(flag).map(|path| absolute(&path)).transpose();
    let tls = Tls {
        mode,
        root_certificate: file("pg-ssl-root-cert")?,
        certificate: file("pg-ssl-cert")?,
        key: file("pg-ssl-key")?,
    };
    if mode.needs_root_certificate() && tls.root_certificate.is_none() {
        return Err(format!(
            "--pg-ssl-mode {} needs --pg-ssl-root-cert",
            mode.as_str()
        ));
    }
    if tls.certificate.is_some() != tls.key.is_some() {
        return Err("--pg-ssl-cert and --pg-ssl-key go together".to_owned());
    }
    Ok(tls)
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
        "keeper uid {uid:?} not valid. It can contain only lower-case letters, numbers and the \
         underscore character"
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
    if !matches!(method.as_str(), "md5" | "scram-sha-256" | "trust") {
        return Err(format!(
            "--{} must be one of: md5, scram-sha-256, trust, not {method:?}",
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
            password_file: None,
            method,
        });
    }
    let password = match (password, &file) {
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
        (None, Some(file)) => read_password(Path::new(file), what)?,
    };
    let trimmed = password.trim_end_matches(['\r', '\n']);
    if trimmed.len() != password.len() {
        talk(&format!(
            "{what} password contain trailing new line, removing"
        ));
    }
    if trimmed.is_empty() {
        return Err(format!(
            "{what} password is empty after removing trailing new line"
        ));
    }
    Ok(User {
        name,
        password: Some(trimmed.to_owned()),
        password_file: file.map(PathBuf::from),
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
    // One that root owns may be read by a group, as PostgreSQL has it for keys: a Secret of Kubernetes
    // comes so to a user that is not root.
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.permissions().mode() & forbidden != 0 {
        talk(&format!(
            "password file {} permissions {:#o} are too open. This file should only be readable to \
             the user executing stolon! Continuing...",
            file.display(),
            metadata.permissions().mode() & 0o777
        ));
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

/// Says what others will make of an address that is given to them.
fn warn_of_address(flag: &str, address: &str) {
    let warning = match address.parse::<std::net::IpAddr>() {
        Ok(ip) if ip.is_loopback() => {
            "is a loopback ip. This will be reachable only from the same host"
        }
        Ok(ip) if ip.is_unspecified() => EVERYWHERE,
        Ok(_) => return,
        Err(_) if address == "*" => EVERYWHERE,
        Err(_) => {
            "is not an ip address but a hostname. This will be advertized to the other components \
             and may have undefined behaviors if resolved differently by other hosts"
        }
    };
    talk(&format!("provided --{flag} \"{address}\" {warning}"));
}
