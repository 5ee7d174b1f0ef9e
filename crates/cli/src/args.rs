//! From the command line as typed, with the environment, to what is meant.
//!
//! Flags behave as those of the Go program: `--flag value` and `--flag=value`, a repeated flag's last
//! value wins, booleans take `--flag` and `--flag=false`. A flag may come from the environment, as
//! `PREFIX_FLAG_NAME`; one that is given wins, an empty variable counts as unset.

pub mod common;
pub mod keeper;
pub mod proxy;
pub mod sentinel;

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

use crate::{Parsed, VERSION};

/// The longest line of a help text, in columns.
pub const WIDTH: usize = 100;

/// A flag.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Its name, without the dashes.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Its value when nothing is given; empty: none.
    pub default: &'static str,
    /// What it is for.
    pub help: &'static str,
}

/// What a flag holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// Yes or no.
    Bool,
    /// A text, for which another flag is to be used; whoever uses it is told.
    DeprecatedText(&'static str),
    /// Yes or no, for which another flag is to be used; whoever uses it is told.
    DeprecatedBool(&'static str),
    /// A text that only this variable of the environment holds, as other programs name it.
    Variable,
}

/// A flag that holds a text.
pub const fn text(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        kind: Kind::Text,
        default,
        help,
    }
}

/// A flag that is yes or no.
pub const fn yes_no(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        kind: Kind::Bool,
        default,
        help,
    }
}

/// A text that no flag gives, but a variable of the environment that other programs share.
pub const fn shared_variable(name: &'static str) -> Flag {
    Flag {
        name,
        kind: Kind::Variable,
        default: "",
        help: "",
    }
}

/// A flag that held a text; `instead` is to be used.
pub const fn deprecated_text(name: &'static str, instead: &'static str) -> Flag {
    Flag {
        name,
        kind: Kind::DeprecatedText(instead),
        default: "",
        help: "deprecated",
    }
}

/// A flag that was yes or no; `instead` is to be used.
pub const fn deprecated_yes_no(name: &'static str, instead: &'static str) -> Flag {
    Flag {
        kind: Kind::DeprecatedBool(instead),
        ..deprecated_text(name, instead)
    }
}

/// Where a value is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// Nobody said anything.
    Default,
}

/// The values of all flags: given, from the environment, or default; empty: none.
#[derive(Debug, Clone, Default)]
pub struct Values {
    by_name: BTreeMap<&'static str, (String, Source)>,
    prefix: String,
    /// Notes for the user, for stderr.
    pub notes: Vec<String>,
}

impl Values {
    /// The text of a flag; empty when there is none.
    pub fn text(&self, name: &str) -> &str {
        self.by_name.get(name).map_or("", |(text, _)| text.as_str())
    }

    /// Where the value of a flag is from.
    pub fn source(&self, name: &str) -> Source {
        self.by_name
            .get(name)
            .map_or(Source::Default, |(_, source)| *source)
    }

    /// The text of a flag, when there is one.
    pub fn given(&self, name: &str) -> Option<String> {
        Some(self.text(name).to_owned()).filter(|text| !text.is_empty())
    }

    /// The text of a flag that must be there. `words` are those of the Go program, which scripts
    /// look for; `valid` says what it may be.
    pub fn required(&self, name: &str, words: &str, valid: &str) -> Result<String, String> {
        let variable = variable(&self.prefix, name);
        self.given(name)
            .ok_or_else(|| format!("{words}: give --{name} or set {variable}, {valid}"))
    }

    /// A flag that is yes or no.
    pub fn is(&self, name: &str) -> Result<bool, String> {
        match self.text(name) {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            "" if self.source(name) == Source::Default => Ok(false),
            _ => Err(self.invalid(name, "true or false")),
        }
    }

    /// A flag that holds a number, at least `least`.
    pub fn number<T>(&self, name: &str, least: T, valid: &str) -> Result<T, String>
    where
        T: std::str::FromStr + PartialOrd + Copy,
    {
        let number = self.text(name).parse().ok();
        number
            .filter(|number| *number >= least)
            .ok_or_else(|| self.invalid(name, valid))
    }

    /// A port number.
    pub fn port(&self, name: &str) -> Result<u16, String> {
        self.number(name, 1, "a port number, 1 to 65535")
    }

    /// A flag that holds one of some words.
    pub fn one_of<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<T, String> {
        let found = words.iter().find(|(word, _)| *word == self.text(name));
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        found
            .map(|(_, meaning)| *meaning)
            .ok_or_else(|| self.invalid(name, &format!("one of {}", all.join(", "))))
    }

    /// What to say of a value that is not `valid`.
    pub fn invalid(&self, name: &str, valid: &str) -> String {
        let text = self.text(name);
        let from = match self.source(name) {
            Source::Environment => format!(" from {}", variable(&self.prefix, name)),
            Source::Flag | Source::Default => String::new(),
        };
        format!("invalid argument {text:?} for \"--{name}\" flag{from}: it must be {valid}")
    }
}

/// The environment variable of a flag.
pub fn variable(prefix: &str, name: &str) -> String {
    format!("{prefix}_{}", name.to_uppercase().replace('-', "_"))
}

/// The arguments of clap for a table of flags.
pub fn arguments(flags: &[Flag], prefix: &str) -> Vec<Arg> {
    let argument = |flag: &Flag| {
        let mut help = flag.help.to_owned();
        if !flag.default.is_empty() {
            help = format!("{help} (default {})", flag.default);
        }
        help = format!("{help} [${}]", variable(prefix, flag.name));
        let argument = Arg::new(flag.name)
            .long(flag.name)
            .action(ArgAction::Set)
            .help_heading(heading(flag.name))
            .value_name("VALUE")
            .help(help);
        let argument = match flag.kind {
            Kind::Text | Kind::DeprecatedText(_) | Kind::Variable => {
                argument.allow_hyphen_values(true)
            }
            Kind::Bool | Kind::DeprecatedBool(_) => argument
                .num_args(0..=1)
                .require_equals(true)
                .value_name("true|false")
                .default_missing_value("true"),
        };
        argument.hide(matches!(
            flag.kind,
            Kind::DeprecatedText(_) | Kind::DeprecatedBool(_)
        ))
    };
    let on_the_line = |flag: &&Flag| flag.kind != Kind::Variable;
    flags.iter().filter(on_the_line).map(argument).collect()
}

/// Under which heading the help shows a flag; none: with the program's own.
fn heading(name: &str) -> Option<&'static str> {
    match name.split('-').next() {
        Some("cluster" | "store" | "kubeconfig" | "kube") => Some("Store"),
        Some("log" | "metrics") => Some("Logs and metrics"),
        Some("pg") => Some("PostgreSQL"),
        Some("tcp") => Some("Connections"),
        Some(_) | None => None,
    }
}

/// Takes the values of a table of flags out of what clap found and the environment.
pub fn values(
    flags: &[Flag],
    matches: &clap::ArgMatches,
    prefix: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Values {
    let mut values = Values {
        prefix: prefix.to_owned(),
        ..Values::default()
    };
    for flag in flags {
        let given = matches
            .try_get_one::<String>(flag.name)
            .ok()
            .flatten()
            .map(|text| (text.clone(), Source::Flag));
        let value = given.or_else(|| {
            let text = match flag.kind {
                Kind::Variable => environment(flag.name),
                _ => environment(&variable(prefix, flag.name)),
            };
            let text = text.filter(|text| !text.is_empty())?;
            Some((text, Source::Environment))
        });
        match (flag.kind, value) {
            (Kind::DeprecatedText(instead) | Kind::DeprecatedBool(instead), Some(value)) => {
                let note = format!(
                    "Flag --{} has been deprecated, use {instead} instead",
                    flag.name
                );
                values.notes.push(note);
                values.by_name.insert(flag.name, value);
            }
            (Kind::DeprecatedText(_) | Kind::DeprecatedBool(_), None) => {}
            (Kind::Text | Kind::Bool | Kind::Variable, value) => {
                let value = value.unwrap_or_else(|| (flag.default.to_owned(), Source::Default));
                values.by_name.insert(flag.name, value);
            }
        }
    }
    values
}

/// The environment of this process.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The variables of this process's environment that a daemon started from here would take for its
/// flags, or the programs of PostgreSQL for their settings.
pub fn variables_of_others() -> Vec<OsString> {
    let prefixes = [
        "PG",
        keeper::DAEMON.prefix,
        sentinel::DAEMON.prefix,
        proxy::DAEMON.prefix,
        crate::ctl::PREFIX,
    ];
    let is_theirs = |name: &OsString| {
        let name = name.to_string_lossy();
        prefixes.iter().any(|prefix| name.starts_with(prefix))
    };
    let names = std::env::vars_os().map(|(name, _)| name);
    names.filter(is_theirs).collect()
}

/// The command line of a daemon that is configured by a `C`.
pub struct Daemon<C: 'static> {
    /// Its name.
    pub name: &'static str,
    /// What it is for, in a sentence.
    pub about: &'static str,
    /// The prefix of its environment variables.
    pub prefix: &'static str,
    /// Its flags beyond those of all daemons.
    pub own: &'static [Flag],
    /// What the flags mean together; a refusal says what is wrong and what would be valid.
    pub meaning: fn(&Values) -> Result<C, String>,
}

impl<C> Daemon<C> {
    /// All its flags.
    pub fn flags(&self) -> Vec<Flag> {
        [common::STORE, common::DAEMON, self.own].concat()
    }

    /// Parses a command line. `environment` gives the value of a variable.
    pub fn parse(
        &self,
        given: &[OsString],
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Parsed<C> {
        let flags = self.flags();
        let matches = match self.command(&flags).try_get_matches_from(given) {
            Ok(matches) => matches,
            Err(error) if error.use_stderr() => return Parsed::Refuse(error.to_string()),
            Err(error) => return Parsed::Print(error.to_string()),
        };
        if matches.get_flag("version") {
            return Parsed::Print(format!("{} version {VERSION}", self.name));
        }
        let values = values(&flags, &matches, self.prefix, environment);
        for note in &values.notes {
            crate::output::talk(note);
        }
        match (self.meaning)(&values) {
            Ok(config) => Parsed::Run(Box::new(config)),
            Err(error) => Parsed::Refuse(error),
        }
    }

    fn command(&self, flags: &[Flag]) -> Command {
        Command::new(self.name)
            .bin_name(self.name)
            .about(self.about)
            .max_term_width(WIDTH)
            .disable_version_flag(true)
            .args_override_self(true)
            .arg(
                Arg::new("version")
                    .long("version")
                    .action(ArgAction::SetTrue)
                    .help("Print the version"),
            )
            .args(arguments(flags, self.prefix))
            // Positional arguments are ignored, as they always were.
            .arg(Arg::new("ignored").num_args(0..).hide(true))
    }
}
