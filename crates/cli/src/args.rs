//! From the command line as typed, with the environment, to what is meant.
//!
//! Flags behave as those of the Go program: `--flag value` and `--flag=value`, a repeated flag's last
//! value wins, booleans take `--flag` and `--flag=false`. A flag may come from the environment, as
//! PREFIX_FLAG_NAME; one that is given wins, an empty variable counts as unset.

pub mod common;
pub mod keeper;
pub mod proxy;
pub mod sentinel;

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

use crate::VERSION;

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
    /// As another flag, which to use instead; whoever uses it is told.
    Deprecated(&'static str),
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

/// The values of all flags: given, from the environment, or default; empty: none.
#[derive(Debug, Clone, Default)]
pub struct Values {
    values: BTreeMap<&'static str, String>,
    /// Notes for the user, for stderr.
    pub notes: Vec<String>,
}

impl Values {
    /// The text of a flag; empty when there is none.
    pub fn text(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    /// The text of a flag, when there is one.
    pub fn given(&self, name: &str) -> Option<String> {
        Some(self.text(name).to_owned()).filter(|text| !text.is_empty())
    }

    /// A flag that is yes or no.
    pub fn is(&self, name: &str) -> Result<bool, String> {
        match self.text(name) {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            other => Err(format!(
                "invalid argument {other:?} for \"--{name}\" flag: it is true or false"
            )),
        }
    }

    /// A flag that holds a number.
    pub fn number<T: std::str::FromStr>(&self, name: &str, what: &str) -> Result<T, String> {
        let text = self.text(name);
        text.parse()
            .map_err(|_| format!("invalid argument {text:?} for \"--{name}\" flag: it is {what}"))
    }
}

/// The arguments of clap for a table of flags.
pub fn arguments(flags: &[Flag], prefix: &str) -> Vec<Arg> {
    let argument = |flag: &Flag| {
        let mut help = flag.help.to_owned();
        if !flag.default.is_empty() {
            help += &format!(" (default {})", flag.default);
        }
        let variable = format!("{prefix}_{}", flag.name.to_uppercase().replace('-', "_"));
        help += &format!(" [${variable}]");
        let argument = Arg::new(flag.name)
            .long(flag.name)
            .action(ArgAction::Set)
            .help(help);
        match flag.kind {
            Kind::Text => argument.allow_hyphen_values(true),
            Kind::Bool => argument
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true"),
            Kind::Deprecated(_) if flag.default == "bool" => argument
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .hide(true),
            Kind::Deprecated(_) => argument.allow_hyphen_values(true).hide(true),
        }
    };
    flags.iter().map(argument).collect()
}

/// Takes the values of a table of flags out of what clap found and the environment.
pub fn values(
    flags: &[Flag],
    matches: &clap::ArgMatches,
    prefix: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Values {
    let mut values = Values::default();
    for flag in flags {
        let variable = format!("{prefix}_{}", flag.name.to_uppercase().replace('-', "_"));
        let given = matches
            .try_get_one::<String>(flag.name)
            .ok()
            .flatten()
            .cloned();
        let value = given.or_else(|| environment(&variable).filter(|text| !text.is_empty()));
        match (flag.kind, value) {
            (Kind::Deprecated(instead), Some(value)) => {
                let note = format!(
                    "Flag --{} has been deprecated, use {instead} instead",
                    flag.name
                );
                values.notes.push(note);
                values.values.insert(flag.name, value);
            }
            (Kind::Deprecated(_), None) => {}
            (_, value) => {
                let value = value.unwrap_or_else(|| flag.default.to_owned());
                values.values.insert(flag.name, value);
            }
        }
    }
    values
}

/// The environment of this process.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What a daemon's command line holds, or what to print instead.
pub fn daemon_values(
    name: &'static str,
    about: &'static str,
    flags: &[Flag],
    prefix: &str,
    arguments_given: &[OsString],
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Values, crate::Parsed<()>> {
    let command = Command::new(name)
        .about(about)
        .disable_version_flag(true)
        .args_override_self(true)
        .arg(
            Arg::new("version")
                .long("version")
                .action(ArgAction::SetTrue)
                .help("Print the version"),
        )
        .args(arguments(flags, prefix))
        // Positional arguments are ignored, as they always were.
        .arg(Arg::new("ignored").num_args(0..).hide(true));
    match command.try_get_matches_from(arguments_given) {
        Ok(matches) if matches.get_flag("version") => {
            Err(crate::Parsed::Print(format!("{name} version {VERSION}")))
        }
        Ok(matches) => Ok(values(flags, &matches, prefix, environment)),
        Err(error) if error.use_stderr() => Err(crate::Parsed::Refuse(error.to_string())),
        Err(error) => Err(crate::Parsed::Print(error.to_string())),
    }
}

/// Turns values into a config, printing the notes on the way.
pub fn finish<C>(
    values: Result<Values, crate::Parsed<()>>,
    config: impl FnOnce(&Values) -> Result<C, String>,
) -> crate::Parsed<C> {
    match values {
        Ok(values) => {
            for note in &values.notes {
                eprintln!("{note}");
            }
            match config(&values) {
                Ok(config) => crate::Parsed::Run(Box::new(config)),
                Err(error) => crate::Parsed::Refuse(error),
            }
        }
        Err(crate::Parsed::Print(text)) => crate::Parsed::Print(text),
        Err(crate::Parsed::Refuse(text)) => crate::Parsed::Refuse(text),
        Err(crate::Parsed::Run(_)) => crate::Parsed::Refuse("no arguments".to_owned()),
    }
}
