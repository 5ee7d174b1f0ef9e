//! `stolonctl register`: the cluster's instances as services of a Consul agent, kept in step until
//! it is stopped, and left in place then.

use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use stolon_core::model::{ClusterData, GoDuration};
use stolon_daemons::runtime::shutdown::Shutdown;
use stolon_store::{Backend, Config, Service, Services, Tls};

use super::Failure;
use super::session::Session;
use crate::args::{Values, common};
use crate::output;

/// Between two looks at most so short, however often the store wakes.
const BREATH: Duration = Duration::from_millis(500);

/// What is to be registered, and how.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    cluster_name: String,
    with_primary: bool,
    primary_tags: Vec<String>,
    standby_tags: Vec<String>,
}

/// The command line.
pub(super) fn command() -> Command {
    let option = |name: &'static str, default: &'static str, help: &'static str| {
        let argument = Arg::new(name).long(name).value_name("VALUE").help(help);
        if default.is_empty() {
            argument
        } else {
            argument.default_value(default)
        }
    };
    let yes_no = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .num_args(0..=1)
            .require_equals(true)
            .value_name("true|false")
            .default_missing_value("true")
            .default_value("false")
            .value_parser(["true", "false", "1", "0", "t", "f", "T", "F"])
            .hide_possible_values(true)
            .help(help)
    };
    Command::new("register")
        .about("Register the cluster's instances as services in Consul, and keep them in step")
        .after_help(
            "It goes on until it is stopped; the services stay. The token is that of the store \
             flags, or CONSUL_HTTP_TOKEN.",
        )
        .args([
            option("register-backend", "consul", "where to register: consul"),
            option(
                "register-endpoints",
                "http://127.0.0.1:8500",
                "address of the agent, one",
            ),
            option(
                "register-cert-file",
                "",
                "client certificate, used together with --register-key",
            ),
            option("register-key", "", "client key"),
            option(
                "register-ca-file",
                "",
                "certificate authority of the agent (default: the system's)",
            ),
            yes_no(
                "register-skip-tls-verify",
                "do not verify the agent's certificate",
            ),
            yes_no(
                "register-master",
                "register the primary too: those who find it go past the proxies",
            ),
            option(
                "tag-master-as",
                "master",
                "comma separated tags of the primary",
            ),
            option(
                "tag-slave-as",
                "slave",
                "comma separated tags of the standbys",
            ),
            option(
                "sleep-interval",
                "10",
                "seconds between two looks at the agent",
            ),
        ])
}

/// Runs the command until it is told to stop.
pub(super) async fn run(
    session: &Session,
    own: &ArgMatches,
    values: &Values,
    store: &Config,
) -> Result<(), Failure> {
    let wanted = Wanted::new(own, &store.cluster_name);
    let interval = interval(own)?;
    let services = Services::open(&agent(own, values, store)?)?;
    let shutdown = Shutdown::on_signals()?;
    let mut changes = session.store.watch();
    let mut troubles = Troubles::default();
    loop {
        let round = keep_in_step(session, &services, &wanted);
        tokio::select! {
            done = round => troubles.note(done),
            () = shutdown.requested() => return Ok(()),
        }
        let woken = async {
            tokio::time::sleep(BREATH).await;
            changes.changed().await;
        };
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = woken => {}
            () = shutdown.requested() => return Ok(()),
        }
    }
}

/// Tells of a trouble once, and of its end.
#[derive(Debug, Default)]
struct Troubles {
    last: Option<String>,
}

impl Troubles {
    fn note(&mut self, round: Result<(), Failure>) {
        let trouble = round.err().map(|failure| failure.text().to_owned());
        match (&self.last, &trouble) {
            (None, Some(text)) => {
                output::talk(&format!("the services are not kept in step: {text}"));
            }
            (Some(_), None) => output::talk("the services are kept in step again"),
            (Some(last), Some(text)) if last != text => output::talk(text),
            (Some(_), Some(_)) | (None, None) => {}
        }
        self.last = trouble;
    }
}

/// One round: what is to be registered is, and nothing else of that name.
async fn keep_in_step(
    session: &Session,
    services: &Services,
    wanted: &Wanted,
) -> Result<(), Failure> {
    let present = services.named(&wanted.cluster_name).await?;
    let (register, remove) = wanted.changes(&session.data().await?, &present);
    for id in remove {
        services.deregister(&id).await?;
        output::line(&format!("removed service {id}"))?;
    }
    for service in register {
        services.register(&service).await?;
        let Service {
            id,
            tags,
            address,
            port,
            ..
        } = &service;
        let tags = tags.join(",");
        output::line(&format!(
            "registered service {id} ({tags}) at {address}:{port}"
        ))?;
    }
    Ok(())
}

impl Wanted {
    fn new(own: &ArgMatches, cluster_name: &str) -> Self {
        let tags = |name: &str| {
            let text = own.get_one::<String>(name).map_or("", String::as_str);
            let mut tags: Vec<String> = text
                .split(',')
                .map(str::trim)
                .filter(|tag| !tag.is_empty())
                .map(str::to_owned)
                .collect();
            tags.sort();
            tags
        };
        Self {
            cluster_name: cluster_name.to_owned(),
            with_primary: is(own, "register-master"),
            primary_tags: tags("tag-master-as"),
            standby_tags: tags("tag-slave-as"),
        }
    }

    /// Which services are to be registered, anew or over those present, and which removed.
    fn changes(&self, data: &ClusterData, present: &[Service]) -> (Vec<Service>, Vec<String>) {
        let primary = data.primary().map(|db| &db.uid);
        let dbs = data.dbs.values().filter(|db| db.status.healthy);
        let wanted: Vec<Service> = dbs
            .filter(|db| self.with_primary || primary != Some(&db.uid))
            .filter_map(|db| {
                let tags = if primary == Some(&db.uid) {
                    &self.primary_tags
                } else {
                    &self.standby_tags
                };
                Some(Service {
                    id: db.uid.to_string(),
                    name: self.cluster_name.clone(),
                    tags: tags.clone(),
                    address: Some(db.status.listen_address.clone()).filter(|a| !a.is_empty())?,
                    port: db.status.port.parse().ok()?,
                })
            })
            .collect();
        let is_wanted = |found: &Service| wanted.iter().any(|service| service.id == found.id);
        let removed = present.iter().filter(|found| !is_wanted(found));
        let removed = removed.map(|found| found.id.clone()).collect();
        let registered = wanted
            .iter()
            .filter(|service| !present.contains(service))
            .cloned()
            .collect();
        (registered, removed)
    }
}

fn is(own: &ArgMatches, name: &str) -> bool {
    let text = own.get_one::<String>(name).map_or("", String::as_str);
    matches!(text, "1" | "t" | "T" | "true")
}

/// A number of seconds, as the Go program has it, or a duration.
fn interval(own: &ArgMatches) -> Result<Duration, Failure> {
    let text = own
        .get_one::<String>("sleep-interval")
        .map_or("10", String::as_str);
    let seconds = text.parse().ok().map(Duration::from_secs);
    let duration = || text.parse::<GoDuration>().ok().map(GoDuration::to_std);
    let interval = seconds
        .or_else(duration)
        .filter(|interval| !interval.is_zero());
    interval.ok_or_else(|| {
        Failure::Error(format!(
            "invalid argument {text:?} for \"--sleep-interval\" flag: it must be more than 0, as 10 \
             or 1m30s"
        ))
    })
}

/// How the agent is reached.
fn agent(own: &ArgMatches, values: &Values, store: &Config) -> Result<Config, Failure> {
    let text = |name: &str| own.get_one::<String>(name).cloned();
    let file = |name: &str| text(name).filter(|path| !path.is_empty()).map(Into::into);
    let backend = text("register-backend").unwrap_or_default();
    if backend != "consul" {
        return Err(Failure::Error(format!(
            "unknown register backend {backend:?}: use consul"
        )));
    }
    let endpoints = text("register-endpoints").unwrap_or_default();
    if endpoints.contains(',') {
        return Err(Failure::Error(format!(
            "--register-endpoints {endpoints:?}: services belong to one agent, give its address"
        )));
    }
    Ok(Config {
        backend: Backend::Consul,
        endpoints: vec![endpoints],
        tls: Tls {
            certificate: file("register-cert-file"),
            key: file("register-key"),
            authority: file("register-ca-file"),
            skip_verify: is(own, "register-skip-tls-verify"),
        },
        access: common::consul_access(values),
        ..store.clone()
    })
}

#[cfg(test)]
mod tests {
    use stolon_core::model::wire;
    use stolon_store::Service;

    use super::Wanted;

    /// Two healthy instances, of which the first is the primary, and one that is not healthy.
    fn data() -> stolon_core::model::ClusterData {
        let db = |uid: &str, port: u16, healthy: bool| {
            format!(
                r#""{uid}":{{"uid":"{uid}","spec":{{"keeperUID":"k{uid}"}},"status":
                   {{"healthy":{healthy},"listenAddress":"10.0.0.1","port":"{port}"}}}}"#
            )
        };
        let dbs = [db("a1", 1, true), db("b2", 2, true), db("c3", 3, false)].join(",");
        let text = format!(
            r#"{{"formatVersion":1,"cluster":{{"uid":"c","spec":{{"initMode":"new"}},"status":
               {{"phase":"normal","master":"a1"}}}},"keepers":{{}},"dbs":{{{dbs}}},"proxy":{{}}}}"#
        );
        let data = wire::read_cluster_data(text.as_bytes());
        data.expect("cluster data").expect("a document")
    }

    fn wanted(with_primary: bool) -> Wanted {
        Wanted {
            cluster_name: "c".to_owned(),
            with_primary,
            primary_tags: vec!["master".to_owned()],
            standby_tags: vec!["slave".to_owned()],
        }
    }

    fn service(id: &str, tag: &str, port: u16) -> Service {
        Service {
            id: id.to_owned(),
            name: "c".to_owned(),
            tags: vec![tag.to_owned()],
            address: "10.0.0.1".to_owned(),
            port,
        }
    }

    #[test]
    fn healthy_standbys_are_services_and_the_primary_when_it_is_asked_for() {
        let standby = service("b2", "slave", 2);
        let (registered, removed) = wanted(false).changes(&data(), &[]);
        assert_eq!((registered, removed), (vec![standby.clone()], vec![]));
        let (registered, _) = wanted(true).changes(&data(), &[]);
        assert_eq!(registered, [service("a1", "master", 1), standby]);
    }

    #[test]
    fn what_is_right_stays_and_what_is_not_wanted_goes() {
        let present = [
            service("b2", "slave", 2),
            service("a1", "slave", 1),
            service("c3", "slave", 3),
        ];
        let (registered, removed) = wanted(true).changes(&data(), &present);
        assert_eq!(registered, [service("a1", "master", 1)]);
        assert_eq!(removed, ["c3"]);
    }
}
