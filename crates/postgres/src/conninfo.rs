//! Connection strings (PostgreSQL manual, "Connection Strings").

use crate::tls::Tls;

/// How to reach another member for replication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnInfo {
    /// `application_name`.
    pub application_name: String,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: String,
    /// User.
    pub user: String,
    /// Password; empty: none.
    pub password: String,
    /// How the connection is secured.
    pub tls: Tls,
}

impl ConnInfo {
    /// The text of `primary_conninfo` as the Go program writes it: keywords sorted, values unquoted
    /// with space, quote and backslash escaped by a backslash; and what else would end a value, which
    /// the Go program leaves as it is.
    pub fn to_text(&self) -> String {
        let mut words = vec![
            ("application_name", self.application_name.as_str()),
            ("host", &self.host),
        ];
        if !self.password.is_empty() {
            words.push(("password", &self.password));
        }
        words.extend([("port", self.port.as_str()), ("user", &self.user)]);
        let secured = self.tls.words();
        words.extend(secured.iter().map(|(name, value)| (*name, value.as_str())));
        words.sort_unstable();
        let words = words
            .iter()
            .map(|(name, value)| format!("{name}={}", escape(value)));
        words.collect::<Vec<_>>().join(" ")
    }

    /// The same without the password, which programs get through a file.
    pub fn to_text_without_password(&self) -> String {
        Self {
            password: String::new(),
            ..self.clone()
        }
        .to_text()
    }

    /// The line of a password file for it (PostgreSQL manual, "The Password File").
    pub fn password_line(&self) -> String {
        let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
        format!(
            "{}:{}:*:{}:{}\n",
            escape(&self.host),
            escape(&self.port),
            escape(&self.user),
            escape(&self.password)
        )
    }
}

/// A value as libpq reads it (`conninfo_parse`): any white space ends one, and after nothing the next
/// keyword would be taken for the value. Zeros, which end C's texts, are left out.
fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for letter in value.chars().filter(|letter| *letter != '\0') {
        if matches!(letter, ' ' | '\t'..='\r' | '\'' | '\\') {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    if escaped.is_empty() {
        escaped.push_str("''");
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::ConnInfo;
    use crate::tls::{SslMode, Tls};

    #[test]
    fn text_is_that_of_the_contract() {
        let info = ConnInfo {
            application_name: "stolon_cafe0002".into(),
            host: "10.0.0.1".into(),
            port: "5432".into(),
            user: "repl".into(),
            password: "it's a \\secret".into(),
            tls: Tls::default(),
        };
        assert_eq!(
            info.to_text(),
            "application_name=stolon_cafe0002 host=10.0.0.1 password=it\\'s\\ a\\ \\\\secret \
             port=5432 sslmode=prefer user=repl"
        );
        assert_eq!(
            info.password_line(),
            "10.0.0.1:5432:*:repl:it's a \\\\secret\n"
        );
        assert!(!info.to_text_without_password().contains("password"));
        let secured = ConnInfo {
            tls: Tls {
                mode: SslMode::VerifyFull,
                root_certificate: Some("/etc/a b/root.crt".into()),
                certificate: Some("/k/own.crt".into()),
                key: Some("/k/own.key".into()),
            },
            ..info
        };
        assert_eq!(
            secured.to_text_without_password(),
            "application_name=stolon_cafe0002 host=10.0.0.1 port=5432 sslcert=/k/own.crt \
             sslkey=/k/own.key sslmode=verify-full sslrootcert=/etc/a\\ b/root.crt user=repl"
        );
    }
}
