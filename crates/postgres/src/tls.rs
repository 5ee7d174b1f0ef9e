//! TLS between members (PostgreSQL manual, "SSL Support" of libpq).
//!
//! The programs of PostgreSQL read the same settings out of a connection string; what this crate
//! connects by itself follows them as libpq does.

mod handshake;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::Error;
pub(crate) use handshake::Connector;

/// How far a connection must be secured; libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Only where the server takes nothing else.
    Allow,
    /// Where the server can; as the Go program always has it.
    #[default]
    Prefer,
    /// Always; the server's certificate is verified only when a root certificate is given.
    Require,
    /// Always, and the server's certificate must come from the root certificate.
    VerifyCa,
    /// The same, and it must be issued for the address that is connected to.
    VerifyFull,
}

impl SslMode {
    /// Every mode, the weakest first.
    pub const ALL: [Self; 6] = [
        Self::Disable,
        Self::Allow,
        Self::Prefer,
        Self::Require,
        Self::VerifyCa,
        Self::VerifyFull,
    ];

    /// Its name, as libpq has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// Whether a connection without TLS is none.
    pub const fn is_required(self) -> bool {
        match self {
            Self::Disable | Self::Allow | Self::Prefer => false,
            Self::Require | Self::VerifyCa | Self::VerifyFull => true,
        }
    }

    /// Whether there is nothing to verify a server's certificate by without a root certificate.
    pub const fn needs_root_certificate(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }
}

/// How connections are secured. The files are read anew for every connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// How far.
    pub mode: SslMode,
    /// Certificates (PEM) of the authorities that servers' certificates come from.
    pub root_certificate: Option<PathBuf>,
    /// The certificate (PEM) that servers are shown, followed by those it depends on.
    pub certificate: Option<PathBuf>,
    /// Its key (PEM, without a passphrase).
    pub key: Option<PathBuf>,
}

impl Tls {
    /// The same for a connection that only finds out whether somebody answers: whose certificate has
    /// run out is alive, and so is who asks for one of ours, of which the files may be away just now.
    #[must_use]
    pub fn for_a_sign_of_life(&self) -> Self {
        let mode = if self.mode.is_required() {
            SslMode::Prefer
        } else {
            SslMode::Disable
        };
        Self {
            mode,
            root_certificate: None,
            certificate: None,
            key: None,
        }
    }

    /// Its part of a connection string.
    pub(crate) fn words(&self) -> Vec<(&'static str, String)> {
        let mut words = vec![("sslmode", self.mode.as_str().to_owned())];
        let files = [
            ("sslrootcert", &self.root_certificate),
            ("sslcert", &self.certificate),
            ("sslkey", &self.key),
        ];
        for (name, file) in files {
            words.extend(file.iter().map(|file| (name, file.display().to_string())));
        }
        words
    }

    /// Reads all files once, to refuse at once what would fail at every connection.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, is not what it should be, or is a key that others can read, which
    /// libpq refuses.
    pub fn check(&self) -> Result<(), Error> {
        self.roots()?;
        if let Some((_, key)) = self.identity()? {
            drop(key);
        }
        let Some(path) = &self.key else {
            return Ok(());
        };
        let metadata = std::fs::metadata(path).map_err(Error::file("read", path))?;
        // Of root it may be a group's (PostgreSQL manual, "Client Certificates").
        let others = if metadata.uid() == 0 { 0o037 } else { 0o077 };
        if metadata.mode() & others == 0 {
            return Ok(());
        }
        let mode = metadata.mode() & 0o777;
        Err(Error::Tls(format!(
            "{}: others can read this key (mode {mode:o}), and PostgreSQL's programs refuse it: \
             chmod 600",
            path.display()
        )))
    }

    /// The authorities that servers' certificates must come from; none: certificates are not verified.
    fn roots(&self) -> Result<Option<(RootCertStore, Vec<CertificateDer<'static>>)>, Error> {
        let Some(path) = &self.root_certificate else {
            return Ok(None);
        };
        let certificates = certificates(path)?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            let added = roots.add(certificate.clone());
            added.map_err(|error| refused(path, &error))?;
        }
        Ok(Some((roots, certificates)))
    }

    /// What servers are shown.
    fn identity(
        &self,
    ) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, Error> {
        let (Some(certificate), Some(path)) = (&self.certificate, &self.key) else {
            return Ok(None);
        };
        let pem = std::fs::read(path).map_err(Error::file("read", path))?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
            refused(
                path,
                &format!("no private key without a passphrase in it: {error}"),
            )
        })?;
        Ok(Some((certificates(certificate)?, key)))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = std::fs::read(path).map_err(Error::file("read", path))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(refused(path, &"no certificate in it (PEM is expected)")),
        Err(error) => Err(refused(path, &format!("no certificates: {error}"))),
    }
}

fn refused(path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::Tls(format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{SslMode, Tls};

    #[test]
    fn a_key_that_others_can_read_and_files_that_are_none_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a pair");
        let file = |name: &str, text: String, mode: u32| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
            path
        };
        let good = Tls {
            mode: SslMode::VerifyCa,
            root_certificate: Some(file("root.crt", pair.cert.pem(), 0o644)),
            certificate: Some(file("own.crt", pair.cert.pem(), 0o644)),
            key: Some(file("own.key", pair.signing_key.serialize_pem(), 0o600)),
        };
        good.check().expect("good files");
        let refused = |tls: Tls, word: &str| {
            let error = tls.check().expect_err(word).to_string();
            assert!(error.contains(word), "{error}");
        };
        let open = Some(file("open.key", pair.signing_key.serialize_pem(), 0o644));
        let key = |key| Tls {
            key,
            ..good.clone()
        };
        refused(key(open), "others can read this key");
        refused(
            key(Some(file("no.key", String::new(), 0o600))),
            "no private key",
        );
        let root = |path| Tls {
            root_certificate: Some(path),
            ..good.clone()
        };
        refused(root(file("no.crt", String::new(), 0o644)), "no certificate");
        refused(root("/no/such/file".into()), "/no/such/file");
    }
}
