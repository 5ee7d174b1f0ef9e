//! The users' passwords, which may be given anew while the keeper runs.

use std::sync::{Mutex, PoisonError};

use super::Error;
use super::config::{Config, User};

#[derive(Clone, PartialEq, Eq)]
struct Pair {
    superuser: Option<String>,
    replication: Option<String>,
}

/// The passwords as they were read last.
pub(super) struct Passwords {
    now: Mutex<Pair>,
}

impl Passwords {
    pub(super) fn new(config: &Config) -> Self {
        let now = Mutex::new(Pair {
            superuser: config.superuser.password.clone(),
            replication: config.replication_user.password.clone(),
        });
        Self { now }
    }

    fn now(&self) -> Pair {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.clone()
    }

    /// The superuser's; none with `trust`.
    pub(super) fn superuser(&self) -> Option<String> {
        self.now().superuser
    }

    /// The replication user's; none with `trust`.
    pub(super) fn replication(&self) -> Option<String> {
        self.now().replication
    }

    /// Reads the files again that passwords were given in, and says whether one changed. When one
    /// cannot be read both stay as they are.
    pub(super) fn reread(&self, config: &Config) -> Result<bool, Error> {
        let fresh = Pair {
            superuser: read(&config.superuser)?,
            replication: read(&config.replication_user)?,
        };
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *now != fresh;
        *now = fresh;
        Ok(changed)
    }
}

fn read(user: &User) -> Result<Option<String>, Error> {
    let Some(file) = &user.password_file else {
        return Ok(user.password.clone());
    };
    let failed = |why: &dyn std::fmt::Display| {
        let (name, file) = (&user.name, file.display());
        Error::Passwords(format!(
            "cannot read the password of {name} from {file}: {why}"
        ))
    };
    let text = std::fs::read_to_string(file).map_err(|error| failed(&error))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(failed(&"it is empty"));
    }
    Ok(Some(password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{User, read};

    #[test]
    fn a_password_is_read_from_its_file_without_the_line_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("password");
        let user = User {
            name: "repl".to_owned(),
            password: Some("old".to_owned()),
            password_file: Some(file.clone()),
            method: "md5".to_owned(),
        };
        assert!(read(&user).is_err(), "there is no file");
        std::fs::write(&file, "new one\n").expect("written");
        assert_eq!(read(&user).expect("read").as_deref(), Some("new one"));
        std::fs::write(&file, "\n").expect("written");
        assert!(read(&user).is_err(), "it is empty");
        let given = User {
            password_file: None,
            ..user
        };
        assert_eq!(read(&given).expect("kept").as_deref(), Some("old"));
    }
}
